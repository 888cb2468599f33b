"""What detectron2.data.transforms promises, installed or embedded.

The same seed must choose the same transforms, and these must make the same arrays: otherwise a
training run could not be repeated on the other runtime. The figures were recorded on Detectron2.
"""

import hashlib

import numpy as np
import pytest
from PIL import Image

from d2_ctxseg.utils.runtime import is_embedded
from detectron2.data import transforms as T

HEIGHT, WIDTH = 48, 64
IGNORE = 255


@pytest.fixture
def image():
    """(48, 64, 3) uint8: smooth gradients that overflow now and then."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([4 * x, 5 * y, 3 * x + 2 * y], axis=2).astype(np.uint8)


@pytest.fixture
def sem_seg():
    """(48, 64) uint8: blocks of 8 x 8 with classes 0 to 4, and an ignored strip above."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    labels = (x // 8 + 2 * (y // 8)) % 5
    labels[:6] = IGNORE
    return labels.astype(np.uint8)


def digest(*arrays):
    """A short hash of arrays' shapes, dtypes and values."""
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(f"{array.shape} {array.dtype}".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()[:16]


def draw(augmentation, image, sem_seg, times=5):
    """The transforms that ``augmentation`` chooses one after the other from seed 0."""
    np.random.seed(0)  # noqa: NPY002
    return [augmentation(T.AugInput(image, sem_seg=sem_seg)) for _ in range(times)]


def crop_boxes(transforms):
    return [(t.x0, t.y0, t.w, t.h) for t in transforms]


class TestRandomChoices:
    """Every figure here was recorded on Detectron2 with ``np.random.seed(0)``."""

    @pytest.mark.parametrize(
        ("augmentation", "sizes"),
        [
            (
                T.ResizeShortestEdge((20, 60), 70, "range"),
                [(20, 27), (23, 31), (23, 31), (53, 70), (29, 39)],
            ),
            (
                T.ResizeShortestEdge((20, 33, 60), 70, "choice"),
                [(20, 27), (33, 44), (20, 27), (33, 44), (33, 44)],
            ),
            (T.ResizeScale(0.5, 2.0, 40, 50), [(50, 66), (59, 79), (53, 70), (49, 66), (43, 57)]),
        ],
        ids=["range", "choice", "scale"],
    )
    def test_resize(self, augmentation, sizes, image, sem_seg):
        transforms = draw(augmentation, image, sem_seg)
        assert [(t.new_h, t.new_w) for t in transforms] == sizes

    def test_flip(self, image, sem_seg):
        transforms = draw(T.RandomFlip(0.6), image, sem_seg, times=6)
        assert [isinstance(t, T.HFlipTransform) for t in transforms] == [
            True,
            False,
            False,
            True,
            True,
            False,
        ]

    def test_vertical_flip(self, image, sem_seg):
        flip = T.RandomFlip(1.0, horizontal=False, vertical=True)
        aug_input = T.AugInput(image, sem_seg=sem_seg)
        flip(aug_input)
        np.testing.assert_array_equal(aug_input.image, image[::-1])
        np.testing.assert_array_equal(aug_input.sem_seg, sem_seg[::-1])

    @pytest.mark.parametrize(
        ("crop_type", "crop_size", "boxes"),
        [
            (
                "absolute",
                (20, 30),
                [(0, 12, 30, 20), (3, 3, 30, 20), (9, 7, 30, 20), (21, 19, 30, 20)],
            ),
            (
                "relative",
                (0.5, 0.77),
                [(15, 12, 49, 24), (0, 21, 49, 24), (11, 3, 49, 24), (7, 3, 49, 24)],
            ),
            (
                "relative_range",
                (0.3, 0.4),
                [(11, 3, 53, 33), (18, 5, 42, 33), (2, 12, 60, 29), (0, 14, 57, 30)],
            ),
            (
                "absolute_range",
                (10, 40),
                [(0, 21, 25, 22), (7, 3, 37, 13), (23, 21, 29, 19), (12, 24, 34, 16)],
            ),
        ],
    )
    def test_crop(self, crop_type, crop_size, boxes, image, sem_seg):
        transforms = draw(T.RandomCrop(crop_type, crop_size), image, sem_seg, times=4)
        assert crop_boxes(transforms) == boxes

    def test_crop_with_category_constraint(self, image, sem_seg):
        augmentation = T.RandomCrop_CategoryAreaConstraint("absolute", (16, 16), 0.4, IGNORE)
        transforms = draw(augmentation, image, sem_seg, times=6)
        assert crop_boxes(transforms) == [
            (39, 3, 16, 16),
            (19, 9, 16, 16),
            (36, 21, 16, 16),
            (6, 23, 16, 16),
            (24, 24, 16, 16),
            (1, 12, 16, 16),
        ]

    def test_crop_with_a_constraint_that_cannot_be_met_gives_the_tenth_trial(self, image):
        one_class = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
        augmentation = T.RandomCrop_CategoryAreaConstraint("relative_range", (0.5, 0.5), 0.75)
        transforms = draw(augmentation, image, one_class, times=2)
        assert crop_boxes(transforms) == [(23, 2, 38, 35), (0, 3, 36, 40)]

    def test_fixed_size_crop(self, image, sem_seg):
        transforms = draw(T.FixedSizeCrop((32, 80)), image, sem_seg, times=4)
        assert [(t[0].x0, t[0].y0) for t in transforms] == [(0, 9), (0, 11), (0, 10), (0, 9)]

    @pytest.mark.parametrize(
        "augmentation_class", [T.RandomBrightness, T.RandomContrast, T.RandomSaturation]
    )
    def test_color(self, augmentation_class, image, sem_seg):
        transforms = draw(augmentation_class(0.5, 1.5), image, sem_seg, times=3)
        weights = [t.dst_weight for t in transforms]
        assert weights == pytest.approx([1.048814, 1.215189, 1.102763], abs=1e-6)
        assert [t.src_weight for t in transforms] == [1 - weight for weight in weights]

    def test_random_apply(self, image, sem_seg):
        augmentation = T.RandomApply(T.RandomCrop("absolute", (20, 30)), prob=0.6)
        transforms = draw(augmentation, image, sem_seg, times=5)
        sizes = [(t.x0, t.y0) if isinstance(t, T.CropTransform) else None for t in transforms]
        assert sizes == [(0, 21), None, (19, 9), None, (24, 6)]


def test_arrays_of_a_whole_pipeline(image, sem_seg):
    pipeline = T.AugmentationList(
        [
            T.RandomCrop_CategoryAreaConstraint("relative_range", (0.5, 0.5), 0.75, IGNORE),
            T.ResizeShortestEdge((20, 60), 70, "range"),
            T.RandomFlip(),
            T.RandomBrightness(0.5, 1.5),
            T.FixedSizeCrop((32, 32), pad_value=120, seg_pad_value=IGNORE),
        ]
    )
    np.random.seed(0)  # noqa: NPY002
    digests = []
    for _ in range(4):
        aug_input = T.AugInput(image, sem_seg=sem_seg)
        pipeline(aug_input)
        digests.append(digest(aug_input.image, aug_input.sem_seg))
    assert digests == [
        "b514fae56e800081",
        "85fa6d4ba301b189",
        "d5a1dce655747b0d",
        "5c2efa6f4387e790",
    ]


class TestResize:
    @pytest.mark.parametrize("interp", [Image.NEAREST, Image.BILINEAR, Image.BICUBIC])
    def test_of_uint8_is_done_by_pil(self, interp, image):
        resized = T.ResizeTransform(HEIGHT, WIDTH, 31, 77, interp).apply_image(image)
        np.testing.assert_array_equal(
            resized, np.asarray(Image.fromarray(image).resize((77, 31), interp))
        )

    def test_of_labels_makes_no_new_labels(self, sem_seg):
        resized = T.ResizeTransform(HEIGHT, WIDTH, 31, 77).apply_segmentation(sem_seg)
        assert resized.shape == (31, 77)
        assert resized.dtype == np.uint8
        assert set(np.unique(resized)) == set(np.unique(sem_seg))

    @pytest.mark.parametrize("shape", [(48, 64), (48, 64, 1), (48, 64, 3)])
    @pytest.mark.parametrize("dtype", [np.uint8, np.float32])
    def test_keeps_dtype_and_dimensions(self, shape, dtype):
        resized = T.ResizeTransform(48, 64, 24, 32).apply_image(np.full(shape, 7, dtype=dtype))
        assert resized.shape == (24, 32, *shape[2:])
        assert resized.dtype == dtype
        assert np.all(resized == 7)

    def test_of_floating_point_is_bilinear_with_half_pixel_centres(self):
        image = np.array([[0.0, 4.0]], dtype=np.float32)
        resized = T.ResizeTransform(1, 2, 1, 4).apply_image(image)
        np.testing.assert_allclose(resized, [[0, 1, 3, 4]])

    def test_takes_flipped_images(self, image):
        flipped = image.astype(np.float32)[:, ::-1]
        resized = T.ResizeTransform(HEIGHT, WIDTH, 24, 32).apply_image(flipped)
        expected = T.ResizeTransform(HEIGHT, WIDTH, 24, 32).apply_image(flipped.copy())
        np.testing.assert_array_equal(resized, expected)

    def test_of_another_size_is_refused(self, image):
        with pytest.raises(AssertionError):
            T.ResizeTransform(10, 10, 5, 5).apply_image(image)

    def test_inverse_and_coordinates(self):
        resize = T.ResizeTransform(10, 20, 30, 10)
        np.testing.assert_allclose(resize.apply_coords(np.array([[20.0, 10.0]])), [[10, 30]])
        back = resize.inverse()
        assert (back.h, back.w, back.new_h, back.new_w) == (30, 10, 10, 20)

    @pytest.mark.parametrize(
        ("size", "short_edge", "max_size", "expected"),
        [
            ((480, 640), 512, 2048, (512, 683)),
            ((640, 480), 512, 2048, (683, 512)),
            ((1024, 2048), 1024, 2048, (1024, 2048)),
            ((300, 1000), 512, 1024, (307, 1024)),
            ((333, 333), 512, 400, (400, 400)),
        ],
    )
    def test_shortest_edge(self, size, short_edge, max_size, expected):
        output = T.ResizeShortestEdge.get_output_shape(*size, short_edge, max_size)
        assert output == expected

    def test_shortest_edge_zero_is_no_resize(self, image):
        assert isinstance(T.ResizeShortestEdge(0).get_transform(image), T.NoOpTransform)

    def test_fixed_shape(self, image):
        assert T.Resize(17).get_transform(image).apply_image(image).shape == (17, 17, 3)
        assert T.Resize((17, 29)).get_transform(image).apply_image(image).shape == (17, 29, 3)


class TestFixedSizeCrop:
    def test_pads_on_the_right_and_the_bottom(self, image, sem_seg):
        aug_input = T.AugInput(image, sem_seg=sem_seg)
        T.FixedSizeCrop((60, 70), pad_value=9, seg_pad_value=IGNORE)(aug_input)
        np.testing.assert_array_equal(aug_input.image[:HEIGHT, :WIDTH], image)
        assert np.all(aug_input.image[HEIGHT:] == 9)
        assert np.all(aug_input.sem_seg[:, WIDTH:] == IGNORE)

    def test_without_padding_keeps_small_images(self, image):
        aug_input = T.AugInput(image)
        T.FixedSizeCrop((60, 30), pad=False)(aug_input)
        assert aug_input.image.shape == (HEIGHT, 30, 3)


class TestColor:
    def test_leaves_labels_and_coordinates_alone(self, image, sem_seg):
        for transform in (
            T.ColorTransform(lambda array: 255 - array),
            T.PILColorTransform(lambda pil: pil.point(lambda value: 255 - value)),
        ):
            np.testing.assert_array_equal(transform.apply_image(image), 255 - image)
            assert transform.apply_segmentation(sem_seg) is sem_seg
            np.testing.assert_array_equal(transform.apply_coords(np.ones((2, 2))), np.ones((2, 2)))
            assert isinstance(transform.inverse(), T.NoOpTransform)

    def test_needs_a_function(self):
        with pytest.raises(ValueError, match="callable"):
            T.ColorTransform(0.5)

    def test_formulas(self, image):
        floats = image.astype(np.float32)
        grey = floats @ np.array([0.299, 0.587, 0.114])
        for augmentation, other in (
            (T.RandomBrightness(0.5, 0.5), 0),
            (T.RandomContrast(0.5, 0.5), floats.mean()),
            (T.RandomSaturation(0.5, 0.5), grey[:, :, None]),
        ):
            blended = augmentation.get_transform(floats).apply_image(floats)
            np.testing.assert_allclose(blended, (floats + other) / 2, rtol=1e-5, atol=1e-3)

    def test_saturation_needs_three_channels(self):
        with pytest.raises(AssertionError):
            T.RandomSaturation(0.5, 1.5).get_transform(np.zeros((4, 4, 1), dtype=np.uint8))


class TestAugmentation:
    def test_of_ones_own_takes_what_its_parameters_name(self, image, sem_seg):
        class CropToClass(T.Augmentation):
            def __init__(self, label, margin=1):
                super().__init__()
                self._init(locals())

            def get_transform(self, image, sem_seg):
                rows = np.flatnonzero((sem_seg == self.label).any(axis=1))
                return T.CropTransform(0, rows[0], image.shape[1], 2 * self.margin)

        augmentation = CropToClass(4, margin=3)
        assert str(augmentation) == "CropToClass(label=4, margin=3)"
        assert str(CropToClass(4)) == "CropToClass(label=4)"
        aug_input = T.AugInput(image, sem_seg=sem_seg)
        transform = augmentation(aug_input)
        np.testing.assert_array_equal(aug_input.image, transform.apply_image(image))
        assert aug_input.sem_seg.shape == (6, WIDTH)

    def test_says_which_input_is_missing(self, image):
        class NeedsDepth(T.Augmentation):
            def get_transform(self, image, depth):
                return T.NoOpTransform()

        with pytest.raises(AttributeError, match="depth"):
            NeedsDepth()(T.AugInput(image))

    def test_must_name_its_arguments(self, image):
        class TakesAnything(T.Augmentation):
            def get_transform(self, *args, **kwargs):
                return T.NoOpTransform()

        with pytest.raises(TypeError, match="get_transform"):
            TakesAnything()(T.AugInput(image))

    def test_must_return_a_transform(self, image):
        class ReturnsNothing(T.Augmentation):
            def get_transform(self, image):
                return None

        with pytest.raises(AssertionError, match="must return an instance of Transform"):
            ReturnsNothing()(T.AugInput(image))

    def test_list_applies_in_order_and_can_be_applied_again(self, image):
        augmentations = T.AugmentationList(
            [T.CropTransform(10, 0, 20, 10), T.Resize((5, 5)), T.RandomFlip(1.0)]
        )
        aug_input = T.AugInput(image)
        transforms = augmentations(aug_input)
        assert isinstance(transforms, T.TransformList)
        np.testing.assert_array_equal(transforms.apply_image(image), aug_input.image)
        again, _ = T.apply_augmentations(augmentations.augs, image)
        np.testing.assert_array_equal(again, aug_input.image)

    def test_representation_shows_what_is_not_the_default(self):
        assert str(T.RandomFlip()) == "RandomFlip()"
        assert (
            str(T.ResizeShortestEdge((640, 800), 1333, "choice"))
            == "ResizeShortestEdge(short_edge_length=(640, 800), max_size=1333, "
            "sample_style='choice')"
        )
        assert (
            str(T.RandomCrop("absolute", (512, 512)))
            == "RandomCrop(crop_type='absolute', crop_size=(512, 512))"
        )

    def test_input_must_be_an_array(self, image):
        with pytest.raises(AssertionError):
            T.AugInput(image.tolist())

    def test_arguments_are_checked(self):
        with pytest.raises(ValueError, match="both|Both"):
            T.RandomFlip(horizontal=True, vertical=True)
        with pytest.raises(ValueError):  # noqa: PT011  (the runtimes word it differently)
            T.RandomFlip(horizontal=False)
        with pytest.raises(AssertionError):
            T.ResizeShortestEdge((1, 2, 3), sample_style="range")
        with pytest.raises(AssertionError):
            T.ResizeShortestEdge(10, sample_style="any")
        with pytest.raises(AssertionError):
            T.RandomCrop("any", (1, 1))
        with pytest.raises(AssertionError):
            T.RandomApply(T.RandomFlip(), prob=2)


@pytest.mark.skipif(not is_embedded(), reason="the installed Detectron2 covers everything")
def test_what_is_not_covered_names_the_install_guide():
    with pytest.raises(ImportError, match="RandomRotation.*\\n?.*install"):
        from detectron2.data.transforms import RandomRotation  # noqa: F401
