"""Atrous spatial pyramid pooling."""

from collections.abc import Callable, Sequence
from copy import deepcopy

import fvcore.nn.weight_init as weight_init
import torch
from torch import nn
from torch.nn import functional as F

from .batch_norm import get_norm
from .blocks import DepthwiseSeparableConv2d
from .wrappers import Conv2d


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling of DeepLabV3 (https://arxiv.org/abs/1706.05587).

    Five branches see the same input: a 1x1 convolution, three dilated 3x3 convolutions and image
    pooling (``convs.0`` to ``convs.4``). ``project`` brings their concatenation to
    ``out_channels``.

    Args:
        dilations: three dilations.
        norm: normalization as in `get_norm`, for all convolutions but the one of image pooling,
            whose map is 1x1.
        activation: callable Tensor -> Tensor; each convolution gets a copy.
        pool_kernel_size: (height, width) of the window of image pooling; None pools everything.
            It must divide the size of the input. Set to the size of the feature map in training,
            it keeps the window the same in inference on larger images.
        dropout: probability of dropping an element of the output in training.
        use_depthwise_separable_conv: make the dilated convolutions depthwise separable, as in
            DeepLabV3+.

    Raises:
        ValueError: not exactly three dilations.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        dilations: Sequence[int],
        *,
        norm,
        activation: Callable[[torch.Tensor], torch.Tensor],
        pool_kernel_size: tuple[int, int] | None = None,
        dropout: float = 0.0,
        use_depthwise_separable_conv: bool = False,
    ):
        super().__init__()
        if len(dilations) != 3:
            raise ValueError(f"ASPP expects 3 dilations, got {len(dilations)}: {dilations}")
        self.pool_kernel_size = pool_kernel_size
        self.dropout = dropout

        def conv(channels: int, kernel_size: int = 1, dilation: int = 1) -> Conv2d:
            layer = Conv2d(
                channels,
                out_channels,
                kernel_size=kernel_size,
                padding=dilation * (kernel_size // 2),
                dilation=dilation,
                bias=norm == "",
                norm=get_norm(norm, out_channels),
                activation=deepcopy(activation),
            )
            weight_init.c2_xavier_fill(layer)
            return layer

        def separable_conv(dilation: int) -> DepthwiseSeparableConv2d:
            return DepthwiseSeparableConv2d(
                in_channels,
                out_channels,
                padding=dilation,
                dilation=dilation,
                norm1=norm,
                activation1=deepcopy(activation),
                norm2=norm,
                activation2=deepcopy(activation),
            )

        def image_pooling() -> nn.Sequential:
            if pool_kernel_size is None:
                pool = nn.AdaptiveAvgPool2d(1)
            else:
                pool = nn.AvgPool2d(pool_kernel_size, stride=1)
            layer = Conv2d(in_channels, out_channels, 1, activation=deepcopy(activation))
            weight_init.c2_xavier_fill(layer)
            return nn.Sequential(pool, layer)

        self.convs = nn.ModuleList([conv(in_channels)])
        for dilation in dilations:
            if use_depthwise_separable_conv:
                self.convs.append(separable_conv(dilation))
            else:
                self.convs.append(conv(in_channels, 3, dilation))
        self.convs.append(image_pooling())
        self.project = conv(5 * out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H, W).

        Raises:
            ValueError: ``pool_kernel_size`` does not divide (H, W).
        """
        size = x.shape[-2:]
        if self.pool_kernel_size is not None and any(
            side % window for side, window in zip(size, self.pool_kernel_size)
        ):
            raise ValueError(
                f"ASPP(pool_kernel_size={tuple(self.pool_kernel_size)}) must divide the size of "
                f"its input (height, width), which is {tuple(size)}."
            )
        branches = [conv(x) for conv in self.convs]
        branches[-1] = F.interpolate(branches[-1], size=size, mode="bilinear", align_corners=False)
        x = self.project(torch.cat(branches, dim=1))
        return F.dropout(x, self.dropout, training=self.training)
