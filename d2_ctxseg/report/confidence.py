"""The section of the page about confidences: reliability, and risk against coverage."""

from collections.abc import Sequence

import numpy as np

from ..evaluation.calibration_file import Calibration
from .charts import Series, line_chart
from .run import Run
from .sections import task_title

# Bins with a smaller share of the pixels are not drawn: their accuracy is chance.
_LEAST_SHARE = 1e-3
# Of the table, as shares of the pixels.
_COVERAGES = (1.0, 0.9, 0.8, 0.5)
# The grey of the palette.
_IDEAL = Series("accuracy = confidence", 7, (0, 100), (0, 100))


def confidence_section(dataset: str, runs: Sequence[Run]) -> dict | None:
    """The confidences of all runs and tasks on one dataset; None if none was evaluated.

    Args:
        dataset: its name.
        runs: all that were evaluated on it.
    """
    found = [
        (run.name, evaluation.task, evaluation.calibration)
        for run in runs
        for evaluation in run.evaluations[dataset].values()
        if evaluation.calibration is not None
    ]
    if not found:
        return None
    names = _names([(run, task) for run, task, _ in found], several_runs=len(runs) > 1)
    lines = [(name, index, found[index][2]) for index, name in enumerate(names)]
    several = len(lines) > 1
    numbers = ["ECE", "AURC", *(f"errors at {100 * share:g} %" for share in _COVERAGES)]
    return {
        "lines": [(name, index) for name, index, _ in lines] if several else [],
        "reliability": line_chart([_IDEAL, *(_reliability(*line) for line in lines)], marks=True),
        "risk": line_chart([_risk(*line) for line in lines]),
        "headers": ["evaluation"] * several + [[name] for name in numbers],
        "rows": [
            {"name": name if several else None, "numbers": _row(one)} for name, _, one in lines
        ],
    }


def _names(evaluations: Sequence[tuple[str, str]], *, several_runs: bool) -> list[str]:
    """Of pairs of run and task: as much as tells them from each other."""
    several_tasks = any(task != "sem_seg" for _, task in evaluations)
    return [
        ", ".join([run] * several_runs + [task_title(task)] * several_tasks) or run
        for run, task in evaluations
    ]


def _reliability(name: str, index: int, calibration: Calibration) -> Series:
    diagram = calibration.reliability
    shown = diagram.share >= _LEAST_SHARE
    x, y = 100 * diagram.confidence[shown], 100 * diagram.accuracy[shown]
    return Series(name, index, x.tolist(), y.tolist())


def _risk(name: str, index: int, calibration: Calibration) -> Series:
    x, y = 100 * calibration.coverage, 100 * calibration.risk
    return Series(name, index, x.tolist(), y.tolist())


def _row(calibration: Calibration) -> list[float]:
    risks = np.interp(_COVERAGES, calibration.coverage, calibration.risk)
    return [*(calibration.metrics[name] for name in ("ECE", "AURC")), *(100 * risks)]
