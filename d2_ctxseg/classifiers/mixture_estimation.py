"""Online expectation maximisation of Gaussian mixtures, one mixture per class.

Liang et al., "GMMSeg: Gaussian Mixture based Generative Semantic Segmentation Models", NeurIPS 2022
(arXiv 2210.02025); where the paper is not specific, the authors' code,
https://github.com/leonnnop/GMMSeg. Pixels are ordered by image, row, column, the C = K * M
components by class, component of the class. No function here has a gradient.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .clustering import WorkerReduction, sinkhorn_log_plan

E_STEPS = ("sinkhorn", "sinkhorn_soft", "posterior")
COVARIANCES = ("diagonal", "spherical", "fixed")

# Added to variances.
VARIANCE_FLOOR = 1e-2


class MemberPixels(NamedTuple):
    """The pixels that the mixtures are fitted to."""

    embeddings: Tensor
    """(N, D)."""
    components: Tensor
    """(N, R) int64: the components that a pixel belongs to; K * M stands for none."""
    weights: Tensor
    """(N, R): the weights of the pixel in these components."""
    present: Tensor
    """(calls, K) bool: the classes present in the labels of each call of ``losses``."""


@torch.no_grad()
def log_responsibilities(
    log_density: Tensor,
    classes: Tensor,
    num_classes: int,
    *,
    e_step: str = "sinkhorn",
    epsilon: float = 0.05,
    iterations: int = 3,
) -> Tensor:
    """E-step: which component of its class each of N pixels belongs to.

    "sinkhorn" and "sinkhorn_soft" solve an optimal transport problem for each class, in which all
    components get the same mass. Its scores are ``A / max|A|`` of the log densities A.
    "posterior" is ``softmax_m A``: the posterior under uniform weights of the components.

    Args:
        log_density: (N, M), of each pixel under the M components of its class.
        classes: (N,) int64, 0 to ``num_classes`` - 1.
        num_classes: number of classes; a class may have no pixel.
        e_step: one of E_STEPS.
        epsilon: strength of the transport's entropy regularisation.
        iterations: rounds of Sinkhorn-Knopp.

    Returns:
        (N, M), at least float32: the exponentials of a row sum to 1.
    """
    if e_step == "posterior":
        return log_density.log_softmax(dim=1)
    largest = log_density.new_zeros(num_classes)
    largest = largest.scatter_reduce(0, classes, log_density.abs().amax(dim=1), "amax")
    scaled = log_density / largest[classes, None].clamp(min=torch.finfo(largest.dtype).tiny)
    return sinkhorn_log_plan(scaled, classes, num_classes, epsilon=epsilon, iterations=iterations)


def evenly_spaced_ranks(counts: Tensor, most: int) -> Tensor:
    """The ranks of the samples to keep of n: all, or ``most`` evenly spaced ones.

    For n > most the i-th rank is ``floor(i r)`` in the first half and
    ``floor(n - 1 - (most - 1 - i) r)`` in the second, ``r = (n - 1) / (most - 1)``, which is
    ``torch.linspace(0, n - 1, most, dtype=torch.int64)``.

    Args:
        counts: (C,) int64, n of each component.
        most: at least 1.

    Returns:
        (C, most) int64; for n < most only the first n are valid.
    """
    place = torch.arange(most, device=counts.device)
    last = (counts[:, None] - 1).double()
    step = last / max(most - 1, 1)
    first_half = place < max(most // 2, 1)
    spread = torch.where(first_half, place * step, last - (most - 1 - place) * step).floor().long()
    return torch.where(counts[:, None] > most, spread, place)


@torch.no_grad()
def sample_components(
    embeddings: Tensor,
    components: Tensor,
    weights: Tensor,
    num_components: int,
    most: int,
    reduction: WorkerReduction | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Up to ``most`` of the pixels of each component, evenly spaced in their order.

    Several workers get what one process would get for the concatenation of their pixels in the
    order of the ranks. They exchange counts and the chosen pixels.

    Args:
        embeddings: (N, D).
        components: (N, R) int64: the components that a pixel belongs to, 0 to C - 1, or C for none.
        weights: (N, R), the weights of the pixel in these components.
        num_components: C.
        most: at least 1.
        reduction: over the workers; None for this process alone.

    Returns:
        Embeddings (C, most, D) and weights (C, most), padded with 0, and the number of pixels of
        each component, (C,) int64, at most ``most``.
    """
    reduction = reduction or WorkerReduction()
    entries, copies = components.flatten(), components.shape[1]
    order = entries.sort(stable=True).indices
    counts = entries.new_zeros(num_components + 1).index_add(0, entries, torch.ones_like(entries))
    counts = counts[:-1]
    starts = counts.cumsum(0) - counts
    of_workers = reduction.gather(counts)
    before, total = of_workers[: reduction.rank].sum(dim=0), of_workers.sum(dim=0)

    kept = torch.arange(most, device=counts.device) < total[:, None]
    rank = evenly_spaced_ranks(total, most) - before[:, None]
    here = kept & (rank >= 0) & (rank < counts[:, None])
    chosen = order[(starts[:, None] + rank).clamp(0, len(entries) - 1)]
    samples = embeddings[chosen // copies].where(here[..., None], 0)
    chosen_weights = weights.flatten()[chosen].where(here, 0)
    joined = reduction.sum(torch.cat([samples, chosen_weights[..., None]], dim=2))
    return joined[..., :-1], joined[..., -1], total.clamp(max=most)


@torch.no_grad()
def write_to_rings(rings: Tensor, pointers: Tensor, values: Tensor, counts: Tensor) -> None:
    """Write the first ``counts`` values of each of C rows into its ring buffer.

    Args:
        rings: (C, D, S), changed in place; the oldest values are overwritten.
        pointers: (C,) int64: the next slot of each ring; the caller advances them.
        values: (C, n, D), n at most S.
        counts: (C,) int64, 0 to n.
    """
    place = torch.arange(values.shape[1], device=rings.device)
    slots = ((pointers[:, None] + place) % rings.shape[2])[:, None].expand(-1, rings.shape[1], -1)
    written = (place < counts[:, None])[:, None]
    values = values.transpose(1, 2).to(rings.dtype)
    rings.scatter_(2, slots, torch.where(written, values, rings.gather(2, slots)))


@torch.no_grad()
def fit_components(samples: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """M-step: direction ``f = l2norm(sum q)`` and variance ``v = mean (q - f) ** 2`` of samples q.

    v is the spread around f, which has unit length, not around the mean: the squared distance of
    the two is added to the variance.

    Args:
        samples: (C, D, S).
        weights: (C, S), at least 0; None for equal weights.

    Returns:
        f and v, (C, D) each; undefined for a component whose weights are all 0.
    """
    if weights is None:
        variance, mean = torch.var_mean(samples, dim=2, correction=0)
    else:
        total = weights.sum(dim=1, keepdim=True)
        share = weights / total.clamp(min=torch.finfo(weights.dtype).tiny)
        mean = (samples * share[:, None]).sum(dim=2)
        variance = ((samples - mean[..., None]).square() * share[:, None]).sum(dim=2)
    direction = F.normalize(mean, dim=1)
    return direction, variance + (mean - direction).square()


def scales_of(variance: Tensor, covariance: str) -> Tensor:
    """Variances (C, D) to standard deviations (C, D): ``sqrt(v + VARIANCE_FLOOR)``.

    Args:
        variance: variance of each channel.
        covariance: "diagonal"; "spherical", the mean over the channels; or "fixed", 1.
    """
    if covariance == "fixed":
        return torch.ones_like(variance)
    if covariance == "spherical":
        variance = variance.mean(dim=1, keepdim=True).expand_as(variance)
    return (variance + VARIANCE_FLOOR).sqrt()


class ComponentMemory(nn.Module):
    """The latest embeddings of each component, in a ring buffer of S slots. For training only.

    The initial content is random unit vectors, the same in every process. With S = 0 the memory
    holds the number of steps alone.

    Args:
        num_components: C.
        channels: D.
        size: S.
        initial_weight: weight of the random vectors; None where samples have no weights.

    Attributes:
        count: number of training steps so far. The buffer ``steps`` stores it in checkpoints; this
            is its copy on the host, which needs no synchronisation with the device.
    """

    samples: Tensor
    weights: Tensor | None
    pointers: Tensor
    steps: Tensor

    def __init__(
        self, num_components: int, channels: int, size: int, initial_weight: float | None = None
    ):
        super().__init__()
        samples = torch.empty(num_components, channels, size)
        if not samples.is_meta:
            generator = torch.Generator(samples.device).manual_seed(0)
            samples = F.normalize(samples.normal_(generator=generator), dim=1)
        self.register_buffer("samples", samples)
        weights = None
        if initial_weight is not None:
            weights = torch.full((num_components, size), initial_weight)
        self.register_buffer("weights", weights)
        self.register_buffer("pointers", torch.zeros(num_components, dtype=torch.int64))
        self.register_buffer("steps", torch.zeros(1, dtype=torch.int64))
        self.count = 0

    @property
    def size(self) -> int:
        """S."""
        return self.samples.shape[2]

    def write(self, samples: Tensor, weights: Tensor, counts: Tensor) -> None:
        """Add the first ``counts`` (C,) of the samples (C, n, D) with weights (C, n); n <= S."""
        write_to_rings(self.samples, self.pointers, samples, counts)
        if self.weights is not None:
            rings, values = self.weights[:, None], weights[..., None]
            write_to_rings(rings, self.pointers, values, counts)
        self.pointers.copy_((self.pointers + counts) % self.size)

    def count_step(self) -> None:
        """Count one training step."""
        self.steps += 1
        self.count += 1

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        if not self.steps.is_meta:
            self.count = int(self.steps)

    def extra_repr(self) -> str:
        """The sizes, for ``print(model)``; the training log begins with that."""
        components, channels, size = self.samples.shape
        size_in_mib = self.samples.nbytes / 2**20
        return f"{components} components x {channels} channels x {size}, {size_in_mib:.1f} MiB"
