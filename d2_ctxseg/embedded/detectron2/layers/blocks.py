"""Building blocks of convolutional networks."""

import fvcore.nn.weight_init as weight_init
import torch
from torch import nn

from .batch_norm import FrozenBatchNorm2d, get_norm
from .wrappers import Conv2d


class CNNBlockBase(nn.Module):
    """Base of blocks that map (B, in_channels, H, W) to (B, out_channels, H/stride, W/stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.stride = stride

    def freeze(self) -> "CNNBlockBase":
        """Exclude the block from training: parameters, and statistics of BatchNorm layers.

        Returns:
            The block itself.
        """
        self.requires_grad_(False)
        FrozenBatchNorm2d.convert_frozen_batchnorm(self)
        return self


class DepthwiseSeparableConv2d(nn.Module):
    """A k x k convolution of each channel by itself, ``depthwise``, then a 1x1 ``pointwise`` one.

    Args:
        padding: must be ``dilation * (kernel_size - 1) / 2`` for the size to stay the same.
        norm1, norm2: normalization after the first and the second convolution, as in `get_norm`.
            A convolution has a bias only where it has no normalization.
        activation1, activation2: callables Tensor -> Tensor, or None.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        padding: int = 1,
        dilation: int = 1,
        *,
        norm1=None,
        activation1=None,
        norm2=None,
        activation2=None,
    ):
        super().__init__()
        self.depthwise = Conv2d(
            in_channels,
            in_channels,
            kernel_size=kernel_size,
            padding=padding,
            dilation=dilation,
            groups=in_channels,
            bias=not norm1,
            norm=get_norm(norm1, in_channels),
            activation=activation1,
        )
        self.pointwise = Conv2d(
            in_channels,
            out_channels,
            kernel_size=1,
            bias=not norm2,
            norm=get_norm(norm2, out_channels),
            activation=activation2,
        )
        weight_init.c2_msra_fill(self.depthwise)
        weight_init.c2_msra_fill(self.pointwise)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H', W')."""
        return self.pointwise(self.depthwise(x))
