"""Resize and crop in one step gives what Detectron2's two steps give."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2_ctxseg.data.augmentation import ResizeRatioRange
from d2_ctxseg.data.crop import ResizeAndCrop, ResizeAndCropTransform, needed_pixels
from d2_ctxseg.data.resize import ResizeShortestEdge, resize_transform
from detectron2.data import transforms as T

IGNORE = 255
sides = st.integers(1, 70)
sizes = st.tuples(sides, sides)
seeds = st.integers(0, 2**32 - 1)
# Of 255: what ResizeAndCropTransform promises.
ROUNDING = {"interpolated": 1, "antialiased": 2}


def random_image(size, dtype=np.uint8, channels=3, seed=0):
    values = 255 * np.random.default_rng(seed).random((*size, channels))
    return values.astype(dtype)


def random_label(size, num_classes=4, patch=5, seed=0, dtype=np.uint8):
    """Patches of classes, some of them ignored."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, num_classes + 1, [-(-side // patch) for side in size])
    coarse[coarse == num_classes] = IGNORE
    return coarse.repeat(patch, 0).repeat(patch, 1)[: size[0], : size[1]].astype(dtype)


def draw_window(generator, size):
    """(top, left, height, width) of a crop within an image."""
    top, left = (int(generator.integers(side)) for side in size)
    height, width = (
        int(generator.integers(1, side - at + 1))
        for side, at in zip(size, (top, left), strict=True)
    )
    return top, left, height, width


def difference(found, expected):
    assert found.shape == expected.shape and found.dtype == expected.dtype
    return np.abs(found.astype(float) - expected.astype(float)).max()


class TestTransform:
    """Against the crop of the image that is resized as a whole."""

    @given(sizes, sizes, seeds, st.booleans(), st.sampled_from([1, 3]))
    @settings(deadline=None, max_examples=200)
    def test_bytes_up_to_the_stated_rounding(self, old, new, seed, antialias, channels):
        top, left, height, width = draw_window(np.random.default_rng(seed), new)
        image = random_image(old, channels=channels, seed=seed)
        resize = resize_transform(old, new, antialias)
        found = ResizeAndCropTransform(resize, top, left, height, width).apply_image(image)
        expected = resize.apply_image(image)[top : top + height, left : left + width]
        limit = ROUNDING["antialiased" if antialias else "interpolated"]
        assert difference(found, expected) <= limit

    @pytest.mark.parametrize("factor", [0.5, 0.8, 1.25, 1.9])
    def test_rounding_of_large_images(self, factor):
        old, image = (300, 410), random_image((300, 410))
        new = round(300 * factor), round(410 * factor)
        for antialias, share in ((False, 0.01), (True, 0.5)):
            resize = resize_transform(old, new, antialias)
            found = ResizeAndCropTransform(resize, 31, 57, 100, 120).apply_image(image)
            expected = resize.apply_image(image)[31:131, 57:177]
            assert difference(found, expected) <= (1 if factor > 1 or not antialias else 2)
            assert (found != expected).mean() < share

    @given(sizes, sizes, seeds, st.booleans(), st.sampled_from([1, 2, 6]))
    @settings(deadline=None, max_examples=60)
    def test_floats_of_any_number_of_channels(self, old, new, seed, antialias, channels):
        top, left, height, width = draw_window(np.random.default_rng(seed), new)
        image = random_image(old, np.float32, channels, seed)
        resize = resize_transform(old, new, antialias)
        found = ResizeAndCropTransform(resize, top, left, height, width).apply_image(image)
        expected = resize.apply_image(image)[top : top + height, left : left + width]
        assert difference(found, expected) < 0.02

    @pytest.mark.parametrize("channels", [2, 4])
    def test_bytes_that_pillow_takes_for_transparency_are_resized_as_a_whole(self, channels):
        image, resize = (
            random_image((30, 40), channels=channels),
            resize_transform((30, 40), (9, 9)),
        )
        found = ResizeAndCropTransform(resize, 2, 3, 4, 5).apply_image(image)
        np.testing.assert_array_equal(found, resize.apply_image(image)[2:6, 3:8])

    @given(sizes, sizes, seeds, st.sampled_from([np.uint8, np.float32]))
    @settings(deadline=None, max_examples=200)
    def test_labels_are_equal(self, old, new, seed, dtype):
        top, left, height, width = draw_window(np.random.default_rng(seed), new)
        label = random_image(old, dtype, 1, seed)[..., 0].round()
        resize = resize_transform(old, new)
        transform = ResizeAndCropTransform(resize, top, left, height, width)
        expected = resize.apply_segmentation(label)[top : top + height, left : left + width]
        np.testing.assert_array_equal(transform.apply_segmentation(label), expected)

    def test_points_move_with_the_image(self):
        transform = ResizeAndCropTransform(resize_transform((10, 20), (20, 60)), 5, 6, 4, 4)
        points = transform.apply_coords(np.array([[0.0, 0.0], [4.0, 3.0]]))
        assert points.tolist() == [[-6.0, -5.0], [6.0, 1.0]]

    @given(sides, sides, seeds)
    def test_parts_of_the_source_begin_where_a_pixel_of_the_result_does(self, old, new, seed):
        first, _, number, _ = draw_window(np.random.default_rng(seed), (new, 1))
        part, begin = needed_pixels(old, new, first, number)
        assert part.start * new == begin * old
        assert begin <= first and first + number <= begin + round(
            (part.stop - part.start) * new / old
        )

    def test_what_the_crop_drops_is_not_resized(self):
        part, _ = needed_pixels(2048, 4096, 1500, 512)
        assert 256 <= part.stop - part.start < 270


class TestAugmentation:
    resizes = st.sampled_from(
        [
            ResizeRatioRange(40, 160, (0.5, 2.0)),
            ResizeRatioRange(30, 60, (0.5, 2.0), aspect_range=(0.8, 1.2), antialias=False),
            ResizeShortestEdge((20, 50), 100, "range", antialias=False),
            ResizeShortestEdge(0, 100),
        ]
    )
    crops = st.sampled_from(
        [("absolute", (24, 31)), ("relative", (0.4, 0.9)), ("relative_range", (0.3, 0.3))]
    )

    @given(st.tuples(st.integers(5, 70), st.integers(5, 70)), resizes, crops, seeds)
    @settings(deadline=None, max_examples=150)
    def test_same_random_numbers_same_crops_as_detectron2s_two_steps(
        self, size, resize, crop, seed
    ):
        max_area = (0.4, 0.75, 1.0)[seed % 3]
        one = [ResizeAndCrop(resize, *crop, max_area, IGNORE)]
        two = [resize, T.RandomCrop_CategoryAreaConstraint(*crop, max_area, IGNORE)]
        dtype = (np.uint8, np.float32)[seed % 2]
        results = []
        for augmentations in (one, two):
            np.random.seed(seed)  # noqa: NPY002 (what Detectron2 seeds)
            inputs = T.AugInput(
                random_image(size, seed=seed), sem_seg=random_label(size, seed=seed, dtype=dtype)
            )
            T.AugmentationList(augmentations)(inputs)
            results.append((inputs, np.random.random()))  # noqa: NPY002
        (found, next_number), (expected, next_expected) = results
        np.testing.assert_array_equal(found.sem_seg, expected.sem_seg)
        assert difference(found.image, expected.image) <= ROUNDING["antialiased"]
        assert next_number == next_expected

    @given(
        st.lists(st.integers(0, 400), min_size=2, max_size=6),
        st.sampled_from([0.3, 0.5, 0.75, 0.9]),
        st.sampled_from([0, IGNORE, -1, None]),
        seeds,
    )
    @settings(deadline=None, max_examples=200)
    def test_the_share_of_a_category_is_judged_as_detectron2_does(
        self, counts, max_area, ignored, seed
    ):
        label = np.repeat([*range(len(counts) - 1), IGNORE], counts).astype(np.uint8)
        np.random.default_rng(seed).shuffle(label)
        label = label[: len(label) // 10 * 10].reshape(-1, 10)
        values, areas = np.unique(label, return_counts=True)
        areas = areas[values != ignored]
        expected = len(areas) > 1 and areas.max() < areas.sum() * max_area
        crop = ResizeAndCrop(None, "absolute", (8, 8), max_area, ignored)
        for dtype in (np.uint8, np.float32):
            assert crop._is_mixed(label.astype(dtype)) == expected
