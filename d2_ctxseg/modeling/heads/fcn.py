"""Fully convolutional heads.

Long et al., "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015 (arXiv 1411.4038).
With several feature maps it is the head of HRNetV2: Wang et al., "Deep High-Resolution
Representation Learning for Visual Recognition", TPAMI 2021 (arXiv 1908.07919), section 3.3.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY

from ...utils.errors import UserError
from .base import SemSegHead, config_arguments, feature_names, select_features
from .layers import ConvNormActivation, resize_and_concatenate


@SEM_SEG_HEADS_REGISTRY.register()
class FCNHead(SemSegHead):
    """Convolutions, each with BatchNorm and ReLU, and a 1x1 predictor.

    Args:
        input_shape: shapes of the backbone's feature maps.
        in_features: names of the feature maps; they are resized to the first one's size and
            concatenated.
        channels: channels of the convolutions; None: those of the input.
        num_convs: number of convolutions; with 0, ``channels`` applies only to the convolution of
            ``concat_input``.
        kernel_size: kernel size of the convolutions, an odd number.
        concat_input: whether one more convolution combines the input and the output of the others.
        num_classes: number of classes K.
        loss_weight: factor on the loss.
        ignore_value: label of ignored pixels.
        align_corners: how feature maps and logits are interpolated.
        loss_name: the key of the loss.

    Raises:
        UserError: the backbone has no such feature map, or the kernel's size is even.
    """

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        in_features: Sequence[str] = ("res5",),
        channels: int | None = 512,
        num_convs: int = 2,
        kernel_size: int = 3,
        concat_input: bool = True,
        num_classes: int,
        loss_weight: float = 1.0,
        ignore_value: int = 255,
        align_corners: bool = False,
        loss_name: str = "loss_sem_seg",
    ):
        shapes = select_features(input_shape, in_features)
        _check_kernel_size(kernel_size)
        in_channels = sum(shape.channels for shape in shapes)
        channels = channels or in_channels
        between = channels if num_convs else in_channels
        super().__init__(
            channels if concat_input else between,
            num_classes,
            common_stride=shapes[0].stride,
            loss_weight=loss_weight,
            ignore_value=ignore_value,
            align_corners=align_corners,
            loss_name=loss_name,
        )
        self.in_features = tuple(in_features)
        blocks = [
            ConvNormActivation(channels if i else in_channels, channels, kernel_size)
            for i in range(num_convs)
        ]
        self.convs = nn.Sequential(*(layer for block in blocks for layer in block))
        self.concat_conv = None
        if concat_input:
            self.concat_conv = ConvNormActivation(in_channels + between, channels, kernel_size)

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]):
        fcn = cfg.MODEL.FCN_HEAD
        return config_arguments(cfg, input_shape) | {
            "in_features": feature_names(cfg, input_shape, "FCN_HEAD", ["res5"]),
            "channels": fcn.CHANNELS,
            "num_convs": fcn.NUM_CONVS,
            "kernel_size": fcn.KERNEL_SIZE,
            "concat_input": fcn.CONCAT_INPUT,
        }

    def pixel_features(self, features: dict[str, Tensor]) -> Tensor:
        """Feature maps by name to (B, channels, h, w) in the size of the first one."""
        x = resize_and_concatenate(
            [features[name] for name in self.in_features], self.align_corners
        )
        output = self.convs(x)
        if self.concat_conv is not None:
            output = self.concat_conv(torch.cat([x, output], dim=1))
        return output


class AuxiliaryFCNHead(FCNHead):
    """FCNHead with 3x3 convolutions on an intermediate feature map, and dropout.

    Supervises the backbone in training (PSPNet, CVPR 2017, section 3.3); not used at test time.

    Args:
        input_shape: shapes of the backbone's feature maps.
        in_feature: name of the input feature map.
        channels: channels of the convolutions.
        num_convs: number of 3x3 convolutions, each with BatchNorm and ReLU.
        dropout: probability of dropping a channel before the predictor.
        num_classes: number of classes K.
        loss_weight: factor on ``loss_auxiliary``.
        ignore_value: label of ignored pixels.
        align_corners: how logits are interpolated.
    """

    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        in_feature: str = "res4",
        channels: int = 256,
        num_convs: int = 1,
        dropout: float = 0.1,
        num_classes: int,
        loss_weight: float = 0.4,
        ignore_value: int = 255,
        align_corners: bool = False,
    ):
        super().__init__(
            input_shape,
            in_features=[in_feature],
            channels=channels,
            num_convs=num_convs,
            concat_input=False,
            num_classes=num_classes,
            loss_weight=loss_weight,
            ignore_value=ignore_value,
            align_corners=align_corners,
            loss_name="loss_auxiliary",
        )
        self.dropout = nn.Dropout2d(dropout)

    def pixel_features(self, features: dict[str, Tensor]) -> Tensor:
        """Feature maps by name to (B, channels, h, w)."""
        return self.dropout(super().pixel_features(features))


def _check_kernel_size(kernel_size: int) -> None:
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise UserError(
            f"MODEL.FCN_HEAD.KERNEL_SIZE is {kernel_size}, expected an odd number such as 1 or 3: "
            "others change the feature map's size."
        )
