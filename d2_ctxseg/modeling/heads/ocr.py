"""The head of OCRNet: every pixel attends to the regions of a coarse prediction.

Yuan et al., "Object-Contextual Representations for Semantic Segmentation", ECCV 2020
(arXiv 1909.11065), section 3.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY

from ...losses.precision import at_least_float32, without_autocast
from .base import STAGES, SemSegHead, config_arguments, feature_names, select_features
from .layers import ConvNormActivation, resize_and_concatenate


def gather_regions(pixels: Tensor, coarse: Tensor) -> Tensor:
    """Each class's mean feature in each image, pixels weighted by a softmax over all of them.

    Args:
        pixels: features (B, C, h, w).
        coarse: logits (B, K, h, w).

    Returns:
        (B, C, K, 1), in the precision of ``pixels``.
    """
    # Weights of many pixels are too small for half precision.
    with without_autocast(pixels.device):
        weights = at_least_float32(coarse).flatten(2).softmax(dim=2)
        regions = at_least_float32(pixels).flatten(2) @ weights.transpose(1, 2)
    return regions.to(pixels.dtype).unsqueeze(3)


class ObjectAttention(nn.Module):
    """Pixels attend to regions; the result is concatenated with the pixel features.

    Args:
        channels: channels C of pixels and regions.
        key_channels: channels of queries, keys and values.
    """

    def __init__(self, channels: int, key_channels: int):
        super().__init__()
        self.query = nn.Sequential(
            ConvNormActivation(channels, key_channels),
            ConvNormActivation(key_channels, key_channels),
        )
        self.key = nn.Sequential(
            ConvNormActivation(channels, key_channels),
            ConvNormActivation(key_channels, key_channels),
        )
        self.value = ConvNormActivation(channels, key_channels)
        self.output = ConvNormActivation(key_channels, channels)
        self.bottleneck = ConvNormActivation(2 * channels, channels)

    def forward(self, pixels: Tensor, regions: Tensor) -> Tensor:
        """Pixels (B, C, h, w) and regions (B, C, K, 1) to (B, C, h, w)."""
        query, key, value = (
            x.flatten(2).transpose(1, 2).unsqueeze(1)
            for x in (self.query(pixels), self.key(regions), self.value(regions))
        )
        seen = F.scaled_dot_product_attention(query, key, value)
        seen = seen.squeeze(1).transpose(1, 2).unflatten(2, pixels.shape[-2:])
        return self.bottleneck(torch.cat([self.output(seen), pixels], dim=1))


@SEM_SEG_HEADS_REGISTRY.register()
class OCRHead(SemSegHead):
    """A coarse prediction, its regions, attention to the regions and a 1x1 predictor.

    A classifier replaces only the predictor; the coarse prediction stays linear. It has a separate
    loss, ``loss_coarse``, from ``training_layers``.

    Args:
        input_shape: shapes of the backbone's feature maps.
        in_features: names of the feature maps; they are resized to the first one's size.
        channels: channels of pixels, regions and pixel features.
        key_channels: channels of the attention's queries, keys and values.
        coarse_channels: channels of the coarse prediction's convolution; None: those of the input.
        loss_weight_coarse: weight of the coarse prediction's loss; 0 leaves it out.
        num_classes: number of classes K.
        loss_weight: factor on both losses.
        ignore_value: label of ignored pixels.
        align_corners: how feature maps and logits are interpolated.

    Raises:
        UserError: the backbone has no such feature map.
    """

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        in_features: Sequence[str] = ("res2", "res3", "res4", "res5"),
        channels: int = 512,
        key_channels: int = 256,
        coarse_channels: int | None = None,
        loss_weight_coarse: float = 0.4,
        num_classes: int,
        loss_weight: float = 1.0,
        ignore_value: int = 255,
        align_corners: bool = False,
    ):
        shapes = select_features(input_shape, in_features)
        super().__init__(
            channels,
            num_classes,
            common_stride=shapes[0].stride,
            loss_weight=loss_weight,
            ignore_value=ignore_value,
            align_corners=align_corners,
        )
        in_channels = sum(shape.channels for shape in shapes)
        coarse_channels = coarse_channels or in_channels
        self.in_features = tuple(in_features)
        self.loss_weight_coarse = loss_weight_coarse
        coarse = {
            "conv": ConvNormActivation(in_channels, coarse_channels),
            "predictor": nn.Conv2d(coarse_channels, num_classes, kernel_size=1),
        }
        nn.init.normal_(coarse["predictor"].weight, std=0.01)
        nn.init.zeros_(coarse["predictor"].bias)
        self.coarse = nn.Sequential(OrderedDict(coarse))
        self.bottleneck = ConvNormActivation(in_channels, channels, kernel_size=3)
        self.object_attention = ObjectAttention(channels, key_channels)

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]):
        ocr = cfg.MODEL.OCR_HEAD
        return config_arguments(cfg, input_shape) | {
            "in_features": feature_names(cfg, input_shape, "OCR_HEAD", STAGES),
            "channels": ocr.CHANNELS,
            "key_channels": ocr.KEY_CHANNELS,
            "coarse_channels": ocr.COARSE_CHANNELS,
            "loss_weight_coarse": ocr.LOSS_WEIGHT_COARSE,
        }

    def decode(self, features: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Feature maps by name to pixel features (B, channels, h, w) and coarse logits."""
        x = resize_and_concatenate(
            [features[name] for name in self.in_features], self.align_corners
        )
        coarse = self.coarse(x)
        pixels = self.bottleneck(x)
        return self.object_attention(pixels, gather_regions(pixels, coarse)), coarse

    def pixel_features(self, features: dict[str, Tensor]) -> Tensor:
        """Feature maps by name to (B, channels, h, w) in the size of the first one."""
        return self.decode(features)[0]

    def training_layers(
        self, features: dict[str, Tensor], labels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The output of the predictor, and ``loss_coarse``, weighted, against labels (B, H, W)."""
        pixel_features, coarse = self.decode(features)
        losses = {}
        if self.loss_weight_coarse:
            loss = self.pixel_loss(coarse, labels)
            losses["loss_coarse"] = self.loss_weight * self.loss_weight_coarse * loss
        return self.predictor(pixel_features), losses
