"""The head of UPerNet: pyramid pooling on the deepest feature map, a feature pyramid above it.

Xiao et al., "Unified Perceptual Parsing for Scene Understanding", ECCV 2018 (arXiv 1807.10221),
section 3.1.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY

from .base import STAGES, SemSegHead, config_arguments, feature_names, select_features
from .layers import ConvNormActivation, resize, resize_and_concatenate
from .psp import PyramidPooling


@SEM_SEG_HEADS_REGISTRY.register()
class UPerHead(SemSegHead):
    """The pooled deepest features are added to the shallower ones; all levels are concatenated.

    Args:
        input_shape: shapes of the backbone's feature maps.
        in_features: names of the feature maps, from the shallowest to the deepest.
        channels: channels of every level and of the pixel features.
        pool_scales: sides of the grids that the deepest feature map is averaged to.
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
        in_features: Sequence[str] = ("res2", "res3", "res4", "res5"),
        channels: int = 512,
        pool_scales: Sequence[int] = (1, 2, 3, 6),
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
        self.in_features = tuple(in_features)
        self.pyramid = PyramidPooling(
            shapes[-1].channels, channels, pool_scales, align_corners=align_corners
        )
        self.laterals = nn.ModuleList(
            ConvNormActivation(shape.channels, channels) for shape in shapes[:-1]
        )
        self.fpn_convs = nn.ModuleList(
            ConvNormActivation(channels, channels, kernel_size=3) for _ in shapes[:-1]
        )
        self.fpn_bottleneck = ConvNormActivation(len(shapes) * channels, channels, kernel_size=3)

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]):
        uper = cfg.MODEL.UPER_HEAD
        return config_arguments(cfg, input_shape) | {
            "in_features": feature_names(cfg, input_shape, "UPER_HEAD", STAGES),
            "channels": uper.CHANNELS,
            "pool_scales": uper.POOL_SCALES,
        }

    def pixel_features(self, features: dict[str, Tensor]) -> Tensor:
        """Feature maps by name to (B, channels, h, w) in the size of the shallowest."""
        *shallow, deepest = (features[name] for name in self.in_features)
        top = self.pyramid(deepest)
        levels = [top]
        # From deep to shallow: each level is its lateral plus the upsampled deeper level.
        for x, lateral, conv in zip(
            reversed(shallow), reversed(self.laterals), reversed(self.fpn_convs)
        ):
            top = lateral(x) + resize(top, x.shape[-2:], self.align_corners)
            levels.insert(0, conv(top))
        return self.fpn_bottleneck(resize_and_concatenate(levels, self.align_corners))
