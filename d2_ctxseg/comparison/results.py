"""From the folders of a study's runs to the comparison: a dict, a Markdown table."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tabulate import tabulate

from ..engine.cost import read_cost
from ..evaluation.image_counts import FILE_NAME, ImageCounts
from ..evaluation.paired import (
    MEANS,
    metric_names,
    metrics_of_counts,
    paired_differences,
    sentence,
)
from ..report.run import Run, flattened, read_run
from ..utils.errors import UserError, suggest

TASK = "sem_seg"
# Keys in which runs of one classifier may differ: they do not change what is learned.
NEUTRAL_KEYS = {
    "OUTPUT_DIR",
    "SEED",
    "MODEL.DEVICE",
    "DATALOADER.NUM_WORKERS",
    "TEST.NUM_OVERLAYS",
    "TEST.REPORT",
    "VIS_PERIOD",
}
# The names of this project's classifiers in a study, and their meta-architectures.
ARCHITECTURES = {
    "linear": "LinearSegmentor",
    "context_aware": "ContextAwareSegmentor",
    "semantic_spatial": "SemanticSpatialSegmentor",
    "prototype": "PrototypeSegmentor",
    "learned_prototype": "LearnedPrototypeSegmentor",
    "explicit_class": "ExplicitClassSegmentor",
    "gaussian_mixture": "GaussianMixtureSegmentor",
}


@dataclass(frozen=True)
class StudyRun:
    """One finished run.

    Attributes:
        label: label of the classifier or variant.
        seed: seed of the training.
        run: the content of its folder, see ``report.run``.
        counts: dataset -> counts of the final model, single-scale.
    """

    label: str
    seed: int
    run: Run
    counts: Mapping[str, ImageCounts]

    @property
    def folder(self) -> Path:
        """The run's OUTPUT_DIR."""
        return self.run.folder

    def metrics(self, dataset: str) -> np.ndarray:
        """(3 + K,) in per cent, see ``evaluation.paired.metrics_of_counts``."""
        counts = self.counts[dataset].counts.sum(0, dtype=np.int64)
        return metrics_of_counts(counts, self.absent_classes)

    @property
    def absent_classes(self) -> str:
        """TEST.ABSENT_CLASSES of its evaluation; runs of earlier versions do not have it."""
        return self.run.config.get("TEST", {}).get("ABSENT_CLASSES", "left_out")

    def curve(self, dataset: str) -> dict[int, float]:
        """mIoU in per cent by number of iterations, at each evaluation in the training."""
        points = self.run.curves.get(f"{dataset}/{TASK}/mIoU", {})
        # Detectron2 notes the last iteration, from 0; after the training, their number.
        end = self.run.config.get("SOLVER", {}).get("MAX_ITER", max(points, default=0))
        return {min(iteration + 1, end): value for iteration, value in points.items()}


@dataclass(frozen=True)
class Study:
    """Finished runs, by label in the order that they were named, then by seed."""

    runs: Mapping[str, Sequence[StudyRun]]
    baseline: str

    @property
    def datasets(self) -> list[str]:
        """The datasets that every run was evaluated on, in the order of DATASETS.TEST."""
        runs = [run for of_label in self.runs.values() for run in of_label]
        first = runs[0].run.evaluations
        return [name for name in first if all(name in run.counts for run in runs)]

    def pairs(self, label: str) -> list[tuple[StudyRun, StudyRun]]:
        """Runs of the baseline and of ``label`` with the same seed."""
        by_seed = {run.seed: run for run in self.runs[self.baseline]}
        return [(by_seed[run.seed], run) for run in self.runs[label] if run.seed in by_seed]


def read_study_run(folder: str | Path, label: str = "") -> StudyRun:
    """Read one finished run.

    Raises:
        MissingFileError: the folder or its per-image counts are not there.
        UserError: it is no run's folder, or a file of it is damaged.
    """
    run = read_run(Path(folder))
    counts = {}
    for dataset, tasks in run.evaluations.items():
        if TASK in tasks:
            counts[dataset] = ImageCounts.read(
                run.folder / "inference" / TASK / dataset / FILE_NAME
            )
    # train_net.py writes evaluation.json when all is done; counts are of every evaluation.
    there = {"config.yaml": run.config, "inference/": counts}
    there["evaluation.json"] = (run.folder / "evaluation.json").is_file()
    missing = [name for name, content in there.items() if not content]
    if missing:
        raise UserError(
            f"'{folder}' is not a finished run: it has no {missing[0]}. Continue it with "
            "d2-ctxseg train --resume."
        )
    return StudyRun(label, int(run.config.get("SEED", -1)), run, counts)


def read_planned(folders: Mapping[str, Sequence[Path]], baseline: str) -> Study:
    """The study of runs whose labels are known: label -> folders.

    Raises:
        UserError: as :func:`read_study`.
    """
    runs = {
        label: [read_study_run(folder, label) for folder in of_label]
        for label, of_label in folders.items()
        if of_label
    }
    return _checked(Study(_by_seed(runs), baseline))


def read_study(folders: Sequence[str | Path], baseline: str = "") -> Study:
    """The study of any runs of train_net.py, which are labelled by what tells them apart.

    Runs whose configs differ in the seed alone are one label: the classifier's name and, where that
    is not enough, the keys that differ.

    Args:
        folders: folders of finished runs.
        baseline: a label; "" for "linear" or else the first.

    Raises:
        UserError: a folder is not a finished run, two runs are the same, the runs cannot be
            paired, or there is no such baseline.
    """
    if not folders:
        raise UserError("No run was given: name the OUTPUT_DIR of at least two.")
    runs = [read_study_run(folder) for folder in folders]
    labelled = defaultdict(list)
    for run, label in zip(runs, _labels([run.run.config for run in runs])):
        labelled[label].append(StudyRun(label, run.seed, run.run, run.counts))
    chosen = baseline or ("linear" if "linear" in labelled else next(iter(labelled)))
    if chosen not in labelled:
        raise UserError(
            f"--baseline: no run is '{chosen}'; there are {', '.join(labelled)}."
            f"{suggest(chosen, labelled)}"
        )
    return _checked(Study(_by_seed(labelled), chosen))


def _by_seed(runs: Mapping[str, Sequence[StudyRun]]) -> dict[str, list[StudyRun]]:
    return {label: sorted(of_label, key=lambda run: run.seed) for label, of_label in runs.items()}


def classifier_name(config: Mapping) -> str:
    """ "linear", "context_aware", ...; of an own classifier its registered name."""
    model = config.get("MODEL", {})
    architecture = str(model.get("META_ARCHITECTURE", "?"))
    if architecture == "PixelClassifierSegmentor":
        return str(model.get("CLASSIFIER", {}).get("NAME", architecture))
    names = {known: name for name, known in ARCHITECTURES.items()}
    return names.get(architecture, architecture)


def _labels(configs: Sequence[Mapping]) -> list[str]:
    """The classifier's name, and the last part of each key in which its runs differ."""
    flat = [
        {key: value for key, value in flattened(config).items() if key not in NEUTRAL_KEYS}
        for config in configs
    ]
    names = [classifier_name(config) for config in configs]
    labels = []
    for name, own in zip(names, flat):
        same = [values for other, values in zip(names, flat) if other == name]
        keys = sorted({key for values in same for key in values})
        differing = [key for key in keys if len({repr(v.get(key)) for v in same}) > 1]
        details = [f"{key.rpartition('.')[2]}={own.get(key)}" for key in differing]
        labels.append(" ".join([name, *details]))
    return labels


def _checked(study: Study) -> Study:
    """Refuse runs that cannot be compared with the baseline's."""
    for label, runs in study.runs.items():
        seeds = [run.seed for run in runs]
        twice = next((seed for seed in seeds if seeds.count(seed) > 1), None)
        if twice is not None:
            same = [str(run.folder) for run in runs if run.seed == twice]
            raise UserError(
                f"{' and '.join(same)} are both '{label}' with seed {twice}: runs are paired by "
                "their seeds. Name one of them."
            )
        if not study.pairs(label):
            raise UserError(
                f"'{label}' (seeds {_listed(seeds)}) and the baseline '{study.baseline}' (seeds "
                f"{_listed(run.seed for run in study.runs[study.baseline])}) have no seed in "
                "common: runs are paired by their seeds."
            )
    reference = study.runs[study.baseline][0]
    for run in (run for runs in study.runs.values() for run in runs):
        _check_images(reference, run)
    return study


def _check_images(reference: StudyRun, run: StudyRun) -> None:
    common = [name for name in reference.counts if name in run.counts]
    if not common:
        raise UserError(
            f"{reference.folder} was evaluated on {', '.join(reference.counts)}, {run.folder} on "
            f"{', '.join(run.counts)}: runs of one comparison need the same dataset."
        )
    for name in common:
        ours, theirs = reference.counts[name], run.counts[name]
        if ours.class_names != theirs.class_names:
            raise UserError(
                f"{reference.folder} and {run.folder} know other classes of '{name}': they cannot "
                "be compared."
            )
        if ours.file_names != theirs.file_names:
            other = set(ours.file_names) ^ set(theirs.file_names)
            raise UserError(
                f"{reference.folder} and {run.folder} were evaluated on other images of '{name}' "
                f"({len(ours.file_names)} and {len(theirs.file_names)}; one of them alone has "
                f"{sorted(other)[0] if other else 'another order'}). Evaluate both on the same "
                "images."
            )


def _listed(values) -> str:
    return ", ".join(str(value) for value in values)


def compare(study: Study, dataset: str = "", *, num_resamples: int = 4000) -> dict:
    """The comparison as it is written to ``comparison.json``.

    Args:
        study: the runs.
        dataset: of the figures at the top; "" for the first. Those of the others are under
            "other_datasets".
        num_resamples: number of bootstrap samples.

    Returns:
        ``{"dataset", "baseline", "num_images", "classifiers": {label: {"seeds": [{"seed", "folder",
        "mIoU", "mACC", "pACC", "IoU": {class: value}}], "mean", "std", "cost", "curve"}},
        "differences": {label: {"mIoU": {"mean", "ci95", "seeds_that_gain", "per_seed"}, ...,
        "IoU-{class}": ...}}, "sentences": {label: text}, "iterations_to_baseline": {label: {"mean":
        iterations or None}}, "other_datasets": {name: the same}}``. All scores in per cent.

    Raises:
        UserError: no run was evaluated on ``dataset``.
    """
    known = study.datasets
    if not known:
        raise UserError("The runs have no dataset in common that all of them were evaluated on.")
    dataset = dataset or known[0]
    if dataset not in known:
        raise UserError(
            f"--dataset: the runs were not all evaluated on '{dataset}'; they were on "
            f"{', '.join(known)}.{suggest(dataset, known)}"
        )
    content = _of_dataset(study, dataset, num_resamples)
    content["other_datasets"] = {
        name: _of_dataset(study, name, num_resamples) for name in known if name != dataset
    }
    return content


def _of_dataset(study: Study, dataset: str, num_resamples: int) -> dict:
    first = study.runs[study.baseline][0].counts[dataset]
    names = metric_names(first.class_names)
    differences = {
        label: _differences(study, label, dataset, names, num_resamples)
        for label in study.runs
        if label != study.baseline
    }
    return {
        "dataset": dataset,
        "baseline": study.baseline,
        "num_images": len(first.file_names),
        "classifiers": {label: _scores(runs, dataset) for label, runs in study.runs.items()},
        "differences": {label: values for label, (values, _) in differences.items()},
        "sentences": {label: text for label, (_, text) in differences.items()},
        "iterations_to_baseline": {
            label: _iterations_to_baseline(study, label, dataset) for label in study.runs
        },
    }


def _scores(runs: Sequence[StudyRun], dataset: str) -> dict:
    values = np.array([run.metrics(dataset) for run in runs])
    spread = values.std(0, ddof=1) if len(runs) > 1 else np.full(values.shape[1], np.nan)
    classes = runs[0].counts[dataset].class_names
    seeds = [
        {
            "seed": run.seed,
            "folder": str(run.folder),
            **dict(zip(MEANS, row[:3].tolist())),
            "IoU": dict(zip(classes, row[3:].tolist())),
        }
        for run, row in zip(runs, values)
    ]
    return {
        "seeds": seeds,
        "mean": dict(zip(MEANS, values.mean(0)[:3].tolist())),
        "std": dict(zip(MEANS, spread[:3].tolist())),
        "cost": _mean_cost(runs),
        "curve": _curve(runs, dataset),
    }


def _mean_cost(runs: Sequence[StudyRun]) -> dict[str, float]:
    """Means over the runs of what each of them measured."""
    costs = [read_cost(run.folder) for run in runs]
    keys = dict.fromkeys(key for cost in costs for key in cost)
    return {
        key: float(np.mean([cost[key] for cost in costs if key in cost]))
        for key in keys
        if all(isinstance(cost.get(key, 0), (int, float)) for cost in costs)
    }


def _curve(runs: Sequence[StudyRun], dataset: str) -> dict:
    """Iterations that all runs were evaluated at, with mean and extremes of mIoU."""
    curves = [run.curve(dataset) for run in runs]
    iterations = sorted(set.intersection(*(set(curve) for curve in curves)))
    values = np.array([[curve[i] for i in iterations] for curve in curves])
    return {
        "iterations": iterations,
        "mean": values.mean(0).tolist(),
        "low": values.min(0).tolist() if iterations else [],
        "high": values.max(0).tolist() if iterations else [],
    }


def _differences(
    study: Study, label: str, dataset: str, names: Sequence[str], num_resamples: int
) -> tuple[dict, str]:
    pairs = study.pairs(label)
    baseline, other = (
        np.stack([pair[side].counts[dataset].counts for pair in pairs]) for side in (0, 1)
    )
    found = paired_differences(
        baseline,
        other,
        num_resamples=num_resamples,
        absent_classes=pairs[0][0].absent_classes,
    )
    values = {
        name: {
            "mean": item.mean,
            "ci95": [item.low, item.high],
            "seeds_that_gain": item.share_of_seeds_that_gain,
            "per_seed": dict(zip((str(pair[1].seed) for pair in pairs), item.per_seed)),
        }
        for name, item in zip(names, found)
    }
    return values, sentence(found[0])


def _iterations_to_baseline(study: Study, label: str, dataset: str) -> dict[str, float | None]:
    """Iterations after which the mean curve reaches the baseline's final mean, linearly between."""
    target = _curve(study.runs[study.baseline], dataset)["mean"]
    curve = _curve(study.runs[label], dataset)
    if not target or not curve["mean"]:
        return {"mean": None}
    points = list(zip(curve["iterations"], curve["mean"]))
    for (before, low), (after, high) in zip([(points[0][0], -math.inf), *points], points):
        if high >= target[-1]:
            share = 1.0 if math.isinf(low) else (target[-1] - low) / (high - low)
            return {"mean": before + share * (after - before)}
    return {"mean": None}


def markdown_table(content: Mapping) -> str:
    """A row for each classifier: scores, difference with interval, cost."""
    tables = [_table_of(content)]
    tables += [_table_of(other) for other in content.get("other_datasets", {}).values()]
    return "\n\n".join(tables)


def _table_of(content: Mapping) -> str:
    rows = []
    for label, scores in content["classifiers"].items():
        difference = content["differences"].get(label, {}).get("mIoU")
        rows.append(
            [
                label,
                len(scores["seeds"]),
                _with_spread(scores, "mIoU"),
                "baseline" if difference is None else _with_interval(difference),
                _with_spread(scores, "mACC"),
                _with_spread(scores, "pACC"),
                *cost_cells(scores["cost"]),
            ]
        )
    headers = ["classifier", "seeds", "mIoU", "difference [95 %]", "mACC", "pACC"]
    headers += ["parameters", "s / iteration", "ms / image", "peak memory"]
    table = tabulate(rows, headers=headers, tablefmt="pipe", disable_numparse=True)
    return f"{content['dataset']} ({content['num_images']} images):\n\n{table}"


def _with_spread(scores: Mapping, metric: str) -> str:
    spread = scores["std"][metric]
    text = f"{scores['mean'][metric]:.2f}"
    return text if spread is None or math.isnan(spread) else f"{text} ± {spread:.2f}"


def _with_interval(difference: Mapping) -> str:
    low, high = difference["ci95"]
    return f"{difference['mean']:+.2f} [{low:+.2f}, {high:+.2f}]"


def cost_cells(cost: Mapping[str, float]) -> list[str]:
    formats = (
        ("test_parameters", lambda value: f"{value / 1e6:.2f} M"),
        ("seconds_per_iteration", lambda value: f"{value:.3f}"),
        ("seconds_per_image", lambda value: f"{1000 * value:.1f}"),
        ("peak_memory_bytes", lambda value: f"{value / 2**20:.0f} MiB"),
    )
    return [show(cost[key]) if key in cost else "–" for key, show in formats]
