"""SegViT: class tokens whose attention to the pixels is the segmentation.

Zhang et al., "SegViT: Semantic Segmentation with Plain Vision Transformers", NeurIPS 2022
(arXiv 2210.05844). With explicit class embeddings in place of the learned tokens: Liu et al.,
"Boosting Semantic Segmentation from the Perspective of Explicit Class Embeddings" (ECENet), ICCV
2023 (arXiv 2308.12894).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY

from ...classifiers.explicit_class_parts import EmbeddingUpdater, ExplicitClassExtraction
from ...losses.mask_losses import (
    MaskTargets,
    dice_mask_loss,
    mask_targets,
    sigmoid_focal_mask_loss,
)
from ...losses.precision import at_least_float32, without_autocast
from ...utils.errors import UserError, suggest
from .attention_to_mask import AttentionToMask, initialize_linear
from .base import config_arguments, feature_names, select_features
from .layers import resize

CLASS_EMBEDDINGS = ("learned", "explicit")


class SegViTPrediction(NamedTuple):
    """The predictions of the S decoder stages, from the deepest feature map to the shallowest.

    ``class_logits`` (S, B, K, K + 1): the class of each token, the last being "not in the image".
    ``mask_logits`` (S, B, K, h, w): the sum of the masks up to this stage. Both are at least
    float32.
    """

    class_logits: Tensor
    mask_logits: Tensor


class ExplicitTokens(nn.Module):
    """Class embeddings made from masks, in place of learned tokens (ECENet).

    The first embeddings are extracted from a seed mask on the deepest feature map. After each
    stage, embeddings are extracted from its mask and combined, through a gate, with the tokens of
    the stage's decoder.

    Args:
        channels: channels C of the embeddings.
        num_classes: number of classes K.
        num_stages: number of decoder stages.
    """

    def __init__(self, channels: int, num_classes: int, num_stages: int):
        super().__init__()
        self.seed_mask = nn.Sequential(
            nn.Conv2d(channels, channels, kernel_size=1, groups=math.gcd(channels, 4), bias=False),
            nn.Conv2d(channels, num_classes, kernel_size=1, bias=False),
        )
        # The first extraction is for the seed mask.
        self.extractions = nn.ModuleList(
            ExplicitClassExtraction(num_classes, channels) for _ in range(num_stages + 1)
        )
        self.updaters = nn.ModuleList(EmbeddingUpdater(channels) for _ in range(num_stages))

    def seed(self, pixels: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The first embeddings.

        Args:
            pixels: (B, h * w, C) of the deepest feature map.
            size: (h, w).

        Returns:
            Tokens (B, K, C) and the seed mask (B, K, h, w), before a sigmoid.
        """
        mask = at_least_float32(self.seed_mask(pixels.transpose(1, 2).unflatten(2, tuple(size))))
        return self.extractions[0](mask), mask

    def update(self, stage: int, mask: Tensor, tokens: Tensor) -> Tensor:
        """A stage's mask (B, K, h, w) and tokens (B, K, C) to the tokens of the next stage."""
        return self.updaters[stage](self.extractions[stage + 1](mask), tokens)


@SEM_SEG_HEADS_REGISTRY.register()
class SegViTHead(nn.Module):
    """SegViT's decode head: token k is class k, its attention to the pixels is the class's mask.

    The stages go from the deepest feature map to the shallowest. Each passes its tokens to the
    next, and their masks are summed at the size of the shallowest map. Each token also predicts
    whether its class is in the image. The score of class k is
    ``sum_q p(class of token q is k) * sigmoid(mask_q)``.

    The head classifies by itself: it has no pixel features, so that no classifier can replace its
    last layer. It runs in Detectron2's SemanticSegmentor as well.

    Args:
        input_shape: shapes of the feature maps, from the shallowest to the deepest.
        num_classes: number of classes K.
        channels: C of the tokens; the authors take half of the backbone's.
        num_heads: number of heads of the attentions; divides ``channels``.
        num_layers: number of layers of each stage's decoder.
        dropout: probability of dropping attention weights and activations in training.
        class_embeddings: ``"learned"`` tokens, or ``"explicit"`` embeddings made from masks.
        loss_weight_class: weight of the cross-entropy of the tokens' classes.
        loss_weight_mask: weight of the focal loss of the masks.
        loss_weight_dice: weight of the dice loss of the masks.
        no_object_weight: weight of the tokens of absent classes in the cross-entropy.
        loss_stride: the mask losses are computed at the labels' size divided by this. The authors'
            value is 1; 2 or 4 save time and memory where there are many classes.
        loss_weight: factor on all losses.
        ignore_value: label of ignored pixels.
        align_corners: how masks are interpolated.

    Raises:
        UserError: no feature maps, channels that the heads do not divide, an unknown kind of class
            embeddings, or a loss stride below 1.
    """

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        num_classes: int,
        channels: int = 384,
        num_heads: int = 12,
        num_layers: int = 3,
        dropout: float = 0.1,
        class_embeddings: str = "learned",
        loss_weight_class: float = 1.0,
        loss_weight_mask: float = 20.0,
        loss_weight_dice: float = 1.0,
        no_object_weight: float = 0.1,
        loss_stride: int = 1,
        loss_weight: float = 1.0,
        ignore_value: int = 255,
        align_corners: bool = False,
    ):
        super().__init__()
        _check_arguments(input_shape, channels, num_heads, class_embeddings, loss_stride)
        self.in_features = tuple(input_shape)
        self.common_stride = input_shape[self.in_features[0]].stride
        self.num_classes = num_classes
        self.loss_weights = {
            "loss_class": loss_weight * loss_weight_class,
            "loss_mask": loss_weight * loss_weight_mask,
            "loss_dice": loss_weight * loss_weight_dice,
        }
        self.no_object_weight = no_object_weight
        self.loss_stride = loss_stride
        self.loss_weight = loss_weight
        self.ignore_value = ignore_value
        self.align_corners = align_corners

        self.stages = nn.ModuleList(
            AttentionToMask(
                input_shape[name].channels,
                channels,
                num_heads=num_heads,
                num_layers=num_layers,
                dropout=dropout,
            )
            for name in reversed(self.in_features)
        )
        self.class_predictor = nn.Linear(channels, num_classes + 1)
        initialize_linear(self.class_predictor)
        self.explicit = class_embeddings == "explicit"
        if self.explicit:
            self.class_tokens = ExplicitTokens(channels, num_classes, len(self.stages))
        else:
            self.class_tokens = nn.Embedding(num_classes, channels)

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]):
        segvit = cfg.MODEL.SEGVIT_HEAD
        names = feature_names(cfg, input_shape, "SEGVIT_HEAD", [*input_shape])
        shapes = select_features(input_shape, names)
        return config_arguments(cfg, dict(zip(names, shapes))) | {
            "channels": segvit.CHANNELS,
            "num_heads": segvit.NUM_HEADS,
            "num_layers": segvit.NUM_LAYERS,
            "dropout": segvit.DROPOUT,
            "class_embeddings": segvit.CLASS_EMBEDDINGS,
            "loss_weight_class": segvit.LOSS_WEIGHT_CLASS,
            "loss_weight_mask": segvit.LOSS_WEIGHT_MASK,
            "loss_weight_dice": segvit.LOSS_WEIGHT_DICE,
            "no_object_weight": segvit.NO_OBJECT_WEIGHT,
            "loss_stride": segvit.LOSS_STRIDE,
        }

    def forward(self, features: dict[str, Tensor], targets: Tensor | None = None):
        """As Detectron2's heads: (None, losses) in training, (logits at stride 1, {}) otherwise."""
        if self.training:
            return None, self.all_losses(features, targets)
        height, width = features[self.in_features[0]].shape[-2:]
        size = (height * self.common_stride, width * self.common_stride)
        return self.logits(features, size), {}

    def logits(self, features: dict[str, Tensor], size: Sequence[int] | None = None) -> Tensor:
        """Logarithms of the class scores, (B, K, h, w), float.

        The scores do not sum to 1 over the classes. The softmax of their logarithms is the scores
        divided by their sum, which multi-scale testing averages. The softmax of the scores
        themselves, which are between 0 and about 1, would be nearly uniform.

        Args:
            features: feature maps by name.
            size: (h, w) that the masks are resized to before the sigmoid; the authors use the size
                of the image. Default: that of the shallowest feature map.
        """
        class_logits, mask_logits = self.predict(features)
        mask_logits = resize(mask_logits[-1], size or mask_logits.shape[-2:], self.align_corners)
        return log_class_scores(class_logits[-1], mask_logits)

    def predict(self, features: dict[str, Tensor]) -> SegViTPrediction:
        """Feature maps by name to the class and mask logits of all stages."""
        maps = [features[name] for name in reversed(self.in_features)]
        size = maps[-1].shape[-2:]
        pixels = [stage.project(feature) for stage, feature in zip(self.stages, maps)]
        if self.explicit:
            tokens, seed_mask = self.class_tokens.seed(pixels[0], maps[0].shape[-2:])
            total = resize(seed_mask, size, self.align_corners)
        else:
            tokens = self.class_tokens.weight.expand(maps[0].shape[0], -1, -1)
            total = 0.0

        all_tokens, all_masks = [], []
        for i, stage in enumerate(self.stages):
            tokens, mask = stage(tokens, pixels[i])
            mask = mask.unflatten(2, tuple(maps[i].shape[-2:]))
            if self.explicit:
                tokens = self.class_tokens.update(i, mask, tokens)
            total = total + resize(mask, size, self.align_corners)
            all_tokens.append(tokens)
            all_masks.append(total)
        class_logits = self.class_predictor(torch.stack(all_tokens))
        return SegViTPrediction(at_least_float32(class_logits), torch.stack(all_masks))

    def all_losses(self, features: dict[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """The weighted losses, each summed over the stages.

        Args:
            features: feature maps by name.
            labels: (B, H, W) of any integer dtype: 0 to K-1, or ``ignore_value``.

        Returns:
            ``loss_class``, ``loss_mask`` and ``loss_dice``; 0 (with gradients of 0) where every
            pixel is ignored.
        """
        class_logits, mask_logits = self.predict(features)
        present = present_classes(labels, self.num_classes, self.ignore_value)
        size = [max(side // self.loss_stride, 1) for side in labels.shape[-2:]]
        targets = mask_targets(labels, self.num_classes, size, self.ignore_value)
        # Several copies of K masks of the labels' size: stage by stage, and recomputed in the
        # backward pass.
        options = {"use_reentrant": False, "preserve_rng_state": False}
        stages = [checkpoint(self._mask_losses, mask, targets, **options) for mask in mask_logits]
        losses = {
            "loss_class": classification_loss(class_logits, present, self.no_object_weight),
            "loss_mask": sum(focal for focal, _ in stages),
            "loss_dice": sum(dice for _, dice in stages),
        }
        return {name: self.loss_weights[name] * loss for name, loss in losses.items()}

    def _mask_losses(self, mask: Tensor, targets: MaskTargets) -> tuple[Tensor, Tensor]:
        """Focal and dice loss of one stage's masks (B, K, h, w)."""
        mask = resize(mask, targets.targets.shape[-2:], self.align_corners)
        return sigmoid_focal_mask_loss(mask, *targets), dice_mask_loss(mask, *targets)


def log_class_scores(class_logits: Tensor, mask_logits: Tensor, epsilon: float = 1e-6) -> Tensor:
    """Logarithm of ``sum_q softmax(class_logits_q)_k * sigmoid(mask_logits_q) + epsilon``.

    Args:
        class_logits: (B, K, K + 1), the last being "not in the image".
        mask_logits: (B, K, h, w), float32 or float64.
        epsilon: keeps the logarithm finite.

    Returns:
        (B, K, h, w), of the dtype of ``mask_logits``.
    """
    # In half precision the scores of likely classes would be equal.
    with without_autocast(mask_logits.device):
        probability = class_logits.to(mask_logits.dtype).softmax(dim=2)[..., :-1]
        scores = torch.einsum("bqk,bqhw->bkhw", probability, mask_logits.sigmoid())
        return (scores + epsilon).log()


def present_classes(labels: Tensor, num_classes: int, ignore_label: int = 255) -> Tensor:
    """The classes present in each image.

    Args:
        labels: (B, H, W), any integer dtype.
        num_classes: K; labels outside 0 to K-1 count as ignored.
        ignore_label: pixels with this label are ignored.

    Returns:
        (B, K) booleans.
    """
    labels = labels.long().flatten(1)
    valid = (labels != ignore_label) & (labels >= 0) & (labels < num_classes)
    # One column more, for the ignored pixels.
    present = labels.new_zeros(labels.shape[0], num_classes + 1, dtype=torch.bool)
    return present.scatter(1, labels.where(valid, num_classes), True)[:, :-1]


def classification_loss(
    class_logits: Tensor, present: Tensor, no_object_weight: float = 0.1
) -> Tensor:
    """Cross-entropy of the tokens' classes: the target of token k is k, or "not in the image".

    A weighted mean over the tokens of the batch, summed over the stages. Images without a labelled
    pixel are left out.

    Args:
        class_logits: (S, B, K, K + 1) float32 or float64, the last being "not in the image".
        present: (B, K) booleans.
        no_object_weight: weight of the tokens of absent classes; those of present ones have 1.

    Returns:
        A scalar; 0 where no image has a labelled pixel.
    """
    num_classes = present.shape[1]
    classes = torch.arange(num_classes, device=present.device)
    target = torch.where(present, classes, num_classes).expand(class_logits.shape[:-1])
    weight = no_object_weight + (1 - no_object_weight) * present.to(class_logits.dtype)
    weight = weight * present.any(dim=1, keepdim=True)
    loss = -class_logits.log_softmax(dim=3).gather(3, target[..., None])[..., 0]
    return (weight * loss).sum() / weight.sum().clamp(min=torch.finfo(weight.dtype).tiny)


def _check_arguments(
    input_shape: dict[str, ShapeSpec],
    channels: int,
    num_heads: int,
    class_embeddings: str,
    loss_stride: int,
) -> None:
    if not input_shape:
        raise UserError("SegViTHead: input_shape is empty; it needs at least one feature map.")
    if channels % num_heads:
        raise UserError(
            f"MODEL.SEGVIT_HEAD.CHANNELS {channels} cannot be divided among "
            f"MODEL.SEGVIT_HEAD.NUM_HEADS {num_heads} heads. Make it a multiple."
        )
    if class_embeddings not in CLASS_EMBEDDINGS:
        raise UserError(
            f"MODEL.SEGVIT_HEAD.CLASS_EMBEDDINGS: no kind '{class_embeddings}'; there are "
            f"{', '.join(CLASS_EMBEDDINGS)}.{suggest(class_embeddings, CLASS_EMBEDDINGS)}"
        )
    if loss_stride < 1:
        raise UserError(
            f"MODEL.SEGVIT_HEAD.LOSS_STRIDE is {loss_stride}, expected an integer of at least 1."
        )
