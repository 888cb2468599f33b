"""The parts of the page about whole runs: results, training curves, configurations."""

import math
from collections.abc import Sequence

import yaml

from .charts import NUM_COLORS, Series, line_chart
from .markup import Markup, format_number, join, note, number_cell, number_header, table, tag
from .run import Evaluation, Run, flattened

TASK_TITLES = {
    "sem_seg": "single-scale",
    "sem_seg_EMA": "averaged weights",
    "sem_seg_TTA": "multi-scale and flip",
}
_SUMMARY_METRICS = ("fwIoU", "mACC", "pACC")
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
_LONGEST_VALUE = 200


def task_title(task: str) -> str:
    """What a task of an evaluation is called in the page."""
    return TASK_TITLES.get(task, task)


def dataset_names(runs: Sequence[Run]) -> list[str]:
    """All datasets that a run was evaluated on, each once."""
    return list(dict.fromkeys(dataset for run in runs for dataset in run.evaluations))


def results_section(runs: Sequence[Run]) -> Markup:
    """A row for each dataset, task and run: the means, and how they differ."""
    evaluated = [
        (run, run.evaluations[dataset][task])
        for dataset, tasks in _tasks_of_datasets(runs).items()
        for task in tasks
        for run in runs
        if task in run.evaluations.get(dataset, {})
    ]
    hidden = set()
    if len(runs) == 1:
        hidden |= {"run", _TO_FIRST}
    if all(len(tasks) == 1 for run in runs for tasks in run.evaluations.values()):
        hidden.add(_TO_SINGLE_SCALE)
    content = []
    if evaluated:
        rows = [_result_row(run, evaluation, runs) for run, evaluation in evaluated]
        shown = [name for name in rows[0] if name not in hidden]
        headers = [n if n in _TEXT_COLUMNS else number_header(n) for n in shown]
        cells = [[row[name] for name in shown] for row in rows]
        content.append(table(headers, cells, class_="sortable"))
        content.append(tag("p", _EXPLANATION, class_="pale"))
    notes = [
        note(text if len(runs) == 1 else f"{run.name}: {text}")
        for run in runs
        for text in run.notes
    ]
    return tag("section", tag("h2", "Results"), *content, *notes, id="results")


_TO_SINGLE_SCALE, _TO_FIRST = "Δ to single-scale", "Δ to first run"
_TEXT_COLUMNS = ("dataset", "run", "evaluation")
_EXPLANATION = (
    "In per cent. mIoU is the mean of the classes' intersection over union, fwIoU weights them by "
    "their pixels, mACC is the mean of the classes' accuracies, and pACC the share of all labelled "
    "pixels that are right."
)


def _tasks_of_datasets(runs: Sequence[Run]) -> dict[str, list[str]]:
    return {
        name: list(dict.fromkeys(task for run in runs for task in run.evaluations.get(name, ())))
        for name in dataset_names(runs)
    }


def _result_row(run: Run, evaluation: Evaluation, runs: Sequence[Run]) -> dict[str, Markup]:
    dataset, task, miou = evaluation.dataset, evaluation.task, _miou(evaluation)
    first = next(other for other in runs if dataset in other.evaluations)
    gains = {_TO_SINGLE_SCALE: math.nan, _TO_FIRST: math.nan}
    if task != "sem_seg":
        gains[_TO_SINGLE_SCALE] = miou - _miou(run.evaluations[dataset].get("sem_seg"))
    if run is not first:
        gains[_TO_FIRST] = miou - _miou(first.evaluations[dataset].get(task))
    values = {name: evaluation.metrics.get(name, math.nan) for name in _SUMMARY_METRICS}
    images = math.nan if evaluation.num_images is None else evaluation.num_images
    return {
        "dataset": tag("td", dataset, class_="value"),
        "run": tag("td", run.name, class_="value"),
        "evaluation": tag("td", task_title(task)),
        "mIoU": number_cell(miou),
        **{name: number_cell(value, signed=True) for name, value in gains.items()},
        **{name: number_cell(value) for name, value in values.items()},
        "images": number_cell(images, 0),
    }


def _miou(evaluation: Evaluation | None) -> float:
    return math.nan if evaluation is None else evaluation.metrics.get("mIoU", math.nan)


def training_section(runs: Sequence[Run]) -> Markup | None:
    """A chart for each mIoU, loss and rate that was recorded, with a line a run."""
    figures = [_curve(name, runs) for name in _curves_in_order(runs)]
    figures = [figure for figure in figures if figure is not None]
    if not figures:
        return None
    return tag(
        "section",
        tag("h2", "Training"),
        run_legend(runs) if len(runs) > 1 else None,
        tag("div", *figures, class_="grid"),
        tag("p", "Over iterations. Long curves are means of neighbouring points.", class_="pale"),
        id="training",
    )


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


def run_legend(runs: Sequence[Run]) -> Markup:
    """The runs' names with the colours of their lines."""
    items = [tag("li", _key(index), run.name) for index, run in enumerate(runs)]
    return tag("ul", *items, class_="legend")


def _key(index: int) -> Markup:
    return tag("span", class_=f"key series-{index % NUM_COLORS}")


def _curve(name: str, runs: Sequence[Run]) -> Markup | None:
    is_score = name.endswith("/mIoU")
    series = [
        Series(run.name, index, list(run.curves[name]), list(run.curves[name].values()))
        for index, run in enumerate(runs)
        if name in run.curves
    ]
    chart = line_chart(series, marks=is_score)
    if chart is None:
        return None
    remarks = [_remark(line, is_score, len(runs) > 1) for line in series]
    caption = tag("figcaption", _curve_title(name), tag("br"), tag("small", join(remarks, ", ")))
    return tag("figure", caption, chart)


def _curve_title(name: str) -> str:
    titles = {"total_loss": "total loss", "lr": "learning rate"}
    if name.endswith("/mIoU") and name.count("/") == 2:
        dataset, task, _ = name.split("/")
        return f"mIoU, {dataset}, {task_title(task)}"
    return titles.get(name, name)


def _remark(line: Series, is_score: bool, several: bool) -> Markup:
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
    if finite and dropped:
        text += f" ({dropped} values are not finite)"
    return join([_key(line.index) if several else "", text])


def configuration_section(runs: Sequence[Run]) -> Markup | None:
    """The main keys of the runs' configs, all keys in which they differ, and all of them."""
    flat = {run.name: flattened(run.config) for run in runs if run.config}
    if not flat:
        return None
    keys = dict.fromkeys(key for values in flat.values() for key in values)
    main = [key for key in _MAIN_KEYS if key in keys]
    differing = [key for key in keys if len({repr(v.get(key)) for v in flat.values()}) > 1]
    differing = [key for key in differing if key != "OUTPUT_DIR" and key not in main]
    rows = [
        [
            tag("th", tag("code", key), scope="row"),
            *(value_cell(v.get(key)) for v in flat.values()),
        ]
        for key in main + differing
    ]
    headers = ["key", *flat] if len(flat) > 1 else ["key", "value"]
    details = [
        tag(
            "details",
            tag("summary", f"config.yaml of {run.name}"),
            tag("pre", yaml.safe_dump(run.config, default_flow_style=None, allow_unicode=True)),
        )
        for run in runs
        if run.config
    ]
    explanation = "The main keys, and all that differ." if len(flat) > 1 else None
    return tag(
        "section",
        tag("h2", "Configuration"),
        tag("p", explanation, class_="pale") if explanation else None,
        table(headers, rows) if rows else None,
        *details,
        id="configuration",
    )


def value_cell(value) -> Markup:
    """A ``<td>`` with a value of a config, "–" for None; very long ones are cut."""
    text = "–" if value is None else str(value)
    if len(text) > _LONGEST_VALUE:
        text = text[: _LONGEST_VALUE - 1] + "…"
    return tag("td", text, class_="value")
