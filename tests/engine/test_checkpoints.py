"""When checkpoints are written."""

from types import SimpleNamespace

import pytest
import torch

from d2_ctxseg.engine.checkpoints import BestCheckpoint, PeriodicCheckpoint
from detectron2.utils.events import EventStorage

METRIC = "sem_seg/mIoU"


class Trainer:
    """Saves what it is told to."""

    def __init__(self, folder, start_iter=0, max_iter=100):
        self.folder, self.start_iter, self.max_iter = folder, start_iter, max_iter
        self.iter = start_iter
        self.saved = []

    def save_checkpoint(self, name, hook, *, tag=True, **content):
        self.saved.append((name, self.iter, tag))
        torch.save({"model": {}, "iteration": self.iter, **content}, self.folder / f"{name}.pth")


class TestPeriodic:
    def test_every_so_often_and_at_the_end(self, tmp_path):
        hook = PeriodicCheckpoint(4)
        hook.trainer = Trainer(tmp_path, max_iter=10)
        for hook.trainer.iter in range(10):
            hook.after_step()
        assert [(name, at) for name, at, _ in hook.trainer.saved] == [
            ("model_0000003", 3),
            ("model_0000007", 7),
            ("model_final", 9),
        ]


class TestBest:
    def evaluate(self, folder, scores, start_iter=0, metric=METRIC):
        """One evaluation a step; the iterations at which the best checkpoint was saved."""
        hook = BestCheckpoint(str(folder), 1, metric)
        hook.trainer = Trainer(folder, start_iter)
        hook.before_train()
        with EventStorage() as hook.trainer.storage:
            for number, score in enumerate(scores):
                hook.trainer.iter = start_iter + number
                hook.trainer.storage.put_scalar(METRIC, score)
                hook.after_step()
        return [at for _, at, _ in hook.trainer.saved]

    def test_only_a_better_one_is_saved(self, tmp_path):
        assert self.evaluate(tmp_path, [1.0, 0.5, float("nan"), 1.0, 1.5]) == [0, 4]

    def test_a_resumed_run_knows_how_good_it_was(self, tmp_path):
        self.evaluate(tmp_path, [37.3])
        assert self.evaluate(tmp_path, [30.0, 37.2, 37.4], start_iter=1) == [3]

    def test_a_new_run_knows_nothing_of_one_before(self, tmp_path):
        self.evaluate(tmp_path, [37.3])
        assert self.evaluate(tmp_path, [30.0]) == [0]

    def test_another_metric_begins_again(self, tmp_path, caplog):
        self.evaluate(tmp_path, [37.3])
        content = torch.load(tmp_path / "model_best.pth", weights_only=True)
        content["best"]["metric"] = "sem_seg/pACC"
        torch.save(content, tmp_path / "model_best.pth")
        assert self.evaluate(tmp_path, [30.0], start_iter=1) == [1]
        assert "has no value of sem_seg/mIoU" in caplog.text

    @pytest.mark.parametrize("content", [b"", b"half a file"])
    def test_a_damaged_one_is_replaced(self, tmp_path, content, caplog):
        (tmp_path / "model_best.pth").write_bytes(content)
        assert self.evaluate(tmp_path, [30.0], start_iter=1) == [1]
        assert "cannot be read" in caplog.text

    def test_a_metric_that_nobody_measures_is_reported(self, tmp_path, caplog):
        assert self.evaluate(tmp_path, [1.0], metric="sem_seg/mIuO") == []
        assert "Nothing was evaluated as sem_seg/mIuO" in caplog.text

    def test_at_the_end_resuming_starts_from_the_last_one(self, tmp_path):
        hook = BestCheckpoint(str(tmp_path), 1, METRIC)
        hook.trainer = Trainer(tmp_path, max_iter=2)
        hook.trainer.storage = SimpleNamespace(latest=lambda: {METRIC: (1.0, 2)})
        hook.trainer.iter = 1
        hook.after_step()
        assert hook.trainer.saved == []
        hook.trainer.iter = 2
        hook.after_train()
        assert hook.trainer.saved == [("model_best", 2, False)]
