"""Views of the prototypes of a class: which pixels resemble which of them, and where they lie.

After figures 3 and 5 of Zhou et al., "Rethinking Semantic Segmentation: A Prototype View", CVPR
2022 (arXiv 2203.15102).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..overlays import class_color, class_name
from .drawing import (
    HEAT_OPACITY,
    HeatScale,
    Panel,
    blend,
    distinct_colors,
    draw_bars,
    draw_panels,
    draw_points,
    grey,
    percent,
    with_legend,
)
from .model_maps import classifying_module, maps_of_image
from .scene import ClassifierView, Scene, largest_classes

MOST_CLASSES = 3  # with an image of similarities each
MOST_PROTOTYPES = 11  # with a map of similarities each
MOST_CLASSES_WITH_BARS = 30
MOST_CLASSES_OF_EMBEDDING = 8
MOST_PIXELS_OF_EMBEDDING = 2000
# Vectors that differ by at most this share of the longer one coincide. For vectors of unit length,
# this is a cosine similarity of at least 0.99.
COINCIDENCE = 0.02**0.5


class PixelSample(NamedTuple):
    """Some pixels of the classifier's resolution."""

    embeddings: Tensor
    """(N, C) of unit length."""
    classes: Tensor
    """(N,) int64: the classes that they were predicted as."""


class Plane(NamedTuple):
    """The plane in which points in C dimensions vary most (the first two principal components)."""

    mean: Tensor
    """(C,)"""
    axes: Tensor
    """(C, 2), orthonormal."""
    explained: Tensor
    """(2,): the share of the variance along each axis."""

    def project(self, points: Tensor) -> Tensor:
        """(N, C) to (N, 2)."""
        return (points - self.mean) @ self.axes


class Similarities(NamedTuple):
    """Words for the maps of a class's prototypes."""

    scale: str
    """At the colour bar."""
    caption: str
    """The beginning of the caption; "of CLASS" follows."""
    coincidence: str
    """When two prototypes count as coinciding, for the caption."""


_COSINES = Similarities(
    "cosine similarity",
    "Similarity of every pixel to the prototypes",
    "cosine similarity of at least 0.99",
)


class PrototypeMaps(NamedTuple):
    """What the pixels of an image have to do with the prototypes of some classes."""

    cosines: Tensor
    """(n, M, H, W): with each prototype of n classes."""
    sample: PixelSample


def prototype_maps(scene: Scene, classes: Sequence[int], sampled: Sequence[int]) -> PrototypeMaps:
    """Cosines of pixels and prototypes.

    Args:
        scene: a scene with a PrototypeClassifier.
        classes: the n classes of the prototypes.
        sampled: the classes of which pixels are sampled.
    """
    classifier = classifying_module(scene.model)
    table = F.normalize(classifier.prototypes, dim=2)[list(classes)].flatten(0, 1)
    valid = _valid_size(scene)
    generator, samples = torch.Generator().manual_seed(0), []

    def read(features, logits):
        embeddings = classifier.embed(features)
        cosines = embeddings @ table.to(embeddings.dtype).T
        embeddings = embeddings.unflatten(0, (len(features), *features.shape[-2:]))
        samples.append(_sampled(embeddings, logits.argmax(1), valid, sampled, generator))
        return {"cosines": cosines.unflatten(0, embeddings.shape[:3]).permute(0, 3, 1, 2)}

    cosines = maps_of_image(scene.model, scene.inputs, read)["cosines"]
    # Of windows there are several samples.
    whole = PixelSample(*(torch.cat(parts) for parts in zip(*samples)))
    index = sample_of_each(whole.classes, sampled, MOST_PIXELS_OF_EMBEDDING, generator)
    shape = (len(classes), classifier.num_prototypes)
    return PrototypeMaps(cosines.unflatten(0, shape), PixelSample(*(x[index] for x in whole)))


def sample_of_each(
    classes: Tensor, wanted: Sequence[int], most: int, generator: torch.Generator
) -> Tensor:
    """Indices of up to ``most`` pixels: as many of each class wanted, or all where it has fewer.

    Args:
        classes: (N,) int64, on the CPU.
        wanted: classes.
        most: the largest number over all classes.
        generator: on the CPU.

    Returns:
        (at most ``most``,) int64.
    """
    order = torch.randperm(len(classes), generator=generator)
    of_each = [order[classes[order] == label][: most // len(wanted)] for label in wanted]
    return torch.cat(of_each)


def principal_plane(points: Tensor) -> Plane:
    """The plane of the most variance of (N, C) points; the same whenever it is called."""
    mean = points.mean(dim=0)
    centered = points - mean
    with torch.random.fork_rng(devices=[]):  # the algorithm starts from random numbers
        torch.manual_seed(0)
        _, lengths, axes = torch.pca_lowrank(
            centered, q=min(8, *points.shape), center=False, niter=8
        )
    missing = max(2 - len(lengths), 0)  # of a single point
    lengths, axes = F.pad(lengths, (0, missing))[:2], F.pad(axes, (0, missing))[:, :2]
    # An axis could as well point the other way.
    largest = axes.gather(0, axes.abs().argmax(dim=0, keepdim=True))
    explained = lengths.square() / centered.square().sum().clamp(min=1e-12)
    return Plane(mean, axes * largest.sign(), explained)


def coinciding_groups(vectors: Tensor) -> list[list[int]]:
    """Groups of vectors that coincide, see ``COINCIDENCE``.

    The first vector that is in no group yet starts a group, which takes all others near it.

    Args:
        vectors: (M, C).

    Returns:
        The indices 0 to M - 1 in groups, sorted within each group and by their first.
    """
    lengths = vectors.norm(dim=1)
    near = torch.cdist(vectors, vectors) <= COINCIDENCE * torch.maximum(lengths[:, None], lengths)
    groups, left = [], list(range(len(vectors)))
    while left:
        group = [m for m in left if near[left[0], m] or m == left[0]]
        groups.append(group)
        left = [m for m in left if m not in group]
    return groups


def prototype_views(scene: Scene) -> list[ClassifierView]:
    """Similarities for each of some classes, the embedding space, and the distinct prototypes."""
    classes = scene.classes_to_show(MOST_CLASSES)
    in_plane = largest_classes(scene.prediction, MOST_CLASSES_OF_EMBEDDING)
    maps = prototype_maps(scene, classes, in_plane)
    cosines = maps.cosines.float().cpu().numpy()
    prototypes = F.normalize(classifying_module(scene.model).prototypes.float(), dim=2).cpu()
    groups = [coinciding_groups(of_class) for of_class in prototypes]
    views = [
        draw_similarities(scene, k, cosines[i], groups[k], _COSINES) for i, k in enumerate(classes)
    ]
    embedding_space = _embedding_space(scene, maps.sample, in_plane)
    return [*views, embedding_space, draw_distinct_prototypes(scene, groups, _COSINES)]


def draw_similarities(
    scene: Scene,
    label: int,
    similarities: np.ndarray,
    groups: Sequence[Sequence[int]],
    kind: Similarities,
) -> ClassifierView:
    """The maps of a class's prototypes, one for each group that coincides, and their pixels.

    Args:
        scene: the image and the model.
        label: the class.
        similarities: (M, H, W) of its M prototypes.
        groups: groups of coinciding prototypes, see :func:`coinciding_groups`.
        kind: words.
    """
    name, count = class_name(scene.metadata, label), len(similarities)
    of_groups = np.stack([similarities[group].max(axis=0) for group in groups])
    own, nearest = scene.prediction == label, of_groups.argmax(axis=0)
    sizes = np.bincount(nearest[own], minlength=len(groups))
    shown = sorted(np.argsort(-sizes, kind="stable")[:MOST_PROTOTYPES].tolist())
    low, high = np.percentile(of_groups[shown], [1, 99])
    scale = HeatScale(kind.scale, float(low), float(high), HEAT_OPACITY)
    colors, background = distinct_colors(len(groups)), grey(scene.image)
    assigned = blend(background, np.where(own[..., None], colors[nearest], background), 0.75)
    total = max(own.sum(), 1)
    panels = [Panel("image", scene.image), Panel(f"{name}: nearest prototype", assigned)]
    panels += [
        Panel(
            f"{_group_name(groups[g])}: nearest to {percent(sizes[g] / total)}",
            _framed(scale.over(scene.image, of_groups[g]), colors[g]),
        )
        for g in shown
    ]
    caption = (
        f"{kind.caption} of {name}, and which of them is the nearest to each pixel predicted as "
        f"{name}. {_coincidence(groups, count, kind)}"
    )
    if len(shown) < len(groups):
        caption += f" Shown are the {len(shown)} that are nearest to the most pixels."
    drawing = draw_panels(panels, min(4, len(panels)), heat=scale)
    return ClassifierView(_view_name(scene, label), caption, drawing)


def draw_distinct_prototypes(
    scene: Scene, groups: Sequence[Sequence[Sequence[int]]], kind: Similarities
) -> ClassifierView:
    """A bar a class: how many of its prototypes do not coincide.

    Args:
        scene: the image and the model.
        groups: groups of coinciding prototypes of each class.
        kind: words.
    """
    numbers = [len(of_class) for of_class in groups]
    count = sum(map(len, groups[0]))
    classes = np.argsort(numbers, kind="stable")[:MOST_CLASSES_WITH_BARS].tolist()
    names = [class_name(scene.metadata, k) for k in classes]
    colors = [class_color(scene.metadata, k) for k in classes]
    series = {"distinct": [numbers[k] for k in classes]}
    drawing = draw_bars(names, colors, series, f"distinct prototypes, of {count}", digits=0)
    caption = (
        f"How many of the {count} prototypes of a class are distinct. Prototypes coincide with a "
        f"{kind.coincidence}; a class whose prototypes all coincide has one in effect."
    )
    if len(classes) < len(groups):
        caption += f" Shown are the {len(classes)} classes with the fewest."
    return ClassifierView("distinct_prototypes", caption, drawing)


def _coincidence(groups: Sequence[Sequence[int]], count: int, kind: Similarities) -> str:
    if len(groups) == count:
        return f"No two of the {count} prototypes coincide ({kind.coincidence})."
    if len(groups) == 1:
        return f"All {count} prototypes coincide ({kind.coincidence}): in effect there is one."
    return f"Only {len(groups)} of the {count} prototypes are distinct ({kind.coincidence})."


def _group_name(group: Sequence[int]) -> str:
    """ "prototype 3", or "prototypes 1–4, 7 coincide"; counted from 1."""
    if len(group) == 1:
        return f"prototype {group[0] + 1}"
    runs: list[list[int]] = []
    for m in group:
        if runs and runs[-1][-1] == m - 1:
            runs[-1].append(m)
        else:
            runs.append([m])
    parts = [f"{r[0] + 1}–{r[-1] + 1}" if len(r) > 1 else f"{r[0] + 1}" for r in runs]
    return f"prototypes {', '.join(parts)} coincide"


def _embedding_space(scene: Scene, sample: PixelSample, classes: Sequence[int]) -> ClassifierView:
    prototypes = F.normalize(classifying_module(scene.model).prototypes, dim=2)[list(classes)]
    prototypes = prototypes.float().cpu()
    plane = principal_plane(sample.embeddings)
    colors = np.array([class_color(scene.metadata, k) for k in range(scene.num_classes)])
    labels = [
        f"{rank} principal component ({percent(share)} of the variance)"
        for rank, share in zip(("first", "second"), plane.explained.tolist())
    ]
    drawing = draw_points(
        plane.project(sample.embeddings).numpy(),
        colors[sample.classes.numpy()],
        plane.project(prototypes.flatten(0, 1)).numpy(),
        colors[np.repeat(classes, prototypes.shape[1])],
        tuple(labels),
    )
    caption = (
        f"Embeddings of {len(sample.classes)} pixels (points, coloured by predicted class) and of "
        "the prototypes (stars), on the plane in which the pixels vary most."
    )
    drawing = with_legend(drawing, scene.metadata, sorted(classes))
    return ClassifierView("embedding_space", caption, drawing)


def _sampled(
    embeddings: Tensor,
    classes: Tensor,
    valid: tuple[int, int],
    wanted: Sequence[int],
    generator: torch.Generator,
) -> PixelSample:
    """Of embeddings (B, h, w, C) and classes (B, h, w), a sample of what is not padding."""
    height, width = valid
    embeddings = embeddings[:, :height, :width].flatten(0, 2)
    classes = classes[:, :height, :width].flatten().cpu()
    index = sample_of_each(classes, wanted, MOST_PIXELS_OF_EMBEDDING, generator)
    return PixelSample(embeddings[index.to(embeddings.device)].float().cpu(), classes[index])


def _valid_size(scene: Scene) -> tuple[int, int]:
    """How many rows and columns of the pixel features lie in the image, or in each window of it."""
    size = tuple(scene.inputs[0]["image"].shape[-2:])
    windows = getattr(scene.model, "sliding_window", None)
    if windows is not None:
        size = tuple(min(pair) for pair in zip(size, windows.size))
    stride = scene.model.sem_seg_head.common_stride
    return tuple(max(round(length / stride), 1) for length in size)


def _framed(drawing: np.ndarray, color: Sequence[int]) -> np.ndarray:
    """With a frame of the colour that the prototype has in the other image."""
    width = max(round(drawing.shape[1] / 60), 1)
    framed = drawing.copy()
    framed[:width], framed[-width:], framed[:, :width], framed[:, -width:] = [color] * 4
    return framed


def _view_name(scene: Scene, label: int) -> str:
    """Names of classes may be no file names, and may come twice: their numbers do not."""
    name = scene.metadata.stuff_classes[label].lower()
    safe = "".join(c if c.isascii() and c.isalnum() else "_" for c in name).strip("_")
    return "_".join(["prototypes", str(label), *([safe] if safe else [])])
