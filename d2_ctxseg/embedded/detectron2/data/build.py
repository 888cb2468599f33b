"""From the names of datasets to data loaders."""

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
from .samplers import InferenceSampler, TrainingSampler

__all__ = [
    "build_detection_test_loader",
    "build_detection_train_loader",
    "get_detection_dataset_dicts",
]

logger = logging.getLogger(__name__)


def get_detection_dataset_dicts(names: str | list[str], filter_empty: bool = True) -> list[dict]:
    """Load datasets by their names in the DatasetCatalog and join them.

    Args:
        names: one or several.
        filter_empty: is about instances: images without any are what semantic segmentation
            consists of, and stay.

    Returns:
        The records of all datasets, in order.

    Raises:
        KeyError: a name is not registered.
        AssertionError: no name, or a dataset without records.
        NotImplementedError: a dataset is not a list of records, or its records have instances and
            ``filter_empty`` is true.
    """
    names = [names] if isinstance(names, str) else names
    assert len(names), "No dataset names given: is cfg.DATASETS.TRAIN or cfg.DATASETS.TEST empty?"
    records = []
    for name in names:
        dataset = DatasetCatalog.get(name)
        if not isinstance(dataset, list):
            raise NotImplementedError(not_covered(f"dataset {name}: {type(dataset).__name__}"))
        assert dataset, f"Dataset '{name}' is empty!"
        records += dataset
    if filter_empty and "annotations" in records[0]:
        raise NotImplementedError(not_covered("filter_empty=True for images with instances"))
    return records


def _train_loader_from_config(cfg, mapper=None, *, dataset=None, sampler=None) -> dict:
    if dataset is None:
        dataset = get_detection_dataset_dicts(
            cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
        )
    name = cfg.DATALOADER.SAMPLER_TRAIN
    if name != "TrainingSampler":
        raise NotImplementedError(not_covered(f"cfg.DATALOADER.SAMPLER_TRAIN = {name}"))
    logger.info(f"Using training sampler {name}")
    return {
        "dataset": dataset,
        "sampler": TrainingSampler(len(dataset), seed=cfg.SEED) if sampler is None else sampler,
        "mapper": _required(mapper),
        "total_batch_size": cfg.SOLVER.IMS_PER_BATCH,
        "aspect_ratio_grouping": cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
    }


def _required(mapper: Callable | None) -> Callable:
    if mapper is None:
        name = "detectron2.data.DatasetMapper"
        raise NotImplementedError(f"The loader needs mapper=: {not_covered(name)}")
    return mapper


@configurable(from_config=_train_loader_from_config)
def build_detection_train_loader(
    dataset: list,
    *,
    mapper: Callable,
    sampler: torchdata.Sampler | None = None,
    total_batch_size: int,
    aspect_ratio_grouping: bool = False,
    num_workers: int = 0,
    collate_fn: Callable | None = None,
    **kwargs,
):
    """An endless data loader for training; ``build_detection_train_loader(cfg)`` works too.

    Args:
        dataset: records.
        mapper: applied to each record.
        sampler: the order of records, a :class:`TrainingSampler` by default.
        total_batch_size: of all processes together, divisible by their number.
        aspect_ratio_grouping: see :class:`AspectRatioGroupedDataset`.
        num_workers: worker processes that load data; 0 loads in this one.
        collate_fn: makes something else of the list that a batch is.
        kwargs: of torch's DataLoader.

    Returns:
        An iterable of lists of mapped records.
    """
    sampler = TrainingSampler(len(dataset)) if sampler is None else sampler
    world_size = get_world_size()
    assert total_batch_size > 0 and total_batch_size % world_size == 0, (
        f"Total batch size ({total_batch_size}) must be divisible by the number of gpus "
        f"({world_size})."
    )
    batch_size = total_batch_size // world_size
    logger.info("Making batched data loader with batch_size=%d", batch_size)
    mapped = ToIterableDataset(_mapped(dataset, mapper), sampler, shard_chunk_size=batch_size)
    options = {"num_workers": num_workers, "worker_init_fn": worker_init_reset_seed, **kwargs}
    if not aspect_ratio_grouping:
        collate_fn = collate_fn or trivial_batch_collator
        return torchdata.DataLoader(
            mapped, batch_size=batch_size, drop_last=True, collate_fn=collate_fn, **options
        )
    # The loader gives single elements; which ones make a batch is known only after their loading.
    loader = torchdata.DataLoader(mapped, collate_fn=operator.itemgetter(0), **options)
    return AspectRatioGroupedDataset(loader, batch_size, collate_fn or trivial_batch_collator)


def _test_loader_from_config(cfg, dataset_name, mapper=None) -> dict:
    return {
        "dataset": get_detection_dataset_dicts(dataset_name, filter_empty=False),
        "mapper": _required(mapper),
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
    }


@configurable(from_config=_test_loader_from_config)
def build_detection_test_loader(
    dataset: list,
    *,
    mapper: Callable,
    sampler: torchdata.Sampler | None = None,
    batch_size: int = 1,
    num_workers: int = 0,
    collate_fn: Callable | None = None,
) -> torchdata.DataLoader:
    """A data loader that gives every record once, in order.

    ``build_detection_test_loader(cfg, dataset_name)`` works too: each dataset is tested by itself,
    so that the name is an argument.

    Args:
        dataset: records.
        mapper: applied to each record.
        sampler: an :class:`InferenceSampler` by default.
        batch_size: of this process.
        num_workers, collate_fn: see :func:`build_detection_train_loader`.

    Returns:
        A DataLoader whose batches are lists of mapped records.
    """
    return torchdata.DataLoader(
        _mapped(dataset, mapper),
        batch_size=batch_size,
        sampler=InferenceSampler(len(dataset)) if sampler is None else sampler,
        drop_last=False,
        num_workers=num_workers,
        collate_fn=collate_fn or trivial_batch_collator,
    )


def _mapped(records: list, mapper: Callable) -> MapDataset:
    return MapDataset(DatasetFromList(records), mapper)


def trivial_batch_collator(batch: list) -> list:
    """A batch as the list that it is."""
    return batch


def worker_init_reset_seed(worker_id: int) -> None:
    """Seed all generators of a data loader's worker, each worker differently."""
    initial_seed = torch.initial_seed() % 2**31
    seed_all_rng(initial_seed + worker_id)
