"""Names, colours and ground truth of the classes of an evaluated dataset."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..data import generate_palette, register_builtin_datasets
from ..data.descriptions import folder_datasets
from ..data.registration import register_dataset
from ..evaluation.evaluator import label_loader
from ..utils.errors import UserError
from .run import Run


@dataclass(frozen=True)
class DatasetClasses:
    """The classes of a dataset.

    Attributes:
        names: names of the K classes.
        colors: (r, g, b) of each, 0-255.
        load_ground_truth: reads a label file as class indices (H, W); None for an unknown dataset.
        note: why ``load_ground_truth`` is None.
        value_range: value range of images with more than 8 bits, if known.
    """

    names: Sequence[str]
    colors: Sequence[Sequence[int]]
    load_ground_truth: Callable[[str], np.ndarray] | None
    note: str | None = None
    value_range: tuple[float, float] | None = None


def register_datasets_of(runs: Iterable[Run]) -> list[str]:
    """Register the folder datasets that the runs' configs name; returns what went wrong."""
    notes = []
    for run in runs:
        datasets = run.config.get("DATASETS")
        datasets = datasets if isinstance(datasets, dict) else {}
        descriptions = _listed(datasets.get("DESCRIPTIONS"))
        for path in map(str, _listed(datasets.get("FOLDERS"))):
            try:
                own = [entry for entry in descriptions if _is_of(entry, path)]
                for dataset in folder_datasets([path], own):
                    register_dataset(dataset)
            except (OSError, UserError) as error:
                notes.append(f"{run.name}: the dataset of {path} is not available ({error}).")
    return notes


def classes_of(dataset: str, names: Sequence[str]) -> DatasetClasses:
    """The classes of a dataset that was evaluated with these class names.

    They are taken from Detectron2's catalog only if it has the same names under ``dataset``; else
    their colours are generated.
    """
    palette = generate_palette(len(names))
    register_builtin_datasets([dataset])
    if dataset not in DatasetCatalog:
        reason = (
            f"The dataset {dataset} is not registered, so there is no ground truth, and the "
            "colours are generated."
        )
        return DatasetClasses(names, palette, None, reason)
    metadata = MetadataCatalog.get(dataset)
    if list(metadata.get("stuff_classes") or []) != list(names):
        reason = (
            f"The dataset {dataset} has other classes than when it was evaluated, so there is no "
            "ground truth."
        )
        return DatasetClasses(names, palette, None, reason)
    colors = metadata.get("stuff_colors") or palette
    value_range = metadata.get("value_range")
    return DatasetClasses(names, colors, label_loader(dataset), value_range=value_range)


def _listed(value: object) -> list:
    return value if isinstance(value, list) else []


def _is_of(description: object, path: str) -> bool:
    """Whether an entry of DATASETS.DESCRIPTIONS came from the file at ``path``."""
    source = description.get("source") if isinstance(description, dict) else None
    return source in (path, os.path.realpath(path))
