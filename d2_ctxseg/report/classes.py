"""Names, colours and true labels of the classes of an evaluated dataset."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..data import generate_palette, register_builtin_datasets, register_folder_datasets
from ..evaluation.evaluator import label_loader
from ..utils.errors import UserError
from .run import Run


@dataclass(frozen=True)
class DatasetClasses:
    """The classes of a dataset.

    Attributes:
        names: of the K classes.
        colors: (r, g, b) of each, 0-255.
        load_truth: from a label file to class indices (H, W); None where the dataset is unknown.
        note: why ``load_truth`` is None.
        value_range: of images with more than 8 bits, if it is known.
    """

    names: Sequence[str]
    colors: Sequence[Sequence[int]]
    load_truth: Callable[[str], np.ndarray] | None
    note: str | None = None
    value_range: tuple[float, float] | None = None


def register_datasets_of(runs: Iterable[Run]) -> list[str]:
    """Register the folder datasets that the runs' configs name; returns what went wrong."""
    notes = []
    for run in runs:
        datasets = run.config.get("DATASETS")
        folders = datasets.get("FOLDERS") if isinstance(datasets, dict) else None
        for path in folders if isinstance(folders, list) else []:
            try:
                register_folder_datasets([str(path)])
            except (OSError, UserError) as error:
                notes.append(f"{run.name}: the dataset of {path} is not available ({error}).")
    return notes


def classes_of(dataset: str, names: Sequence[str]) -> DatasetClasses:
    """The classes of a dataset that was evaluated with these class names.

    They are taken from Detectron2's catalog only if it has the same names under ``dataset``; else
    their colours are made up.
    """
    palette = generate_palette(len(names))
    register_builtin_datasets([dataset])
    if dataset not in DatasetCatalog:
        reason = f"The dataset {dataset} is not registered: no truth, and colours of its own."
        return DatasetClasses(names, palette, None, reason)
    metadata = MetadataCatalog.get(dataset)
    if list(metadata.get("stuff_classes") or []) != list(names):
        reason = f"The dataset {dataset} has other classes than when it was evaluated: no truth."
        return DatasetClasses(names, palette, None, reason)
    colors = metadata.get("stuff_colors") or palette
    value_range = metadata.get("value_range")
    return DatasetClasses(names, colors, label_loader(dataset), value_range=value_range)
