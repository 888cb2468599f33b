"""The section about one dataset: classes, comparison, confusions, images."""

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .charts import heat_map, histogram
from .classes import DatasetClasses, classes_of
from .confidence import confidence_section
from .confusion import counted, most_confused, shares_of_ground_truth, top_confusions
from .example_images import draw_example
from .html import format_number
from .run import ClassScore, Evaluation, Example, Run
from .sections import task_title

_CONFUSED_CLASSES = 30
_CONFUSIONS = 12


def dataset_section(dataset: str, runs: Sequence[Run], image_bytes: int, max_examples: int) -> dict:
    """All about one dataset.

    Args:
        dataset: its name.
        runs: all runs; those that were not evaluated on it are passed over.
        image_bytes: approximate size limit for the images of an example.
        max_examples: at most, of each kind (worst, best) and each run.
    """
    evaluated = [run for run in runs if dataset in run.evaluations]
    return {
        "name": dataset,
        "confidence": confidence_section(dataset, evaluated),
        "comparison": _comparison(dataset, evaluated) if len(evaluated) > 1 else None,
        "runs": [
            {"run": run.name, **_run_part(run.evaluations[dataset], image_bytes, max_examples)}
            for run in evaluated
        ],
    }


def main_evaluation(evaluations: dict[str, Evaluation]) -> Evaluation:
    """The evaluation whose confusions and images are shown: single-scale if there is one."""
    return next(iter(evaluations.values()))


def _run_part(evaluations: dict[str, Evaluation], image_bytes: int, max_examples: int) -> dict:
    main = main_evaluation(evaluations)
    classes = classes_of(main.dataset, [item.name for item in main.classes])
    return {
        "classes": _class_table(evaluations, classes) if main.classes else None,
        "confusions": None if main.confusion is None else _confusions(main.confusion, classes),
        "scores": _image_scores(main.image_scores) if main.image_scores else None,
        "examples": _examples(main, classes, image_bytes, max_examples),
        "notes": list(dict.fromkeys(main.notes)),
    }


def _class_table(evaluations: dict[str, Evaluation], classes: DatasetClasses) -> dict:
    """A row a class, the best one first; further tasks beside the main one."""
    main = main_evaluation(evaluations)
    others = [item for item in evaluations.values() if item is not main]
    scores = [_by_key(item.classes) for item in others]
    total = sum(c.truth_pixels for c in main.classes if math.isfinite(c.truth_pixels))
    has_boundary = any(math.isfinite(c.boundary_iou) for c in main.classes)

    names = ["IoU", *(name for other in others for name in (task_title(other.task), "Δ"))]
    names += ["accuracy", *(["boundary IoU"] if has_boundary else [])]
    names += ["% of pixels", "% predicted"] if total else []
    rows = []
    for key, item in sorted(_by_key(main.classes).items(), key=lambda pair: _falling(pair[1].iou)):
        ious = [_iou(score, key) for score in scores]
        changes = [value for iou in ious for value in ((iou, False), (iou - item.iou, True))]
        numbers = [item.accuracy, *([item.boundary_iou] if has_boundary else [])]
        if total:
            numbers += [100 * n / total for n in (item.truth_pixels, item.predicted_pixels)]
        rows.append(
            {
                "item": class_item(classes, main.classes.index(item)),
                "bar": item.iou if math.isfinite(item.iou) else None,
                "marks": [iou for iou in ious if math.isfinite(iou)],
                "numbers": [(item.iou, False), *changes, *((n, False) for n in numbers)],
            }
        )
    caption = f"{task_title(main.task)}, in per cent"
    if others:
        caption += f"; the marks on the bars: {', '.join(task_title(o.task) for o in others)}"
    return {"headers": ["class", "", *([n] for n in names)], "rows": rows, "caption": caption}


def _comparison(dataset: str, runs: Sequence[Run]) -> dict:
    """IoU of each class in each run, and the change against the first one."""
    reference = main_evaluation(runs[0].evaluations[dataset])
    task, first = reference.task, _by_key(reference.classes)
    others = [run for run in runs[1:] if task in run.evaluations[dataset]]
    scores = [_by_key(run.evaluations[dataset][task].classes) for run in others]
    changes = [{key: _iou(score, key) - first[key].iou for key in first} for score in scores]
    finite = [abs(v) for change in changes for v in change.values() if math.isfinite(v)]
    largest = max(finite, default=0) or 1

    classes = classes_of(dataset, [item.name for item in reference.classes])
    rows = [
        {
            "item": class_item(classes, reference.classes.index(first[key])),
            "iou": first[key].iou,
            "others": [
                (_iou(score, key), change[key], np.nan_to_num(change[key] / largest))
                for score, change in zip(scores, changes)
            ],
        }
        for key in sorted(first, key=lambda key: _falling(changes[0][key]) if changes else ())
    ]
    return {
        "task": task_title(task),
        "first": runs[0].name,
        "headers": ["class", [runs[0].name], *([n] for run in others for n in (run.name, "Δ"))],
        "rows": rows,
        "skipped": [run.name for run in runs[1:] if run not in others],
        "runs": [
            {
                "name": run.name,
                "better": sum(value > 0.005 for value in change.values()),
                "worse": sum(value < -0.005 for value in change.values()),
            }
            for run, change in zip(others, changes)
        ],
    }


def _confusions(matrix: np.ndarray, classes: DatasetClasses) -> dict:
    counts = counted(matrix)
    errors = int(counts.sum() - counts.trace())
    if not errors:
        return {"tables": {}}
    kinds = {"The most pixels": "pixels", "The largest part of a class": "share"}
    tables = {
        title: [
            {
                "true": class_item(classes, item.ground_truth),
                "predicted": class_item(classes, item.predicted),
                "pixels": item.pixels,
                "share": 100 * item.share,
                "of_errors": 100 * item.pixels / errors,
            }
            for item in top_confusions(counts, _CONFUSIONS, by=kind)
        ]
        for title, kind in kinds.items()
    }
    chosen = most_confused(counts, _CONFUSED_CLASSES)
    shares = shares_of_ground_truth(counts)

    def describe(row: int, column: int) -> str:
        true, predicted = chosen[row], chosen[column]
        share = format_number(100 * shares[true, predicted])
        pixels = format_number(counts[true, predicted], 0)
        names = f"{classes.names[true]} predicted as {classes.names[predicted]}"
        return f"{names}: {share} % of its pixels ({pixels})"

    text = "Rows: true classes, columns: predicted ones; per cent of the true class's pixels."
    if left_out := len(counts) - len(chosen):
        text += (
            f" Shown are the {len(chosen)} classes with the most wrong pixels; {left_out} are not."
        )
    names = [classes.names[i] for i in chosen]
    matrix = heat_map(shares[chosen[:, None], chosen], names, describe)
    return {"tables": tables, "text": text, "matrix": matrix}


def _image_scores(scores: Sequence[float]) -> dict:
    text = (
        f"How many of {len(scores)} images have which mIoU (over the classes in the image's "
        f"ground truth): from {format_number(min(scores))} to {format_number(max(scores))}, "
        f"median {format_number(statistics.median(scores))}."
    )
    return {"text": text, "chart": histogram(scores)}


def _examples(
    evaluation: Evaluation, classes: DatasetClasses, image_bytes: int, max_examples: int
) -> list[dict]:
    """The worst and the best images; of a small dataset all, in one group."""
    groups: dict[str, list[Example]] = {}
    for example in evaluation.examples:
        groups.setdefault(f"The {example.kind} images", []).append(example)
    if len(evaluation.examples) >= len(evaluation.image_scores) > 0:
        ordered = sorted(evaluation.examples, key=lambda example: example.miou)
        groups = {"All images, from the worst to the best": ordered}
    return [
        {
            "title": title,
            "examples": [_example(item, classes, image_bytes) for item in some[:max_examples]],
            "left_out": len(some) - max_examples,
        }
        for title, some in groups.items()
    ]


def _example(example: Example, classes: DatasetClasses, image_bytes: int) -> dict:
    drawn = draw_example(example, classes, image_bytes)
    facts = [f"mIoU {format_number(example.miou)}"]
    if drawn.accuracy is not None:
        facts.append(f"{100 * drawn.accuracy:.1f} % of the labelled pixels correct")
    facts += [
        f"{classes.names[item.ground_truth]} predicted as {classes.names[item.predicted]}: "
        f"{100 * item.share:.1f} %"
        for item in drawn.confusions
    ]
    return {
        "name": Path(example.file_name).name,
        "file_name": example.file_name,
        "facts": facts,
        "panels": drawn.panels,
        "shown": [class_item(classes, label) for label in drawn.shown_classes],
        "has_ignored": drawn.has_ignored,
        "note": drawn.note,
    }


def class_item(classes: DatasetClasses, index: int) -> dict:
    """Name and colour of a class, for the templates."""
    return {"name": classes.names[index], "color": classes.colors[index]}


def _by_key(classes: Sequence[ClassScore]) -> dict[tuple[str, int], ClassScore]:
    """Scores by the class's name and how many of this name came before: names may repeat."""
    seen: Counter = Counter()
    scores = {}
    for item in classes:
        scores[item.name, seen[item.name]] = item
        seen[item.name] += 1
    return scores


def _iou(scores: dict, key) -> float:
    return scores[key].iou if key in scores else math.nan


def _falling(value: float) -> tuple[bool, float]:
    """For sorting: large values first, NaN last."""
    return math.isnan(value), -value
