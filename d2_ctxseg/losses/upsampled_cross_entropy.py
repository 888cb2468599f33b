"""Memory-efficient cross-entropy of logits against labels of a higher resolution.

Interpolating the logits first stores several copies of K x H x W numbers for each supervised
prediction: for 150 classes far more than everything else in a classifier. Here the loss and its
gradient are computed one band of rows at a time. The result is the same.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .interpolation_bands import add_band_gradient, interpolate_band, interpolation_bands
from .precision import at_least_float32, without_autocast


def plain_upsampled_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    valid: Tensor,
    align_corners: bool = False,
    *,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """The formula that ``upsampled_cross_entropy`` computes; same arguments and result."""
    logits = F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=align_corners)
    losses = F.cross_entropy(
        logits, labels, class_weights, label_smoothing=label_smoothing, reduction="none"
    )
    return (losses * valid).sum()


def upsampled_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    valid: Tensor,
    align_corners: bool = False,
    *,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Sum over the valid pixels of the cross-entropy of bilinearly interpolated logits.

    Equal to ``plain_upsampled_cross_entropy`` up to rounding, without storing (B, K, H, W)
    numbers. Computed in float32 (float64 for float64 logits).

    Args:
        logits: (B, K, h, w) float.
        labels: (B, H, W) int64, each 0 to K-1, also where not valid.
        valid: (B, H, W) bool.
        align_corners: see ``torch.nn.functional.interpolate``.
        class_weights: (K,) float, or None for 1 each.
        label_smoothing: share of the target that is spread evenly over the classes, 0 to below 1.

    Returns:
        A scalar, differentiable once with respect to the logits.
    """
    needs_gradient = torch.is_grad_enabled() and logits.requires_grad
    return _UpsampledCrossEntropy.apply(
        logits, labels, valid, class_weights, label_smoothing, align_corners, needs_gradient
    )


@torch.no_grad()
def upsampled_pixel_losses(logits: Tensor, labels: Tensor, align_corners: bool = False) -> Tensor:
    """The cross-entropy of each pixel of bilinearly interpolated logits, without a gradient.

    Args:
        logits: (B, K, h, w) float.
        labels: (B, H, W) int64, each 0 to K-1.
        align_corners: see ``torch.nn.functional.interpolate``.

    Returns:
        (B, H, W), at least float32.
    """
    source = at_least_float32(logits)
    losses = source.new_empty(labels.shape)
    with without_autocast(logits.device):
        for out_rows, in_rows, row_weights, column_weights in interpolation_bands(
            source, labels.shape[-2:], align_corners
        ):
            band = row_weights @ (source[:, :, in_rows] @ column_weights.T)
            of_label = band.gather(1, labels[:, out_rows].unsqueeze(1))
            losses[:, out_rows] = (band.logsumexp(dim=1, keepdim=True) - of_label)[:, 0]
    return losses


class _UpsampledCrossEntropy(torch.autograd.Function):
    """Computes the gradient along with the loss, since both need the same band of logits."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        labels: Tensor,
        valid: Tensor,
        class_weights: Tensor | None,
        label_smoothing: float,
        align_corners: bool,
        needs_gradient: bool,
    ) -> Tensor:
        """The loss; its gradient is stored in ``ctx``."""
        # Classes last: the numbers of a pixel lie side by side, and PyTorch interpolates them fast.
        # On a CPU this takes 0.7 times the time that (B, K, h, w) takes.
        logits, ctx.dtype = at_least_float32(logits), logits.dtype
        source = logits.permute(0, 2, 3, 1).contiguous()
        if class_weights is not None:
            class_weights = class_weights.to(source.dtype)
        gradient = torch.zeros_like(source) if needs_gradient else None
        total = source.new_zeros(())
        with without_autocast(logits.device):
            for band in interpolation_bands(logits, labels.shape[-2:], align_corners):
                loss, band_gradient = _cross_entropy_and_gradient(
                    interpolate_band(source, band, align_corners),
                    labels[:, band.out_rows],
                    valid[:, band.out_rows],
                    class_weights,
                    label_smoothing,
                    needs_gradient,
                )
                total += loss
                if gradient is not None and band_gradient is not None:
                    add_band_gradient(gradient, band_gradient, band, align_corners)
        if needs_gradient:
            ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        """The stored gradient, scaled before it is rounded to the logits' precision."""
        (gradient,) = ctx.saved_tensors
        gradient = (gradient * grad_output).to(ctx.dtype).permute(0, 3, 1, 2)
        return gradient, None, None, None, None, None, None


def _cross_entropy_and_gradient(
    logits: Tensor,
    labels: Tensor,
    valid: Tensor,
    class_weights: Tensor | None,
    label_smoothing: float,
    needs_gradient: bool,
) -> tuple[Tensor, Tensor | None]:
    """Sum over valid pixels; ``logits`` (B, R, W, K) are overwritten with the gradient.

    With the target ``t_c = w_c ((1 - e) [c = y] + e / K)`` of class weights w and smoothing e, a
    pixel's loss is ``-sum_c t_c log p_c`` and its gradient ``p_c sum_k t_k - t_c``.
    """
    labels, valid = labels[..., None], valid[..., None].to(logits.dtype)
    of_label = logits.gather(-1, labels)
    true = valid if class_weights is None else valid * class_weights[labels]
    smoothing = None
    if label_smoothing:
        num_classes = logits.shape[-1]
        weights = logits.new_ones(num_classes) if class_weights is None else class_weights
        true = (1 - label_smoothing) * true
        even = (label_smoothing / num_classes) * valid
        smoothing = weights, even, (logits @ weights)[..., None]
    largest = logits.amax(dim=-1, keepdim=True)
    exponentials = logits.sub_(largest).exp_()
    sums = exponentials.sum(dim=-1, keepdim=True)
    log_partition = sums.log() + largest
    loss = ((log_partition - of_label) * true).sum()
    mass = true
    if smoothing is not None:
        weights, even, of_all = smoothing
        loss += ((weights.sum() * log_partition - of_all) * even).sum()
        mass = true + weights.sum() * even
    if not needs_gradient:
        return loss, None
    gradient = exponentials.mul_(mass / sums).scatter_add_(-1, labels, -true)
    if smoothing is not None:
        weights, even, _ = smoothing
        gradient.addcmul_(weights, even, value=-1)
    return loss, gradient
