"""Charts of a comparison: intervals, and curves with bands. SVG inside the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..report.charts import NUM_COLORS, Scale, axes, axis_text, scale_of, svg, ticks
from ..report.markup import Markup, format_number, tag

# A row has its text above its whisker, so that names need no margin: readable on a phone too.
_WIDTH, _SIDE, _ROW, _TOP, _BOTTOM = 420, 20, 40, 6, 26
_LONGEST_NAME = 36
# Whiskers end in an arrow where they are this many times as long as any difference of two runs.
_LONGEST_WHISKER = 3


@dataclass(frozen=True)
class Whisker:
    """A row of a whisker chart.

    Attributes:
        name: above it.
        index: of its colour.
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
        """Whether there is something to draw."""
        return bool(np.isfinite([self.mean, self.low, self.high]).all())

    @property
    def excludes_zero(self) -> bool:
        """Whether a difference is shown."""
        return self.low > 0 or self.high < 0

    @property
    def text(self) -> str:
        """``+1.30 [+0.40, +2.20]``."""
        mean, low, high = (
            format_number(value, signed=True) for value in (self.mean, self.low, self.high)
        )
        return f"{mean} [{low}, {high}]"


def whisker_chart(rows: Sequence[Whisker], beside: Sequence[Whisker] = ()) -> Markup | None:
    """Differences with their intervals beside a line at zero; None without a finite one.

    The dot of an interval that holds zero is hollow.

    Args:
        rows: from the top.
        beside: of a chart that shall have the same scale.
    """
    rows = [row for row in rows if row.is_known]
    if not rows:
        return None
    x = _whisker_scale([*rows, *(row for row in beside if row.is_known)])
    bottom = _TOP + _ROW * len(rows)
    grid = []
    for value in ticks(x.low, x.high, 6):
        place = _at(x, value)
        grid.append(tag("line", x1=place, x2=place, y1=_TOP, y2=bottom))
        grid.append(tag("text", axis_text(value), x=place, y=bottom + 18, class_="below"))
    zero = tag("line", x1=_at(x, 0), x2=_at(x, 0), y1=_TOP, y2=bottom, class_="zero")
    whiskers = [_whisker(row, x, _TOP + _ROW * place) for place, row in enumerate(rows)]
    lines = tag("g", *grid, zero, class_="axes")
    return svg(_WIDTH, bottom + _BOTTOM, lines, *whiskers, class_="chart whiskers")


def _whisker_scale(rows: Sequence[Whisker]) -> Scale:
    """From the lowest to the highest, zero included; very long intervals do not count in full."""
    values = np.array([0.0, *(v for row in rows for v in (row.mean, *row.points))])
    ends = np.array([v for row in rows for v in (row.low, row.high)])
    reach = _LONGEST_WHISKER * np.nanmax(np.abs(values))
    if reach > 0:
        ends = np.clip(ends, -reach, reach)
    values = np.concatenate([values[np.isfinite(values)], ends])
    return scale_of(values, _SIDE, _WIDTH - _SIDE)


def _whisker(row: Whisker, x: Scale, top: float) -> Markup:
    y = top + 23
    low, high = max(row.low, x.low), min(row.high, x.high)
    # With one seed its dot would be the mean's.
    points = [point for point in row.points if np.isfinite(point)] if len(row.points) > 1 else []
    return tag(
        "g",
        tag("title", f"{row.name}: {row.text}"),
        tag("text", _short(row.name), x=_SIDE - 8, y=top + 12),
        tag("text", row.text, x=_WIDTH - _SIDE + 8, y=top + 12, class_="value"),
        tag("line", x1=_at(x, low), x2=_at(x, high), y1=y, y2=y),
        _end(_at(x, low), y, -1 if low > row.low else 0),
        _end(_at(x, high), y, 1 if high < row.high else 0),
        *(tag("circle", cx=_at(x, point), cy=y + 9, r=2.2, class_="seed") for point in points),
        tag(
            "circle",
            cx=_at(x, row.mean),
            cy=y,
            r=4,
            class_="mean" if row.excludes_zero else "mean hollow",
        ),
        class_=f"whisker series-{row.index % NUM_COLORS}",
    )


def _end(x: float, y: float, direction: int) -> Markup:
    """A bar, or an arrow to the left (-1) or to the right (1)."""
    if direction == 0:
        return tag("line", x1=x, x2=x, y1=y - 5, y2=y + 5)
    base = round(x - 7 * direction, 1)
    return tag("polygon", points=f"{x},{y} {base},{y - 5} {base},{y + 5}")


def band_chart(
    curves: Mapping[str, Mapping], baseline: str = "", width: int = 420, height: int = 240
) -> Markup | None:
    """Means over iterations with the range over seeds.

    Args:
        curves: name -> "iterations", "mean", "low" and "high" (lists of equal length).
        baseline: the curve whose last mean is drawn as a dashed line.
        width, height: of the chart.

    Returns:
        None if no curve has a point.
    """
    known = {name: curve for name, curve in curves.items() if curve["iterations"]}
    if not known:
        return None
    x = scale_of(np.concatenate([c["iterations"] for c in known.values()]), 46, width - 20)
    limits = [c[key] for c in known.values() for key in ("low", "high")]
    y = scale_of(np.concatenate(limits), height - 26, 10)
    groups = [_band(name, curve, x, y, list(curves).index(name)) for name, curve in known.items()]
    if baseline in known:
        level = _at(y, known[baseline]["mean"][-1])
        title = tag("title", f"the score that {baseline} ends with")
        line = tag("line", title, x1=x.start, x2=x.end, y1=level, y2=level, class_="level")
        groups.insert(0, line)
    return svg(width, height, axes(x, y), *groups, class_="chart")


def _band(name: str, curve: Mapping, x: Scale, y: Scale, index: int) -> Markup:
    places = [_at(x, i) for i in curve["iterations"]]
    mean, low, high = ([_at(y, v) for v in curve[key]] for key in ("mean", "low", "high"))
    outline = [*zip(places, high), *reversed([*zip(places, low)])]
    titles = [
        f"{name}, iteration {i}: {format_number(m)} ({format_number(a)} to {format_number(b)})"
        for i, m, a, b in zip(*(curve[key] for key in ("iterations", "mean", "low", "high")))
    ]
    marks = zip(places, mean, titles)
    return tag(
        "g",
        tag("title", name),
        tag("polygon", points=_points(outline)),
        tag("polyline", points=_points(zip(places, mean))),
        *(tag("circle", tag("title", text), cx=a, cy=b, r=2.5) for a, b, text in marks),
        class_=f"line band series-{index % NUM_COLORS}",
    )


def _points(places) -> str:
    return " ".join(f"{a},{b}" for a, b in places)


def _at(scale: Scale, value: float) -> float:
    return round(scale(value), 1)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
