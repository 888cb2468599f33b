"""Writers of training metrics, which an interruption does not change."""

import json
import logging
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import torch

from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, EventWriter, get_event_storage

from ..utils.errors import counted
from ..utils.files import atomic_write, write_errors

EARLIER_FILE = "metrics_of_earlier_run.json"
# Measured times, which differ between processes and runs.
TIMES = {"time", "data_time", "rank_data_time", "eta_seconds"}
# Number of iterations that are smoothed over.
WINDOW = 20

logger = logging.getLogger(__name__)


class MetricsWriter(EventWriter):
    """Writes the lines of Detectron2's JSONWriter, one JSON object per iteration.

    Args:
        path: the file that lines are appended to.

    Attributes:
        last_write: the last iteration in the file; -1 if there is none.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.last_write = -1

    def start_new(self) -> None:
        """Start the file of a new run; an existing file is renamed."""
        if self.path.exists() and self.path.stat().st_size:
            other = self.path.with_name(EARLIER_FILE)
            with write_errors(other):
                os.replace(self.path, other)
            logger.warning("%s of an earlier run was renamed to %s", self.path, other.name)

    def start_after(self, iteration: int) -> None:
        """Continue after ``iteration``: remove lines of later iterations and damaged lines."""
        self.last_write = iteration
        if not self.path.exists():
            return
        lines = self.path.read_bytes().splitlines()
        iterations = [_iteration_of(line) for line in lines]
        kept = [line for line, found in zip(lines, iterations) if 0 <= found <= iteration]
        with atomic_write(self.path, "wb") as file:
            file.writelines(line + b"\n" for line in kept)
        damaged = iterations.count(-1)
        if damaged:
            logger.warning("%s: removed %s", self.path, counted(damaged, "damaged line"))
        if later := len(lines) - len(kept) - damaged:
            logger.info(
                "%s: removed %s of iterations after %d, which are trained again",
                self.path,
                counted(later, "line"),
                iteration,
            )

    def write(self) -> None:
        """Write one line for each iteration that has scalars since the last call.

        Raises:
            WriteError: the file cannot be written.
        """
        lines = defaultdict(dict)
        for name, (value, at) in get_event_storage().latest_with_smoothing_hint(WINDOW).items():
            if at > self.last_write:
                lines[at][name] = value
        with write_errors(self.path), open(self.path, "a", encoding="utf-8") as file:
            for at, scalars in sorted(lines.items()):
                file.write(json.dumps({**scalars, "iteration": at}, sort_keys=True) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.last_write = max([self.last_write, *lines])


def _iteration_of(line: bytes) -> int:
    """The iteration of a line; -1 for a damaged line."""
    try:
        iteration = json.loads(line)["iteration"]
    except (ValueError, TypeError, KeyError):
        return -1
    return iteration if isinstance(iteration, int) else -1


class WriteMetrics(HookBase):
    """Calls the trainer's writers every ``period`` iterations, after the last one and at the end.

    The writers are built when training begins, so that they know what the files hold already.
    """

    def __init__(self, period: int = 20):
        self.period = period
        self.last_write: int | None = None
        self._writers: list[EventWriter] = []

    def before_train(self) -> None:
        """Build the writers, on the main process."""
        if comm.is_main_process():
            self._writers = self.trainer.build_writers()
        for writer in self._metrics_writers():
            if self.trainer.start_iter == 0:
                writer.start_new()
            elif self.last_write is None:  # the checkpoint is not of this trainer
                writer.start_after(self.trainer.start_iter - 1)
            else:
                writer.start_after(self.last_write)

    def after_step(self) -> None:
        """Write every ``period`` iterations and after the last one."""
        done = self.trainer.iter + 1
        if done % self.period == 0 or done == self.trainer.max_iter:
            self._write()

    def after_train(self) -> None:
        """Write what other hooks have added at the end."""
        self._write()
        for writer in self._writers:
            writer.close()

    def state_dict(self) -> dict:
        """The last iteration in metrics.json."""
        writer = next(self._metrics_writers(), None)
        return {} if writer is None else {"last_write": writer.last_write}

    def load_state_dict(self, state: dict) -> None:
        """Restore the result of :meth:`state_dict`; call it before the training."""
        self.last_write = state["last_write"]

    def _write(self) -> None:
        with write_errors(self.trainer.cfg.OUTPUT_DIR, only_unnamed=True):
            for writer in self._writers:
                writer.write()

    def _metrics_writers(self) -> Iterator[MetricsWriter]:
        return (writer for writer in self._writers if isinstance(writer, MetricsWriter))


def save_events(storage: EventStorage, iteration: int) -> dict[str, dict]:
    """The values that the smoothed values of the next iterations depend on.

    Args:
        iteration: the last iteration to include.

    Returns:
        Scalar -> "values" (N,) float64, "iterations" (N,) int64, "smoothing".
    """
    events = {}
    for name, history in storage.histories().items():
        entries = [entry for entry in history.values()[-50 * WINDOW :] if entry[1] <= iteration]
        if entries and name not in TIMES:
            last = entries[-1][1]
            values, iterations = zip(*(entry for entry in entries if entry[1] > last - WINDOW))
            events[name] = {
                "values": torch.tensor(values, dtype=torch.float64),
                "iterations": torch.tensor(iterations, dtype=torch.int64),
                "smoothing": storage.smoothing_hints()[name],
            }
    return events


def restore_events(storage: EventStorage, events: dict[str, dict]) -> None:
    """Restore the result of :func:`save_events` in a new storage."""
    for name, event in events.items():
        for value, iteration in zip(event["values"].tolist(), event["iterations"].tolist()):
            storage.put_scalar(name, value, event["smoothing"], cur_iter=iteration)
