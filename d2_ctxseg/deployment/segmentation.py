"""The prediction for an image: the classes of its pixels, with their names and colours."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detectron2.data.catalog import Metadata

from ..evaluation.saved_predictions import write_label_image
from ..utils.errors import UserError, suggest
from ..visualization import class_shares, draw_overlay


@dataclass(frozen=True)
class Segmentation:
    """The prediction for one image.

    Attributes:
        image: the input image, uint8 RGB (H, W, 3).
        labels: class index of each pixel, int64 (H, W); None if classes were not requested.
        confidence: probability of each pixel's class, float32 (H, W) in [0, 1]; None if confidences
            were not requested.
        classes: names of the K classes, in the order of their indices.
        palette: colours of the classes, uint8 RGB (K, 3).
        ignore_label: label of pixels without a class in the dataset's label files; it is never
            predicted.
        path: path of the image file; None for an image that was not read from a file.
    """

    image: np.ndarray
    labels: np.ndarray | None
    confidence: np.ndarray | None
    classes: tuple[str, ...]
    palette: np.ndarray
    ignore_label: int = 255
    path: Path | None = None

    def overlay(self, alpha: float = 0.6, legend: bool = True) -> np.ndarray:
        """The image overlaid with the colours of the classes, uint8 RGB.

        Small images are enlarged, so that the names are legible.

        Args:
            alpha: opacity of the colours in [0, 1].
            legend: whether to list the classes and their fractions on the right.

        Raises:
            UserError: the prediction has no label map.
        """
        colors = [tuple(color) for color in self.palette.tolist()]
        metadata = Metadata(
            name="prediction", stuff_classes=list(self.classes), stuff_colors=colors
        )
        return draw_overlay(self.image, self._labels(), metadata, alpha, legend)

    def colors(self) -> np.ndarray:
        """The label map in the colours of the classes, uint8 RGB (H, W, 3).

        Raises:
            UserError: the prediction has no label map.
        """
        return self.palette[self._labels()]

    def mask(self, name: str) -> np.ndarray:
        """The mask of a class, bool (H, W).

        Raises:
            UserError: the class does not exist, or the prediction has no label map.
        """
        if name not in self.classes:
            raise UserError(
                f"There is no class '{name}'.{suggest(name, self.classes)} The classes are "
                f"{', '.join(self.classes)}."
            )
        return self._labels() == self.classes.index(name)

    def shares(self) -> dict[str, float]:
        """Class name -> its fraction of the image's pixels, for the predicted classes.

        The most frequent class comes first.

        Raises:
            UserError: the prediction has no label map.
        """
        shares = class_shares(self._labels())
        ordered = sorted(shares.items(), key=lambda item: -item[1])
        return {self.classes[label]: share for label, share in ordered}

    def save_labels(self, path: str | os.PathLike) -> None:
        """Write the label map as a PNG file with one channel of 8 bits, or of 16 if needed.

        Raises:
            UserError: the prediction has no label map, or the file cannot be written.
        """
        write_label_image(path, self._labels())

    def _labels(self) -> np.ndarray:
        if self.labels is None:
            raise UserError("The prediction has no label map: call predict with classes=True.")
        return self.labels
