"""The state, besides weights, optimizer and schedule, that exact resuming needs."""

import logging
from collections.abc import Mapping

from detectron2.utils import comm
from detectron2.utils.events import EventStorage

from .data_loader import ResumableLoader
from .metrics import restore_events, save_events
from .random_state import get_random_state, set_random_state

logger = logging.getLogger(__name__)


class RunState:
    """Random numbers, position in the data and recent metrics of all processes of a run.

    Args:
        seed: SEED of the run.
        loaders: the training loaders by name.

    Attributes:
        last_hook: class name of the last hook that has finished after the current step; "" before
            the first. Resuming calls the hooks that follow.
    """

    def __init__(self, seed: int, loaders: Mapping[str, ResumableLoader]):
        self.seed = seed
        self.loaders = dict(loaders)
        self.last_hook = ""
        self._events: dict = {}
        self._processes: list[dict] = []
        self._loaded: dict = {}

    def gather(self, storage: EventStorage, iteration: int) -> None:
        """Collect the state of all processes for a checkpoint; all processes call this together.

        Args:
            storage: the metrics.
            iteration: the last finished iteration.
        """
        self._events = save_events(storage, iteration)
        loaders = {name: loader.state_dict() for name, loader in self.loaders.items()}
        own = {"random": get_random_state(), "loaders": loaders}
        self._processes = comm.gather(own)

    def state_dict(self) -> dict:
        """The content of the checkpoint; on the main process, after :meth:`gather`."""
        return {
            "seed": self.seed,
            "last_hook": self.last_hook,
            "events": self._events,
            "processes": self._processes,
        }

    def load_state_dict(self, state: dict) -> None:
        """Store ``state`` for the methods that restore it."""
        self._loaded = state
        self.last_hook = state["last_hook"]

    @property
    def loaded_seed(self) -> int | None:
        """SEED of the run that is resumed; None if the checkpoint does not have it."""
        return self._loaded.get("seed")

    def restore_loaders(self, images_before: int) -> None:
        """Continue with the data from the position of the checkpoint.

        Args:
            images_before: number of training images of all processes so far; used where the
                checkpoint does not have the position, or the number of processes differs.
        """
        own = self._own()
        for name, loader in self.loaders.items():
            if name in own.get("loaders", {}):
                loader.load_state_dict(own["loaders"][name])
            elif name == "train":
                loader.skip(images_before // comm.get_world_size())

    def restore_process(self, storage: EventStorage) -> None:
        """Restore metrics and random state, immediately before the next step."""
        restore_events(storage, self._loaded.get("events", {}))
        if self._own():
            set_random_state(self._own()["random"])

    def _own(self) -> dict:
        """The saved state of this process; empty if the number of processes differs."""
        processes = self._loaded.get("processes", [])
        return processes[comm.get_rank()] if len(processes) == comm.get_world_size() else {}

    def warn_if_inexact(self) -> None:
        """Warn where the resumed run will not equal an uninterrupted one."""
        if not self._own():
            there = len(self._loaded.get("processes", [])) or "an unknown number of"
            logger.warning(
                "The checkpoint was written by %s processes, this run has %d: random numbers and "
                "the order of images are not those of the uninterrupted run.",
                there,
                comm.get_world_size(),
            )
