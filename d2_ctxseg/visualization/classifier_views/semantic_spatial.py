"""Views of the semantic and spatial adaptive classifier: where it looks for a class, and what it
takes for boundaries.
"""

from collections.abc import Sequence

from torch import Tensor

from ...losses.boundary import class_boundary
from ..overlays import class_name
from .drawing import HEAT_OPACITY, HeatScale, Panel, draw_panels
from .model_maps import classifying_module, maps_of_image
from .scene import ClassifierView, Scene

MOST_CLASSES = 6


def spatial_attention(scene: Scene, classes: Sequence[int]) -> Tensor:
    """How much each pixel counts in the spatial prototype of a class, (n, H, W) of n ``classes``.

    The softmax of the vanilla logits over the pixels of an image, relative to the class's largest
    value: 0 to 1.
    """
    classifier, index = classifying_module(scene.model), list(classes)

    def read(features, logits):
        vanilla = classifier.predict(features).vanilla[:, index]
        return {"attention": (vanilla - vanilla.amax(dim=(2, 3), keepdim=True)).exp()}

    return maps_of_image(scene.model, scene.inputs, read)["attention"]


def predicted_boundary(scene: Scene) -> Tensor:
    """Boundaries of the predicted classes, (H, W), 0 to 1, found as in ``loss_response``."""
    classifier = classifying_module(scene.model)

    def read(features, logits):
        boundary = class_boundary(
            logits.argmax(dim=1),
            classifier.boundary,
            frame=classifier.boundary_frame,
            dilation=classifier.boundary_dilation,
        )
        return {"boundary": boundary[:, None]}

    return maps_of_image(scene.model, scene.inputs, read)["boundary"][0]


def semantic_spatial_views(scene: Scene) -> list[ClassifierView]:
    """Attention and boundaries, where the classifier has them."""
    classifier, views = classifying_module(scene.model), []
    if classifier.spatial:
        views.append(_attention_view(scene))
    if classifier.response_weighting == "class_entropy_boundary":
        views.append(_boundary_view(scene))
    return views


def _attention_view(scene: Scene) -> ClassifierView:
    classes = scene.classes_to_show(MOST_CLASSES)
    scale = HeatScale("weight relative to the largest", 0.0, 1.0, HEAT_OPACITY)
    attention = spatial_attention(scene, classes).cpu().numpy()
    panels = [
        Panel(class_name(scene.metadata, k), scale.over(scene.image, weights))
        for k, weights in zip(classes, attention)
    ]
    caption = "The weights of the pixels in the spatial prototype of a class."
    return ClassifierView("spatial_attention", caption, draw_panels(panels, 3, heat=scale))


def _boundary_view(scene: Scene) -> ClassifierView:
    scale = HeatScale("boundary", 0.0, 1.0, HEAT_OPACITY)
    boundary = predicted_boundary(scene).cpu().numpy()
    panels = [
        Panel("image", scene.image),
        Panel("boundaries", scale.over(scene.image, boundary)),
    ]
    caption = (
        "Boundaries of the predicted classes in the feature map: the distillation averages their "
        "pixels separately (there, of the true classes)."
    )
    return ClassifierView("boundaries", caption, draw_panels(panels, 2, heat=scale))
