"""The decode head of ECENet: backbone stages, connected by explicit class embeddings.

Liu et al., "Boosting Semantic Segmentation from the Perspective of Explicit Class Embeddings",
ICCV 2023 (arXiv 2308.12894), section 3. Its layers are in ``ece_layers.py``; those that classifiers
use as well are in ``classifiers/explicit_class_parts.py``.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY

from ...classifiers.explicit_class_parts import (
    AssistedScores,
    EmbeddingUpdater,
    ExplicitClassExtraction,
    SemanticsAttention,
)
from ...losses.mask_losses import MASK_LOSSES, weighted_mask_losses
from ...utils.errors import UserError, suggest
from .base import STAGES, SemSegHead, feature_names, select_features
from .ece_layers import (
    AdditionUpdater,
    FeatureReconstruction,
    GhostUpsample,
    diversity_loss,
    diversity_map,
)
from .layers import resize

UPDATERS = ("gated", "add", "none")


class ECEPrediction(NamedTuple):
    """The prediction of the head at the stride of the first stage.

    ``logits`` and ``auxiliary_mask`` (B, K, h, w), ``class_embeddings`` (B, K, C), and
    ``diversity_maps``, per stage (B, h_i * w_i): see ``ece_layers.diversity_map``; empty without
    feature reconstruction.
    """

    logits: Tensor
    auxiliary_mask: Tensor
    class_embeddings: Tensor
    diversity_maps: list[Tensor]


class ECEDecoding(NamedTuple):
    """The intermediate result before the prediction.

    ``pixel_features`` (B, C, h, w), ``masks`` (B, K, h_i, w_i) from the deepest stage to the first,
    ``class_embeddings`` (B, K, C) and ``diverse`` (B, c_i / 2, h_i, w_i) per stage from the first
    to the deepest.
    """

    pixel_features: Tensor
    masks: list[Tensor]
    class_embeddings: Tensor
    diverse: list[Tensor]


@SEM_SEG_HEADS_REGISTRY.register()
class ECEHead(SemSegHead):
    """Class embeddings made from masks refine the features of the next shallower stage.

    The head keeps the contract of SemSegHead: ``layers`` scores the fused pixel features, and any
    classifier can replace its ``predictor`` (then call ``release_prediction``). Without a
    classifier, ``logits`` and ``all_losses`` use the class embeddings for the prediction.

    Backbone stages may differ by a pixel from exact multiples of each other: features and masks
    that do not have the size of the first stage after upsampling are resized bilinearly to it, as
    in the authors' code.

    Args:
        in_channels: channels of the stages, from the first to the deepest; even, at least 4.
        num_classes: number of classes K.
        in_features: names of the stages.
        strides: strides of the stages, each the first one times a power of two.
        channels: channels C of embeddings, attention and pixel features.
        num_heads: number of attention heads, and of the groups of the seed mask's convolution;
            divides C.
        pool_ratio: factor on the side of the finest grid that masks are pooled to.
        feature_reconstruction: whether the stages go through FeatureReconstruction.
        semantics_attention: whether the stages attend to the class embeddings.
        updater: how an embedding is updated by the next mask: ``"gated"``, ``"add"``, ``"none"``.
        ghost_upsample: upsampling by ghost modules and pixel shuffle; otherwise bilinear.
        assisted_prediction: whether masks and embeddings are added to the prediction.
        dropout: probability of dropping a channel of the pixel features in training.
        mask_loss: ``"focal"`` (sigmoid focal loss) or ``"bce"`` (binary cross-entropy).
        loss_weight_mask: weight of the binary mask loss of the auxiliary mask; 0 leaves it out.
        loss_weight_dice: weight of the dice loss of the auxiliary mask; 0 leaves it out.
        loss_weight_diversity: weight of the diversity loss of the feature reconstruction; 0 leaves
            it out.
        loss_weight: factor on all losses.
        ignore_value: label of ignored pixels.
        align_corners: how logits, masks and features are interpolated.

    Raises:
        UserError: an argument does not fit the others; the message says which.
    """

    @configurable
    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        in_features: Sequence[str] = ("res2", "res3", "res4", "res5"),
        strides: Sequence[int] = (4, 8, 16, 32),
        channels: int = 256,
        num_heads: int = 4,
        pool_ratio: float = 1.0,
        feature_reconstruction: bool = True,
        semantics_attention: bool = True,
        updater: str = "gated",
        ghost_upsample: bool = True,
        assisted_prediction: bool = True,
        dropout: float = 0.1,
        mask_loss: str = "focal",
        loss_weight_mask: float = 5.0,
        loss_weight_dice: float = 2.0,
        loss_weight_diversity: float = 0.2,
        loss_weight: float = 1.0,
        ignore_value: int = 255,
        align_corners: bool = False,
    ):
        _check_stages(in_channels, in_features, strides, feature_reconstruction)
        _check_options(channels, num_heads, pool_ratio, updater, mask_loss)
        super().__init__(
            channels,
            num_classes,
            common_stride=strides[0],
            loss_weight=loss_weight,
            ignore_value=ignore_value,
            align_corners=align_corners,
        )
        self.in_features = tuple(in_features)
        self.mask_loss = mask_loss
        self.mask_loss_weights = {"weight_mask": loss_weight_mask, "weight_dice": loss_weight_dice}
        self.loss_weight_diversity = loss_weight_diversity if feature_reconstruction else 0.0
        num_stages = len(in_channels)
        num_attentions = num_stages - 1 if semantics_attention else 0

        self.reconstructions = nn.ModuleList(
            FeatureReconstruction(c) for c in in_channels if feature_reconstruction
        )
        self.laterals = nn.ModuleList(
            nn.Conv2d(c, channels, kernel_size=1, bias=False) for c in in_channels
        )
        self.seed_mask = nn.Sequential(
            nn.Conv2d(channels, channels, kernel_size=1, groups=num_heads, bias=False),
            nn.Conv2d(channels, num_classes, kernel_size=1, bias=False),
        )
        self.attentions = nn.ModuleList(
            SemanticsAttention(channels, num_heads=num_heads) for _ in range(num_attentions)
        )
        self.updaters = nn.ModuleList(
            EmbeddingUpdater(channels) if updater == "gated" else AdditionUpdater()
            for _ in range(num_attentions if updater != "none" else 0)
        )
        # One per update, and the last one for the seed mask of the deepest stage.
        self.extractions = nn.ModuleList(
            ExplicitClassExtraction(num_classes, channels, pool_ratio=pool_ratio)
            for _ in range(len(self.updaters) + 1)
        )
        self.upsamplers = nn.ModuleList(
            GhostUpsample(channels, (stride // strides[0]).bit_length() - 1)
            for stride in strides[1:]
            if ghost_upsample
        )
        self.fuse = nn.Sequential(
            nn.Conv2d(num_stages * channels, channels, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        )
        self.dropout = nn.Dropout2d(dropout)
        self.assistance = AssistedScores(channels, num_classes) if assisted_prediction else None
        self._freeze_unused(mask_losses=bool(loss_weight_mask or loss_weight_dice))

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]):
        head, ece = cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.ECE_HEAD
        names = feature_names(cfg, input_shape, "ECE_HEAD", STAGES)
        shapes = select_features(input_shape, names)
        return {
            "in_channels": [shape.channels for shape in shapes],
            "strides": [shape.stride for shape in shapes],
            "in_features": names,
            "num_classes": head.NUM_CLASSES,
            "channels": ece.CHANNELS,
            "num_heads": ece.NUM_HEADS,
            "pool_ratio": ece.POOL_RATIO,
            "feature_reconstruction": ece.FEATURE_RECONSTRUCTION,
            "semantics_attention": ece.SEMANTICS_ATTENTION,
            "updater": ece.UPDATER,
            "ghost_upsample": ece.GHOST_UPSAMPLE,
            "assisted_prediction": ece.ASSISTED_PREDICTION,
            "dropout": ece.DROPOUT,
            "mask_loss": ece.MASK_LOSS,
            "loss_weight_mask": ece.LOSS_WEIGHT_MASK,
            "loss_weight_dice": ece.LOSS_WEIGHT_DICE,
            "loss_weight_diversity": ece.LOSS_WEIGHT_DIVERSITY,
            "loss_weight": head.LOSS_WEIGHT,
            "ignore_value": head.IGNORE_VALUE,
            "align_corners": cfg.MODEL.CLASSIFIER.ALIGN_CORNERS,
        }

    def decode(self, stages: Sequence[Tensor]) -> ECEDecoding:
        """Stages (B, c_i, h_i, w_i), first to deepest, to pixel features, masks and embeddings."""
        stages, diverse = self._reconstruct(stages)
        laterals = [lateral(stage) for lateral, stage in zip(self.laterals, stages)]
        masks = [self.seed_mask(laterals[-1])]
        embeddings = self.extractions[-1](masks[0])
        for i in reversed(range(len(self.attentions))):
            laterals[i], mask = self.attentions[i](laterals[i], embeddings)
            masks.append(mask)
            if self.updaters:
                embeddings = self.updaters[i](self.extractions[i](mask), embeddings)
        return ECEDecoding(self._fuse(laterals), masks, embeddings, diverse)

    def predict(self, stages: Sequence[Tensor]) -> ECEPrediction:
        """Stages (B, c_i, h_i, w_i), first to deepest, to all predictions that have a loss.

        Raises:
            UserError: a classifier has replaced the predictor.
        """
        if isinstance(self.predictor, nn.Identity):
            raise UserError(
                "ECEHead cannot predict: a classifier has replaced its predictor. Pass "
                "layers(features), which are pixel features, to that classifier."
            )
        pixel_features, masks, embeddings, diverse = self.decode(stages)
        logits = self.predictor(pixel_features)
        *earlier, last = (resize(mask, logits.shape[-2:], self.align_corners) for mask in masks)
        # The mask loss supervises the masks that embeddings were extracted from.
        auxiliary = sum(earlier[1:], earlier[0]) if earlier else last
        if self.assistance is not None:
            logits = logits + self.assistance(embeddings, auxiliary + last if earlier else last)
        return ECEPrediction(logits, auxiliary, embeddings, [diversity_map(d) for d in diverse])

    def pixel_features(self, features: dict[str, Tensor]) -> Tensor:
        """The backbone's feature maps by name to fused pixel features (B, C, h, w)."""
        return self.decode(self._stages(features)).pixel_features

    def logits(self, features: dict[str, Tensor]) -> Tensor:
        """The backbone's feature maps by name to the assisted prediction (B, K, h, w).

        Raises:
            UserError: a classifier has replaced the predictor.
        """
        return self.predict(self._stages(features)).logits

    def all_losses(self, features: dict[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """All losses of the assisted prediction.

        Args:
            features: the backbone's feature maps by name.
            labels: (B, H, W) integer.

        Returns:
            ``loss_sem_seg``, ``loss_mask``, ``loss_dice`` and ``loss_diversity``, weights applied;
            those with weight 0 are left out. All but the last, which needs no labels, are 0 where
            every pixel is ignored.
        """
        prediction = self.predict(self._stages(features))
        losses = weighted_mask_losses(
            prediction.auxiliary_mask,
            labels,
            ignore_label=self.ignore_value,
            mask_loss=self.mask_loss,
            **self.mask_loss_weights,
        )
        if self.loss_weight_diversity:
            halves = [part.intrinsic[0].out_channels for part in self.reconstructions]
            diversity = diversity_loss(prediction.diversity_maps, halves)
            losses["loss_diversity"] = self.loss_weight_diversity * diversity
        losses = {name: self.loss_weight * loss for name, loss in losses.items()}
        return {**self.losses(prediction.logits, labels), **losses}

    def forward(self, features: dict[str, Tensor], targets: Tensor | None = None):
        """As Detectron2's heads: (None, losses) in training, (logits at stride 1, {}) otherwise."""
        if self.training:
            return None, self.all_losses(features, targets)
        logits = F.interpolate(
            self.logits(features),
            scale_factor=self.common_stride,
            mode="bilinear",
            align_corners=self.align_corners,
        )
        return logits, {}

    def release_prediction(self) -> None:
        """Adapt to a classifier that has replaced the predictor: ``layers`` gives pixel features.

        The classifier has a dropout of its own. Parameters that only the assisted prediction needs
        are frozen, so that every trained parameter gets a gradient, as distributed training needs.
        """
        self.assistance = None
        self.dropout = nn.Identity()
        self._freeze_unused(mask_losses=False)

    def _freeze_unused(self, *, mask_losses: bool) -> None:
        """Freeze parameters that no loss depends on."""
        if self.assistance is not None:
            return
        if not self.attentions:
            self.extractions.requires_grad_(False)
            self.seed_mask.requires_grad_(mask_losses)
        elif self.updaters:
            # Only the assisted prediction uses the embeddings of the first stage.
            self.extractions[0].requires_grad_(False)
            self.updaters[0].requires_grad_(False)

    def _stages(self, features: dict[str, Tensor]) -> list[Tensor]:
        return [features[name] for name in self.in_features]

    def _reconstruct(self, stages: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """The reconstructed stages and their diverse halves, or the stages and nothing."""
        if not self.reconstructions:
            return list(stages), []
        pairs = [part(stage) for part, stage in zip(self.reconstructions, stages)]
        return [stage for stage, _ in pairs], [diverse for _, diverse in pairs]

    def _fuse(self, laterals: Sequence[Tensor]) -> Tensor:
        """All stages to pixel features (B, C, h, w) at the size of the first."""
        first, *deeper = laterals
        if self.upsamplers:
            deeper = [upsample(x) for upsample, x in zip(self.upsamplers, deeper)]
        resized = [resize(x, first.shape[-2:], self.align_corners) for x in deeper]
        return self.dropout(self.fuse(torch.cat([first, *resized], dim=1)))


def _check_stages(
    in_channels: Sequence[int],
    in_features: Sequence[str],
    strides: Sequence[int],
    feature_reconstruction: bool,
) -> None:
    if not len(in_channels) == len(in_features) == len(strides) >= 2:
        raise UserError(
            f"ECEHead got {len(in_channels)} in_channels, {len(in_features)} in_features and "
            f"{len(strides)} strides; expected one of each per stage, and at least 2 stages."
        )
    if feature_reconstruction and any(c < 4 or c % 2 for c in in_channels):
        raise UserError(
            f"ECEHead's in_channels are {list(in_channels)}; feature reconstruction halves them "
            "and needs even numbers of at least 4. Choose other feature maps or set "
            "MODEL.ECE_HEAD.FEATURE_RECONSTRUCTION to False."
        )
    powers_of_two = {strides[0] << i for i in range(10)}
    if not powers_of_two.issuperset(strides):
        raise UserError(
            f"ECEHead's stages have the strides {list(strides)}; expected the first one times "
            "powers of two, such as 4, 8, 16, 32. Choose other feature maps of the backbone."
        )


def _check_options(
    channels: int, num_heads: int, pool_ratio: float, updater: str, mask_loss: str
) -> None:
    if num_heads < 1:
        raise UserError(
            f"MODEL.ECE_HEAD.NUM_HEADS is {num_heads}, expected a positive number such as 4."
        )
    if channels < 1 or channels % num_heads:
        raise UserError(
            f"MODEL.ECE_HEAD.CHANNELS is {channels}, expected a multiple of NUM_HEADS ({num_heads})"
            f". Set it to {max(round(channels / num_heads), 1) * num_heads}, or choose NUM_HEADS "
            "among its divisors."
        )
    if pool_ratio <= 0:
        raise UserError(
            f"MODEL.ECE_HEAD.POOL_RATIO is {pool_ratio}, expected a positive number such as 1.0."
        )
    for key, value, known in (
        ("UPDATER", updater, UPDATERS),
        ("MASK_LOSS", mask_loss, MASK_LOSSES),
    ):
        if value not in known:
            raise UserError(
                f"MODEL.ECE_HEAD.{key} is '{value}', expected one of {', '.join(known)}."
                f"{suggest(value, known)}"
            )
