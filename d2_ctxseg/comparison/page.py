"""The comparison as one HTML file."""

import datetime
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..engine.cost import read_cost
from ..report.classes import register_datasets_of
from ..report.dataset_section import class_item
from ..report.html import format_number, render
from ..report.run import flattened
from ..utils.files import atomic_write
from .charts import Whisker, band_chart, whisker_chart
from .gallery import Gallery
from .image_pairs import ImagePair, extreme_images
from .results import MEANS, NEUTRAL_KEYS, Study, cost_cells

# Of many classes, those that gain and lose most are shown; the rest can be unfolded.
_MOST_CLASSES = 10
# Images are shown for this many datasets, since models have to predict them.
_DATASETS_WITH_IMAGES = 2


def write_page(study: Study, content: Mapping, path: str | Path) -> Path:
    """Write the page; it needs no other file and no network.

    Args:
        study: the runs.
        content: the result of ``results.compare`` for them.
        path: path of the file.
    """
    path = Path(path)
    text = render_page(study, content)
    with atomic_write(path) as file:
        file.write(text)
    return path


def render_page(study: Study, content: Mapping) -> str:
    """The page as text."""
    notes = register_datasets_of(run.run for runs in study.runs.values() for run in runs)
    labels = list(study.runs)
    datasets = {part["dataset"]: part for part in (content, *content["other_datasets"].values())}
    chosen = {
        dataset: {label: extreme_images(study, label, dataset) for label in part["differences"]}
        for dataset, part in list(datasets.items())[:_DATASETS_WITH_IMAGES]
    }
    gallery = Gallery(study, chosen)
    parts = [_dataset(part) for part in datasets.values()]
    for part in parts:
        some = chosen.get(part["name"])
        part["images"] = None if some is None else _images(study, part["name"], some, gallery)
    single, alone = _seed_remarks(study)
    configs = {label: flattened(runs[0].run.config) for label, runs in study.runs.items()}
    scores = {label: values["cost"] for label, values in content["classifiers"].items()}
    return render(
        Path(__file__).with_name("comparison.html"),
        title=f"Comparison: {', '.join(labels[:4])}{' …' if labels[4:] else ''}",
        date=datetime.datetime.now().strftime("%Y-%m-%d %H:%M"),
        baseline=study.baseline,
        warnings=[*single, *_config_warnings(study)],
        notes=[*alone, *dict.fromkeys(notes)],
        datasets=parts,
        costs={label: cost_cells(cost) for label, cost in scores.items()},
        machines=_machines(study),
        runs=_run_rows(study, list(datasets)),
        run_headers=["classifier", ["seed"], *([f"mIoU {name}"] for name in datasets), "folder"],
        configs=configs,
        config_keys=_differing_keys(configs.values()),
    )


def _seed_remarks(study: Study) -> tuple[list[str], list[str]]:
    """Warnings about the number of seeds, and notes on runs without a partner."""
    others = {label: runs for label, runs in study.runs.items() if label != study.baseline}
    pairs = {label: [run.seed for _, run in study.pairs(label)] for label in others}
    single = [label for label, seeds in pairs.items() if len(seeds) == 1]
    warnings = []
    if single:
        warnings.append(
            f"Compared with one seed only: {', '.join(single)}. Then the interval covers the "
            "variation of the test images, not that of the training: train more seeds before you "
            "draw a conclusion."
        )
    notes = []
    for label, runs in others.items():
        alone = [str(run.seed) for run in runs if run.seed not in pairs[label]]
        if alone:
            notes.append(
                f"{label}: the baseline has no run with seed {', '.join(alone)}. It counts in the "
                "scores, not in the differences."
            )
    return warnings, notes


def _dataset(content: Mapping) -> dict:
    labels = list(content["classifiers"])
    differences = content["differences"]
    some = next(iter(differences.values()), {})
    curves = {label: scores["curve"] for label, scores in content["classifiers"].items()}
    has_curves = any(len(curve["iterations"]) > 1 for curve in curves.values())
    numbers = ("seeds", "mIoU", "Δ mIoU", "95 %", "seeds that gain", *MEANS[1:], "to baseline")
    return {
        "name": content["dataset"],
        "num_images": content["num_images"],
        "headers": ["classifier", *([text] for text in numbers)],
        "rows": [_result_row(label, index, content) for index, label in enumerate(labels)],
        # One chart a metric, a row a classifier.
        "means": {
            name: whisker_chart(
                [
                    _whisker(label, labels.index(label), values[name])
                    for label, values in differences.items()
                ]
            )
            for name in MEANS
        },
        "curves": band_chart(curves, content["baseline"]) if has_curves else None,
        "num_classes": sum(name.startswith("IoU-") for name in some),
        "classes": [_classes(k, labels.index(k), values) for k, values in differences.items()],
    }


def _result_row(label: str, index: int, content: Mapping) -> dict:
    scores = content["classifiers"][label]
    difference = content["differences"].get(label, {}).get("mIoU")
    return {
        "label": label,
        "index": index,
        "sentence": content["sentences"].get(label, "the baseline"),
        "num_seeds": len(scores["seeds"]),
        "scores": [_score(scores, name) for name in MEANS],
        "difference": None if difference is None else _difference(difference),
        "to_baseline": _finite(content["iterations_to_baseline"][label]["mean"]),
    }


def _score(scores: Mapping, name: str) -> dict:
    mean, spread = _finite(scores["mean"][name]), _finite(scores["std"][name])
    spread_text = f" ± {format_number(spread)}" if math.isfinite(spread) else ""
    return {"mean": mean, "text": format_number(mean) + spread_text}


def _difference(values: Mapping) -> dict:
    """Mean, interval and number of seeds that gain."""
    low, high = map(_finite, values["ci95"])
    pairs = len(values["per_seed"])
    gaining = round(pairs * values["seeds_that_gain"])
    return {
        "mean": _finite(values["mean"]),
        "low": low,
        "high": high,
        "share": gaining / pairs,
        "gaining": f"{gaining} of {pairs}",
    }


def _whisker(name: str, index: int, difference: Mapping) -> Whisker:
    low, high = map(_finite, difference["ci95"])
    points = tuple(map(_finite, difference["per_seed"].values()))
    return Whisker(name, index, _finite(difference["mean"]), low, high, points)


def _finite(value: float | None) -> float:
    """A score as a float; NaN for None, as NaN is written in JSON."""
    return math.nan if value is None else value


def _classes(label: str, index: int, differences: Mapping) -> dict:
    """A chart of all classes, the best one first; of many, charts of both ends and a table."""
    rows = [
        _whisker(name.removeprefix("IoU-"), index, value)
        for name, value in differences.items()
        if name.startswith("IoU-")
    ]
    rows = sorted((row for row in rows if row.is_known), key=lambda row: -row.mean)
    part = {"label": label, "index": index, "charts": {"": whisker_chart(rows)}, "rest": {}}
    if len(rows) > 2 * _MOST_CLASSES:
        first, last = rows[:_MOST_CLASSES], rows[-_MOST_CLASSES:]
        ends = {": the highest": first, ": the lowest": last}
        part["charts"] = {k: whisker_chart(some, beside=first + last) for k, some in ends.items()}
        rest = [row.name for row in rows[_MOST_CLASSES:-_MOST_CLASSES]]
        part["rest"] = {name: _difference(differences[f"IoU-{name}"]) for name in rest}
    return part


def _images(
    study: Study, dataset: str, chosen: Mapping[str, Sequence[ImagePair]], gallery: Gallery
) -> dict:
    """For each label the images that gain, then those that lose, with their images."""
    groups = []
    for label, images in chosen.items():
        for title, gains in (("gain", True), ("lose", False)):
            some = [image for image in images if (image.difference > 0) is gains]
            groups.append(
                {
                    "title": f"{label}: {title} most" if some else f"{label}: none {title}s",
                    "images": [_image(study, dataset, label, image, gallery) for image in some],
                }
            )
    return {"notes": gallery.notes(dataset), "groups": groups}


def _image(study: Study, dataset: str, label: str, image: ImagePair, gallery: Gallery) -> dict:
    panels = gallery.panels(dataset, label, image)
    classes = gallery.classes[dataset]
    pixels: Counter = Counter()
    for _, drawing in panels:
        pixels.update(drawing.pixels)
    pairs = study.pairs(label)
    seeds = f", mean over {len(pairs)} seeds" if len(pairs) > 1 else ""
    return {
        "name": image.file_name,
        "facts": [
            f"{format_number(image.difference, 1, signed=True)} points{seeds}",
            f"seed {pairs[0][1].seed}: {study.baseline} {image.baseline:.1f}",
            f"{label} {image.other:.1f}",
        ],
        "panels": {title: drawing.address for title, drawing in panels},
        "shown": [class_item(classes, index) for index, _ in pixels.most_common()],
        "has_ignored": any(drawing.has_ignored for _, drawing in panels),
    }


def _machines(study: Study) -> list[str]:
    """The known devices of the runs, without duplicates."""
    costs = [read_cost(run.folder) for runs in study.runs.values() for run in runs]
    known = [(cost["device"], cost.get("threads")) for cost in costs if "device" in cost]
    return [
        device if threads is None else f"{device}, {threads} thread{'s' * (threads != 1)}"
        for device, threads in dict.fromkeys(known)
    ]


def _run_rows(study: Study, datasets: Sequence[str]) -> list[dict]:
    """All runs under their classifier: seed, scores, folder."""
    return [
        {
            "label": label,
            "index": index,
            "seed": run.seed,
            "scores": [float(run.metrics(name)[0]) for name in datasets],
            "folder": run.folder,
        }
        for index, (label, runs) in enumerate(study.runs.items())
        for run in runs
    ]


def _config_warnings(study: Study) -> list[str]:
    """A warning for each classifier whose runs differ in more than the seed."""
    texts = []
    for label, runs in study.runs.items():
        keys = _differing_keys([flattened(run.run.config) for run in runs])
        if keys:
            texts.append(f"The runs of {label} differ in more than the seed: {', '.join(keys)}.")
    return texts


def _differing_keys(configs) -> list[str]:
    configs = list(configs)
    keys = dict.fromkeys(key for config in configs for key in config)
    return [
        key
        for key in keys
        if key not in NEUTRAL_KEYS and len({repr(config.get(key)) for config in configs}) > 1
    ]
