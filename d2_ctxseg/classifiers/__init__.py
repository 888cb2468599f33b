"""The classifiers: plain PyTorch, usable without Detectron2."""

from .base import CLASSIFIER_REGISTRY, PixelClassifier, make_predictor
from .context_aware import ContextAwareClassifier, ContextAwarePrediction
from .explicit_class import ExplicitClassClassifier, ExplicitClassPrediction
from .feature_bank import FeatureBankClassifier
from .gaussian_mixture import GaussianMixtureClassifier
from .learned_prototype import LearnedPrototypeClassifier
from .linear import LinearClassifier
from .prototype import PrototypeClassifier
from .semantic_spatial import SemanticSpatialClassifier, SemanticSpatialPrediction

__all__ = [
    "CLASSIFIER_REGISTRY",
    "ContextAwareClassifier",
    "ContextAwarePrediction",
    "ExplicitClassClassifier",
    "ExplicitClassPrediction",
    "FeatureBankClassifier",
    "GaussianMixtureClassifier",
    "LearnedPrototypeClassifier",
    "LinearClassifier",
    "PixelClassifier",
    "PrototypeClassifier",
    "SemanticSpatialClassifier",
    "SemanticSpatialPrediction",
    "make_predictor",
]
