"""Computes charts for the page's template: intervals, and curves with bands."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..report.charts import Chart, Scale, axes_of, axis_text, path, scale_of, ticks
from ..report.html import NUM_COLORS, format_number

_WIDTH, _SIDE, _ROW, _TOP, _BOTTOM = 420, 20, 40, 6, 26
# Whiskers end in an arrow where they are this many times as long as any difference of two runs.
_LONGEST_WHISKER = 3


@dataclass(frozen=True)
class Whisker:
    """A row of a whisker chart.

    Attributes:
        name: above it.
        index: index of its colour.
        mean, low, high: the dot and the limits of the interval.
        points: small dots, one a seed.
    """

    name: str
    index: int
    mean: float
    low: float
    high: float
    points: Sequence[float] = ()

    @property
    def is_known(self) -> bool:
        """Whether all numbers are finite."""
        return bool(np.isfinite([self.mean, self.low, self.high]).all())

    @property
    def text(self) -> str:
        """``+1.30 [+0.40, +2.20]``."""
        mean, low, high = (
            format_number(value, signed=True) for value in (self.mean, self.low, self.high)
        )
        return f"{mean} [{low}, {high}]"


@dataclass(frozen=True)
class BandChart(Chart):
    """Lines with bands; ``level`` is where the baseline ends, or None."""

    level: dict | None = None


def whisker_chart(rows: Sequence[Whisker], beside: Sequence[Whisker] = ()) -> dict | None:
    """Differences with their intervals beside a line at zero; None without a finite one.

    The dot of an interval that holds zero is hollow.

    Args:
        rows: the rows from top to bottom.
        beside: rows of another chart, which gets the same scale.
    """
    rows = [row for row in rows if row.is_known]
    if not rows:
        return None
    x = _whisker_scale([*rows, *(row for row in beside if row.is_known)])
    bottom = _TOP + _ROW * len(rows)
    return {
        "width": _WIDTH,
        "height": bottom + _BOTTOM,
        "axes": None,
        "top": _TOP,
        "bottom": bottom,
        "left": x.start,
        "right": x.end,
        "zero": x(0),
        "ticks": [(x(value), axis_text(value)) for value in ticks(x.low, x.high, 6)],
        "rows": [_whisker(row, x, _TOP + _ROW * place + 23) for place, row in enumerate(rows)],
    }


def _whisker_scale(rows: Sequence[Whisker]) -> Scale:
    """From the lowest to the highest, zero included; very long intervals do not count in full."""
    values = np.array([0.0, *(v for row in rows for v in (row.mean, *row.points))])
    ends = np.array([v for row in rows for v in (row.low, row.high)])
    reach = _LONGEST_WHISKER * np.nanmax(np.abs(values))
    if reach > 0:
        ends = np.clip(ends, -reach, reach)
    values = np.concatenate([values[np.isfinite(values)], ends])
    return scale_of(values, _SIDE, _WIDTH - _SIDE)


def _whisker(row: Whisker, x: Scale, y: float) -> dict:
    low, high = max(row.low, x.low), min(row.high, x.high)
    # With one seed its dot would be the mean's.
    points = [point for point in row.points if np.isfinite(point)] if len(row.points) > 1 else []
    return {
        "name": row.name,
        "text": row.text,
        "index": row.index % NUM_COLORS,
        "y": y,
        "low": x(low),
        "high": x(high),
        "ends": [(x(low), -(low > row.low)), (x(high), int(high < row.high))],
        "mean": x(row.mean),
        "points": [x(point) for point in points],
        "excludes_zero": row.low > 0 or row.high < 0,
    }


def band_chart(curves: Mapping[str, Mapping], baseline: str = "") -> BandChart | None:
    """Means over iterations with the range over seeds.

    Args:
        curves: name -> "iterations", "mean", "low" and "high" (lists of equal length).
        baseline: the curve whose last mean is drawn as a dashed line.

    Returns:
        None if no curve has a point.
    """
    known = {name: curve for name, curve in curves.items() if curve["iterations"]}
    if not known:
        return None
    limits = np.concatenate([curve[key] for curve in known.values() for key in ("low", "high")])
    iterations = np.concatenate([curve["iterations"] for curve in known.values()])
    axes = axes_of(iterations, limits, _WIDTH, 240)
    level = None
    if baseline in known:
        title = f"the score that {baseline} ends with"
        level = {"y": axes.y(known[baseline]["mean"][-1]), "title": title}
    bands = [_band(name, curve, axes, list(curves).index(name)) for name, curve in known.items()]
    return BandChart(_WIDTH, 240, axes, bands, level)


def _band(name: str, curve: Mapping, axes, index: int) -> dict:
    places = [axes.x(i) for i in curve["iterations"]]
    mean, low, high = ([axes.y(v) for v in curve[key]] for key in ("mean", "low", "high"))
    titles = [
        f"{name}, iteration {i}: {format_number(m)} ({format_number(a)} to {format_number(b)})"
        for i, m, a, b in zip(*(curve[key] for key in ("iterations", "mean", "low", "high")))
    ]
    return {
        "name": name,
        "index": index % NUM_COLORS,
        "outline": path([*zip(places, high), *reversed([*zip(places, low)])]),
        "mean": path(zip(places, mean)),
        "dots": list(zip(places, mean, titles)),
    }
