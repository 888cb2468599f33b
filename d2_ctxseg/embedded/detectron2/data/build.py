"""From the names of datasets to data loaders."""

import itertools
import logging
import operator
from collections.abc import Callable

import torch
from torch.utils import data as torchdata

from detectron2.config import configurable
from detectron2.utils.comm import get_world_size
from detectron2.utils.env import seed_all_rng

from .._coverage import not_covered
from .catalog import DatasetCatalog
from .common import AspectRatioGroupedDataset, DatasetFromList, MapDataset, ToIterableDataset
from .dataset_mapper import DatasetMapper
from .samplers import InferenceSampler, RandomSubsetTrainingSampler, TrainingSampler

__all__ = [
    "build_batch_data_loader",
    "build_detection_test_loader",
    "build_detection_train_loader",
    "get_detection_dataset_dicts",
    "trivial_batch_collator",
    "worker_init_reset_seed",
]

logger = logging.getLogger(__name__)

_INSTANCE_SAMPLERS = (
    "RepeatFactorTrainingSampler",
    "WeightedTrainingSampler",
    "WeightedCategoryTrainingSampler",
)


def get_detection_dataset_dicts(
    names: str | list[str],
    filter_empty: bool = True,
    min_keypoints: int = 0,
    proposal_files: list[str] | None = None,
    check_consistency: bool = True,
) -> list[dict] | torchdata.Dataset:
    """Load datasets by their names in the DatasetCatalog and join them.

    Args:
        names: one or several.
        filter_empty, check_consistency: about instances, so that they change nothing here:
            images without instances are what semantic segmentation consists of.
        min_keypoints, proposal_files: not covered.

    Returns:
        The records of all datasets, in order. A dataset registered as a
        ``torch.utils.data.Dataset`` stays one.

    Raises:
        KeyError: a name is not registered.
        AssertionError: no name, or a dataset without records.
        NotImplementedError: the records have instances and ``filter_empty`` is true, or
            ``min_keypoints`` or ``proposal_files`` is given.
    """
    names = [names] if isinstance(names, str) else names
    assert len(names), "No dataset names given: is cfg.DATASETS.TRAIN or cfg.DATASETS.TEST empty?"
    if min_keypoints > 0 or proposal_files is not None:
        raise NotImplementedError(not_covered("min_keypoints, proposal_files"))

    datasets = [DatasetCatalog.get(name) for name in names]
    if isinstance(datasets[0], torchdata.Dataset):
        return torchdata.ConcatDataset(datasets) if len(datasets) > 1 else datasets[0]
    for name, records in zip(names, datasets):
        assert len(records), f"Dataset '{name}' is empty!"
    records = list(itertools.chain.from_iterable(datasets))
    if filter_empty and "annotations" in records[0]:
        raise NotImplementedError(not_covered("filter_empty=True for images with instances"))
    return records


def build_batch_data_loader(
    dataset: torchdata.Dataset,
    sampler: torchdata.Sampler | None,
    total_batch_size: int,
    *,
    aspect_ratio_grouping: bool = False,
    num_workers: int = 0,
    collate_fn: Callable | None = None,
    drop_last: bool = True,
    single_gpu_batch_size: int | None = None,
    prefetch_factor: int = 2,
    persistent_workers: bool = False,
    pin_memory: bool = False,
    seed: int | None = None,
    **kwargs,
):
    """A data loader whose batches are lists of elements.

    Args:
        dataset: with indices, or iterable.
        sampler: for a dataset with indices; None for an iterable one.
        total_batch_size: of all processes together, divisible by their number.
        aspect_ratio_grouping: see :class:`AspectRatioGroupedDataset`; drops incomplete batches.
        num_workers: worker processes that load data; 0 loads in this one.
        collate_fn: makes something else of the list that a batch is.
        drop_last: leave out an incomplete last batch.
        single_gpu_batch_size: of this process, in place of ``total_batch_size``, which must be 0 or
            None then (ValueError otherwise).
        seed: for the seeds of the workers; from torch's global generator if None.
        prefetch_factor, persistent_workers, pin_memory, kwargs: see torch's DataLoader.

    Returns:
        An iterable of batches.
    """
    batch_size = _batch_size_of_process(total_batch_size, single_gpu_batch_size)
    logger.info("Making batched data loader with batch_size=%d", batch_size)
    if isinstance(dataset, torchdata.IterableDataset):
        assert sampler is None, "sampler must be None if dataset is IterableDataset"
    else:
        dataset = ToIterableDataset(dataset, sampler, shard_chunk_size=batch_size)

    options = {
        "num_workers": num_workers,
        "worker_init_fn": worker_init_reset_seed,
        "prefetch_factor": prefetch_factor if num_workers > 0 else None,
        "persistent_workers": persistent_workers,
        "pin_memory": pin_memory,
        "generator": None if seed is None else torch.Generator().manual_seed(seed),
        **kwargs,
    }
    if not aspect_ratio_grouping:
        return torchdata.DataLoader(
            dataset,
            batch_size=batch_size,
            drop_last=drop_last,
            collate_fn=collate_fn or trivial_batch_collator,
            **options,
        )
    assert drop_last, "Aspect ratio grouping will drop incomplete batches."
    # The loader gives single elements; which ones make a batch is known only after their loading.
    loader = torchdata.DataLoader(dataset, collate_fn=operator.itemgetter(0), **options)
    grouped = AspectRatioGroupedDataset(loader, batch_size)
    return grouped if collate_fn is None else MapDataset(grouped, collate_fn)


def _batch_size_of_process(total_batch_size, single_gpu_batch_size) -> int:
    if single_gpu_batch_size:
        if total_batch_size:
            raise ValueError(
                "total_batch_size and single_gpu_batch_size are mutually incompatible. "
                "Please specify only one."
            )
        return single_gpu_batch_size
    world_size = get_world_size()
    assert total_batch_size > 0 and total_batch_size % world_size == 0, (
        f"Total batch size ({total_batch_size}) must be divisible by the number of gpus "
        f"({world_size})."
    )
    return total_batch_size // world_size


def _train_loader_from_config(cfg, mapper=None, *, dataset=None, sampler=None) -> dict:
    if dataset is None:
        dataset = get_detection_dataset_dicts(
            cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
        )
    mapper = DatasetMapper(cfg, True) if mapper is None else mapper
    if sampler is None and not isinstance(dataset, torchdata.IterableDataset):
        sampler = _build_training_sampler(cfg, len(dataset))
    return {
        "dataset": dataset,
        "sampler": sampler,
        "mapper": mapper,
        "total_batch_size": cfg.SOLVER.IMS_PER_BATCH,
        "aspect_ratio_grouping": cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
    }


def _build_training_sampler(cfg, size: int) -> torchdata.Sampler:
    name = cfg.DATALOADER.SAMPLER_TRAIN
    logger.info(f"Using training sampler {name}")
    if name == "TrainingSampler":
        return TrainingSampler(size, seed=cfg.SEED)
    if name == "RandomSubsetTrainingSampler":
        return RandomSubsetTrainingSampler(size, cfg.DATALOADER.RANDOM_SUBSET_RATIO)
    if name in _INSTANCE_SAMPLERS:
        raise NotImplementedError(not_covered(f"cfg.DATALOADER.SAMPLER_TRAIN = {name}"))
    raise ValueError(f"Unknown training sampler: {name}")


@configurable(from_config=_train_loader_from_config)
def build_detection_train_loader(
    dataset: list | torchdata.Dataset,
    *,
    mapper: Callable | None,
    sampler: torchdata.Sampler | None = None,
    total_batch_size: int,
    aspect_ratio_grouping: bool = True,
    num_workers: int = 0,
    collate_fn: Callable | None = None,
    **kwargs,
):
    """An endless data loader for training; ``build_detection_train_loader(cfg)`` works too.

    Args:
        dataset: a list of records, or a dataset with indices or an iterable one.
        mapper: applied to each record, a ``DatasetMapper(cfg, True)`` with a config. None: no
            mapping.
        sampler: the order of records, a shuffling :class:`TrainingSampler` by default. None for an
            iterable dataset.
        total_batch_size, aspect_ratio_grouping, num_workers, collate_fn, kwargs: see
            :func:`build_batch_data_loader`.

    Returns:
        An iterable of lists of mapped records.
    """
    dataset = _as_mapped_dataset(dataset, mapper)
    if isinstance(dataset, torchdata.IterableDataset):
        assert sampler is None, "sampler must be None if dataset is IterableDataset"
    else:
        sampler = TrainingSampler(len(dataset)) if sampler is None else sampler
        assert isinstance(sampler, torchdata.Sampler), f"Expect a Sampler but got {type(sampler)}"
    return build_batch_data_loader(
        dataset,
        sampler,
        total_batch_size,
        aspect_ratio_grouping=aspect_ratio_grouping,
        num_workers=num_workers,
        collate_fn=collate_fn,
        **kwargs,
    )


def _test_loader_from_config(cfg, dataset_name, mapper=None) -> dict:
    dataset = get_detection_dataset_dicts(dataset_name, filter_empty=False)
    is_iterable = isinstance(dataset, torchdata.IterableDataset)
    return {
        "dataset": dataset,
        "mapper": DatasetMapper(cfg, False) if mapper is None else mapper,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
        "sampler": None if is_iterable else InferenceSampler(len(dataset)),
    }


@configurable(from_config=_test_loader_from_config)
def build_detection_test_loader(
    dataset: list | torchdata.Dataset,
    *,
    mapper: Callable | None,
    sampler: torchdata.Sampler | None = None,
    batch_size: int = 1,
    num_workers: int = 0,
    collate_fn: Callable | None = None,
) -> torchdata.DataLoader:
    """A data loader that gives every record once, in order.

    ``build_detection_test_loader(cfg, dataset_name)`` works too: each dataset is tested by itself,
    so that the name is an argument.

    Args:
        dataset: a list of records, or a dataset with indices or an iterable one.
        mapper: applied to each record, a ``DatasetMapper(cfg, False)`` with a config. None: no
            mapping.
        sampler: an :class:`InferenceSampler` by default. None for an iterable dataset.
        batch_size: of this process.
        num_workers, collate_fn: see :func:`build_batch_data_loader`.

    Returns:
        A DataLoader whose batches are lists of mapped records.
    """
    dataset = _as_mapped_dataset(dataset, mapper)
    if isinstance(dataset, torchdata.IterableDataset):
        assert sampler is None, "sampler must be None if dataset is IterableDataset"
    elif sampler is None:
        sampler = InferenceSampler(len(dataset))
    return torchdata.DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        drop_last=False,
        num_workers=num_workers,
        collate_fn=collate_fn or trivial_batch_collator,
    )


def _as_mapped_dataset(dataset, mapper) -> torchdata.Dataset:
    if isinstance(dataset, list):
        dataset = DatasetFromList(dataset, copy=False)
    return dataset if mapper is None else MapDataset(dataset, mapper)


def trivial_batch_collator(batch: list) -> list:
    """A batch as the list that it is."""
    return batch


def worker_init_reset_seed(worker_id: int) -> None:
    """Seed all generators of a data loader's worker, each worker differently."""
    initial_seed = torch.initial_seed() % 2**31
    seed_all_rng(initial_seed + worker_id)
