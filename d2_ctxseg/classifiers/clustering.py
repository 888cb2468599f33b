"""Within-class online clustering: optimal transport assigns pixels to prototypes.

Zhou et al., "Rethinking Semantic Segmentation: A Prototype View", CVPR 2022 (arXiv 2203.15102),
section 3.2. Each class is a separate transport problem. All of them are solved at once as segments
of one tensor, so that the cost depends on the number of pixels and not on the number of classes.
"""

import torch
import torch.distributed as dist
from torch import Tensor


class WorkerReduction:
    """Reductions of tensors over the workers; this class is for a single worker."""

    @property
    def rank(self) -> int:
        """The rank of this worker."""
        return 0

    def maximum(self, values: Tensor) -> Tensor:
        """Elementwise maximum over all workers."""
        return values

    def sum(self, values: Tensor) -> Tensor:
        """Elementwise sum over all workers."""
        return values

    def mean(self, values: Tensor) -> Tensor:
        """Elementwise mean over all workers."""
        return values

    def gather(self, values: Tensor) -> Tensor:
        """Stack tensors (...) of one shape to (workers, ...), in the order of the ranks."""
        return values[None]


class _DistributedReduction(WorkerReduction):
    """All workers of torch.distributed's default group."""

    def maximum(self, values: Tensor) -> Tensor:
        dist.all_reduce(values, dist.ReduceOp.MAX)
        return values

    def sum(self, values: Tensor) -> Tensor:
        dist.all_reduce(values)
        return values

    def mean(self, values: Tensor) -> Tensor:
        return self.sum(values) / dist.get_world_size()

    @property
    def rank(self) -> int:
        return dist.get_rank()

    def gather(self, values: Tensor) -> Tensor:
        gathered = [torch.empty_like(values) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, values)
        return torch.stack(gathered)


def reduction_over_workers(enabled: bool = True) -> WorkerReduction:
    """A reduction over torch.distributed's workers, or over this process alone.

    Args:
        enabled: False always gives the latter.
    """
    several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    return _DistributedReduction() if enabled and several else WorkerReduction()


def sinkhorn_log_plan(
    similarity: Tensor,
    segments: Tensor,
    num_segments: int,
    *,
    epsilon: float = 0.05,
    iterations: int = 3,
    reduction: WorkerReduction | None = None,
) -> Tensor:
    """Log of the transport plan from each segment's pixels to its prototypes (Sinkhorn-Knopp).

    The prototypes of a segment are normalised to equal mass, then the pixels, in turn. The
    computation is in logarithms, so that no exponential overflows for a small ``epsilon`` or a
    large segment.

    Args:
        similarity: (N, M), of each pixel and the M prototypes of its own class.
        segments: (N,) int64, the class of each pixel, 0 to ``num_segments`` - 1.
        num_segments: number of classes; a class may have no pixel.
        epsilon: strength of the entropy regularisation (kappa in the paper).
        iterations: rounds of both normalisations.
        reduction: over the workers that share the segments; None for this process alone.

    Returns:
        (N, M), at least float32: the exponentials of a row sum to 1.
    """
    reduction = reduction or WorkerReduction()
    log_plan = (similarity.float() if similarity.dtype != torch.float64 else similarity) / epsilon
    for _ in range(iterations):
        log_mass = _segment_logsumexp(log_plan, segments, num_segments, reduction)
        log_plan = (log_plan - log_mass[segments]).log_softmax(dim=1)
    return log_plan


def _segment_logsumexp(
    values: Tensor, segments: Tensor, num_segments: int, reduction: WorkerReduction
) -> Tensor:
    """(N, M) to (num_segments, M)."""
    lowest = values.new_full((num_segments, values.shape[1]), torch.finfo(values.dtype).min)
    index = segments[:, None].expand_as(values)
    largest = reduction.maximum(lowest.scatter_reduce(0, index, values, "amax"))
    exponentials = (values - largest[segments]).exp()
    sums = torch.zeros_like(lowest).index_add(0, segments, exponentials)
    # The logarithm of 0 of a segment without pixels is never read.
    return reduction.sum(sums).log() + largest
