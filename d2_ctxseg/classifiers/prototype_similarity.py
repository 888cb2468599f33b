"""The similarity of pixel embeddings and prototypes, and the equations of scores and losses.

Zhou et al., "Rethinking Semantic Segmentation: A Prototype View", CVPR 2022 (arXiv 2203.15102).
``chunked_similarity.py`` computes the same in less time and memory.
"""

from typing import NamedTuple

import torch
from torch import Tensor

DISTANCES = ("cosine", "euclidean", "huber")

# Where the Huberised distance turns from quadratic to linear. The paper does not state its value.
HUBER_DELTA = 0.1


class PrototypeSimilarity(NamedTuple):
    """Similarities of N pixels and K x M prototypes, as the losses need them; at least float32."""

    class_scores: Tensor
    """(N, K): the similarity to the nearest prototype of each class (equation 7)."""
    of_own_class: Tensor
    """(N, M): the similarities to the prototypes of the pixel's own class."""
    log_partition: Tensor
    """(N,): logsumexp of all K x M similarities over the temperature (equation 11)."""


def similarities(embeddings: Tensor, prototypes: Tensor, distance: str = "cosine") -> Tensor:
    """The similarity of N pixels and K x M prototypes: ``<i, p>``, or minus a distance.

    Args:
        embeddings: (N, C) of unit length.
        prototypes: (K, M, C) of unit length.
        distance: see ``as_similarity``.

    Returns:
        (N, K, M).
    """
    return as_similarity(torch.einsum("nc,kmc->nkm", embeddings, prototypes), distance)


def class_scores(similarity: Tensor) -> Tensor:
    """Equation 7: the score of a class is the similarity of its nearest prototype.

    (N, K, M) to (N, K).
    """
    return similarity.amax(dim=2)


def prototype_similarity(
    embeddings: Tensor,
    prototypes: Tensor,
    labels: Tensor,
    *,
    distance: str = "cosine",
    temperature: float = 1.0,
) -> PrototypeSimilarity:
    """The similarities that the losses need.

    Args:
        embeddings: (N, C) of unit length.
        prototypes: (K, M, C) of unit length.
        labels: (N,) int64, 0 to K-1.
        distance: see ``as_similarity``.
        temperature: divides the similarities in ``log_partition``.
    """
    similarity = similarities(embeddings, prototypes, distance)
    return PrototypeSimilarity(
        class_scores=class_scores(similarity),
        of_own_class=similarity[torch.arange(len(labels), device=labels.device), labels],
        log_partition=(similarity / temperature).flatten(1).logsumexp(dim=1),
    )


def contrast(log_partition: Tensor, assigned: Tensor, temperature: float = 1.0) -> Tensor:
    """Equation 11 for each pixel: cross-entropy of all prototypes against the assigned one.

    Args:
        log_partition: (N,), see ``PrototypeSimilarity``.
        assigned: (N,) similarity to the prototype that the pixel is assigned to.
        temperature: the temperature of ``log_partition``.
    """
    return log_partition - assigned / temperature


def squared_distance(assigned: Tensor, distance: str = "cosine") -> Tensor:
    """Equation 12 for each pixel: ``(1 - <i, p>) ** 2``, or the squared distance itself.

    Args:
        assigned: (N,) similarity to the prototype that the pixel is assigned to.
        distance: the distance that ``assigned`` was computed with.
    """
    nearest = 1 if distance == "cosine" else 0
    return (nearest - assigned).square()


def as_similarity(cosine: Tensor, distance: str) -> Tensor:
    """From cosines of unit vectors, of any shape, to similarities.

    "cosine": unchanged. "euclidean": minus the distance d of the vectors. "huber": minus its
    Huberised form ``sqrt(d ** 2 + delta ** 2) - delta`` with ``HUBER_DELTA`` (section 5.4).
    """
    if distance == "cosine":
        return cosine
    # Rounding can make cosines larger than 1, and the root has no finite gradient at 0.
    squared = (2 - 2 * cosine).clamp(min=1e-8)
    if distance == "euclidean":
        return -squared.sqrt()
    return HUBER_DELTA - (squared + HUBER_DELTA**2).sqrt()
