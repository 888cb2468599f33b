"""Computes charts that the templates draw as SVG. Colours and fonts are in the style sheet."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from .html import NUM_COLORS, short

_MOST_POINTS = 300
_WIDTH, _HEIGHT = 420, 220
_RIGHT, _TOP, _BOTTOM = 20, 10, 26
_LETTER = 6.2  # pixels of a letter of an axis, about


@dataclass(frozen=True)
class Series:
    """A line: its name, its number (which is its colour), and x and y of its points."""

    name: str
    index: int
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Scale:
    """A straight map from [low, high] to pixels, rounded to a tenth."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


@dataclass(frozen=True)
class Axes:
    """Both scales, and their ticks as (place, text)."""

    x: Scale
    y: Scale
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]


@dataclass(frozen=True)
class Chart:
    """A chart of ``width`` times ``height`` units, with its lines, bars or cells as dicts."""

    width: float
    height: float
    axes: Axes | None = None
    marks: list[dict] = field(default_factory=list)


def line_chart(series: Sequence[Series], *, marks: bool = False) -> Chart | None:
    """Lines over iterations.

    Long lines are thinned to the means of neighbouring points; values that are not finite are left
    out.

    Args:
        series: the lines.
        marks: whether each point is marked.

    Returns:
        A mark a line, with "name", "index", "points" and "dots"; None without a finite value.
    """
    thinned = [(line, _thinned(line)) for line in series]
    thinned = [(line, points) for line, points in thinned if len(points)]
    if not thinned:
        return None
    points = np.concatenate([points for _, points in thinned])
    axes = axes_of(points[:, 0], points[:, 1], _WIDTH, _HEIGHT)
    lines = []
    for line, line_points in thinned:
        places = [(axes.x(a), axes.y(b)) for a, b in line_points]
        # A single point makes no line.
        dots = places if marks or len(places) == 1 else []
        index = line.index % NUM_COLORS
        lines.append({"name": line.name, "index": index, "points": path(places), "dots": dots})
    return Chart(_WIDTH, _HEIGHT, axes, lines)


def histogram(values: Sequence[float], *, low: float = 0, high: float = 100, bins: int = 20):
    """How many of the ``values`` (at least one, finite) lie in each part of [low, high]."""
    counts, edges = np.histogram(np.clip(values, low, high), bins, (low, high))
    axes = axes_of(np.array([low, high]), np.array([0, counts.max()]), _WIDTH, _HEIGHT)
    whole = [(place, text) for place, text in axes.y_ticks if "." not in text]
    bars = [
        {
            "title": f"{left:g} to {right:g}: {count}",
            "x": axes.x(left) + 1,
            "y": axes.y(count),
            "width": round(axes.x(right) - axes.x(left) - 2, 1),
            "height": round(axes.y(0) - axes.y(count), 1),
        }
        for count, left, right in zip(counts.tolist(), edges[:-1], edges[1:])
    ]
    return Chart(_WIDTH, _HEIGHT, Axes(axes.x, axes.y, axes.x_ticks, whole), bars)


def heat_map(
    values: np.ndarray, names: Sequence[str], describe: Callable[[int, int], str]
) -> Chart:
    """A square matrix of shares; the diagonal has a colour of its own.

    Args:
        values: (N, N) in [0, 1].
        names: names of the N rows and columns.
        describe: maps row and column to the tooltip of the cell.

    Returns:
        A mark a cell that is not 0, and one a name (with "name").
    """
    # Few classes have larger cells, so that the chart stays readable.
    size = int(np.clip(420 / max(len(names), 1), 24, 56))
    margin = 24 + _LETTER * max((len(short(name)) for name in names), default=0)
    marks = []
    for row, column in zip(*np.nonzero(values)):
        value = float(values[row, column])
        marks.append(
            {
                "kind": ("hit" if row == column else "miss") + (" strong" if value > 0.6 else ""),
                "x": margin + column * size,
                "y": margin + row * size,
                "size": size - 1,
                "opacity": f"{value**0.7:.2f}",
                # A share below one half of a per cent would be shown as 0.
                "text": f"{100 * value:.0f}" if value >= 0.005 else "",
                "title": describe(row, column),
            }
        )
    for place, name in enumerate(names):
        marks.append({"name": name, "edge": margin - 6, "middle": margin + (place + 0.5) * size})
    side = margin + size * len(names)
    # The last slanted name reaches beyond its column.
    return Chart(side + 60, side, marks=marks)


def axes_of(x: np.ndarray, y: np.ndarray, width: float, height: float) -> Axes:
    """Axes of a chart for points (not empty, finite): room for all numbers, a tick at the end."""
    y_scale = scale_of(y, height - _BOTTOM, _TOP)
    y_ticks = [(y_scale(value), axis_text(value)) for value in ticks(y_scale.low, y_scale.high)]
    left = max(10 + _LETTER * max(len(text) for _, text in y_ticks), 34)
    x_scale = scale_of(x, round(left, 1), width - _RIGHT)
    texts = [(value, axis_text(value)) for value in ticks(x_scale.low, x_scale.high)]
    last = float(np.max(x)), axis_text(float(np.max(x)))
    # A tick whose number would touch the last one's gives way.
    texts = [
        (value, text)
        for value, text in texts
        if x_scale(last[0]) - x_scale(value) > _LETTER * (len(text) + len(last[1])) / 2 + 4
    ]
    return Axes(x_scale, y_scale, [(x_scale(v), text) for v, text in [*texts, last]], y_ticks)


def ticks(low: float, high: float, number: int = 5) -> list[float]:
    """At most ``number`` + 1 round values in [low, high], where low < high."""
    raw = (high - low) / number
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def axis_text(value: float) -> str:
    """A number of an axis: 80000 is "80k"."""
    return f"{value / 1000:g}k" if abs(value) >= 10000 else f"{value:.4g}".replace("-", "−")


def path(places) -> str:
    """Places (x, y) as the points of an SVG line."""
    return " ".join(f"{x},{y}" for x, y in places)


def scale_of(values: np.ndarray, start: float, end: float) -> Scale:
    """From the smallest to the largest of ``values`` (not empty, finite) to [start, end]."""
    low, high = float(np.min(values)), float(np.max(values))
    if high - low <= 1e-9 * max(abs(low), abs(high)) + 1e-300:
        half = abs(low) / 2 or 0.5
        low, high = low - half, high + half
    return Scale(low, high, start, end)


def _thinned(line: Series) -> np.ndarray:
    """The finite points (N, 2), neighbours replaced by their mean where there are too many."""
    points = np.array([line.x, line.y], dtype=float).T.reshape(-1, 2)
    points = points[np.isfinite(points).all(axis=1)]
    if len(points) <= _MOST_POINTS:
        return points
    return np.array([part.mean(axis=0) for part in np.array_split(points, _MOST_POINTS)])
