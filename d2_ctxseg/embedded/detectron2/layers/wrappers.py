"""PyTorch's layers and functions under Detectron2's names, with the few extras it adds."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from .._coverage import module_getattr

BatchNorm2d = nn.BatchNorm2d
ConvTranspose2d = nn.ConvTranspose2d
Linear = nn.Linear
interpolate = F.interpolate


class Conv2d(nn.Conv2d):
    """``torch.nn.Conv2d`` that applies a normalization layer and then an activation.

    It takes the arguments of ``torch.nn.Conv2d`` and two more keyword arguments:
        norm: a module (its parameters are saved as ``norm.*``), or None.
        activation: a callable Tensor -> Tensor, or None.
    """

    def __init__(self, *args, norm=None, activation=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.norm = norm
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H', W'). B may be 0."""
        x = super().forward(x)
        if self.norm is not None:
            x = self.norm(x)
        if self.activation is not None:
            x = self.activation(x)
        return x


def cat(tensors: Sequence[torch.Tensor], dim: int = 0) -> torch.Tensor:
    """``torch.cat`` that returns a single tensor as it is, without a copy."""
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim)


def cross_entropy(
    input: torch.Tensor, target: torch.Tensor, *, reduction: str = "mean", **kwargs
) -> torch.Tensor:
    """``torch.nn.functional.cross_entropy``, but 0 instead of NaN for the mean of no targets.

    The 0 stays connected to ``input``, so that every parameter gets a gradient.
    """
    if reduction == "mean" and target.numel() == 0:
        return input.sum() * 0.0
    return F.cross_entropy(input, target, reduction=reduction, **kwargs)


__getattr__ = module_getattr(__name__)
