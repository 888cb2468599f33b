"""Memory-efficient dice loss of logits against labels of a higher resolution.

For class k in an image, with probabilities ``s = sigmoid(z_k)`` of the interpolated logits and the
class's own pixels T, the loss is ``1 - (2 I + 1) / (U + 1)`` with

    I = sum of s over T,    U = sum of s over all pixels + |T|.

Interpolated masks of K classes, one-hot labels, and their gradients would be (B, K, H, W) each.
Here one band of rows is interpolated at a time, and labels stay indices.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .functional import class_membership
from .interpolation_bands import interpolation_bands, source_cells
from .precision import at_least_float32, without_autocast


def plain_upsampled_dice(
    logits: Tensor, labels: Tensor, valid: Tensor, align_corners: bool = False
) -> Tensor:
    """The formula that ``upsampled_dice`` computes; same arguments and result."""
    logits = F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=align_corners)
    probability = logits.sigmoid().flatten(2)
    target = class_membership(labels.where(valid, -1), logits.shape[1])
    overlap, size = (probability * target).sum(dim=2), target.sum(dim=2)
    losses = 1 - (2 * overlap + 1) / (probability.sum(dim=2) + size + 1)
    return (losses * (size > 0)).sum()


def upsampled_dice(
    logits: Tensor, labels: Tensor, valid: Tensor, align_corners: bool = False
) -> Tensor:
    """Sum of the dice losses of the classes in each image, of bilinearly interpolated logits.

    Equal to ``plain_upsampled_dice`` up to rounding, without storing (B, K, H, W) numbers. Computed
    in float32 (float64 for float64 logits). Pixels that are not valid belong to no class, but count
    in the sum over all pixels.

    Args:
        logits: (B, K, h, w) float.
        labels: (B, H, W) int64, each 0 to K-1, also where not valid.
        valid: (B, H, W) bool.
        align_corners: see ``torch.nn.functional.interpolate``.

    Returns:
        A scalar, differentiable once with respect to the logits.
    """
    if logits.device.type == "cpu":
        logits, labels = _without_absent_classes(logits, labels, valid)
    needs_gradient = torch.is_grad_enabled() and logits.requires_grad
    return _UpsampledDice.apply(logits, labels, valid, align_corners, needs_gradient)


def class_sizes(labels: Tensor, valid: Tensor, num_classes: int) -> Tensor:
    """Number of valid pixels of each class in each image.

    Args:
        labels: (B, H, W) int64, each 0 to K-1, also where not valid.
        valid: (B, H, W) bool.
        num_classes: K.

    Returns:
        (B, K) float32.
    """
    sizes = torch.zeros(labels.shape[0], num_classes, device=labels.device)
    return sizes.scatter_add_(1, labels.flatten(1), valid.flatten(1).float())


def _without_absent_classes(logits: Tensor, labels: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and labels without the classes that are absent from the whole batch.

    Absent classes have no loss, and an image contains few of the classes of a large dataset. The
    classes present are read on the host; for labels on a GPU that would be a synchronisation.
    """
    sizes = class_sizes(labels, valid, logits.shape[1]).sum(dim=0)
    present = [k for k, size in enumerate(sizes.tolist()) if size] or [0]
    index = torch.tensor(present, device=labels.device)
    position = torch.zeros_like(sizes, dtype=torch.int64)
    position[index] = torch.arange(len(present))
    return logits.index_select(1, index), position[labels]


class _UpsampledDice(torch.autograd.Function):
    """Computes the gradient along with the loss, since both need the same band of logits.

    With ``s' = s (1 - s)`` the gradient at a pixel of the interpolated logits is

        (2 I + 1) / (U + 1)^2 s'  -  2 / (U + 1) s' [the pixel is in T].

    I and U are known only after the last band. They are the same for all pixels of a class, so that
    s' itself can be reduced to (h, w) before. The second term has one number per pixel, which is
    stored.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        labels: Tensor,
        valid: Tensor,
        align_corners: bool,
        needs_gradient: bool,
    ) -> Tensor:
        """The loss; its gradient is stored in ``ctx``."""
        source, ctx.dtype = at_least_float32(logits), logits.dtype
        sums, overlap = (source.new_zeros(logits.shape[:2]) for _ in range(2))
        gradient = torch.zeros_like(source) if needs_gradient else None
        own = source.new_empty(labels.shape)
        with without_autocast(logits.device):
            for out_rows, in_rows, row_weights, column_weights in interpolation_bands(
                source, labels.shape[1:], align_corners
            ):
                columns = source[:, :, in_rows] @ column_weights.T
                probability = (row_weights @ columns).sigmoid_()
                sums += probability.sum(dim=(2, 3))
                own[:, out_rows] = probability.gather(1, labels[:, None, out_rows])[:, 0]
                if gradient is not None:
                    slope = probability.addcmul_(probability, probability, value=-1)
                    gradient[:, :, in_rows] += row_weights.T @ slope @ column_weights
        inside = valid.to(own.dtype)
        overlap.scatter_add_(1, labels.flatten(1), (own * inside).flatten(1))
        sizes = class_sizes(labels, valid, logits.shape[1]).to(own.dtype)
        present, total = (sizes > 0).to(own.dtype), sums + sizes + 1
        score = (2 * overlap + 1) / total
        if gradient is not None:
            gradient *= (present * score / total)[..., None, None]
            slope = (
                own * (1 - own) * inside * (-2 / total).gather(1, labels.flatten(1)).view_as(own)
            )
            _add_at_own_class(gradient, slope, labels, align_corners)
            ctx.save_for_backward(gradient)
        return ((1 - score) * present).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        """The stored gradient, scaled before it is rounded to the logits' precision."""
        (gradient,) = ctx.saved_tensors
        return (gradient * grad_output).to(ctx.dtype), None, None, None, None


def _add_at_own_class(
    gradient: Tensor, values: Tensor, labels: Tensor, align_corners: bool
) -> None:
    """Add the transposed interpolation of values (B, H, W) at the pixels' own classes.

    ``gradient`` (B, K, h, w) is changed in place.
    """
    batch, classes, height, width = gradient.shape
    images = torch.arange(batch, device=labels.device)[:, None, None]
    maps = (images * classes + labels) * (height * width)
    rows = source_cells(height, labels.shape[1], align_corners, values)
    columns = source_cells(width, labels.shape[2], align_corners, values)
    for row, row_weight in rows:
        for column, column_weight in columns:
            index = maps + (row * width)[:, None] + column
            share = values * row_weight[:, None] * column_weight
            gradient.view(-1).index_add_(0, index.flatten(), share.flatten())
