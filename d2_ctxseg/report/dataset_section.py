"""The part of the page about one dataset: classes, comparison, confusions, images."""

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from .charts import heat_map, histogram
from .classes import DatasetClasses, classes_of
from .confusion import Confusion, counted, most_confused, shares_of_truth, top_confusions
from .markup import (
    Markup,
    format_number,
    join,
    note,
    number_cell,
    number_header,
    swatch,
    table,
    tag,
)
from .pictures import draw_example
from .run import ClassScore, Evaluation, Example, Run
from .sections import task_title

_CONFUSED_CLASSES = 30
_CONFUSIONS = 12
_LEGEND_CLASSES = 14


def dataset_section(
    dataset: str, runs: Sequence[Run], number: int, picture_bytes: int, max_examples: int
) -> Markup:
    """All about one dataset.

    Args:
        dataset: its name.
        runs: all runs; those that were not evaluated on it are passed over.
        number: of the section, for links.
        picture_bytes: about the most that the pictures of an example may take.
        max_examples: of each kind, worst and best, and each run.
    """
    evaluated = [run for run in runs if dataset in run.evaluations]
    parts = [_comparison(dataset, evaluated) if len(evaluated) > 1 else None]
    for run in evaluated:
        if len(runs) > 1:
            parts.append(tag("h3", run.name))
        parts += _run_part(run.evaluations[dataset], picture_bytes, max_examples)
    return tag("section", tag("h2", dataset), *parts, id=f"dataset-{number}")


def main_evaluation(evaluations: dict[str, Evaluation]) -> Evaluation:
    """The one whose confusions and images are shown: single-scale if there is one."""
    return next(iter(evaluations.values()))


def _run_part(evaluations: dict[str, Evaluation], picture_bytes: int, max_examples: int) -> list:
    main = main_evaluation(evaluations)
    classes = classes_of(main.dataset, [item.name for item in main.classes])
    parts = []
    if main.classes:
        parts = [tag("h4", "IoU of the classes"), _class_table(evaluations, classes)]
    if main.confusion is not None:
        parts += _confusions(main, classes)
    if main.image_scores:
        parts += _image_scores(main)
    if main.examples:
        parts += _examples(main, classes, picture_bytes, max_examples)
    return parts + [note(text) for text in dict.fromkeys(main.notes)]


def _class_table(evaluations: dict[str, Evaluation], classes: DatasetClasses) -> Markup:
    """A row a class, the best one first, with a bar; further tasks beside the main one."""
    main = main_evaluation(evaluations)
    others = [item for item in evaluations.values() if item is not main]
    scores = [_by_key(item.classes) for item in others]
    total = sum(c.truth_pixels for c in main.classes if math.isfinite(c.truth_pixels))
    has_boundary = any(math.isfinite(c.boundary_iou) for c in main.classes)

    numbers = ["IoU"]
    for other in others:
        numbers += [task_title(other.task), "Δ"]
    numbers += ["accuracy", *(["boundary IoU"] if has_boundary else [])]
    numbers += ["% of pixels", "% predicted"] if total else []
    headers = ["class", "", *map(number_header, numbers)]
    rows = []
    for key, item in sorted(_by_key(main.classes).items(), key=lambda pair: _falling(pair[1].iou)):
        ious = [score[key].iou if key in score else math.nan for score in scores]
        index = main.classes.index(item)
        row = [_class_cell(classes, index), _bar(item.iou, ious), number_cell(item.iou)]
        for iou in ious:
            row += [number_cell(iou), number_cell(iou - item.iou, signed=True)]
        row.append(number_cell(item.accuracy))
        if has_boundary:
            row.append(number_cell(item.boundary_iou))
        if total:
            pixels = (item.truth_pixels, item.predicted_pixels)
            row += [number_cell(100 * count / total) for count in pixels]
        rows.append(row)
    title = f"{task_title(main.task)}, in per cent"
    if others:
        title += f"; the marks on the bars: {', '.join(task_title(o.task) for o in others)}"
    return table(headers, rows, class_="sortable", caption=title)


def _comparison(dataset: str, runs: Sequence[Run]) -> Markup:
    """IoU of each class in each run, and the change against the first one."""
    reference = main_evaluation(runs[0].evaluations[dataset])
    task, first = reference.task, _by_key(reference.classes)
    others = [run for run in runs[1:] if task in run.evaluations[dataset]]
    scores = [_by_key(run.evaluations[dataset][task].classes) for run in others]
    changes = [{key: _iou(score, key) - first[key].iou for key in first} for score in scores]
    finite = [abs(v) for change in changes for v in change.values() if math.isfinite(v)]
    largest = max(finite, default=0) or 1

    keys = sorted(first, key=lambda key: _falling(changes[0][key]) if changes else ())
    classes = classes_of(dataset, [item.name for item in reference.classes])
    rows = []
    for key in keys:
        index = reference.classes.index(first[key])
        row = [_class_cell(classes, index), number_cell(first[key].iou)]
        for score, change in zip(scores, changes):
            row += [number_cell(_iou(score, key)), number_cell(change[key], signed=True)]
            row.append(_change_bar(change[key] / largest))
        rows.append(row)
    headers = ["class", number_header(runs[0].name)]
    for run in others:
        headers += [number_header(run.name), number_header("Δ"), ""]
    summary = [_summary(run, change) for run, change in zip(others, changes)]
    skipped = [run.name for run in runs[1:] if run not in others]
    if skipped:
        summary.append(note(f"Without a {task_title(task)} evaluation: {', '.join(skipped)}."))
    title = f"IoU of the classes, {task_title(task)}, in per cent; Δ to {runs[0].name}"
    return tag(
        "div",
        tag("h3", "Comparison"),
        *summary,
        table(headers, rows, class_="sortable", caption=title),
    )


def _summary(run: Run, change: dict) -> Markup:
    better = sum(value > 0.005 for value in change.values())
    worse = sum(value < -0.005 for value in change.values())
    return tag(
        "p", f"{run.name}: better in {better} classes, worse in {worse}, of {len(change)} in all."
    )


def _confusions(evaluation: Evaluation, classes: DatasetClasses) -> list[Markup]:
    counts = counted(evaluation.confusion)
    errors = int(counts.sum() - counts.trace())
    parts = [tag("h4", "Confusions")]
    if not errors:
        return [*parts, note("No labelled pixel is wrong.")]
    by_pixels = top_confusions(counts, _CONFUSIONS, by="pixels")
    by_share = top_confusions(counts, _CONFUSIONS, by="share")
    parts.append(
        tag(
            "div",
            _confusion_table("The most pixels", by_pixels, errors, classes),
            _confusion_table("The largest part of a class", by_share, errors, classes),
            class_="pair",
        )
    )
    chosen = most_confused(counts, _CONFUSED_CLASSES)
    shares = shares_of_truth(counts)

    def describe(row: int, column: int) -> str:
        truth, predicted = chosen[row], chosen[column]
        share = format_number(100 * shares[truth, predicted])
        pixels = format_number(counts[truth, predicted], 0)
        names = f"{classes.names[truth]} predicted as {classes.names[predicted]}"
        return f"{names}: {share} % of its pixels ({pixels})"

    left_out = len(counts) - len(chosen)
    text = "Rows: true classes, columns: predicted ones; per cent of the true class's pixels."
    if left_out:
        text += (
            f" Shown are the {len(chosen)} classes with the most wrong pixels; {left_out} are not."
        )
    matrix = heat_map(shares[chosen[:, None], chosen], [classes.names[i] for i in chosen], describe)
    return [*parts, tag("p", text, class_="pale"), tag("div", matrix, class_="scroll")]


def _confusion_table(
    title: str, confusions: Sequence[Confusion], errors: int, classes: DatasetClasses
) -> Markup:
    numbers = map(number_header, ("pixels", "% of the class", "% of all errors"))
    headers = ["true class", "predicted as", *numbers]
    rows = [
        [
            _class_cell(classes, item.truth),
            _class_cell(classes, item.predicted),
            number_cell(item.pixels, 0),
            number_cell(100 * item.share),
            number_cell(100 * item.pixels / errors),
        ]
        for item in confusions
    ]
    return table(headers, rows, class_="sortable", caption=title)


def _image_scores(evaluation: Evaluation) -> list[Markup]:
    scores = evaluation.image_scores
    text = (
        f"How many of {len(scores)} images have which mIoU (over the classes in the image's "
        f"truth): from {format_number(min(scores))} to {format_number(max(scores))}, median "
        f"{format_number(statistics.median(scores))}."
    )
    return [tag("h4", "Images"), tag("p", text, class_="pale"), histogram(scores)]


def _examples(
    evaluation: Evaluation, classes: DatasetClasses, picture_bytes: int, max_examples: int
) -> list[Markup]:
    parts = []
    for kind in dict.fromkeys(example.kind for example in evaluation.examples):
        examples = [example for example in evaluation.examples if example.kind == kind]
        parts.append(tag("h4", f"The {kind} images"))
        parts += [_example(item, classes, picture_bytes) for item in examples[:max_examples]]
        left_out = len(examples) - max_examples
        if left_out > 0:
            parts.append(note(f"{left_out} more are left out: the file would become too large."))
    return parts


def _example(example: Example, classes: DatasetClasses, picture_bytes: int) -> Markup:
    drawn = draw_example(example, classes, picture_bytes)
    facts = [f"mIoU {format_number(example.miou)}"]
    if drawn.accuracy is not None:
        facts.append(f"{100 * drawn.accuracy:.1f} % of the labelled pixels right")
    facts += [
        f"{classes.names[item.truth]} taken for {classes.names[item.predicted]}: "
        f"{100 * item.share:.1f} %"
        for item in drawn.confusions
    ]
    name = tag("strong", Path(example.file_name).name, title=example.file_name)
    panels = [
        tag("figure", tag("img", src=address, alt=title), tag("figcaption", title))
        for title, address in drawn.panels.items()
    ]
    legend = [
        tag("li", swatch(classes.colors[label]), classes.names[label])
        for label in drawn.shown_classes[:_LEGEND_CLASSES]
    ]
    more = len(drawn.shown_classes) - _LEGEND_CLASSES
    if more > 0:
        legend.append(tag("li", f"and {more} more"))
    return tag(
        "div",
        tag("p", join([name, *(tag("span", fact, class_="fact") for fact in facts)], " · ")),
        tag("div", *panels, class_="panels"),
        tag("ul", *legend, class_="legend"),
        note(drawn.note) if drawn.note else None,
        class_="example",
    )


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


def _class_cell(classes: DatasetClasses, index: int) -> Markup:
    return tag("th", swatch(classes.colors[index]), classes.names[index], scope="row")


def _bar(value: float, marks: Sequence[float]) -> Markup:
    inner = [tag("i", style=f"width:{value:.2f}%")] if math.isfinite(value) else []
    inner += [tag("b", style=f"left:{mark:.2f}%") for mark in marks if math.isfinite(mark)]
    cell = tag("div", *inner, class_="bar")
    return tag("td", cell, data_value=f"{value:.10g}" if math.isfinite(value) else None)


def _change_bar(share: float) -> Markup:
    """A bar from the middle, to the right for a share above zero; ``share`` is in [-1, 1]."""
    inner = None
    if math.isfinite(share) and share != 0:
        kind = "gain" if share > 0 else "loss"
        inner = tag("i", style=f"width:{50 * abs(share):.2f}%", class_=kind)
    return tag("td", tag("div", inner, class_="change"))
