"""Samplers for several processes: endless ones for training, an exact one for inference."""

import itertools
import logging
from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from detectron2.utils import comm

logger = logging.getLogger(__name__)


class TrainingSampler(Sampler):
    """An endless stream of indices, epoch after epoch, shared among all processes.

    Process ``rank`` of ``world_size`` gets every ``world_size``-th index of one common stream.
    Data loader workers are not taken into account: see :class:`ToIterableDataset`.

    Args:
        size: the number of elements of the dataset, at least 1.
        shuffle: a new random order in each epoch; ascending indices otherwise.
        seed: of the order, the same in all processes. None: a random one that they agree on.
    """

    def __init__(self, size: int, shuffle: bool = True, seed: int | None = None):
        if not isinstance(size, int):
            raise TypeError(f"TrainingSampler(size=) expects an int. Got type {type(size)}.")
        if size <= 0:
            raise ValueError(f"TrainingSampler(size=) expects a positive int. Got {size}.")
        self._size = size
        self._shuffle = shuffle
        self._seed = _seed_or_shared(seed)
        self._rank = comm.get_rank()
        self._world_size = comm.get_world_size()

    def __iter__(self) -> Iterator[int]:
        return itertools.islice(self._stream(), self._rank, None, self._world_size)

    def _stream(self) -> Iterator[int]:
        """The common stream of all processes."""
        indices = self._indices()
        generator = torch.Generator().manual_seed(self._seed)
        while True:
            if self._shuffle:
                yield from indices[torch.randperm(len(indices), generator=generator)].tolist()
            else:
                yield from indices.tolist()

    def _indices(self) -> torch.Tensor:
        """The indices of one epoch before the shuffle, int64."""
        return torch.arange(self._size)


class RandomSubsetTrainingSampler(TrainingSampler):
    """A :class:`TrainingSampler` of a random subset, to see how accuracy depends on data.

    Args:
        size: the number of elements of the dataset.
        subset_ratio: the subset's part of it, in (0, 1].
        shuffle: a new random order in each epoch.
        seed_shuffle: of the order, as the ``seed`` of :class:`TrainingSampler`.
        seed_subset: of the choice of the subset, likewise.
    """

    def __init__(
        self,
        size: int,
        subset_ratio: float,
        shuffle: bool = True,
        seed_shuffle: int | None = None,
        seed_subset: int | None = None,
    ):
        super().__init__(size=size, shuffle=shuffle, seed=seed_shuffle)
        assert 0.0 < subset_ratio <= 1.0, f"subset_ratio must be in (0, 1], got {subset_ratio}"
        subset_size = int(size * subset_ratio)
        assert subset_size > 0, f"A subset of {subset_ratio} of {size} elements is empty"
        generator = torch.Generator().manual_seed(_seed_or_shared(seed_subset))
        self._subset = torch.randperm(size, generator=generator)[:subset_size]
        logger.info(f"Randomly sample {subset_size} data from the original {size} data")

    def _indices(self) -> torch.Tensor:
        return self._subset


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


def _seed_or_shared(seed: int | None) -> int:
    return int(comm.shared_random_seed() if seed is None else seed)
