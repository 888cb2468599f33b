"""Samplers for several processes: an endless one for training, an exact one for inference."""

import itertools
from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from detectron2.utils import comm


class TrainingSampler(Sampler):
    """An endless stream of indices, shuffled in each epoch and distributed over all processes.

    Process ``rank`` of ``world_size`` gets every ``world_size``-th index of one common stream.
    Data loader workers are not taken into account: see :class:`ToIterableDataset`.

    Args:
        size: the number of elements of the dataset, at least 1.
        seed: of the order, the same in all processes. None: a random one that they agree on.
    """

    def __init__(self, size: int, *, seed: int | None = None):
        if size <= 0:
            raise ValueError(f"TrainingSampler(size=) expects a positive int. Got {size}.")
        self._size = size
        self._seed = int(comm.shared_random_seed() if seed is None else seed)
        self._rank = comm.get_rank()
        self._world_size = comm.get_world_size()

    def __iter__(self) -> Iterator[int]:
        return itertools.islice(self._stream(), self._rank, None, self._world_size)

    def _stream(self) -> Iterator[int]:
        """The common stream of all processes."""
        generator = torch.Generator().manual_seed(self._seed)
        while True:
            yield from torch.randperm(self._size, generator=generator).tolist()


class InferenceSampler(Sampler):
    """Every index exactly once: each process gets one contiguous part.

    If ``size`` is not divisible, the first processes get one index more.

    Args:
        size: the number of elements of the dataset, at least 1.
    """

    def __init__(self, size: int):
        assert size > 0, f"InferenceSampler(size=) expects a positive int. Got {size}."
        rank, world_size = comm.get_rank(), comm.get_world_size()
        part, extra = divmod(size, world_size)
        begin = rank * part + min(rank, extra)
        self._local_indices = range(begin, begin + part + (rank < extra))

    def __iter__(self) -> Iterator[int]:
        return iter(self._local_indices)

    def __len__(self) -> int:
        return len(self._local_indices)
