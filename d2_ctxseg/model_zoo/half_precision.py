"""Convert weights to half precision, and compare the model's outputs before and after."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..utils.errors import UserError

# The largest accepted Agreement.difference.
TOLERANCE = 0.02


@dataclass(frozen=True)
class Agreement:
    """The agreement of two models on some images.

    Attributes:
        difference: mean absolute difference of the logits, divided by their standard deviation.
        equal_labels: fraction of the pixels, in [0, 1], with the same class in both predictions.
    """

    difference: float
    equal_labels: float


def half_precision(model: nn.Module) -> dict[str, Tensor]:
    """The model's state dict with matrices and convolution kernels in float16.

    Vectors (biases, weights of norms) and buffers (running statistics of batch norm) keep their
    precision, because they are small and rounding errors in them have a larger effect.

    Raises:
        UserError: a weight is not finite, or too large for float16.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    state = {}
    for key, tensor in model.state_dict().items():
        is_large = key in parameters and tensor.ndim > 1 and tensor.is_floating_point()
        # The tensors are copied, because safetensors does not support shared memory.
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
    """Measure the agreement of two models on smooth random images, with a fixed seed.

    Args:
        model, other: Detectron2 semantic segmentors in evaluation mode, with the same classes.
        num_images: number of images.
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
