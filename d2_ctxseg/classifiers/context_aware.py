"""Context-aware classifier: the weights of the classifier are rebuilt for each image.

Tian et al., "Learning Context-aware Classifier for Semantic Segmentation", AAAI 2023
(arXiv 2303.11633).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import CLASSIFIER_REGISTRY, PixelClassifier
from .functional import (
    class_membership,
    resize_labels,
    segmentation_cross_entropy,
    weighted_class_means,
)


class ContextAwarePrediction(NamedTuple):
    """Logits (B, K, h, w) of the three classifiers; ``oracle`` is None without labels."""

    vanilla: Tensor
    refined: Tensor
    oracle: Tensor | None


@CLASSIFIER_REGISTRY.register()
class ContextAwareClassifier(PixelClassifier):
    """A classifier whose weights are made from the classes' mean features in the image.

    The vanilla classifier's probabilities weigh the features into one context vector a class; a
    small projector turns context and vanilla weight into the class's weight for this image; scores
    are scaled cosine similarities. In training a second projector, fed with the true context, is
    the teacher (the "oracle") of an entropy-weighted, class-wise distillation.

    Args:
        in_channels: channels C of the features.
        num_classes: number of classes K.
        scale: factor on the cosine similarity (tau in the paper, 15).
        loss_weight_refined: weight of the cross-entropy of the refined prediction; 0 leaves it out.
        loss_weight_vanilla: likewise, of the vanilla prediction.
        loss_weight_oracle: likewise, of the oracle's prediction.
        loss_weight_kl: likewise, of the distillation of the refined prediction towards the oracle.
        ignore_label: label of pixels that take no part in the losses.
        align_corners: how logits are interpolated to the size of the labels.
        predictor: the 1x1 convolution to start from, see PixelClassifier.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        scale: float = 15.0,
        loss_weight_refined: float = 1.0,
        loss_weight_vanilla: float = 1.0,
        loss_weight_oracle: float = 1.0,
        loss_weight_kl: float = 1.0,
        ignore_label: int = 255,
        align_corners: bool = False,
        predictor: nn.Conv2d | None = None,
    ):
        super().__init__(
            in_channels,
            num_classes,
            ignore_label=ignore_label,
            align_corners=align_corners,
            predictor=predictor,
        )
        self.scale = scale
        self.loss_weights = {
            "loss_sem_seg": loss_weight_refined,
            "loss_vanilla": loss_weight_vanilla,
            "loss_oracle": loss_weight_oracle,
            "loss_kl": loss_weight_kl,
        }
        self.estimated_projector = _projector(in_channels)
        self.oracle_projector = _projector(in_channels)
        # Only its cross-entropy trains the oracle; distributed training wants no idle parameters.
        self.oracle_projector.requires_grad_(loss_weight_oracle > 0)

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, C, h, w) to the refined logits (B, K, h, w)."""
        return self.predict(features).refined

    def predict(self, features: Tensor, labels: Tensor | None = None) -> ContextAwarePrediction:
        """The logits of all classifiers.

        Args:
            features: (B, C, h, w).
            labels: (B, H, W) integers; with them the oracle predicts as well.

        Returns:
            Vanilla, refined and oracle logits, each (B, K, h, w).
        """
        vanilla = self.predictor(features)
        weight = self.predictor.weight.flatten(1)
        # Unit length over channels, once for both cosine similarities.
        directions = F.normalize(features, dim=1)

        context = weighted_class_means(features, vanilla.flatten(2).softmax(dim=1))
        refined = self._cosine_logits(self.estimated_projector, context, weight, directions)
        oracle = None
        if labels is not None:
            context = oracle_context(features, resize_labels(labels, features.shape[-2:]), weight)
            oracle = self._cosine_logits(self.oracle_projector, context, weight, directions)
        return ContextAwarePrediction(vanilla, refined, oracle)

    def losses(self, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The weighted losses: features (B, C, h, w), labels (B, H, W) integers.

        Returns:
            ``loss_sem_seg`` (cross-entropy of the refined prediction), ``loss_vanilla``,
            ``loss_oracle`` and ``loss_kl``; those with weight 0 are left out.
        """
        weights = {name: weight for name, weight in self.loss_weights.items() if weight}
        needs_oracle = "loss_oracle" in weights or "loss_kl" in weights
        vanilla, refined, oracle = self.predict(features, labels if needs_oracle else None)
        logits = {"loss_sem_seg": refined, "loss_vanilla": vanilla, "loss_oracle": oracle}
        losses = {
            name: segmentation_cross_entropy(
                logits[name], labels, self.ignore_label, self.align_corners
            )
            for name in weights
            if name != "loss_kl"
        }
        if "loss_kl" in weights:
            labels = resize_labels(labels, features.shape[-2:])
            losses["loss_kl"] = entropy_weighted_distillation(refined, oracle, labels)
        return {name: weights[name] * loss for name, loss in losses.items()}

    def _cosine_logits(
        self, projector: nn.Module, context: Tensor, weight: Tensor, directions: Tensor
    ) -> Tensor:
        """Context (B, K, C), vanilla weight (K, C), unit features (B, C, h, w) to logits."""
        classifier = projector(torch.cat([context, weight.expand_as(context)], dim=2))
        classifier = F.normalize(classifier, dim=2).to(directions.dtype)
        similarity = classifier @ directions.flatten(2)
        return self.scale * similarity.unflatten(2, directions.shape[-2:])


def oracle_context(features: Tensor, labels: Tensor, absent: Tensor) -> Tensor:
    """Mean feature of each class under the true labels, over the whole batch.

    Args:
        features: (B, C, h, w).
        labels: (B, h, w) int64; values outside 0 to K-1 are ignored.
        absent: (K, C): what a class absent from the batch takes; no gradient flows into it.

    Returns:
        (B, K, C), the same for every image of the batch, as in the authors' code.
    """
    num_classes = absent.shape[0]
    # The batch laid out as one image, (1, C, B, h * w).
    joined = features.flatten(2).transpose(0, 1)[None]
    membership = class_membership(labels.reshape(1, -1), num_classes)
    context = weighted_class_means(joined, membership)[0]
    present = membership[0].sum(dim=1, keepdim=True) > 0
    context = torch.where(present, context, absent.detach().to(context.dtype))
    return context.expand(features.shape[0], -1, -1)


def entropy_weighted_distillation(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Distillation of the student towards the teacher, class by class, as in the authors' code.

    A pixel's loss is the cross-entropy of the student under the mean of the teacher's
    probabilities and the true class, weighted with the entropy of the teacher. The losses are
    averaged (with these weights) within each class first and then over the classes present.

    Args:
        student: (B, K, h, w) logits.
        teacher: (B, K, h, w) logits; no gradient flows into them.
        labels: (B, h, w) int64; values outside 0 to K-1 are ignored.

    Returns:
        A scalar; 0 (with a gradient of 0) where no class is present.
    """
    membership = class_membership(labels, student.shape[1])
    log_teacher = teacher.detach().flatten(2).float().log_softmax(dim=1)
    probability = log_teacher.exp()
    entropy = -(probability * log_teacher).sum(dim=1)
    target = 0.5 * (probability + membership)
    pixel_loss = -(target * student.flatten(2).float().log_softmax(dim=1)).sum(dim=1)

    class_entropy = torch.einsum("bkn,bn->k", membership, entropy)
    class_loss = torch.einsum("bkn,bn->k", membership, entropy * pixel_loss)
    num_present = (membership.amax(dim=(0, 2)) > 0).sum()
    # Both sums are 0 for an absent class.
    return (class_loss / (class_entropy + 1e-12)).sum() / num_present.clamp(min=1)


def _projector(channels: int) -> nn.Sequential:
    """Context and vanilla weight (2C) to a class's weight (C)."""
    return nn.Sequential(
        nn.Linear(2 * channels, channels // 2, bias=False),
        nn.ReLU(inplace=True),
        nn.Linear(channels // 2, channels),
    )
