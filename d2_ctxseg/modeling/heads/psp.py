"""The head of PSPNet: what is seen at several scales of pooling, beside the features themselves.

Zhao et al., "Pyramid Scene Parsing Network", CVPR 2017 (arXiv 1612.01105), section 3.2.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY

from .base import SemSegHead, config_arguments, feature_names, select_features
from .layers import ConvNormActivation, resize


class PyramidPooling(nn.Module):
    """Averages over grids of several sizes, joined with the feature map they are made from.

    Args:
        in_channels: channels of the feature map.
        channels: channels of each grid's 1x1 convolution and of the result.
        pool_scales: sides of the grids.
        align_corners: how the grids are interpolated to the size of the feature map.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        pool_scales: Sequence[int] = (1, 2, 3, 6),
        *,
        align_corners: bool = False,
    ):
        super().__init__()
        self.align_corners = align_corners
        self.branches = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(scale), ConvNormActivation(in_channels, channels))
            for scale in pool_scales
        )
        self.bottleneck = ConvNormActivation(
            in_channels + len(pool_scales) * channels, channels, kernel_size=3
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) to (B, channels, h, w)."""
        grids = [resize(branch(x), x.shape[-2:], self.align_corners) for branch in self.branches]
        return self.bottleneck(torch.cat([x, *grids], dim=1))


@SEM_SEG_HEADS_REGISTRY.register()
class PSPHead(SemSegHead):
    """Pyramid pooling on one feature map and a 1x1 predictor.

    Args:
        input_shape: shapes of the backbone's feature maps.
        in_features: name of the input feature map, in a list.
        channels: channels of the pooled branches and of the pixel features.
        pool_scales: sides of the grids that the feature map is averaged to.
        num_classes: number of classes K.
        loss_weight: factor on the loss.
        ignore_value: label of ignored pixels.
        align_corners: how feature maps and logits are interpolated.

    Raises:
        UserError: the backbone has no such feature map; in training, one image in the batch.
    """

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        in_features: Sequence[str] = ("res5",),
        channels: int = 512,
        pool_scales: Sequence[int] = (1, 2, 3, 6),
        num_classes: int,
        loss_weight: float = 1.0,
        ignore_value: int = 255,
        align_corners: bool = False,
    ):
        (shape,) = select_features(input_shape, in_features, number=1)
        super().__init__(
            channels,
            num_classes,
            common_stride=shape.stride,
            loss_weight=loss_weight,
            ignore_value=ignore_value,
            align_corners=align_corners,
        )
        (self.in_feature,) = in_features
        self.pyramid = PyramidPooling(
            shape.channels, channels, pool_scales, align_corners=align_corners
        )

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]):
        psp = cfg.MODEL.PSP_HEAD
        return config_arguments(cfg, input_shape) | {
            "in_features": feature_names(cfg, input_shape, "PSP_HEAD", ["res5"]),
            "channels": psp.CHANNELS,
            "pool_scales": psp.POOL_SCALES,
        }

    def pixel_features(self, features: dict[str, Tensor]) -> Tensor:
        """Feature maps by name to (B, channels, h, w)."""
        return self.pyramid(features[self.in_feature])
