"""Multi-scale and flip testing around any Detectron2 semantic segmentor."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detectron2.data import transforms as T

from ...data.resize import ResizeForTest, scaled_size
from ...utils.errors import UserError
from .scores import HorizontallyFlipped, Logits, Mean, Probabilities, Scores

AVERAGES = ("probabilities", "logits")


@dataclass(frozen=True)
class TestTimeAugmentation:
    """The scaled and flipped views of an image, and how their scores are averaged.

    Attributes:
        ratios: scales relative to the input image of the model.
        min_sizes: lengths of the shortest edge, in pixels; used if ``ratios`` is empty.
        max_size: upper bound of the longest edge, for ``min_sizes`` only.
        flip: whether each scale is also predicted horizontally flipped.
        average: "probabilities" or "logits".
        from_original: True: views are resized from the image as it was read, "original_image" in
            the inputs. False: from the input image of the model.
        resize: how the input image of the model was resized; views are resized in the same way.

    Raises:
        UserError: a value is not positive, there is no scale, or the average is unknown.
    """

    __test__ = False  # pytest would take the class for a test because of its name

    ratios: tuple[float, ...] = ()
    min_sizes: tuple[int, ...] = ()
    max_size: int = 4000
    flip: bool = True
    average: str = "probabilities"
    from_original: bool = False
    resize: ResizeForTest = ResizeForTest(0, 0)

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
        """The augmentation of TEST.AUG and INPUT."""
        options = cfg.TEST.AUG
        return cls(
            tuple(options.RATIOS),
            tuple(options.MIN_SIZES),
            options.MAX_SIZE,
            options.FLIP,
            options.AVERAGE,
            options.FROM_ORIGINAL,
            ResizeForTest.from_config(cfg),
        )

    def sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """Heights and widths of the views, before ``resize`` rounds them up to multiples.

        Args:
            height: height of the image that is resized.
            width: width of the image that is resized.
        """
        if not self.ratios:
            return [
                T.ResizeShortestEdge.get_output_shape(height, width, size, self.max_size)
                for size in self.min_sizes
            ]
        if self.from_original:
            return [self.resize.size(height, width, ratio) for ratio in self.ratios]
        return [scaled_size(height, width, ratio) for ratio in self.ratios]

    def scaled(self, inputs: dict) -> Iterator[Tensor]:
        """The image (C, h, w) at each scale; the input image itself where it has that size.

        Raises:
            UserError: ``from_original`` is set, but "original_image" is not in the inputs.
        """
        image = source = inputs["image"]
        if self.from_original:
            if "original_image" not in inputs:
                raise UserError(
                    "TEST.AUG.FROM_ORIGINAL needs the image as it was read, 'original_image' "
                    "(C, H, W), in the model's inputs. SemanticSegmentorMapper puts it there where "
                    "TEST.AUG.ENABLED is True."
                )
            source = inputs["original_image"]
        height, width = source.shape[-2:]
        pixels = source.permute(1, 2, 0).cpu().numpy()
        for size in self.sizes(height, width):
            if self.resize.rounded_up(size) == tuple(image.shape[-2:]):
                yield image
            else:
                transform = self.resize.transform_to((height, width), size)
                yield torch.tensor(transform.apply_image(pixels)).permute(2, 0, 1)


class SemanticSegmentorWithTTA(nn.Module):
    """Averages the predictions of a model on scaled and flipped views of the image.

    Args:
        model: has the inputs and outputs of Detectron2's SemanticSegmentor. For a model of this
            project only the low-resolution logits of each view are stored; for others the full
            scores are added up.
        augmentation: the views and the average.
    """

    def __init__(self, model: nn.Module, augmentation: TestTimeAugmentation):
        super().__init__()
        self.model = model
        self.augmentation = augmentation

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict]) -> list[dict[str, Tensor]]:
        """The inputs of the model to dicts with "sem_seg", the averages (K, height, width)."""
        return [{"sem_seg": self.scores(inputs)[1].tensor()} for inputs in batched_inputs]

    @torch.no_grad()
    def scores(self, inputs: dict) -> tuple[Scores | None, Scores]:
        """The scores of the input image, if it is one of the views, and the average."""
        plain, views = None, _Views(self.augmentation.average)
        for view, is_plain, is_flipped in self._views(inputs):
            (scores,) = image_scores(self.model, [view])
            plain = scores if is_plain else plain
            views.add(scores, is_flipped)
        return plain, views.mean()

    def _views(self, inputs: dict) -> Iterator[tuple[dict, bool, bool]]:
        """The inputs of each view, whether it is the input image, and whether it is flipped."""
        height, width = inputs["image"].shape[-2:]
        size = {"height": inputs.get("height", height), "width": inputs.get("width", width)}
        for image in self.augmentation.scaled(inputs):
            yield {"image": image, **size}, image is inputs["image"], False
            if self.augmentation.flip:
                yield {"image": image.flip(-1), **size}, False, True


def image_scores(model: nn.Module, batched_inputs: list[dict]) -> Iterator[Scores]:
    """The scores (K, height, width) of each image, from any Detectron2 semantic segmentor."""
    if hasattr(model, "image_scores"):
        yield from model.image_scores(batched_inputs)
    else:
        yield from (Logits(output["sem_seg"]) for output in model(batched_inputs))


class _Views:
    """Collects scores to average. Scores that are stored in full size are added up at once."""

    def __init__(self, average: str):
        self._average = average
        self._lazy: list[Scores] = []
        self._stored, self._num_stored = None, 0

    def add(self, scores: Scores, is_flipped: bool) -> None:
        is_stored = isinstance(scores, Logits)
        if is_flipped:
            scores = HorizontallyFlipped(scores)
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
        # The scores of a model are stored in full size for all views or for none.
        are_probabilities = self._average == "probabilities"
        return Logits(self._stored / self._num_stored, are_probabilities)
