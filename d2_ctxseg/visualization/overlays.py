"""Draws label maps: overlays with legends; image, ground truth and prediction side by side.

Labels that are no class of the dataset (255 and other ignored ones) have no colour.
"""

from functools import lru_cache

import cv2
import numpy as np
import torch
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

from ..data import generate_palette

# Smaller images are enlarged until one of their sides has about this length: text is readable then.
SHORTEST_SIDE, LONGEST_SIDE = 480, 1280
GROUND, INK, FRAME = (255, 255, 255), (32, 32, 32), (160, 160, 160)
IGNORED_DARK, IGNORED_LIGHT = (33, 33, 33), (92, 92, 92)
LONGEST_NAME = 28


def draw_overlay(
    image_rgb,
    sem_seg,
    metadata,
    alpha: float = 0.6,
    legend: bool = True,
    *,
    hatch_ignored: bool = False,
    unsure=None,
):
    """Lay the classes' colours over an image and name the regions that are large enough.

    Args:
        image_rgb: uint8 array (H, W, 3).
        sem_seg: integer tensor or array (H, W).
        metadata: Detectron2 ``Metadata`` with ``stuff_classes`` and, if the classes have colours
            of their own, ``stuff_colors``.
        alpha: opacity of the colours in [0, 1].
        legend: whether the classes that occur are listed on the right, with their shares of the
            image.
        hatch_ignored: whether ignored pixels are hatched in grey; otherwise they show the image.
        unsure: bool array (H, W): pixels of classes that are hatched in black, or None.

    Returns:
        uint8 RGB array (k * H, W', 3), where k > 1 if the image is small.

    Raises:
        ValueError: the image is not uint8 (H, W, 3), or a map has another size.
    """
    image, labels = _checked(image_rgb, sem_seg)
    unsure = np.zeros(labels.shape, bool) if unsure is None else np.asarray(unsure, bool)
    if unsure.shape != labels.shape:
        raise ValueError(f"unsure pixels {unsure.shape}, label map {labels.shape}: sizes differ")
    large, large_labels, large_unsure = _enlarged(image, labels, unsure)
    overlay = _overlay(large, large_labels, metadata, alpha, hatch_ignored, large_unsure)
    if not legend:
        return overlay
    return np.hstack([overlay, draw_legend(metadata, overlay.shape[0], class_shares(labels))])


def draw_comparison(image_rgb, ground_truth, prediction, metadata, alpha: float = 0.6):
    """Image, ground truth and prediction side by side, with the accuracy and a legend.

    Pixels that the ground truth ignores are hatched in grey. The accuracy is the share of the other
    pixels whose prediction is correct.

    Args:
        image_rgb: uint8 array (H, W, 3).
        ground_truth, prediction: integer tensors or arrays (H, W).
        metadata, alpha: see :func:`draw_overlay`.

    Returns:
        uint8 RGB array.

    Raises:
        ValueError: the image is not uint8 (H, W, 3), or a label map has another size.
    """
    image, ground_truth = _checked(image_rgb, ground_truth)
    _, prediction = _checked(image_rgb, prediction)
    labelled = (ground_truth >= 0) & (ground_truth < len(metadata.stuff_classes))
    caption = "prediction (no labelled pixels)"
    if labelled.any():
        accuracy = (ground_truth == prediction)[labelled].mean()
        caption = f"prediction ({accuracy:.1%} of pixels correct)".replace("%", " %")

    image, ground_truth, prediction = _enlarged(image, ground_truth, prediction)
    # On grey, so that a class has the legend's colour whatever the colour of the object.
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    panels = {
        "image": image,
        "ground truth": _overlay(grey, ground_truth, metadata, alpha, hatch_ignored=True),
        caption: _overlay(grey, prediction, metadata, alpha),
    }
    row = _side_by_side(panels)
    present = np.union1d(ground_truth, prediction)
    return np.vstack([row, draw_legend_strip(metadata, present, row.shape[1])])


def draw_labelled(image_rgb, labels, metadata, alpha: float = 0.6):
    """Image and labels side by side, ignored pixels hatched in grey; without a legend.

    Args:
        image_rgb: uint8 array (H, W, 3).
        labels: integer tensor or array (H, W).
        metadata, alpha: see :func:`draw_overlay`.

    Returns:
        uint8 RGB array (k * H, 2 * k * W, 3), where k > 1 if the image is small.

    Raises:
        ValueError: the image is not uint8 (H, W, 3), or the label map has another size.
    """
    image, labels = _enlarged(*_checked(image_rgb, labels))
    return np.hstack([image, _overlay(image, labels, metadata, alpha, True)])


def class_shares(labels: np.ndarray) -> dict[int, float]:
    """The share of each label that occurs in a label map, as {label: share in (0, 1]}."""
    values, counts = np.unique(labels, return_counts=True)
    return dict(zip(values.tolist(), (counts / labels.size).tolist()))


def draw_legend(
    metadata,
    height: int,
    shares: dict[int, float],
    *,
    all_classes: bool = False,
    one_column: bool = False,
) -> np.ndarray:
    """List classes with their colours and shares, in as many columns as the height asks for.

    Args:
        metadata: see :func:`draw_overlay`.
        height: height of the image in pixels.
        shares: {label: share of the image}.
        all_classes: whether all classes are listed, in their order; otherwise those in ``shares``,
            the largest first.
        one_column: whether the list is cut after one column, in the order of the classes.

    With either option the legends of all images of a video have one size: there is room for any
    class and any share.

    Returns:
        uint8 RGB array (height, any width, 3).
    """
    names = metadata.stuff_classes
    shown = [label for label in shares if 0 <= label < len(names)]
    size = _font_size(height)
    font, step = _font(size), round(1.9 * size)
    rows_per_column = max((height - size) // step, 1)
    ordered = range(len(names)) if all_classes else sorted(shown, key=lambda i: -shares[i])
    if one_column:
        ordered = sorted(ordered[:rows_per_column])
    rows = [(label, _percent(shares[label]) if label in shares else "") for label in ordered]

    has_fixed_size = all_classes or one_column
    texts = ["100.0 %"] if has_fixed_size else [share for _, share in rows]
    share_width = max((_width(font, text) for text in texts), default=0)
    columns = [rows[i : i + rows_per_column] for i in range(0, len(rows), rows_per_column)]
    if one_column:
        columns, named = [rows], [range(len(names))]
    else:
        named = [[label for label, _ in column] for column in columns]
    name_widths = [max(_width(font, class_name(metadata, i)) for i in labels) for labels in named]
    # A column: margin, patch, gap, name, gap, share.
    widths = [round(3.4 * size) + width + share_width for width in name_widths]

    drawing = Image.new("RGB", (sum(widths) + size, height), GROUND)
    left = 0
    for column, width in zip(columns, widths):
        for i, (label, share) in enumerate(column):
            middle = size // 2 + i * step + step // 2
            _draw_entry(drawing, left + size, middle, font, metadata, label)
            draw = ImageDraw.Draw(drawing)
            draw.text((left + width, middle), share, INK, font, anchor="rm")
        left += width
    return np.asarray(drawing)


def draw_legend_strip(metadata, labels: np.ndarray, width: int) -> np.ndarray:
    """List classes one after another, in as many lines as the width asks for.

    Args:
        metadata: see :func:`draw_overlay`.
        labels: the classes, integers; those that are no class are listed as one, "ignored".
        width: width of the image in pixels.

    Returns:
        uint8 RGB array (any height, width, 3).
    """
    names = metadata.stuff_classes
    size = _font_size(width // 4)
    font, step = _font(size), round(1.9 * size)
    x, y, places = size, size // 2 + step // 2, []
    shown = [label for label in labels.tolist() if 0 <= label < len(names)]
    for label in [*shown, None] if len(shown) < len(labels) else shown:
        entry_width = round(1.6 * size) + _width(font, class_name(metadata, label))
        if x > size and x + entry_width > width - size:
            x, y = size, y + step
        places.append((label, x, y))
        x += entry_width + round(1.5 * size)

    drawing = Image.new("RGB", (width, y + step // 2 + size // 2), GROUND)
    for label, x, y in places:
        _draw_entry(drawing, x, y, font, metadata, label)
    return np.asarray(drawing)


def _overlay(
    image, labels, metadata, alpha, hatch_ignored=False, unsure: np.ndarray | None = None
) -> np.ndarray:
    """The image under the classes' colours, white outlines and names: uint8 RGB (H, W, 3)."""
    names = metadata.stuff_classes
    is_class = (labels >= 0) & (labels < len(names))
    colors = np.array([class_color(metadata, label) for label in range(len(names))], np.float32)
    drawing = image.astype(np.float32)
    drawing[is_class] += alpha * (colors[labels[is_class]] - drawing[is_class])
    outlines = _borders(labels)
    drawing[outlines] += 0.45 * (255 - drawing[outlines])
    if unsure is not None:
        drawing[unsure & is_class & _stripes(labels.shape, 8, 3)] *= 0.25
    if hatch_ignored:
        stripes = _stripes(labels.shape, 14, 4)
        drawing[~is_class] += 0.85 * (np.float32(IGNORED_DARK) - drawing[~is_class])
        drawing[~is_class & stripes] = IGNORED_LIGHT
    return _with_names(np.rint(drawing).astype(np.uint8), labels, metadata)


def _stripes(shape: tuple[int, int], period: int, width: int) -> np.ndarray:
    """bool (H, W): slanted stripes."""
    y, x = np.indices(shape)
    return (x + y) % period < width


def _with_names(drawing: np.ndarray, labels: np.ndarray, metadata) -> np.ndarray:
    """The image with the names of the classes that have room for theirs."""
    size = _font_size(drawing.shape[0])
    font, canvas = _font(size), Image.fromarray(drawing)
    draw = ImageDraw.Draw(canvas, "RGBA")
    for label, (x, y) in _places_of_names(labels, metadata, size):
        name, pad = class_name(metadata, label), size // 6
        left, top, right, bottom = draw.textbbox((x, y), name, font, anchor="ma")
        draw.rectangle((left - pad, top - pad, right + pad, bottom + pad), (0, 0, 0, 204))
        # Pastel, so that the names of dark classes can be read.
        pastel = tuple(128 + channel // 2 for channel in class_color(metadata, label))
        draw.text((x, y), name, pastel, font, anchor="ma")
    return np.asarray(canvas)


def _borders(labels: np.ndarray) -> np.ndarray:
    """bool (H, W): pixels whose right or lower neighbour has another label."""
    borders = np.zeros(labels.shape, dtype=bool)
    borders[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    borders[:-1] |= labels[:-1] != labels[1:]
    return borders


def _places_of_names(labels: np.ndarray, metadata, size: int):
    """Yield (label, (x, y) of the middle of the name's upper edge) for classes with enough room.

    A name lies in the image wholly and in its class mostly, and covers no other name.
    """
    free = np.ones(labels.shape, dtype=np.float32)
    shares = class_shares(labels)
    for label in sorted(shares, key=lambda i: -shares[i]):
        if not 0 <= label < len(metadata.stuff_classes):
            continue
        box = _width(_font(size), class_name(metadata, label)) + size // 2, round(1.5 * size)
        if box[0] >= labels.shape[1] or box[1] >= labels.shape[0]:
            continue
        mask = (labels == label).astype(np.uint8)
        covered = _mean_in_box(mask.astype(np.float32), box)
        covered[_mean_in_box(free, box) < 1 - 1e-4] = 0  # off the image, or on another name
        # Among boxes that fit equally well the one deepest in the region looks best.
        depth = cv2.distanceTransform(np.pad(mask, 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
        score = covered + 0.5 * depth / max(depth.max(), 1) * (covered > 0)
        y, x = np.unravel_index(score.argmax(), score.shape)
        if covered[y, x] < 0.7:
            continue
        top, left = y - box[1] // 2, x - box[0] // 2
        free[max(top, 0) : top + box[1], max(left, 0) : left + box[0]] = 0
        yield label, (x, y - 0.6 * size)


def _mean_in_box(values: np.ndarray, box: tuple[int, int]) -> np.ndarray:
    """The mean over the (width, height) box around each pixel; zero lies outside the image."""
    return cv2.boxFilter(values, -1, box, borderType=cv2.BORDER_CONSTANT)


def _side_by_side(panels: dict[str, np.ndarray]) -> np.ndarray:
    """Images of one size in a row, each under its title."""
    height, width = next(iter(panels.values())).shape[:2]
    size = _font_size(height)
    gap, title_height = size // 2, 2 * size
    total_width = len(panels) * (width + gap) - gap
    drawing = Image.new("RGB", (total_width, title_height + height), GROUND)
    draw = ImageDraw.Draw(drawing)
    for i, (title, panel) in enumerate(panels.items()):
        left = i * (width + gap)
        drawing.paste(Image.fromarray(panel), (left, title_height))
        font = _font(size)
        if _width(font, title) > width:
            font = _font(max(size * width // _width(font, title), 6))
        draw.text((left + width // 2, title_height // 2), title, INK, font, anchor="mm")
    return np.asarray(drawing)


def _draw_entry(drawing: Image.Image, x: int, y: int, font, metadata, label: int | None) -> None:
    """A patch of the class's colour and its name, to the right of ``x``, in line with ``y``.

    None stands for what is ignored, whose patch is hatched.
    """
    size, half = round(font.size), round(0.6 * font.size)
    draw = ImageDraw.Draw(drawing)
    patch = (x, y - half, x + 2 * half, y + half)
    if label is None:
        draw.rectangle(patch, IGNORED_DARK, FRAME)
        draw.line((x + 1, y + half - 1, x + 2 * half - 1, y - half + 1), IGNORED_LIGHT, size // 4)
    else:
        draw.rectangle(patch, class_color(metadata, label), FRAME)
    name = class_name(metadata, label)
    draw.text((x + round(1.6 * size), y), name, INK, font, anchor="lm")


def _checked(image_rgb, sem_seg) -> tuple[np.ndarray, np.ndarray]:
    """Both as arrays, after checking types and sizes."""
    image = np.asarray(image_rgb)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"the image has to be a uint8 array (H, W, 3), not {image.dtype} {image.shape}"
        )
    labels = sem_seg.cpu().numpy() if isinstance(sem_seg, torch.Tensor) else np.asarray(sem_seg)
    if labels.shape != image.shape[:2]:
        raise ValueError(
            f"the label map is {labels.shape}, the image is {image.shape[:2]} (height, width); "
            "they have to be equal"
        )
    return image, labels.astype(np.int64)


def _enlarged(image: np.ndarray, *label_maps: np.ndarray) -> tuple[np.ndarray, ...]:
    """An image that is too small for readable text, and its label maps, made k times as large."""
    short, long = sorted(image.shape[:2])
    factor = max(min(round(SHORTEST_SIDE / short), LONGEST_SIDE // long), 1)
    if factor == 1:
        return image, *label_maps
    enlarged = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    return enlarged, *(np.kron(m, np.ones((factor, factor), m.dtype)) for m in label_maps)


def class_color(metadata, label: int) -> tuple[int, int, int]:
    """The class's (R, G, B) in [0, 255]; one of a palette if it has none."""
    colors = metadata.get("stuff_colors") or _palette(len(metadata.stuff_classes))
    return tuple(int(value) for value in colors[label])


_palette = lru_cache(generate_palette)


def class_name(metadata, label: int | None) -> str:
    """A class's name, shortened if it is long; "ignored" for None."""
    if label is None:
        return "ignored"
    name = metadata.stuff_classes[label]
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"


def _percent(share: float) -> str:
    return "< 0.1 %" if share < 0.001 else f"{100 * share:.1f} %"


def _font_size(height: int) -> int:
    """In pixels: in proportion to the image, within what is readable."""
    return int(np.clip(height // 30, 13, 32))


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    # matplotlib ships this font, so the drawings look the same on every machine.
    return ImageFont.truetype(font_manager.findfont("DejaVu Sans"), size)


def _width(font: ImageFont.FreeTypeFont, text: str) -> int:
    return int(np.ceil(font.getlength(text)))
