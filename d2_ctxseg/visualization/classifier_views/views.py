"""All views that a model has, by its classifier and its head."""

from collections.abc import Sequence

import numpy as np

from ...classifiers import (
    ContextAwareClassifier,
    ExplicitClassClassifier,
    FeatureBankClassifier,
    GaussianMixtureClassifier,
    LearnedPrototypeClassifier,
    PrototypeClassifier,
    SemanticSpatialClassifier,
)
from ...deployment.predictor import SemSegPredictor
from ...modeling.heads import ECEHead, SegViTHead
from .any_classifier import prediction_views
from .context_aware import context_aware_views
from .explicit_class import classifier_mask_views, head_mask_views
from .feature_bank import feature_bank_views
from .gaussian_mixture import gaussian_mixture_views
from .learned_prototype import learned_prototype_views
from .prototype import prototype_views
from .scene import ClassifierView, Scene
from .semantic_spatial import semantic_spatial_views


def draw_classifier_views(
    predictor: SemSegPredictor,
    image_rgb: np.ndarray,
    *,
    labels: np.ndarray | None = None,
    classes: Sequence[int] | None = None,
) -> list[ClassifierView]:
    """Draw how the model of ``predictor`` comes to its prediction for one image.

    Every model has its prediction with entropy and confidence; a context-aware one, and a semantic
    and spatial one, has instead both of its predictions, their entropies, their differences and the
    shares of the classes. The latter, prototypes, learned or not, Gaussian mixtures, feature banks,
    and heads and classifiers with explicit class embeddings, add views of their own.

    Args:
        predictor: the model. Other threads may use it meanwhile.
        image_rgb: uint8 (H, W, 3).
        labels: the true classes, integers (H, W); what is no class counts as ignored.
        classes: indices of the classes whose prototypes, Gaussians and masks are shown; None: the
            largest of the prediction.

    Returns:
        Views with different names. In their images an image larger than 1280 pixels is reduced.

    Raises:
        UserError: an argument has another shape or type, or a class does not exist.
    """
    scene = Scene.from_predictor(predictor, image_rgb, labels, classes)
    classifier = getattr(scene.model, "classifier", None)
    refines = isinstance(classifier, (ContextAwareClassifier, SemanticSpatialClassifier))
    views = context_aware_views(scene) if refines else prediction_views(scene)
    if isinstance(classifier, SemanticSpatialClassifier):
        views += semantic_spatial_views(scene)
    if isinstance(classifier, PrototypeClassifier):
        views += prototype_views(scene)
    if isinstance(classifier, GaussianMixtureClassifier):
        views += gaussian_mixture_views(scene)
    if isinstance(classifier, FeatureBankClassifier):
        views += feature_bank_views(scene)
    if isinstance(classifier, LearnedPrototypeClassifier):
        views += learned_prototype_views(scene)
    if isinstance(classifier, ExplicitClassClassifier):
        views += classifier_mask_views(scene)
    if isinstance(getattr(scene.model, "sem_seg_head", None), (ECEHead, SegViTHead)):
        views += head_mask_views(scene)
    return views
