"""Weights in half precision, and how far a model computes otherwise with them."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..utils.errors import UserError

# Of the mean difference of logits, as a multiple of the logits' standard deviation.
TOLERANCE = 0.02


@dataclass(frozen=True)
class Agreement:
    """How well two models agree on some images.

    Attributes:
        difference: mean absolute difference of the logits, divided by their standard deviation.
        equal_labels: share of the pixels, in [0, 1], that both give the same class.
    """

    difference: float
    equal_labels: float


def half_precision(model: nn.Module) -> dict[str, Tensor]:
    """The model's state with matrices and convolution kernels in float16.

    Vectors (biases, the weights of norms) and buffers (running statistics of batch norm) are as
    they were: they are few, and small errors in them do more harm.

    Raises:
        UserError: a weight is not finite or too large for float16.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    state = {}
    for key, tensor in model.state_dict().items():
        is_large = key in parameters and tensor.ndim > 1 and tensor.is_floating_point()
        # A copy each: a file of safetensors holds no shared memory.
        state[key] = (tensor.half() if is_large else tensor).clone().contiguous()
        if not torch.isfinite(state[key]).all():
            raise UserError(
                f"The weight '{key}' has values that are not finite in {state[key].dtype} (largest "
                f"{tensor.abs().max():.3g}). This model cannot be published in half precision."
            )
    return state


@torch.no_grad()
def compare_models(
    model: nn.Module, other: nn.Module, num_images: int = 3, size: tuple[int, int] = (256, 320)
) -> Agreement:
    """How well two models agree on random images of a few soft spots.

    Args:
        model, other: Detectron2 semantic segmentors in evaluation mode, of the same classes.
        num_images: how many images, always the same.
        size: height and width of an image.
    """
    generator = torch.Generator().manual_seed(0)
    differences, deviations, equal = [], [], []
    for _ in range(num_images):
        noise = 255 * torch.rand(1, 3, size[0] // 32, size[1] // 32, generator=generator)
        image = F.interpolate(noise, size, mode="bilinear")[0]
        first, second = (m([{"image": image}])[0]["sem_seg"].float() for m in (model, other))
        differences.append((first - second).abs().mean())
        deviations.append(first.std())
        equal.append((first.argmax(0) == second.argmax(0)).float().mean())
    difference = torch.stack(differences).mean() / torch.stack(deviations).mean()
    return Agreement(difference.item(), torch.stack(equal).mean().item())
