"""Views of a class's learned vectors: which of them gives each pixel its score."""

from collections.abc import Sequence

from torch import Tensor

from .model_maps import classifying_module, maps_of_image
from .prototype import (
    MOST_CLASSES,
    Similarities,
    coinciding_groups,
    draw_distinct_prototypes,
    draw_similarities,
)
from .scene import ClassifierView, Scene

_KIND = Similarities(
    "inner product",
    "Inner product of every pixel with the learned prototypes",
    "difference of at most 14 % of their length",
)


def inner_product_maps(scene: Scene, classes: Sequence[int]) -> Tensor:
    """Inner products (n, M, H, W) of the pixels with the vectors of n classes.

    Args:
        scene: a scene with a LearnedPrototypeClassifier.
        classes: n of them.
    """
    classifier = classifying_module(scene.model)

    def read(features, logits):
        products = classifier.inner_products(features)[:, list(classes)]
        return {"products": products.flatten(1, 2)}

    products = maps_of_image(scene.model, scene.inputs, read)["products"]
    return products.unflatten(0, (len(classes), classifier.num_prototypes))


def learned_prototype_views(scene: Scene) -> list[ClassifierView]:
    """Inner products for each of some classes, and how many prototypes of a class differ."""
    classes = scene.classes_to_show(MOST_CLASSES)
    maps = inner_product_maps(scene, classes).float().cpu().numpy()
    vectors = classifying_module(scene.model).weight.detach().float().cpu()
    groups = [coinciding_groups(of_class) for of_class in vectors]
    views = [draw_similarities(scene, k, maps[i], groups[k], _KIND) for i, k in enumerate(classes)]
    return [*views, draw_distinct_prototypes(scene, groups, _KIND)]
