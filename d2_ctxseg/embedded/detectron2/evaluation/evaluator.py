"""The interface of evaluators, and the loop that feeds them."""

import datetime
import logging
import math
import time
from collections import OrderedDict
from contextlib import contextmanager, nullcontext

import torch
from torch import nn

from detectron2.utils.comm import get_world_size, is_main_process

__all__ = [
    "DatasetEvaluator",
    "DatasetEvaluators",
    "inference_context",
    "inference_on_dataset",
]

# The first batches are slower than the others and would spoil the times.
_WARMUP_BATCHES = 5
_PARTS = ("data", "compute", "eval")
_SECONDS_BETWEEN_LINES = 5


class DatasetEvaluator:
    """Base class of evaluators: collects a model's predictions and computes metrics from them."""

    def reset(self):
        """Forget what was collected. Called before each round."""

    def process(self, inputs, outputs):
        """Take in one batch.

        Args:
            inputs: what the model was given, a list as a rule.
            outputs: what it returned, a list of the same length as a rule.
        """

    def evaluate(self):
        """Compute the metrics of what was collected.

        Returns:
            {task: {metric: number}}, or None in processes other than the main one.
        """


class DatasetEvaluators(DatasetEvaluator):
    """Several evaluators as one; no two may have results of the same name.

    Args:
        evaluators: the evaluators.
    """

    def __init__(self, evaluators: list[DatasetEvaluator]):
        self._evaluators = evaluators

    def reset(self):
        """Reset all."""
        for evaluator in self._evaluators:
            evaluator.reset()

    def process(self, inputs, outputs):
        """Give the batch to all."""
        for evaluator in self._evaluators:
            evaluator.process(inputs, outputs)

    def evaluate(self) -> OrderedDict:
        """The results of all together; none in processes other than the main one."""
        results = OrderedDict()
        for evaluator in self._evaluators:
            result = evaluator.evaluate()
            if not is_main_process() or result is None:
                continue
            for key, value in result.items():
                assert key not in results, (
                    f"Different evaluators produce results with the same key {key}"
                )
                results[key] = value
        return results


def inference_on_dataset(model: nn.Module, data_loader, evaluator: DatasetEvaluator):
    """Run a model over a dataset, evaluate the outputs, and log how long it took.

    Args:
        model: takes a batch; it is in eval mode meanwhile.
        data_loader: an iterable of batches that has a length.
        evaluator: takes in each batch.

    Returns:
        What the evaluator returned, {} for None.
    """
    logger = logging.getLogger(__name__)
    total = len(data_loader)
    logger.info(f"Start inference on {total} batches")
    evaluator.reset()
    timer = _PhaseTimer()
    num_warmup, last_line = min(_WARMUP_BATCHES, total - 1), -math.inf
    # A model may be any callable.
    eval_mode = inference_context(model) if isinstance(model, nn.Module) else nullcontext()
    with eval_mode, torch.no_grad():
        timer.restart()
        for index, inputs in enumerate(data_loader):
            timer.end("data")
            if index == num_warmup:
                timer.restart()
            outputs = model(inputs)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            timer.end("compute")
            evaluator.process(inputs, outputs)
            timer.end("eval")

            measured = index + 1 - (num_warmup if index >= num_warmup else 0)
            is_settled = index >= num_warmup * 2 or timer.seconds["compute"] / measured > 5
            if is_settled and time.monotonic() - last_line >= _SECONDS_BETWEEN_LINES:
                last_line = time.monotonic()
                logger.info(_progress_line(timer, measured, index + 1, total))
            timer.skip()
    _log_total_times(logger, timer, total - num_warmup)
    results = evaluator.evaluate()
    return {} if results is None else results


class _PhaseTimer:
    """Adds up the seconds of the parts of a loop."""

    def __init__(self):
        self.restart()

    def restart(self) -> None:
        """Count from now."""
        self.seconds = dict.fromkeys(_PARTS, 0.0)
        self._start = self._last = time.perf_counter()

    def end(self, part: str) -> None:
        """The time since the last end was spent on ``part``."""
        now = time.perf_counter()
        self.seconds[part] += now - self._last
        self._last = now

    def skip(self) -> None:
        """The time since the last end belongs to no part."""
        self._last = time.perf_counter()

    def total(self) -> float:
        """Seconds since the restart."""
        return time.perf_counter() - self._start


def _progress_line(timer: _PhaseTimer, measured: int, done: int, total: int) -> str:
    data, compute, evaluation = (timer.seconds[part] / measured for part in _PARTS)
    whole = timer.total() / measured
    eta = datetime.timedelta(seconds=int(whole * (total - done)))
    return (
        f"Inference done {done}/{total}. Dataloading: {data:.4f} s/iter. "
        f"Inference: {compute:.4f} s/iter. Eval: {evaluation:.4f} s/iter. "
        f"Total: {whole:.4f} s/iter. ETA={eta}"
    )


def _log_total_times(logger: logging.Logger, timer: _PhaseTimer, measured: int) -> None:
    whole, compute = timer.total(), timer.seconds["compute"]
    devices = get_world_size()
    logger.info(
        f"Total inference time: {datetime.timedelta(seconds=whole)} "
        f"({whole / measured:.6f} s / iter per device, on {devices} devices)"
    )
    logger.info(
        f"Total inference pure compute time: {datetime.timedelta(seconds=int(compute))} "
        f"({compute / measured:.6f} s / iter per device, on {devices} devices)"
    )


@contextmanager
def inference_context(model: nn.Module):
    """Eval mode within the ``with`` block, the mode it had before afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
