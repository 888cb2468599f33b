"""What detectron2.structures promises, installed or embedded."""

import numpy as np
import pytest
import torch

from detectron2.structures import ImageList


class TestImageList:
    IMAGES = (torch.ones(3, 5, 7), torch.ones(3, 6, 4))

    @pytest.mark.parametrize(
        ("options", "size"),
        [
            ({}, (6, 7)),
            ({"size_divisibility": 4}, (8, 8)),
            ({"size_divisibility": 1}, (6, 7)),
            ({"padding_constraints": {"square_size": 9}}, (9, 9)),
            ({"padding_constraints": {"square_size": 9, "size_divisibility": 8}}, (16, 16)),
            ({"size_divisibility": 32, "padding_constraints": {"size_divisibility": 5}}, (10, 10)),
        ],
    )
    def test_pads_to_a_common_size(self, options, size):
        images = ImageList.from_tensors(list(self.IMAGES), pad_value=-1.0, **options)
        assert images.tensor.shape == (2, 3, *size)
        assert images.image_sizes == [(5, 7), (6, 4)]
        assert len(images) == 2
        for i, image in enumerate(self.IMAGES):
            assert torch.equal(images[i], image)
        num_pixels = sum(image.numel() for image in self.IMAGES)
        assert (images.tensor == 1).sum() == num_pixels
        assert (images.tensor == -1).sum() == images.tensor.numel() - num_pixels

    def test_one_image_and_labels(self):
        assert ImageList.from_tensors([self.IMAGES[0]], 8).tensor.shape == (1, 3, 8, 8)
        labels = ImageList.from_tensors([torch.zeros(5, 7).long()], 8, 255).tensor
        assert labels.dtype == torch.int64
        assert (labels == 255).sum() == 64 - 35

    def test_needs_tensors_that_differ_in_size_only(self):
        for wrong in ([], [np.ones((3, 2, 2))], [torch.ones(3, 2, 2), torch.ones(1, 2, 2)]):
            with pytest.raises(AssertionError):
                ImageList.from_tensors(wrong)
