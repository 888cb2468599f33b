"""Boundaries of labels, against OpenCV's Canny and a loop over pixels."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d2_ctxseg.losses.boundary import canny_edges, class_boundary, neighbour_edges


def opencv(labels, frame=0, dilation=0):
    """(B, h, w) with OpenCV, image by image."""
    maps = []
    for image in labels.numpy().astype(np.uint8):
        edges = cv2.Canny(image, 0, 0) > 0
        height, width = edges.shape
        inside = np.zeros_like(edges)
        inside[frame : height - frame, frame : width - frame] = True
        edges = (edges & inside).astype(np.uint8)
        if dilation:
            edges = cv2.dilate(edges, np.ones((2 * dilation + 1,) * 2, np.uint8))
        maps.append(edges > 0)
    return torch.from_numpy(np.stack(maps))


def blocks(generator, shape, values, side):
    """Labels of squares, one pixel in twenty another label: straight edges, corners and dots."""
    batch, height, width = shape
    labels = torch.randint(0, values, (batch, height, width), generator=generator)
    coarse = labels[:, ::side, ::side].repeat_interleave(side, 1).repeat_interleave(side, 2)
    dots = torch.rand(shape, generator=generator) < 0.05
    return torch.where(dots, labels, coarse[:, :height, :width])


class TestCanny:
    @given(
        height=st.integers(1, 24),
        width=st.integers(1, 24),
        values=st.sampled_from([2, 3, 19, 150, 256]),
        side=st.integers(1, 8),
        seed=st.integers(0, 10**6),
    )
    @settings(max_examples=150, deadline=None)
    def test_equals_opencv_in_every_pixel(self, height, width, values, side, seed):
        generator = torch.Generator().manual_seed(seed)
        labels = blocks(generator, (2, height, width), values, side)
        assert torch.equal(canny_edges(labels), opencv(labels))

    def test_slanted_edges_of_every_direction(self):
        rows, columns = torch.meshgrid(torch.arange(-20, 20), torch.arange(-20, 20), indexing="ij")
        angles = torch.arange(0, 180, 3) * torch.pi / 180
        side = columns * angles.cos()[:, None, None] + rows * angles.sin()[:, None, None] > 0
        labels = torch.where(side, 7, 255)
        assert torch.equal(canny_edges(labels), opencv(labels))

    def test_only_eight_bits_of_a_label_count(self):
        labels = torch.tensor([[[0, 0, 256, 256]]]).repeat(1, 4, 1)
        assert not canny_edges(labels).any()

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
    def test_labels_of_any_integer_dtype(self, dtype):
        labels = blocks(torch.Generator().manual_seed(1), (1, 16, 16), 120, 4)
        assert torch.equal(canny_edges(labels.to(dtype)), canny_edges(labels))


class TestNeighbours:
    def test_a_pixel_is_an_edge_where_one_of_four_neighbours_differs(self):
        labels = blocks(torch.Generator().manual_seed(2), (2, 9, 7), 3, 2)
        expected = torch.zeros(labels.shape, dtype=torch.bool)
        for b, y, x in np.ndindex(*labels.shape):
            for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
                if 0 <= y + dy < 9 and 0 <= x + dx < 7:
                    expected[b, y, x] |= bool(labels[b, y, x] != labels[b, y + dy, x + dx])
        assert torch.equal(neighbour_edges(labels), expected)
        assert torch.equal(class_boundary(labels, "neighbours", frame=0, dilation=0), expected)


class TestBoundary:
    @pytest.mark.parametrize("dilation", [0, 1, 3])
    @pytest.mark.parametrize("frame", [0, 2, 6])
    @pytest.mark.parametrize("size", [(1, 1), (12, 40), (13, 13), (20, 33)])
    def test_frame_and_dilation_as_with_opencv(self, size, frame, dilation):
        labels = blocks(torch.Generator().manual_seed(3), (2, *size), 60, 5)
        boundary = class_boundary(labels, frame=frame, dilation=dilation)
        assert torch.equal(boundary, opencv(labels, frame, dilation))
        if min(size) <= 2 * frame:
            assert not boundary.any()

    def test_of_one_label_there_is_none(self):
        assert not class_boundary(torch.full((1, 20, 20), 255), frame=0).any()

    def test_images_of_a_batch_do_not_influence_each_other(self):
        labels = blocks(torch.Generator().manual_seed(4), (3, 20, 20), 9, 4)
        alone = torch.cat([class_boundary(image[None]) for image in labels])
        assert torch.equal(class_boundary(labels), alone)

    def test_other_kinds_are_refused(self):
        with pytest.raises(ValueError, match="boundary is 'sobel', expected one of canny, neigh"):
            class_boundary(torch.zeros(1, 4, 4, dtype=torch.int64), "sobel")
