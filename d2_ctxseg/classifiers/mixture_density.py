"""Log densities of pixel embeddings under Gaussian mixtures, all classes at once.

Liang et al., "GMMSeg: Gaussian Mixture based Generative Semantic Segmentation Models", NeurIPS 2022
(arXiv 2210.02025).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

CLASS_SCORES = ("max", "logsumexp")


class Densities(NamedTuple):
    """Log densities of N pixels under K mixtures of M components, minus ``offset``.

    All at least float32.
    """

    class_scores: Tensor
    """(N, K), see ``class_log_density``."""
    of_own_class: Tensor
    """(N, M), under the components of the pixel's own class."""
    log_partition: Tensor
    """(N,): logsumexp over all K x M components."""
    offset: Tensor
    """A scalar, see ``density_weights``."""


def component_log_density(embeddings: Tensor, means: Tensor, scales: Tensor) -> Tensor:
    """Log density of each pixel under each component of every class.

    ``-D/2 log 2 pi - sum_d log s_d - 1/2 sum_d ((e_d - m_d) / s_d) ** 2``, as one matrix product.

    Args:
        embeddings: (N, D) float.
        means: (K, M, D).
        scales: (K, M, D), standard deviations, above 0.

    Returns:
        (N, K, M).
    """
    weights, offset = density_weights(means, scales)
    return torch.einsum("nf,kmf->nkm", density_features(embeddings), weights) + offset


def density_features(embeddings: Tensor) -> Tensor:
    """The terms that a log density is linear in: (N, D) to (N, 2 D + 1), ``[e ** 2, e, 1]``."""
    return torch.cat([embeddings.square(), embeddings, torch.ones_like(embeddings[:, :1])], dim=1)


def density_weights(means: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    """The coefficients of ``density_features``, and an offset to add to the products.

    The offset is the mean of the components' constants. Leaving it out makes the log densities
    smaller in magnitude, so that their differences keep more digits. The losses depend on
    differences alone.

    Args:
        means, scales: (K, M, D).

    Returns:
        The coefficients (K, M, 2 D + 1) and the offset, a scalar.
    """
    precision = scales.square().reciprocal()
    constant = scales.log() + 0.5 * means.square() * precision + 0.5 * math.log(2 * math.pi)
    constant = -constant.sum(dim=2, keepdim=True)
    offset = constant.mean()
    return torch.cat([-0.5 * precision, means * precision, constant - offset], dim=2), offset


def class_log_density(log_density: Tensor, class_score: str = "max") -> Tensor:
    """The score of each class from the log densities of its components: (N, K, M) to (N, K).

    Args:
        log_density: see ``component_log_density``.
        class_score: "max", the largest, as in the authors' code; or "logsumexp", the density of the
            mixture with uniform weights: ``logsumexp_m - log M``, as in the paper.
    """
    if class_score == "max":
        return log_density.amax(dim=2)
    return log_density.logsumexp(dim=2) - math.log(log_density.shape[2])


def mixture_densities(
    embeddings: Tensor, means: Tensor, scales: Tensor, labels: Tensor, class_score: str = "max"
) -> Densities:
    """The densities that the losses need.

    Args:
        embeddings, means, scales: see ``component_log_density``.
        labels: (N,) int64, 0 to K-1.
        class_score: see ``class_log_density``.
    """
    weights, offset = density_weights(means, scales)
    log_density = torch.einsum("nf,kmf->nkm", density_features(embeddings), weights)
    return Densities(
        class_scores=class_log_density(log_density, class_score),
        of_own_class=log_density[torch.arange(len(labels), device=labels.device), labels],
        log_partition=log_density.flatten(1).logsumexp(dim=1),
        offset=offset,
    )
