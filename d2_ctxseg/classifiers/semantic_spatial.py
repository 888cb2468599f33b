"""Semantic and spatial adaptive classifier.

Each class has two prototypes in each image, one of its appearance and one of its position.

Ma, Ni and Chen, "Efficient Semantic Segmentation by Semantic and Spatial Adaptive Classifier"
(SSA-Seg), NeurIPS 2024 (arXiv 2405.06525); where the paper is not specific, the authors' code,
https://github.com/xwmaxwma/SSA-Seg.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..losses.boundary import BOUNDARIES, class_boundary
from ..losses.checks import check_choice, required
from ..losses.distillation import DISTILLATION_WEIGHTINGS, distillation_loss
from ..losses.functional import resize_labels, valid_mask, weighted_class_means, zero_outside
from ..losses.prototype_distillation import channel_distillation, relation_distillation
from ..losses.upsampled_dice import class_sizes, upsampled_dice
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
from .clustering import reduction_over_workers

PROTOTYPES = ("both", "semantic", "spatial")
RESPONSE_WEIGHTINGS = (*DISTILLATION_WEIGHTINGS, "class_entropy_boundary")
DIVISORS = ("labelled", "all")


class SemanticSpatialPrediction(NamedTuple):
    """Logits (B, K, h, w) of the three classifiers; ``oracle`` is None without labels."""

    vanilla: Tensor
    refined: Tensor
    oracle: Tensor | None


class Prototypes(NamedTuple):
    """Prototypes of each class in each image, (B, K, C); None where a classifier has none."""

    semantic: Tensor | None
    spatial: Tensor | None

    def sum(self) -> Tensor:
        """(B, K, C): the weights of the classes before their last projection."""
        if self.semantic is None or self.spatial is None:
            return required(self.semantic if self.spatial is None else self.spatial, "A prototype")
        return self.semantic + self.spatial


@CLASSIFIER_REGISTRY.register()
class SemanticSpatialClassifier(PixelClassifier):
    """A classifier whose weights depend on the classes' appearance and position in the image.

    With vanilla logits z of features F, position features P (a depthwise 3x3 convolution of F), the
    vanilla weights W and learned position vectors E of the classes:

    - semantic prototype: the projection of ``[C_s ; W]``, where C_s is the mean of F, each pixel
      weighted with the class's probability, as in the context-aware classifier;
    - spatial prototype: the projection of ``[E ; C_p]``, where C_p is the mean of P, weighted with
      the softmax of z over the pixels of the image;
    - scores: scaled cosines of a linear map of the sum of both and the pixels of F + P.

    In training a second classifier of this form, the "oracle", gets the true means. It is the
    teacher of the prediction (response), of the relations of the semantic prototypes, and of the
    spatial prototypes. The defaults are those of the authors' code, except where stated.

    Args:
        in_channels: channels C of the features.
        num_classes: number of classes K.
        prototypes: "both", or "semantic" or "spatial" ones alone. Without spatial ones there are no
            position features and no ``loss_spatial``; without semantic ones no ``loss_semantic``.
        scale: factor on the cosine similarity (tau, 15).
        similarity: "cosine" or "dot", the product of features and weights without ``scale``.
        semantic_oracle_context: whether the true means of F are those of the whole "batch" or of
            each "image".
        spatial_oracle_context: the same for the true means of P.
        response_weighting: how the pixels of ``loss_response`` are averaged: "plain", "entropy",
            "class" or "class_entropy", see ``distillation_loss``; or "class_entropy_boundary": as
            "class_entropy", where the pixels at boundaries and the others have half of the weight
            of a class each.
        boundary: "canny" or "neighbours", see ``class_boundary``.
        boundary_frame: width in pixels of the frame of the feature map without boundaries.
        boundary_dilation: pixels by which boundaries are widened.
        sem_seg_divisor: ``loss_sem_seg`` is the mean over the "labelled" pixels, as the other
            cross-entropies are, or their sum divided by the number of "all" pixels, as in the
            authors' code.
        loss_align_corners: how logits are interpolated to the size of the labels for the losses;
            ``align_corners`` is for the prediction. True in the authors' code.
        ignore_label: label of ignored pixels.
        align_corners: how a prediction is interpolated.
        dropout: probability of dropping a channel of the features in training. As in the authors'
            code it applies to the vanilla prediction alone.
        predictor: the 1x1 convolution to start from; a new one if None.
        loss_weights: ``loss_weight_NAME`` of the losses in ``losses``; 0 leaves a loss out.

    Raises:
        ValueError: an option is unknown or out of its range, or the predictor has
            another shape.
    """

    config_node = "SEMANTIC_SPATIAL"
    default_loss_weights = {
        "sem_seg": 1.0,
        "vanilla": 1.0,
        "oracle": 1.0,
        "dice": 1.0,
        "dice_oracle": 1.0,
        "response": 1.0,
        "semantic": 10.0,
        "spatial": 0.4,
    }
    takes_sizes = True
    training_only = (
        "oracle_semantic_projector",
        "oracle_spatial_projector",
        "oracle_weight_projection",
    )

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        prototypes: str = "both",
        scale: float = 15.0,
        similarity: str = "cosine",
        semantic_oracle_context: str = "batch",
        spatial_oracle_context: str = "image",
        response_weighting: str = "class_entropy_boundary",
        boundary: str = "canny",
        boundary_frame: int = 6,
        boundary_dilation: int = 1,
        sem_seg_divisor: str = "labelled",
        loss_align_corners: bool = True,
        ignore_label: int = 255,
        align_corners: bool = False,
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
        check_choice("prototypes", prototypes, PROTOTYPES)
        check_choice("similarity", similarity, SIMILARITIES)
        check_choice("semantic_oracle_context", semantic_oracle_context, ORACLE_CONTEXTS)
        check_choice("spatial_oracle_context", spatial_oracle_context, ORACLE_CONTEXTS)
        check_choice("response_weighting", response_weighting, RESPONSE_WEIGHTINGS)
        check_choice("boundary", boundary, tuple(BOUNDARIES))
        check_choice("sem_seg_divisor", sem_seg_divisor, DIVISORS)
        _check_at_least_0(boundary_frame=boundary_frame, boundary_dilation=boundary_dilation)
        self.semantic = prototypes != "spatial"
        self.spatial = prototypes != "semantic"
        self.scale = scale
        self.similarity = similarity
        self.semantic_per_image = semantic_oracle_context == "image"
        self.spatial_per_image = spatial_oracle_context == "image"
        self.response_weighting = response_weighting
        self.boundary = boundary
        self.boundary_frame = boundary_frame
        self.boundary_dilation = boundary_dilation
        self.sem_seg_divisor = sem_seg_divisor
        self.loss_align_corners = loss_align_corners
        if not self.semantic:
            self.loss_weights["loss_semantic"] = 0.0
        if not self.spatial:
            self.loss_weights["loss_spatial"] = 0.0

        channels, has = in_channels, (self.semantic, self.spatial)
        self.predictor = make_predictor(in_channels, num_classes, predictor)
        self.position_encoding: nn.Conv2d | None = None
        self.position_vectors: nn.Parameter | None = None
        if self.spatial:
            # Not nn.Embedding: its weight decay would be that of position tables.
            self.position_vectors = nn.Parameter(torch.randn(num_classes, channels))
            self.position_encoding = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.semantic_projector, self.spatial_projector = _projectors(channels, has)
        self.weight_projection = nn.Linear(channels, channels, bias=False)
        self.oracle_semantic_projector, self.oracle_spatial_projector = _projectors(channels, has)
        self.oracle_weight_projection = nn.Linear(channels, channels, bias=False)
        self._freeze_what_no_loss_trains()

    def forward(self, features: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Features (B, C, h, w) and their valid sizes to the refined logits (B, K, h, w)."""
        return self.predict(features, sizes=sizes).refined

    def predict(
        self, features: Tensor, labels: Tensor | None = None, sizes: Tensor | None = None
    ) -> SemanticSpatialPrediction:
        """The logits of all classifiers.

        Args:
            features: (B, C, h, w).
            labels: (B, H, W) integers; with them the oracle predicts as well.
            sizes: sizes of the valid parts of the features, see ``PixelClassifier.takes_sizes``;
                None where nothing is padded. The prototypes leave the padding out.

        Returns:
            Vanilla, refined and oracle logits, each (B, K, h, w).

        Raises:
            ValueError: labels were given, but the oracle has been stripped from the model.
        """
        return self._predict_with_prototypes(features, labels, sizes)[0]

    def _predict_with_prototypes(
        self, features: Tensor, labels: Tensor | None, sizes: Tensor | None = None
    ) -> tuple[SemanticSpatialPrediction, Prototypes, Prototypes | None]:
        """The predictions, their prototypes, and the oracle's prototypes."""
        vanilla = self.predictor(self.dropout(features))
        position = None
        if self.position_encoding is not None:
            position = self.position_encoding(zero_outside(features, sizes))
        prototypes, oracle = self._prototypes(vanilla, features, position, sizes), None
        weights = [self.weight_projection(prototypes.sum())]
        if labels is not None:
            size = features.shape[-2:]
            labels = oracle_labels(labels, size, self.ignore_label, self.oracle_weight_projection)
            oracle = self._oracle_prototypes(labels, features, position)
            weights.append(self.oracle_weight_projection(oracle.sum()))
        pixels = _sum_of_pixels(features, position)
        scores = class_scores(torch.cat(weights, dim=1), pixels, self.similarity, self.scale)
        refined, *of_oracle = scores.split(self.num_classes, dim=1)
        prediction = SemanticSpatialPrediction(vanilla, refined, *(of_oracle or [None]))
        return prediction, prototypes, oracle

    def _prototypes(
        self,
        vanilla: Tensor,
        features: Tensor,
        position: Tensor | None,
        sizes: Tensor | None = None,
    ) -> Prototypes:
        """The prototypes of the classes as the vanilla logits (B, K, h, w) predict them."""
        weight = self.predictor.weight.flatten(1)
        semantic = spatial = None
        if self.semantic_projector is not None:
            probabilities = zero_outside(vanilla.softmax(dim=1), sizes)
            center = weighted_class_means(features, probabilities.flatten(2))
            semantic = project(self.semantic_projector, center, weight)
        if self.spatial_projector is not None:
            vectors, position = self._of_positions(position)
            if sizes is not None:
                valid = valid_mask(sizes, *vanilla.shape[-2:])
                vanilla = vanilla.masked_fill(~valid, float("-inf"))
            center = weighted_class_means(position, vanilla.flatten(2).softmax(dim=2))
            spatial = project(self.spatial_projector, vectors, center)
        return Prototypes(semantic, spatial)

    def _of_positions(self, position: Tensor | None) -> tuple[Tensor, Tensor]:
        """The position vectors (K, C) and features (B, C, h, w) of the spatial prototypes."""
        vectors = required(self.position_vectors, "position_vectors")
        return vectors, required(position, "position_encoding")

    def _oracle_prototypes(
        self, labels: Tensor, features: Tensor, position: Tensor | None
    ) -> Prototypes:
        """The prototypes of the true classes: labels (B, h, w), -1 where ignored."""
        weight = self.predictor.weight.flatten(1)
        semantic = spatial = None
        if self.oracle_semantic_projector is not None:
            center = oracle_context(features, labels, weight, per_image=self.semantic_per_image)
            semantic = project(self.oracle_semantic_projector, center, weight)
        if self.oracle_spatial_projector is not None:
            vectors, position = self._of_positions(position)
            center = oracle_context(position, labels, vectors, per_image=self.spatial_per_image)
            # As in the authors' code, the inputs are swapped here.
            spatial = project(self.oracle_spatial_projector, center, vectors)
        return Prototypes(semantic, spatial)

    def losses(
        self, features: Tensor, labels: Tensor, sizes: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The weighted losses: features (B, C, h, w), labels (B, H, W) integers, valid sizes.

        Returns:
            ``loss_sem_seg``, ``loss_vanilla`` and ``loss_oracle`` (cross-entropies of the refined,
            the vanilla and the oracle's logits), ``loss_dice`` and ``loss_dice_oracle`` (of the
            refined and the oracle's), ``loss_response``, ``loss_semantic`` and ``loss_spatial``
            (distillation of the refined logits and of both prototypes towards the oracle's); those
            with weight 0 are left out. All are 0 where no pixel is labelled.
        """
        weights = {name: weight for name, weight in self.loss_weights.items() if weight}
        needs_oracle = not weights.keys() <= {"loss_sem_seg", "loss_vanilla", "loss_dice"}
        labels = labels.long()
        labelled = labels != self.ignore_label
        logits, student, teacher = self._predict_with_prototypes(
            features, labels if needs_oracle else None, sizes
        )
        # Without a label the oracle has nothing to teach.
        known = labelled.any().float()
        oracle = partial(required, name="The oracle")
        functions = {
            "loss_sem_seg": lambda: self._refined_cross_entropy(logits.refined, labels, labelled),
            "loss_vanilla": lambda: self._cross_entropy(logits.vanilla, labels),
            "loss_oracle": lambda: self._cross_entropy(oracle(logits.oracle), labels),
            "loss_dice": lambda: self._dice(logits.refined, labels, labelled),
            "loss_dice_oracle": lambda: self._dice(oracle(logits.oracle), labels, labelled),
            "loss_response": lambda: self._response(logits, labels),
            "loss_semantic": lambda: (
                known
                * _distilled(relation_distillation, student.semantic, oracle(teacher).semantic)
            ),
            "loss_spatial": lambda: (
                known * _distilled(channel_distillation, student.spatial, oracle(teacher).spatial)
            ),
        }
        return {name: weight * functions[name]() for name, weight in weights.items()}

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self.pixel_loss(logits, labels, self.loss_align_corners)

    def _refined_cross_entropy(self, logits: Tensor, labels: Tensor, labelled: Tensor) -> Tensor:
        loss = self._cross_entropy(logits, labels)
        return loss * labelled.float().mean() if self.sem_seg_divisor == "all" else loss

    def _dice(self, logits: Tensor, labels: Tensor, labelled: Tensor) -> Tensor:
        """Mean over the (image, class) pairs; all workers divide by the mean of their counts."""
        labels = labels.where(labelled, 0)
        total = upsampled_dice(logits, labels, labelled, self.loss_align_corners)
        pairs = (class_sizes(labels, labelled, self.num_classes) > 0).sum().float()
        return total / reduction_over_workers(self.training).mean(pairs).clamp(min=1)

    def _response(self, logits: SemanticSpatialPrediction, labels: Tensor) -> Tensor:
        labels = resize_labels(labels, logits.refined.shape[-2:])
        boundary, weighting = None, self.response_weighting
        if weighting == "class_entropy_boundary":
            weighting = "class_entropy"
            boundary = class_boundary(
                # Canny's edges take 8-bit values: 255 stands for any ignore label.
                labels.masked_fill(labels == self.ignore_label, 255),
                self.boundary,
                frame=self.boundary_frame,
                dilation=self.boundary_dilation,
            )
        return distillation_loss(
            logits.refined,
            required(logits.oracle, "The oracle"),
            labels,
            weighting=weighting,
            boundary=boundary,
            ignore_label=self.ignore_label,
        )

    def _freeze_what_no_loss_trains(self) -> None:
        """Freeze parameters without a loss: distributed training fails on such."""
        weight = {name.removeprefix("loss_"): value for name, value in self.loss_weights.items()}
        refined = weight["sem_seg"] + weight["dice"] + weight["response"]
        oracle = weight["oracle"] + weight["dice_oracle"]
        semantic, spatial = weight["semantic"], weight["spatial"]
        needed: dict[nn.Module | Tensor | None, float] = {
            self.semantic_projector: refined + semantic,
            self.spatial_projector: refined + spatial,
            self.weight_projection: refined,
            self.position_encoding: refined + spatial + oracle,
            self.position_vectors: refined + spatial + oracle,
            self.oracle_semantic_projector: oracle,
            self.oracle_spatial_projector: oracle,
            self.oracle_weight_projection: oracle,
        }
        # The oracle does not use the vanilla prediction; its spatial prototypes do not use W.
        vanilla = weight["vanilla"] + refined + semantic + spatial
        needed[self.predictor.weight] = vanilla + oracle * self.semantic
        needed[self.predictor.bias] = vanilla
        for part, weights in needed.items():
            if part is not None and not weights:
                part.requires_grad_(False)


def _distilled(
    loss: Callable[[Tensor, Tensor], Tensor], student: Tensor | None, teacher: Tensor | None
) -> Tensor:
    return loss(required(student, "The prototypes"), required(teacher, "The oracle's prototypes"))


def _sum_of_pixels(features: Tensor, position: Tensor | None) -> Tensor:
    """F + P; without gradients it overwrites P, which is not needed afterwards."""
    if position is None:
        return features
    if torch.is_grad_enabled() or position.dtype != features.dtype:
        return features + position
    return position.add_(features)


def _projectors(channels: int, has: tuple[bool, bool]) -> list[nn.Module | None]:
    return [make_projector(channels) if needed else None for needed in has]


def _check_at_least_0(**options: int) -> None:
    for name, value in options.items():
        if value < 0:
            raise ValueError(f"{name} is {value}, expected a number of pixels, at least 0.")
