"""Ctrl-C and SIGTERM, answered where the state of a run is whole: between steps, between images."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# A launcher and a scheduler may both pass on what the user or the cluster sent once.
_SECONDS_OF_ONE = 1.0

_active: "Interrupts | None" = None


class Interrupted(KeyboardInterrupt):
    """Raised at a point where nothing is half done; its argument is the signal's number."""


class Interrupts:
    """Remembers a signal until :meth:`stop_if_requested`. A second one ends the program at once."""

    def __init__(self):
        self.received = 0
        self._time = 0.0
        self._previous_handlers = {}

    def install(self) -> None:
        """Take over the signals; only the main thread of a process may."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._previous_handlers[number] = signal.signal(number, self._on_signal)

    def restore(self) -> None:
        """Give the signals back."""
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
        self._previous_handlers.clear()

    def stop_if_requested(self) -> None:
        """All processes of a run call this together.

        Raises:
            Interrupted: a signal came to any of them.
        """
        number = self.received
        if comm.get_world_size() > 1:
            # On the CPU, so that no stream of a GPU has to be waited for.
            shared = torch.tensor(number)
            torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX, _cpu_group())
            number = int(shared)
        if number:
            raise Interrupted(number)

    def _on_signal(self, number: int, frame) -> None:
        now = time.monotonic()
        if self.received and now - self._time > _SECONDS_OF_ONE:
            signal.signal(number, self._previous_handlers[number])
            signal.raise_signal(number)
        elif not self.received:
            self.received, self._time = number, now


@contextmanager
def deferred_interrupts() -> Iterator[Interrupts]:
    """Signals wait for :meth:`Interrupts.stop_if_requested` in this block; blocks may be nested."""
    global _active
    if _active is not None:
        yield _active
        return
    _active = Interrupts()
    _active.install()
    received = 0
    try:
        yield _active
        received = _active.received
    finally:
        _active.restore()
        _active = None
    if received:  # too late for the last look
        raise Interrupted(received)


def interrupted() -> bool:
    """Whether a signal waits to be answered in this process."""
    return _active is not None and bool(_active.received)


def leave_interrupts_to_parent(worker_id: int = 0) -> None:
    """For worker processes of a data loader: only their parent ends them, when it has saved.

    A scheduler sends SIGTERM, and a terminal Ctrl-C, to all processes at once.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # Linux; elsewhere PyTorch's way stays
        # Threads inherit this mask, so that the one below is the only one to take the signal.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_exit_when_parent_says_so, daemon=True).start()


def _exit_when_parent_says_so() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


class InterruptibleEvaluator(DatasetEvaluator):
    """An evaluator that is asked for its results only if no process was interrupted.

    Args:
        evaluator: its results are returned.
        interrupts: looked at when all images of all processes are through; a loader of images that
            ends early on :func:`interrupted` shortens the wait.
    """

    def __init__(self, evaluator: DatasetEvaluator, interrupts: Interrupts):
        self.evaluator = evaluator
        self.interrupts = interrupts

    def reset(self) -> None:
        """Reset the evaluator."""
        self.evaluator.reset()

    def process(self, inputs, outputs) -> None:
        """Hand inputs and outputs to the evaluator."""
        self.evaluator.process(inputs, outputs)

    def evaluate(self):
        """The evaluator's results.

        Raises:
            Interrupted: a signal came to any process.
        """
        self.interrupts.stop_if_requested()
        return self.evaluator.evaluate()


@cache
def _cpu_group():
    """All processes, over main memory."""
    if torch.distributed.get_backend() == torch.distributed.Backend.GLOO:
        return torch.distributed.group.WORLD
    return torch.distributed.new_group(backend="gloo")
