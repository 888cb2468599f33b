"""Image, ground truth, prediction and errors of an example, embedded in the page."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ..data.images import read_display_image
from ..data.labels import read_label
from ..utils.errors import UserError
from ..utils.png import encode_png
from .classes import DatasetClasses
from .confusion import Confusion, top_confusions
from .run import Example

# (width in pixels, JPEG quality), tried until the images are small enough.
_SIZES = ((480, 85), (480, 70), (360, 75), (240, 70), (240, 50))
_WRONG = (213, 94, 0)
_IGNORED_DARK, _IGNORED_LIGHT = (33, 33, 33), (92, 92, 92)


@dataclass(frozen=True)
class ExampleImages:
    """The images of an example.

    Attributes:
        panels: title -> "data:" address of an image.
        confusions: the largest of the image; ``share`` is of all labelled pixels.
        accuracy: the share of labelled pixels that are correct, or None.
        shown_classes: classes in ground truth or prediction, those with the most pixels first.
        has_ignored: whether some pixels are hatched.
        note: a note on missing images, or None.
    """

    panels: dict[str, str]
    confusions: list[Confusion]
    accuracy: float | None
    shown_classes: list[int]
    has_ignored: bool
    note: str | None


def draw_example(example: Example, classes: DatasetClasses, max_bytes: int) -> ExampleImages:
    """Draw an example; its images together take about ``max_bytes`` at most.

    What cannot be read is left out, and the note says so.
    """
    notes = []
    prediction = _read(notes, read_label, example.prediction)
    if prediction is None:
        return ExampleImages({}, [], None, [], False, notes[0])
    image = _read(notes, read_display_image, example.file_name, classes.value_range)
    ground_truth = None
    if classes.load_ground_truth is None:
        notes.append(classes.note or "")
    else:
        ground_truth = _read(notes, classes.load_ground_truth, example.sem_seg_file_name)
    image = _fitting(notes, "image", image, prediction)
    ground_truth = _fitting(notes, "ground truth", ground_truth, prediction)

    shown = _classes_by_size(prediction, ground_truth, len(classes.names))
    confusions, accuracy = [], None
    if ground_truth is not None:
        confusions, accuracy = _compare(ground_truth, prediction, len(classes.names))
    for width, quality in _SIZES:
        panels = _panels(image, ground_truth, prediction, classes, width, quality)
        if sum(map(len, panels.values())) <= max_bytes:
            break
    maps = [labels for labels in (ground_truth, prediction) if labels is not None]
    ignored = any(((labels < 0) | (labels >= len(classes.names))).any() for labels in maps)
    text = " ".join(notes) or None
    return ExampleImages(panels, confusions, accuracy, shown, bool(ignored), text)


def color_labels(labels: np.ndarray, colors: Sequence[Sequence[int]]) -> np.ndarray:
    """Label map (H, W) as uint8 RGB (H, W, 3); labels that are no class are hatched in grey."""
    return _color_table(colors)[_color_indices(labels, len(colors))]


def draw_errors(
    image: np.ndarray | None, ground_truth: np.ndarray, prediction: np.ndarray, num_classes: int
) -> np.ndarray:
    """The image in pale grey, wrong pixels in orange, ignored ones hatched: uint8 (H, W, 3)."""
    drawing = np.full((*ground_truth.shape, 3), 235, np.uint8)
    if image is not None:
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        drawing = np.repeat((110 + grey[:, :, None] * 0.55).astype(np.uint8), 3, axis=2)
    labelled = (ground_truth >= 0) & (ground_truth < num_classes)
    wrong = labelled & (ground_truth != prediction)
    drawing[wrong] = (0.25 * drawing[wrong] + 0.75 * np.array(_WRONG)).astype(np.uint8)
    hatch = np.array([_IGNORED_DARK, _IGNORED_LIGHT], np.uint8)[_stripes(ground_truth.shape)]
    return np.where(labelled[:, :, None], drawing, hatch)


def _read(notes: list[str], reader, path, *arguments) -> np.ndarray | None:
    try:
        return reader(path, *arguments)
    except (OSError, UserError) as error:
        notes.append(f"{error}.".replace("..", "."))
        return None


def _fitting(notes: list[str], what: str, array, prediction: np.ndarray) -> np.ndarray | None:
    """The array, or None and a note if it has another size than the prediction."""
    if array is None or array.shape[:2] == prediction.shape:
        return array
    height, width = prediction.shape
    notes.append(
        f"The {what} is {array.shape[1]}x{array.shape[0]} pixels, the prediction {width}x{height}."
    )
    return None


def _classes_by_size(
    prediction: np.ndarray, ground_truth: np.ndarray | None, number: int
) -> list[int]:
    labels = (
        [prediction.ravel()] if ground_truth is None else [prediction.ravel(), ground_truth.ravel()]
    )
    values, counts = np.unique(np.concatenate(labels), return_counts=True)
    ordered = values[np.argsort(-counts, kind="stable")].tolist()
    return [label for label in ordered if 0 <= label < number]


def _compare(ground_truth: np.ndarray, prediction: np.ndarray, number: int):
    """The three largest confusions, their share of all labelled pixels, and the accuracy."""
    labelled = (ground_truth >= 0) & (ground_truth < number)
    total = int(labelled.sum())
    if not total:
        return [], None
    present = np.unique([*np.unique(ground_truth[labelled]), *np.unique(prediction[labelled])])
    rows = np.searchsorted(present, ground_truth[labelled])
    columns = np.searchsorted(present, prediction[labelled])
    size = len(present)
    counts = np.bincount(rows * size + columns, minlength=size**2).reshape(size, size)
    confusions = [
        Confusion(
            int(present[c.ground_truth]), int(present[c.predicted]), c.pixels, c.pixels / total
        )
        for c in top_confusions(counts, 3, by="pixels")
    ]
    return confusions, counts.trace() / total


def _panels(image, ground_truth, prediction, classes, width, quality) -> dict[str, str]:
    panels = {}
    if image is not None:
        panels["image"] = jpeg_address(image, width, quality)
    if ground_truth is not None:
        panels["ground truth"] = label_address(ground_truth, classes.colors, width)
    panels["prediction"] = label_address(prediction, classes.colors, width)
    if ground_truth is not None:
        errors = draw_errors(image, ground_truth, prediction, len(classes.names))
        panels["errors"] = jpeg_address(errors, width, quality)
    return panels


def jpeg_address(drawing: np.ndarray, width: int, quality: int) -> str:
    """An image, uint8 RGB (H, W, 3), at most ``width`` wide, as a "data:" address."""
    small = _scaled(drawing, width, cv2.INTER_AREA)
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    return _address("jpeg", cv2.imencode(".jpg", small[:, :, ::-1], options)[1].tobytes())


def label_address(labels: np.ndarray, colors, width: int) -> str:
    """A label map (H, W) in the classes' colours, likewise."""
    small = _scaled(labels.astype(np.int32), width, cv2.INTER_NEAREST)
    return _address("png", encode_png(color_labels(small, colors), compression=9))


def _address(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _scaled(array: np.ndarray, width: int, interpolation: int) -> np.ndarray:
    if array.shape[1] <= width:
        return array
    height = max(round(array.shape[0] * width / array.shape[1]), 1)
    return cv2.resize(array, (width, height), interpolation=interpolation)


def _color_table(colors: Sequence[Sequence[int]]) -> np.ndarray:
    """The K classes' colours and the hatching's two, uint8 (K + 2, 3)."""
    return np.array([*colors, _IGNORED_DARK, _IGNORED_LIGHT], dtype=np.uint8)


def _color_indices(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Rows of :func:`_color_table` for a label map, int64 (H, W)."""
    is_class = (labels >= 0) & (labels < num_classes)
    return np.where(is_class, labels, num_classes + _stripes(labels.shape))


def _stripes(shape: tuple[int, int]) -> np.ndarray:
    """1 on slanted stripes, else 0: int64 (H, W). They are as wide as can be seen in the page."""
    y, x = np.indices(shape)
    period = max(14, 14 * shape[1] // _SIZES[0][0])
    return ((x + y) % period < period // 3).astype(np.int64)
