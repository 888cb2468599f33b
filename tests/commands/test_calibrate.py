"""d2-ctxseg calibrate: a temperature is fitted, stored beside the weights, and used."""

import json

import numpy as np
import pytest
from daylight import half_bright, make_run
from PIL import Image

from d2_ctxseg.checkpoint import read_temperatures, temperature_file
from d2_ctxseg.commands import calibrate, train_net
from d2_ctxseg.commands.parsers.calibrate import get_parser
from d2_ctxseg.commands.parsers.evaluate import get_parser as get_eval_parser
from d2_ctxseg.deployment.predictor import SemSegPredictor
from d2_ctxseg.engine.setup import setup_config
from d2_ctxseg.utils.errors import UserError

DATASET = "calibrated_sem_seg_test"


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A run that distinguishes dark and bright pixels; every tenth column has wrong labels."""
    folder = tmp_path_factory.mktemp("calibrate")
    label = (half_bright().mean(axis=-1) > 128).astype(np.uint8)
    label[:, ::10] = 1 - label[:, ::10]
    for name, pixels in (("images", half_bright()), ("labels", label)):
        (folder / name).mkdir()
        Image.fromarray(pixels).save(folder / name / "one.png")
    return make_run(folder / "run", "LinearSegmentor", "calibrated")


@pytest.fixture
def fitted(run_folder, monkeypatch, capsys):
    """The run after a calibration, and what that printed."""
    for command in (calibrate, train_net):
        monkeypatch.setattr(command, "setup_logger", lambda *_, **__: None)
    arguments = ["--run", str(run_folder), "--dataset", DATASET, "TEST.AUG.ENABLED", "True"]
    calibrate.main(get_parser().parse_args([*arguments, "DATALOADER.NUM_WORKERS", "0"]))
    return run_folder, capsys.readouterr().out


def evaluate(run, folder, *opts):
    opts = ["OUTPUT_DIR", str(folder), "DATALOADER.NUM_WORKERS", "0", *opts]
    arguments = ["--run", str(run), "TEST.CALIBRATION", "True", *opts]
    train_net.run(get_eval_parser().parse_args(arguments))
    (content,) = json.loads((folder / "evaluation.json").read_text()).values()
    return content[DATASET]


def test_the_temperature_is_kept_and_makes_the_confidence_true(fitted, tmp_path):
    run, printed = fitted
    weights = run / "model_final.pth"
    found = read_temperatures(weights)
    assert found.keys() == {"sem_seg", "sem_seg_TTA"}
    assert str(temperature_file(weights)) in printed and "sem_seg_TTA" in printed
    assert found["sem_seg"].dataset == DATASET and found["sem_seg"].pixels <= 96 * 128

    config = setup_config(str(run / "config.yaml"), ["MODEL.WEIGHTS", str(weights)])
    predictor = SemSegPredictor(config)
    assert predictor.is_calibrated and predictor.temperature == found["sem_seg"].temperature
    labels, confidence = predictor.with_confidence(half_bright())
    assert np.array_equal(labels, predictor(half_bright()))
    assert confidence.mean() == pytest.approx(0.9, abs=0.03)

    after, before = (
        evaluate(run, tmp_path / name, "TEST.AUG.ENABLED", "True", *opts)
        for name, opts in (
            ("after", []),
            ("before", ["TEST.TEMPERATURE", "1.0", "TEST.AUG.TEMPERATURE", "1.0"]),
        )
    )
    for task in ("sem_seg", "sem_seg_TTA"):
        assert after[task]["ECE"] < before[task]["ECE"]
        assert after[task]["mIoU"] == before[task]["mIoU"]
        assert (tmp_path / "after/inference" / task / DATASET / "calibration.json").is_file()


def test_a_second_fit_of_one_view_keeps_that_of_several(fitted):
    run, _ = fitted
    before = read_temperatures(run / "model_final.pth")
    calibrate.main(get_parser().parse_args(["--run", str(run), "DATALOADER.NUM_WORKERS", "0"]))
    assert read_temperatures(run / "model_final.pth") == before


def test_images_without_labels_are_refused(run_folder):
    description = (run_folder.parent / "calibrated.yaml").read_text()
    description = description.replace(", labels: labels", "").replace("calibrated", "unlabelled")
    (run_folder.parent / "unlabelled.yaml").write_text(description)
    arguments = ["--run", str(run_folder), "--dataset", "unlabelled_sem_seg_test"]
    folders = f"['{run_folder.parent}/calibrated.yaml', '{run_folder.parent}/unlabelled.yaml']"
    with pytest.raises(UserError, match="has no labels.*--dataset"):
        calibrate.main(get_parser().parse_args([*arguments, "DATASETS.FOLDERS", folders]))
