"""Nonparametric prototypes: mean training features represent a class, not a weight vector.

Zhou et al., "Rethinking Semantic Segmentation: A Prototype View", CVPR 2022 (arXiv 2203.15102).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..losses.checks import check_choice, check_positive
from ..losses.functional import mean_where, resize_labels, unit_length
from ..losses.precision import without_autocast
from .base import CLASSIFIER_REGISTRY, PixelClassifier, pixels_as_map
from .chunked_similarity import chunked_class_scores, chunked_prototype_similarity
from .clustering import reduction_over_workers, sinkhorn_log_plan
from .prototype_similarity import DISTANCES, contrast, squared_distance

ASSIGNMENTS = ("gumbel", "argmax")
SYNCHRONIZATIONS = ("average", "joint")


class Assignment(NamedTuple):
    """The result of within-class clustering for N pixels; undefined for ignored ones."""

    labels: Tensor
    """(N,) int64 class, 0 for ignored pixels."""
    log_plan: Tensor
    """(N, M) log probabilities over the prototypes of the pixel's class."""
    prototype: Tensor
    """(N,) int64: the most probable prototype of the pixel's class, 0 to M-1."""


@CLASSIFIER_REGISTRY.register()
class PrototypeClassifier(PixelClassifier):
    """Assigns each pixel to the class of the nearest prototype.

    Every class has M prototypes. In training the pixels of a class are clustered onto them by
    optimal transport, and each prototype is a moving average of its correctly classified pixels.
    The prototypes are a buffer, not parameters: saved in checkpoints, the same on all workers.

    Args:
        in_channels: channels C of the features and of the prototypes.
        num_classes: number of classes K.
        num_prototypes: prototypes M of each class (Table 5b).
        momentum: weight of the old value of a prototype in an update, 0 to 1 (Table 5c).
        sinkhorn_iterations: rounds of Sinkhorn-Knopp in the clustering.
        sinkhorn_epsilon: strength of its entropy regularisation (kappa in the paper, 0.05).
        assignment: the prototype that a pixel updates: "gumbel", sampled from the transport plan as
            in the authors' code, or "argmax". The losses always use the most probable one.
        temperature: temperature of the contrast between prototypes in ``loss_ppc``: 1.0 as in the
            authors' code; 0.1 in the paper.
        projection: whether the features first go through a 1x1 convolution, BatchNorm, ReLU,
            another 1x1 convolution and a normalisation to unit length, as in the authors' code.
        distance: "cosine", "euclidean" ("standard" in Table 5d) or "huber".
        synchronization: how the workers are synchronised. "average": each clusters its own pixels
            and the updated prototypes are averaged, as in the authors' code; "joint": the pixels of
            all workers are clustered together, which equals one process with the whole batch.
        ignore_label: label of ignored pixels.
        align_corners: how logits are interpolated to the size of the labels.
        dropout: probability of dropping a channel of the features in training.
        predictor: the head's 1x1 convolution; not used, the prototypes replace it.
        loss_weights: ``loss_weight_sem_seg`` (cross-entropy), ``loss_weight_ppc`` (pixel-prototype
            contrast, equation 11) and ``loss_weight_ppd`` (pixel-prototype distance, equation 12);
            0 leaves a loss out.

    Raises:
        ValueError: an option is unknown or out of its range.
    """

    config_node = "PROTOTYPE"
    default_loss_weights = {"sem_seg": 1.0, "ppc": 0.01, "ppd": 0.001}
    prototypes: Tensor
    _sums: Tensor
    _counts: Tensor

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        num_prototypes: int = 10,
        momentum: float = 0.999,
        sinkhorn_iterations: int = 3,
        sinkhorn_epsilon: float = 0.05,
        assignment: str = "gumbel",
        temperature: float = 1.0,
        projection: bool = False,
        distance: str = "cosine",
        synchronization: str = "average",
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
        check_choice("assignment", assignment, ASSIGNMENTS)
        check_choice("distance", distance, DISTANCES)
        check_choice("synchronization", synchronization, SYNCHRONIZATIONS)
        check_positive(
            num_prototypes=num_prototypes,
            sinkhorn_iterations=sinkhorn_iterations,
            sinkhorn_epsilon=sinkhorn_epsilon,
            temperature=temperature,
        )
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum is {momentum}, expected 0 to 1.")
        self.num_prototypes = num_prototypes
        self.momentum = momentum
        self.sinkhorn_iterations = sinkhorn_iterations
        self.sinkhorn_epsilon = sinkhorn_epsilon
        self.assignment = assignment
        self.temperature = temperature
        self.distance = distance
        self.synchronization = synchronization
        self.projection = _projection(in_channels) if projection else nn.Identity()
        self.feature_norm = nn.LayerNorm(in_channels)
        self.score_norm = nn.LayerNorm(num_classes)
        # Distributed training fails on parameters without a gradient; only the cross-entropy uses
        # the scores.
        self.score_norm.requires_grad_(self.loss_weights["loss_sem_seg"] > 0)
        prototypes = nn.init.trunc_normal_(
            torch.empty(num_classes, num_prototypes, in_channels), std=0.02
        )
        self.replace_prototypes(F.normalize(prototypes, dim=2))

    def replace_prototypes(self, prototypes: Tensor) -> None:
        """Replace the prototypes by others (K, M, C) and reset the accumulated sums."""
        self.register_buffer("prototypes", prototypes)
        # Sums over the micro-batches of one step; a checkpoint does not need them.
        self.register_buffer("_sums", torch.zeros_like(prototypes), persistent=False)
        self.register_buffer("_counts", prototypes.new_zeros(prototypes.shape[:2]), False)
        self._calls = 0

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, C, h, w) to logits (B, K, h, w): the normalised scores of the classes."""
        return pixels_as_map(self.classify(self.embed(features)), features.shape).contiguous()

    def classify(self, embeddings: Tensor) -> Tensor:
        """Pixel embeddings (N, C) of unit length to logits (N, K)."""
        prototypes = F.normalize(self.prototypes, dim=2)
        return self.score_norm(chunked_class_scores(embeddings, prototypes, self.distance))

    def class_evidence(self, features: Tensor) -> Tensor:
        """Similarities (B, K, h, w) to the nearest prototype of each class, before their norm."""
        prototypes = F.normalize(self.prototypes, dim=2)
        scores = chunked_class_scores(self.embed(features), prototypes, self.distance)
        return pixels_as_map(scores, features.shape).contiguous()

    def embed(self, features: Tensor) -> Tensor:
        """Features (B, C, h, w) to pixel embeddings (B * h * w, C) of unit length."""
        features = self.projection(self.dropout(features))
        return unit_length(self.feature_norm(features.permute(0, 2, 3, 1).flatten(0, 2)))

    def losses(self, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The weighted losses; in training mode the prototypes are updated afterwards.

        Args:
            features: (B, C, h, w).
            labels: (B, H, W) integers.

        Returns:
            ``loss_sem_seg`` (cross-entropy), ``loss_ppc`` and ``loss_ppd``; those with weight 0 are
            left out.
        """
        small = resize_labels(labels, features.shape[-2:]).flatten()
        valid = small != self.ignore_label
        small = small.where(valid, 0)
        embeddings = self.embed(features)
        similarity = chunked_prototype_similarity(
            embeddings,
            F.normalize(self.prototypes, dim=2),
            small,
            distance=self.distance,
            temperature=self.temperature,
        )
        logits = pixels_as_map(self.score_norm(similarity.class_scores), features.shape)
        assignment = self.assign(similarity.of_own_class, small, valid)

        weights = {name: weight for name, weight in self.loss_weights.items() if weight}
        losses = {}
        if "loss_sem_seg" in weights:
            losses["loss_sem_seg"] = self.pixel_loss(logits, labels)
        chosen = similarity.of_own_class.gather(1, assignment.prototype[:, None])[:, 0]
        if "loss_ppc" in weights:
            pixels = contrast(similarity.log_partition, chosen, self.temperature)
            losses["loss_ppc"] = mean_where(pixels, valid)
        if "loss_ppd" in weights:
            losses["loss_ppd"] = mean_where(squared_distance(chosen, self.distance), valid)
        if self.training:
            correct = valid & (logits.argmax(dim=1).flatten() == small)
            self.update(embeddings, assignment, correct)
        return {name: weights[name] * loss for name, loss in losses.items()}

    @torch.no_grad()
    def assign(self, of_own_class: Tensor, labels: Tensor, valid: Tensor) -> Assignment:
        """Within-class clustering of N pixels (section 3.2).

        Args:
            of_own_class: (N, M) similarities to the prototypes of the pixel's class.
            labels: (N,) int64, 0 to K-1 also where not valid.
            valid: (N,) bool; the other pixels are ignored.
        """
        joint = self.training and self.synchronization == "joint"
        # Ignored pixels are a separate segment, whose result is not read.
        segments = labels.where(valid, self.num_classes)
        with without_autocast(labels.device):
            log_plan = sinkhorn_log_plan(
                of_own_class,
                segments,
                self.num_classes + 1,
                epsilon=self.sinkhorn_epsilon,
                iterations=self.sinkhorn_iterations,
                reduction=reduction_over_workers(joint),
            )
        return Assignment(labels, log_plan, log_plan.argmax(dim=1))

    @torch.no_grad()
    def update(self, embeddings: Tensor, assignment: Assignment, correct: Tensor) -> None:
        """Move the prototypes towards the pixels assigned to them (equation 9).

        Args:
            embeddings: (N, C) of unit length.
            assignment: assignment of the same pixels.
            correct: (N,) bool, the pixels that update prototypes: those classified correctly.
        """
        prototype = assignment.prototype
        if self.assignment == "gumbel":
            # Adding Gumbel noise before the argmax draws a hard sample, at any temperature.
            plan = assignment.log_plan.exp()
            prototype = (plan - torch.empty_like(plan).exponential_().log()).argmax(dim=1)
        index = assignment.labels * self.num_prototypes + prototype
        weight = correct.to(self._sums.dtype)
        sums = embeddings.to(self._sums.dtype) * weight[:, None]
        self._sums.view(-1, self.in_channels).index_add_(0, index, sums)
        self._counts.view(-1).index_add_(0, index, weight)
        self._calls += 1
        if self._calls >= self.accumulation_steps:
            self._move_prototypes()

    def _move_prototypes(self) -> None:
        joint = reduction_over_workers(self.synchronization == "joint")
        sums, counts = joint.sum(self._sums), joint.sum(self._counts)
        old = F.normalize(self.prototypes, dim=2)
        new = self.momentum * old + (1 - self.momentum) * F.normalize(sums, dim=2)
        # After an overflow in half precision the gradient scaler skips the step: nothing moves.
        moves = (counts[..., None] > 0) & sums.isfinite().all()
        moved = F.normalize(torch.where(moves, new, old), dim=2)
        average = reduction_over_workers(self.synchronization == "average")
        self.prototypes.copy_(F.normalize(average.mean(moved), dim=2))
        self._sums.zero_()
        self._counts.zero_()
        self._calls = 0


def _projection(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, kernel_size=1),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, channels, kernel_size=1),
        _UnitLength(),
    )


class _UnitLength(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        """(B, C, h, w) to unit length over the channels."""
        return F.normalize(features, dim=1)
