"""A fully convolutional head on one feature map."""

from torch import Tensor, nn

from detectron2.layers import ShapeSpec

from .base import SemSegHead


class AuxiliaryFCNHead(SemSegHead):
    """Convolutions, dropout and a 1x1 predictor on an intermediate feature map.

    Supervises the backbone in training (PSPNet, CVPR 2017, section 3.3); not used at test time.

    Args:
        input_shape: of the backbone's feature maps.
        in_feature: the feature map it stands on.
        channels: channels of the convolutions.
        num_convs: number of 3x3 convolutions, each with BatchNorm and ReLU.
        dropout: probability of dropping a channel before the predictor.
        num_classes: number of classes K.
        loss_weight: factor on ``loss_auxiliary``.
        ignore_value: label of pixels that take no part in the loss.
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
        shape = input_shape[in_feature]
        super().__init__(
            channels if num_convs else shape.channels,
            num_classes,
            common_stride=shape.stride,
            loss_weight=loss_weight,
            ignore_value=ignore_value,
            align_corners=align_corners,
            loss_name="loss_auxiliary",
        )
        blocks = []
        for i in range(num_convs):
            in_channels = channels if i else shape.channels
            blocks += [
                nn.Conv2d(in_channels, channels, kernel_size=3, padding=1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(inplace=True),
            ]
        self.convs = nn.Sequential(*blocks, nn.Dropout2d(dropout))
        self.in_feature = in_feature

    def pixel_features(self, features: dict[str, Tensor]) -> Tensor:
        """Feature maps by name to (B, channels, h, w)."""
        return self.convs(features[self.in_feature])
