"""What a checkpoint needs besides weights, optimizer and schedule to go on bit for bit."""

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
        loaders: the loaders that training takes batches from, by name.

    Attributes:
        last_hook: class of the last hook whose work after the current step is done, "" before the
            first. Resuming calls the others.
    """

    def __init__(self, seed: int, loaders: Mapping[str, ResumableLoader]):
        self.seed = seed
        self.loaders = dict(loaders)
        self.last_hook = ""
        self._events: dict = {}
        self._processes: list[dict] = []
        self._loaded: dict = {}

    def gather(self, storage: EventStorage, iteration: int) -> None:
        """Take the state of all processes, which call this together, for the next checkpoint.

        Args:
            storage: the metrics.
            iteration: the last one that is done.
        """
        self._events = save_events(storage, iteration)
        loaders = {name: loader.state_dict() for name, loader in self.loaders.items()}
        own = {"random": get_random_state(), "loaders": loaders}
        self._processes = comm.gather(own)

    def state_dict(self) -> dict:
        """For the checkpoint; on the main process, after :meth:`gather`."""
        return {
            "seed": self.seed,
            "last_hook": self.last_hook,
            "events": self._events,
            "processes": self._processes,
        }

    def load_state_dict(self, state: dict) -> None:
        """Take over ``state``, for :meth:`restore`."""
        self._loaded = state
        self.last_hook = state["last_hook"]

    @property
    def loaded_seed(self) -> int | None:
        """SEED of the run that is resumed; None if the checkpoint does not tell."""
        return self._loaded.get("seed")

    def restore_loaders(self, images_before: int) -> None:
        """Go on with the data where the checkpoint was written.

        Args:
            images_before: how many training images all processes had taken; of use where the
                checkpoint does not tell, or was written by another number of processes.
        """
        own = self._own()
        for name, loader in self.loaders.items():
            if name in own.get("loaders", {}):
                loader.load_state_dict(own["loaders"][name])
            elif name == "train":
                loader.skip(images_before // comm.get_world_size())

    def restore_process(self, storage: EventStorage) -> None:
        """Go on with metrics and random numbers, immediately before the next step."""
        restore_events(storage, self._loaded.get("events", {}))
        if self._own():
            set_random_state(self._own()["random"])

    def _own(self) -> dict:
        """What this process had saved; empty if there were others."""
        processes = self._loaded.get("processes", [])
        return processes[comm.get_rank()] if len(processes) == comm.get_world_size() else {}

    def warn_if_inexact(self) -> None:
        """Say why the resumed run will not be the one that was not interrupted."""
        if not self._own():
            there = len(self._loaded.get("processes", [])) or "an unknown number of"
            logger.warning(
                "The checkpoint is of %s processes, this run has %d: random numbers and the order "
                "of images are not those of the uninterrupted run.",
                there,
                comm.get_world_size(),
            )
