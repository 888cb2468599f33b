"""Charts as SVG inside the page; colours and fonts come from its style sheet."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .markup import Markup, tag

# Lines of more runs than this have the first ones' colours again.
NUM_COLORS = 8
_MOST_POINTS = 300
_WIDTH, _HEIGHT = 420, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 10, 26


@dataclass(frozen=True)
class Series:
    """A line: its name, its number (which is its colour), and x and y of its points."""

    name: str
    index: int
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Scale:
    """A straight map from [low, high] to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def line_chart(series: Sequence[Series], *, marks: bool = False) -> Markup | None:
    """Lines over iterations.

    Long lines are thinned to the means of neighbouring points; values that are not finite are left
    out.

    Args:
        series: the lines.
        marks: whether each point is marked.

    Returns:
        None if there is no finite value.
    """
    thinned = [(line, _thinned(line)) for line in series]
    thinned = [(line, points) for line, points in thinned if len(points)]
    if not thinned:
        return None
    points = np.concatenate([points for _, points in thinned])
    x = scale_of(points[:, 0], _LEFT, _WIDTH - _RIGHT)
    y = scale_of(points[:, 1], _HEIGHT - _BOTTOM, _TOP)
    lines = []
    for line, line_points in thinned:
        class_ = f"line series-{line.index % NUM_COLORS}"
        places = [(round(x(a), 1), round(y(b), 1)) for a, b in line_points]
        path = tag("polyline", points=" ".join(f"{a},{b}" for a, b in places))
        # A single point makes no line.
        shown = places if marks or len(places) == 1 else []
        circles = [tag("circle", cx=a, cy=b, r=2.5) for a, b in shown]
        lines.append(tag("g", tag("title", line.name), path, *circles, class_=class_))
    return svg(_WIDTH, _HEIGHT, axes(x, y), *lines, class_="chart")


def histogram(values: Sequence[float], *, low: float = 0, high: float = 100, bins: int = 20):
    """How many of the ``values`` (at least one, finite) lie in each part of [low, high]."""
    counts, edges = np.histogram(np.clip(values, low, high), bins, (low, high))
    x = Scale(low, high, _LEFT, _WIDTH - _RIGHT)
    y = Scale(0, counts.max(), _HEIGHT - _BOTTOM, _TOP)
    bars = []
    for count, left, right in zip(counts.tolist(), edges[:-1], edges[1:]):
        title = tag("title", f"{left:g} to {right:g}: {count}")
        place = {"x": round(x(left) + 1, 1), "width": round(x(right) - x(left) - 2, 1)}
        top = round(y(count), 1)
        bars.append(tag("rect", title, y=top, height=round(y(0) - top, 1), **place))
    lines = axes(x, y, integers=True)
    return svg(_WIDTH, _HEIGHT, lines, tag("g", *bars, class_="bars"), class_="chart histogram")


def heat_map(
    values: np.ndarray, names: Sequence[str], describe: Callable[[int, int], str]
) -> Markup:
    """A square matrix of shares; the diagonal has a colour of its own.

    Args:
        values: (N, N) in [0, 1].
        names: of the N rows, which are the columns' too.
        describe: from row and column to the text shown when the mouse is on the cell.
    """
    # Names need about 6 pixels a letter.
    size, margin = 24, 24 + 6 * max((len(_short(name)) for name in names), default=0)
    cells = []
    for row, column in np.ndindex(*values.shape):
        value = float(values[row, column])
        if value == 0:
            continue
        strong = " strong" if value > 0.6 else ""
        class_ = ("hit" if row == column else "miss") + strong
        x, y = margin + column * size, margin + row * size
        rect = tag(
            "rect", x=x, y=y, width=size - 1, height=size - 1, fill_opacity=f"{value**0.7:.2f}"
        )
        # A share below one half of a per cent would be shown as 0.
        text = tag("text", f"{100 * value:.0f}", x=x + size / 2 - 0.5, y=y + size / 2 + 3)
        shown = text if value >= 0.005 else None
        cells.append(tag("g", tag("title", describe(row, column)), rect, shown, class_=class_))
    labels = []
    for place, name in enumerate(names):
        middle, text = margin + place * size + size / 2, (tag("title", name), _short(name))
        labels.append(tag("text", *text, x=margin - 6, y=middle + 4, class_="row"))
        turn = f"translate({middle + 4} {margin - 6}) rotate(-60)"
        labels.append(tag("text", *text, transform=turn, class_="column"))
    side = margin + size * len(names)
    # The last slanted name reaches beyond its column.
    width = side + 60
    return tag(
        "svg",
        *labels,
        *cells,
        viewBox=f"0 0 {width} {side}",
        width=width,
        height=side,
        class_="heat",
        role="img",
    )


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


def _thinned(line: Series) -> np.ndarray:
    """The finite points (N, 2), neighbours replaced by their mean where there are too many."""
    points = np.array([line.x, line.y], dtype=float).T.reshape(-1, 2)
    points = points[np.isfinite(points).all(axis=1)]
    if len(points) <= _MOST_POINTS:
        return points
    return np.array([part.mean(axis=0) for part in np.array_split(points, _MOST_POINTS)])


def scale_of(values: np.ndarray, start: float, end: float) -> Scale:
    """From the smallest to the largest of ``values`` (not empty, finite) to [start, end]."""
    low, high = float(values.min()), float(values.max())
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        half = abs(low) / 2 or 0.5
        low, high = low - half, high + half
    return Scale(low, high, start, end)


def axes(x: Scale, y: Scale, *, integers: bool = False) -> Markup:
    """Ticks of both axes with their numbers; ``integers``: whole numbers on the y axis alone."""
    parts = []
    for value in ticks(y.low, y.high):
        if integers and value != round(value):
            continue
        place = round(y(value), 1)
        parts.append(tag("line", x1=x.start, x2=x.end, y1=place, y2=place))
        parts.append(tag("text", axis_text(value), x=x.start - 6, y=place + 4, class_="left"))
    for value in ticks(x.low, x.high):
        place = round(x(value), 1)
        parts.append(tag("text", axis_text(value), x=place, y=y.start + 18, class_="below"))
    return tag("g", *parts, class_="axes")


def svg(width: int, height: int, *content: Markup, class_: str) -> Markup:
    """A picture of ``width`` times ``height`` units."""
    return tag("svg", *content, viewBox=f"0 0 {width} {height}", class_=class_, role="img")


def _short(name: str, length: int = 20) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"
