"""Interpolation band by band is torch's."""

import pytest
import torch
import torch.nn.functional as F

from d2_ctxseg.losses import interpolation_bands as module
from d2_ctxseg.losses.interpolation_bands import (
    interpolation_bands,
    interpolation_matrix,
    source_cells,
)

both_corners = pytest.mark.parametrize("align_corners", [False, True])


@both_corners
@pytest.mark.parametrize("size", [(13, 9), (5, 7), (3, 2), (1, 1)])
def test_all_bands_together_are_the_interpolated_logits(monkeypatch, size, align_corners):
    monkeypatch.setattr(module, "_BAND_ELEMENTS", {"cpu": 2 * 2 * 3 * size[1]})  # two rows
    monkeypatch.setattr(module, "_MIN_BAND_ROWS", 1)
    logits = torch.randn(2, 3, 5, 7, dtype=torch.float64)
    rows = [
        band.row_weights @ logits[:, :, band.in_rows] @ band.column_weights.T
        for band in interpolation_bands(logits, size, align_corners)
    ]
    assert len(rows) == -(-size[0] // 2)
    expected = F.interpolate(logits, size=size, mode="bilinear", align_corners=align_corners)
    torch.testing.assert_close(torch.cat(rows, dim=2), expected)


@both_corners
@pytest.mark.parametrize(("in_size", "out_size"), [(5, 13), (6, 4), (1, 3), (4, 4)])
def test_two_cells_and_their_weights_are_a_row_of_the_matrix(in_size, out_size, align_corners):
    like = torch.zeros(1, dtype=torch.float64)
    matrix = interpolation_matrix(in_size, out_size, align_corners, like)
    torch.testing.assert_close(matrix.sum(dim=1), torch.ones(out_size, dtype=torch.float64))
    rebuilt = torch.zeros_like(matrix)
    for cells, weights in source_cells(in_size, out_size, align_corners, like):
        rebuilt[torch.arange(out_size), cells] += weights
    torch.testing.assert_close(rebuilt, matrix)
