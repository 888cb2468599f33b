"""Views of Gaussian mixtures: how unusual each pixel is, and which Gaussian it belongs to."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from ...classifiers.mixture_density import component_log_density
from ...losses.precision import at_least_float32
from ..overlays import class_name
from .drawing import HeatScale, Panel, blend, distinct_colors, draw_panels, grey, percent
from .model_maps import classifying_module, maps_of_image
from .scene import ClassifierView, Scene

MOST_CLASSES = 3


class MixtureMaps(NamedTuple):
    """Log densities of the pixels of an image."""

    scores: Tensor
    """(K, H, W): of the classes, before their norm."""
    components: Tensor
    """(n, M, H, W): of the components of n classes."""


def mixture_maps(scene: Scene, classes: Sequence[int]) -> MixtureMaps:
    """Log densities of an image under all classes, and under the components of some.

    Args:
        scene: a scene with a GaussianMixtureClassifier.
        classes: n of them.
    """
    classifier = classifying_module(scene.model)
    means, scales = (values[list(classes)] for values in classifier.mixtures())

    def read(features, logits):
        embeddings = at_least_float32(classifier.embed(features))
        density = component_log_density(embeddings, means, scales).flatten(1)
        density = density.unflatten(0, (len(features), *features.shape[-2:]))
        scores = classifier.class_log_density(features)
        return {"scores": scores, "components": density.permute(0, 3, 1, 2)}

    maps = maps_of_image(scene.model, scene.inputs, read)
    components = maps["components"].unflatten(0, (len(classes), classifier.num_components))
    return MixtureMaps(maps["scores"], components)


def gaussian_mixture_views(scene: Scene) -> list[ClassifierView]:
    """The anomaly score of every pixel, and the components of some classes."""
    classes = scene.classes_to_show(MOST_CLASSES)
    maps = mixture_maps(scene, classes)
    components = maps.components.argmax(dim=1).cpu().numpy()
    count = maps.components.shape[1]
    return [_anomaly(scene, maps.scores), _components(scene, classes, components, count)]


def _anomaly(scene: Scene, scores: Tensor) -> ClassifierView:
    values = -scores.amax(dim=0).float().cpu().numpy()
    low, high = np.percentile(values, [1, 99])
    scale = HeatScale("minus the largest log density of a class", float(low), float(high))
    panels = [
        Panel("image", scene.image),
        Panel(f"anomaly score, mean {values.mean():.1f}", scale.colors(values)),
    ]
    caption = "Anomaly score: the brighter, the less a pixel looks like any class."
    return ClassifierView("anomaly", caption, draw_panels(panels, 2, heat=scale))


def _components(
    scene: Scene, classes: Sequence[int], densest: np.ndarray, count: int
) -> ClassifierView:
    """Of n classes the densest component (n, H, W) of each pixel, 0 to ``count`` - 1."""
    colors, ground, panels = distinct_colors(count), grey(scene.image), []
    for label, component in zip(classes, densest):
        own = scene.prediction == label
        drawing = blend(ground, np.where(own[..., None], colors[component], ground), 0.75)
        used = np.bincount(component[own], minlength=count) / max(own.sum(), 1)
        title = f"{class_name(scene.metadata, label)}: largest share {percent(used.max())}"
        panels.append(Panel(title, drawing))
    caption = (
        f"Which of its {count} Gaussians is the densest for each pixel predicted as a class, and "
        "the share of the pixels that the largest of them has."
    )
    key = {f"component {m + 1}": color for m, color in enumerate(colors[:10].tolist())}
    drawing = draw_panels([Panel("image", scene.image), *panels], 2, key=key)
    return ClassifierView("components", caption, drawing)
