"""Wrappers around datasets: from a list, mapped, sampled, and grouped into batches."""

import logging
import pickle
import random
from collections.abc import Callable

import numpy as np
import torch
from torch.utils import data as torchdata

from detectron2.utils.serialize import PicklableWrapper

__all__ = ["AspectRatioGroupedDataset", "DatasetFromList", "MapDataset", "ToIterableDataset"]

logger = logging.getLogger(__name__)


class MapDataset(torchdata.Dataset):
    """Applies a function to every element of a dataset.

    Args:
        dataset: with indices.
        map_func: takes an element, returns what takes its place, or None if it is unusable: then
            random others are tried. Lambdas and closures work with worker processes too.
    """

    def __init__(self, dataset, map_func):
        self._dataset = dataset
        self._map_func = PicklableWrapper(map_func)
        self._rng = random.Random(42)
        self._usable = set(range(len(dataset)))

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


class DatasetFromList(torchdata.Dataset):
    """A list as a dataset whose elements are copies: changing one does not change the list.

    The pickled elements lie in one tensor, whose memory worker processes share. With a list of
    Python objects every worker would end up with a copy of its own, because reading an object
    writes its reference count.

    Args:
        lst: its elements, picklable.
    """

    def __init__(self, lst: list):
        logger.info(f"Serializing {len(lst)} elements to byte tensors and concatenating them")
        chunks = [np.frombuffer(pickle.dumps(element, protocol=-1), np.uint8) for element in lst]
        self._ends = torch.from_numpy(np.cumsum([len(chunk) for chunk in chunks], dtype=np.int64))
        self._bytes = torch.from_numpy(np.concatenate(chunks))
        logger.info(f"Serialized dataset takes {len(self._bytes) / 1024**2:.2f} MiB")

    def __len__(self):
        return len(self._ends)

    def __getitem__(self, idx):
        start = 0 if idx == 0 else self._ends[idx - 1].item()
        end = self._ends[idx].item()
        return pickle.loads(memoryview(self._bytes[start:end].numpy()))


class ToIterableDataset(torchdata.IterableDataset):
    """A dataset with indices, iterated in the order of a sampler.

    Every worker process runs the sampler (which is cheap) and keeps its own share of the indices.

    Args:
        dataset: has ``__getitem__``.
        sampler: gives indices into ``dataset``.
        shard_chunk_size: how many consecutive indices one worker takes at a time; the batch size,
            for batches that consist of consecutive indices.
    """

    def __init__(
        self,
        dataset: torchdata.Dataset,
        sampler: torchdata.Sampler,
        *,
        shard_chunk_size: int = 1,
    ):
        self.dataset = dataset
        self.sampler = sampler
        self.shard_chunk_size = shard_chunk_size

    def __iter__(self):
        worker = torchdata.get_worker_info()
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
        batch_size: of each batch. Incomplete ones are kept for the next iteration.
        collate_fn: makes a batch of the list of its dicts; by default that list.
    """

    def __init__(self, dataset, batch_size: int, collate_fn: Callable = list):
        self.dataset = dataset
        self.batch_size = batch_size
        self.collate_fn = collate_fn
        self._waiting = {"wide": [], "not wide": []}

    def __iter__(self):
        for element in self.dataset:
            group = "wide" if element["width"] > element["height"] else "not wide"
            self._waiting[group].append(element)
            if len(self._waiting[group]) == self.batch_size:
                batch = self._waiting[group]
                # Before the yield: what follows one may never run.
                self._waiting[group] = []
                yield self.collate_fn(batch)
