"""Bilinear interpolation of logits in bands of rows, as products with two narrow matrices.

A loss of interpolated logits that processes one band at a time never stores (B, K, H, W) numbers.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Logits per band. On a CPU 8 MiB of float32, which fit the last-level cache; on other devices
# 128 MiB, enough to keep a GPU busy, with no assumption about caches.
_BAND_ELEMENTS = {"cpu": 2**21}
_BAND_ELEMENTS_ELSEWHERE = 2**25
# With thousands of classes a band of that size would be a row or two, each of which interpolates
# the rows of logits around it again: 10,000 classes took 3.5 times as long.
_MIN_BAND_ROWS = 8


class Band(NamedTuple):
    """Some rows of interpolated logits, and the matrices that compute them."""

    out_rows: slice
    in_rows: slice
    """The rows that ``out_rows`` depend on."""
    row_weights: Tensor
    """(rows of the output, rows of the input)."""
    column_weights: Tensor
    """(W, w)."""


def interpolation_bands(logits: Tensor, size: Sequence[int], align_corners: bool) -> Iterator[Band]:
    """All rows of the output of size (H, W), in order; the logits are (B, K, h, w).

    A band is ``row_weights @ logits[:, :, in_rows] @ column_weights.T``.
    """
    batch, classes, height, width = logits.shape
    row_weights = interpolation_matrix(height, size[0], align_corners, logits)
    column_weights = interpolation_matrix(width, size[1], align_corners, logits)
    elements = _BAND_ELEMENTS.get(logits.device.type, _BAND_ELEMENTS_ELSEWHERE)
    num_rows = max(_MIN_BAND_ROWS, elements // max(1, batch * classes * size[1]))
    for start in range(0, size[0], num_rows):
        stop = min(start + num_rows, size[0])
        in_rows = _rows_between(start, stop - 1, height, size[0], align_corners)
        yield Band(slice(start, stop), in_rows, row_weights[start:stop, in_rows], column_weights)


def interpolate_band(logits: Tensor, band: Band, align_corners: bool) -> Tensor:
    """The band of logits (B, h, w, K), classes last: (B, rows of the output, W, K)."""
    rows = logits[:, band.in_rows]
    if _has_fast_kernel(logits):
        size = (rows.shape[1], band.column_weights.shape[0])
        columns = F.interpolate(
            rows.permute(0, 3, 1, 2), size, mode="bilinear", align_corners=align_corners
        ).permute(0, 2, 3, 1)
    else:
        columns = band.column_weights @ rows
    return (band.row_weights @ columns.flatten(2)).unflatten(2, columns.shape[2:])


def add_band_gradient(total: Tensor, gradient: Tensor, band: Band, align_corners: bool) -> None:
    """Adds to ``total`` (B, h, w, K) what the ``gradient`` (B, R, W, K) of a band makes there."""
    columns = (band.row_weights.T @ gradient.flatten(2)).unflatten(2, gradient.shape[2:])
    rows = total[:, band.in_rows]
    if _has_fast_kernel(total):
        shape = rows.permute(0, 3, 1, 2).shape
        columns = columns.permute(0, 3, 1, 2)
        rows += torch.ops.aten.upsample_bilinear2d_backward(
            columns, columns.shape[2:], shape, align_corners
        ).permute(0, 2, 3, 1)
    else:
        rows += band.column_weights.T @ columns


def _has_fast_kernel(logits: Tensor) -> bool:
    """Whether PyTorch interpolates faster than a product with a matrix, and deterministically.

    On a GPU the gradient of its interpolation depends on the order of threads.
    """
    return logits.device.type == "cpu"


def interpolation_matrix(in_size: int, out_size: int, align_corners: bool, like: Tensor) -> Tensor:
    """Linear interpolation as a matrix (out_size, in_size), of the dtype and device of ``like``.

    The positions are those of ``torch.nn.functional.interpolate`` with mode "bilinear".
    """
    position = _source_positions(in_size, out_size, align_corners, like.device)
    cells = torch.arange(in_size, dtype=torch.float64, device=like.device)
    return (1 - (position[:, None] - cells).abs()).clamp(min=0).to(like.dtype)


def source_cells(
    in_size: int, out_size: int, align_corners: bool, like: Tensor
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The two input cells that each output cell is interpolated from, and their weights.

    Returns:
        Two pairs of indices (out_size,) int64 and weights (out_size,), of the dtype of ``like``.
    """
    position = _source_positions(in_size, out_size, align_corners, like.device)
    first = position.floor()
    weight = (position - first).to(like.dtype)
    first = first.long()
    return (first, 1 - weight), ((first + 1).clamp(max=in_size - 1), weight)


def _source_positions(
    in_size: int, out_size: int, align_corners: bool, device: torch.device
) -> Tensor:
    """The position of each output cell on the axis of the input, (out_size,) float64."""
    cells = torch.arange(out_size, dtype=torch.float64, device=device)
    if align_corners:
        return cells * ((in_size - 1) / max(out_size - 1, 1))
    return ((cells + 0.5) * (in_size / out_size) - 0.5).clamp(0, in_size - 1)


def _rows_between(first: int, last: int, in_size: int, out_size: int, align_corners: bool) -> slice:
    """The input rows that the output rows from ``first`` to ``last`` depend on.

    Python numbers, so that nothing is synchronised with the device.
    """
    if align_corners:
        scale = (in_size - 1) / max(out_size - 1, 1)
        return slice(math.floor(first * scale), min(math.ceil(last * scale), in_size - 1) + 1)
    positions = [(row + 0.5) * (in_size / out_size) - 0.5 for row in (first, last)]
    start, stop = (min(max(position, 0), in_size - 1) for position in positions)
    return slice(math.floor(start), math.ceil(stop) + 1)
