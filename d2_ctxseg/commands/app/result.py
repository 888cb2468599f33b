"""The result as HTML: each model's classes over the image, a legend, links to the label maps.

The browser applies the opacity and finds the class under the pointer (app.js), without the server:
the panels contain the class numbers. Panels show a smaller copy of large images; shares and
label maps are those of the whole image.
"""

import base64
import io
import json
from dataclasses import dataclass
from html import escape
from itertools import pairwise

import cv2
import numpy as np
from PIL import Image

from ...utils.png import encode_png
from ...visualization import class_color, class_shares
from ...visualization.classifier_views import ClassifierView

LONGEST_SHOWN = 1280
BORDER = (255, 255, 255)


@dataclass(frozen=True)
class Prediction:
    """The prediction of one model for an image.

    Attributes:
        model: the model's name.
        labels: int64 array (H, W).
        metadata: Detectron2 ``Metadata`` with ``stuff_classes`` and, if the classes have colours
            of their own, ``stuff_colors``.
        seconds: duration of the prediction.
        confidence: probability of each pixel's class, float array (H, W) in [0, 1].
        is_calibrated: whether a temperature was fitted for it.
    """

    model: str
    labels: np.ndarray
    metadata: object
    seconds: float
    confidence: np.ndarray
    is_calibrated: bool = False


def draw_result(image_rgb: np.ndarray, predictions: list[Prediction], file_stem: str) -> str:
    """HTML of all predictions of one image, side by side, with one legend.

    Args:
        image_rgb: uint8 array (H, W, 3).
        predictions: predictions for this image.
        file_stem: beginning of the names of the label map files.
    """
    photo = _data_url(_encode(Image.fromarray(shrink(image_rgb, LONGEST_SHOWN)), "JPEG"), "jpeg")
    panels = "".join(_panel(photo, prediction, file_stem) for prediction in predictions)
    return f'<div class="panels">{panels}</div>{agreement(predictions)}{legend(predictions)}'


def draw_views(views_of_models: dict[str, list[ClassifierView]]) -> str:
    """HTML of images with their captions, below the name of the model that they show."""
    parts = []
    for model, views in views_of_models.items():
        parts.append(f"<h3>{escape(model)}</h3>")
        for view in views:
            url = _data_url(encode_png(view.picture), "png")
            caption = escape(view.caption)
            parts.append(
                f'<figure class="view"><figcaption>{caption}</figcaption>'
                f'<img alt="{caption}" src="{url}"></figure>'
            )
    return "".join(parts)


def draw_message(text: str, is_problem: bool = False) -> str:
    """HTML of a message in place of a result; an alert if it is a problem."""
    kind = 'class="message problem" role="alert"' if is_problem else 'class="message"'
    return f"<div {kind}>{escape(text)}</div>"


def agreement(predictions: list[Prediction]) -> str:
    """HTML with the agreement of two models of the same classes; "" for other numbers of models."""
    sentences = []
    for first, second in pairwise(predictions):
        if first.metadata.stuff_classes == second.metadata.stuff_classes:
            share = (first.labels == second.labels).mean()
            names = f"<b>{escape(first.model)}</b> and <b>{escape(second.model)}</b>"
            sentences.append(f"{names} agree on {percent(share)} of the pixels.")
    return f'<p class="agreement">{" ".join(sentences)}</p>' if sentences else ""


def legend(predictions: list[Prediction]) -> str:
    """HTML table: a row a class that occurs, a column a model, with the class's shares.

    The class with the largest share comes first. Classes of the same name share a row.
    """
    shares = [named_shares(prediction) for prediction in predictions]
    largest: dict[str, float] = {}
    for column in shares:
        for name, share in column.items():
            largest[name] = max(share, largest.get(name, 0))
    heads = "".join(f"<th>{escape(prediction.model)}</th>" for prediction in predictions)
    rows = []
    for name in sorted(largest, key=lambda name: -largest[name]):
        cells = "".join(
            _share_cell(column.get(name), _color_of_name(prediction.metadata, name))
            for column, prediction in zip(shares, predictions)
        )
        rows.append(f"<tr><th>{escape(name)}</th>{cells}</tr>")
    return (
        f'<table class="legend"><thead><tr><th>Class</th>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def named_shares(prediction: Prediction) -> dict[str, float]:
    """The share of each class that occurs, as {name: share in (0, 1]}."""
    names = prediction.metadata.stuff_classes
    return {names[label]: share for label, share in class_shares(prediction.labels).items()}


def percent(share: float) -> str:
    """A share in [0, 1] in per cent: "12.3 %", or "< 0.1 %" for a small one."""
    return "< 0.1 %" if 0 < share < 0.001 else f"{100 * share:.1f} %"


def palette(metadata) -> np.ndarray:
    """uint8 (K, 3): the classes' colours; Detectron2's palette if they have none."""
    count = len(metadata.stuff_classes)
    return np.array([class_color(metadata, label) for label in range(count)], dtype=np.uint8)


def label_map_png(labels: np.ndarray, metadata) -> bytes:
    """A PNG file of the class numbers: 8 bits with the classes' colours as its palette.

    With more than 256 classes: 16 bits, without a palette.

    Args:
        labels: integers (H, W) in [0, K).
        metadata: see :class:`Prediction`.
    """
    if len(metadata.stuff_classes) > 256:
        return encode_png(labels.astype(np.uint16))
    image = Image.fromarray(labels.astype(np.uint8))
    image.putpalette(palette(metadata).tobytes())
    return _encode(image, "PNG")


def color_layer(labels: np.ndarray, metadata) -> np.ndarray:
    """uint8 RGB (H, W, 3): each pixel in its class's colour, with borders between classes."""
    colors = palette(metadata)[labels]
    borders = np.zeros(labels.shape, dtype=bool)
    borders[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    borders[:-1] |= labels[:-1] != labels[1:]
    colors[borders] = (colors[borders] + np.array(BORDER, dtype=np.uint16)) // 2
    return colors


def number_layer(labels: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """uint8 RGB (H, W, 3) for the page's script to read.

    Class number = red + 256 * green, confidence in [0, 1] = blue / 255.
    """
    blue = np.rint(255 * confidence)
    return np.stack([labels % 256, labels // 256, blue], axis=-1).astype(np.uint8)


def shrink(pixels: np.ndarray, longest: int) -> np.ndarray:
    """An image (H, W, 3), or a map (H, W), with sides of at most ``longest`` pixels.

    Values of a map are taken from the nearest pixel.
    """
    height, width = pixels.shape[:2]
    factor = longest / max(height, width)
    if factor >= 1:
        return pixels
    size = max(round(width * factor), 1), max(round(height * factor), 1)
    if pixels.ndim == 3:
        return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    kind = np.float32 if pixels.dtype.kind == "f" else np.uint16
    nearest = cv2.resize(pixels.astype(kind), size, interpolation=cv2.INTER_NEAREST)
    return nearest.astype(pixels.dtype)


def _panel(photo: str, prediction: Prediction, file_stem: str) -> str:
    labels, metadata = prediction.labels, prediction.metadata
    small = shrink(labels, LONGEST_SHOWN)
    colors = encode_png(color_layer(small, metadata), compression=9)
    numbers = encode_png(number_layer(small, shrink(prediction.confidence, LONGEST_SHOWN)))
    names = metadata.stuff_classes
    tips = {i: f"{names[i]} · {percent(share)}" for i, share in class_shares(labels).items()}
    # Names of trained models are paths below configs/.
    file_name = escape(f"{file_stem}_{prediction.model}.png".replace("/", "_"))
    return f"""
<figure class="panel">
  <figcaption>
    <b>{escape(prediction.model)}</b>
    <span>{labels.shape[1]} x {labels.shape[0]} pixels in {prediction.seconds:.2f} s</span>
  </figcaption>
  <div class="stage" data-tips="{escape(json.dumps(tips))}"
       data-calibrated="{str(prediction.is_calibrated).lower()}">
    <img class="photo" alt="the image" src="{photo}">
    <img class="colors" alt="its classes" src="{_data_url(colors, "png")}">
    <img class="numbers" alt="" hidden src="{_data_url(numbers, "png")}">
    <canvas class="unsure"></canvas>
    <span class="mark"></span><span class="tip"></span>
  </div>
  <p class="unsure-share"></p>
  <a class="download" download="{file_name}"
     href="{_data_url(label_map_png(labels, metadata), "png")}">Label map: {file_name}</a>
</figure>"""


def _share_cell(share: float | None, color: tuple[int, ...]) -> str:
    if share is None:
        return '<td class="none">–</td>'
    css = f"background: rgb({', '.join(map(str, color))})"
    bar = f'<i class="bar" style="{css}; --share: {share:.4f}"></i>'
    return f'<td><i class="patch" style="{css}"></i><span>{percent(share)}</span>{bar}</td>'


def _color_of_name(metadata, name: str) -> tuple[int, ...]:
    names = metadata.stuff_classes
    return class_color(metadata, names.index(name)) if name in names else BORDER


def _encode(image: Image.Image, format_name: str) -> bytes:
    file = io.BytesIO()
    image.save(file, format=format_name, quality=90)
    return file.getvalue()


def _data_url(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
