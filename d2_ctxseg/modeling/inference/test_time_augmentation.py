"""Multi-scale and flip testing around any Detectron2 semantic segmentor."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detectron2.data import transforms as T

from ...utils.errors import UserError
from .scores import Logits, Mean, Mirrored, Probabilities, Scores

AVERAGES = ("probabilities", "logits")


@dataclass(frozen=True)
class TestTimeAugmentation:
    """Which scaled and mirrored copies of an image are predicted, and how they are averaged.

    Attributes:
        ratios: scales relative to the image that the model is given.
        min_sizes: where there are no ratios: lengths of the shortest edge, in pixels.
        max_size: the longest edge does not exceed it; for ``min_sizes`` only.
        flip: whether each scale is also seen mirrored.
        average: "probabilities" or "logits".

    Raises:
        UserError: a value that is not positive, no scale at all, or an unknown average.
    """

    __test__ = False  # pytest: the name says something else

    ratios: tuple[float, ...] = ()
    min_sizes: tuple[int, ...] = ()
    max_size: int = 4000
    flip: bool = True
    average: str = "probabilities"

    def __post_init__(self):
        scales = self.ratios or self.min_sizes
        key = "TEST.AUG.RATIOS" if self.ratios else "TEST.AUG.MIN_SIZES"
        if not scales or min(scales) <= 0:
            raise UserError(f"{key} must be positive numbers, at least one, got {tuple(scales)}.")
        if self.average not in AVERAGES:
            raise UserError(
                f"TEST.AUG.AVERAGE must be one of {', '.join(AVERAGES)}, got {self.average!r}."
            )

    @classmethod
    def from_config(cls, cfg) -> "TestTimeAugmentation":
        """As TEST.AUG says."""
        options = cfg.TEST.AUG
        return cls(
            tuple(options.RATIOS),
            tuple(options.MIN_SIZES),
            options.MAX_SIZE,
            options.FLIP,
            options.AVERAGE,
        )

    def sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """Heights and widths of the copies of an image."""
        if self.ratios:
            return [
                (max(round(height * ratio), 1), max(round(width * ratio), 1))
                for ratio in self.ratios
            ]
        return [
            T.ResizeShortestEdge.get_output_shape(height, width, size, self.max_size)
            for size in self.min_sizes
        ]


class SemanticSegmentorWithTTA(nn.Module):
    """Averages what a model says about scaled and mirrored copies of the image.

    Args:
        model: takes and returns what Detectron2's SemanticSegmentor does. One of this project's
            keeps only its own logits of each copy; of another one the full scores are added up.
        augmentation: the copies and the average.
    """

    def __init__(self, model: nn.Module, augmentation: TestTimeAugmentation):
        super().__init__()
        self.model = model
        self.augmentation = augmentation

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict]) -> list[dict[str, Tensor]]:
        """As the model; "sem_seg" holds the averages (K, height, width)."""
        return [{"sem_seg": self.scores(inputs)[1].tensor()} for inputs in batched_inputs]

    @torch.no_grad()
    def scores(self, inputs: dict) -> tuple[Scores | None, Scores]:
        """The scores of the image as it is, if that is one of the copies, and the average."""
        plain, views = None, _Views(self.augmentation.average)
        for view, is_plain, is_mirrored in self._copies(inputs):
            (scores,) = image_scores(self.model, [view])
            plain = scores if is_plain else plain
            views.add(scores, is_mirrored)
        return plain, views.mean()

    def _copies(self, inputs: dict) -> Iterator[tuple[dict, bool, bool]]:
        """Inputs for each copy, whether it is the image as it is, and whether it is mirrored."""
        height, width = inputs["image"].shape[-2:]
        size = {"height": inputs.get("height", height), "width": inputs.get("width", width)}
        image = inputs["image"].permute(1, 2, 0).cpu().numpy()
        for scaled_size in self.augmentation.sizes(height, width):
            is_same = scaled_size == (height, width)
            scaled = inputs["image"]
            if not is_same:
                resize = T.ResizeTransform(height, width, *scaled_size)
                scaled = torch.tensor(resize.apply_image(image)).permute(2, 0, 1)
            yield {"image": scaled, **size}, is_same, False
            if self.augmentation.flip:
                yield {"image": scaled.flip(-1), **size}, False, True


def image_scores(model: nn.Module, batched_inputs: list[dict]) -> Iterator[Scores]:
    """The scores (K, height, width) of each image, from any Detectron2 semantic segmentor."""
    if hasattr(model, "image_scores"):
        yield from model.image_scores(batched_inputs)
    else:
        yield from (Logits(output["sem_seg"]) for output in model(batched_inputs))


class _Views:
    """Scores to average. Those that are stored in full size anyway are added up at once."""

    def __init__(self, average: str):
        self._average = average
        self._lazy: list[Scores] = []
        self._stored, self._num_stored = None, 0

    def add(self, scores: Scores, is_mirrored: bool) -> None:
        is_stored = isinstance(scores, Logits)
        if is_mirrored:
            scores = Mirrored(scores)
        if self._average == "probabilities":
            scores = Probabilities(scores)
        if not is_stored:
            self._lazy.append(scores)
            return
        self._num_stored += 1
        new = Mean([scores]).tensor()
        self._stored = new if self._stored is None else self._stored.add_(new)

    def mean(self) -> Scores:
        if self._stored is None:
            return Mean(self._lazy)
        # A model stores the scores of all copies or of none.
        return Logits(self._stored / self._num_stored)
