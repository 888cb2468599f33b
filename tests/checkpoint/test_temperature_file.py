"""Temperatures beside a checkpoint: they are read again, and ignored for other weights."""

import json
import logging

import pytest

from d2_ctxseg.checkpoint import (
    FittedTemperature,
    copy_temperatures,
    read_temperatures,
    temperature_file,
    write_temperatures,
)
from d2_ctxseg.utils.errors import UserError

FITTED = {
    "sem_seg": FittedTemperature(1.25, "streets_val", 1000, 0.4, 0.3),
    "sem_seg_TTA": FittedTemperature(0.8, "streets_val", 1000, 0.4, 0.35),
}


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "model_final.pth"
    path.write_bytes(b"weights")
    return path


def test_what_is_written_is_read(weights):
    path = write_temperatures(weights, FITTED)
    assert path == weights.parent / "model_final.temperature.json" == temperature_file(weights)
    assert read_temperatures(weights) == FITTED


def test_weights_without_temperatures_and_no_weights_have_none(weights, tmp_path):
    assert read_temperatures(weights) == {}
    write_temperatures(weights, FITTED)
    weights.unlink()
    assert read_temperatures(weights) == {}
    assert read_temperatures("https://example.org/model.pth") == {}


def test_other_weights_of_the_name_do_not_get_them(weights, caplog):
    write_temperatures(weights, FITTED)
    weights.write_bytes(b"weights of the next training")
    with caplog.at_level(logging.WARNING, logger="d2_ctxseg"):
        assert read_temperatures(weights) == {}
    assert "d2-ctxseg calibrate" in caplog.text


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"temperatures": {"sem_seg": {}}}', '{"temperatures": 3, "sha256": ""}'],
)
def test_a_damaged_file_is_reported(weights, content):
    temperature_file(weights).write_text(content)
    with pytest.raises(UserError, match=r"model_final\.temperature\.json.*Delete it"):
        read_temperatures(weights)


@pytest.mark.parametrize("value", [0, -1, None, "warm"])
def test_a_temperature_that_is_no_positive_number_is_refused(weights, value):
    path = write_temperatures(weights, FITTED)
    content = json.loads(path.read_text())
    content["temperatures"]["sem_seg"]["temperature"] = value
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="Delete it"):
        read_temperatures(weights)


def test_a_copy_of_the_weights_gets_them_and_an_old_file_goes(weights, tmp_path):
    other = tmp_path / "stripped.pth"
    other.write_bytes(b"fewer weights")
    write_temperatures(weights, FITTED)
    copy_temperatures(weights, other)
    assert read_temperatures(other) == FITTED
    temperature_file(weights).unlink()
    copy_temperatures(weights, other)
    assert read_temperatures(other) == {}
