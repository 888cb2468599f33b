"""Anomaly scores of an image's pixels, from class scores in bands: the larger, the stranger.

Hendrycks and Gimpel, ICLR 2017 (arXiv 1610.02136): maximum softmax probability. Hendrycks et al.,
ICML 2022 (arXiv 1911.11132): maximum logit, and the entropy as a baseline. Liu et al., NeurIPS 2020
(arXiv 2010.03759): energy.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .scores import Scores

#: Of "classifier" the classifier itself knows best: ``PixelClassifier.anomaly_score``.
CLASSIFIER_SCORE = "classifier"


def _max_softmax(logits: Tensor) -> Tensor:
    # 1 - p of the best class, as a sum: near 0 a difference would be rounding.
    best = logits.argmax(dim=0, keepdim=True)
    return logits.softmax(dim=0).scatter(0, best, 0).sum(dim=0)


def _entropy(logits: Tensor) -> Tensor:
    log_probabilities = logits.log_softmax(dim=0)
    entropy = -(log_probabilities.exp() * log_probabilities).sum(dim=0)
    return entropy / math.log(max(len(logits), 2))


#: By name: from logits (K, rows, width), at least float32, to scores (rows, width).
LOGIT_SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "max_softmax": _max_softmax,
    "max_logit": lambda logits: -logits.amax(dim=0),
    "entropy": _entropy,
    "energy": lambda logits: -logits.logsumexp(dim=0),
}
ANOMALY_SCORES = (*LOGIT_SCORES, CLASSIFIER_SCORE)


def anomaly_map(scores: Scores, name: str, band_elements: int | None = None) -> Tensor:
    """The score ``name`` of LOGIT_SCORES at every pixel, (H, W), at least float32.

    Args:
        scores: logits of an image.
        name: name of the anomaly score.
        band_elements: approximate number of logits in memory; None: the device's default.
    """
    score = LOGIT_SCORES[name]
    return torch.cat([score(band) for band in scores.logit_bands(band_elements)])
