"""What a view is drawn from: an image, its ground truth, and a model."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from torch import Tensor, nn

from ...deployment.predictor import SemSegPredictor
from ...utils.errors import UserError
from .measures import label_map
from .model_maps import maps_of_image

# Larger images are reduced to this length: several maps a class take much memory.
LONGEST_SIDE = 1280
IGNORED = -1


@dataclass(frozen=True)
class ClassifierView:
    """A figure of how a classifier comes to its prediction for an image."""

    name: str
    """Usable in a file name, such as "entropy"."""
    caption: str
    """What the figure shows, in one or a few sentences."""
    picture: np.ndarray
    """uint8 RGB (h, w, 3)."""


@dataclass(frozen=True)
class Scene:
    """An image and a model.

    Attributes:
        model: takes and returns what Detectron2's SemanticSegmentor does; in evaluation mode.
        inputs: what it takes, a batch of one; it answers with maps of the size of ``image``.
        image: uint8 RGB (H, W, 3).
        ground_truth: int64 (H, W), ``IGNORED`` where there is no class; None if it is not known.
        metadata: Detectron2 ``Metadata`` with ``stuff_classes`` and perhaps ``stuff_colors``.
        classes: the classes to look at; None for those that are found in the image.
    """

    model: nn.Module
    inputs: list[dict]
    image: np.ndarray
    ground_truth: np.ndarray | None
    metadata: object
    classes: tuple[int, ...] | None = None

    @classmethod
    def from_predictor(
        cls,
        predictor: SemSegPredictor,
        image_rgb: np.ndarray,
        labels: np.ndarray | None = None,
        classes: Sequence[int] | None = None,
    ) -> "Scene":
        """A scene whose longest side is at most ``LONGEST_SIDE``.

        Args:
            predictor: the model.
            image_rgb: uint8 (H, W, 3). The model sees it as it is, whatever its size.
            labels: integers (H, W); whatever is no class counts as ignored.
            classes: indices of classes.

        Raises:
            UserError: the image is not uint8 (H, W, 3), the labels have another size, or a class
                does not exist.
        """
        image, names = np.asarray(image_rgb), predictor.metadata.stuff_classes
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise UserError(
                f"The image is {image.dtype} {image.shape}, expected a uint8 array (H, W, 3)."
            )
        unknown = [index for index in classes or () if not 0 <= index < len(names)]
        if unknown:
            raise UserError(f"There is no class {unknown[0]}, expected 0 to {len(names) - 1}.")
        ground_truth = None
        if labels is not None:
            ground_truth = _as_ground_truth(labels, image.shape[:2], len(names))
        inputs = predictor.model_inputs(image)
        height, width = _shown_size(*image.shape[:2])
        if (height, width) != image.shape[:2]:
            inputs = [{**inputs[0], "height": height, "width": width}]
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
            if ground_truth is not None:
                rows, columns = map(_nearest, ground_truth.shape, (height, width))
                ground_truth = ground_truth[rows][:, columns]
        chosen = tuple(dict.fromkeys(classes)) if classes else None
        return cls(predictor.model, inputs, image, ground_truth, predictor.metadata, chosen)

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.metadata.stuff_classes)

    @cached_property
    def logits(self) -> Tensor:
        """Of the model for the image, (K, H, W)."""
        return maps_of_image(self.model, self.inputs)["logits"]

    @cached_property
    def prediction(self) -> np.ndarray:
        """The most probable classes, int64 (H, W)."""
        return label_map(self.logits)

    def classes_to_show(self, most: int) -> list[int]:
        """The classes asked for, or else the ``most`` largest ones of the prediction."""
        if self.classes is not None:
            return list(self.classes)
        return largest_classes(self.prediction, most)


def largest_classes(prediction: np.ndarray, most: int) -> list[int]:
    """Up to ``most`` classes of a label map without ignored pixels, the largest one first."""
    counts = np.bincount(prediction.ravel())
    order = np.argsort(-counts, kind="stable")
    return [int(index) for index in order[:most] if counts[index]]


def _as_ground_truth(labels: np.ndarray, size: tuple[int, int], num_classes: int) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.shape != size or labels.dtype.kind not in "iu":
        raise UserError(
            f"The labels are {labels.dtype} {labels.shape}, expected integers of the size of the "
            f"image, {size} (height, width)."
        )
    labels = labels.astype(np.int64)
    return np.where((labels >= 0) & (labels < num_classes), labels, IGNORED)


def _shown_size(height: int, width: int) -> tuple[int, int]:
    factor = min(LONGEST_SIDE / max(height, width), 1.0)
    return max(round(height * factor), 1), max(round(width * factor), 1)


def _nearest(length: int, shown: int) -> np.ndarray:
    """Which of ``length`` positions lie in the middle of each of the ``shown`` ones."""
    return ((np.arange(shown) + 0.5) * length / shown).astype(np.int64)
