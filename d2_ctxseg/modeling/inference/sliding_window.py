"""Sliding-window prediction: overlapping windows, whose scores are averaged."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from ...utils.errors import UserError
from .scores import Scores, Windows


@dataclass(frozen=True)
class SlidingWindow:
    """The grid of windows.

    Attributes:
        size: height and width of a window, in pixels.
        stride: pixels from one window to the next, downwards and to the right; at most ``size``.
        batch_size: number of windows per batch.

    Raises:
        UserError: a value that is not positive, or strides that leave gaps between windows.
    """

    size: tuple[int, int]
    stride: tuple[int, int]
    batch_size: int = 4

    def __post_init__(self):
        pairs = {"SIZE": self.size, "STRIDE": self.stride}
        for key, pair in pairs.items():
            if len(pair) != 2 or min(pair) < 1:
                raise UserError(
                    f"TEST.SLIDING_WINDOW.{key} must be a positive height and width, got {pair}."
                )
        if any(stride > size for size, stride in zip(self.size, self.stride)):
            raise UserError(
                f"TEST.SLIDING_WINDOW.STRIDE {tuple(self.stride)} is larger than SIZE "
                f"{tuple(self.size)}: pixels between the windows would have no prediction."
            )
        if self.batch_size < 1:
            raise UserError(
                f"TEST.SLIDING_WINDOW.BATCH_SIZE must be at least 1, got {self.batch_size}."
            )

    @classmethod
    def from_config(cls, cfg) -> "SlidingWindow | None":
        """The grid of TEST.SLIDING_WINDOW; None if it is not enabled."""
        options = cfg.TEST.SLIDING_WINDOW
        if not options.ENABLED:
            return None
        return cls(tuple(options.SIZE), tuple(options.STRIDE), options.BATCH_SIZE)


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """The first pixel of each window along one side of an image.

    The last window ends with the image. A window that is longer than the image starts at 0.
    """
    last = max(length - window, 0)
    return [*range(0, last, stride), last]


def sliding_window_scores(
    predict: Callable[[Tensor], Iterable[Scores]], image: Tensor, windows: SlidingWindow
) -> Windows:
    """The mean over all windows of each pixel's scores.

    Args:
        predict: from images (B, C, h, w), B at most ``windows.batch_size``, to the scores
            (K, h, w) of each image.
        image: (C, H, W); windows are cropped to a smaller image.
        windows: size, stride and batch size.

    Returns:
        Scores (K, H, W), at least float32.
    """
    height, width = image.shape[-2:]
    h, w = min(windows.size[0], height), min(windows.size[1], width)
    rows = window_starts(height, h, windows.stride[0])
    columns = window_starts(width, w, windows.stride[1])
    places, scores = list(product(rows, columns)), []
    for start in range(0, len(places), windows.batch_size):
        batch = places[start : start + windows.batch_size]
        scores += predict(torch.stack([image[:, y : y + h, x : x + w] for y, x in batch]))
    return Windows((height, width), [(y, x, one) for (y, x), one in zip(places, scores)])
