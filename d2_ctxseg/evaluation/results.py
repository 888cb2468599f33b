"""Results of an evaluation: as a table for people, and joined for files."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from tabulate import tabulate

from ..files import write_json


def format_class_table(results: Mapping[str, float]) -> str:
    """IoU and accuracy per class, then their means, as a table.

    Args:
        results: in per cent, with the keys of Detectron2's SemSegEvaluator: ``mIoU``, ``mACC``,
            ``IoU-{class}`` and ``ACC-{class}``. NaN marks a class absent from the ground truth.
    """
    names = [key.removeprefix("IoU-") for key in results if key.startswith("IoU-")]
    rows = [(name, results[f"IoU-{name}"], results[f"ACC-{name}"]) for name in names]
    rows.append(("mean", results["mIoU"], results["mACC"]))
    # NaN is the only value that differs from itself.
    rows = [[value if value == value else "-" for value in row] for row in rows]
    return tabulate(
        rows, headers=["class", "IoU", "ACC"], tablefmt="pipe", floatfmt=".2f", numalign="right"
    )


def by_dataset(results: Mapping, dataset_names: tuple[str, ...]) -> dict[str, dict]:
    """``{dataset: {task: {metric: value}}}``; DefaultTrainer.test shortens it for one data set."""
    return {dataset_names[0]: dict(results)} if len(dataset_names) == 1 else dict(results)


def add_to_results_file(path: str | os.PathLike, weights: str, datasets: Mapping) -> None:
    """Enter the results of ``weights`` into a JSON file, beside those of other weights.

    Args:
        path: made if needed.
        weights: the checkpoint that was evaluated; its earlier entry is replaced.
        datasets: ``{dataset: {task: {metric: value}}}``; NaN becomes null.
    """
    path = Path(path)
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    content[weights] = datasets
    write_json(path, content)


def merge_tasks(*results: Mapping[str, Mapping]) -> dict[str, dict]:
    """Join ``{dataset: {task: ...}}`` of several tests of the same data sets."""
    merged: dict[str, dict] = {}
    for result in results:
        for dataset, tasks in result.items():
            merged.setdefault(dataset, {}).update(tasks)
    return merged
