"""How near pixel embeddings are to prototypes, and what the losses need of it: the equations.

Zhou et al., "Rethinking Semantic Segmentation: A Prototype View", CVPR 2022 (arXiv 2203.15102).
``chunked_similarity.py`` computes the same in less time and memory.
"""

from typing import NamedTuple

import torch
from torch import Tensor

DISTANCES = ("cosine", "euclidean", "huber")

# Where the Huberised distance turns from quadratic to linear. The paper does not say its value.
HUBER_DELTA = 0.1


class PrototypeSimilarity(NamedTuple):
    """What N pixels have to do with K x M prototypes; all at least float32."""

    class_scores: Tensor
    """(N, K): the similarity to the nearest prototype of each class (equation 7)."""
    of_own_class: Tensor
    """(N, M): the similarities to the prototypes of the pixel's own class."""
    log_partition: Tensor
    """(N,): logsumexp of all K x M similarities over the temperature (equation 11)."""


def similarities(embeddings: Tensor, prototypes: Tensor, distance: str = "cosine") -> Tensor:
    """Of N pixels to K x M prototypes: ``<i, p>``, or minus a distance.

    Args:
        embeddings: (N, C) of unit length.
        prototypes: (K, M, C) of unit length.
        distance: see ``as_similarity``.

    Returns:
        (N, K, M).
    """
    return as_similarity(torch.einsum("nc,kmc->nkm", embeddings, prototypes), distance)


def class_scores(similarity: Tensor) -> Tensor:
    """Equation 7: a class scores as its nearest prototype. (N, K, M) to (N, K)."""
    return similarity.amax(dim=2)


def prototype_similarity(
    embeddings: Tensor,
    prototypes: Tensor,
    labels: Tensor,
    *,
    distance: str = "cosine",
    temperature: float = 1.0,
) -> PrototypeSimilarity:
    """What the losses need of the similarities.

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
        temperature: as of ``log_partition``.
    """
    return log_partition - assigned / temperature


def squared_distance(assigned: Tensor, distance: str = "cosine") -> Tensor:
    """Equation 12 for each pixel: ``(1 - <i, p>) ** 2``, or the squared distance itself.

    Args:
        assigned: (N,) similarity to the prototype that the pixel is assigned to.
        distance: how it was computed.
    """
    nearest = 1 if distance == "cosine" else 0
    return (nearest - assigned).square()


def as_similarity(cosine: Tensor, distance: str) -> Tensor:
    """Cosines of unit vectors to similarities, the nearer the larger, of any shape.

    "cosine" leaves them, "euclidean" is minus the distance of the vectors, "huber" minus its
    Huberised form ``sqrt(d ** 2 + delta ** 2) - delta`` with ``HUBER_DELTA`` (section 5.4).
    """
    if distance == "cosine":
        return cosine
    # Rounding makes cosines above 1, and the root has no gradient at 0.
    squared = (2 - 2 * cosine).clamp(min=1e-8)
    if distance == "euclidean":
        return -squared.sqrt()
    return HUBER_DELTA - (squared + HUBER_DELTA**2).sqrt()
