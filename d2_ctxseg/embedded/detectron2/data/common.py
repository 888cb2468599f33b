"""Wrappers around datasets: from a list, mapped, sampled, and grouped into batches."""

import copy
import logging
import pickle
import random

import numpy as np
import torch
from torch.utils import data as torchdata

from detectron2.utils.serialize import PicklableWrapper

__all__ = ["AspectRatioGroupedDataset", "DatasetFromList", "MapDataset", "ToIterableDataset"]

logger = logging.getLogger(__name__)


class _MapIterableDataset(torchdata.IterableDataset):
    """What :class:`MapDataset` is for an iterable dataset: leaves out elements mapped to None."""

    def __init__(self, dataset, map_func):
        self._dataset = dataset
        self._map_func = PicklableWrapper(map_func)

    def __len__(self):
        return len(self._dataset)

    def __iter__(self):
        for element in self._dataset:
            mapped = self._map_func(element)
            if mapped is not None:
                yield mapped


class MapDataset(torchdata.Dataset):
    """Applies a function to every element of a dataset.

    Args:
        dataset: with indices or iterable; the result is of the same kind.
        map_func: takes an element, returns what takes its place, or None if it is unusable: an
            iterable dataset skips such an element, one with indices tries random others. Lambdas
            and closures work with worker processes too.
    """

    def __new__(cls, dataset, map_func):
        if isinstance(dataset, torchdata.IterableDataset):
            return _MapIterableDataset(dataset, map_func)
        return super().__new__(cls)

    def __init__(self, dataset, map_func):
        self._dataset = dataset
        self._map_func = PicklableWrapper(map_func)
        self._rng = random.Random(42)
        self._usable = set(range(len(dataset)))

    def __getnewargs__(self):
        # Unpickling calls __new__ with these.
        return self._dataset, self._map_func

    def __len__(self):
        return len(self._dataset)

    def __getitem__(self, idx):
        index, failures = int(idx), 0
        while (mapped := self._map_func(self._dataset[index])) is None:
            failures += 1
            self._usable.discard(index)
            if not self._usable:
                raise ValueError(
                    f"The map function returned None for all {len(self)} elements of the dataset."
                )
            index = self._rng.sample(list(self._usable), k=1)[0]
            if failures >= 3:
                logger.warning(
                    f"Failed to apply `_map_func` for idx: {idx}, retry count: {failures}"
                )
        self._usable.add(index)
        return mapped


class _SerializedList:
    """A read-only list whose pickled elements lie in one tensor.

    Worker processes share that memory. With a list of Python objects every worker would end up
    with a copy of its own, because reading an object writes its reference count.
    """

    def __init__(self, elements: list):
        logger.info(f"Serializing {len(elements)} elements to byte tensors and concatenating them")
        chunks = [
            np.frombuffer(pickle.dumps(element, protocol=-1), np.uint8) for element in elements
        ]
        self._ends = torch.from_numpy(np.cumsum([len(chunk) for chunk in chunks], dtype=np.int64))
        self._bytes = torch.from_numpy(np.concatenate(chunks))
        logger.info(f"Serialized dataset takes {len(self._bytes) / 1024**2:.2f} MiB")

    def __len__(self):
        return len(self._ends)

    def __getitem__(self, idx):
        start = 0 if idx == 0 else self._ends[idx - 1].item()
        end = self._ends[idx].item()
        return pickle.loads(memoryview(self._bytes[start:end].numpy()))


class DatasetFromList(torchdata.Dataset):
    """A list as a dataset.

    Args:
        lst: its elements, picklable if they are serialised.
        copy: produce copies, so that changing an element does not change the list. Serialised
            elements are copies in any case.
        serialize: keep the elements pickled in memory that worker processes share; or a function
            that makes a list-like object of the list.
    """

    def __init__(self, lst: list, copy: bool = True, serialize=True):
        if not isinstance(serialize, bool) and not callable(serialize):
            raise TypeError(
                f"DatasetFromList(serialize=) takes a bool or function, got {serialize}"
            )
        self._copy = copy and serialize is False
        if serialize is False:
            self._lst = lst
        else:
            self._lst = _SerializedList(lst) if serialize is True else serialize(lst)

    def __len__(self):
        return len(self._lst)

    def __getitem__(self, idx):
        element = self._lst[idx]
        return copy.deepcopy(element) if self._copy else element


class ToIterableDataset(torchdata.IterableDataset):
    """A dataset with indices, iterated in the order of a sampler.

    Every worker process runs the sampler (which is cheap) and keeps its own share of the indices.

    Args:
        dataset: has ``__getitem__``.
        sampler: gives indices into ``dataset``.
        shard_sampler: whether workers have to share the indices among them. False if the sampler
            already gives each worker its own.
        shard_chunk_size: how many consecutive indices one worker takes at a time; the batch size,
            for batches that consist of consecutive indices.
    """

    def __init__(
        self,
        dataset: torchdata.Dataset,
        sampler: torchdata.Sampler,
        shard_sampler: bool = True,
        shard_chunk_size: int = 1,
    ):
        assert not isinstance(dataset, torchdata.IterableDataset), (
            f"ToIterableDataset needs a dataset with indices, {dataset} is iterable already"
        )
        assert isinstance(sampler, torchdata.Sampler), f"Not a torch Sampler: {sampler}"
        self.dataset = dataset
        self.sampler = sampler
        self.shard_sampler = shard_sampler
        self.shard_chunk_size = shard_chunk_size

    def __iter__(self):
        worker = torchdata.get_worker_info() if self.shard_sampler else None
        for position, index in enumerate(self.sampler):
            chunk = position // self.shard_chunk_size
            if worker is None or chunk % worker.num_workers == worker.id:
                yield self.dataset[index]

    def __len__(self):
        return len(self.sampler)


class AspectRatioGroupedDataset(torchdata.IterableDataset):
    """Batches of images that are all wide, or all not wide: these need less padding.

    Args:
        dataset: an iterable of dicts with "width" and "height".
        batch_size: of each batch, which is a list of these dicts. Incomplete ones are kept for the
            next iteration.
    """

    def __init__(self, dataset, batch_size: int):
        self.dataset = dataset
        self.batch_size = batch_size
        self._waiting = {"wide": [], "not wide": []}

    def __iter__(self):
        for element in self.dataset:
            group = "wide" if element["width"] > element["height"] else "not wide"
            self._waiting[group].append(element)
            if len(self._waiting[group]) == self.batch_size:
                batch = self._waiting[group]
                # Before the yield: what follows one may never run.
                self._waiting[group] = []
                yield batch
