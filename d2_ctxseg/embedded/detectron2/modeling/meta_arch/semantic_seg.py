"""The plain semantic segmentation model, and the semantic head of Panoptic FPN."""

import math
from collections.abc import Callable, Sequence

import fvcore.nn.weight_init as weight_init
import torch
from torch import nn
from torch.nn import functional as F

from ...config import CfgNode, configurable
from ...layers import Conv2d, ShapeSpec, get_norm
from ...structures import ImageList
from ...utils.registry import Registry
from .._lookup import find_registered
from ..backbone import Backbone, build_backbone
from ..postprocessing import sem_seg_postprocess
from .build import META_ARCH_REGISTRY

__all__ = [
    "SEM_SEG_HEADS_REGISTRY",
    "SemSegFPNHead",
    "SemanticSegmentor",
    "build_sem_seg_head",
]

SEM_SEG_HEADS_REGISTRY = Registry("SEM_SEG_HEADS")
SEM_SEG_HEADS_REGISTRY.__doc__ = """Callables ``(cfg, input_shape) -> nn.Module`` by name.

``input_shape`` is the backbone's ``output_shape()``. Called with the backbone's features and the
targets (or None), the module returns ``(logits or None, losses)``.
"""


@META_ARCH_REGISTRY.register()
class SemanticSegmentor(nn.Module):
    """A backbone and a semantic segmentation head.

    Args:
        backbone: yields the feature maps.
        sem_seg_head: turns features and targets into logits and losses; its ``ignore_value`` fills
            the padding of the labels.
        pixel_mean, pixel_std: one value a channel. Images are normalized with them.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        sem_seg_head: nn.Module,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ):
        super().__init__()
        self.backbone = backbone
        self.sem_seg_head = sem_seg_head
        # Not part of the checkpoint: they are the config's.
        for name, values in ("pixel_mean", pixel_mean), ("pixel_std", pixel_std):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        backbone = build_backbone(cfg)
        return {
            "backbone": backbone,
            "sem_seg_head": build_sem_seg_head(cfg, backbone.output_shape()),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @property
    def device(self) -> torch.device:
        """Where the model is, and where it moves its inputs."""
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict]) -> dict[str, torch.Tensor] | list[dict]:
        """Losses by name in training; otherwise one dict an image.

        Args:
            batched_inputs: one dict an image, as the dataset mapper makes them:
                "image": (C, H, W), values as in the image file;
                "sem_seg": labels (H, W) int64, needed in training;
                "height", "width": the size of the prediction, by default that of the image.

        Returns:
            In inference, the dicts hold "sem_seg": logits (K, height, width).
        """
        images = [
            (item["image"].to(self.device) - self.pixel_mean) / self.pixel_std
            for item in batched_inputs
        ]
        images = self._batch(images, pad_value=0.0)
        targets = None
        if "sem_seg" in batched_inputs[0]:
            labels = [item["sem_seg"].to(self.device) for item in batched_inputs]
            targets = self._batch(labels, pad_value=self.sem_seg_head.ignore_value).tensor

        results, losses = self.sem_seg_head(self.backbone(images.tensor), targets)
        if self.training:
            return losses
        predictions = []
        for logits, item, size in zip(results, batched_inputs, images.image_sizes):
            height, width = item.get("height", size[0]), item.get("width", size[1])
            predictions.append({"sem_seg": sem_seg_postprocess(logits, size, height, width)})
        return predictions

    def _batch(self, tensors: list[torch.Tensor], pad_value: float) -> ImageList:
        return ImageList.from_tensors(
            tensors,
            self.backbone.size_divisibility,
            pad_value,
            self.backbone.padding_constraints,
        )


def build_sem_seg_head(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> nn.Module:
    """Build the head ``cfg.MODEL.SEM_SEG_HEAD.NAME`` for features of shape ``input_shape``.

    Raises:
        KeyError: no head of that name is registered.
    """
    name = cfg.MODEL.SEM_SEG_HEAD.NAME
    head = find_registered(SEM_SEG_HEADS_REGISTRY, name, "MODEL.SEM_SEG_HEAD.NAME")
    return head(cfg, input_shape)


@SEM_SEG_HEADS_REGISTRY.register()
class SemSegFPNHead(nn.Module):
    """The semantic head of Panoptic Feature Pyramid Networks (https://arxiv.org/abs/1901.02446).

    Each feature map passes 3x3 convolutions, each followed by an upsampling by two, until it has
    the common stride. The maps are summed; a 1x1 convolution, ``predictor``, classifies.

    Args:
        input_shape: channels and stride of the features by name. All of them are used.
        num_classes: K.
        conv_dims: channels of the 3x3 convolutions.
        common_stride: the stride of what ``layers`` returns.
        loss_weight: factor on the loss.
        norm: normalization of the 3x3 convolutions, as in `detectron2.layers.get_norm`.
        ignore_value: the label of pixels that do not count.

    Raises:
        ValueError: ``input_shape`` is empty.
    """

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        num_classes: int,
        conv_dims: int,
        common_stride: int,
        loss_weight: float = 1.0,
        norm: str | Callable[[int], nn.Module] | None = None,
        ignore_value: int = -1,
    ):
        super().__init__()
        if not input_shape:
            raise ValueError(
                "SemSegFPNHead got an empty input_shape: MODEL.SEM_SEG_HEAD.IN_FEATURES names "
                "none of the backbone's features."
            )
        self.in_features = sorted(input_shape, key=lambda name: input_shape[name].stride)
        self.common_stride = common_stride
        self.loss_weight = loss_weight
        self.ignore_value = ignore_value
        for name in self.in_features:
            self.add_module(name, self._scale_head(input_shape[name], conv_dims, norm))
        self.predictor = Conv2d(conv_dims, num_classes, kernel_size=1)
        weight_init.c2_msra_fill(self.predictor)

    def _scale_head(self, shape: ShapeSpec, conv_dims: int, norm) -> nn.Sequential:
        operations = []
        num_convs = max(1, int(math.log2(shape.stride) - math.log2(self.common_stride)))
        for i in range(num_convs):
            conv = Conv2d(
                conv_dims if i else shape.channels,
                conv_dims,
                kernel_size=3,
                padding=1,
                bias=not norm,
                norm=get_norm(norm, conv_dims),
                activation=F.relu,
            )
            weight_init.c2_msra_fill(conv)
            operations.append(conv)
            if shape.stride != self.common_stride:
                operations.append(nn.Upsample(scale_factor=2, mode="bilinear"))
        return nn.Sequential(*operations)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        head = cfg.MODEL.SEM_SEG_HEAD
        return {
            "input_shape": {k: v for k, v in input_shape.items() if k in head.IN_FEATURES},
            "ignore_value": head.IGNORE_VALUE,
            "num_classes": head.NUM_CLASSES,
            "conv_dims": head.CONVS_DIM,
            "common_stride": head.COMMON_STRIDE,
            "norm": head.NORM,
            "loss_weight": head.LOSS_WEIGHT,
        }

    def forward(
        self, features: dict[str, torch.Tensor], targets: torch.Tensor | None = None
    ) -> tuple[torch.Tensor | None, dict[str, torch.Tensor]]:
        """(None, losses) in training; (logits (B, K, H, W) at the image's size, {}) otherwise."""
        logits = self.layers(features)
        if self.training:
            return None, self.losses(logits, targets)
        return self._to_image_size(logits), {}

    def layers(self, features: dict[str, torch.Tensor]) -> torch.Tensor:
        """Feature maps -> logits (B, K, H/common_stride, W/common_stride)."""
        maps = [self.get_submodule(name)(features[name]) for name in self.in_features]
        return self.predictor(sum(maps[1:], start=maps[0]))

    def losses(self, predictions: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
        """{"loss_sem_seg": weighted cross entropy}.

        Args:
            predictions: what ``layers`` returns.
            targets: labels (B, H, W) int64.
        """
        # Bilinear upsampling in half precision loses too much.
        logits = self._to_image_size(predictions.float())
        loss = F.cross_entropy(logits, targets, ignore_index=self.ignore_value)
        return {"loss_sem_seg": loss * self.loss_weight}

    def _to_image_size(self, logits: torch.Tensor) -> torch.Tensor:
        return F.interpolate(
            logits, scale_factor=self.common_stride, mode="bilinear", align_corners=False
        )
