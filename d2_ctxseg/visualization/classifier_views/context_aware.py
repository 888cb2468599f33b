"""Views of the context-aware classifier: its vanilla and its refined prediction compared."""

import math
from typing import NamedTuple

import numpy as np
from torch import Tensor

from ..overlays import class_color, class_name, class_shares, draw_overlay
from .any_classifier import entropy_scale
from .drawing import (
    Panel,
    blend,
    draw_bars,
    draw_panels,
    grey,
    percent,
    with_legend,
)
from .measures import Change, accuracy, entropy, label_changes, label_map
from .model_maps import classifying_module, maps_of_image
from .scene import ClassifierView, Scene

# Blue for the better and orange for the worse, as in the report. The colours differ for people with
# a red-green deficiency too, and in lightness on a grey print (after Okabe and Ito).
CHANGE_COLORS = {
    Change.CORRECTED: (0, 90, 181),
    Change.BROKEN: (230, 159, 0),
    Change.STILL_WRONG: (40, 40, 40),
    Change.UNLABELLED: (204, 121, 167),
}
MOST_CLASSES = 30  # with bars
CHANGE_NAMES = {
    Change.CORRECTED: "wrong → correct",
    Change.BROKEN: "correct → wrong",
    Change.STILL_WRONG: "wrong → wrong, another class",
    Change.UNLABELLED: "changed, no label",
}


class TwoPredictions(NamedTuple):
    """Logits (K, H, W) of the vanilla classifier and of the refined one, the model's own."""

    vanilla: Tensor
    refined: Tensor


def two_predictions(scene: Scene) -> TwoPredictions:
    """Logits of both classifiers for the image of a scene."""
    classifier = classifying_module(scene.model)

    def read(features, logits):
        return {"vanilla": classifier.predict(features).vanilla}

    maps = maps_of_image(scene.model, scene.inputs, read)
    return TwoPredictions(maps["vanilla"], maps["logits"])


def context_aware_views(scene: Scene) -> list[ClassifierView]:
    """Both predictions, their entropy, where they differ, and the shares of the classes."""
    logits = two_predictions(scene)
    labels = {name: label_map(values) for name, values in logits._asdict().items()}
    return [
        _both_predictions(scene, labels),
        _entropies(scene, logits),
        _changes(scene, labels["vanilla"], labels["refined"]),
        _shares(scene, labels),
    ]


def paint_changes(image: np.ndarray, changes: np.ndarray) -> np.ndarray:
    """A pale grey image (H, W, 3) with the colours of changes (H, W), values of ``Change``."""
    painted = blend(grey(image), np.full_like(image, 255), 0.35)
    for change, color in CHANGE_COLORS.items():
        painted[changes == change] = color
    return painted


def _both_predictions(scene: Scene, labels: dict[str, np.ndarray]) -> ClassifierView:
    background, metadata = grey(scene.image), scene.metadata
    first, shown = Panel("image", scene.image), {name: name for name in labels}
    present = set(np.unique(list(labels.values())).tolist())
    if scene.ground_truth is not None:
        overlay = draw_overlay(
            background, scene.ground_truth, metadata, legend=False, hatch_ignored=True
        )
        first = Panel("ground truth", overlay)
        present |= set(np.unique(scene.ground_truth).tolist())
        for name, prediction in labels.items():
            share = accuracy(prediction, scene.ground_truth)
            if not math.isnan(share):  # there are labelled pixels
                shown[name] = f"{name} ({percent(share)} of pixels correct)"
    panels = [first] + [
        Panel(shown[name], draw_overlay(background, prediction, metadata, legend=False))
        for name, prediction in labels.items()
    ]
    drawing = with_legend(draw_panels(panels, 3), metadata, sorted(present))
    caption = (
        "The vanilla prediction, whose weights are the same for every image, and the refined one, "
        "whose weights are computed for this image."
    )
    return ClassifierView("vanilla_and_refined", caption, drawing)


def _entropies(scene: Scene, logits: TwoPredictions) -> ClassifierView:
    maps = {name: entropy(values).cpu().numpy() for name, values in logits._asdict().items()}
    scale = entropy_scale(*maps.values(), num_classes=scene.num_classes)
    panels = [
        Panel(f"{name}, mean {values.mean():.3f}", scale.colors(values))
        for name, values in maps.items()
    ]
    caption = (
        "Entropy of the vanilla and of the refined prediction: the brighter, the less certain."
    )
    return ClassifierView("entropy", caption, draw_panels(panels, 2, heat=scale))


def _changes(scene: Scene, vanilla: np.ndarray, refined: np.ndarray) -> ClassifierView:
    changes = label_changes(vanilla, refined, scene.ground_truth)
    key = {}
    for change, color in CHANGE_COLORS.items():
        share = (changes == change).mean()
        if share or (scene.ground_truth is not None and change != Change.UNLABELLED):
            name = CHANGE_NAMES[change] if scene.ground_truth is not None else "changed"
            key[f"{name}: {percent(share)}"] = color
    changed = percent((changes != Change.NONE).mean())
    painted = paint_changes(scene.image, changes)
    panels = [Panel("image", scene.image), Panel(f"{changed} of pixels changed", painted)]
    caption = "Where the refined prediction differs from the vanilla one" + (
        "." if scene.ground_truth is None else ", and whether the change is correct."
    )
    return ClassifierView("changes", caption, draw_panels(panels, 2, key=key))


def _shares(scene: Scene, labels: dict[str, np.ndarray]) -> ClassifierView:
    maps = {"refined": labels["refined"], "vanilla": labels["vanilla"]}
    if scene.ground_truth is not None:
        maps["ground truth"] = scene.ground_truth
    # In the ground truth, shares of the labelled pixels.
    shares = {name: class_shares(values[values >= 0]) for name, values in maps.items()}
    largest = {}
    for values in shares.values():
        for label, share in values.items():
            largest[label] = max(share, largest.get(label, 0.0))
    order = sorted(largest, key=lambda label: -largest[label])[:MOST_CLASSES]
    series = {
        name: [100 * values.get(label, 0.0) for label in order] for name, values in shares.items()
    }
    names = [class_name(scene.metadata, label) for label in order]
    colors = [class_color(scene.metadata, label) for label in order]
    drawing = draw_bars(names, colors, series, "share of the pixels in %")
    caption = "The share of each class in the refined and in the vanilla prediction" + (
        "." if scene.ground_truth is None else ", and in the ground truth (of its labelled pixels)."
    )
    return ClassifierView("class_shares", caption, drawing)
