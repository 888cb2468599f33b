"""Draws label maps and annotations onto images with matplotlib."""

import colorsys
import os
from enum import Enum, unique
from pathlib import Path

import cv2
import matplotlib.colors as mplc
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Polygon, Rectangle
from PIL import Image

from detectron2.data import MetadataCatalog
from detectron2.utils.file_io import PathManager

from .._coverage import module_getattr
from .colormap import random_color

__all__ = ["ColorMode", "VisImage", "Visualizer"]

_OFF_WHITE = (1.0, 1.0, 0.94)
# A region with more pixels than this is named even if it is not its class's largest.
_LARGE_REGION_AREA = 120_000


@unique
class ColorMode(Enum):
    """Styles of drawing. Label maps look the same in all of them."""

    IMAGE = 0
    SEGMENTATION = 1
    IMAGE_BW = 2


class VisImage:
    """An RGB image as a matplotlib figure without margins, to draw on.

    ``ax`` has pixel coordinates: (0, 0) is the upper left corner, (width, height) the lower right.
    """

    def __init__(self, img, scale=1.0):
        """``img``: (H, W, 3) RGB in [0, 255]. The result is ``scale`` times as large."""
        self.img = img
        self.scale = scale
        self.height, self.width = img.shape[:2]
        self.fig = Figure(frameon=False)
        self.dpi = self.fig.get_dpi()
        # The hundredth of a pixel keeps matplotlib from rounding the size down by a whole one.
        self.fig.set_size_inches(
            (self.width * scale + 0.01) / self.dpi, (self.height * scale + 0.01) / self.dpi
        )
        self.canvas = FigureCanvasAgg(self.fig)
        self.ax = self.fig.add_axes([0.0, 0.0, 1.0, 1.0])
        self.ax.axis("off")
        self.reset_image(img)

    def reset_image(self, img):
        """Lay ``img``, (H, W, 3) RGB in [0, 255], over everything drawn so far."""
        self.draw_raster(img.astype(np.uint8))

    def draw_raster(self, pixels):
        """Lay an RGB or RGBA array over the whole image."""
        self.ax.imshow(pixels, extent=(0, self.width, self.height, 0), interpolation="nearest")

    def save(self, filepath):
        """Write the picture; the format follows from the suffix of ``filepath``."""
        target = Path(filepath)
        temporary = target.with_name(f".{target.stem}.{os.getpid()}{target.suffix}")
        try:
            self.fig.savefig(temporary)
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)

    def get_image(self):
        """The picture: uint8 RGB (H * scale, W * scale, 3)."""
        self.canvas.draw()
        return np.asarray(self.canvas.buffer_rgba())[..., :3].copy()


class Visualizer:
    """Draws onto a copy of one image. All ``draw_`` methods return the :class:`VisImage`."""

    def __init__(
        self, img_rgb, metadata=None, scale=1.0, instance_mode=ColorMode.IMAGE, font_size_scale=1.0
    ):
        """
        Args:
            img_rgb: (H, W, 3) RGB in [0, 255].
            metadata: the dataset's ``Metadata`` with ``stuff_classes`` and ``stuff_colors``.
            scale: how much larger than the image the picture is.
            instance_mode: accepted for Detectron2's sake; label maps are drawn in one style.
            font_size_scale: a factor on the size of text.
        """
        self.img = np.asarray(img_rgb).clip(0, 255).astype(np.uint8)
        self.metadata = MetadataCatalog.get("__nonexist__") if metadata is None else metadata
        self.output = VisImage(self.img, scale=scale)
        # In proportion to the image, yet never too small to read.
        proportional = np.sqrt(self.output.height * self.output.width) // 90
        self._default_font_size = max(proportional, 10 // scale) * font_size_scale
        self._instance_mode = instance_mode

    def draw_sem_seg(
        self, sem_seg, area_threshold=None, alpha=0.8, draw_text=True, edge_color=_OFF_WHITE
    ):
        """Draw a label map in the dataset's colours, the largest class first.

        Labels that are no class (255 and other void labels) are left undrawn.

        Args:
            sem_seg: integer tensor or array (H, W).
            area_threshold: regions with fewer pixels are left out.
            alpha: opacity of the colours in [0, 1].
            draw_text: whether to write the class name on a class's largest region.
            edge_color: colour of the regions' outlines.
        """
        if isinstance(sem_seg, torch.Tensor):
            sem_seg = sem_seg.cpu().numpy()
        class_names = self.metadata.stuff_classes
        colors = self.metadata.get("stuff_colors", [])
        labels, areas = np.unique(sem_seg, return_counts=True)
        for label in labels[np.argsort(-areas)].tolist():
            if not 0 <= label < len(class_names):
                continue
            self.draw_binary_mask(
                sem_seg == label,
                color=np.divide(colors[label], 255) if label < len(colors) else None,
                edge_color=edge_color,
                text=class_names[label] if draw_text else None,
                alpha=alpha,
                area_threshold=area_threshold,
            )
        return self.output

    def draw_dataset_dict(self, dic):
        """Draw the label map of a dataset dict: ``sem_seg``, or the file ``sem_seg_file_name``."""
        sem_seg = dic.get("sem_seg")
        if sem_seg is None and "sem_seg_file_name" in dic:
            with PathManager.open(dic["sem_seg_file_name"], "rb") as file:
                sem_seg = np.asarray(Image.open(file))
        if sem_seg is not None:
            self.draw_sem_seg(sem_seg, area_threshold=0, alpha=0.5)
        return self.output

    def draw_binary_mask(
        self, binary_mask, color=None, *, edge_color=None, text=None, alpha=0.5, area_threshold=10
    ):
        """Fill and outline the pixels of a mask.

        Args:
            binary_mask: (H, W) of the image, zero or not.
            color: any matplotlib colour; None draws one at random.
            edge_color: colour of the outline; None: the same as ``color``.
            text: written on the largest region, and on other very large ones.
            alpha: opacity of the filling in [0, 1].
            area_threshold: connected regions with fewer pixels are left out.

        Raises:
            ValueError: the mask's size is not the image's.
        """
        if np.shape(binary_mask) != self.img.shape[:2]:
            raise ValueError(
                f"the mask is {np.shape(binary_mask)}, the image is {self.img.shape[:2]} "
                "(height, width); they have to be equal"
            )
        color = mplc.to_rgb(random_color(rgb=True, maximum=1) if color is None else color)
        mask = np.ascontiguousarray(binary_mask, dtype=np.uint8)
        _, regions, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        areas = stats[:, cv2.CC_STAT_AREA].copy()
        areas[0] = 0  # region 0 is everything outside the mask
        kept = areas >= max(area_threshold or 0, 1)
        if not kept.any():
            return self.output

        self._fill_mask(kept[regions] * alpha, color)
        self._outline_mask(kept[regions], color if edge_color is None else edge_color)
        if text is not None:
            for region in np.flatnonzero(kept):
                if region == areas.argmax() or areas[region] > _LARGE_REGION_AREA:
                    # The median of the coordinates is less drawn by thin arms than the mean.
                    y, x = np.median(np.nonzero(regions == region), axis=1)
                    self.draw_text(text, (x, y), color=self._lightened(color))
        return self.output

    def draw_soft_mask(self, soft_mask, color=None, *, text=None, alpha=0.5):
        """Lay a colour over the image, as strong at each pixel as ``soft_mask`` (H, W) in [0, 1].

        Args: as in :meth:`draw_binary_mask`; the text is written where the mask exceeds 0.5.
        """
        color = mplc.to_rgb(random_color(rgb=True, maximum=1) if color is None else color)
        self._fill_mask(np.asarray(soft_mask) * alpha, color)
        if text is not None and (np.asarray(soft_mask) > 0.5).any():
            y, x = np.median(np.nonzero(np.asarray(soft_mask) > 0.5), axis=1)
            self.draw_text(text, (x, y), color=self._lightened(color))
        return self.output

    def draw_text(
        self,
        text,
        position,
        *,
        font_size=None,
        color="g",
        horizontal_alignment="center",
        rotation=0,
    ):
        """Write ``text`` on a dark ground; ``position`` (x, y) is the middle of its upper edge.

        ``color`` is brightened where it would be too dark to read; ``rotation`` is in degrees
        counter-clockwise.
        """
        color = np.maximum(mplc.to_rgb(color), 0.2)
        color[color.argmax()] = max(0.8, color.max())
        self.output.ax.text(
            *position,
            text,
            size=(font_size or self._default_font_size) * self.output.scale,
            family="sans-serif",
            bbox={"facecolor": "black", "alpha": 0.8, "pad": 0.7, "edgecolor": "none"},
            verticalalignment="top",
            horizontalalignment=horizontal_alignment,
            color=color,
            zorder=10,
            rotation=rotation,
        )
        return self.output

    def draw_polygon(self, segment, color, edge_color=None, alpha=0.5):
        """Fill and outline the polygon with the corners ``segment`` (N, 2) as (x, y)."""
        self.output.ax.add_patch(
            Polygon(
                np.asarray(segment).reshape(-1, 2),
                facecolor=mplc.to_rgba(color, alpha),
                edgecolor=mplc.to_rgb(color if edge_color is None else edge_color),
                linewidth=self._line_width(1 / 15),
            )
        )
        return self.output

    def draw_box(self, box_coord, alpha=0.5, edge_color="g", line_style="-"):
        """Outline the rectangle ``box_coord``: x0, y0, x1, y1."""
        x0, y0, x1, y1 = box_coord
        self.output.ax.add_patch(
            Rectangle(
                (x0, y0),
                x1 - x0,
                y1 - y0,
                fill=False,
                edgecolor=edge_color,
                linewidth=self._line_width(1 / 4),
                alpha=alpha,
                linestyle=line_style,
            )
        )
        return self.output

    def draw_circle(self, circle_coord, color, radius=3):
        """Fill the circle around ``circle_coord`` (x, y)."""
        self.output.ax.add_patch(Circle(circle_coord, radius=radius, color=color))
        return self.output

    def draw_line(self, x_data, y_data, color, linestyle="-", linewidth=None):
        """Draw the line through the points (x, y) of ``x_data`` and ``y_data``."""
        if linewidth is None:
            linewidth = self._default_font_size / 3
        width = max(linewidth, 1) * self.output.scale
        self.output.ax.add_line(
            Line2D(x_data, y_data, linewidth=width, color=color, linestyle=linestyle)
        )
        return self.output

    def get_output(self):
        """The :class:`VisImage` with everything drawn so far."""
        return self.output

    def _fill_mask(self, opacity, color):
        rgba = np.empty((*opacity.shape, 4), dtype=np.float32)
        rgba[..., :3] = color
        rgba[..., 3] = opacity
        self.output.draw_raster(rgba)

    def _outline_mask(self, mask, color):
        contours, _ = cv2.findContours(
            mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE
        )
        # Half a pixel brings OpenCV's pixel indices to pixel centres.
        outlines = PolyCollection(
            [contour.reshape(-1, 2) + 0.5 for contour in contours],
            facecolors="none",
            edgecolors=[color],
            linewidths=self._line_width(1 / 15),
        )
        self.output.ax.add_collection(outlines, autolim=False)

    def _line_width(self, share_of_font_size):
        return max(self._default_font_size * share_of_font_size, 1) * self.output.scale

    @staticmethod
    def _lightened(color):
        hue, lightness, saturation = colorsys.rgb_to_hls(*color)
        return colorsys.hls_to_rgb(hue, min(1.7 * lightness, 1.0), saturation)


__getattr__ = module_getattr(__name__)
