"""The comparison as one HTML file."""

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..report.classes import register_datasets_of
from ..report.markup import Markup, join, note, number_header, table, tag
from ..report.page import data_file, head
from ..utils.files import atomic_write
from .charts import Whisker, band_chart, whisker_chart
from .gallery import Gallery
from .image_pairs import extreme_images
from .image_section import image_section
from .results import MEANS, Study
from .tables import (
    config_table,
    config_warnings,
    cost_table,
    difference_cells,
    finite,
    label_key,
    machines_note,
    results_table,
    runs_table,
    warning,
)

# Of many classes, those that gain and lose most are shown; the rest can be unfolded.
_MOST_CLASSES = 10
# Images are shown of so many datasets: models predict them again.
_PICTURED_DATASETS = 2


def write_page(study: Study, content: Mapping, path: str | Path) -> Path:
    """Write the page; it needs no other file and no network.

    Args:
        study: the runs.
        content: what ``results.compare`` returned for them.
        path: of the file.
    """
    path = Path(path)
    text = render(study, content)
    with atomic_write(path) as file:
        file.write(text)
    return path


def render(study: Study, content: Mapping) -> str:
    """The page as text."""
    notes = register_datasets_of(run.run for runs in study.runs.values() for run in runs)
    labels = list(study.runs)
    datasets = {part["dataset"]: part for part in (content, *content["other_datasets"].values())}
    chosen = {
        dataset: {label: extreme_images(study, label, dataset) for label in part["differences"]}
        for dataset, part in list(datasets.items())[:_PICTURED_DATASETS]
    }
    gallery = Gallery(study, chosen)
    title = f"{', '.join(labels[:4])}{' …' if labels[4:] else ''}"
    links = [tag("a", name, href=f"#d{i}") for i, name in enumerate(datasets)]
    date = datetime.datetime.now().strftime("%Y-%m-%d %H:%M")
    sections = [
        tag(
            "section",
            *_dataset_parts(part),
            image_section(study, name, chosen[name], gallery) if name in chosen else None,
            id=f"d{number}",
        )
        for number, (name, part) in enumerate(datasets.items())
    ]
    body = tag(
        "body",
        tag("h1", f"Comparison: {title}"),
        tag("p", f"{date}. Baseline: {study.baseline}.", class_="pale"),
        tag("nav", *links, tag("a", "Cost", href="#cost"), tag("a", "Runs", href="#runs")),
        *_seed_warnings(study),
        *config_warnings(study),
        *(note(text) for text in dict.fromkeys(notes)),
        *sections,
        _cost_section(study, content),
        _runs_section(study, list(datasets)),
        tag("script", Markup(data_file("report.js"))),
    )
    return f"<!DOCTYPE html>\n{tag('html', head(f'Comparison: {title}'), body, lang='en')}\n"


def _seed_warnings(study: Study) -> list[Markup]:
    others = {label: runs for label, runs in study.runs.items() if label != study.baseline}
    pairs = {label: [run.seed for _, run in study.pairs(label)] for label in others}
    parts = []
    single = [label for label, seeds in pairs.items() if len(seeds) == 1]
    if single:
        parts.append(
            warning(
                f"Compared with one seed alone: {', '.join(single)}. The interval then covers the "
                "luck of the test images, not that of the training: train more seeds before you "
                "conclude anything."
            )
        )
    for label, runs in others.items():
        alone = [str(run.seed) for run in runs if run.seed not in pairs[label]]
        if alone:
            parts.append(
                note(
                    f"{label}: the baseline has no run with seed {', '.join(alone)}. It counts in "
                    "the scores, not in the differences."
                )
            )
    return parts


def _dataset_parts(content: Mapping) -> list[Markup | None]:
    labels = list(content["classifiers"])
    return [
        tag("h2", f"{content['dataset']}, {content['num_images']} images"),
        tag("ul", *(_sentence(label, content) for label in labels)),
        results_table(content),
        tag("p", _EXPLANATION, class_="pale"),
        tag("h3", "Differences from the baseline"),
        tag("p", _WHISKER_EXPLANATION, class_="pale"),
        tag("div", *_means_charts(content, labels), class_="grid wide"),
        tag("h3", "Learning curves"),
        *_curves(content),
        tag("h3", "Classes"),
        tag("p", _classes_explanation(content), class_="pale"),
        *_classes_parts(content, labels),
    ]


_EXPLANATION = (
    "Scores in per cent, mean ± standard deviation over the seeds. Δ: difference from the baseline "
    "in points, runs paired by seed and by image. 95 %: its interval, which takes both the test "
    "images and the seeds as samples; where it holds zero, no difference is shown. To baseline: "
    "iterations after which the mean curve reaches the score that the baseline ends with."
)
_WHISKER_EXPLANATION = (
    "In points, with 95 % intervals; small dots are single seeds. A hollow dot: the interval holds "
    "zero. An arrow: the interval reaches beyond the chart."
)
_COST_EXPLANATION = (
    "Parameters at test time, median time of a training step and of the prediction of an image, "
    "peak memory of the training (of tensors on a GPU, of the process on the CPU); means over the "
    "runs. Compare what was measured on one machine under one load."
)


def _sentence(label: str, content: Mapping) -> Markup:
    text = content["sentences"].get(label, "the baseline")
    return tag("li", tag("b", label), f": {text}.")


def _means_charts(content: Mapping, labels: Sequence[str]) -> list[Markup]:
    """One chart a metric, a row a classifier."""
    figures = []
    for name in MEANS:
        rows = [
            _row(label, labels.index(label), values[name])
            for label, values in content["differences"].items()
        ]
        figures.append(_figure(name, whisker_chart(rows)))
    return figures


def _figure(title, chart: Markup | None) -> Markup | None:
    return None if chart is None else tag("figure", tag("figcaption", title), chart)


def _row(name: str, index: int, difference: Mapping) -> Whisker:
    low, high = map(finite, difference["ci95"])
    points = tuple(map(finite, difference["per_seed"].values()))
    return Whisker(name, index, finite(difference["mean"]), low, high, points)


def _curves(content: Mapping) -> list[Markup]:
    curves = {label: scores["curve"] for label, scores in content["classifiers"].items()}
    if all(len(curve["iterations"]) < 2 for curve in curves.values()):
        return [note("None: the runs were not evaluated during the training (TEST.EVAL_PERIOD).")]
    legend = [tag("li", label_key(label, index)) for index, label in enumerate(curves)]
    title = (
        "mIoU over iterations: mean over the seeds, and their range. Dashed: the score that the "
        "baseline ends with."
    )
    return [
        tag("ul", *legend, class_="legend"),
        tag("div", _figure(title, band_chart(curves, content["baseline"])), class_="grid wide"),
    ]


def _classes_explanation(content: Mapping) -> str:
    text = "Differences of the classes' IoU in points."
    some = next(iter(content["differences"].values()), {})
    number = sum(name.startswith("IoU-") for name in some)
    if number >= 20:
        text += (
            f" Of {number} intervals about {round(0.05 * number)} miss the true difference: one "
            "class alone shows little."
        )
    return text


def _classes_parts(content: Mapping, labels: Sequence[str]) -> list[Markup]:
    """A chart of all classes, the best one first; of many, charts of both ends and a table."""
    figures, tables = [], []
    for label, differences in content["differences"].items():
        index = labels.index(label)
        rows = [
            _row(name.removeprefix("IoU-"), index, value)
            for name, value in differences.items()
            if name.startswith("IoU-")
        ]
        rows = sorted((row for row in rows if row.is_known), key=lambda row: -row.mean)
        if len(rows) <= 2 * _MOST_CLASSES:
            figures.append(_figure(label_key(label, index), whisker_chart(rows)))
            continue
        first, last = rows[:_MOST_CLASSES], rows[-_MOST_CLASSES:]
        for title, some in (("the highest", first), ("the lowest", last)):
            chart = whisker_chart(some, beside=first + last)
            figures.append(_figure(join([label_key(label, index), f": {title}"]), chart))
        rest = [row.name for row in rows[_MOST_CLASSES:-_MOST_CLASSES]]
        tables.append(_folded_classes(label, rest, differences))
    return [tag("div", *figures, class_="grid wide"), *tables]


def _folded_classes(label: str, names: Sequence[str], differences: Mapping) -> Markup:
    rows = [
        [tag("td", name, class_="name"), *difference_cells(differences[f"IoU-{name}"])]
        for name in names
    ]
    headers = ["class", *map(number_header, ("Δ IoU", "95 %", "seeds that gain"))]
    return tag(
        "details",
        tag("summary", f"{label}: {len(names)} more classes"),
        table(headers, rows, class_="sortable"),
    )


def _cost_section(study: Study, content: Mapping) -> Markup:
    return tag(
        "section",
        tag("h2", "Cost"),
        cost_table(content),
        tag("p", _COST_EXPLANATION, class_="pale"),
        machines_note(study),
        id="cost",
    )


def _runs_section(study: Study, datasets: Sequence[str]) -> Markup:
    return tag(
        "section",
        tag("h2", "Runs"),
        runs_table(study, datasets),
        tag("h3", "Where their configs differ"),
        config_table(study),
        id="runs",
    )
