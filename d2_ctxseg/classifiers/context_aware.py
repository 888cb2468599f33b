"""Context-aware classifier: the class weights are computed for each image.

Tian et al., "Learning Context-aware Classifier for Semantic Segmentation", AAAI 2023
(arXiv 2303.11633).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..losses.checks import check_choice, required
from ..losses.distillation import DISTILLATION_TARGETS, DISTILLATION_WEIGHTINGS, distillation_loss
from ..losses.functional import resize_labels, weighted_class_means, zero_outside
from .adaptive_parts import (
    ORACLE_CONTEXTS,
    SIMILARITIES,
    class_scores,
    make_projector,
    oracle_context,
    oracle_labels,
    project,
)
from .base import CLASSIFIER_REGISTRY, PixelClassifier, make_predictor

ENTROPY_SOURCES = ("oracle", "estimated", "vanilla")


class ContextAwarePrediction(NamedTuple):
    """Logits (B, K, h, w) of the three classifiers; ``oracle`` is None without labels."""

    vanilla: Tensor
    refined: Tensor
    oracle: Tensor | None


@CLASSIFIER_REGISTRY.register()
class ContextAwareClassifier(PixelClassifier):
    """A classifier whose weights depend on the classes' mean features in the image.

    The context of a class is the mean feature of the image, weighted with the class probabilities
    of the vanilla classifier. A small projector maps context and vanilla weight to the weight of
    the class for this image. Scores are scaled cosine similarities. In training a second
    projector, the "oracle", gets the context of the true labels and is the teacher of an
    entropy-weighted, class-wise distillation. The defaults are those of the paper and the authors'
    code; the other options are the paper's ablations.

    Args:
        in_channels: channels C of the features.
        num_classes: number of classes K.
        scale: factor on the cosine similarity (tau in the paper, 15).
        similarity: "cosine" or "dot", the product of features and weights without ``scale``.
        distillation_target: "half_smoothed" (the authors' code) or "kl" (the paper's formula).
        distillation_weighting: "plain", "entropy", "class" or "class_entropy"; see
            ``distillation_loss``.
        entropy_source: the prediction whose entropy weights the distillation: "oracle",
            "estimated" (the refined prediction) or "vanilla".
        oracle_context: whether the true mean features are those of the whole "batch" (the authors'
            code) or of each "image".
        ignore_label: label of ignored pixels.
        align_corners: how the refined logits are interpolated to the size of the labels.
        auxiliary_align_corners: the same for the vanilla and the oracle logits, which are
            interpolated for their losses only. True in all four heads that the authors released.
        dropout: probability of dropping a channel of the features in training. As in the authors'
            code it applies to the vanilla prediction alone.
        predictor: the 1x1 convolution to start from; a new one if None.
        loss_weights: ``loss_weight_refined``, ``loss_weight_vanilla``, ``loss_weight_oracle``
            (cross-entropies of these predictions) and ``loss_weight_kl`` (distillation of the
            refined prediction towards the oracle); 0 leaves a loss out.

    Raises:
        ValueError: an option is unknown, or the predictor has another shape.
    """

    config_node = "CONTEXT_AWARE"
    default_loss_weights = {"refined": 1.0, "vanilla": 1.0, "oracle": 1.0, "kl": 1.0}
    takes_sizes = True
    training_only = ("oracle_projector",)

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        scale: float = 15.0,
        similarity: str = "cosine",
        distillation_target: str = "half_smoothed",
        distillation_weighting: str = "class_entropy",
        entropy_source: str = "oracle",
        oracle_context: str = "batch",
        ignore_label: int = 255,
        align_corners: bool = False,
        auxiliary_align_corners: bool = True,
        dropout: float = 0.0,
        predictor: nn.Conv2d | None = None,
        **loss_weights: float,
    ):
        super().__init__(
            in_channels,
            num_classes,
            ignore_label=ignore_label,
            align_corners=align_corners,
            dropout=dropout,
            **loss_weights,
        )
        check_choice("similarity", similarity, SIMILARITIES)
        check_choice("distillation_target", distillation_target, DISTILLATION_TARGETS)
        check_choice("distillation_weighting", distillation_weighting, DISTILLATION_WEIGHTINGS)
        check_choice("entropy_source", entropy_source, ENTROPY_SOURCES)
        check_choice("oracle_context", oracle_context, ORACLE_CONTEXTS)
        self.scale = scale
        self.similarity = similarity
        self.distillation_target = distillation_target
        self.distillation_weighting = distillation_weighting
        self.entropy_source = entropy_source
        self.oracle_per_image = oracle_context == "image"
        self.auxiliary_align_corners = auxiliary_align_corners
        self.predictor = make_predictor(in_channels, num_classes, predictor)
        self.estimated_projector = make_projector(in_channels)
        self.oracle_projector = make_projector(in_channels)
        # Distributed training fails on parameters without a gradient. The distillation gives none
        # to the oracle.
        weights = self.loss_weights
        self.estimated_projector.requires_grad_(weights["loss_refined"] + weights["loss_kl"] > 0)
        self.oracle_projector.requires_grad_(weights["loss_oracle"] > 0)

    def forward(self, features: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Features (B, C, h, w) and their valid sizes to the refined logits (B, K, h, w)."""
        return self.predict(features, sizes=sizes).refined

    def predict(
        self, features: Tensor, labels: Tensor | None = None, sizes: Tensor | None = None
    ) -> ContextAwarePrediction:
        """The logits of all classifiers.

        Args:
            features: (B, C, h, w).
            labels: (B, H, W) integers; with them the oracle predicts as well.
            sizes: sizes of the valid parts of the features, see ``PixelClassifier.takes_sizes``;
                None where nothing is padded. The estimated context leaves the padding out.

        Returns:
            Vanilla, refined and oracle logits, each (B, K, h, w).

        Raises:
            ValueError: labels were given, but the oracle has been stripped from the model.
        """
        vanilla = self.predictor(self.dropout(features))
        weight = self.predictor.weight.flatten(1)
        probabilities = zero_outside(vanilla.softmax(dim=1), sizes)
        context = weighted_class_means(features, probabilities.flatten(2))
        classifiers = [project(self.estimated_projector, context, weight)]
        if labels is not None:
            size, oracle = features.shape[-2:], self.oracle_projector
            labels = oracle_labels(labels, size, self.ignore_label, oracle)
            context = oracle_context(features, labels, weight, per_image=self.oracle_per_image)
            classifiers.append(project(oracle, context, weight))
        scores = class_scores(torch.cat(classifiers, 1), features, self.similarity, self.scale)
        refined, *oracle = scores.split(self.num_classes, dim=1)
        return ContextAwarePrediction(vanilla, refined, *(oracle or [None]))

    def losses(
        self, features: Tensor, labels: Tensor, sizes: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The weighted losses: features (B, C, h, w), labels (B, H, W) integers, valid sizes.

        Returns:
            ``loss_sem_seg`` (cross-entropy of the refined prediction), ``loss_vanilla``,
            ``loss_oracle`` and ``loss_kl``; those with weight 0 are left out.
        """
        weights = {name: weight for name, weight in self.loss_weights.items() if weight}
        needs_oracle = "loss_oracle" in weights or "loss_kl" in weights
        vanilla, refined, oracle = self.predict(features, labels if needs_oracle else None, sizes)
        logits = {"loss_refined": refined, "loss_vanilla": vanilla, "loss_oracle": oracle}
        align_corners = dict.fromkeys(logits, self.auxiliary_align_corners)
        align_corners["loss_refined"] = self.align_corners
        losses = {
            name: self.pixel_loss(logits[name], labels, align_corners[name])
            for name in weights
            if name != "loss_kl"
        }
        if "loss_kl" in weights:
            sources = {"oracle": oracle, "estimated": refined, "vanilla": vanilla}
            losses["loss_kl"] = distillation_loss(
                refined,
                required(oracle, "The oracle's prediction"),
                resize_labels(labels, features.shape[-2:]),
                target=self.distillation_target,
                weighting=self.distillation_weighting,
                entropy_logits=sources[self.entropy_source],
                ignore_label=self.ignore_label,
            )
        losses = {name: weights[name] * loss for name, loss in losses.items()}
        # Every classifier calls the loss of its prediction loss_sem_seg.
        names = {"loss_refined": "loss_sem_seg"}
        return {names.get(name, name): loss for name, loss in losses.items()}
