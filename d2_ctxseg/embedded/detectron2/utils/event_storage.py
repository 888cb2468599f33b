"""``EventStorage``: the scalars and images of a training until writers fetch them."""

from collections import defaultdict
from itertools import takewhile

from fvcore.common.history_buffer import HistoryBuffer

_open_storages = []


def get_event_storage() -> "EventStorage":
    """The storage of the innermost ``with EventStorage(...)`` that is open.

    Raises:
        AssertionError: none is open.
    """
    assert _open_storages, (
        "get_event_storage() has to be called inside a 'with EventStorage(...)' block!"
    )
    return _open_storages[-1]


class EventStorage:
    """The history of all scalars, and the images that no writer has fetched yet.

    Args:
        start_iter: the iteration to start from.
    """

    def __init__(self, start_iter: int = 0):
        self._iter = start_iter
        self._history = defaultdict(HistoryBuffer)
        self._smoothing_hints = {}
        self._latest_scalars = {}
        self._vis_data = []

    def __enter__(self) -> "EventStorage":
        _open_storages.append(self)
        return self

    def __exit__(self, *exception) -> None:
        assert _open_storages[-1] is self
        _open_storages.pop()

    @property
    def iter(self) -> int:
        """The current iteration. New data belongs to it."""
        return self._iter

    @iter.setter
    def iter(self, value: int) -> None:
        self._iter = int(value)

    def put_scalar(
        self, name: str, value, smoothing_hint: bool = True, cur_iter: int | None = None
    ) -> None:
        """Add a value to the history of a scalar.

        Args:
            name: the scalar.
            value: a number, or a tensor with one element.
            smoothing_hint: whether the scalar is noisy, so that writers should show a median. It
                must be the same each time.
            cur_iter: the iteration the value belongs to; by default the current one.
        """
        value = float(value)
        iteration = self._iter if cur_iter is None else cur_iter
        self._history[name].update(value, iteration)
        self._latest_scalars[name] = (value, iteration)
        assert self._smoothing_hints.setdefault(name, smoothing_hint) == smoothing_hint, (
            f"Scalar {name} was put with a different smoothing_hint before!"
        )

    def put_scalars(
        self, *, smoothing_hint: bool = True, cur_iter: int | None = None, **scalars
    ) -> None:
        """Add values to the histories of several scalars: ``put_scalars(loss=0.3, lr=0.01)``."""
        for name, value in scalars.items():
            self.put_scalar(name, value, smoothing_hint=smoothing_hint, cur_iter=cur_iter)

    def put_image(self, img_name: str, img_tensor) -> None:
        """Add an image for TensorBoard.

        Args:
            img_name: its name.
            img_tensor: (3, H, W) RGB, a tensor or array: uint8 in [0, 255] or float in [0, 1].
        """
        self._vis_data.append((img_name, img_tensor, self._iter))

    def clear_images(self) -> None:
        """Delete all images after they were written."""
        self._vis_data = []

    def history(self, name: str) -> HistoryBuffer:
        """All values of a scalar.

        Raises:
            KeyError: nothing was put under this name.
        """
        if name not in self._history:
            raise KeyError(f"No history metric available for {name}!")
        return self._history[name]

    def histories(self) -> dict[str, HistoryBuffer]:
        """All values of all scalars."""
        return self._history

    def smoothing_hints(self) -> dict[str, bool]:
        """For each scalar, whether it is noisy."""
        return self._smoothing_hints

    def latest(self) -> dict[str, tuple[float, int]]:
        """For each scalar, its last value and that value's iteration."""
        return self._latest_scalars

    def latest_with_smoothing_hint(self, window_size: int = 20) -> dict[str, tuple[float, int]]:
        """As ``latest``, but for noisy scalars the median over the last iterations.

        Args:
            window_size: the number of iterations.
        """
        result = {}
        for name, (value, iteration) in self._latest_scalars.items():
            if self._smoothing_hints[name]:
                value = self._history[name].median(self.count_samples(name, window_size))
            result[name] = (value, iteration)
        return result

    def count_samples(self, name: str, window_size: int = 20) -> int:
        """How many values a scalar got in its last ``window_size`` iterations."""
        values = self._history[name].values()
        before = values[-1][1] - window_size
        return sum(1 for _ in takewhile(lambda entry: entry[1] > before, reversed(values)))
