"""Whether an exported file computes what the model computes."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..utils.errors import UserError

#: What a file can give.
OUTPUTS = ("labels", "logits", "labels+confidence")
#: How far logits may be from the model's, as a part of the range that the model's take.
TOLERANCE = 1e-4

#: A file as a function from images (B, C, H, W) float32 to labels or logits; or to both of labels
#: and confidence.
Run = Callable[[Tensor], Tensor | Sequence[Tensor]]


@dataclass(frozen=True)
class Agreement:
    """How a file's output differs from the model's, over all images of the check.

    Attributes:
        logit_difference: the largest one; None for a file that gives labels.
        logit_range: largest minus smallest logit of the model.
        pixels: in all images.
        unclear: the share of pixels at which the two best classes of the model are so close that
            rounding may decide.
        other_labels: the share of pixels with another label; all of them are unclear.
    """

    logit_difference: float | None
    logit_range: float
    pixels: int
    unclear: float
    other_labels: float


def check_file(
    model: nn.Module,
    run: Run,
    shapes: Sequence[tuple[int, int, int]],
    output: str,
    temperature: float = 1.0,
) -> Agreement:
    """Compare on random and on smooth images.

    Args:
        model: in eval mode.
        run: the file.
        shapes: batch size, height and width of the images.
        output: what the file gives, one of OUTPUTS.
        temperature: of the confidences.

    Raises:
        UserError: they differ by more than rounding, see ``compare``; or the labels were unclear
            at all pixels.
    """
    generator = torch.Generator().manual_seed(0)
    results = []
    for batch, height, width in shapes:
        size = (batch, model.pixel_mean.shape[0], height, width)
        for images in (_noise(size, generator), _smooth(size, generator)):
            images = images.to(model.pixel_mean.device)
            results.append(compare(model, run, images, output, temperature))
    pixels = sum(result.pixels for result in results)
    unclear, other = (
        sum(getattr(result, name) * result.pixels for result in results) / pixels
        for name in ("unclear", "other_labels")
    )
    if output != "logits" and unclear == 1:
        raise UserError(
            "The file could not be checked: the model's two best logits are nearly equal at every "
            "pixel. Are its weights trained?"
        )
    differences = [result.logit_difference for result in results]
    return Agreement(
        max(differences) if output == "logits" else None,
        max(result.logit_range for result in results),
        pixels,
        unclear,
        other,
    )


def _noise(size: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.rand(size, generator=generator) * 255


def _smooth(size: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Large areas with soft edges and a little noise, as photographs have them."""
    areas = F.interpolate(_noise((*size[:2], 4, 5), generator), size[2:], mode="bicubic")
    return (areas + 4 * torch.randn(size, generator=generator)).clamp(0, 255)


# Convolutions in TF32 would differ by more than the tolerance.
@torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
@torch.no_grad()
def compare(
    model: nn.Module, run: Run, images: Tensor, output: str, temperature: float = 1.0
) -> Agreement:
    """What a file gives for images, beside what the model gives.

    Args:
        model: in eval mode.
        run: the file, see ``load_exported``.
        images: (B, C, H, W) float32, pixel values.
        output: what the file gives, one of OUTPUTS.
        temperature: of the confidences.

    Raises:
        UserError: the file cannot be run, or they differ by more than rounding: logits by more
            than TOLERANCE of their range, labels where the model's two best logits are further
            apart than twice that, or confidences by more than such logits would have them differ.
    """
    expected = torch.stack([item["sem_seg"] for item in model([{"image": i} for i in images])])
    expected = expected.float().cpu()
    result, *confidence = _outputs(run, images, 1 + (output == "labels+confidence"))
    logit_range = (expected.max() - expected.min()).item()
    if not math.isfinite(logit_range):
        raise UserError("The model's logits are not finite: are its weights damaged?")
    tolerance = TOLERANCE * logit_range
    expected_shape = expected.shape if output == "logits" else expected[:, 0].shape
    if result.shape != expected_shape:
        raise UserError(
            f"The exported file gives {tuple(result.shape)} for images of "
            f"{tuple(images.shape)}, the model {tuple(expected_shape)}."
        )
    difference, labels = None, result
    if output == "logits":
        difference, labels = (result - expected).abs().max().item(), result.argmax(dim=1)
        if not difference <= tolerance:
            raise UserError(
                f"The exported file computes something else: for images of {tuple(images.shape)} "
                f"its logits differ from the model's by up to {difference:.3g}, where at most "
                f"{tolerance:.3g} was expected (the logits' range is {logit_range:.3g})."
            )
    if confidence:
        _compare_confidence(confidence[0], expected / temperature, tolerance / temperature)
    best = expected.topk(min(2, expected.shape[1]), dim=1).values
    clear = (best[:, 0] - best[:, -1] > 2 * tolerance) | (best.shape[1] == 1)
    other = labels != expected.argmax(dim=1)
    wrong = (other & clear).float().mean().item()
    if wrong:
        raise UserError(
            f"The exported file computes something else: for images of {tuple(images.shape)} "
            f"{wrong:.2%} of the pixels have another label than the model gives."
        )
    unclear = 1 - clear.float().mean().item()
    return Agreement(difference, logit_range, clear.numel(), unclear, other.float().mean().item())


def _compare_confidence(confidence: Tensor, logits: Tensor, tolerance: float) -> None:
    expected = logits.softmax(dim=1).amax(dim=1)
    if confidence.shape != expected.shape:
        raise UserError(
            f"The exported file gives confidences {tuple(confidence.shape)}, the model "
            f"{tuple(expected.shape)}."
        )
    # A probability changes at most by half of what the difference of two logits does.
    tolerance = min(tolerance, 1) + 1e-5
    difference = (confidence - expected).abs().max().item()
    if not difference <= tolerance:
        raise UserError(
            "The exported file computes something else: its confidences differ from the model's by "
            f"up to {difference:.3g}, where at most {tolerance:.3g} was expected."
        )


def _outputs(run: Run, images: Tensor, number: int) -> list[Tensor]:
    """What a file gives, as so many tensors on the CPU."""
    try:
        found = run(images)
        found = [found] if isinstance(found, Tensor) else found
        found = [tensor.cpu() for tensor in found]
    except Exception as error:  # the runtimes raise errors of many kinds
        reason = " ".join(str(error).split())[-300:]
        raise UserError(
            f"The exported file fails for images of {tuple(images.shape)} "
            f"({type(error).__name__}: {reason}). Export it with another format, or for one size."
        ) from error
    if len(found) != number:
        raise UserError(f"The exported file gives {len(found)} tensors, expected {number}.")
    return found
