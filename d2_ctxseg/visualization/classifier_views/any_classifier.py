"""Views of any model: its prediction and its confidence."""

import math

import numpy as np

from ..overlays import draw_comparison, draw_overlay
from .drawing import HeatScale, Panel, draw_panels
from .measures import confidence, entropy
from .scene import ClassifierView, Scene


def prediction_views(scene: Scene) -> list[ClassifierView]:
    """Prediction, entropy and confidence of a model."""
    return [_prediction(scene), _entropy(scene), _confidence(scene)]


def entropy_scale(*maps: np.ndarray, num_classes: int) -> HeatScale:
    """One colour scale for all of some entropy maps (H, W), up to their largest value."""
    label = f"entropy in nats (log {num_classes} = {math.log(num_classes):.2f} at most)"
    return HeatScale(label, 0.0, max(float(values.max()) for values in maps))


def _prediction(scene: Scene) -> ClassifierView:
    if scene.ground_truth is None:
        drawing = draw_overlay(scene.image, scene.prediction, scene.metadata)
        return ClassifierView("prediction", "The class of every pixel, with shares.", drawing)
    drawing = draw_comparison(scene.image, scene.ground_truth, scene.prediction, scene.metadata)
    return ClassifierView("prediction", "The image, its ground truth, and the prediction.", drawing)


def _entropy(scene: Scene) -> ClassifierView:
    values = entropy(scene.logits).cpu().numpy()
    scale = entropy_scale(values, num_classes=scene.num_classes)
    panels = [
        Panel("image", scene.image),
        Panel(f"entropy, mean {values.mean():.3f}", scale.colors(values)),
    ]
    caption = "Entropy of the predicted probabilities: the brighter, the less certain."
    return ClassifierView("entropy", caption, draw_panels(panels, 2, heat=scale))


def _confidence(scene: Scene) -> ClassifierView:
    values = confidence(scene.logits).cpu().numpy()
    scale = HeatScale("probability of the predicted class", 0.0, 1.0)
    panels = [
        Panel("image", scene.image),
        Panel(f"confidence, mean {values.mean():.3f}", scale.colors(values)),
    ]
    caption = "Probability of the predicted class: the darker, the less certain."
    return ClassifierView("confidence", caption, draw_panels(panels, 2, heat=scale))
