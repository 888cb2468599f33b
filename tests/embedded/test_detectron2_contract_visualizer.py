"""What this project relies on in Detectron2's drawing utilities, on either runtime."""

import random
import uuid

import numpy as np
import pytest
import torch
from PIL import Image

from detectron2.data import MetadataCatalog
from detectron2.utils.colormap import colormap, random_color, random_colors
from detectron2.utils.video_visualizer import VideoVisualizer
from detectron2.utils.visualizer import ColorMode, VisImage, Visualizer

GREEN, BLUE = [0, 200, 0], [0, 0, 200]
VOID = 255


@pytest.fixture
def metadata():
    name = f"visualizer_{uuid.uuid4().hex}"
    yield MetadataCatalog.get(name).set(
        stuff_classes=["grass", "water"], stuff_colors=[GREEN, BLUE], ignore_label=VOID
    )
    MetadataCatalog.remove(name)


@pytest.fixture
def image():
    """A gentle gradient, 120 x 160."""
    y, x = np.mgrid[:120, :160]
    return np.stack([100 + x // 4, 100 + y // 4, np.full_like(x, 120)], axis=2).astype(np.uint8)


@pytest.fixture
def labels():
    """Grass on the left, water on the right, a void strip between them."""
    labels = np.full((120, 160), VOID)
    labels[:, :70] = 0
    labels[:, 90:] = 1
    return labels


def test_a_picture_without_drawings_is_the_image(image):
    picture = Visualizer(image).get_output()
    assert isinstance(picture, VisImage)
    np.testing.assert_array_equal(picture.get_image(), image)
    assert picture.get_image().dtype == np.uint8


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_scale_multiplies_the_size(image, scale):
    shape = Visualizer(image, scale=scale).get_output().get_image().shape
    assert shape == (120 * scale, 160 * scale, 3)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_save_writes_the_picture(image, tmp_path, suffix):
    path = tmp_path / f"picture.{suffix}"
    Visualizer(image).get_output().save(str(path))
    saved = np.asarray(Image.open(path).convert("RGB"))
    assert saved.shape == image.shape
    assert np.abs(saved.astype(int) - image).mean() < 3
    assert list(tmp_path.iterdir()) == [path]


def test_reset_image_starts_anew(image):
    picture = Visualizer(image).draw_box((10, 10, 90, 90), edge_color="r", alpha=1)
    picture.reset_image(255 - image)
    np.testing.assert_array_equal(picture.get_image()[40:80, 40:80], 255 - image[40:80, 40:80])


@pytest.mark.parametrize("alpha", [0.3, 0.5, 1.0])
def test_label_maps_blend_the_class_colour_into_the_image(image, labels, metadata, alpha):
    picture = Visualizer(image, metadata).draw_sem_seg(labels, alpha=alpha, draw_text=False)
    pixels = picture.get_image()
    for x, color in ((30, GREEN), (125, BLUE)):
        expected = alpha * np.array(color) + (1 - alpha) * image[60, x]
        np.testing.assert_allclose(pixels[60, x], expected, atol=3)


def test_void_labels_are_left_undrawn(image, labels, metadata):
    picture = Visualizer(image, metadata).draw_sem_seg(labels, draw_text=False).get_image()
    np.testing.assert_array_equal(picture[:, 75:85], image[:, 75:85])


def test_tensors_and_arrays_give_the_same_picture(image, labels, metadata):
    from_array = Visualizer(image, metadata).draw_sem_seg(labels).get_image()
    from_tensor = Visualizer(image, metadata).draw_sem_seg(torch.from_numpy(labels)).get_image()
    np.testing.assert_array_equal(from_array, from_tensor)


def test_class_names_are_written_on_their_regions(image, labels, metadata):
    named = Visualizer(image, metadata).draw_sem_seg(labels)
    assert sorted(text.get_text() for text in named.ax.texts) == ["grass", "water"]
    for text in named.ax.texts:
        x, y = map(int, text.get_position())
        assert metadata.stuff_classes[labels[y, x]] == text.get_text()
    unnamed = Visualizer(image, metadata).draw_sem_seg(labels, draw_text=False)
    assert len(unnamed.ax.texts) == 0


def test_regions_below_the_area_threshold_are_left_out(image, metadata):
    labels = np.full((120, 160), VOID)
    labels[10:14, 10:14] = 0
    labels[50:90, 50:90] = 0
    picture = Visualizer(image, metadata).draw_sem_seg(
        labels, area_threshold=100, draw_text=False, alpha=1
    )
    pixels = picture.get_image()
    np.testing.assert_array_equal(pixels[12, 12], image[12, 12])
    np.testing.assert_array_equal(pixels[70, 70], GREEN)


def test_holes_stay_open(image, metadata):
    labels = np.zeros((120, 160), dtype=int)
    labels[40:80, 60:100] = VOID
    picture = Visualizer(image, metadata).draw_sem_seg(labels, draw_text=False, alpha=1)
    np.testing.assert_array_equal(picture.get_image()[45:75, 65:95], image[45:75, 65:95])
    np.testing.assert_array_equal(picture.get_image()[20, 20], GREEN)


def test_classes_without_colours_are_drawn_all_the_same(image, labels):
    name = f"visualizer_{uuid.uuid4().hex}"
    metadata = MetadataCatalog.get(name).set(stuff_classes=["grass", "water"])
    picture = Visualizer(image, metadata).draw_sem_seg(labels, draw_text=False).get_image()
    MetadataCatalog.remove(name)
    assert (picture[60, 30] != image[60, 30]).any()
    assert (picture[60, 125] != image[60, 125]).any()


def test_a_dataset_dict_is_drawn_from_its_label_file(image, labels, metadata, tmp_path):
    path = tmp_path / "labels.png"
    Image.fromarray(labels.astype(np.uint8)).save(path)
    record = {"file_name": "unused.png", "sem_seg_file_name": str(path)}
    picture = Visualizer(image, metadata).draw_dataset_dict(record).get_image()
    expected = Visualizer(image, metadata).draw_sem_seg(labels, area_threshold=0, alpha=0.5)
    np.testing.assert_array_equal(picture, expected.get_image())


def test_a_mask_of_another_size_is_an_error(image):
    with pytest.raises((ValueError, AssertionError)):
        Visualizer(image).draw_binary_mask(np.ones((10, 10), dtype=np.uint8), color="r")


def test_soft_masks_blend_as_strongly_as_their_values(image):
    mask = np.zeros((120, 160), dtype=np.float32)
    mask[:, 80:] = 0.5
    picture = Visualizer(image).draw_soft_mask(mask, "red", alpha=0.8).get_image()
    np.testing.assert_array_equal(picture[:, :80], image[:, :80])
    np.testing.assert_allclose(
        picture[60, 120], 0.4 * np.array([255, 0, 0]) + 0.6 * image[60, 120], atol=2
    )


@pytest.mark.parametrize(
    ("draw", "on", "off"),
    [
        (
            lambda v: v.draw_polygon([[20, 20], [90, 20], [90, 90]], "r", alpha=1),
            (40, 70),
            (100, 5),
        ),
        (lambda v: v.draw_box((20, 20, 90, 90), edge_color="r", alpha=1), (20, 50), (55, 55)),
        (lambda v: v.draw_line([20, 90], [50, 50], "r"), (50, 50), (80, 50)),
        (lambda v: v.draw_circle((50, 60), "r", radius=10), (60, 50), (60, 70)),
        (lambda v: v.draw_binary_mask(np.eye(120, 160) * 0 + 1, "r", alpha=1), (60, 60), None),
    ],
    ids=["polygon", "box", "line", "circle", "mask"],
)
def test_shapes_are_drawn_at_pixel_coordinates(image, draw, on, off):
    picture = draw(Visualizer(image)).get_image()
    np.testing.assert_allclose(picture[on], [255, 0, 0], atol=3)
    if off is not None:
        np.testing.assert_array_equal(picture[off], image[off])


def test_text_is_readable_on_dark_ground(image):
    visualizer = Visualizer(image)
    before = visualizer.get_output().get_image().astype(int)
    after = visualizer.draw_text("word", (80, 50), color="black", font_size=14).get_image()
    ground = after[52:60, 60:100].reshape(-1, 3)
    assert ground.min() < 60 and ground.max() > 150
    np.testing.assert_array_equal(after[:40], before[:40])


def test_video_frames_look_like_images(image, labels, metadata):
    frame = VideoVisualizer(metadata).draw_sem_seg(image, labels).get_image()
    picture = Visualizer(image, metadata).draw_sem_seg(labels).get_image()
    np.testing.assert_array_equal(frame, picture)


def test_colour_modes():
    assert [mode.name for mode in ColorMode] == ["IMAGE", "SEGMENTATION", "IMAGE_BW"]


def test_the_palette_has_many_different_colours():
    colors = colormap(rgb=True, maximum=1)
    assert colors.dtype == np.float32 and colors.shape[1] == 3
    assert colors.min() >= 0 and colors.max() <= 1
    assert len(np.unique(colors, axis=0)) >= 64


def test_palette_order_and_range():
    np.testing.assert_array_equal(colormap(rgb=False), colormap(rgb=True)[:, ::-1])
    np.testing.assert_allclose(colormap(rgb=True), 255 * colormap(rgb=True, maximum=1), rtol=1e-5)
    with pytest.raises(AssertionError):
        colormap(maximum=100)


def test_random_colours_follow_their_seeds():
    np.random.seed(3)  # noqa: NPY002
    first = random_color(rgb=True, maximum=1)
    np.random.seed(3)  # noqa: NPY002
    np.testing.assert_array_equal(first, random_color(rgb=True, maximum=1))
    assert (colormap(rgb=True, maximum=1) == first).all(axis=1).any()

    random.seed(3)
    several = random_colors(20, rgb=True, maximum=1)
    random.seed(3)
    np.testing.assert_array_equal(several, random_colors(20, rgb=True, maximum=1))
    assert np.shape(several) == (20, 3)
    with pytest.raises(ValueError):
        random_colors(10_000)
