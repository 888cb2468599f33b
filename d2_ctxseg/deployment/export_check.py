"""Compare the outputs of an exported file with those of the model."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..utils.errors import UserError, counted

#: The kinds of output of an exported file.
OUTPUTS = ("labels", "logits", "labels+confidence")
#: The largest accepted difference of logits, as a fraction of the range of the model's logits.
TOLERANCE = 1e-4

#: An exported file as a function from images (B, C, H, W) float32 to labels or logits, or to labels
#: and confidences.
Run = Callable[[Tensor], Tensor | Sequence[Tensor]]


@dataclass(frozen=True)
class Agreement:
    """The differences between a file's outputs and the model's, over all images of the check.

    Attributes:
        logit_difference: the largest absolute difference of logits; None for a file whose output is
            labels.
        logit_range: the model's largest logit minus its smallest.
        pixels: number of pixels of all images.
        unclear: the fraction of pixels whose two best classes are so close that rounding may
            change the label.
        other_labels: the fraction of pixels with another label than the model's; all of them are
            unclear.
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
    """Compare a file with the model on random and on smooth images.

    Args:
        model: the model in eval mode.
        run: the file, see ``load_exported``.
        shapes: batch size, height and width of the images to compare on.
        output: the kind of the file's output, one of OUTPUTS.
        temperature: the temperature of the confidences.

    Raises:
        UserError: the outputs differ by more than rounding errors, see ``compare``; or the labels
            of all pixels are unclear.
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
            "pixel. Check that its weights are trained."
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
    """Images with large smooth areas and slight noise, similar to photographs."""
    areas = F.interpolate(_noise((*size[:2], 4, 5), generator), size[2:], mode="bicubic")
    return (areas + 4 * torch.randn(size, generator=generator)).clamp(0, 255)


# Convolutions in TF32 would differ by more than the tolerance.
@torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
@torch.no_grad()
def compare(
    model: nn.Module, run: Run, images: Tensor, output: str, temperature: float = 1.0
) -> Agreement:
    """Compare a file's output for a batch of images with the model's.

    Args:
        model: the model in eval mode.
        run: the file, see ``load_exported``.
        images: (B, C, H, W) float32, pixel values from 0 to 255.
        output: the kind of the file's output, one of OUTPUTS.
        temperature: the temperature of the confidences.

    Raises:
        UserError: the file cannot be run, or the outputs differ by more than rounding errors.
            Logits may differ by TOLERANCE of their range. Labels may differ where the model's two
            best logits are less than twice that apart. Confidences may differ as much as such a
            difference of logits can cause.
    """
    expected = torch.stack([item["sem_seg"] for item in model([{"image": i} for i in images])])
    expected = expected.float().cpu()
    result, *confidence = _outputs(run, images, 1 + (output == "labels+confidence"))
    logit_range = (expected.max() - expected.min()).item()
    if not math.isfinite(logit_range):
        raise UserError("The model's logits are not finite. Check its weights.")
    tolerance = TOLERANCE * logit_range
    expected_shape = expected.shape if output == "logits" else expected[:, 0].shape
    if result.shape != expected_shape:
        raise UserError(
            f"For images of shape {tuple(images.shape)}, the output of the exported file has shape "
            f"{tuple(result.shape)}, the model's {tuple(expected_shape)}."
        )
    difference, labels = None, result
    if output == "logits":
        difference, labels = (result - expected).abs().max().item(), result.argmax(dim=1)
        if not difference <= tolerance:
            raise UserError(
                f"The exported file does not match the model: for images of shape "
                f"{tuple(images.shape)} its logits differ by up to {difference:.3g}, expected at "
                f"most {tolerance:.3g} (the range of the logits is {logit_range:.3g})."
            )
    if confidence:
        _compare_confidence(confidence[0], expected / temperature, tolerance / temperature)
    best = expected.topk(min(2, expected.shape[1]), dim=1).values
    clear = (best[:, 0] - best[:, -1] > 2 * tolerance) | (best.shape[1] == 1)
    other = labels != expected.argmax(dim=1)
    wrong = (other & clear).float().mean().item()
    if wrong:
        raise UserError(
            f"The exported file does not match the model: for images of shape "
            f"{tuple(images.shape)} {wrong:.2%} of the pixels have another label."
        )
    unclear = 1 - clear.float().mean().item()
    return Agreement(difference, logit_range, clear.numel(), unclear, other.float().mean().item())


def _compare_confidence(confidence: Tensor, logits: Tensor, tolerance: float) -> None:
    expected = logits.softmax(dim=1).amax(dim=1)
    if confidence.shape != expected.shape:
        raise UserError(
            f"The confidences of the exported file have shape {tuple(confidence.shape)}, the "
            f"model's {tuple(expected.shape)}."
        )
    # A probability changes by at most half the change of the difference of two logits.
    tolerance = min(tolerance, 1) + 1e-5
    difference = (confidence - expected).abs().max().item()
    if not difference <= tolerance:
        raise UserError(
            "The exported file does not match the model: its confidences differ by up to "
            f"{difference:.3g}, expected at most {tolerance:.3g}."
        )


def _outputs(run: Run, images: Tensor, number: int) -> list[Tensor]:
    """The ``number`` outputs of a file, as tensors on the CPU."""
    try:
        found = run(images)
        found = [found] if isinstance(found, Tensor) else found
        found = [tensor.cpu() for tensor in found]
    except Exception as error:  # the runtimes raise errors of many kinds
        reason = " ".join(str(error).split())[-300:]
        raise UserError(
            f"The exported file fails for images of shape {tuple(images.shape)} "
            f"({type(error).__name__}: {reason}). Export in another format, or for one size."
        ) from error
    if len(found) != number:
        raise UserError(f"The exported file has {counted(len(found), 'output')}, not {number}.")
    return found
