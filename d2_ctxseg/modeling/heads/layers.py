"""Building blocks that the heads share."""

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...utils.errors import UserError


class ConvNormActivation(nn.Sequential):
    """A convolution without bias, BatchNorm and ReLU; height and width do not change.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: an odd number.
        dilation: dilation of the convolution.
        groups: groups of the convolution.

    Raises:
        UserError: in training, where BatchNorm gets a single value per channel.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        *,
        dilation: int = 1,
        groups: int = 1,
    ):
        conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            padding=dilation * (kernel_size // 2),
            dilation=dilation,
            groups=groups,
            bias=False,
        )
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        norm = nn.BatchNorm2d(out_channels)
        layers = {"conv": conv, "norm": norm, "activation": nn.ReLU(inplace=True)}
        super().__init__(OrderedDict(layers))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) to (B, out_channels, h, w)."""
        try:
            return super().forward(x)
        except ValueError as error:  # BatchNorm's
            if x.shape[0] * x.shape[2] * x.shape[3] != 1:
                raise
            raise UserError(
                "BatchNorm cannot train on one image per worker: the feature map that this head "
                "pools to 1x1 has a single value per channel. Set SOLVER.IMS_PER_BATCH to at least "
                "2 images per worker and micro-batch (SOLVER.ACCUMULATION_STEPS), or train on "
                "several GPUs with MODEL.SYNC_BN True."
            ) from error


class SeparableConv(nn.Sequential):
    """A depthwise 3x3 convolution and a 1x1 convolution, each with BatchNorm and ReLU.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        dilation: dilation of the 3x3 convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, *, dilation: int = 1):
        layers = {
            "depthwise": ConvNormActivation(
                in_channels, in_channels, 3, dilation=dilation, groups=in_channels
            ),
            "pointwise": ConvNormActivation(in_channels, out_channels),
        }
        super().__init__(OrderedDict(layers))


def resize(x: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    """Feature maps (B, C, h, w) to ``size`` (H, W), bilinearly."""
    if x.shape[-2:] == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=align_corners)


def resize_and_concatenate(maps: Sequence[Tensor], align_corners: bool) -> Tensor:
    """Feature maps (B, c_i, h_i, w_i) to (B, sum of c_i, h, w) in the size of the first one."""
    if len(maps) == 1:
        return maps[0]
    size = maps[0].shape[-2:]
    return torch.cat([resize(x, size, align_corners) for x in maps], dim=1)
