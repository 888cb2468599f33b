"""New classes for a trained PrototypeClassifier, from a handful of labelled images, untrained.

A class of the classifier is M means of pixel embeddings, so a class that it never saw can be added
by taking such means: nothing is trained, and the prototypes of the old classes stay as they are.
From images to the extended classifier:

1. ``SupportPixels`` collects embeddings (``PrototypeClassifier.embed``) of the labelled pixels.
2. ``add_classes`` makes the extended classifier of them:
   ``cluster_prototypes`` clusters the pixels of each new class into M prototypes, with the
   assignment of the training (Zhou et al., CVPR 2022, arXiv 2203.15102, section 3.2),
   ``extend_classifier`` puts them beside the old ones, and ``calibrate_offsets`` sets how easily a
   new class wins.
"""

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..classifiers.clustering import sinkhorn_log_plan
from ..classifiers.prototype import PrototypeClassifier
from ..classifiers.prototype_similarity import as_similarity
from ..losses.precision import at_least_float32

# The recalls of a new class, on the support images, that the calibration chooses among.
_NUM_RECALLS = 201


class PixelSample(NamedTuple):
    """Labelled pixels of the support images, sub-sampled per class."""

    embeddings: Tensor
    """(N, C) of unit length, at least float32."""
    labels: Tensor
    """(N,) int64, 0 to K-1."""
    weights: Tensor
    """(N,) float64: how many pixels a pixel stands for."""
    shares: Tensor | None = None
    """(N, K) of sum 1: the shares of the classes in the pixels below a feature, where given."""


class SupportPixels:
    """Collects pixels image by image; of a class with more than the cap, a uniform sample.

    Args:
        num_classes: number of classes K of the labels, old and new.
        max_pixels: pixels of a class that are kept at most.
        seed: of the sampling; the same seed and images give the same sample.

    Attributes:
        counts: (K,) int64, pixels seen of each class.
        num_images: images seen.
    """

    def __init__(self, num_classes: int, max_pixels: int = 10_000, seed: int = 0):
        self.num_classes = num_classes
        self.max_pixels = max_pixels
        self.counts = torch.zeros(num_classes, dtype=torch.int64)
        self.num_images = 0
        self._generator = torch.Generator().manual_seed(seed)
        # Embeddings, labels and random keys of the kept pixels.
        self._kept: tuple[Tensor, ...] | None = None

    @torch.no_grad()
    def add(self, embeddings: Tensor, labels: Tensor, shares: Tensor | None = None) -> None:
        """Take in the pixels of one image.

        Args:
            embeddings: (N, C) of unit length, on any device; kept on the CPU.
            labels: (N,) integer; pixels whose label is none of 0 to K-1 are left out.
            shares: (N, K), kept with them; given for all images or for none.
        """
        labels = labels.cpu().long()
        labelled = (labels >= 0) & (labels < self.num_classes)
        labels = labels[labelled]
        self.counts += labels.bincount(minlength=self.num_classes)
        # The pixels of a class with the smallest keys are a uniform sample, however they arrive.
        keys = torch.rand(len(labels), generator=self._generator, dtype=torch.float64)
        embeddings = at_least_float32(embeddings.cpu()[labelled])
        new = (embeddings, labels, keys)
        if shares is not None:
            new = (*new, shares.cpu()[labelled])
        joined = tuple(map(torch.cat, zip(self._kept, new))) if self._kept else new
        keep = _rank_within(joined[1], joined[2], self.num_classes) < self.max_pixels
        self._kept = tuple(part[keep] for part in joined)
        self.num_images += 1

    def sample(self) -> PixelSample:
        """What was kept.

        Raises:
            ValueError: no image was added.
        """
        if self._kept is None:
            raise ValueError("There are no support pixels: add at least one image.")
        embeddings, labels, _, *shares = self._kept
        kept = labels.bincount(minlength=self.num_classes).clamp(min=1)
        weights = (self.counts.double() / kept)[labels]
        return PixelSample(embeddings, labels, weights, *shares)


@torch.no_grad()
def add_classes(
    classifier: PrototypeClassifier,
    sample: PixelSample,
    num_new: int,
    *,
    order: Sequence[int] | None = None,
    seed: int = 0,
) -> PrototypeClassifier:
    """A copy of the classifier with more classes, made from labelled pixels.

    What the embedding does not tell apart, prototypes cannot: the new classes are mixed with the
    old ones as far as the features, trained without them, mix them.

    The weights of the new classes' scores are the mean of the old ones; their biases are
    calibrated on the support images themselves. Measured on ContextShapes with one of five paints
    as the new class and 5 images (mean of 5 draws), the mean IoU of all classes was
      51.6 with the mean of the old biases: the new class takes what resembles it,
      67.7 with the calibration; at most 1 less than calibrated on the validation images,
      65.6 calibrated on pixels held out in turn from the prototypes, which varied more,
      67.6 with the weight chosen as well.

    Args:
        classifier: of K classes, in evaluation mode; it is left as it is.
        sample: the labels 0 to K-1 are the old classes, the next ``num_new`` the new ones.
        num_new: number of new classes J.
        order: see ``extend_classifier``.
        seed: of the clustering.

    Raises:
        ValueError: a new class has no pixel.
    """
    device = classifier.prototypes.device
    embeddings, labels, weights = (part.to(device) for part in sample[:3])
    is_new = labels >= classifier.num_classes
    prototypes = cluster_prototypes(
        embeddings[is_new],
        labels[is_new] - classifier.num_classes,
        num_new,
        classifier.num_prototypes,
        distance=classifier.distance,
        epsilon=classifier.sinkhorn_epsilon,
        iterations=classifier.sinkhorn_iterations,
        seed=seed,
    )
    logits = extend_classifier(classifier, prototypes).classify(embeddings)
    offsets = calibrate_offsets(logits, labels, weights, num_new)
    return extend_classifier(classifier, prototypes, offsets=offsets, order=order)


@torch.no_grad()
def cluster_prototypes(
    embeddings: Tensor,
    labels: Tensor,
    num_classes: int,
    num_prototypes: int,
    *,
    distance: str = "cosine",
    epsilon: float = 0.05,
    iterations: int = 3,
    max_rounds: int = 20,
    seed: int = 0,
) -> Tensor:
    """Prototypes of classes from their pixels alone: k-means++, then rounds of the assignment.

    A round assigns the pixels of each class to its prototypes with equal shares
    (``sinkhorn_log_plan``, as in training) and makes each prototype the mean of its pixels, of unit
    length; until no pixel changes, or ``max_rounds``. All classes are clustered at once.

    Args:
        embeddings: (N, C) of unit length.
        labels: (N,) int64, 0 to ``num_classes`` - 1; each class has at least one pixel.
        num_classes: number of classes J to cluster.
        num_prototypes: prototypes M of each class; some are equal in a class with fewer pixels.
        distance: what the assignment goes by, see ``as_similarity``.
        epsilon: strength of the regularisation of the assignment.
        iterations: rounds of both normalisations in it.
        max_rounds: rounds of assignment and means at most.
        seed: of the first choice of prototypes.

    Returns:
        (J, M, C) of unit length, at least float32.

    Raises:
        ValueError: a class has no pixel; the message gives its index.
    """
    empty = (labels.bincount(minlength=num_classes) == 0).nonzero().flatten().tolist()
    if empty:
        raise ValueError(
            f"Classes {empty} have no pixel: a prototype is a mean of pixels, so each class needs "
            "at least one."
        )
    embeddings = at_least_float32(embeddings)
    prototypes = _spread_choice(embeddings, labels, num_classes, num_prototypes, seed)
    assigned = None
    for _ in range(max_rounds):
        similarity = as_similarity(_cosine_to_own(embeddings, prototypes, labels), distance)
        log_plan = sinkhorn_log_plan(
            similarity, labels, num_classes, epsilon=epsilon, iterations=iterations
        )
        before, assigned = assigned, labels * num_prototypes + log_plan.argmax(dim=1)
        if before is not None and torch.equal(before, assigned):
            break
        sums = torch.zeros_like(prototypes)
        sums.view(-1, sums.shape[2]).index_add_(0, assigned, embeddings)
        # A prototype without a pixel stays where it is; so does one whose pixels cancel out.
        has_mean = sums.norm(dim=2, keepdim=True) > 1e-6
        prototypes = torch.where(has_mean, F.normalize(sums, dim=2), prototypes)
    return prototypes


@torch.no_grad()
def extend_classifier(
    classifier: PrototypeClassifier,
    prototypes: Tensor,
    *,
    offsets: Tensor | None = None,
    order: Sequence[int] | None = None,
) -> PrototypeClassifier:
    """A copy of the classifier with J more classes; the old prototypes are the same to the bit.

    The scores of all classes go through one LayerNorm. A new class gets the mean of the old
    classes' weights and biases, plus its offset (``calibrate_offsets``). A further score changes
    the mean and the variance that all scores are normalised with. Where the weights of the classes
    are alike, that changes the order of the old classes little; where they are equal, not at all.

    Args:
        classifier: of K classes; it is left as it is.
        prototypes: (J, M, C) of unit length.
        offsets: (J,), added to the bias of each new class; 0 if None.
        order: K + J indices into old classes followed by new ones: the class that each class of
            the result is. None leaves the old ones first.

    Raises:
        ValueError: the prototypes' shape is not that of the classifier's, or ``order`` is no
            permutation.
    """
    if prototypes.dim() != 3 or prototypes.shape[1:] != classifier.prototypes.shape[1:]:
        raise ValueError(
            f"The new prototypes have shape {tuple(prototypes.shape)}, expected (new classes, "
            f"{', '.join(map(str, classifier.prototypes.shape[1:]))}) as the classifier's."
        )
    num_new = len(prototypes)
    total = classifier.num_classes + num_new
    order = list(range(total)) if order is None else list(order)
    if sorted(order) != list(range(total)):
        raise ValueError(f"The order {order} is no permutation of 0 to {total - 1}.")
    norm = classifier.score_norm
    bias = norm.bias.mean().repeat(num_new)
    if offsets is not None:
        bias = bias + offsets.to(bias)
    extended = copy.deepcopy(classifier)
    extended.num_classes = total
    prototypes = prototypes.to(classifier.prototypes)
    extended.replace_prototypes(torch.cat([classifier.prototypes, prototypes])[order])
    weight = norm.weight.mean().repeat(num_new)
    extended.score_norm = nn.LayerNorm(total, norm.eps).to(norm.weight)
    extended.score_norm.weight.copy_(torch.cat([norm.weight, weight])[order])
    extended.score_norm.bias.copy_(torch.cat([norm.bias, bias])[order])
    extended.score_norm.requires_grad_(norm.weight.requires_grad)
    return extended


@torch.no_grad()
def calibrate_offsets(
    logits: Tensor, labels: Tensor, weights: Tensor, num_new: int, rounds: int = 3
) -> Tensor:
    """The offset of each new class with which the mean IoU of all classes is greatest.

    One class after the other, by a search over the recalls that the class can have on these pixels
    (the offset that gives each is known), repeated for ``rounds``. Of equal ones the smallest.

    Args:
        logits: (N, K + J), old classes first.
        labels: (N,) int64.
        weights: (N,) how many pixels each stands for.
        num_new: J.
        rounds: how often each class has its turn.

    Returns:
        (J,) to be added to the logits, that is to the biases. 0 where the labels hold no old class:
        nothing then says where a new class ends.
    """
    total = logits.shape[1]
    offsets = logits.new_zeros(total)
    if not (labels < total - num_new).any():
        return offsets[total - num_new :]
    for _ in range(rounds):
        before = offsets.clone()
        for new_class in range(total - num_new, total):
            offsets[new_class] += _best_change(logits + offsets, labels, weights, new_class)
        if torch.equal(before, offsets):
            break
    return offsets[total - num_new :]


def _best_change(logits: Tensor, labels: Tensor, weights: Tensor, new_class: int) -> Tensor:
    """What to add to one class's logits for the greatest mean IoU of the classes in ``labels``."""
    is_new = labels == new_class
    if not is_new.any():
        return logits.new_zeros(())
    others = logits.index_fill(1, torch.tensor([new_class], device=logits.device), -torch.inf)
    best, rival = others.max(dim=1)
    # A pixel goes to the new class where the change is above its margin.
    margin = best - logits[:, new_class]
    margins, own = margin.sort().values, margin[is_new].sort().values
    recalls = torch.linspace(0, 1, _NUM_RECALLS, dtype=torch.float64, device=own.device)
    own = own[(recalls * (len(own) - 1)).long()]
    # Half-way to the next pixel, so that rounding decides nothing.
    above = torch.cat([margins, margins[-1:] + 1])[torch.searchsorted(margins, own, right=True)]
    changes = torch.cat([own.new_zeros(1), (own + above) / 2]).unique()

    # Of what each class has without the new one, (changes, classes): what the new one takes.
    step = torch.searchsorted(changes, margin, right=True)
    taken = _taken(step, rival, weights, len(changes), logits.shape[1])
    hits_taken = _taken(step, rival, weights * (rival == labels), len(changes), logits.shape[1])
    labelled, area, hits = (
        weights.new_zeros(logits.shape[1]).index_add(0, index, weight)
        for index, weight in (
            (labels, weights),
            (rival, weights),
            (rival, weights * (rival == labels)),
        )
    )
    area, hits = area - taken, hits - hits_taken
    area[:, new_class] = taken.sum(dim=1)
    hits[:, new_class] = _taken(step, labels, weights, len(changes), logits.shape[1])[:, new_class]
    iou = hits / (area + labelled - hits).clamp(min=1e-12)
    mean_iou = iou[:, labelled > 0].mean(dim=1)
    among_best = changes[mean_iou >= mean_iou.max() - 1e-9]
    return among_best[among_best.abs().argmin()]


def _taken(step: Tensor, group: Tensor, weights: Tensor, num_steps: int, num_groups: int) -> Tensor:
    """(num_steps, num_groups): the weight in each group of the pixels taken up to each step."""
    at_step = weights.new_zeros(num_steps + 1, num_groups)
    return at_step.index_put((step, group), weights, accumulate=True).cumsum(dim=0)[:-1]


def _rank_within(labels: Tensor, keys: Tensor, num_classes: int) -> Tensor:
    """(N,) int64: how many pixels of the same class have a smaller key."""
    order = keys.argsort()
    order = order[labels[order].argsort(stable=True)]
    counts = labels.bincount(minlength=num_classes)
    first = counts.cumsum(0) - counts
    rank = torch.empty_like(labels)
    rank[order] = torch.arange(len(labels)) - first[labels[order]]
    return rank


def _cosine_to_own(embeddings: Tensor, prototypes: Tensor, labels: Tensor) -> Tensor:
    """(N, M): cosines to the prototypes (J, M, C) of the pixel's class; never (N, M, C) is held."""
    of_prototype = prototypes.unbind(dim=1)
    return torch.stack([(embeddings * p[labels]).sum(dim=1) for p in of_prototype], dim=1)


def _spread_choice(
    embeddings: Tensor, labels: Tensor, num_classes: int, num_prototypes: int, seed: int
) -> Tensor:
    """k-means++ in each class: pixels drawn in proportion to 1 - the cosine to those chosen."""
    generator = torch.Generator().manual_seed(seed)
    chosen: list[Tensor] = []
    nearest = embeddings.new_full((len(labels),), -1.0)
    for _ in range(num_prototypes):
        # The largest of probability / exponential noise is a draw by these probabilities.
        noise = torch.empty(len(labels), dtype=torch.float64).exponential_(generator=generator)
        chance = (1 - nearest).clamp(min=0) / noise.to(nearest)
        chosen.append(embeddings[_segment_argmax(chance, labels, num_classes)])
        nearest = torch.maximum(nearest, (embeddings * chosen[-1][labels]).sum(dim=1))
    return torch.stack(chosen, dim=1)


def _segment_argmax(values: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """(N,) to (num_classes,): the index of the largest value of each class, the first of equals."""
    lowest = values.new_full((num_classes,), -torch.inf)
    largest = lowest.scatter_reduce(0, labels, values, "amax")
    index = torch.arange(len(labels), device=labels.device)
    index = index.where(values == largest[labels], len(labels))
    first = index.new_full((num_classes,), len(labels))
    return first.scatter_reduce(0, labels, index, "amin")
