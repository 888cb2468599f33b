"""Fill a FeatureBankClassifier from labelled images, or add classes to it, without training.

The method is Balazevic et al., "Towards In-Context Scene Understanding", NeurIPS 2023 (arXiv
2306.01667), section 3.1. The bank holds features of a frozen encoder, each with the fractions of
the classes in the pixels that it covers. The paper samples the features of each image by the
frequency of their classes. This implementation keeps the same number of features of each class,
sampled from all images (``SupportPixels``).
"""

import copy
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
import tqdm
from torch import Tensor, nn

from ..classifiers import FeatureBankClassifier
from ..data import SemanticSegmentorMapper, build_augmentations
from ..utils.errors import counted
from .prototype_extension import SupportPixels


def class_shares(labels: Tensor, size: Sequence[int], num_classes: int) -> tuple[Tensor, Tensor]:
    """The fractions of the classes in the cells of a grid over a label map.

    Args:
        labels: (H, W) integer; pixels with values outside 0 to K-1 are not labelled.
        size: rows h and columns w of the grid, at most H and W.
        num_classes: number of classes K.

    Returns:
        The fractions among the labelled pixels of each cell, (h * w, K) float32, all 0 in a cell
        without labelled pixels; and the most frequent class of each cell, (h * w,) int64, -1
        without labelled pixels.
    """
    height, width = size
    rows = torch.arange(labels.shape[0], device=labels.device) * height // labels.shape[0]
    columns = torch.arange(labels.shape[1], device=labels.device) * width // labels.shape[1]
    labels = labels.long()
    labels = labels.where((labels >= 0) & (labels < num_classes), num_classes)
    cells = (rows[:, None] * width + columns) * (num_classes + 1) + labels
    counts = cells.flatten().bincount(minlength=height * width * (num_classes + 1))
    known = counts.view(-1, num_classes + 1)[:, :num_classes]
    total = known.sum(dim=1)
    return known / total.clamp(min=1)[:, None], known.argmax(dim=1).where(total > 0, -1)


@torch.no_grad()
def collect_features(
    model: nn.Module,
    cfg,
    records: Iterable[dict],
    num_classes: int,
    *,
    position: Tensor | None = None,
    size: int | None = None,
    seed: int = 0,
) -> SupportPixels:
    """Collect features and class fractions of labelled images, resized as for testing.

    Args:
        model: a segmentor with a FeatureBankClassifier, in evaluation mode.
        cfg: the config; the records belong to its DATASETS.TRAIN.
        records: dataset records of the images.
        num_classes: number of classes K of the labels.
        position: (K,) int64: the class index under which each class of the labels is collected.
            None: its own index.
        size: the largest number of features, divided evenly among the classes. None: the size of
            the classifier's bank.
        seed: seed of the sampling.
    """
    as_tested = build_augmentations(cfg, is_train=False)
    mapper = SemanticSegmentorMapper(cfg, is_train=True, augmentations=as_tested)
    size = len(model.classifier.features) if size is None else size
    support = SupportPixels(num_classes, max_pixels=max(size // num_classes, 1), seed=seed)
    position = torch.arange(num_classes) if position is None else position
    for record in tqdm.tqdm(records, desc="Collecting features", unit="image"):
        inputs = [mapper(record)]
        images = model.normalized_images(inputs)
        labels = model.padded_labels(inputs, images.tensor.shape[-2:])[0].cpu()
        labelled = labels != model.ignore_label
        labels = position[labels.where(labelled, 0)].where(labelled, -1)
        features, _ = model.head.pixel_features(model.backbone(images.tensor))
        shares, largest = class_shares(labels, features.shape[-2:], num_classes)
        support.add(model.classifier.embed(features), largest, shares)
    return support


def fill_bank(classifier: FeatureBankClassifier, support: SupportPixels) -> None:
    """Replace the classifier's bank with the collected features.

    Raises:
        ValueError: no features were collected.
    """
    sample = support.sample()
    if len(sample.labels) == 0:
        raise ValueError(
            f"{counted(support.num_images, 'image')} without a labelled pixel: there are no "
            "features to fill the bank with."
        )
    weights = sample.weights / support.num_images
    device = classifier.features.device
    classifier.fill(*(part.to(device) for part in (sample.embeddings, sample.shares, weights)))


def extend_bank(
    classifier: FeatureBankClassifier,
    support: SupportPixels,
    *,
    order: Sequence[int] | None = None,
) -> FeatureBankClassifier:
    """A copy of the classifier with the features of further images and their classes.

    Args:
        classifier: a classifier of K classes; it is not changed.
        support: features of K + J classes, the old classes first. Features of old classes are
            added as well, because they show where the new classes end.
        order: for each class of the result, its index among the old classes followed by the new
            ones; K + J indices. None: the old classes come first.

    Raises:
        ValueError: ``order`` is not a permutation, or ``support`` has fewer classes than the
            classifier.
    """
    total = support.num_classes
    order = list(range(total)) if order is None else list(order)
    if sorted(order) != list(range(total)):
        raise ValueError(f"The order {order} is not a permutation of 0 to {total - 1}.")
    num_new = total - classifier.num_classes
    if num_new < 0:
        raise ValueError(
            f"The support has {counted(total, 'class', 'classes')}, fewer than the classifier's "
            f"{classifier.num_classes}."
        )
    added = copy.deepcopy(classifier)
    fill_bank(added, support)
    parts = (
        torch.cat([classifier.features, added.features]),
        torch.cat([F.pad(classifier.shares, (0, num_new)), added.shares])[:, order],
        torch.cat([classifier.weights, added.weights]),
    )
    added.fill(*parts)
    return added
