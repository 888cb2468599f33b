"""Reads the folder of a run.

Missing and damaged files are left out, and a line in ``notes`` names each.
"""

import csv
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml

from ..evaluation.calibration_file import FILE_NAME as CALIBRATION_FILE
from ..evaluation.calibration_file import Calibration
from ..utils.errors import MissingFileError, UserError

# The task of evaluation/anomaly_evaluator.py, which has other metrics.
ANOMALY = "anomaly"
TASKS = ("sem_seg", "sem_seg_EMA", "sem_seg_TTA")
_CLASS_COLUMNS = ("class", "IoU", "ACC", "truth_pixels", "predicted_pixels")


@dataclass(frozen=True)
class ClassScore:
    """Scores of a class in per cent, NaN where it does not occur; pixels are NaN if unknown."""

    name: str
    iou: float
    accuracy: float
    boundary_iou: float = math.nan
    truth_pixels: float = math.nan
    predicted_pixels: float = math.nan


@dataclass(frozen=True)
class Example:
    """An image among the worst or the best, with the file of its predicted class indices."""

    file_name: str
    sem_seg_file_name: str
    miou: float
    kind: str
    prediction: Path


@dataclass
class Evaluation:
    """Results of one task ("sem_seg", "sem_seg_TTA", ...) on one dataset.

    Attributes:
        metrics: metrics in per cent, NaN for null.
        weights: the checkpoint that was evaluated, "" if unknown.
        num_images: None if unknown.
        classes: classes in the order of their indices.
        confusion: int64 (K + 1, K + 1), rows predicted, columns true, the last ones ignored.
        image_scores: mIoU of each labelled image in per cent.
        examples: the worst images, then the best.
        calibration: calibration of the confidences; None if not evaluated.
        notes: notes on missing parts.
    """

    dataset: str
    task: str
    metrics: dict[str, float]
    weights: str = ""
    num_images: int | None = None
    classes: list[ClassScore] = field(default_factory=list)
    confusion: np.ndarray | None = None
    image_scores: list[float] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    calibration: Calibration | None = None
    notes: list[str] = field(default_factory=list)


@dataclass
class Run:
    """A folder that train_net.py wrote.

    Attributes:
        name: displayed name.
        config: the content of config.yaml; empty if there is none.
        curves: name of a scalar -> {iteration: value}; results are named "dataset/task/metric".
        evaluations: dataset -> task -> evaluation, in the order of the config.
        anomalies: dataset -> results of the anomaly scores.
        notes: notes on missing parts.
    """

    name: str
    folder: Path
    config: dict
    curves: dict[str, dict[int, float]]
    evaluations: dict[str, dict[str, Evaluation]]
    notes: list[str]
    anomalies: dict[str, Evaluation] = field(default_factory=dict)


def read_run(folder: Path) -> Run:
    """Read the folder of a run.

    Raises:
        MissingFileError: there is no such folder.
        UserError: the folder holds no file of a run.
    """
    if not folder.is_dir():
        raise MissingFileError(f"'{folder}' is not a folder; expected the OUTPUT_DIR of a run.")
    known = ("config.yaml", "metrics.json", "evaluation.json", "inference")
    if not any((folder / name).exists() for name in known):
        raise UserError(
            f"'{folder}' is not the folder of a run: it has none of {', '.join(known)}. "
            "Name the OUTPUT_DIR of a training."
        )
    notes: list[str] = []
    config = _read(folder / "config.yaml", _read_config, notes, "configuration") or {}
    datasets = _test_datasets(config)
    evaluations = _read_evaluations(folder, datasets, notes)
    anomalies = {
        name: tasks.pop(ANOMALY) for name, tasks in evaluations.items() if ANOMALY in tasks
    }
    evaluations = {name: tasks for name, tasks in evaluations.items() if tasks}
    curves = _read(folder / "metrics.json", _read_curves, notes, "training curves") or {}
    if len(datasets) == 1:
        # Detectron2 leaves the name out where a run has one dataset.
        curves = {_with_dataset(key, datasets[0]): values for key, values in curves.items()}
    return Run(folder.resolve().name, folder, config, curves, evaluations, notes, anomalies)


def number(value) -> float:
    """A number, text of one, None or "" (NaN) as a float; ValueError for anything else."""
    if value is None or value == "":
        return math.nan
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        return float(value)
    raise ValueError(f"{value!r} is not a number")


def flattened(config: dict, prefix: str = "") -> dict[str, object]:
    """A nested config as {"MODEL.DEVICE": value, ...}."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _read(path: Path, reader: Callable, notes: list[str], what: str):
    """What ``reader`` makes of a file; None, and a line in ``notes``, if it is not possible."""
    if not path.is_file():
        notes.append(f"No {what}: {path} does not exist.")
        return None
    try:
        return reader(path)
    except (OSError, EOFError, ValueError, csv.Error, yaml.YAMLError) as error:
        notes.append(f"No {what}: {path} cannot be read ({' '.join(str(error).split())}).")
        return None


def _read_config(path: Path) -> dict:
    return _mapping(yaml.safe_load(path.read_text(encoding="utf-8")))


def _test_datasets(config: dict) -> list[str]:
    datasets = config.get("DATASETS")
    names = datasets.get("TEST") if isinstance(datasets, dict) else None
    return [str(name) for name in names] if isinstance(names, (list, tuple)) else []


def _read_curves(path: Path) -> dict[str, dict[int, float]]:
    """A resumed run has some iterations twice: the later one counts."""
    curves: dict[str, dict[int, float]] = {}
    lines = path.read_text(encoding="utf-8").splitlines()
    for position, line in enumerate(lines, start=1):
        try:
            row = _mapping(json.loads(line))
        except ValueError:
            if position == len(lines):  # the program was ended while it wrote this line
                break
            raise
        iteration = row.pop("iteration", None)
        if not isinstance(iteration, int):
            continue
        for key, value in row.items():
            if isinstance(value, (int, float)):
                curves.setdefault(key, {})[iteration] = float(value)
    if not curves:
        raise ValueError("it holds no values")
    return {key: dict(sorted(values.items())) for key, values in curves.items()}


def _with_dataset(key: str, dataset: str) -> str:
    return f"{dataset}/{key}" if key.count("/") == 1 else key


def _read_evaluations(folder: Path, datasets: list[str], notes: list[str]) -> dict:
    """From the folders under inference/, or else the scores in evaluation.json."""
    found: dict[tuple[str, str], Evaluation] = {}
    paths = (folder / "inference").glob("*/*/results.json")
    for path in sorted(paths, key=lambda path: (path.stat().st_mtime, path)):
        evaluation = _read(path, _read_evaluation, notes, f"results of {path.parent.name}")
        if evaluation is not None:
            found[evaluation.dataset, evaluation.task] = evaluation
    if not found:
        path = folder / "evaluation.json"
        summary = _read(path, _read_summary, notes, "results")
        found = {(item.dataset, item.task): item for item in summary or []}
    return _in_order(_of_last_weights(found, notes), datasets)


def _of_last_weights(found: dict, notes: list[str]) -> dict:
    """Without tasks that other weights were evaluated for than the latest of their dataset.

    Args:
        found: evaluations by dataset and task, the latest last.
    """
    last = {dataset: evaluation.weights for (dataset, _), evaluation in found.items()}
    kept = {key: item for key, item in found.items() if item.weights == last[key[0]]}
    for dataset, task in found.keys() - kept.keys():
        notes.append(
            f"No {task} on {dataset}: it is of {found[dataset, task].weights or 'other weights'}, "
            f"the latest evaluation of {last[dataset] or 'those of this run'}."
        )
    return kept


def _in_order(found: dict[tuple[str, str], Evaluation], datasets: list[str]) -> dict:
    def place(names, name):
        return (names.index(name) if name in names else len(names)), name

    ordered: dict[str, dict[str, Evaluation]] = {}
    for key in sorted(found, key=lambda key: (place(datasets, key[0]), place(TASKS, key[1]))):
        dataset, task = key
        ordered.setdefault(dataset, {})[task] = found[key]
    return ordered


def _read_summary(path: Path) -> list[Evaluation]:
    """The first entry of evaluation.json: train_net.py enters the final model first."""
    content = _mapping(json.loads(path.read_text(encoding="utf-8")))
    weights = next(iter(content), "")
    note = (
        f"Only the scores of {weights} in {path} are known. Evaluate it again with --eval-only for "
        "pixels per class, confusions, and the worst and the best images."
    )
    evaluations = []
    for dataset, tasks in _mapping(content.get(weights, {})).items():
        for task, values in _mapping(tasks).items():
            metrics = _metrics(values)
            classes = _named_classes(metrics)
            evaluations.append(Evaluation(dataset, task, metrics, classes=classes, notes=[note]))
    return evaluations


def _read_evaluation(path: Path) -> Evaluation:
    folder = path.parent
    content = _mapping(json.loads(path.read_text(encoding="utf-8")))
    metrics, notes = _metrics(content.get("metrics")), []
    count = content.get("num_images")
    evaluation = Evaluation(
        str(content.get("dataset", folder.name)),
        str(content.get("task", folder.parent.name)),
        metrics,
        weights=str(content.get("weights", "")),
        num_images=count if isinstance(count, int) else None,
        notes=notes,
    )
    classes = _read(folder / "classes.csv", _read_classes, notes, "pixels per class")
    evaluation.classes = classes or _named_classes(metrics)
    size = len(evaluation.classes) + 1
    matrix = _read(
        folder / "confusion_matrix.npy", lambda p: _read_confusion(p, size), notes, "confusions"
    )
    evaluation.confusion = matrix
    scores = _read(folder / "images.csv", _read_image_scores, notes, "scores per image")
    evaluation.image_scores = scores or []
    examples = folder / "examples" / "examples.json"
    evaluation.examples = _read(examples, _read_examples, notes, "worst and best images") or []
    calibration = folder / CALIBRATION_FILE
    if calibration.is_file():
        evaluation.calibration = _read(calibration, Calibration.read, notes, "confidences")
    return evaluation


def _metrics(values) -> dict[str, float]:
    return {str(key): number(value) for key, value in _mapping(values).items()}


def _named_classes(metrics: Mapping[str, float]) -> list[ClassScore]:
    names = [key.removeprefix("IoU-") for key in metrics if key.startswith("IoU-")]
    return [
        ClassScore(
            name,
            metrics[f"IoU-{name}"],
            metrics.get(f"ACC-{name}", math.nan),
            metrics.get(f"BoundaryIoU-{name}", math.nan),
        )
        for name in names
    ]


def _read_classes(path: Path) -> list[ClassScore]:
    rows = _read_table(path, _CLASS_COLUMNS)
    return [
        ClassScore(
            row["class"],
            number(row["IoU"]),
            number(row["ACC"]),
            number(row.get("BoundaryIoU")),
            number(row["truth_pixels"]),
            number(row["predicted_pixels"]),
        )
        for row in rows
    ]


def _read_image_scores(path: Path) -> list[float]:
    scores = [number(row["mIoU"]) for row in _read_table(path, ("file_name", "mIoU"))]
    return [score for score in scores if math.isfinite(score)]


def _read_confusion(path: Path, size: int) -> np.ndarray:
    matrix = np.load(path, allow_pickle=False)
    if matrix.shape != (size, size) or not np.issubdtype(matrix.dtype, np.integer):
        raise ValueError(f"expected integers of shape {(size, size)}, not {matrix.shape}")
    return matrix


def _read_examples(path: Path) -> list[Example]:
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, list):
        raise ValueError("expected a list")
    examples = []
    for entry in map(_mapping, content):
        names = [str(entry.get(key) or "") for key in ("file_name", "sem_seg_file_name", "kind")]
        # The images lie in the folder of the list, whatever folder their names say.
        prediction = path.with_name(Path(str(entry.get("prediction") or "none")).name)
        examples.append(
            Example(names[0], names[1], number(entry.get("mIoU")), names[2], prediction)
        )
    return sorted(examples, key=lambda example: example.kind == "best")


def _read_table(path: Path, columns: Iterable[str]) -> list[dict]:
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        missing = [name for name in columns if name not in (reader.fieldnames or [])]
        if missing:
            raise ValueError(f"it has no column {', '.join(missing)}")
        return list(reader)


def _mapping(value) -> dict:
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, not {type(value).__name__}")
    return value
