"""A trained model as an object of a library: images in, segmentations out."""

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

# Of a tile, that neighbours share: their scores are averaged there.
_OVERLAP = 1 / 4


class Segmentor:
    """Predicts the classes of images' pixels. :func:`d2_ctxseg.load_segmentor` makes one.

    Attributes:
        cfg: the model's config, frozen.
        model: the model itself, in evaluation mode; Detectron2's input and output.
        classes: the classes' names, in the order of their indices.
        palette: their colours, uint8 RGB (K, 3).
    """

    def __init__(self, cfg: CfgNode):
        """Build the model of a config and fill it with ``MODEL.WEIGHTS``.

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
        """Where the model is."""
        return next(self.model.parameters()).device

    def __repr__(self) -> str:
        name = self.cfg.MODEL.META_ARCHITECTURE
        return f"Segmentor({name}, {len(self.classes)} classes, {self.device})"

    @overload
    def predict(self, image: ImageLike, **options) -> Segmentation: ...

    @overload
    def predict(self, image: Sequence[ImageLike], **options) -> list[Segmentation]: ...

    def predict(
        self,
        image,
        *,
        classes: bool = True,
        confidence: bool = False,
        batch_size: int = 1,
        tiles: int | tuple[int, int] | None = None,
    ):
        """Predict the class of every pixel of an image, or of each image of a list.

        Args:
            image: a path, a Pillow image, or an array, RGB uint8 (H, W, 3); or a list of these.
            classes: whether the result has the label map.
            confidence: whether the result has the confidences, at the model's temperature.
            batch_size: of a list, images that go through the model at once. Only images of one
                size share a batch, so that none is predicted otherwise than alone.
            tiles: height and width, or one number for both, of overlapping tiles that a large image
                is cut into; where they overlap, scores are averaged. In the pixels that the model
                sees: after resizing, where INPUT.MIN_SIZE_TEST is not 0. TEST.MAX_MEGAPIXELS does
                not count then. None: as TEST.SLIDING_WINDOW says.

        Returns:
            A segmentation, for a list a list of them.

        Raises:
            MissingFileError: there is no such file.
            UserError: an image of another type, shape or dtype, one that cannot be decoded or is
                too large; tiles that this model cannot be run on.
        """
        options = {"classes": classes, "confidence": confidence, "tiles": tiles}
        if isinstance(image, (list, tuple)):
            return list(self.predict_all(image, batch_size=batch_size, **options))
        return next(self.predict_all([image], **options))

    def predict_all(
        self,
        images: Iterable[ImageLike],
        *,
        classes: bool = True,
        confidence: bool = False,
        batch_size: int = 1,
        tiles: int | tuple[int, int] | None = None,
    ) -> Iterator[Segmentation]:
        """As :meth:`predict` for a list, one after another: for more images than memory holds.

        Arguments and errors are those of :meth:`predict`; ``images`` may be a generator.
        """
        if not (classes or confidence):
            raise UserError("classes and confidence are both False: nothing is left to predict.")
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}, expected 1 or more.")
        windows = None if tiles is None else _tiles(tiles)
        images = iter(images)
        while batch := list(itertools.islice(images, batch_size)):
            read = [read_input(image, self._predictor, any_size=bool(tiles)) for image in batch]
            inputs = [self._predictor.model_inputs(pixels)[0] for pixels, _ in read]
            with torch.no_grad(), self._windows(windows):
                found = [self._maps(one, classes, confidence) for one in self._scores(inputs)]
            for image, (_, shown), (labels, sure) in zip(batch, read, found):
                yield Segmentation(
                    shown,
                    labels,
                    sure,
                    self.classes,
                    self.palette,
                    self._ignore_label,
                    Path(image) if isinstance(image, (str, os.PathLike)) else None,
                )

    def _scores(self, inputs: list[dict]) -> list[Scores]:
        """In the order of ``inputs``; those of one size go through the model together."""
        places: dict[torch.Size, list[int]] = {}
        for place, one in enumerate(inputs):
            places.setdefault(one["image"].shape, []).append(place)
        scores: dict[int, Scores] = {}
        for group in places.values():
            scores |= zip(group, image_scores(self.model, [inputs[place] for place in group]))
        return [scores[place] for place in range(len(inputs))]

    def _maps(self, scores: Scores, classes: bool, confidence: bool):
        if not confidence:
            return scores.label_map().cpu().numpy(), None
        labels, sure = scores.label_map_and_confidence(self._predictor.temperature)
        return labels.cpu().numpy() if classes else None, sure.cpu().numpy()

    @contextmanager
    def _windows(self, windows: SlidingWindow | None):
        """The model with other windows, meanwhile."""
        if windows is None:
            yield
            return
        if not hasattr(self.model, "sliding_window"):
            raise UserError(
                f"tiles: {type(self.model).__name__} is none of this project's segmentors and "
                "cannot predict in tiles. 'LinearSegmentor' is the one in the place of "
                "Detectron2's SemanticSegmentor."
            )
        before = self.model.sliding_window
        self.model.sliding_window = windows
        try:
            yield
        finally:
            self.model.sliding_window = before


def class_colors(metadata, num_classes: int) -> np.ndarray:
    """The colours of a dataset's classes, uint8 RGB (K, 3); made up where it has none."""
    colors = metadata.get("stuff_colors") or generate_palette(num_classes)
    return np.array(colors, dtype=np.uint8)


def _tiles(tiles: int | tuple[int, int]) -> SlidingWindow:
    sides = (tiles, tiles) if isinstance(tiles, int) else tuple(tiles)
    if len(sides) != 2 or not all(isinstance(side, int) and side >= 8 for side in sides):
        raise UserError(f"tiles is {tiles}, expected a height and a width of 8 pixels or more.")
    stride = tuple(max(round(side * (1 - _OVERLAP)), 1) for side in sides)
    return SlidingWindow(sides, stride, batch_size=1)
