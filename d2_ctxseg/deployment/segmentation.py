"""What a prediction is: the classes of an image's pixels, with their names and colours."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detectron2.data.catalog import Metadata

from ..evaluation.saved_predictions import write_label_image
from ..utils.errors import UserError
from ..visualization import class_shares, draw_overlay


@dataclass(frozen=True)
class Segmentation:
    """The prediction for one image.

    Attributes:
        image: what was predicted, uint8 RGB (H, W, 3).
        labels: class index of each pixel, int64 (H, W); None unless classes were asked for.
        confidence: of each pixel's class, float32 (H, W) in [0, 1]; None unless it was asked for.
        classes: the classes' names, in the order of their indices.
        palette: their colours, uint8 RGB (K, 3).
        ignore_label: of the dataset's label files, where there is no class; never predicted.
        path: of the image, if it came from a file.
    """

    image: np.ndarray
    labels: np.ndarray | None
    confidence: np.ndarray | None
    classes: tuple[str, ...]
    palette: np.ndarray
    ignore_label: int = 255
    path: Path | None = None

    def overlay(self, alpha: float = 0.6, legend: bool = True) -> np.ndarray:
        """The image with the classes in their colours, uint8 RGB.

        Small images are enlarged, so that names can be read.

        Args:
            alpha: opacity of the colours in [0, 1].
            legend: whether the classes are listed on the right, with their shares.
        """
        colors = [tuple(color) for color in self.palette.tolist()]
        metadata = Metadata(
            name="prediction", stuff_classes=list(self.classes), stuff_colors=colors
        )
        return draw_overlay(self.image, self._labels(), metadata, alpha, legend)

    def colors(self) -> np.ndarray:
        """The label map in the classes' colours, uint8 RGB (H, W, 3)."""
        return self.palette[self._labels()]

    def mask(self, name: str) -> np.ndarray:
        """Where a class is, bool (H, W).

        Raises:
            UserError: there is no class of that name.
        """
        if name not in self.classes:
            raise UserError(f"There is no class '{name}', but {', '.join(self.classes)}.")
        return self._labels() == self.classes.index(name)

    def shares(self) -> dict[str, float]:
        """The share of the image of each class that occurs, the largest first."""
        shares = class_shares(self._labels())
        ordered = sorted(shares.items(), key=lambda item: -item[1])
        return {self.classes[label]: share for label, share in ordered}

    def save_labels(self, path: str | os.PathLike) -> None:
        """Write the class indices as a PNG of one channel, 8 bits or, where needed, 16."""
        write_label_image(path, self._labels())

    def _labels(self) -> np.ndarray:
        if self.labels is None:
            raise UserError("The prediction has no label map: call predict with classes=True.")
        return self.labels
