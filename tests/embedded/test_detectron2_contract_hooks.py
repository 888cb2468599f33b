"""What detectron2.engine's hooks promise, installed or embedded."""

import re

import numpy as np
import pytest
import torch
from tiny_training import detectron2_log, simple_trainer
from torch import nn

from detectron2.engine import SimpleTrainer, hooks


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
