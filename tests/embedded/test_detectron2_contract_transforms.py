"""What detectron2.data.transforms promises, installed or embedded.

The same seed must choose the same transforms, and these must make the same arrays: otherwise a
training run could not be repeated on the other runtime. The figures were recorded on Detectron2.
"""

import hashlib

import numpy as np
import pytest
from fvcore.transforms.transform import CropTransform
from PIL import Image

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
        ],
        ids=["range", "choice"],
    )
    def test_resize(self, augmentation, sizes, image, sem_seg):
        transforms = draw(augmentation, image, sem_seg)
        assert [(t.new_h, t.new_w) for t in transforms] == sizes

    def test_flip(self, image, sem_seg):
        transforms = draw(T.RandomFlip(0.6), image, sem_seg, times=6)
        flips = [not isinstance(t, T.NoOpTransform) for t in transforms]
        assert flips == [True, False, False, True, True, False]

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
        corners = [(t.x0, t.y0) for t in transforms]
        assert corners == [(39, 3), (19, 9), (36, 21), (6, 23), (24, 24), (1, 12)]

    def test_crop_with_a_constraint_that_cannot_be_met_gives_the_tenth_trial(self, image):
        one_class = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
        augmentation = T.RandomCrop_CategoryAreaConstraint("relative_range", (0.5, 0.5), 0.75)
        transforms = draw(augmentation, image, one_class, times=2)
        assert crop_boxes(transforms) == [(23, 2, 38, 35), (0, 3, 36, 40)]


def test_arrays_of_a_whole_pipeline(image, sem_seg):
    pipeline = T.AugmentationList(
        [
            T.RandomCrop_CategoryAreaConstraint("relative_range", (0.5, 0.5), 0.75, IGNORE),
            T.ResizeShortestEdge((20, 60), 70, "range"),
            T.RandomFlip(),
        ]
    )
    np.random.seed(0)  # noqa: NPY002
    digests = []
    for _ in range(4):
        aug_input = T.AugInput(image, sem_seg=sem_seg)
        pipeline(aug_input)
        digests.append(digest(aug_input.image, aug_input.sem_seg))
    assert digests == [
        "db0cd026bede77f7",
        "b25308b7fbf9a743",
        "6c4f39e3897fb842",
        "968368b437c87300",
    ]


class TestResize:
    def test_of_uint8_is_done_by_pil(self, image):
        resized = T.ResizeTransform(HEIGHT, WIDTH, 31, 77).apply_image(image)
        expected = np.asarray(Image.fromarray(image).resize((77, 31), Image.BILINEAR))
        np.testing.assert_array_equal(resized, expected)

    def test_of_labels_makes_no_new_labels(self, sem_seg):
        resized = T.ResizeTransform(HEIGHT, WIDTH, 31, 77).apply_segmentation(sem_seg)
        assert resized.shape == (31, 77)
        assert resized.dtype == np.uint8
        assert set(np.unique(resized)) == set(np.unique(sem_seg))

    @pytest.mark.parametrize("shape", [(48, 64), (48, 64, 1)])
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

    def test_of_coordinates(self):
        resize = T.ResizeTransform(10, 20, 30, 10)
        np.testing.assert_allclose(resize.apply_coords(np.array([[20.0, 10.0]])), [[10, 30]])

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


class TestAugmentation:
    def test_of_the_users_own_takes_what_its_parameters_name(self, image, sem_seg):
        class CropToClass(T.Augmentation):
            def __init__(self, label, margin=1):
                super().__init__()
                self._init(locals())

            def get_transform(self, image, sem_seg):
                rows = np.flatnonzero((sem_seg == self.label).any(axis=1))
                return CropTransform(0, rows[0], image.shape[1], 2 * self.margin)

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
            [CropTransform(10, 0, 20, 10), T.ResizeShortestEdge(5), T.RandomFlip(1.0)]
        )
        aug_input = T.AugInput(image)
        transforms = augmentations(aug_input)
        assert isinstance(transforms, T.TransformList)
        np.testing.assert_array_equal(transforms.apply_image(image), aug_input.image)

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
