"""The head of DeepLabV3+: dilated separable convolutions, combined with a low-level feature map.

Chen et al., "Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation",
ECCV 2018 (arXiv 1802.02611), section 3.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY

from .base import SemSegHead, config_arguments, feature_names, select_features
from .layers import ConvNormActivation, SeparableConv, resize


class SeparablePyramidPooling(nn.Module):
    """Parallel convolutions of several dilations and the mean of the image (ASPP).

    Args:
        in_channels: channels of the feature map.
        channels: channels of each branch and of the result.
        dilations: one branch each; 1 is a 1x1 convolution, others are separable 3x3 ones.
    """

    def __init__(self, in_channels: int, channels: int, dilations: Sequence[int]):
        super().__init__()
        self.image_pool = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), ConvNormActivation(in_channels, channels)
        )
        self.branches = nn.ModuleList(
            ConvNormActivation(in_channels, channels)
            if dilation == 1
            else SeparableConv(in_channels, channels, dilation=dilation)
            for dilation in dilations
        )
        self.bottleneck = ConvNormActivation(
            (len(dilations) + 1) * channels, channels, kernel_size=3
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) to (B, channels, h, w)."""
        pooled = self.image_pool(x).expand(-1, -1, *x.shape[-2:])
        return self.bottleneck(torch.cat([pooled, *(branch(x) for branch in self.branches)], dim=1))


@SEM_SEG_HEADS_REGISTRY.register()
class DepthwiseSeparableASPPHead(SemSegHead):
    """Separable atrous pyramid pooling, joined with a shallower feature map.

    Args:
        input_shape: shapes of the backbone's feature maps.
        in_features: names of the shallow feature map, which determines the resolution of the pixel
            features, and of the deep one.
        channels: channels of the branches and of the pixel features.
        low_level_channels: channels that the shallow feature map is reduced to.
        dilations: dilations of the branches; 1 is a 1x1 convolution.
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
        in_features: Sequence[str] = ("res2", "res5"),
        channels: int = 512,
        low_level_channels: int = 48,
        dilations: Sequence[int] = (1, 12, 24, 36),
        num_classes: int,
        loss_weight: float = 1.0,
        ignore_value: int = 255,
        align_corners: bool = False,
    ):
        low_level, deep = select_features(input_shape, in_features, number=2)
        super().__init__(
            channels,
            num_classes,
            common_stride=low_level.stride,
            loss_weight=loss_weight,
            ignore_value=ignore_value,
            align_corners=align_corners,
        )
        self.low_level_feature, self.in_feature = in_features
        self.aspp = SeparablePyramidPooling(deep.channels, channels, dilations)
        self.low_level = ConvNormActivation(low_level.channels, low_level_channels)
        self.fusion = nn.Sequential(
            SeparableConv(channels + low_level_channels, channels),
            SeparableConv(channels, channels),
        )

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]):
        aspp = cfg.MODEL.ASPP_HEAD
        return config_arguments(cfg, input_shape) | {
            "in_features": feature_names(cfg, input_shape, "ASPP_HEAD", ["res2", "res5"]),
            "channels": aspp.CHANNELS,
            "low_level_channels": aspp.LOW_LEVEL_CHANNELS,
            "dilations": aspp.DILATIONS,
        }

    def pixel_features(self, features: dict[str, Tensor]) -> Tensor:
        """Feature maps by name to (B, channels, h, w) in the size of the shallow one."""
        low_level = self.low_level(features[self.low_level_feature])
        deep = self.aspp(features[self.in_feature])
        deep = resize(deep, low_level.shape[-2:], self.align_corners)
        return self.fusion(torch.cat([deep, low_level], dim=1))
