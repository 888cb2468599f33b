"""Fills a FeatureBankClassifier from labelled images, and adds classes to one. Nothing is trained.

Balazevic et al., "Towards In-Context Scene Understanding", NeurIPS 2023 (arXiv 2306.01667), section
3.1: the features of a frozen encoder, each with the shares of the classes in the pixels that it
covers. The paper samples the features of each image by the frequency of their classes; here as
many of each class are kept as the bank's size allows, out of all images (``SupportPixels``).
"""

import copy
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
import tqdm
from torch import Tensor, nn

from ..classifiers import FeatureBankClassifier
from ..data import SemanticSegmentorMapper, build_augmentations
from .prototype_extension import SupportPixels


def class_shares(labels: Tensor, size: Sequence[int], num_classes: int) -> tuple[Tensor, Tensor]:
    """The shares of the classes in the cells of a grid over a label.

    Args:
        labels: (H, W) integer; what is none of 0 to K-1 is not labelled.
        size: rows h and columns w of the grid, at most H and W.
        num_classes: number of classes K.

    Returns:
        (h * w, K) float32, of sum 1 over the labelled pixels of a cell, 0 where there is none; and
        (h * w,) int64, the class with the largest share, -1 where no pixel is labelled.
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
    """Features and class shares of labelled images, at the size that testing uses.

    Args:
        model: with a FeatureBankClassifier, in evaluation mode.
        cfg: a config whose DATASETS.TRAIN the records are of.
        records: of the images.
        num_classes: number of classes K of the labels.
        position: (K,) int64: for each class of the labels the class it is collected as.
        size: features that are kept at most, as many of each class; None: those of the classifier.
        seed: of the sampling.
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
    """Put what was collected in place of the classifier's bank.

    Raises:
        ValueError: nothing was collected.
    """
    sample = support.sample()
    if len(sample.labels) == 0:
        raise ValueError(
            f"The {support.num_images} images have no labelled pixel, so there is nothing to fill "
            "the bank with."
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
    """A copy of the classifier that has the features of further images, and their classes.

    Args:
        classifier: of K classes; it is left as it is.
        support: of K + J classes, the old ones first. All that was collected is taken: pixels of
            old classes say where the new ones end.
        order: K + J indices into old classes followed by new ones: the class that each class of
            the result is. None leaves the old ones first.

    Raises:
        ValueError: ``order`` is no permutation, or there are fewer classes than before.
    """
    total = support.num_classes
    order = list(range(total)) if order is None else list(order)
    if sorted(order) != list(range(total)):
        raise ValueError(f"The order {order} is no permutation of 0 to {total - 1}.")
    num_new = total - classifier.num_classes
    if num_new < 0:
        raise ValueError(f"There are {total} classes, fewer than the {classifier.num_classes}.")
    added = copy.deepcopy(classifier)
    fill_bank(added, support)
    parts = (
        torch.cat([classifier.features, added.features]),
        torch.cat([F.pad(classifier.shares, (0, num_new)), added.shares])[:, order],
        torch.cat([classifier.weights, added.weights]),
    )
    added.fill(*parts)
    return added
