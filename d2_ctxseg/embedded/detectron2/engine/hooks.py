"""The hooks of a usual training."""

import datetime
import itertools
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable

import torch
from fvcore.common.timer import Timer
from fvcore.nn.precise_bn import get_bn_modules, update_bn_stats

from ..evaluation.testing import flatten_results_dict
from ..utils import comm
from ..utils.events import EventStorage
from .train_loop import HookBase

__all__ = [
    "EvalHook",
    "IterationTimer",
    "LRScheduler",
    "PreciseBN",
]


def _is_due(trainer, period: int) -> bool:
    return period > 0 and (trainer.iter + 1) % period == 0


def _is_last_step(trainer) -> bool:
    return trainer.iter + 1 == trainer.max_iter


def _is_finished(trainer) -> bool:
    # In after_train, whether training got to its end instead of failing on the way.
    return trainer.iter + 1 >= trainer.max_iter


class IterationTimer(HookBase):
    """Stores the seconds of each iteration as "time" and logs a summary at the end.

    Only what happens between its ``before_step`` and ``after_step`` counts, so it should be the
    first hook.

    Args:
        warmup_iter: the first iterations, which the times leave out.
    """

    def __init__(self, warmup_iter: int = 3):
        self._warmup_iter = warmup_iter
        self._step_timer = Timer()
        self._total_timer = Timer()
        self._start_time = time.perf_counter()

    def before_train(self):
        self._start_time = time.perf_counter()
        self._total_timer.reset()
        self._total_timer.pause()

    def before_step(self):
        self._step_timer.reset()
        self._total_timer.resume()

    def after_step(self):
        done = self.trainer.storage.iter + 1 - self.trainer.start_iter
        if done >= self._warmup_iter:
            self.trainer.storage.put_scalars(time=self._step_timer.seconds())
        else:
            self._start_time = time.perf_counter()
            self._total_timer.reset()
        self._total_timer.pause()

    def after_train(self):
        logger = logging.getLogger(__name__)
        total = time.perf_counter() - self._start_time
        training = self._total_timer.seconds()
        counted = self.trainer.storage.iter + 1 - self.trainer.start_iter - self._warmup_iter
        if counted > 0 and training > 0:
            logger.info(
                f"Overall training speed: {counted} iterations in {_hms(training)} "
                f"({training / counted:.4f} s / it)"
            )
        logger.info(f"Total training time: {_hms(total)} ({_hms(total - training)} on hooks)")


def _hms(seconds: float) -> datetime.timedelta:
    return datetime.timedelta(seconds=int(seconds))


class LRScheduler(HookBase):
    """Steps the trainer's schedule after each iteration and stores the learning rate as "lr"."""

    def before_train(self):
        self._optimizer = self.trainer.optimizer
        self._best_param_group_id = LRScheduler.get_best_param_group_id(self._optimizer)

    @staticmethod
    def get_best_param_group_id(optimizer: torch.optim.Optimizer) -> int:
        """The group whose rate is stored: the largest; if all have one parameter, one with the
        most common rate."""
        sizes = [len(group["params"]) for group in optimizer.param_groups]
        if max(sizes) > 1:
            return sizes.index(max(sizes))
        rates = [group["lr"] for group in optimizer.param_groups]
        return rates.index(Counter(rates).most_common()[0][0])

    def after_step(self):
        lr = self._optimizer.param_groups[self._best_param_group_id]["lr"]
        self.trainer.storage.put_scalar("lr", lr, smoothing_hint=False)
        self.trainer.scheduler.step()

    def state_dict(self) -> dict:
        """The schedule's state."""
        return self.trainer.scheduler.state_dict()

    def load_state_dict(self, state_dict: dict) -> None:
        """Restore what ``state_dict`` returned."""
        logging.getLogger(__name__).info("Loading scheduler from state_dict ...")
        self.trainer.scheduler.load_state_dict(state_dict)


class EvalHook(HookBase):
    """Evaluates every ``eval_period`` iterations and after the last one, and stores the results.

    All processes must have this hook, because they wait for each other in it.

    Args:
        eval_period: 0 evaluates at the end only.
        eval_function: takes nothing; returns a nested dict of numbers, or nothing.
    """

    def __init__(self, eval_period: int, eval_function: Callable[[], dict]):
        self._period = eval_period
        self._func = eval_function

    def _evaluate(self) -> None:
        results = self._func()
        if results:
            assert isinstance(results, dict), (
                f"Eval function must return a dict. Got {results} instead."
            )
            metrics = flatten_results_dict(results)
            for name, value in metrics.items():
                try:
                    float(value)
                except Exception as error:
                    raise ValueError(
                        "[EvalHook] eval_function should return a nested dict of float. "
                        f"Got '{name}: {value}' instead."
                    ) from error
            self.trainer.storage.put_scalars(**metrics, smoothing_hint=False)
        comm.synchronize()  # processes may have evaluated for different times

    def after_step(self):
        if _is_due(self.trainer, self._period) and not _is_last_step(self.trainer):
            self._evaluate()

    def after_train(self):
        if _is_finished(self.trainer):
            self._evaluate()
        del self._func  # a closure may hold the trainer: free it


class PreciseBN(HookBase):
    """Replaces the moving averages of BatchNorm layers by true averages over some batches.

    It runs every ``period`` iterations and after the last one.

    Args:
        period: 0 runs it after the last iteration only.
        model: its BatchNorm layers that are in training mode are updated.
        data_loader: an iterable of batches for the model, apart from the one of the training.
        num_iter: number of batches to average over.
    """

    def __init__(self, period: int, model: torch.nn.Module, data_loader: Iterable, num_iter: int):
        self._logger = logging.getLogger(__name__)
        self._period = period
        self._model = model
        self._data_loader = data_loader
        self._num_iter = num_iter
        self._data_iter = None
        self._disabled = not get_bn_modules(model)
        if self._disabled:
            self._logger.info(
                "PreciseBN is disabled because model does not contain BN layers in training mode."
            )

    def after_step(self):
        if _is_due(self.trainer, self._period) or _is_last_step(self.trainer):
            self.update_stats()

    def update_stats(self) -> None:
        """Compute and set the statistics now."""
        if self._disabled:
            return
        self._logger.info(
            f"Running precise-BN for {self._num_iter} iterations...  "
            "Note that this could produce different statistics every time."
        )
        with EventStorage():  # what the model stores meanwhile is thrown away
            update_bn_stats(self._model, self._batches(), self._num_iter)

    def _batches(self):
        if self._data_iter is None:
            self._data_iter = iter(self._data_loader)
        for count in itertools.count(1):
            if count % 100 == 0:
                self._logger.info(f"Running precise-BN ... {count}/{self._num_iter} iterations.")
            yield next(self._data_iter)
