"""The library's interface to a trained model: images in, segmentations out."""

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import overload

import numpy as np
import torch

from detectron2.config import CfgNode

from ..data import generate_palette
from ..modeling.inference.scores import Scores
from ..modeling.inference.sliding_window import SlidingWindow
from ..modeling.inference.test_time_augmentation import image_scores
from ..utils.errors import UserError
from .image_input import ImageLike, read_input
from .predictor import SemSegPredictor
from .segmentation import Segmentation

# The fraction of a tile that overlaps with a neighbour. Scores are averaged there.
_OVERLAP = 1 / 4


class Segmentor:
    """Predicts the classes of the pixels of images; created by :func:`d2_ctxseg.load_segmentor`.

    Attributes:
        cfg: the model's frozen config.
        model: the model in evaluation mode, with Detectron2's input and output formats.
        classes: names of the K classes, in the order of their indices.
        palette: colours of the classes, uint8 RGB (K, 3).
    """

    def __init__(self, cfg: CfgNode):
        """Build the model of a config and load ``MODEL.WEIGHTS``.

        Raises:
            UserError: the config names no weights or no dataset, or the weights do not fit.
        """
        self.cfg = cfg
        self._predictor = SemSegPredictor(cfg)
        self.model = self._predictor.model
        metadata = self._predictor.metadata
        num_classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        names = metadata.get("stuff_classes") or [str(index) for index in range(num_classes)]
        self.classes = tuple(names)
        self.palette = class_colors(metadata, num_classes)
        self._ignore_label = metadata.get("ignore_label", 255)

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return next(self.model.parameters()).device

    def __repr__(self) -> str:
        name = self.cfg.MODEL.META_ARCHITECTURE
        return f"Segmentor({name}, {len(self.classes)} classes, {self.device})"

    @overload
    def predict(self, image: ImageLike, *args, **options) -> Segmentation: ...

    @overload
    def predict(self, image: Sequence[ImageLike], *args, **options) -> list[Segmentation]: ...

    def predict(
        self,
        image,
        classes: bool = True,
        confidence: bool = False,
        *,
        batch_size: int = 1,
        tiles: int | tuple[int, int] | None = None,
    ):
        """Predict the class of every pixel of an image, or of each image of a list.

        Args:
            image: a path, a Pillow image, or an array, RGB uint8 (H, W, 3); or a list of these.
            classes: whether the result has a label map.
            confidence: whether the result has confidences, at the model's temperature.
            batch_size: number of images of a list per batch. Only images of equal size share a
                batch, so the batch does not affect a prediction.
            tiles: height and width (or one number for both) of overlapping tiles that large images
                are cut into, in pixels after resizing to INPUT.MIN_SIZE_TEST. Scores are averaged
                where tiles overlap. TEST.MAX_MEGAPIXELS is ignored. None: use TEST.SLIDING_WINDOW.

        Returns:
            A segmentation, or a list of segmentations for a list of images.

        Raises:
            MissingFileError: a file does not exist.
            UserError: an image has another type, shape or dtype, cannot be decoded or is too large;
                or this model cannot predict in tiles.
        """
        options = {"classes": classes, "confidence": confidence, "tiles": tiles}
        if isinstance(image, (list, tuple)):
            return list(self.predict_all(image, batch_size=batch_size, **options))
        return next(self.predict_all([image], **options))

    def predict_all(
        self,
        images: Iterable[ImageLike],
        classes: bool = True,
        confidence: bool = False,
        *,
        batch_size: int = 1,
        tiles: int | tuple[int, int] | None = None,
    ) -> Iterator[Segmentation]:
        """Predict images one after another, as :meth:`predict` does for a list.

        It serves for more images than fit into memory; ``images`` may be a generator.

        Args:
            images, classes, confidence, batch_size, tiles: see :meth:`predict`.

        Yields:
            A segmentation for each image, in order.

        Raises:
            MissingFileError, UserError: see :meth:`predict`.
        """
        if not (classes or confidence):
            raise UserError("classes and confidence are both False: set at least one to True.")
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}, expected 1 or more.")
        windows = None if tiles is None else _tiles(tiles)
        images = iter(images)
        while batch := list(itertools.islice(images, batch_size)):
            read = [read_input(image, self._predictor, any_size=bool(tiles)) for image in batch]
            inputs = [self._predictor.model_inputs(pixels)[0] for pixels, _ in read]
            with torch.no_grad(), self._windows(windows):
                found = [self._maps(one, classes, confidence) for one in self._scores(inputs)]
            for image, (_, display_image), (labels, confidences) in zip(batch, read, found):
                yield Segmentation(
                    display_image,
                    labels,
                    confidences,
                    self.classes,
                    self.palette,
                    self._ignore_label,
                    Path(image) if isinstance(image, (str, os.PathLike)) else None,
                )

    def _scores(self, inputs: list[dict]) -> list[Scores]:
        """The scores of ``inputs``; images of equal size form a batch."""
        groups: dict[torch.Size, list[int]] = {}
        for index, one in enumerate(inputs):
            groups.setdefault(one["image"].shape, []).append(index)
        scores: dict[int, Scores] = {}
        for group in groups.values():
            scores |= zip(group, image_scores(self.model, [inputs[index] for index in group]))
        return [scores[index] for index in range(len(inputs))]

    def _maps(self, scores: Scores, classes: bool, confidence: bool):
        if not confidence:
            return scores.label_map().cpu().numpy(), None
        labels, confidences = scores.label_map_and_confidence(self._predictor.temperature)
        return labels.cpu().numpy() if classes else None, confidences.cpu().numpy()

    @contextmanager
    def _windows(self, windows: SlidingWindow | None):
        """Replace the model's sliding windows within the context; None leaves them unchanged."""
        if windows is None:
            yield
            return
        if not hasattr(self.model, "sliding_window"):
            raise UserError(
                f"tiles: {type(self.model).__name__} is not a segmentor of this project and cannot "
                "predict in tiles. Use 'LinearSegmentor' instead of Detectron2's "
                "SemanticSegmentor."
            )
        before = self.model.sliding_window
        self.model.sliding_window = windows
        try:
            yield
        finally:
            self.model.sliding_window = before


def class_colors(metadata, num_classes: int) -> np.ndarray:
    """The colours of a dataset's classes, uint8 RGB (K, 3); generated if it has none."""
    colors = metadata.get("stuff_colors") or generate_palette(num_classes)
    return np.array(colors, dtype=np.uint8)


def _tiles(tiles: int | tuple[int, int]) -> SlidingWindow:
    sides = (tiles, tiles) if isinstance(tiles, int) else tuple(tiles)
    if len(sides) != 2 or not all(isinstance(side, int) and side >= 8 for side in sides):
        raise UserError(f"tiles is {tiles}, expected a height and a width of 8 pixels or more.")
    stride = tuple(max(round(side * (1 - _OVERLAP)), 1) for side in sides)
    return SlidingWindow(sides, stride, batch_size=1)
