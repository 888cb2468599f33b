"""Whether data or model is the bottleneck of a training."""

import json
import runpy
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from train_net_runs import ROOT

from d2_ctxseg.deployment.loading import (
    compare_loading_with_training,
    loading_as_text,
    measure_loading,
    number_of_cores,
)
from d2_ctxseg.engine import setup_config
from d2_ctxseg.utils.errors import UserError

SETTING = {"batch_size": 10, "num_workers": 1, "cores": 8, "device": "cuda"}
times = st.floats(1e-4, 10)


class TestComparison:
    def test_a_slow_model_does_not_wait(self):
        result = compare_loading_with_training(0.01, 0.4, **SETTING)
        assert (result["bottleneck"], result["waiting"]) == ("model", 0)
        assert (
            "The model is the bottleneck: a training step takes 4.0 times as long"
            in result["sentence"]
        )
        assert "NUM_WORKERS 1 is enough" in result["sentence"]

    def test_slow_data_make_it_wait_and_the_number_of_workers_is_reported(self):
        result = compare_loading_with_training(0.01, 0.04, **SETTING)
        assert result["bottleneck"] == "data" and result["waiting"] == pytest.approx(0.6)
        assert result["workers_needed"] == 4  # 2.5 and a quarter of it
        assert "waits for images 60% of the time" in result["sentence"]
        assert "Set DATALOADER.NUM_WORKERS to 4." in result["sentence"]

    def test_without_workers_data_and_model_alternate(self):
        setting = {**SETTING, "num_workers": 0}
        result = compare_loading_with_training(0.01, 0.1, **setting)
        assert result["bottleneck"] == "data" and result["waiting"] == pytest.approx(0.5)
        assert "Set DATALOADER.NUM_WORKERS to 2." in result["sentence"]

    def test_there_are_not_more_workers_than_cores(self):
        result = compare_loading_with_training(0.1, 0.04, **SETTING)
        assert "Set DATALOADER.NUM_WORKERS to 8." in result["sentence"]
        assert "32 workers would be needed, but this machine has 8 cores" in result["sentence"]

    def test_on_a_cpu_they_share_the_cores(self):
        setting = {**SETTING, "device": "cpu"}
        slow_data = compare_loading_with_training(0.01, 0.04, **setting)
        assert slow_data["sentence"].endswith("On a CPU the workers take cores from the model.")

    @given(times, times, st.integers(1, 64), st.integers(0, 16))
    def test_who_follows_the_advice_does_not_wait(self, image, step, batch_size, num_workers):
        setting = {"batch_size": batch_size, "cores": 10**9, "device": "cuda"}
        before = compare_loading_with_training(image, step, num_workers=num_workers, **setting)
        assert 0 <= before["waiting"] < 1
        after = compare_loading_with_training(
            image, step, num_workers=before["workers_needed"], **setting
        )
        assert after["bottleneck"] == "model" and after["waiting"] == 0


class TestMeasurement:
    def test_is_of_training_images(self, tiny_run):
        time = measure_loading(setup_config(str(tiny_run), []), images=5, warm_up=1)
        assert 0 < time.seconds <= time.slowest and time.images == 5

    def test_without_images_is_refused(self, tiny_run):
        with pytest.raises(UserError, match="DATASETS.TRAIN"):
            measure_loading(setup_config(str(tiny_run), ["DATASETS.TRAIN", "()"]))

    def test_there_is_a_core(self):
        assert number_of_cores() >= 1


def test_the_tool_says_it_in_numbers_and_in_words(tiny_run, monkeypatch, capfd):
    command = ["analyze_model.py", "--config-file", str(tiny_run), "--tasks", "loader"]

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", [*command, *arguments])
        capfd.readouterr()
        runpy.run_path(str(ROOT / "tools" / "analyze_model.py"), run_name="__main__")
        return capfd.readouterr().out

    result = json.loads(run("--json"))["loader"]
    assert result["batch_size"] == 4 and result["num_workers"] == 0 and result["images"] == 60
    assert min(result["image_seconds"], result["step_seconds"]) > 0
    assert result["bottleneck"] in ("data", "model")
    text = run()
    assert "ms per image in one thread" in text and " is the bottleneck" in text
    assert result["sentence"].split()[-1] in loading_as_text(result)
