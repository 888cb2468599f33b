"""Writers: they take the data of the current ``EventStorage`` to tensorboard or the log."""

import datetime
import logging
import time
from functools import cached_property

import torch

from .event_storage import get_event_storage


class EventWriter:
    """What all writers have in common."""

    def write(self) -> None:
        """Write what is new in the current ``EventStorage``."""
        raise NotImplementedError

    def close(self) -> None:
        """Called once, at the end."""


class TensorboardXWriter(EventWriter):
    """Write scalars and images to a file for TensorBoard.

    Args:
        log_dir: the folder for the file.
        window_size: the median of this many iterations is written for noisy scalars.
        **kwargs: further arguments of ``torch.utils.tensorboard.SummaryWriter``.
    """

    def __init__(self, log_dir: str, window_size: int = 20, **kwargs):
        self._window_size = window_size
        self._arguments = {"log_dir": log_dir, **kwargs}
        self._last_write = -1

    @cached_property
    def _writer(self):
        # Imported and opened at the first write: a run that never writes needs no tensorboard.
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(**self._arguments)

    def write(self) -> None:
        """Write new values. Images are then deleted from the storage."""
        storage = get_event_storage()
        last_write = self._last_write
        for name, (value, iteration) in storage.latest_with_smoothing_hint(
            self._window_size
        ).items():
            if iteration > self._last_write:
                self._writer.add_scalar(name, value, iteration)
                last_write = max(last_write, iteration)
        self._last_write = last_write
        for image in storage._vis_data:
            self._writer.add_image(*image)
        storage.clear_images()

    def close(self) -> None:
        """Close the file, if it was opened."""
        if "_writer" in self.__dict__:
            self._writer.close()


class CommonMetricPrinter(EventWriter):
    """One line in the log: remaining time, iteration, losses, times, learning rate, memory.

    Args:
        max_iter: the number of iterations of the training. Without it, no remaining time.
        window_size: losses and metrics are the median of this many iterations.
    """

    def __init__(self, max_iter: int | None = None, window_size: int = 20):
        # Not __name__: the log shows this name, and it is the one of Detectron2.
        self.logger = logging.getLogger("detectron2.utils.events")
        self._max_iter = max_iter
        self._window_size = window_size
        self._last_write = None  # (iteration, time) of the last line, while "time" is not there

    def write(self) -> None:
        """Log a line. Scalars with "loss" or "[metric]" in their names are shown."""
        storage = get_event_storage()
        if storage.iter == self._max_iter:  # training is over; this is only the last flush
            return
        eta = self._remaining_time(storage)
        fields = [f"eta: {eta}"] if eta else []
        fields.append(f"iter: {storage.iter}")
        # The double spaces that empty groups leave are Detectron2's: other programs parse the line.
        fields.append(self._scalars(storage, "loss"))
        fields.append(self._scalars(storage, "[metric]"))
        times = "".join(f"{name}: {value:.4f}  " for name, value in self._times(storage))
        rate = f"{storage.history('lr').latest():.5g}" if "lr" in storage.histories() else "N/A"
        memory = ""
        if torch.cuda.is_available():
            memory = f"max_mem: {torch.cuda.max_memory_allocated() / 1024**2:.0f}M"
        self.logger.info(f" {'  '.join(fields)}  {times} lr: {rate}  {memory}")

    def _scalars(self, storage, part_of_name: str) -> str:
        return "  ".join(
            f"{name}: {history.median(storage.count_samples(name, self._window_size)):.4g}"
            for name, history in storage.histories().items()
            if part_of_name in name
        )

    def _times(self, storage):
        """(name, seconds) of an iteration and of its part that waits for data: mean, and last."""
        histories = storage.histories()
        if "time" in histories:
            yield "time", histories["time"].global_avg()
            yield "last_time", histories["time"].latest()
        if "data_time" in histories:
            samples = storage.count_samples("data_time", self._window_size)
            yield "data_time", histories["data_time"].avg(samples)
            yield "last_data_time", histories["data_time"].latest()

    def _remaining_time(self, storage) -> str | None:
        """As "1:02:03", or None if it is not known."""
        if self._max_iter is None:
            return None
        iterations_left = self._max_iter - storage.iter - 1
        if "time" in storage.histories():
            seconds = storage.history("time").median(1000) * iterations_left
            storage.put_scalar("eta_seconds", seconds, smoothing_hint=False)
            return str(datetime.timedelta(seconds=int(seconds)))
        now = time.perf_counter()
        last_write, self._last_write = self._last_write, (storage.iter, now)
        if last_write is None or last_write[0] == storage.iter:
            return None
        seconds = (now - last_write[1]) / (storage.iter - last_write[0]) * iterations_left
        return str(datetime.timedelta(seconds=int(seconds)))
