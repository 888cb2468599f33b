"""Results of an evaluation as a table and as files."""

import contextlib
import csv
import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tabulate import tabulate

from ..utils.files import atomic_write, write_errors, write_json
from .calibration_file import FILE_NAME as CALIBRATION_FILE
from .calibration_file import Calibration
from .confusion import class_counts
from .examples import Example, write_examples
from .image_counts import FILE_NAME, ImageCounts

logger = logging.getLogger(__name__)
_MEANS = ("mIoU", "fwIoU", "mACC", "pACC", "ECE", "AURC")


def format_class_table(results: Mapping[str, float]) -> str:
    """IoU and accuracy per class, their means, and a line with all means, as a table.

    Args:
        results: in per cent, with the keys of Detectron2's SemSegEvaluator: ``mIoU``, ``mACC``,
            ``IoU-{class}`` and ``ACC-{class}``. NaN marks a class absent from the ground truth.
    """
    names = _class_names(results)
    rows = [(name, results[f"IoU-{name}"], results[f"ACC-{name}"]) for name in names]
    rows.append(("mean", results["mIoU"], results["mACC"]))
    # NaN is the only value that differs from itself.
    shown = [[value if value == value else "-" for value in row] for row in rows]
    table = tabulate(
        shown, headers=["class", "IoU", "ACC"], tablefmt="pipe", floatfmt=".2f", numalign="right"
    )
    means = ", ".join(f"{key} {results[key]:.2f}" for key in _MEANS if key in results)
    return f"{table}\n{means}"


def _class_names(results: Mapping[str, float]) -> list[str]:
    return [key.removeprefix("IoU-") for key in results if key.startswith("IoU-")]


@dataclass(frozen=True)
class EvaluationFiles:
    """The files of an evaluation, for the report and for other programs.

    Attributes:
        dataset: name of the dataset.
        task: name of the task.
        weights: path of the checkpoint, MODEL.WEIGHTS.
        class_names: K names.
        metrics: the metrics of ``segmentation_metrics``.
        confusion: (K + 1, K + 1) int64, rows predicted, columns true, the last is "ignored".
        images: one dict per image: "file_name", "sem_seg_file_name" and, for labelled images,
            "mIoU" and "pACC".
        counts: the counts of the labelled images.
        confidences: counts of ``calibration.confidence_counts``, or None.
        worst: examples with the lowest mIoU.
        best: examples with the highest mIoU.
    """

    dataset: str
    task: str
    weights: str
    class_names: Sequence[str]
    metrics: Mapping[str, float]
    confusion: np.ndarray
    images: Sequence[Mapping]
    counts: ImageCounts
    confidences: np.ndarray | None = None
    worst: Sequence[Example] = ()
    best: Sequence[Example] = ()

    def write(self, folder: str | os.PathLike) -> None:
        """Write the results to ``folder``.

        ``results.json``, ``classes.csv``, ``confusion_matrix.npy``, ``images.csv``,
        ``image_counts.npz``, the examples and, where there are confidences, ``calibration.json``.
        """
        folder = Path(folder)
        results = {
            "dataset": self.dataset,
            "task": self.task,
            "weights": self.weights,
            "num_images": len(self.images),
            "metrics": dict(self.metrics),
        }
        write_json(folder / "results.json", results)
        with atomic_write(folder / "confusion_matrix.npy", "wb") as file:
            np.save(file, self.confusion, allow_pickle=False)
        _write_csv(folder / "classes.csv", self._classes())
        _write_csv(folder / "images.csv", self.images)
        self.counts.write(folder / FILE_NAME)
        write_examples(folder, self.worst, self.best)
        if self.confidences is None:  # of an earlier evaluation
            (folder / CALIBRATION_FILE).unlink(missing_ok=True)
        else:
            Calibration.of_counts(self.confidences).write(folder)

    def _classes(self) -> list[dict]:
        _, true, predicted = class_counts(self.confusion[:-1, :-1])
        rows = []
        for index, name in enumerate(self.class_names):
            row: dict[str, str | float] = {"class": name}
            for metric in ("IoU", "ACC", "BoundaryIoU"):
                if f"{metric}-{name}" in self.metrics:
                    row[metric] = self.metrics[f"{metric}-{name}"]
            row["truth_pixels"], row["predicted_pixels"] = int(true[index]), int(predicted[index])
            rows.append(row)
        return rows


def _write_csv(path: Path, rows: Sequence[Mapping]) -> None:
    """Write rows, with the keys of all rows as columns; NaN becomes an empty cell."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with atomic_write(path) as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            empty = [key for key, value in row.items() if isinstance(value, float)]
            empty = [key for key in empty if math.isnan(row[key])]
            writer.writerow({**row, **dict.fromkeys(empty, "")})


def by_dataset(results: Mapping, dataset_names: tuple[str, ...]) -> dict[str, dict]:
    """``{dataset: {task: {metric: value}}}`` from the results of DefaultTrainer.test.

    DefaultTrainer.test leaves out the outer level where there is one dataset.
    """
    return {dataset_names[0]: dict(results)} if len(dataset_names) == 1 else dict(results)


def add_to_results_file(path: str | os.PathLike, weights: str, datasets: Mapping) -> None:
    """Add the results of ``weights`` to a JSON file that may have results of other weights.

    A damaged file is renamed and replaced by a new one.

    Args:
        path: path of the file, which is created if needed.
        weights: the checkpoint that was evaluated; its earlier entry is replaced.
        datasets: ``{dataset: {task: {metric: value}}}``; NaN becomes null.
    """
    path = Path(path)
    content = _read_results(path)
    content[weights] = datasets
    write_json(path, content)


def _read_results(path: Path) -> dict:
    if not path.exists():
        return {}
    with contextlib.suppress(ValueError):
        content = json.loads(path.read_bytes())
        if isinstance(content, dict):
            return content
    damaged = path.with_name(f"{path.name}.damaged")
    with write_errors(damaged):
        os.replace(path, damaged)
    logger.warning("%s is damaged and was renamed to %s", path, damaged.name)
    return {}


def merge_tasks(*results: Mapping[str, Mapping]) -> dict[str, dict]:
    """Merge ``{dataset: {task: ...}}`` of several tests of the same datasets."""
    merged: dict[str, dict] = {}
    for result in results:
        for dataset, tasks in result.items():
            merged.setdefault(dataset, {}).update(tasks)
    return merged
