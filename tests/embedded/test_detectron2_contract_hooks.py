"""What detectron2.engine's hooks promise, installed or embedded."""

import json
import re

import numpy as np
import pytest
import torch
from tiny_training import detectron2_log, simple_trainer
from torch import nn

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import HookBase, SimpleTrainer, hooks
from detectron2.utils.events import JSONWriter


def test_iteration_timer():
    trainer = simple_trainer()
    trainer.register_hooks([hooks.IterationTimer(warmup_iter=3)])
    with detectron2_log() as log:
        trainer.train(0, 6)
    assert [i for _, i in trainer.storage.history("time").values()] == [2, 3, 4, 5]
    assert re.fullmatch(
        r"Overall training speed: 4 iterations in 0:00:00 \(\d\.\d{4} s / it\)", log[1]
    )
    assert log[2] == "Total training time: 0:00:00 (0:00:00 on hooks)"


def test_periodic_writer(tmp_path):
    trainer = simple_trainer()
    writer = JSONWriter(str(tmp_path / "metrics.json"))
    trainer.register_hooks([hooks.PeriodicWriter([writer], period=2)])
    trainer.train(0, 5)
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [1, 3, 4]


def test_periodic_checkpointer(tmp_path):
    trainer = simple_trainer()
    checkpointer = DetectionCheckpointer(trainer.model, str(tmp_path))
    trainer.register_hooks([hooks.PeriodicCheckpointer(checkpointer, 2)])
    trainer.train(0, 5)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "last_checkpoint", "model_0000001.pth", "model_0000003.pth", "model_final.pth",
    ]  # fmt: skip
    assert torch.load(tmp_path / "model_0000003.pth", weights_only=True)["iteration"] == 3


class Scores(HookBase):
    """Stores one score an iteration, as an evaluation would."""

    def __init__(self, scores):
        self.scores = scores

    def after_step(self):
        score = self.scores[self.trainer.iter]
        self.trainer.storage.put_scalar("sem_seg/mIoU", score, smoothing_hint=False)


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([0.5, 0.7, 0.6, 0.6], 1),
        ([0.5, 0.6, 0.6, 0.9], 3),
        ([float("nan"), 0.4, 0.3, 0.2], 1),
    ],
)
def test_best_checkpointer(tmp_path, scores, best):
    trainer = simple_trainer()
    checkpointer = DetectionCheckpointer(trainer.model, str(tmp_path))
    hook = hooks.BestCheckpointer(1, checkpointer, "sem_seg/mIoU")
    trainer.register_hooks([Scores(scores), hook])
    with detectron2_log() as log:
        trainer.train(0, 4)
    first = next(i for i, score in enumerate(scores) if score == score)
    assert f"Saved first model at {scores[first]:.5f} @ {first} steps" in log
    assert (hook.best_metric, hook.best_iter) == (scores[best], best)
    assert torch.load(tmp_path / "model_best.pth", weights_only=True)["iteration"] == best


def test_best_checkpointer_without_its_metric(tmp_path):
    trainer = simple_trainer()
    checkpointer = DetectionCheckpointer(trainer.model, str(tmp_path))
    trainer.register_hooks([hooks.BestCheckpointer(1, checkpointer, "no/such")])
    with detectron2_log() as log:
        trainer.train(0, 2)
    assert sum("no/such does not seem to be computed" in message for message in log) == 2
    assert not (tmp_path / "model_best.pth").exists()


@pytest.mark.parametrize(("period", "expected"), [(2, [1, 3, 5]), (0, [5])])
def test_eval_hook_runs_periodically_and_at_the_end(period, expected):
    evaluated = []

    def evaluate():
        evaluated.append(trainer.iter)
        return {"sem_seg": {"mIoU": np.float32(12.5)}, "speed": 2}

    trainer = simple_trainer()
    trainer.register_hooks([hooks.EvalHook(period, evaluate)])
    trainer.train(0, 5)
    assert evaluated == expected
    assert trainer.storage.latest()["sem_seg/mIoU"][0] == 12.5
    assert trainer.storage.latest()["speed"][0] == 2.0


def test_eval_hook_does_not_run_after_a_failure():
    calls = []
    trainer = simple_trainer(batches=(1.0,))
    trainer.register_hooks([hooks.EvalHook(0, lambda: calls.append(1))])
    with detectron2_log(), pytest.raises(StopIteration):
        trainer.train(0, 5)
    assert calls == []


def test_eval_hook_wants_numbers():
    trainer = simple_trainer()
    trainer.register_hooks([hooks.EvalHook(1, lambda: {"name": "text"})])
    with detectron2_log(), pytest.raises(ValueError, match=r"nested dict of float.*name: text"):
        trainer.train(0, 2)


@pytest.mark.parametrize(
    ("groups", "expected"),
    [([(1, 0.1), (3, 0.2), (2, 0.3)], 1), ([(1, 0.1), (1, 0.3), (1, 0.3)], 1)],
)
def test_the_learning_rate_that_is_logged(groups, expected):
    optimizer = torch.optim.SGD(
        [
            {"params": [nn.Parameter(torch.zeros(1)) for _ in range(size)], "lr": lr}
            for size, lr in groups
        ]
    )
    assert hooks.LRScheduler.get_best_param_group_id(optimizer) == expected


def test_precise_bn_sets_the_true_statistics():
    class Normalized(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(1)

        def forward(self, x):
            return {"loss": self.norm(x).sum()}

    batches = [torch.tensor([[0.0], [2.0]]), torch.tensor([[4.0], [6.0]])]
    model = Normalized()
    trainer = SimpleTrainer(model, batches, torch.optim.SGD(model.parameters(), lr=0.1))
    hook = hooks.PreciseBN(0, model, batches, num_iter=2)
    trainer.register_hooks([hook])
    trainer.train(0, 1)
    assert model.norm.running_mean.item() == pytest.approx(3.0)

    frozen = Normalized().eval()
    with detectron2_log() as log:
        hooks.PreciseBN(0, frozen, batches, num_iter=2).update_stats()
    assert "PreciseBN is disabled" in log[0]
    assert frozen.norm.running_mean.item() == 0.0
