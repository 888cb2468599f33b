"""train_net.py as a user runs it: train, evaluate, resume, and mistakes on the command line."""

import json
import os
import runpy
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from data_folders import write_image, write_yaml
from tiny_training import AfterStep
from train_net_runs import ROOT, run_train_net, start_train_net

from d2_ctxseg.engine import Trainer, setup_config
from d2_ctxseg.utils.errors import UserError
from detectron2.utils.env import seed_all_rng

# The total loss in each iteration of `tiny_run`, recorded on Detectron2 (commit 02b5c4e).
LOSSES_ON_DETECTRON2 = [7.6578645, 7.2611350, 9.6703873, 7.4264354]


def train(*arguments):
    """Run train_net.py in this process."""
    before = sys.argv
    sys.argv = ["train_net.py", *map(str, arguments)]
    try:
        runpy.run_path(str(ROOT / "train_net.py"), run_name="__main__")
    finally:
        sys.argv = before


def evaluation(folder):
    """The results of the one checkpoint that was evaluated into ``folder``."""
    (results,) = json.loads((folder / "evaluation.json").read_text()).values()
    return results


class TestTraining:
    def test_leaves_what_a_user_needs(self, tiny_run, tmp_path):
        train("--config-file", tiny_run, "TEST.AUG.ENABLED", "True")
        output = tmp_path / "output"
        for name in ("config.yaml", "log.txt", "metrics.json", "last_checkpoint"):
            assert (output / name).stat().st_size > 0
        for name in ("model_0000001.pth", "model_best.pth", "model_final.pth"):
            assert "model" in torch.load(output / name, weights_only=True)
        assert list(output.glob("events.out.tfevents.*"))
        assert sorted(p.name for p in (output / "overlays").iterdir()) == [
            "0000002_0.png",
            "0000004_0.png",
        ]
        results = evaluation(output)["context_shapes_sem_seg_val"]
        assert set(results) == {"sem_seg", "sem_seg_TTA"}
        for task in results.values():
            assert 0 <= task["mIoU"] <= 100
            assert "IoU-amber" in task
        log = (output / "log.txt").read_text()
        assert "sem_seg_TTA on context_shapes_sem_seg_val (5 images), per class" in log
        assert "| amber" in log
        assert "Running on the" in log

    def test_same_seed_gives_the_losses_that_detectron2_gives(self, tiny_run):
        # Recorded when one switch interpolated the logits of all losses.
        opts = ["MODEL.CLASSIFIER.CONTEXT_AWARE.AUXILIARY_ALIGN_CORNERS", "False"]
        opts += ["DATASETS.TEST", "()", "MODEL.ENCODER.NAME", "resnet18"]
        cfg = setup_config(str(tiny_run), opts)
        seed_all_rng(cfg.SEED)
        trainer = Trainer(cfg)
        losses = []
        record = AfterStep(lambda trainer: losses.append(trainer.storage.latest()["total_loss"][0]))
        trainer.register_hooks([record])
        trainer.train()
        assert losses == pytest.approx(LOSSES_ON_DETECTRON2, rel=1e-4)

    def test_an_earlier_training_is_not_overwritten(self, tiny_run, tmp_path):
        (tmp_path / "output").mkdir()
        (tmp_path / "output" / "model_0000001.pth").write_bytes(b"precious")
        with pytest.raises(SystemExit, match="earlier training.*--resume"):
            train("--config-file", tiny_run)
        assert (tmp_path / "output" / "model_0000001.pth").read_bytes() == b"precious"


class TestEvaluation:
    def test_eval_only_gives_what_training_gave(self, tiny_run, tmp_path):
        train("--config-file", tiny_run)
        trained = evaluation(tmp_path / "output")
        weights = tmp_path / "output" / "model_final.pth"
        other = tmp_path / "other"
        arguments = ("MODEL.WEIGHTS", weights, "OUTPUT_DIR", other)
        train("--config-file", tiny_run, "--eval-only", *arguments)
        assert evaluation(other) == trained

    def test_weights_of_another_model_are_refused(self, tiny_run, tmp_path):
        torch.save({"model": {"weight": torch.ones(1)}}, tmp_path / "other.pth")
        with pytest.raises(SystemExit, match="do not fit the model.*backbone.encoder.*weight"):
            train("--config-file", tiny_run, "--eval-only", "MODEL.WEIGHTS", tmp_path / "other.pth")


class TestYourOwnFolder:
    def test_trains_from_a_yaml_without_code(self, tiny_run, tmp_path):
        description = write_yaml(
            tmp_path / "mydata",
            splits={split: {"images": "images", "labels": "labels"} for split in ("train", "val")},
            ignore_label=9,
        )
        rng = np.random.default_rng(0)
        for i in range(4):
            image = rng.integers(0, 255, (40, 64, 3), dtype=np.uint8)
            label = rng.choice(np.array([0, 1, 2, 9], np.uint8), (40, 64))
            write_image(tmp_path / "mydata" / "images" / f"{i}.png", image)
            write_image(tmp_path / "mydata" / "labels" / f"{i}.png", label, mode="P")
        name = yaml.safe_load(description.read_text())["name"]
        options = ["DATASETS.FOLDERS", [str(description)], "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 3]
        options += ["DATASETS.TRAIN", [f"{name}_sem_seg_train"]]
        options += ["DATASETS.TEST", [f"{name}_sem_seg_val"]]
        train("--config-file", tiny_run, *options)
        results = evaluation(tmp_path / "output")[f"{name}_sem_seg_val"]["sem_seg"]
        assert {"IoU-road", "IoU-tree", "IoU-car"} <= set(results)


class TestResume:
    def test_continues_at_the_next_iteration(self, tiny_run, tmp_path):
        output = tmp_path / "output"
        train("--config-file", tiny_run, "DATASETS.TEST", "()")
        whole = torch.load(output / "model_final.pth", weights_only=True)
        (output / "model_final.pth").unlink()
        (output / "last_checkpoint").write_text("model_0000001.pth")
        train("--config-file", tiny_run, "--resume", "DATASETS.TEST", "()")
        resumed = torch.load(output / "model_final.pth", weights_only=True)
        assert resumed["iteration"] == whole["iteration"] == 3
        # The schedule is part of the hooks' state, the optimizer of the inner trainer's.
        assert resumed["trainer"]["hooks"] == whole["trainer"]["hooks"]
        optimizer = resumed["trainer"]["_trainer"]["optimizer"]
        assert {state["step"].item() for state in optimizer["state"].values()} == {4.0}
        assert (
            optimizer["param_groups"] == whole["trainer"]["_trainer"]["optimizer"]["param_groups"]
        )
        assert "Starting training from iteration 2" in (output / "log.txt").read_text()

    def test_a_finished_training_can_be_made_longer(self, tiny_run, tmp_path):
        output = tmp_path / "output"
        train("--config-file", tiny_run, "SOLVER.MAX_ITER", 2, "DATASETS.TEST", "()")
        train("--config-file", tiny_run, "--resume", "SOLVER.MAX_ITER", 5, "DATASETS.TEST", "()")
        checkpoint = torch.load(output / "model_final.pth", weights_only=True)
        assert checkpoint["iteration"] == 4
        assert "now ends at SOLVER.MAX_ITER 5" in (output / "log.txt").read_text()


@pytest.mark.slow
class TestSignals:
    """What a user, a scheduler or a system that shuts down sends, and to whom."""

    options = ("SOLVER.MAX_ITER", 400, "SOLVER.CHECKPOINT_PERIOD", 400, "TEST.EVAL_PERIOD", 0)

    @pytest.mark.parametrize(
        ("num_processes", "number", "to"),
        [
            (1, signal.SIGINT, "group"),
            (1, signal.SIGTERM, "group"),
            (1, signal.SIGTERM, "first process"),
            (2, signal.SIGINT, "launcher"),
            (2, signal.SIGTERM, "group"),
        ],
    )
    def test_training_saves_its_state(self, tiny_run, tmp_path, num_processes, number, to):
        output = tmp_path / "output"
        arguments = ["--config-file", tiny_run, "--num-gpus", num_processes, *self.options]
        process = start_train_net(*arguments, "DATALOADER.NUM_WORKERS", 2 // num_processes)
        for line in process.stdout:
            if "iter: 19" in line:
                break
        else:
            pytest.fail("training ended before its 20th iteration")
        (os.killpg if to == "group" else os.kill)(process.pid, number)
        log = process.communicate(timeout=300)[0]
        assert process.returncode == 128 + number, log
        assert log.count("Interrupted after iteration") == 1
        assert "Traceback" not in log
        name = (output / "last_checkpoint").read_text()
        assert 19 <= torch.load(output / name, weights_only=True)["iteration"] < 399

    def test_ctrl_c_during_the_imports_ends_without_a_traceback(self, tiny_run):
        process = start_train_net("--config-file", tiny_run)
        maps = Path(f"/proc/{process.pid}/maps")
        while "libtorch" not in maps.read_text():
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        log = process.communicate(timeout=60)[0]
        assert process.returncode == -signal.SIGINT
        assert "Traceback" not in log


@pytest.mark.slow
class TestTwoProcesses:
    def test_evaluation_equals_that_of_one_process(self, tiny_run, tmp_path):
        train("--config-file", tiny_run)
        single = evaluation(tmp_path / "output")
        code, log = run_train_net(
            *("--config-file", tiny_run, "--eval-only", "--num-gpus", 2, "MODEL.WEIGHTS"),
            *(tmp_path / "output" / "model_final.pth", "OUTPUT_DIR", tmp_path / "two"),
        )
        assert code == 0, log
        assert evaluation(tmp_path / "two") == single

    def test_training(self, tiny_run, tmp_path):
        code, log = run_train_net("--config-file", tiny_run, "--num-gpus", 2)
        assert code == 0, log
        assert "World size: 2" in log
        checkpoint = torch.load(tmp_path / "output" / "model_final.pth", weights_only=True)
        assert checkpoint["iteration"] == 3
        assert (tmp_path / "output" / "evaluation.json").exists()

    def test_workers_of_torchrun_are_joined(self, tiny_run, tmp_path):
        launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
        code, log = run_train_net("--config-file", tiny_run, launcher=launcher)
        assert code == 0, log
        assert "World size: 2" in log
        assert (tmp_path / "output" / "evaluation.json").exists()

    def test_a_mistake_ends_all_workers_with_its_message(self, tiny_run):
        code, log = run_train_net("--config-file", tiny_run, "--num-gpus", 2, "DATASETS.TEST", "x")
        assert code == 1
        assert "error: " in log
        assert "Traceback" not in log


class TestMistakes:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["MODEL.ENCODR.NAME", "x"], "no config key 'MODEL.ENCODR.NAME'.*MODEL.ENCODER.NAME"),
            (["MODEL.ENCODER.NAME", "resnet19"], "no encoder 'resnet19'.*Did you mean"),
            (["SOLVER.OPTIMIZER", "ADAM"], "SOLVER.OPTIMIZER.*Did you mean 'ADAMW'"),
            (["DATASETS.TRAIN", "('camvid_sem_seg_trian',)"], "camvid_sem_seg_train"),
            (["MODEL.SEM_SEG_HEAD.NUM_CLASSES", "7"], "has 6 classes. Set it to 6"),
            (["SOLVER.MAX_ITER", "many"], "SOLVER.MAX_ITER"),
            (["MODEL.WEIGHTS"], "KEY VALUE"),
            (["SEED", "1", "--eval-only"], "'--eval-only' is among the overrides"),
            (["MODEL.META_ARCHITECTURE", "ContextAwareSegmenter"], "ContextAwareSegmentor"),
        ],
    )
    def test_end_with_a_message_instead_of_a_traceback(self, tiny_run, options, message):
        with pytest.raises(SystemExit, match=f"(?s)error: .*{message}"):
            train("--config-file", tiny_run, *options)

    def test_missing_config_file_is_reported(self):
        with pytest.raises(SystemExit, match="nowhere.yaml"):
            train("--config-file", "nowhere.yaml")

    def test_missing_data_root_names_path_and_variable(self, tiny_run, monkeypatch, tmp_path):
        monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "nowhere"))
        with pytest.raises(SystemExit, match="(?s)nowhere.*DETECTRON2_DATASETS"):
            train("--config-file", tiny_run)

    def test_nan_loss_stops_and_names_the_iteration(self, tiny_run, tmp_path):
        with pytest.raises(SystemExit, match="NaN at iteration="):
            train(
                "--config-file", tiny_run, "SOLVER.BASE_LR", "1.0e+30", "SOLVER.WARMUP_ITERS", "0"
            )
        assert not (tmp_path / "output" / "model_final.pth").exists()


def test_user_errors_are_value_errors():
    assert issubclass(UserError, ValueError)
