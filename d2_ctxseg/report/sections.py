"""The sections about complete runs: results, training curves, configurations."""

import math
from collections.abc import Sequence

import yaml

from .charts import Series, line_chart
from .html import format_number
from .run import Evaluation, Run, flattened

TASK_TITLES = {
    "sem_seg": "single-scale",
    "sem_seg_EMA": "EMA weights",
    "sem_seg_TTA": "multi-scale and flip",
}
_ANOMALY_METRICS = ("AUROC", "AP", "FPR95")
_MAIN_KEYS = (
    "MODEL.META_ARCHITECTURE",
    "MODEL.BACKBONE.NAME",
    "MODEL.ENCODER.NAME",
    "MODEL.SEM_SEG_HEAD.NAME",
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES",
    "DATASETS.TRAIN",
    "SOLVER.OPTIMIZER",
    "SOLVER.BASE_LR",
    "SOLVER.IMS_PER_BATCH",
    "SOLVER.MAX_ITER",
    "INPUT.CROP.SIZE",
    "SEED",
)


def task_title(task: str) -> str:
    """The name of an evaluation's task in the page."""
    return TASK_TITLES.get(task, task)


def dataset_names(runs: Sequence[Run]) -> list[str]:
    """The datasets that at least one run was evaluated on, each once."""
    return list(dict.fromkeys(dataset for run in runs for dataset in run.evaluations))


def results(runs: Sequence[Run]) -> dict:
    """A row per dataset, task and run, with the means and their differences."""
    evaluated = [
        (run, run.evaluations[dataset][task])
        for dataset, tasks in _tasks_of_datasets(runs).items()
        for task in tasks
        for run in runs
        if task in run.evaluations.get(dataset, {})
    ]
    several = len(runs) > 1
    several_tasks = any(len(t) > 1 for run in runs for t in run.evaluations.values())
    # Single-scale is what a reader expects; any other evaluation is named.
    names_task = any(evaluation.task != "sem_seg" for _, evaluation in evaluated)
    shown = {"mIoU": True, "Δ to single-scale": several_tasks, "Δ to first run": several}
    shown |= dict.fromkeys(("fwIoU", "mACC", "pACC", "images"), True)
    rows = []
    for run, evaluation in evaluated:
        numbers = _numbers(run, evaluation, runs)
        rows.append(
            {
                "dataset": evaluation.dataset,
                "run": run.name,
                "evaluation": task_title(evaluation.task),
                "numbers": [
                    (numbers[name], 0 if name == "images" else 2, name.startswith("Δ"))
                    for name, is_shown in shown.items()
                    if is_shown
                ],
            }
        )
    texts = ["dataset", *["run"] * several, *["evaluation"] * names_task]
    headers = texts + [[name] for name, is_shown in shown.items() if is_shown]
    return {"results": rows, "result_headers": headers, "names_task": names_task}


def anomalies(runs: Sequence[Run]) -> dict:
    """A row for each dataset, run and anomaly score: AUROC, AP, FPR95."""
    names = list(dict.fromkeys(dataset for run in runs for dataset in run.anomalies))
    rows = [
        {
            "dataset": dataset,
            "run": run.name,
            "score": score,
            "numbers": [metrics.get(f"{name}-{score}", math.nan) for name in _ANOMALY_METRICS],
        }
        for dataset in names
        for run in runs
        if dataset in run.anomalies
        for metrics in [run.anomalies[dataset].metrics]
        for score in dict.fromkeys(key.partition("-")[2] for key in metrics)
    ]
    texts = ["dataset", "run", "score"] if len(runs) > 1 else ["dataset", "score"]
    return {"anomalies": rows, "anomaly_headers": texts + [[name] for name in _ANOMALY_METRICS]}


def _tasks_of_datasets(runs: Sequence[Run]) -> dict[str, list[str]]:
    return {
        name: list(dict.fromkeys(task for run in runs for task in run.evaluations.get(name, ())))
        for name in dataset_names(runs)
    }


def _numbers(run: Run, evaluation: Evaluation, runs: Sequence[Run]) -> dict[str, float]:
    dataset, task, miou = evaluation.dataset, evaluation.task, _miou(evaluation)
    first = next(other for other in runs if dataset in other.evaluations)
    single_scale = run.evaluations[dataset].get("sem_seg") if task != "sem_seg" else None
    of_first = first.evaluations[dataset].get(task) if run is not first else None
    images = math.nan if evaluation.num_images is None else evaluation.num_images
    return {
        "mIoU": miou,
        "Δ to single-scale": miou - _miou(single_scale),
        "Δ to first run": miou - _miou(of_first),
        **{name: evaluation.metrics.get(name, math.nan) for name in ("fwIoU", "mACC", "pACC")},
        "images": images,
    }


def _miou(evaluation: Evaluation | None) -> float:
    return math.nan if evaluation is None else evaluation.metrics.get("mIoU", math.nan)


def curves(runs: Sequence[Run]) -> list[dict]:
    """A chart for each mIoU, loss and rate that was recorded, with a line a run."""
    found = []
    for name in _curves_in_order(runs):
        is_score = name.endswith("/mIoU")
        series = [
            Series(run.name, index, list(run.curves[name]), list(run.curves[name].values()))
            for index, run in enumerate(runs)
            if name in run.curves
        ]
        chart = line_chart(series, marks=is_score)
        if chart is not None:
            remarks = [
                {"name": line.name, "index": line.index, "text": _remark(line, is_score)}
                for line in series
            ]
            found.append({"title": _curve_title(name), "chart": chart, "remarks": remarks})
    return found


def _curves_in_order(runs: Sequence[Run]) -> list[str]:
    """mIoU of the datasets, the total loss, its parts, the learning rate."""
    names = sorted({name for run in runs for name in run.curves})
    scores = [name for name in names if name.endswith("/mIoU")]
    known = [
        f"{dataset}/{task}/mIoU"
        for dataset, tasks in _tasks_of_datasets(runs).items()
        for task in tasks
    ]
    losses = [name for name in names if name.startswith("loss")]
    wanted = [*(name for name in known if name in scores), *scores, "total_loss", *losses, "lr"]
    return [name for name in dict.fromkeys(wanted) if name in names]


def _curve_title(name: str) -> str:
    titles = {"total_loss": "total loss", "lr": "learning rate"}
    if name.endswith("/mIoU") and name.count("/") == 2:
        dataset, task, _ = name.split("/")
        return f"mIoU, {dataset}, {task_title(task)}"
    return titles.get(name, name)


def _remark(line: Series, is_score: bool) -> str:
    """The best value of a score, the last one of a loss."""
    finite = [(y, x) for x, y in zip(line.x, line.y) if math.isfinite(y)]
    dropped = len(line.y) - len(finite)
    text = "no finite value"
    if finite and is_score:
        # The earliest of equal ones.
        best, iteration = max(finite, key=lambda point: (point[0], -point[1]))
        text = f"best {format_number(best)} at {iteration}"
    elif finite:
        text = f"last {finite[-1][0]:.4g}"
    return text + (f" ({dropped} values are not finite)" if finite and dropped else "")


def configuration(runs: Sequence[Run]) -> dict:
    """The main keys of the runs' configs and all in which they differ; and the whole files."""
    known = [run for run in runs if run.config]
    flat = {run.name: flattened(run.config) for run in known}
    keys = dict.fromkeys(key for values in flat.values() for key in values)
    main = [key for key in _MAIN_KEYS if key in keys]
    differing = [key for key in keys if len({repr(v.get(key)) for v in flat.values()}) > 1]
    differing = [key for key in differing if key != "OUTPUT_DIR" and key not in main]
    files = {
        run.name: yaml.safe_dump(run.config, default_flow_style=None, allow_unicode=True)
        for run in known
    }
    return {"configs": flat, "config_keys": main + differing, "config_files": files}
