"""Parts of the classifiers that compute class weights for each image.

A small projector maps the mean feature of a class in the image to the weight of the class. In
training a second projector, the oracle's, gets the mean under the true labels.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..losses.functional import (
    class_membership,
    feature_lengths,
    resize_labels,
    weighted_class_means,
)

SIMILARITIES = ("cosine", "dot")
ORACLE_CONTEXTS = ("batch", "image")


def make_projector(channels: int) -> nn.Sequential:
    """An MLP from two concatenated vectors of C channels to the weight of a class, C channels."""
    return nn.Sequential(
        nn.Linear(2 * channels, channels // 2, bias=False),
        nn.ReLU(inplace=True),
        nn.Linear(channels // 2, channels),
    )


def project(projector: nn.Module, first: Tensor, second: Tensor) -> Tensor:
    """Apply the projector to two vectors per class, (B, K, C) or (K, C) each; (B, K, C)."""
    return projector(torch.cat(torch.broadcast_tensors(first, second), dim=2))


def oracle_labels(
    labels: Tensor, size: Sequence[int], ignore_label: int, oracle: nn.Module | None
) -> Tensor:
    """Labels (B, H, W) as ``oracle_context`` takes them: (B, h, w) int64, -1 where ignored.

    Raises:
        ValueError: ``oracle``, the module that uses the labels, was stripped from the model.
    """
    if oracle is None:
        raise ValueError(
            "This classifier was stripped for deployment and has no oracle. Train from the full "
            "checkpoint."
        )
    labels = resize_labels(labels, size)
    return labels.masked_fill(labels == ignore_label, -1)


def oracle_context(
    features: Tensor, labels: Tensor, absent: Tensor, *, per_image: bool = False
) -> Tensor:
    """Mean feature of each class under the true labels.

    Args:
        features: (B, C, h, w).
        labels: (B, h, w) int64; values outside 0 to K-1 are ignored.
        absent: (K, C), the context of absent classes; no gradient flows into it.
        per_image: average over each image instead of over the whole batch.

    Returns:
        (B, K, C); the same for every image of the batch unless ``per_image``.
    """
    membership = class_membership(labels, absent.shape[0])
    context = weighted_class_means(features, membership, of_batch=not per_image)
    present = membership.amax(dim=2)[..., None] > 0
    if not per_image:
        present = present.any(dim=0, keepdim=True)
    context = torch.where(present, context, absent.detach().to(context.dtype))
    return context.expand(len(features), -1, -1)


def class_scores(
    weights: Tensor, features: Tensor, similarity: str = "cosine", scale: float = 15.0
) -> Tensor:
    """Scores of pixels under the class weights of each image.

    Args:
        weights: (B, J, C), the weights of J classes; those of several classifiers may be
            concatenated.
        features: (B, C, h, w).
        similarity: "cosine", times ``scale``, or "dot", the product alone.

    Returns:
        (B, J, h, w).
    """
    if similarity == "cosine":
        weights = F.normalize(weights, dim=2)
    scores = weights.to(features.dtype) @ features.flatten(2)
    if similarity == "cosine":
        # Dividing J products by the features' lengths is cheaper than normalising C channels.
        scores = scores * (scale / feature_lengths(features)).flatten(2)
    return scores.unflatten(2, features.shape[-2:])
