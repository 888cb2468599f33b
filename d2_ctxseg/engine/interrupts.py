"""Ctrl-C and SIGTERM, handled where the state of a run is consistent: after a step or an image."""

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
# Signals within this time count as one: a launcher and a scheduler may both forward it.
_SECONDS_OF_ONE = 1.0

_active: "Interrupts | None" = None


class Interrupted(KeyboardInterrupt):
    """Raised where the state is consistent; the argument is the signal's number."""


class Interrupts:
    """Defers a signal until :meth:`stop_if_requested`. A second one ends the program at once."""

    def __init__(self):
        self.received = 0
        self._time = 0.0
        self._previous_handlers = {}

    def install(self) -> None:
        """Install the signal handlers; only in the main thread of a process."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._previous_handlers[number] = signal.signal(number, self._on_signal)

    def restore(self) -> None:
        """Restore the previous handlers."""
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
        self._previous_handlers.clear()

    def stop_if_requested(self) -> None:
        """Stop if any process received a signal; all processes of a run call this together.

        Raises:
            Interrupted: any process received a signal.
        """
        number = self.received
        if comm.get_world_size() > 1:
            # On the CPU, without a synchronisation with a GPU.
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
    """Defer signals in this block to :meth:`Interrupts.stop_if_requested`; blocks can be nested."""
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
    if received:  # after the last call of stop_if_requested
        raise Interrupted(received)


def interrupted() -> bool:
    """Whether this process has received a signal that is still deferred."""
    return _active is not None and bool(_active.received)


def leave_interrupts_to_parent(worker_id: int = 0) -> None:
    """Let only the parent end a worker process of a data loader, after it has saved.

    A scheduler sends SIGTERM, and a terminal sends Ctrl-C, to all processes at once.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # Linux; elsewhere PyTorch's handling stays
        # Threads inherit this mask, so that only the thread below receives the signal.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_exit_when_parent_says_so, daemon=True).start()


def _exit_when_parent_says_so() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


class InterruptibleEvaluator(DatasetEvaluator):
    """An evaluator whose results are computed only if no process was interrupted.

    Args:
        evaluator: the evaluator to wrap.
        interrupts: checked when all processes have predicted their images; a data loader that ends
            early on :func:`interrupted` shortens the wait.
    """

    def __init__(self, evaluator: DatasetEvaluator, interrupts: Interrupts):
        self.evaluator = evaluator
        self.interrupts = interrupts

    def reset(self) -> None:
        """Reset the evaluator."""
        self.evaluator.reset()

    def process(self, inputs, outputs) -> None:
        """Pass inputs and outputs to the evaluator."""
        self.evaluator.process(inputs, outputs)

    def evaluate(self):
        """The evaluator's results.

        Raises:
            Interrupted: any process received a signal.
        """
        self.interrupts.stop_if_requested()
        return self.evaluator.evaluate()


@cache
def _cpu_group():
    """The process group of all processes on the CPU."""
    if torch.distributed.get_backend() == torch.distributed.Backend.GLOO:
        return torch.distributed.group.WORLD
    return torch.distributed.new_group(backend="gloo")
