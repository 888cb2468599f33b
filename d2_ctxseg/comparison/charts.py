"""Charts of a comparison: intervals, and curves with bands. SVG inside the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..report.charts import NUM_COLORS, Scale, axes, axis_text, scale_of, svg, ticks
from ..report.markup import Markup, format_number, tag

_WIDTH, _ROW, _TOP, _BOTTOM = 720, 26, 12, 30
_LETTER = 6.4  # units that a letter takes about
_LONGEST_NAME = 28


@dataclass(frozen=True)
class Whisker:
    """A row of a whisker chart.

    Attributes:
        name: at its left.
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


def whisker_chart(rows: Sequence[Whisker]) -> Markup | None:
    """Differences with their intervals beside a line at zero; None without a finite one."""
    rows = [row for row in rows if np.isfinite([row.mean, row.low, row.high]).all()]
    if not rows:
        return None
    names = [_short(row.name) for row in rows]
    left = 14 + _LETTER * max(map(len, names))
    values = [0.0, *(v for row in rows for v in (row.low, row.high, row.mean, *row.points))]
    x = scale_of(np.array(values), left + 6, _WIDTH - 80)
    height = _TOP + _ROW * len(rows) + _BOTTOM
    bottom = height - _BOTTOM
    grid = [
        part
        for value in ticks(x.low, x.high, 8)
        for part in (
            tag("line", x1=_at(x, value), x2=_at(x, value), y1=_TOP, y2=bottom),
            tag("text", axis_text(value), x=_at(x, value), y=bottom + 18, class_="below"),
        )
    ]
    zero = tag("line", x1=_at(x, 0), x2=_at(x, 0), y1=_TOP, y2=bottom, class_="zero")
    lines = [_whisker(row, name, x, i) for i, (row, name) in enumerate(zip(rows, names))]
    return svg(
        _WIDTH, height, tag("g", *grid, zero, class_="axes"), *lines, class_="chart whiskers"
    )


def _whisker(row: Whisker, name: str, x: Scale, place: int) -> Markup:
    y = _TOP + _ROW * (place + 0.5)
    label = format_number(row.mean, signed=True)
    limits = f"[{format_number(row.low, signed=True)}, {format_number(row.high, signed=True)}]"
    return tag(
        "g",
        tag("title", f"{row.name}: {label} {limits}"),
        tag("text", name, x=x.start - 14, y=y + 4, class_="row"),
        tag("line", x1=_at(x, row.low), x2=_at(x, row.high), y1=y, y2=y),
        *(
            tag("line", x1=_at(x, end), x2=_at(x, end), y1=y - 5, y2=y + 5)
            for end in (row.low, row.high)
        ),
        *(tag("circle", cx=_at(x, point), cy=y, r=2, class_="seed") for point in row.points),
        tag("circle", cx=_at(x, row.mean), cy=y, r=4.5),
        tag("text", label, x=_WIDTH - 64, y=y + 4),
        class_=f"whisker series-{row.index % NUM_COLORS}",
    )


def band_chart(curves: Mapping[str, Mapping], width: int = 560, height: int = 300) -> Markup | None:
    """Means over iterations with the range over seeds.

    Args:
        curves: name -> "iterations", "mean", "low" and "high" (lists of equal length).
        width, height: of the chart.

    Returns:
        None if no curve has a point.
    """
    known = {name: curve for name, curve in curves.items() if curve["iterations"]}
    if not known:
        return None
    x = scale_of(np.concatenate([c["iterations"] for c in known.values()]), 46, width - 24)
    limits = [c[key] for c in known.values() for key in ("low", "high")]
    y = scale_of(np.concatenate(limits), height - 26, 10)
    groups = [_band(name, curve, x, y, list(curves).index(name)) for name, curve in known.items()]
    return svg(width, height, axes(x, y), *groups, class_="chart")


def _band(name: str, curve: Mapping, x: Scale, y: Scale, index: int) -> Markup:
    places = [_at(x, i) for i in curve["iterations"]]
    mean, low, high = ([_at(y, v) for v in curve[key]] for key in ("mean", "low", "high"))
    outline = [*zip(places, high), *reversed([*zip(places, low)])]
    return tag(
        "g",
        tag("title", name),
        tag("polygon", points=_points(outline)),
        tag("polyline", points=_points(zip(places, mean))),
        *(tag("circle", cx=a, cy=b, r=2.5) for a, b in zip(places, mean)),
        class_=f"line band series-{index % NUM_COLORS}",
    )


def _points(places) -> str:
    return " ".join(f"{a},{b}" for a, b in places)


def _at(scale: Scale, value: float) -> float:
    return round(scale(value), 1)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
