"""Class scores of an image, computed in bands of rows.

Detectron2 resizes logits (K, h, w) to the image and takes the argmax. With many classes and large
images this dominates the memory of a prediction: 847 classes at 1024x2048 are 7 GB. Here resizing,
averaging over windows and views, and the argmax are computed in bands of rows; only the output of
the network is stored whole.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# Scores per band, by device type: few enough for the cache of a CPU, enough to keep a GPU busy.
_BAND_ELEMENTS = {"cpu": 1 << 19}
_BAND_ELEMENTS_ELSEWHERE = 1 << 26
_LEAST_ROWS = 4
# Scales any difference of two scores beyond the number of classes.
_HUGE = 3e38


class Scores(ABC):
    """Scores of K classes for each pixel of an image.

    Attributes:
        shape: (K, H, W).
        device: the device of the scores.
        are_probabilities: whether the scores are means of probabilities; otherwise they are logits,
            or what a classifier has in their place.
    """

    shape: tuple[int, int, int]
    device: torch.device
    are_probabilities: bool = False

    @abstractmethod
    def tensor(self) -> Tensor:
        """All scores, (K, H, W)."""

    @abstractmethod
    def rows(self, start: int, stop: int) -> Tensor:
        """The scores of the rows ``start`` to ``stop``, (K, stop - start, W)."""

    def label_map(self, band_elements: int | None = None) -> Tensor:
        """The class with the highest score at each pixel, (H, W) int64.

        Equals ``tensor().argmax(0)``, except where the two best classes differ by rounding alone;
        of equal scores the first class wins. The scores must be finite.

        Args:
            band_elements: approximate number of scores per band, which has at least four rows;
                None: a default by device type.
        """
        labels = torch.empty(self.shape[1:], dtype=torch.int64, device=self.device)
        for start, stop in self._bands(band_elements):
            labels[start:stop] = _first_argmax(_at_least_float32(self.rows(start, stop)))
        return labels

    def label_map_and_confidence(
        self, temperature: float = 1.0, band_elements: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """As :meth:`label_map`, and the probability of that class at each pixel.

        Probabilities are softmax(scores / temperature); of scores that are probabilities already,
        their logarithms stand in for logits, so that they stay as they are at temperature 1.
        No temperature changes the label map.

        Args:
            temperature: positive.
            band_elements: see :meth:`label_map`.

        Returns:
            Labels (H, W) int64 and confidences (H, W) float32 in [1 / K, 1].
        """
        labels = torch.empty(self.shape[1:], dtype=torch.int64, device=self.device)
        confidence = torch.empty(self.shape[1:], device=self.device)
        for start, stop in self._bands(band_elements):
            band = _at_least_float32(self.rows(start, stop))
            logits = self._as_logits(band)
            below = (logits - logits.amax(dim=0)) / temperature
            confidence[start:stop] = 1 / below.exp_().sum(dim=0)
            labels[start:stop] = _first_argmax(band)
        return labels, confidence

    def at(self, places: Tensor, band_elements: int | None = None) -> Tensor:
        """The logits of some pixels, for fitting a temperature, (N, K), at least float32.

        Args:
            places: (N,) int64, rising: row times width plus column.
            band_elements: see :meth:`label_map`.
        """
        width, found = self.shape[2], []
        places = places.to(self.device)
        for start, stop in self._bands(band_elements):
            first, last = torch.searchsorted(
                places, torch.tensor([start * width, stop * width], device=places.device)
            ).tolist()
            if first < last:
                band = _at_least_float32(self.rows(start, stop)).flatten(1)
                found.append(self._as_logits(band[:, places[first:last] - start * width]).T)
        return torch.cat(found) if found else torch.empty(0, self.shape[0], device=self.device)

    def logit_bands(self, band_elements: int | None = None) -> Iterator[Tensor]:
        """All logits band by band, (K, rows, W) each, at least float32.

        Args:
            band_elements: see :meth:`label_map`.
        """
        for start, stop in self._bands(band_elements):
            yield self._as_logits(_at_least_float32(self.rows(start, stop)))

    def _bands(self, band_elements: int | None) -> Iterator[tuple[int, int]]:
        """The first row of each band, and the one after its last."""
        num_classes, height, width = self.shape
        if band_elements is None:
            band_elements = _BAND_ELEMENTS.get(self.device.type, _BAND_ELEMENTS_ELSEWHERE)
        step = max(band_elements // (num_classes * width), _LEAST_ROWS)
        for start in range(0, height, step):
            yield start, min(start + step, height)

    def _as_logits(self, band: Tensor) -> Tensor:
        if not self.are_probabilities:
            return band
        # A probability that was rounded to 0 has the logarithm of the least positive number.
        return band.clamp_min(torch.finfo(band.dtype).tiny).log()


class Logits(Scores):
    """Stored scores (K, H, W), of any floating-point type."""

    def __init__(self, logits: Tensor, are_probabilities: bool = False):
        self._logits, self.are_probabilities = logits, are_probabilities
        self.shape, self.device = tuple(logits.shape), logits.device

    def tensor(self) -> Tensor:
        return self._logits

    def rows(self, start: int, stop: int) -> Tensor:
        return self._logits[:, start:stop]


class Resized(Scores):
    """Bilinearly resized scores, cropped to their upper left part.

    Args:
        scores: the scores to resize.
        size: height and width to resize to.
        crop: height and width of the part to keep; None: all.
        align_corners: see ``F.interpolate``.
    """

    def __init__(
        self,
        scores: Scores,
        size: Sequence[int],
        crop: Sequence[int] | None = None,
        align_corners: bool = False,
    ):
        self._scores, self._size, self._align_corners = scores, tuple(size), align_corners
        self.shape, self.device = (scores.shape[0], *(crop or size)), scores.device
        self.are_probabilities = scores.are_probabilities
        self._table: tuple[list[int], list[int], list[float]] | None = None

    def tensor(self) -> Tensor:
        return self._interpolate(self._scores.tensor(), self._size)[:, : self.shape[1]]

    def rows(self, start: int, stop: int) -> Tensor:
        first, second, weight = self._row_table()
        top, bottom = first[start], second[stop - 1] + 1
        rows = self._scores.rows(top, bottom)
        if rows.dtype in (torch.float16, torch.bfloat16):
            rows = rows.float()
        # The width first, row by row, as in F.interpolate.
        rows = self._interpolate(rows, (bottom - top, self._size[1]))
        above, below = (
            torch.tensor(index[start:stop], device=rows.device) - top for index in (first, second)
        )
        weight = rows.new_tensor(weight[start:stop])[:, None]
        if rows.device.type != "cpu":
            return torch.lerp(rows[:, above], rows[:, below], weight)
        # On a CPU a product with a matrix of two numbers per row is fastest. On a GPU it could be
        # rounded to TF32.
        matrix = rows.new_zeros(stop - start, bottom - top)
        matrix.scatter_add_(1, above[:, None], 1 - weight).scatter_add_(1, below[:, None], weight)
        return matrix @ rows

    def _interpolate(self, scores: Tensor, size: Sequence[int]) -> Tensor:
        resized = F.interpolate(
            scores[None], size=size, mode="bilinear", align_corners=self._align_corners
        )
        return resized[0, :, :, : self.shape[2]]

    def _row_table(self) -> tuple[list[int], list[int], list[float]]:
        """For each new row the two rows that it lies between, and the weight of the second one.

        Python numbers, so that slicing needs no synchronisation with the device.
        """
        if self._table is None:
            rows, size = self._scores.shape[1], self._size[0]
            place = np.arange(size, dtype=np.float32)
            if self._align_corners:
                place = place * ((rows - 1) / max(size - 1, 1))
            else:
                place = ((place + 0.5) * (rows / size) - 0.5).clip(min=0)
            first = place.astype(np.int64).clip(max=rows - 1)
            second = (first + 1).clip(max=rows - 1)
            weight = place - first.astype(np.float32)
            self._table = first.tolist(), second.tolist(), weight.tolist()
        return self._table


class HorizontallyFlipped(Scores):
    """Scores flipped left to right."""

    def __init__(self, scores: Scores):
        self._scores = scores
        self.shape, self.device = scores.shape, scores.device
        self.are_probabilities = scores.are_probabilities

    def tensor(self) -> Tensor:
        return self._scores.tensor().flip(-1)

    def rows(self, start: int, stop: int) -> Tensor:
        return self._scores.rows(start, stop).flip(-1)


class Probabilities(Scores):
    """The softmax of scores over the classes, at least float32."""

    are_probabilities = True

    def __init__(self, scores: Scores):
        self._scores = scores
        self.shape, self.device = scores.shape, scores.device

    def tensor(self) -> Tensor:
        return _softmax(self._scores.tensor())

    def rows(self, start: int, stop: int) -> Tensor:
        return _softmax(self._scores.rows(start, stop))


class Mean(Scores):
    """The mean of the scores of several views of an image."""

    def __init__(self, views: Sequence[Scores]):
        self._views = list(views)
        self.shape, self.device = self._views[0].shape, self._views[0].device
        self.are_probabilities = self._views[0].are_probabilities

    def tensor(self) -> Tensor:
        return self._mean(view.tensor() for view in self._views)

    def rows(self, start: int, stop: int) -> Tensor:
        return self._mean(view.rows(start, stop) for view in self._views)

    def _mean(self, scores: Iterable[Tensor]) -> Tensor:
        total = 0.0
        for view in scores:
            total = total + _at_least_float32(view)
        return total / len(self._views)


class Windows(Scores):
    """The mean of the windows that cover each pixel.

    Args:
        size: height and width of the image.
        windows: top, left and scores of each window. All windows have the same size, and together
            they cover the image.
    """

    def __init__(self, size: tuple[int, int], windows: Sequence[tuple[int, int, Scores]]):
        self._windows = list(windows)
        num_classes, *window = self._windows[0][2].shape
        self.shape, self.device = (num_classes, *size), self._windows[0][2].device
        # The windows form a grid: the number that covers a pixel is a product of those that cover
        # its row and its column.
        tops, lefts = ({window[i] for window in self._windows} for i in (0, 1))
        self._count = torch.outer(
            _cover(tops, window[0], size[0]), _cover(lefts, window[1], size[1])
        )

    def tensor(self) -> Tensor:
        return self.rows(0, self.shape[1])

    def rows(self, start: int, stop: int) -> Tensor:
        total = None
        for top, left, scores in self._windows:
            height, width = scores.shape[1:]
            first, last = max(start, top), min(stop, top + height)
            if first >= last:
                continue
            is_whole = last - first == height
            part = scores.tensor() if is_whole else scores.rows(first - top, last - top)
            part = _at_least_float32(part)
            if total is None:
                total = part.new_zeros((self.shape[0], stop - start, self.shape[2]))
            total[:, first - start : last - start, left : left + width] += part
        return total.div_(self._count[start:stop].to(total))


def _cover(starts: Iterable[int], window: int, length: int) -> Tensor:
    """The number of windows that cover each of ``length`` positions, int64."""
    starts = torch.tensor(sorted(starts))
    steps = torch.zeros(length + 1, dtype=torch.int64)
    steps.index_add_(0, starts, torch.ones_like(starts))
    steps.index_add_(0, starts + window, -torch.ones_like(starts))
    return steps[:-1].cumsum(0)


def _softmax(scores: Tensor) -> Tensor:
    return _at_least_float32(scores).softmax(dim=0)


def _at_least_float32(scores: Tensor) -> Tensor:
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


def _first_argmax(band: Tensor) -> Tensor:
    """``band.argmax(0)`` of (K, rows, width); several times as fast on a CPU. Changes the band."""
    if band.device.type != "cpu":
        return band.argmax(0)
    # A band of stored logits is a view, and the stored logits must not change.
    band = band.clone() if band._is_view() else band
    last = band.shape[0] - 1
    rank = torch.arange(last, -1, -1, dtype=band.dtype, device=band.device)
    # The best class gets its rank, any other class a far smaller number.
    band -= band.amax(0)
    torch.add(rank[:, None, None], band, alpha=_HUGE, out=band)
    return (last - band.amax(0).long()).clamp_(0, last)
