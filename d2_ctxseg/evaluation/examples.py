"""Keeps the worst and the best predictions of an evaluation."""

import heapq
import itertools
import json
import math
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..utils.files import atomic_write
from ..utils.png import encode_png

FOLDER = "examples"


@dataclass(frozen=True)
class Example:
    """A prediction, whose label map is the content of a PNG file."""

    file_name: str
    sem_seg_file_name: str
    mIoU: float
    prediction: bytes


class WorstAndBest:
    """Keeps the ``number`` predictions of lowest and of highest mIoU."""

    def __init__(self, number: int):
        self.number = number
        self._worst: list = []
        self._best: list = []
        self._order = itertools.count()  # breaks ties, since examples cannot be compared

    def add(self, file_name: str, sem_seg_file_name: str, miou: float, labels: np.ndarray) -> None:
        """Add a prediction (H, W), uint8 or uint16; one whose mIoU is NaN is ignored."""
        if math.isnan(miou) or not (self._fits(self._worst, -miou) or self._fits(self._best, miou)):
            return
        self.add_example(Example(file_name, sem_seg_file_name, miou, encode_png(labels)))

    def add_example(self, example: Example) -> None:
        """Add an example of another worker."""
        for heap, value in ((self._worst, -example.mIoU), (self._best, example.mIoU)):
            if self._fits(heap, value):
                push = heapq.heappush if len(heap) < self.number else heapq.heappushpop
                push(heap, (value, next(self._order), example))

    def _fits(self, heap: list, value: float) -> bool:
        return self.number > 0 and (len(heap) < self.number or value > heap[0][0])

    def worst(self) -> list[Example]:
        """The worst first."""
        return [example for _, _, example in sorted(self._worst, key=lambda item: -item[0])]

    def best(self) -> list[Example]:
        """The best first; examples that are among the worst are left out."""
        worst = {example.file_name for example in self.worst()}
        ordered = [example for _, _, example in sorted(self._best, key=lambda item: -item[0])]
        return [example for example in ordered if example.file_name not in worst]

    def examples(self) -> list[Example]:
        """All examples, each once."""
        return [*self.worst(), *self.best()]


def write_examples(folder: Path, worst: Iterable[Example], best: Iterable[Example]) -> None:
    """Write ``examples/examples.json`` and the label maps to one folder; older ones are deleted."""
    folder = Path(folder) / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    entries: list[dict] = []
    for kind, examples in (("worst", worst), ("best", best)):
        for example in examples:
            name = f"{len(entries):04d}.png"
            with atomic_write(folder / name, "wb") as file:
                file.write(example.prediction)
            entries.append({**asdict(example), "kind": kind, "prediction": name})
    if entries:
        with atomic_write(folder / "examples.json") as file:
            json.dump(entries, file, indent=2)
