"""What the views of multi-scale testing are resized from, and how."""

import cv2
import numpy as np
import pytest
import torch

from d2_ctxseg.data.resize import ResizeForTest
from d2_ctxseg.modeling import LabelMapPredictor, TestTimeAugmentation
from d2_ctxseg.utils.errors import UserError

ORIGINAL = torch.randint(0, 256, (3, 60, 90), dtype=torch.uint8)


def resized(image, height, width):
    """As OpenCV does it, (C, H, W)."""
    pixels = cv2.resize(image.permute(1, 2, 0).numpy(), (width, height))
    return torch.from_numpy(pixels).permute(2, 0, 1)


class Recorder(torch.nn.Module):
    """Keeps the images that it is given; every pixel is of class 0."""

    def __init__(self):
        super().__init__()
        self.images = []

    def forward(self, batched_inputs):
        self.images += [inputs["image"] for inputs in batched_inputs]
        sizes = [(inputs["height"], inputs["width"]) for inputs in batched_inputs]
        return [{"sem_seg": torch.zeros(2, *size)} for size in sizes]


def views(augmentation, image, **inputs):
    model = Recorder()
    predictor = LabelMapPredictor(model, augmentation)
    (output,) = predictor([{"image": image, "height": 60, "width": 90, **inputs}])
    assert output["label_map_TTA"].shape == (60, 90)
    return model.images


def assert_equal(found, expected):
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))


class TestFromTheOriginal:
    resize = ResizeForTest(20, 100, antialias=False)
    augmentation = TestTimeAugmentation(
        (0.5, 1.0, 2.0), flip=False, from_original=True, resize=resize
    )

    def test_each_view_is_resized_once(self):
        plain = resized(ORIGINAL, 20, 30)
        small, same, large = views(self.augmentation, plain, original_image=ORIGINAL)
        assert_equal(small, resized(ORIGINAL, 10, 15))
        assert same is plain
        assert_equal(large, resized(ORIGINAL, 40, 60))

    def test_the_limits_of_both_edges_grow_with_the_ratio(self):
        wide = ResizeForTest(20, 24)
        augmentation = TestTimeAugmentation((0.5, 2.0), from_original=True, resize=wide)
        assert augmentation.sizes(60, 90) == [(8, 12), (32, 48)]

    def test_lengths_of_the_shortest_edge_are_of_the_original(self):
        augmentation = TestTimeAugmentation(
            min_sizes=(10, 30), flip=False, from_original=True, resize=self.resize
        )
        small, large, plain = views(
            augmentation, resized(ORIGINAL, 20, 30), original_image=ORIGINAL
        )
        assert_equal(small, resized(ORIGINAL, 10, 15))
        assert_equal(large, resized(ORIGINAL, 30, 45))
        assert plain.shape == (3, 20, 30)

    def test_the_original_is_requested(self):
        with pytest.raises(UserError, match="FROM_ORIGINAL needs the image as it was read"):
            views(self.augmentation, resized(ORIGINAL, 20, 30))


class TestFromTheResizedImage:
    def test_is_what_detectron2_does(self):
        image = resized(ORIGINAL, 20, 30)
        augmentation = TestTimeAugmentation((0.5, 1.0), flip=False)
        small, same = views(augmentation, image, original_image=ORIGINAL)
        expected = views(augmentation, image)[0]
        assert small.shape == (3, 10, 15) and same is image
        assert_equal(small, expected)

    def test_with_or_without_antialiasing(self):
        image = resized(ORIGINAL, 40, 60)
        without = ResizeForTest(40, 100, antialias=False)
        (found, _) = views(TestTimeAugmentation((0.25,), flip=False, resize=without), image)
        assert_equal(found, resized(image, 10, 15))
        (smooth, _) = views(TestTimeAugmentation((0.25,), flip=False), image)
        # Noise that is averaged over more pixels has less contrast.
        assert smooth.float().std() < 0.6 * found.float().std()


@pytest.mark.parametrize("from_original", [False, True])
def test_sides_are_rounded_up_to_multiples(from_original):
    resize = ResizeForTest(20, 100, 16)
    plain = resized(ORIGINAL, 32, 32)
    augmentation = TestTimeAugmentation((0.5, 1.0, 2.0), from_original=from_original, resize=resize)
    found = views(augmentation, plain, original_image=ORIGINAL)
    heights = [image.shape[1:] for image in found[::2]]
    assert heights == (
        [(16, 16), (32, 32), (48, 64)] if from_original else [(16, 16), (32, 32), (64, 64)]
    )


def test_from_the_config(tiny_config):
    tiny_config.merge_from_list(
        ["TEST.AUG.FROM_ORIGINAL", True, "TEST.AUG.RATIOS", (0.5, 1.5), "INPUT.ANTIALIAS", False]
        + ["INPUT.MIN_SIZE_TEST", 512, "INPUT.MAX_SIZE_TEST", 2048]
        + ["INPUT.SIZE_DIVISIBILITY_TEST", 32]
    )
    augmentation = TestTimeAugmentation.from_config(tiny_config)
    assert augmentation.sizes(600, 900) == [(256, 384), (768, 1152)]
    assert augmentation.resize.divisor == 32 and not augmentation.resize.antialias
