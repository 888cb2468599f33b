"""The comparison as one HTML file."""

import datetime
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..report.charts import NUM_COLORS
from ..report.classes import register_datasets_of
from ..report.markup import Markup, note, number_cell, number_header, table, tag
from ..report.page import data_file, head
from ..report.run import flattened
from ..utils.files import atomic_write
from .charts import Whisker, band_chart, whisker_chart
from .image_pairs import ImagePair, PairPainter, extreme_images
from .results import MEANS, NEUTRAL_KEYS, Study, cost_cells

# Of many classes, those that gain and lose most are shown; the rest can be unfolded.
_MOST_CLASSES = 10


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
    datasets = [content, *content["other_datasets"].values()]
    title = f"{', '.join(labels[:4])}{' …' if labels[4:] else ''}"
    links = [tag("a", part["dataset"], href=f"#d{i}") for i, part in enumerate(datasets)]
    date = datetime.datetime.now().strftime("%Y-%m-%d %H:%M")
    body = tag(
        "body",
        tag("h1", f"Comparison: {title}"),
        tag("p", f"{date}. Baseline: {study.baseline}.", class_="pale"),
        tag("nav", *links, tag("a", "Runs", href="#runs")),
        *(note(text) for text in notes),
        *(_dataset_section(study, part, i) for i, part in enumerate(datasets)),
        _runs_section(study, datasets),
        tag("script", Markup(data_file("report.js"))),
    )
    return f"<!DOCTYPE html>\n{tag('html', head(f'Comparison: {title}'), body, lang='en')}\n"


def _dataset_section(study: Study, content: Mapping, number: int) -> Markup:
    labels = list(study.runs)
    curves = {label: scores["curve"] for label, scores in content["classifiers"].items()}
    chart = band_chart(curves)
    parts = [
        tag("h2", f"{content['dataset']}, {content['num_images']} images"),
        tag("ul", *(_sentence(label, content) for label in labels)),
        _results_table(content),
        tag("p", _EXPLANATION, class_="pale"),
        _cost_table(content),
        tag("p", _COST_EXPLANATION, class_="pale"),
        tag("h3", "Differences from the baseline"),
        tag("div", *_means_charts(content, labels), class_="grid wide"),
    ]
    if chart is not None:
        parts += [
            tag("h3", "mIoU over iterations"),
            _legend(labels),
            chart,
            tag("p", "Mean over the seeds, and their range.", class_="pale"),
        ]
    for label in content["differences"]:
        parts += [_classes_part(label, content, labels), _images_part(study, label, content)]
    return tag("section", *parts, id=f"d{number}")


_EXPLANATION = (
    "Scores in per cent, mean ± standard deviation over the seeds; differences in points, runs "
    "paired by seed and by image, with 95 % intervals (see docs/COMPARISON.md). “To baseline”: "
    "iterations after which the mean curve reaches the score that the baseline ends with."
)
_COST_EXPLANATION = (
    "Measured in the runs: parameters at test time, median time of a training step and of the "
    "prediction of an image, peak memory of the training (of tensors on a GPU, of the process on "
    "the CPU). Compare what was measured on one machine under one load."
)


def _sentence(label: str, content: Mapping) -> Markup:
    text = content["sentences"].get(label, "the baseline")
    return tag("li", tag("b", label), f": {text}.")


def _results_table(content: Mapping) -> Markup:
    rows = []
    for label, scores in content["classifiers"].items():
        difference = content["differences"].get(label, {}).get("mIoU")
        rows.append(
            [
                tag("td", label, class_="name"),
                number_cell(len(scores["seeds"]), 0),
                *(_score_cell(scores, name) for name in MEANS),
                *_difference_cells(difference),
                number_cell(_number(content["iterations_to_baseline"][label]["mean"]), 0),
            ]
        )
    numbers = ["seeds", *MEANS, "Δ mIoU", "95 %", "seeds that gain", "to baseline"]
    return table(["classifier", *map(number_header, numbers)], rows)


def _cost_table(content: Mapping) -> Markup:
    rows = [
        [
            tag("td", label, class_="name"),
            *(tag("td", text, class_="number") for text in cost_cells(scores["cost"])),
        ]
        for label, scores in content["classifiers"].items()
    ]
    numbers = ["parameters", "s / iteration", "ms / image", "peak memory"]
    return table(["classifier", *map(number_header, numbers)], rows)


def _score_cell(scores: Mapping, name: str) -> Markup:
    spread = _number(scores["std"][name])
    text = f"{scores['mean'][name]:.2f}"
    return tag("td", text if math.isnan(spread) else f"{text} ± {spread:.2f}", class_="number")


def _difference_cells(difference: Mapping | None) -> list[Markup]:
    if difference is None:
        return [tag("td", "–", class_="number")] * 3
    low, high = difference["ci95"]
    return [
        number_cell(difference["mean"], signed=True),
        tag("td", f"{low:+.2f} … {high:+.2f}".replace("-", "−"), class_="number"),
        tag("td", f"{100 * difference['seeds_that_gain']:.0f} %", class_="number"),
    ]


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _means_charts(content: Mapping, labels: Sequence[str]) -> list[Markup]:
    """One chart a metric, a row a classifier."""
    figures = []
    for name in MEANS:
        rows = [
            _row(label, labels.index(label), values[name])
            for label, values in content["differences"].items()
        ]
        chart = whisker_chart(rows)
        if chart is not None:
            figures.append(tag("figure", tag("figcaption", f"{name}, points"), chart))
    return figures


def _row(name: str, index: int, difference: Mapping) -> Whisker:
    low, high = (_number(value) for value in difference["ci95"])
    points = tuple(_number(value) for value in difference["per_seed"].values())
    return Whisker(name, index, _number(difference["mean"]), low, high, points)


def _classes_part(label: str, content: Mapping, labels: Sequence[str]) -> Markup:
    differences = {
        name.removeprefix("IoU-"): value
        for name, value in content["differences"][label].items()
        if name.startswith("IoU-") and not math.isnan(_number(value["mean"]))
    }
    ordered = sorted(differences, key=lambda name: -differences[name]["mean"])
    shown = ordered
    if len(ordered) > 2 * _MOST_CLASSES:
        shown = ordered[:_MOST_CLASSES] + ordered[-_MOST_CLASSES:]
    chart = whisker_chart([_row(n, labels.index(label), differences[n]) for n in shown])
    rest = [name for name in ordered if name not in shown]
    rows = [
        [tag("td", name, class_="name"), *_difference_cells(differences[name])] for name in rest
    ]
    headers = ["class", *map(number_header, ("Δ IoU", "95 %", "seeds that gain"))]
    folded = (
        tag("details", tag("summary", f"{len(rest)} more classes"), table(headers, rows))
        if rest
        else None
    )
    return tag("div", tag("h3", f"{label}: classes, points of IoU"), chart, folded)


def _images_part(study: Study, label: str, content: Mapping) -> Markup:
    images = extreme_images(study, label, content["dataset"])
    painter = PairPainter(content["dataset"])
    images = painter.draw(images, *study.pairs(label)[0])
    return tag(
        "div",
        tag("h3", f"{label}: images that gain and lose most"),
        *(note(text) for text in painter.notes),
        *(_image(image, study.baseline, label) for image in images),
    )


def _image(image: ImagePair, baseline: str, label: str) -> Markup:
    figures = [
        tag("figure", tag("img", src=address, alt=title), tag("figcaption", title))
        for title, address in image.panels.items()
    ]
    scores = f"mIoU of the image: {baseline} {image.baseline:.1f}, {label} {image.other:.1f}"
    difference = f" ({image.difference:+.1f})".replace("-", "−")
    return tag(
        "div",
        tag("p", tag("b", image.file_name), f" – {scores}{difference}, mean over the seeds."),
        tag("div", *figures, class_="panels") if figures else None,
        class_="example",
    )


def _runs_section(study: Study, datasets: Sequence[Mapping]) -> Markup:
    names = [content["dataset"] for content in datasets]
    rows = [
        [
            tag("td", label, class_="name"),
            number_cell(run.seed, 0),
            *(number_cell(float(run.metrics(name)[0])) for name in names),
            tag("td", tag("code", str(run.folder)), class_="value"),
        ]
        for label, runs in study.runs.items()
        for run in runs
    ]
    numbers = [number_header(text) for text in ("seed", *(f"mIoU {name}" for name in names))]
    return tag(
        "section",
        tag("h2", "Runs"),
        table(["classifier", *numbers, "folder"], rows),
        tag("h3", "Where their configs differ"),
        _config_table(study),
        id="runs",
    )


def _config_table(study: Study) -> Markup:
    flat = {label: flattened(runs[0].run.config) for label, runs in study.runs.items()}
    keys = dict.fromkeys(key for values in flat.values() for key in values)
    differing = [
        key
        for key in keys
        if key not in NEUTRAL_KEYS and len({repr(v.get(key)) for v in flat.values()}) > 1
    ]
    rows = [
        [
            tag("th", tag("code", key), scope="row"),
            *(tag("td", str(v.get(key))) for v in flat.values()),
        ]
        for key in differing
    ]
    return table(["key", *flat], rows) if rows else note("They do not differ.")


def _legend(labels: Sequence[str]) -> Markup:
    items = [
        tag("li", tag("span", class_=f"key series-{i % NUM_COLORS}"), label)
        for i, label in enumerate(labels)
    ]
    return tag("ul", *items, class_="legend")
