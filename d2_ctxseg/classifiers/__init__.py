"""The classifiers: plain PyTorch, usable without Detectron2."""

from .base import CLASSIFIER_REGISTRY, PixelClassifier
from .context_aware import ContextAwareClassifier, ContextAwarePrediction
from .linear import LinearClassifier

__all__ = [
    "CLASSIFIER_REGISTRY",
    "ContextAwareClassifier",
    "ContextAwarePrediction",
    "LinearClassifier",
    "PixelClassifier",
]
