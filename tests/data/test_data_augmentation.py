"""The augmentations this project adds to Detectron2's."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2_ctxseg.data import BrightnessShift, PadToSize, PhotometricDistortion, ResizeRatioRange
from d2_ctxseg.data.augmentation import PhotometricTransform, RandomFlip
from detectron2.data import transforms as T

sizes = st.integers(1, 40)


@pytest.fixture(autouse=True)
def _seed_numpy():
    np.random.seed(0)  # noqa: NPY002 (what Detectron2 seeds)


def random_image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def one_step_after_the_other(
    image, image_format, brightness, contrast, saturation, hue, contrast_last
):
    """The change of colours as SSD describes it, rounded to whole numbers after each step."""

    def limited(values):
        return np.clip(np.rint(values), 0, 255).astype(np.uint8)

    if brightness is not None:
        image = limited(image + brightness)
    if contrast is not None and not contrast_last:
        image = limited(image * contrast)
    if saturation is not None or hue is not None:
        hsv = cv2.cvtColor(image, getattr(cv2, f"COLOR_{image_format}2HSV"))
        hsv[..., 1] = limited(hsv[..., 1] * (1.0 if saturation is None else saturation))
        hsv[..., 0] = (hsv[..., 0].astype(int) + (hue or 0)) % 180
        image = cv2.cvtColor(hsv, getattr(cv2, f"COLOR_HSV2{image_format}"))
    if contrast is not None and contrast_last:
        image = limited(image * contrast)
    return image


class TestResizeRatioRange:
    @pytest.mark.parametrize(
        ("size", "ratio", "expected"),
        [
            ((100, 200), 1.0, (50, 100)),  # the short edge decides
            ((100, 200), 2.0, (100, 200)),
            ((100, 800), 1.0, (25, 200)),  # the long edge decides
            ((800, 100), 0.5, (100, 13)),
        ],
    )
    def test_fits_the_image_into_both_edges_times_the_ratio(self, size, ratio, expected):
        resize = ResizeRatioRange(50, 200, (ratio, ratio))
        image = random_image(*size)
        assert resize.get_transform(image).apply_image(image).shape[:2] == expected

    def test_ratios_cover_the_range_evenly(self):
        resize = ResizeRatioRange(100, 10_000, (0.5, 2.0))
        image = np.zeros((10, 10, 3), np.uint8)
        widths = [resize.get_transform(image).new_w for _ in range(400)]
        assert 50 <= min(widths) < 55
        assert 195 < max(widths) <= 200
        assert np.mean(widths) == pytest.approx(125, abs=8)

    def test_the_short_edge_is_a_choice_or_from_a_range(self):
        image = np.zeros((10, 10, 3), np.uint8)
        choice = ResizeRatioRange((10, 20), 100, (1, 1), "choice")
        between = ResizeRatioRange((10, 20), 100, (1, 1), "range")
        assert {choice.get_transform(image).new_w for _ in range(60)} == {10, 20}
        assert {between.get_transform(image).new_w for _ in range(400)} == set(range(10, 21))

    @settings(deadline=None)
    @given(height=sizes, width=sizes)
    def test_image_and_label_keep_one_size_and_the_label_its_values(self, height, width):
        inputs = T.AugInput(
            random_image(height, width), sem_seg=np.full((height, width), 7, np.uint8)
        )
        ResizeRatioRange(8, 30, (0.5, 2.0))(inputs)
        assert inputs.image.shape[:2] == inputs.sem_seg.shape
        assert set(np.unique(inputs.sem_seg)) == {7}

    def test_the_aspect_changes_within_its_range_and_the_area_stays(self):
        resize = ResizeRatioRange(400, 1600, (0.5, 2.0), aspect_range=(0.9, 1.1))
        image = np.zeros((100, 200, 3), np.uint8)
        drawn = [resize.get_transform(image) for _ in range(300)]
        aspects = np.array([t.new_w / t.new_h for t in drawn]) / 2
        assert 0.895 < aspects.min() < 0.91 and 1.09 < aspects.max() < 1.105
        assert aspects.mean() == pytest.approx(1.0, abs=0.01)
        ratios = np.sqrt([t.new_w * t.new_h / 320_000 for t in drawn])
        assert 0.49 < ratios.min() < 0.53 and 1.97 < ratios.max() < 2.01

    def test_without_an_aspect_the_draws_are_those_of_the_ratio_alone(self):
        image = np.zeros((100, 200, 3), np.uint8)
        drawn = []
        for arguments in ((), ("choice", (1.0, 1.0))):
            np.random.seed(3)  # noqa: NPY002 (what Detectron2 seeds)
            resize = ResizeRatioRange(400, 1600, (0.5, 2.0), *arguments)
            drawn.append([resize.get_transform(image).new_w for _ in range(5)])
        assert drawn[0] == drawn[1]

    @pytest.mark.parametrize(
        "arguments",
        [
            (10, 20, (0.0, 1.0)),
            (10, 20, (2.0, 1.0)),
            (0, 20, (1, 1)),
            (1, 2, (1, 1), "any"),
            (1, 2, (1, 1), "choice", (1.1, 0.9)),
        ],
    )
    def test_refuses_meaningless_values(self, arguments):
        with pytest.raises(ValueError, match="must be"):
            ResizeRatioRange(*arguments)


class TestPadToSize:
    @settings(deadline=None)
    @given(height=sizes, width=sizes, to_height=sizes, to_width=sizes)
    def test_keeps_the_content_and_fills_right_and_bottom(self, height, width, to_height, to_width):
        image = random_image(height, width)
        label = image[..., 0] % 5
        inputs = T.AugInput(image, sem_seg=label)
        PadToSize((to_height, to_width), (10.4, 20.6, 30.0), 255)(inputs)
        padded_size = (max(height, to_height), max(width, to_width))
        assert inputs.image.shape[:2] == inputs.sem_seg.shape == padded_size
        assert inputs.image.dtype == inputs.sem_seg.dtype == np.uint8
        np.testing.assert_array_equal(inputs.image[:height, :width], image)
        np.testing.assert_array_equal(inputs.sem_seg[:height, :width], label)
        padding = np.ones(padded_size, dtype=bool)
        padding[:height, :width] = False
        assert (inputs.image[padding] == (10, 21, 30)).all()
        assert (inputs.sem_seg[padding] == 255).all()

    def test_images_of_floats_get_the_exact_mean(self):
        inputs = T.AugInput(np.zeros((2, 2, 3), np.float32))
        PadToSize((2, 3), (0.25, 0.5, 0.75), 255)(inputs)
        assert inputs.image[0, 2].tolist() == [0.25, 0.5, 0.75]


class TestRandomFlip:
    @pytest.mark.parametrize("horizontal", [True, False])
    @pytest.mark.parametrize("channels", [(), (1,), (3,), (5,)])
    @pytest.mark.parametrize("dtype", [np.uint8, np.float32])
    def test_is_detectron2s_in_one_piece_of_memory(self, horizontal, channels, dtype):
        image = random_image(5, 7)[..., 0].reshape(5, 7, *[1] * len(channels))
        image = (image + np.zeros(channels)).astype(dtype)
        options = {"horizontal": horizontal, "vertical": not horizontal}
        ours = RandomFlip(1.0, **options).get_transform(image)
        theirs = T.RandomFlip(1.0, **options).get_transform(image)
        flipped = ours.apply_image(image)
        assert flipped.flags.c_contiguous and flipped.dtype == dtype
        np.testing.assert_array_equal(flipped, theirs.apply_image(image))
        np.testing.assert_array_equal(ours.inverse().apply_image(flipped), image)
        points = np.array([[1.0, 2.0], [4.0, 0.0]])
        expected = theirs.apply_coords(points.copy())
        np.testing.assert_array_equal(ours.apply_coords(points.copy()), expected)

    def test_draws_as_detectron2s(self):
        image, drawn = random_image(3, 4), []
        for flip in (RandomFlip(), T.RandomFlip()):
            np.random.seed(5)  # noqa: NPY002 (what Detectron2 seeds)
            transforms = [flip.get_transform(image) for _ in range(20)]
            drawn.append([isinstance(t, T.NoOpTransform) for t in transforms])
        assert drawn[0] == drawn[1] and 0 < sum(drawn[0]) < 20


class TestBrightnessShift:
    def test_adds_one_whole_number_to_all_values_within_0_to_255(self):
        image = random_image(6, 7)
        shifts = set()
        for _ in range(300):
            shifted = BrightnessShift(3).get_transform(image).apply_image(image)
            shift = int(shifted[(image > 3) & (image < 252)][0]) - int(
                image[(image > 3) & (image < 252)][0]
            )
            expected = np.clip(image.astype(int) + shift, 0, 255)
            np.testing.assert_array_equal(shifted, expected)
            shifts.add(shift)
        assert shifts == {-3, -2, -1, 0, 1, 2, 3}

    def test_leaves_labels_as_they_are(self):
        inputs = T.AugInput(random_image(4, 4), sem_seg=np.arange(16, dtype=np.uint8).reshape(4, 4))
        BrightnessShift(10)(inputs)
        assert inputs.sem_seg.ravel().tolist() == list(range(16))

    def test_refuses_a_negative_one(self):
        with pytest.raises(ValueError, match="max_shift must be 0 or more, but is -1"):
            BrightnessShift(-1)


class TestPhotometricDistortion:
    def nothing(self, **changes):
        steps = dict.fromkeys(("brightness", "contrast", "saturation", "hue"))
        return PhotometricTransform("BGR", **{**steps, "contrast_last": False, **changes})

    def test_no_step_changes_nothing(self):
        image = random_image(5, 6)
        np.testing.assert_array_equal(self.nothing().apply_image(image), image)

    def test_brightness_adds_within_0_to_255(self):
        image = np.array([[[0, 100, 250]]], np.uint8)
        assert self.nothing(brightness=20.0).apply_image(image).tolist() == [[[20, 120, 255]]]
        assert self.nothing(brightness=-20.0).apply_image(image).tolist() == [[[0, 80, 230]]]

    @pytest.mark.parametrize("contrast_last", [False, True])
    def test_contrast_multiplies(self, contrast_last):
        transform = self.nothing(contrast=1.5, contrast_last=contrast_last)
        assert transform.apply_image(np.array([[[0, 100, 250]]], np.uint8)).tolist() == [
            [[0, 150, 255]]
        ]

    def test_saturation_zero_makes_grey(self):
        grey = self.nothing(saturation=0.0).apply_image(random_image(5, 6))
        assert (grey == grey[..., :1]).all()

    def test_hue_turns_red_towards_yellow_in_either_channel_order(self):
        red = np.array([[[255, 0, 0]]], np.uint8)
        expected = cv2.cvtColor(np.array([[[18, 255, 255]]], np.uint8), cv2.COLOR_HSV2RGB)
        steps = {"brightness": None, "contrast": None, "saturation": None, "contrast_last": False}
        rgb = PhotometricTransform("RGB", hue=18, **steps).apply_image(red)
        bgr = PhotometricTransform("BGR", hue=18, **steps).apply_image(red[..., ::-1])
        np.testing.assert_array_equal(rgb, expected)
        np.testing.assert_array_equal(bgr[..., ::-1], expected)

    @given(
        st.sampled_from(["BGR", "RGB"]),
        st.tuples(
            st.none() | st.floats(-32, 32),
            st.none() | st.floats(0.5, 1.5),
            st.none() | st.floats(0.5, 1.5),
            st.none() | st.integers(-18, 18),
            st.booleans(),
        ),
    )
    @settings(deadline=None, max_examples=60)
    def test_tables_are_the_steps_one_after_the_other(self, image_format, steps):
        image = random_image(9, 8)
        transform = PhotometricTransform(image_format, *steps)
        expected = one_step_after_the_other(image, image_format, *steps)
        np.testing.assert_array_equal(transform.apply_image(image), expected)
        np.testing.assert_array_equal(image, random_image(9, 8), "the image itself must not change")

    def test_hue_wraps_around_the_wheel(self):
        red = np.array([[[0, 0, 255]]], np.uint8)
        image = red
        for _ in range(10):
            image = self.nothing(hue=-18).apply_image(image)
        assert np.abs(image.astype(int) - red).max() <= 4

    def test_draws_steps_half_of_the_time_and_within_their_ranges(self):
        distortion = PhotometricDistortion("BGR")
        drawn = [distortion.get_transform(random_image(2, 2)) for _ in range(600)]
        ranges = {"brightness": (-32, 32), "contrast": (0.5, 1.5), "saturation": (0.5, 1.5)}
        for name, (low, high) in {**ranges, "hue": (-18, 18)}.items():
            values = [getattr(t, name) for t in drawn if getattr(t, name) is not None]
            assert 240 < len(values) < 360
            assert low <= min(values) < low + 0.1 * (high - low)
            assert high - 0.1 * (high - low) < max(values) <= high
        assert 240 < sum(t.contrast_last for t in drawn) < 360

    def test_labels_stay_and_the_seed_decides(self):
        results = []
        for _ in range(2):
            np.random.seed(3)  # noqa: NPY002 (what Detectron2 seeds)
            inputs = T.AugInput(random_image(6, 6), sem_seg=np.eye(6, dtype=np.uint8))
            PhotometricDistortion("RGB")(inputs)
            np.testing.assert_array_equal(inputs.sem_seg, np.eye(6))
            results.append(inputs.image)
        np.testing.assert_array_equal(*results)
        assert results[0].dtype == np.uint8
        assert (results[0] != random_image(6, 6)).any()

    def test_takes_flipped_views(self):
        image = random_image(4, 5)[:, ::-1]
        result = self.nothing(saturation=1.0, hue=0).apply_image(image)
        assert result.shape == image.shape

    def test_refuses_other_formats_and_dtypes(self):
        with pytest.raises(ValueError, match="COLOR_AUG_SSD"):
            PhotometricDistortion("YUV-BT.601")
        with pytest.raises(ValueError, match="float64"):
            self.nothing().apply_image(np.zeros((2, 2, 3)))
