"""Views of the masks from which explicit class embeddings are computed, stage by stage."""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from ...modeling.heads import ECEHead
from ...modeling.heads.layers import resize
from ..overlays import class_name
from .drawing import HEAT_OPACITY, HeatScale, Panel, draw_panels
from .model_maps import classifying_module, maps_of_image, recorded_outputs
from .scene import ClassifierView, Scene

MOST_CLASSES = 4


def classifier_masks(scene: Scene, classes: Sequence[int]) -> dict[str, Tensor]:
    """The masks of an ExplicitClassClassifier, as probabilities.

    Returns:
        Title -> (n, H, W) of the n ``classes``: the seed, the attention's, and their sum, which
        assists the prediction.
    """
    classifier = classifying_module(scene.model)

    def read(recorded, features):
        return {"seed": recorded["seed"], "attention": recorded["attention"][1]}

    parts = {"seed": classifier.predictor, "attention": classifier.attention}
    masks = _masks_of_image(scene, classes, parts, read)
    return _probabilities({**masks, "sum": sum(masks.values())})


def ece_masks(scene: Scene, classes: Sequence[int]) -> dict[str, Tensor]:
    """The masks of an ECEHead, as probabilities, whatever classifier the head has.

    Returns:
        Title -> (n, H, W) of the n ``classes``: the seed and the attentions' masks from the deepest
        stage to the first, and their sum, which assists the head's own prediction. A head without
        attentions has the seed alone.
    """
    head = scene.model.sem_seg_head
    parts = {f"seed ({head.in_features[-1]})": head.seed_mask}
    for i in reversed(range(len(head.attentions))):
        parts[f"attention ({head.in_features[i]})"] = head.attentions[i]

    def read(recorded, features):
        # An attention returns the refined features and its mask.
        masks = {k: v[1] if isinstance(v, tuple) else v for k, v in recorded.items()}
        # The head brings them to the size of its pixel features before it uses them.
        size = masks.pop("pixel features").shape[-2:]
        return {title: resize(mask, size, head.align_corners) for title, mask in masks.items()}

    masks = _masks_of_image(scene, classes, {**parts, "pixel features": head.fuse}, read)
    if len(masks) > 1:
        masks["sum"] = sum(masks.values())
    return _probabilities(masks)


def segvit_masks(scene: Scene, classes: Sequence[int]) -> dict[str, Tensor]:
    """The masks of a SegViTHead, as probabilities.

    Returns:
        Title -> (n, H, W) of the n ``classes``: after each stage, from the deepest feature map to
        the shallowest, the sum of the masks so far. With explicit class embeddings the seed comes
        first.
    """
    head = scene.model.sem_seg_head
    parts = {"seed": head.class_tokens.seed_mask} if head.explicit else {}

    def read(recorded, features):
        stages = zip(reversed(head.in_features), head.predict(features).mask_logits)
        return {**recorded, **{f"up to {name}": mask for name, mask in stages}}

    return _probabilities(_masks_of_image(scene, classes, parts, read))


def classifier_mask_views(scene: Scene) -> list[ClassifierView]:
    """The masks of an ExplicitClassClassifier."""
    caption = (
        "The masks from which class embeddings are computed: those of the vanilla classifier "
        "(seed), those of the attention of pixels to classes, and their sum."
    )
    return [_view(scene, classifier_masks, "masks", caption)]


def head_mask_views(scene: Scene) -> list[ClassifierView]:
    """The masks of the stages of an ECEHead or a SegViTHead."""
    if isinstance(scene.model.sem_seg_head, ECEHead):
        caption = (
            "The masks from which the decode head computes class embeddings, from the deepest "
            "stage to the first, and their sum."
        )
        return [_view(scene, ece_masks, "stage_masks", caption)]
    caption = (
        "Where the class tokens look, summed over the decoder's stages up to the one named; the "
        "last ones make the prediction."
    )
    return [_view(scene, segvit_masks, "stage_masks", caption)]


def _view(
    scene: Scene,
    masks_of: Callable[[Scene, Sequence[int]], dict[str, Tensor]],
    name: str,
    caption: str,
) -> ClassifierView:
    classes = scene.classes_to_show(MOST_CLASSES)
    masks = {title: m.cpu().numpy() for title, m in masks_of(scene, classes).items()}
    scale = HeatScale("probability of the mask", 0.0, 1.0, HEAT_OPACITY)
    panels = [
        Panel(f"{class_name(scene.metadata, k)}: {title}", scale.over(scene.image, of_classes[i]))
        for i, k in enumerate(classes)
        for title, of_classes in masks.items()
    ]
    return ClassifierView(name, caption, draw_panels(panels, len(masks), heat=scale))


def _masks_of_image(
    scene: Scene,
    classes: Sequence[int],
    parts: Mapping[str, nn.Module],
    read: Callable[[Mapping[str, object], object], Mapping[str, Tensor]],
) -> dict[str, Tensor]:
    """Masks before the sigmoid, (n, H, W) each.

    ``read`` makes masks (B, K, any height, any width) of the latest outputs of ``parts`` and of
    what the classifier, or the head, was given.
    """
    index = list(classes)
    with recorded_outputs(parts) as recorded:
        maps = maps_of_image(
            scene.model,
            scene.inputs,
            lambda features, logits: {
                title: mask[:, index] for title, mask in read(dict(recorded), features).items()
            },
        )
    return {title: values for title, values in maps.items() if title != "logits"}


def _probabilities(masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {title: mask.sigmoid() for title, mask in masks.items()}
