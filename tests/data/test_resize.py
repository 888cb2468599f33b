"""How images are resized: as in Detectron2, in mmsegmentation, and in SegFormer's test."""

import cv2
import numpy as np
import pytest
from data_folders import write_image
from hypothesis import given, settings
from hypothesis import strategies as st

from d2_ctxseg import add_ctxseg_config
from d2_ctxseg.data import SemanticSegmentorMapper
from d2_ctxseg.data.resize import ResizeForTest, ResizeShortestEdge, resize_transform
from d2_ctxseg.utils.errors import UserError
from detectron2.config import get_cfg
from detectron2.data import transforms as T

sides = st.integers(1, 60)


def random_image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def resized(resize, image):
    return resize.get_transform(image).apply_image(image)


class TestAntialiasing:
    stripes = np.tile(np.array([0, 0, 0, 255], np.uint8), (16, 8))  # 16x32

    def test_averages_over_all_pixels_and_without_it_over_four(self):
        with_it = resize_transform((16, 32), (4, 8), True).apply_image(self.stripes)
        without = resize_transform((16, 32), (4, 8), False).apply_image(self.stripes)
        # Each new pixel stands for one bright column of four: in the middle between two dark ones.
        assert abs(with_it[:, 1:-1].mean() - 255 / 4) < 2
        assert not without.any()

    @given(sides, sides, sides, sides)
    @settings(deadline=None, max_examples=40)
    def test_without_it_images_are_those_of_opencv(self, height, width, new_height, new_width):
        image = random_image(height, width)
        transform = resize_transform((height, width), (new_height, new_width), False)
        expected = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
        np.testing.assert_array_equal(transform.apply_image(image), expected)

    @pytest.mark.parametrize("shape", [(9, 8), (9, 8, 1), (9, 8, 3), (9, 8, 5)])
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
    def test_without_it_images_of_any_type_and_number_of_channels(self, shape, dtype):
        image = (200 * np.random.default_rng(0).random(shape)).astype(dtype)
        result = resize_transform((9, 8), (5, 6), False).apply_image(image)
        assert result.shape == (5, 6, *shape[2:]) and result.dtype == dtype
        reversed_ = resize_transform((9, 8), (5, 6), False).apply_image(image[:, ::-1])
        np.testing.assert_allclose(reversed_, result[:, ::-1], atol=1.01)

    def test_labels_keep_their_values(self):
        labels = np.array([[0, 7], [255, 3]], np.uint8)
        for antialias in (True, False):
            transform = resize_transform((2, 2), (5, 5), antialias)
            assert set(np.unique(transform.apply_segmentation(labels))) == {0, 3, 7, 255}

    def test_of_the_shortest_edge_is_a_choice(self):
        image = random_image(40, 30)
        theirs = resized(T.ResizeShortestEdge([15, 15], 100), image)
        np.testing.assert_array_equal(resized(ResizeShortestEdge([15, 15], 100), image), theirs)
        without = resized(ResizeShortestEdge([15, 15], 100, antialias=False), image)
        np.testing.assert_array_equal(without, cv2.resize(image, (15, 20)))
        assert isinstance(
            ResizeShortestEdge(0, 100, antialias=False).get_transform(image), T.NoOpTransform
        )


class TestResizeForTest:
    @given(sides, sides, st.integers(1, 80), st.integers(1, 120))
    @settings(deadline=None, max_examples=60)
    def test_is_detectron2s_by_default(self, height, width, short, longest):
        image = random_image(height, width)
        theirs = T.ResizeShortestEdge([short, short], longest).get_transform(image)
        if min(theirs.new_h, theirs.new_w) > 0:
            expected = theirs.apply_image(image)
            np.testing.assert_array_equal(resized(ResizeForTest(short, longest), image), expected)

    @given(st.integers(20, 3000), st.integers(20, 3000), st.sampled_from([0.5, 0.75, 1.0, 1.75]))
    def test_sizes_of_views_are_those_of_mmsegmentation(self, height, width, ratio):
        """The image fits into (2048, 512) times the ratio, halves are rounded up."""
        scale = min(2048 * ratio / max(height, width), 512 * ratio / min(height, width))
        expected = int(height * scale + 0.5), int(width * scale + 0.5)
        found = ResizeForTest(512, 2048).size(height, width, ratio)
        # Another order of operations may round a half the other way.
        assert np.abs(np.subtract(found, expected)).max() <= 1
        if not any(abs(side * scale % 1 - 0.5) < 1e-6 for side in (height, width)):
            assert found == expected

    @given(sides, sides)
    @settings(deadline=None, max_examples=40)
    def test_rounds_up_to_multiples_by_a_second_resize(self, height, width):
        image = random_image(height, width)
        once = resized(ResizeForTest(20, 70, antialias=False), image)
        size = [-(-side // 16) * 16 for side in once.shape[:2]]
        twice = resized(ResizeForTest(20, 70, 16, antialias=False), image)
        np.testing.assert_array_equal(twice, cv2.resize(once, (size[1], size[0])))

    def test_without_a_length_the_image_keeps_its_size(self):
        image = random_image(33, 50)
        np.testing.assert_array_equal(resized(ResizeForTest(0, 100), image), image)
        assert resized(ResizeForTest(0, 100, 32), image).shape == (64, 64, 3)
        assert ResizeForTest(0, 100).size(33, 50, 0.5) == (16, 25)

    def test_a_divisor_below_1_is_refused(self):
        with pytest.raises(UserError, match="INPUT.SIZE_DIVISIBILITY_TEST is 0, expected a whole"):
            ResizeForTest(512, 2048, 0)


class TestConfig:
    def mapper(self, *options, is_train=False):
        cfg = get_cfg()
        add_ctxseg_config(cfg)
        cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MIN_SIZE_TRAIN = 10, (10,)
        cfg.merge_from_list(list(options))
        return SemanticSegmentorMapper(cfg, is_train=is_train)

    def test_of_the_keys(self, tmp_path):
        image = random_image(25, 40)
        record = {"file_name": str(write_image(tmp_path / "image.png", image))}
        plain = self.mapper("INPUT.FORMAT", "RGB")(record)
        assert plain["image"].shape == (3, 10, 16) and "original_image" not in plain
        options = ["INPUT.FORMAT", "RGB", "INPUT.ANTIALIAS", False]
        options += ["INPUT.SIZE_DIVISIBILITY_TEST", 16]
        options += ["TEST.AUG.ENABLED", True, "TEST.AUG.FROM_ORIGINAL", True]
        other = self.mapper(*options)(record)
        expected = cv2.resize(cv2.resize(image, (16, 10)), (16, 16))
        np.testing.assert_array_equal(other["image"].permute(1, 2, 0), expected)
        np.testing.assert_array_equal(other["original_image"].permute(1, 2, 0), image)
        assert (other["height"], other["width"]) == (25, 40)

    @pytest.mark.parametrize("ratios", [(1.0, 1.0), (0.5, 0.5)])
    def test_antialiasing_is_left_out_in_training_too(self, ratios):
        options = ["INPUT.ANTIALIAS", False, "INPUT.RATIO_RANGE", ratios]
        resize = self.mapper(*options, is_train=True).augmentations.augs[0]
        image = random_image(40, 64)
        length = int(10 * ratios[0])
        np.testing.assert_array_equal(
            resized(resize, image), cv2.resize(image, (length * 64 // 40, length))
        )
