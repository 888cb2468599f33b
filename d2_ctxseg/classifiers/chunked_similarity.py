"""The fast path of ``prototype_similarity.py``: chunks of pixels, less memory.

The plain formulas write N x K x M numbers several times. Here each chunk of pixels is processed
while it is in the cache, and the backward pass needs no further copy.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.amp import is_autocast_available
from torch.autograd.function import once_differentiable

from ..losses.precision import at_least_float32, without_autocast
from .prototype_similarity import HUBER_DELTA, PrototypeSimilarity, as_similarity

# Similarities per chunk. On a CPU 8 MiB of float32, which fit the last-level cache; on other
# devices 256 MiB, enough for large matrix products, with no assumption about caches.
_CHUNK_ELEMENTS = {"cpu": 2**21}
_CHUNK_ELEMENTS_ELSEWHERE = 2**26
# Fewer pixels than this make the matrix products of many thousands of prototypes slow.
_MIN_CHUNK_PIXELS = 128
# Lower bound of exponents. Smaller ones lead to denormal numbers, with which a CPU computes about a
# hundred times slower. exp(-50) is negligible beside exp(0) = 1.
_LEAST_EXPONENT = -50.0
# Similarities of unit vectors, and minus their distances, differ by at most this.
_RANGE = 2.0


def chunked_class_scores(
    embeddings: Tensor, prototypes: Tensor, distance: str = "cosine"
) -> Tensor:
    """Equals ``class_scores(similarities(embeddings, prototypes, distance))``, at least float32."""
    num_classes, num_prototypes, _ = prototypes.shape
    table = _table(prototypes, embeddings.dtype)
    # An exported graph has no loop: it holds all similarities at once.
    exporting = torch.compiler.is_exporting()
    chunks = [embeddings] if exporting else embeddings.split(_chunk_length(embeddings, table))
    largest = [
        (chunk @ table.T).unflatten(1, (num_prototypes, num_classes)).amax(dim=1)
        for chunk in chunks
    ]
    return as_similarity(at_least_float32(torch.cat(largest)), distance)


def chunked_prototype_similarity(
    embeddings: Tensor,
    prototypes: Tensor,
    labels: Tensor,
    *,
    distance: str = "cosine",
    temperature: float = 1.0,
) -> PrototypeSimilarity:
    """Equals ``prototype_similarity`` with the same arguments; differentiable once.

    No gradient flows into the prototypes.
    """
    embeddings = _as_autocast(embeddings)
    table = _table(prototypes.detach(), embeddings.dtype)
    with without_autocast(embeddings.device):
        return PrototypeSimilarity(
            *_Similarity.apply(
                embeddings, table, labels, prototypes.shape[1], distance, temperature
            )
        )


class _Similarity(torch.autograd.Function):
    """Stores one copy of the N x K x M similarities; autograd would store several."""

    @staticmethod
    def forward(
        ctx: Any,
        embeddings: Tensor,
        table: Tensor,
        labels: Tensor,
        num_prototypes: int,
        distance: str,
        temperature: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The three tensors of PrototypeSimilarity."""
        shape = (num_prototypes, len(table) // num_prototypes)
        similarity = embeddings.new_empty(len(embeddings), len(table))
        exponents = _scratch(embeddings, table)
        results = []
        for rows in _chunks(embeddings, table):
            torch.mm(embeddings[rows], table.T, out=similarity[rows])
            if distance != "cosine":
                similarity[rows] = as_similarity(at_least_float32(similarity[rows]), distance)
            chunk = at_least_float32(similarity[rows])
            by_prototype = chunk.unflatten(1, shape)
            of_own_class = by_prototype.gather(2, _own_class(labels[rows], num_prototypes))
            class_scores = by_prototype.amax(dim=1)
            largest = class_scores.amax(dim=1, keepdim=True)
            partition = _exponentials(chunk, largest, temperature, exponents).sum(dim=1)
            log_partition = partition.log() + largest[:, 0] / temperature
            results.append((class_scores, of_own_class[..., 0], log_partition))
        class_scores, of_own_class, log_partition = (torch.cat(parts) for parts in zip(*results))
        ctx.save_for_backward(similarity, table, labels, class_scores, log_partition)
        ctx.options = (shape, distance, temperature)
        return class_scores, of_own_class, log_partition

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_scores: Tensor, grad_own: Tensor, grad_partition: Tensor
    ) -> tuple[Tensor | None, ...]:
        """The gradient of the embeddings."""
        similarity, table, labels, class_scores, log_partition = ctx.saved_tensors
        shape, distance, temperature = ctx.options
        gradient = similarity.new_empty(len(similarity), table.shape[1])
        grads, masks = _scratch(gradient, table), _scratch(gradient, table)
        for rows in _chunks(gradient, table):
            chunk = at_least_float32(similarity[rows])
            grad = _exponentials(chunk, temperature * log_partition[rows, None], temperature, grads)
            grad.mul_(grad_partition[rows, None] / temperature)
            by_prototype = grad.unflatten(1, shape)
            # As in the gradient of amax, equal maxima share the gradient.
            nearest = masks[: len(chunk)].unflatten(1, shape)
            torch.eq(chunk.unflatten(1, shape), class_scores[rows, None], out=nearest)
            by_prototype.addcmul_(nearest, (grad_scores[rows] / nearest.sum(dim=1))[:, None])
            own_class = _own_class(labels[rows], shape[0])
            by_prototype.scatter_add_(2, own_class, grad_own[rows, :, None])
            grad = _times_slope(grad, chunk, distance)
            torch.mm(grad.to(similarity.dtype), table, out=gradient[rows])
        return gradient, None, None, None, None, None


def _exponentials(chunk: Tensor, shift: Tensor, temperature: float, out: Tensor) -> Tensor:
    """``exp((chunk - shift) / temperature)``, written to the first rows of ``out``."""
    exponents = torch.sub(chunk, shift, out=out[: len(chunk)])
    if temperature != 1:
        exponents.div_(temperature)
    # The shift is at most the logsumexp: log(K * M) above the largest similarity.
    if _RANGE / temperature + math.log(chunk.shape[1]) > -_LEAST_EXPONENT:
        exponents.clamp_(min=_LEAST_EXPONENT)
    return exponents.exp_()


def _scratch(embeddings: Tensor, table: Tensor) -> Tensor:
    """Memory for one chunk of similarities, at least float32, used for all chunks in turn."""
    length = min(_chunk_length(embeddings, table), len(embeddings))
    dtype = torch.promote_types(embeddings.dtype, torch.float32)
    return embeddings.new_empty(length, len(table), dtype=dtype)


def _as_autocast(tensor: Tensor) -> Tensor:
    """The tensor in the precision that autocast gives to a matrix product."""
    device = tensor.device.type
    if is_autocast_available(device) and torch.is_autocast_enabled(device):
        return tensor.to(torch.get_autocast_dtype(device))
    return tensor


def _table(prototypes: Tensor, dtype: torch.dtype) -> Tensor:
    """(K, M, C) to (M * K, C).

    Prototypes come before classes, because PyTorch vectorises a maximum over strided numbers and
    not over rows of ten.
    """
    return prototypes.transpose(0, 1).flatten(0, 1).to(dtype)


def _chunk_length(embeddings: Tensor, table: Tensor) -> int:
    """The number of pixels per chunk."""
    return max(
        _MIN_CHUNK_PIXELS,
        _CHUNK_ELEMENTS.get(embeddings.device.type, _CHUNK_ELEMENTS_ELSEWHERE) // len(table),
    )


def _chunks(embeddings: Tensor, table: Tensor) -> Iterator[slice]:
    """The chunks, as slices of pixels."""
    length = _chunk_length(embeddings, table)
    return (slice(start, start + length) for start in range(0, len(embeddings), length))


def _own_class(labels: Tensor, num_prototypes: int) -> Tensor:
    """The index (n, M, 1) of each pixel's own class in similarities (n, M, K)."""
    return labels[:, None, None].expand(-1, num_prototypes, 1)


def _times_slope(gradient: Tensor, similarity: Tensor, distance: str) -> Tensor:
    """From the gradient of the similarities to that of the cosines."""
    if distance == "cosine":
        return gradient
    if distance == "euclidean":
        return gradient / -similarity
    return gradient / (HUBER_DELTA - similarity)
