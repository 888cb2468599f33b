"""Temperature scaling: calibrate confidences with one number, fitted on validation images.

Class scores z become probabilities softmax(z / T). T does not change which class is the highest,
only how sure it is (Guo et al., On Calibration of Modern Neural Networks, ICML 2017, section 4.2).
It also brings scores to the scale of logits that are none, such as cosines in [-1, 1].
"""

import math

import torch
from torch import Tensor

#: The temperatures that are searched.
LEAST, MOST = 1e-4, 1e4
# Of log T.
_PRECISION = 1e-6
# Rows of scores whose probabilities exist at once.
_CHUNK = 1 << 16


def negative_log_likelihood(
    scores: Tensor, labels: Tensor, temperature: float = 1.0, weights: Tensor | None = None
) -> float:
    """The mean of -log softmax(scores / temperature)[label].

    Args:
        scores: (N, K) floating-point.
        labels: (N,) int64 in [0, K).
        temperature: positive.
        weights: (N,) how much each row counts; None: all alike.
    """
    return _likelihood(scores, labels, 1 / temperature, _normalized(weights, scores))[0]


def fit_temperature(scores: Tensor, labels: Tensor, weights: Tensor | None = None) -> float:
    """The temperature in [LEAST, MOST] with the lowest negative log-likelihood.

    The likelihood is convex in 1 / T, so the sign of its slope says on which side the minimum lies:
    the interval is halved until it is narrow. Scores that become likelier without end (no error, or
    none better than chance) give a limit.

    Args:
        scores, labels, weights: see :func:`negative_log_likelihood`.

    Raises:
        ValueError: there is no row, or a score is not finite.
    """
    if not len(scores):
        raise ValueError("no pixel to fit a temperature to")
    if not scores.isfinite().all():
        raise ValueError("a score is not finite")
    weights = _normalized(weights, scores)
    low, high = math.log(1 / MOST), math.log(1 / LEAST)
    while high - low > _PRECISION:
        middle = (low + high) / 2
        _, slope = _likelihood(scores, labels, math.exp(middle), weights)
        low, high = (low, middle) if slope > 0 else (middle, high)
    return math.exp(-(low + high) / 2)


def _normalized(weights: Tensor | None, scores: Tensor) -> Tensor:
    if weights is None:
        weights = torch.ones(len(scores))
    weights = weights.double().to(scores.device)
    return weights / weights.sum()


def _likelihood(
    scores: Tensor, labels: Tensor, inverse: float, weights: Tensor
) -> tuple[float, float]:
    """The negative log-likelihood at T = 1 / inverse, and its slope in 1 / T."""
    total = torch.zeros(2, dtype=torch.float64, device=scores.device)
    for z, y, w in zip(scores.split(_CHUNK), labels.split(_CHUNK), weights.split(_CHUNK)):
        z = z.double()
        of_label = z.gather(1, y[:, None])[:, 0]
        log_total = (inverse * z).logsumexp(dim=1)
        mean = ((inverse * z - log_total[:, None]).exp() * z).sum(dim=1)
        both = torch.stack([log_total - inverse * of_label, mean - of_label])
        total += (both * w).sum(dim=1)
    likelihood, slope = total.tolist()
    return likelihood, slope
