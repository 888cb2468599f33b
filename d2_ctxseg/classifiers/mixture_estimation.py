"""Online expectation maximisation of Gaussian mixtures, one mixture a class, all at once.

Liang et al., "GMMSeg: Gaussian Mixture based Generative Semantic Segmentation Models", NeurIPS 2022
(arXiv 2210.02025), and https://github.com/leonnnop/GMMSeg where the paper leaves room. Pixels are
in the order image, row, column; the C = K * M components in the order class, component of the
class. Nothing here has a gradient.
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
    """Pixels that take part in fitting the mixtures."""

    embeddings: Tensor
    """(N, D)."""
    components: Tensor
    """(N, R) int64: the components that a pixel belongs to, K * M for none."""
    weights: Tensor
    """(N, R): how much it does."""
    present: Tensor
    """(calls, K) bool: the classes that the labels of each call of ``losses`` show."""


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

    "sinkhorn" and "sinkhorn_soft" solve an optimal transport for each class, in which its pixels
    share its components equally, on ``A / max|A|`` of the log densities A of its pixels.
    "posterior" is ``softmax_m A``: uniform weights of the components.

    Args:
        log_density: (N, M), of each pixel under the M components of its class.
        classes: (N,) int64, 0 to ``num_classes`` - 1.
        num_classes: those without a pixel are no problem.
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
    """Which of n things in a row are kept: all, or ``most`` of them, evenly spaced.

    The i-th kept of n > most is number ``floor(i r)`` in the first half and
    ``floor(n - 1 - (most - 1 - i) r)`` in the second, ``r = (n - 1) / (most - 1)``, which is
    ``torch.linspace(0, n - 1, most, dtype=torch.int64)``.

    Args:
        counts: (C,) int64, n of each of C rows.
        most: at least 1.

    Returns:
        (C, most) int64; of n < most only the first n mean anything.
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

    Over several workers it is what one process gives for the pixels of the first, then of the
    second and so on; they exchange counts and the chosen pixels.

    Args:
        embeddings: (N, D).
        components: (N, R) int64: the components that a pixel belongs to, 0 to C - 1, or C for none.
        weights: (N, R), how much it does.
        num_components: C.
        most: at least 1.
        reduction: joins the workers; this process alone if None.

    Returns:
        Embeddings (C, most, D) and weights (C, most), 0 where there are fewer pixels, and how many
        there are, (C,) int64, at most ``most``.
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
    """Write the first ``counts`` values of each of C rows into its ring, over the oldest ones.

    Args:
        rings: (C, D, S), changed.
        pointers: (C,) int64: where in each ring to go on; the caller moves them.
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

    v is the spread around f, which has unit length, not around the mean: their squared distance is
    added to the variance.

    Args:
        samples: (C, D, S).
        weights: (C, S), at least 0; None for all alike.

    Returns:
        f and v, (C, D) each; of a component whose weights are all 0 they mean nothing.
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
        variance: of each channel.
        covariance: "diagonal"; "spherical", the mean over the channels for all of them; or "fixed",
            1.
    """
    if covariance == "fixed":
        return torch.ones_like(variance)
    if covariance == "spherical":
        variance = variance.mean(dim=1, keepdim=True).expand_as(variance)
    return (variance + VARIANCE_FLOOR).sqrt()


class ComponentMemory(nn.Module):
    """The embeddings that each component got last, in a ring of S slots. Only training needs it.

    It starts with random unit vectors, the same ones in every process. S can be 0; then it holds
    nothing but the number of steps.

    Args:
        num_components: C.
        channels: D.
        size: S.
        initial_weight: of the random vectors, where samples have weights; None where they have
            none.

    Attributes:
        count: training steps so far, as the buffer ``steps`` has it in checkpoints; a number that
            the host reads without waiting for the device.
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
        """Add samples (C, n, D) with weights (C, n), of which the first ``counts`` (C,) are there.

        n is at most S.
        """
        write_to_rings(self.samples, self.pointers, samples, counts)
        if self.weights is not None:
            rings, values = self.weights[:, None], weights[..., None]
            write_to_rings(rings, self.pointers, values, counts)
        self.pointers.copy_((self.pointers + counts) % self.size)

    def count_step(self) -> None:
        """One more training step."""
        self.steps += 1
        self.count += 1

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        if not self.steps.is_meta:
            self.count = int(self.steps)

    def extra_repr(self) -> str:
        """The sizes, for ``print(model)``, which the log of a training begins with."""
        components, channels, size = self.samples.shape
        size_in_mib = self.samples.nbytes / 2**20
        return f"{components} components x {channels} channels x {size}, {size_in_mib:.1f} MiB"
