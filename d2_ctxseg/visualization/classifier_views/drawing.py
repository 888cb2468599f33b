"""Drawing functions of the views: panels in a grid, heat maps, bars, points."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ...data import generate_palette
from ..overlays import draw_legend_strip

DOTS_PER_INCH = 100
WIDEST, WIDEST_PANEL, NARROWEST_PANEL, HIGHEST_PANEL = 1600, 640, 220, 960  # pixels
TITLE_HEIGHT, GAP, MARGIN = 28, 10, 10
BAR_WIDTH, BAR_SPACE, KEY_HEIGHT = 16, 100, 44
TITLE = {"fontsize": 10, "horizontalalignment": "center", "verticalalignment": "center"}
COLORMAP = "viridis"
# Over an image: colours of this opacity, and an image with little contrast, so that a colour of the
# bar is recognised on dark and on bright objects alike.
HEAT_OPACITY, GROUND_GREYS = 0.75, (64, 192)


@dataclass(frozen=True)
class Panel:
    """An image, uint8 RGB (h, w, 3), and the title above it."""

    title: str
    picture: np.ndarray


@dataclass(frozen=True)
class HeatScale:
    """The colour of a number: matplotlib's viridis, whose lightness grows with the number.

    Attributes:
        label: label of the colour bar.
        low, high: the ends of the bar; the colour stays the same beyond them.
        opacity: opacity of the colours over an image, in (0, 1]; 1 hides the image.
    """

    label: str
    low: float
    high: float
    opacity: float = 1.0

    def colors(self, values: np.ndarray) -> np.ndarray:
        """Numbers (H, W) to opaque colours, uint8 RGB (H, W, 3)."""
        share = (np.asarray(values) - self.low) / max(self.high - self.low, 1e-6)
        return matplotlib.colormaps[COLORMAP](np.clip(share, 0, 1), bytes=True)[..., :3]

    def over(self, image_rgb: np.ndarray, values: np.ndarray) -> np.ndarray:
        """The colours of numbers (H, W) over a grey, pale image: uint8 RGB (H, W, 3)."""
        darkest, brightest = GROUND_GREYS
        ground = darkest + grey(image_rgb) * ((brightest - darkest) / 255)
        return blend(np.rint(ground).astype(np.uint8), self.colors(values), self.opacity)

    def bar(self, width: int = 16, height: int = 256) -> np.ndarray:
        """The colour bar: uint8 RGB (height, width, 3), the highest number at the top.

        It is drawn as the panels are: from left to right it lies over an image from black to white,
        so every colour of a panel is found in it, at the height of its number.
        """
        values = np.linspace(self.high, self.low, height)[:, None].repeat(width, axis=1)
        ground = np.linspace(0, 255, width).astype(np.uint8)
        return self.over(np.broadcast_to(ground[None, :, None], (height, width, 3)).copy(), values)


def grey(image_rgb: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) without its colours."""
    return cv2.cvtColor(cv2.cvtColor(image_rgb, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def blend(image: np.ndarray, colors: np.ndarray, opacity: float) -> np.ndarray:
    """Two uint8 images (H, W, 3), the second laid over the first."""
    return cv2.addWeighted(image, 1 - opacity, colors, opacity, 0)


def draw_panels(
    panels: Sequence[Panel],
    columns: int,
    *,
    heat: HeatScale | None = None,
    key: dict[str, Sequence[int]] | None = None,
) -> np.ndarray:
    """Panels of one shape in rows, with a bar of colours or a key of them.

    Args:
        panels: panels in reading order.
        columns: panels in a row.
        heat: draw its bar at the right.
        key: legend of the colours (r, g, b), drawn below.

    Returns:
        uint8 RGB.
    """
    mosaic, places = _mosaic([panel.picture for panel in panels], columns)
    height, width = mosaic.shape[:2]
    total_width, total_height = width + BAR_SPACE * bool(heat), height + KEY_HEIGHT * bool(key)
    figure = _figure(total_width, total_height)
    # A pixel of the mosaic is a pixel of the figure.
    box = (0, 1 - height / total_height, width / total_width, height / total_height)
    axis = figure.add_axes(box)
    axis.imshow(mosaic, interpolation="nearest", aspect="auto")
    axis.set_axis_off()
    for panel, (left, right, top) in zip(panels, places):
        # Class names may hold a "$", which would start a formula.
        axis.text(
            (left + right) / 2, top - TITLE_HEIGHT / 2, panel.title, parse_math=False, **TITLE
        )
    if heat:
        left, bottom = (width + GAP) / total_width, box[1] + 0.05 * box[3]
        bar = figure.add_axes((left, bottom, BAR_WIDTH / total_width, 0.9 * box[3]))
        _draw_bar(bar, heat)
    if key:
        _draw_key(figure, key)
    return _rendered(figure)


def _draw_bar(axis, heat: HeatScale) -> None:
    low, high = heat.low, max(heat.high, heat.low + 1e-6)
    axis.imshow(heat.bar(), extent=(0, 1, low, high), aspect="auto", interpolation="bilinear")
    axis.set_xticks([])
    axis.yaxis.tick_right()
    axis.yaxis.set_label_position("right")
    axis.set_ylabel(heat.label)


def _mosaic(
    images: Sequence[np.ndarray], columns: int
) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
    """Images of one shape in rows, with room for titles, and each one's left, right and top."""
    height, width = images[0].shape[:2]
    panel_width = int(np.clip(WIDEST // columns, NARROWEST_PANEL, WIDEST_PANEL))
    panel_width = max(min(panel_width, HIGHEST_PANEL * width // height), 1)
    panel_height = max(round(panel_width * height / width), 1)
    enlarged = panel_width > width
    step = (TITLE_HEIGHT + panel_height, panel_width + GAP)
    rows = -(-len(images) // columns)
    shape = (rows * step[0], columns * step[1] - GAP, 3)
    mosaic, places = np.full(shape, 255, np.uint8), []
    for number, drawing in enumerate(images):
        top, left = TITLE_HEIGHT + number // columns * step[0], number % columns * step[1]
        interpolation = cv2.INTER_CUBIC if enlarged else cv2.INTER_AREA
        resized = cv2.resize(drawing, (panel_width, panel_height), interpolation=interpolation)
        mosaic[top : top + panel_height, left : left + panel_width] = resized
        places.append((left, left + panel_width, top))
    return mosaic, places


def draw_bars(
    names: Sequence[str],
    colors: Sequence,
    series: dict[str, Sequence[float]],
    label: str,
    digits: int = 1,
) -> np.ndarray:
    """Horizontal bars: a group for each name, and in it a bar of each series.

    Args:
        names: names of the groups, from the top.
        colors: one (r, g, b) a group; the first series has them full, further ones paler.
        series: name -> one number a group.
        label: label of the numbers.
        digits: number of decimal places.

    Returns:
        uint8 RGB.
    """
    thickness = 0.8 / len(series)
    figure = _figure(900, 110 + len(names) * (18 + 16 * len(series)))
    figure.set_layout_engine("constrained")
    axis = figure.subplots()
    place = np.arange(len(names))
    for number, (title, values) in enumerate(series.items()):
        opacity = 1 - 0.65 * number / max(len(series) - 1, 1)
        at = place + thickness * (number - (len(series) - 1) / 2)
        faces = [(*np.divide(color, 255), opacity) for color in colors]
        bars = axis.barh(at, values, thickness * 0.95, color=faces, edgecolor="0.3", linewidth=0.5)
        axis.bar_label(bars, [f" {title}: {value:.{digits}f}" for value in values], fontsize=8)
    axis.set_yticks(place, names, parse_math=False)
    axis.invert_yaxis()
    axis.margins(x=0.15, y=0.01)
    axis.set_xlabel(label)
    axis.spines[["top", "right"]].set_visible(False)
    return _rendered(figure)


def draw_points(
    points: np.ndarray,
    colors: np.ndarray,
    stars: np.ndarray,
    star_colors: np.ndarray,
    axis_labels: tuple[str, str],
) -> np.ndarray:
    """Points, and stars upon them, in the plane.

    Args:
        points: (N, 2).
        colors: (N, 3), red, green and blue from 0 to 255.
        stars: (P, 2).
        star_colors: (P, 3).
        axis_labels: labels of the two axes.

    Returns:
        uint8 RGB.
    """
    figure = _figure(900, 760)
    figure.set_layout_engine("constrained")
    axis = figure.subplots()
    axis.scatter(*points.T, s=12, c=colors / 255, alpha=0.6, linewidths=0)
    axis.scatter(
        *stars.T, s=170, c=star_colors / 255, marker="*", edgecolors="black", linewidths=0.8
    )
    axis.set_xlabel(axis_labels[0])
    axis.set_ylabel(axis_labels[1])
    axis.set_aspect("equal", adjustable="datalim")
    axis.grid(color="0.9", linewidth=0.6)
    axis.set_axisbelow(True)
    return _rendered(figure)


def with_legend(drawing: np.ndarray, metadata, classes) -> np.ndarray:
    """An image (h, w, 3) with the names and colours of some classes beneath."""
    strip = draw_legend_strip(metadata, np.asarray(classes), drawing.shape[1])
    return np.vstack([drawing, strip])


def distinct_colors(count: int) -> np.ndarray:
    """Colours for ``count`` things that have none of their own, (count, 3) uint8."""
    for name in ("tab10", "tab20"):
        colors = matplotlib.colormaps[name].colors
        if count <= len(colors):
            return np.uint8(np.multiply(colors[:count], 255).round())
    return np.uint8(generate_palette(count))


def percent(share: float) -> str:
    """0.123 as "12.3 %"."""
    return f"{100 * share:.1f} %"


def _figure(width: float, height: float) -> Figure:
    figure = Figure((width / DOTS_PER_INCH, height / DOTS_PER_INCH), DOTS_PER_INCH)
    FigureCanvasAgg(figure)
    return figure


def _draw_key(figure: Figure, key: dict[str, Sequence[int]]) -> None:
    patches = [
        Patch(facecolor=np.divide(color, 255), edgecolor="0.5", label=text)
        for text, color in key.items()
    ]
    figure.legend(handles=patches, loc="lower center", ncols=len(key), frameon=False)


def _rendered(figure: Figure) -> np.ndarray:
    """The figure as uint8 RGB, its blank edges cut to a margin."""
    figure.canvas.draw()
    drawing = np.asarray(figure.canvas.buffer_rgba())[..., :3]
    drawn = (drawing < 255).any(axis=2)
    rows, columns = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0))
    if not rows.size:
        return drawing.copy()
    cut = drawing[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.pad(cut, ((MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)), constant_values=255)
