"""PyTorch's convolution with the extras that Detectron2 adds."""

import torch
from torch import nn


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
