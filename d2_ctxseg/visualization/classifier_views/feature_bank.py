"""View of a feature bank: how similar each pixel is to the labelled features it is voted by."""

import numpy as np

from .drawing import HeatScale, Panel, draw_panels
from .model_maps import classifying_module, maps_of_image
from .scene import ClassifierView, Scene


def neighbor_similarity(scene: Scene) -> np.ndarray:
    """The mean cosine (H, W) of each pixel to its nearest features in the bank, -1 to 1.

    Args:
        scene: a scene with a FeatureBankClassifier.
    """
    classifier = classifying_module(scene.model)

    def read(features, logits):
        return {"similarity": classifier.class_evidence(features)}

    return maps_of_image(scene.model, scene.inputs, read)["similarity"][0].float().cpu().numpy()


def feature_bank_views(scene: Scene) -> list[ClassifierView]:
    """The similarity of every pixel to its neighbours in the bank."""
    values = neighbor_similarity(scene)
    low, high = np.percentile(values, [1, 99])
    scale = HeatScale("mean cosine to the nearest features", float(low), float(high))
    panels = [
        Panel("image", scene.image),
        Panel(f"similarity to the bank, mean {values.mean():.2f}", scale.colors(values)),
    ]
    number = classifying_module(scene.model).num_neighbors
    caption = (
        f"Mean cosine of each pixel to its {number} nearest features in the bank: where it is "
        "dark, the bank has nothing similar."
    )
    return [ClassifierView("neighbors", caption, draw_panels(panels, 2, heat=scale))]
