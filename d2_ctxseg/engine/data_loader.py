"""Training batches that depend only on the seed and the position in the stream of images.

Detectron2's samplers give an endless stream of images. Its loaders seed augmentation per worker
process and always start with the first image of the stream; :class:`ResumableLoader` does neither.
"""

import itertools
from collections.abc import Iterator
from functools import partial

import torch
from torch.utils import data as torchdata

from detectron2.data.common import AspectRatioGroupedDataset, ToIterableDataset
from detectron2.utils import comm

from .interrupts import leave_interrupts_to_parent
from .random_state import seeded


class ResumableLoader:
    """The batches of one of Detectron2's training loaders, in an order that can be resumed.

    The random numbers of the augmentation of image number n of the stream depend on the seed and n.
    Neither the number of worker processes nor an interruption changes a batch.

    Args:
        loader: a loader of ``build_detection_train_loader`` for a map-style dataset.
        seed: seed of the augmentation, >= 0; the sampler determines the order of images.

    Raises:
        TypeError: it is another kind of loader.
    """

    def __init__(self, loader, *, seed: int):
        self._groups_by_shape = isinstance(loader, AspectRatioGroupedDataset)
        inner = loader.dataset if self._groups_by_shape else loader
        if not isinstance(getattr(inner, "dataset", None), ToIterableDataset):
            raise TypeError(
                f"{type(loader).__name__} is not a loader that Detectron2's "
                "build_detection_train_loader builds for a map-style dataset."
            )
        self.loader = inner
        self.batch_size = loader.batch_size
        self.seed = seed
        # Positions of the images that are not yet in a full batch, and of the next image to draw.
        self._waiting: list[int] = []
        self._next = 0

    def __iter__(self) -> Iterator[list]:
        source = self.loader.dataset
        images = _Images(
            source.dataset, source.sampler, self.seed, self._waiting, self._next, self.batch_size
        )
        workers = self.loader.num_workers
        batches = torchdata.DataLoader(
            images,
            batch_size=self.batch_size,
            num_workers=workers,
            collate_fn=list if self._groups_by_shape else self.loader.collate_fn,
            worker_init_fn=partial(_init_worker, self.loader.worker_init_fn),
            prefetch_factor=self.loader.prefetch_factor if workers else None,
            pin_memory=self.loader.pin_memory,
            # The workers' own seeds; by default they come from the global generator.
            generator=torch.Generator().manual_seed(self.seed),
        )
        return self._group(batches) if self._groups_by_shape else self._count(batches)

    def _count(self, batches) -> Iterator[list]:
        for batch in batches:
            self._next += self.batch_size
            yield batch

    def _group(self, batches) -> Iterator[list]:
        """Batches of images that are all wide or all tall, as in AspectRatioGroupedDataset."""
        positions = itertools.chain(self._waiting, itertools.count(self._next))
        groups: dict[bool, list] = {True: [], False: []}
        for image in itertools.chain.from_iterable(batches):
            position = next(positions)
            self._next = max(self._next, position + 1)
            group = groups[image["width"] > image["height"]]
            group.append((position, image))
            if len(group) == self.batch_size:
                batch = [image for _, image in group]
                group.clear()
                self._waiting = sorted(p for waiting in groups.values() for p, _ in waiting)
                yield batch

    def state_dict(self) -> dict:
        """The position in the stream of this process after the batches so far."""
        return {"next": self._next, "waiting": list(self._waiting)}

    def load_state_dict(self, state: dict) -> None:
        """Continue from the position of :meth:`state_dict`; call it before the first batch."""
        self._next = state["next"]
        self._waiting = list(state["waiting"]) if self._groups_by_shape else []

    def skip(self, num_images: int) -> None:
        """Start after this number of images of this process."""
        self._next, self._waiting = num_images, []


class _Images(torchdata.IterableDataset):
    """The stream of images of one process from a position on, distributed over its workers.

    Each worker takes ``chunk`` consecutive images in turn.
    """

    def __init__(self, dataset, sampler, seed: int, waiting: list[int], start: int, chunk: int):
        self.dataset = dataset
        self.sampler = sampler
        self.seed = seed
        self.waiting = list(waiting)
        self.start = start
        self.chunk = chunk
        self.rank, self.world_size = comm.get_rank(), comm.get_world_size()

    def __iter__(self) -> Iterator[dict]:
        worker = torchdata.get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        for count, (position, index) in enumerate(self._draws()):
            if count // self.chunk % workers == number:
                # The position in the common stream of all processes.
                with seeded(self.seed, position * self.world_size + self.rank):
                    image = self.dataset[index]
                yield image

    def _draws(self) -> Iterator[tuple[int, int]]:
        """(position in the stream, index into the dataset) of the next images."""
        waiting = set(self.waiting)
        for position, index in enumerate(self.sampler):
            if position >= self.start or position in waiting:
                yield position, index


def _init_worker(function, worker_id: int) -> None:
    leave_interrupts_to_parent()
    if function is not None:
        function(worker_id)
