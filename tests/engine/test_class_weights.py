"""Balanced class weights in a training: computed once, saved, found again."""

import json

import pytest
import torch
import yaml
from data_folders import run_script
from train_net_runs import ROOT, run_train_net

from d2_ctxseg.data.class_balance import balanced_class_weights
from d2_ctxseg.engine import balance_classes, setup_config
from d2_ctxseg.utils.errors import UserError

BALANCED = ("MODEL.PIXEL_LOSS.CLASS_WEIGHTS", "balanced", "DATASETS.TEST", "()")


def train(*arguments):
    """Run train_net.py in this process."""
    assert run_script(ROOT / "train_net.py", *arguments) == 0


def saved_weights(folder):
    config = yaml.safe_load((folder / "config.yaml").read_text())
    return config["MODEL"]["PIXEL_LOSS"]["CLASS_WEIGHTS"]


class TestTraining:
    def test_saves_the_numbers_and_takes_them_again(self, tiny_run, tmp_path):
        output = tmp_path / "output"
        train("--config-file", tiny_run, *BALANCED, "SOLVER.MAX_ITER", 2)
        weights = saved_weights(output)
        assert weights == balanced_class_weights(["context_shapes_sem_seg_train"])
        losses = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
        assert all("loss_sem_seg" in row for row in losses)
        assert "pixel_loss" not in str(list(torch.load(output / "model_final.pth")["model"]))

        # Numbers that the data would not give show where they come from.
        text = (output / "config.yaml").read_text().replace(f"- {weights[0]}", "- 4.5")
        (output / "config.yaml").write_text(text)
        train("--config-file", tiny_run, "--resume", *BALANCED, "SOLVER.MAX_ITER", 3)
        assert saved_weights(output) == [4.5, *weights[1:]]

    def test_the_saved_config_trains_and_evaluates(self, tiny_run, tmp_path):
        output = tmp_path / "output"
        train("--config-file", tiny_run, *BALANCED, "SOLVER.MAX_ITER", 1)
        weights = saved_weights(output)
        cfg = setup_config(str(output / "config.yaml"), ["OUTPUT_DIR", str(tmp_path / "other")])
        balance_classes(cfg)
        assert weights == cfg.MODEL.PIXEL_LOSS.CLASS_WEIGHTS

    def test_evaluation_with_the_config_of_before_counts_nothing(self, tiny_run, tmp_path):
        train("--config-file", tiny_run, *BALANCED, "SOLVER.MAX_ITER", 1)
        weights = tmp_path / "output" / "model_final.pth"
        options = (*BALANCED[:2], "MODEL.WEIGHTS", weights, "OUTPUT_DIR", tmp_path / "other")
        train("--config-file", tiny_run, "--eval-only", *options)
        assert saved_weights(tmp_path / "other") == "balanced"

    @pytest.mark.slow
    def test_all_workers_have_the_same(self, tiny_run, tmp_path):
        code, log = run_train_net("--config-file", tiny_run, "--num-gpus", 2, *BALANCED)
        assert code == 0, log
        assert len(saved_weights(tmp_path / "output")) == 6


def test_other_weights_stay_and_a_frozen_config_stays_frozen(tiny_run):
    cfg = setup_config(str(tiny_run), ["MODEL.PIXEL_LOSS.CLASS_WEIGHTS", "[1, 1, 1, 1, 1, 2]"])
    balance_classes(cfg)
    assert cfg.MODEL.PIXEL_LOSS.CLASS_WEIGHTS == [1, 1, 1, 1, 1, 2]
    cfg = setup_config(str(tiny_run), list(BALANCED))
    balance_classes(cfg)
    assert cfg.is_frozen() and len(cfg.MODEL.PIXEL_LOSS.CLASS_WEIGHTS) == 6


@pytest.mark.parametrize("content", ["MODEL: [", "MODEL: 3", "MODEL: {PIXEL_LOSS: 1}"])
def test_a_damaged_config_of_before_is_counted_again(tiny_run, tmp_path, content):
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "config.yaml").write_text(content)
    cfg = setup_config(str(tiny_run), list(BALANCED))
    balance_classes(cfg, resume=True)
    assert len(cfg.MODEL.PIXEL_LOSS.CLASS_WEIGHTS) == 6


def test_what_cannot_be_counted_is_an_error_with_its_key(tiny_run, monkeypatch, tmp_path):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "nowhere"))
    cfg = setup_config(str(tiny_run), list(BALANCED))
    with pytest.raises(UserError, match="CLASS_WEIGHTS 'balanced': .*nowhere"):
        balance_classes(cfg)
