"""Hooks that write checkpoints: periodically, at the best metric, and when training is stopped."""

import logging
import math
import os

from detectron2.engine import HookBase

from ..checkpoint import peek_checkpoint
from ..utils.errors import UserError
from .interrupts import deferred_interrupts
from .processes import on_main_process

logger = logging.getLogger(__name__)


class PeriodicCheckpoint(HookBase):
    """Detectron2's PeriodicCheckpointer for :meth:`Trainer.save_checkpoint`.

    It writes ``model_{iteration:07d}`` every ``period`` iterations and ``model_final`` at the end.
    It runs before the evaluation, which may take long or fail.
    """

    def __init__(self, period: int):
        self.period = period

    def after_step(self) -> None:
        """Save every ``period`` iterations; called in all processes."""
        iteration = self.trainer.iter
        if (iteration + 1) % self.period == 0:
            self.trainer.save_checkpoint(f"model_{iteration:07d}", self)
        if iteration + 1 == self.trainer.max_iter:
            self.trainer.save_checkpoint("model_final", self)


class BestCheckpoint(HookBase):
    """Saves the checkpoint with the best evaluation.

    The file contains its score, so that a resumed run replaces it only by a better one.

    Args:
        folder: folder of ``model_best.pth``.
        period: number of iterations between evaluations; this hook runs after the evaluation.
        metric: the metric to maximise, for example "sem_seg/mIoU".
    """

    NAME = "model_best"

    def __init__(self, folder: str, period: int, metric: str):
        self.path = os.path.join(folder, f"{self.NAME}.pth")
        self.period = period
        self.metric = metric
        self.best: float | None = None

    def before_train(self) -> None:
        """Read the best value so far when a run is resumed."""
        if self.trainer.start_iter > 0 and os.path.isfile(self.path):
            self.best = self._score_of_file()

    def _score_of_file(self) -> float | None:
        try:
            content = peek_checkpoint(self.path)
        except UserError as error:
            logger.warning("%s It will be replaced.", error)
            return None
        best = content.get("best", {})
        if best.get("metric") != self.metric:
            logger.warning("%s has no value of %s and will be replaced.", self.path, self.metric)
            return None
        logger.info(
            "Best %s so far: %.2f at iteration %d",
            self.metric,
            best["value"],
            content["iteration"],
        )
        return best["value"]

    def after_step(self) -> None:
        """Compare after an evaluation; called in all processes."""
        done = self.trainer.iter + 1
        if done % self.period == 0 and done != self.trainer.max_iter:
            self._compare()

    def after_train(self) -> None:
        """Compare at the end of training; resuming still starts from the last checkpoint."""
        if self.trainer.iter >= self.trainer.max_iter:
            self._compare(tag=False)

    def _compare(self, tag: bool = True) -> None:
        if on_main_process(self._is_better):
            best = {"metric": self.metric, "value": self.best}
            self.trainer.save_checkpoint(self.NAME, self, tag=tag, best=best)

    def _is_better(self) -> bool:
        value, _ = self.trainer.storage.latest().get(self.metric, (None, None))
        if value is None:
            logger.warning("Nothing was evaluated as %s: no best checkpoint", self.metric)
            return False
        if not math.isfinite(value) or (self.best is not None and value <= self.best):
            return False
        before = "" if self.best is None else f", better than {self.best:.2f}"
        logger.info("Saving the best model: %s is %.2f%s", self.metric, value, before)
        self.best = value
        return True


class StopOnInterrupt(HookBase):
    """Stops training after the current step on Ctrl-C or SIGTERM.

    The trainer then writes a checkpoint. This is the last hook, so that the step is complete.
    """

    def after_step(self) -> None:
        """
        Raises:
            Interrupted: any process received a signal.
        """
        with deferred_interrupts() as interrupts:
            interrupts.stop_if_requested()
