"""The model card of a published model, in Markdown."""

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from string import Template

from tabulate import tabulate

from detectron2.config import CfgNode

from ..data import metadata_of
from .half_precision import TOLERANCE, Agreement
from .trained_models import TrainedModel

TEMPLATE = Path(__file__).resolve().parent / "model_card.md"


@dataclass(frozen=True)
class Recipe:
    """Facts about the training in the model card, besides the config.

    Attributes:
        changes: key -> value, where the training differed from the config.
        weights: name of the checkpoint.
        commit: commit of this project; "" if it was not recorded.
        data_terms: a sentence about the terms of use of the data; "": a general one.
    """

    changes: dict
    weights: str
    commit: str = ""
    data_terms: str = ""


def draw_model_card(
    model: TrainedModel, cfg: CfgNode, recipe: Recipe, results: dict, agreement: Agreement
) -> str:
    """The model card as Markdown.

    Args:
        model: the index entry.
        cfg: the config of the training.
        recipe: further facts about the training.
        results: {dataset: {task: {metric: per cent}}}, with "IoU-{class}" for each class.
        agreement: the agreement of the published model with the original.
    """
    classes = metadata_of(cfg, cfg.DATASETS.TEST[0]).stuff_classes
    fields = {
        "name": model.name,
        "num_classes": len(classes),
        "classes": ", ".join(classes),
        "architecture": cfg.MODEL.META_ARCHITECTURE,
        "encoder": cfg.MODEL.ENCODER.NAME,
        "encoder_weights": _encoder_weights(cfg.MODEL.ENCODER.WEIGHTS),
        "iterations": cfg.SOLVER.MAX_ITER,
        "batch": cfg.SOLVER.IMS_PER_BATCH,
        "optimizer": cfg.SOLVER.OPTIMIZER,
        "weights": recipe.weights,
        "commit": f"`{recipe.commit}`." if recipe.commit else "not recorded.",
        "command": _command(model.name, recipe.changes),
        "trained_on": "`, `".join(model.trained_on),
        "tested_on": ", ".join(f"`{dataset}`" for dataset in results),
        "data_terms": recipe.data_terms or "The terms of use of their publishers apply.",
        "means": table_of_means(model.scores),
        "ious": table_of_classes(classes, results),
        "file": model.file,
        "megabytes": f"{model.size / 1e6:.1f}",
        "sha256": model.sha256,
        "difference": f"{100 * agreement.difference:.2f}",
        "tolerance": f"{100 * TOLERANCE:g}",
        "equal_labels": f"{100 * agreement.equal_labels:.1f}",
    }
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(fields)


def _encoder_weights(weights: str) -> str:
    if not weights:
        return "with random initial weights."
    return f"with the initial weights `{_without_folders(weights)}`."


def _command(name: str, changes: dict) -> str:
    words = ["d2-ctxseg", "train", "--config-file", f"configs/{name}.yaml"]
    for key, value in changes.items():
        value = _without_folders(value)
        if key != "MODEL.ENCODER.WEIGHTS":  # the card names them elsewhere
            words += [key, str(value)]
    return "```bash\n" + " ".join(map(shlex.quote, words)) + "\n```"


def _without_folders(value):
    """Reduce absolute paths, which are specific to a machine, to file names."""
    if isinstance(value, list):
        return [_without_folders(item) for item in value]
    is_path = isinstance(value, str) and os.path.isabs(value)
    return Path(value).name if is_path else value


def table_of_means(scores: dict) -> str:
    """A Markdown table of scores {dataset: {task: {metric: per cent}}}."""
    rows = [
        {"dataset": dataset, "task": task, **metrics}
        for dataset, tasks in scores.items()
        for task, metrics in tasks.items()
    ]
    return tabulate(rows, headers="keys", tablefmt="pipe", floatfmt=".2f")


def table_of_classes(classes: list[str], results: dict) -> str:
    """A Markdown table of the IoU of each class.

    Args:
        classes: names of the classes.
        results: {dataset: {task: {"IoU-{class}": per cent}}}; None: the class does not occur.
    """
    columns = [(dataset, task) for dataset, tasks in results.items() for task in tasks]
    rows = []
    for name in classes:
        values = [results[dataset][task].get(f"IoU-{name}") for dataset, task in columns]
        # None: the class does not occur in the ground truth.
        rows.append([name, *("-" if value is None else f"{value:.2f}" for value in values)])
    headers = ["class", *(f"{dataset} {task}" for dataset, task in columns)]
    align = ("left", *("right" for _ in columns))
    return tabulate(rows, headers=headers, tablefmt="pipe", colalign=align, disable_numparse=True)
