"""Overlays with a legend, and comparisons of ground truth and prediction."""

import uuid

import numpy as np
import pytest
import torch

from d2_ctxseg.visualization import (
    class_shares,
    draw_comparison,
    draw_legend,
    draw_legend_strip,
    draw_overlay,
)
from detectron2.data import MetadataCatalog

COLORS = [[200, 0, 0], [0, 200, 0], [0, 0, 200]]
WHITE, VOID = 255, 255


@pytest.fixture
def make_metadata():
    names = []

    def make(**attributes):
        names.append(f"visualization_{uuid.uuid4().hex}")
        return MetadataCatalog.get(names[-1]).set(**attributes)

    yield make
    for name in names:
        MetadataCatalog.remove(name)


@pytest.fixture
def metadata(make_metadata):
    return make_metadata(stuff_classes=["roof", "lawn", "pool"], stuff_colors=COLORS)


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(60, 180, (480, 640, 3), dtype=np.uint8)


@pytest.fixture
def labels():
    """Half roof, a quarter lawn, a quarter void; no pool."""
    labels = np.full((480, 640), VOID)
    labels[:, :320] = 0
    labels[:, 320:480] = 1
    return labels


def has_color(drawn, color):
    return bool((drawn == np.array(color)).all(axis=2).any())


def test_overlay_blends_the_classes_colours(image, labels, metadata):
    drawn = draw_overlay(image, labels, metadata, alpha=0.5, legend=False)
    assert drawn.dtype == np.uint8 and drawn.shape == image.shape
    np.testing.assert_allclose(drawn[10, 10], (image[10, 10] + np.array(COLORS[0])) / 2, atol=2)
    np.testing.assert_allclose(drawn[10, 400], (image[10, 400] + np.array(COLORS[1])) / 2, atol=2)


def test_overlay_leaves_void_pixels_as_they_are(image, labels, metadata):
    drawn = draw_overlay(image, labels, metadata, legend=False)
    np.testing.assert_array_equal(drawn[:, 485:], image[:, 485:])


def test_an_overlay_hatches_ignored_pixels_on_request(image, labels, metadata):
    overlay = draw_overlay(image, labels, metadata, legend=False, hatch_ignored=True)
    expected = draw_overlay(image, labels, metadata, legend=False)
    np.testing.assert_array_equal(overlay[:, :480], expected[:, :480])
    assert has_color(overlay[:, 485:], (92, 92, 92))


def test_every_label_that_is_no_class_is_void(image, metadata):
    voids = np.full((480, 640), -1)
    voids[100:], voids[200:], voids[300:] = 3, 255, 65535
    drawn = draw_overlay(image, voids, metadata, legend=False)
    outlines = [99, 199, 299]
    np.testing.assert_array_equal(np.delete(drawn, outlines, 0), np.delete(image, outlines, 0))


def test_overlay_takes_tensors_of_any_integer_type(image, labels, metadata):
    expected = draw_overlay(image, labels, metadata)
    for dtype in (torch.int64, torch.int32, torch.uint8):
        tensor = torch.from_numpy(labels).to(dtype)
        np.testing.assert_array_equal(draw_overlay(image, tensor, metadata), expected)


def test_the_legend_lies_beside_the_overlay(image, labels, metadata):
    without = draw_overlay(image, labels, metadata, legend=False)
    drawn = draw_overlay(image, labels, metadata)
    np.testing.assert_array_equal(drawn[:, :640], without)
    np.testing.assert_array_equal(drawn[:, 640:], draw_legend(metadata, 480, class_shares(labels)))


def test_the_legend_lists_only_classes_that_occur(image, labels, metadata):
    legend = draw_overlay(image, labels, metadata)[:, 640:]
    assert has_color(legend, COLORS[0]) and has_color(legend, COLORS[1])
    assert not has_color(legend, COLORS[2])


def test_the_legend_has_the_largest_class_first(metadata):
    legend = draw_legend(metadata, 300, {0: 0.1, 1: 0.6, 2: 0.3})
    tops = [np.nonzero((legend == np.array(color)).all(axis=2))[0].min() for color in COLORS]
    assert tops[1] < tops[2] < tops[0]


def test_a_legend_of_all_classes_keeps_their_order(metadata):
    legend = draw_legend(metadata, 300, {1: 0.9}, all_classes=True)
    tops = [np.nonzero((legend == np.array(color)).all(axis=2))[0].min() for color in COLORS]
    assert tops[0] < tops[1] < tops[2]


def test_legends_of_all_classes_have_one_size(metadata):
    one, other = (
        draw_legend(metadata, 300, shares, all_classes=True) for shares in ({}, {0: 1.0, 2: 0.0001})
    )
    assert one.shape == other.shape and (one != other).any()


def test_legends_in_one_column_have_one_size_and_the_largest_classes(make_metadata):
    colors = [[i, 255 - i, 77] for i in range(50)]
    metadata = make_metadata(stuff_classes=[f"class {i}" for i in range(50)], stuff_colors=colors)
    shares = {i: (i + 1) / 2000 for i in range(50)}
    full = draw_legend(metadata, 200, shares, one_column=True)
    empty = draw_legend(metadata, 200, {}, one_column=True)
    assert full.shape == empty.shape and full.shape[0] == 200
    shown = [i for i, color in enumerate(colors) if has_color(full, color)]
    assert 2 < len(shown) < 20 and shown == list(range(50 - len(shown), 50))


@pytest.mark.parametrize(("height", "count"), [(40, 1), (40, 150), (300, 5), (1000, 150)])
def test_no_legend_is_clipped(make_metadata, height, count):
    names = [f"class {i} with a rather long name for a class" for i in range(count)]
    colors = [[i, 255 - i, 77] for i in range(count)]
    metadata = make_metadata(stuff_classes=names, stuff_colors=colors)
    legend = draw_legend(metadata, height, dict.fromkeys(range(count), 1 / count))
    assert legend.shape[0] == height
    packing = np.array([1 << 16, 1 << 8, 1])
    assert set((np.array(colors) @ packing).tolist()) <= set(np.unique(legend @ packing).tolist())
    # Text that reached the edge would be cut off there.
    for edge in (legend[0], legend[-1], legend[:, 0], legend[:, -1]):
        assert (edge == WHITE).all()


def test_an_image_without_any_class_has_an_empty_legend(image, metadata):
    drawn = draw_overlay(image, np.full((480, 640), VOID), metadata)
    np.testing.assert_array_equal(drawn[:, :640], image)
    assert (drawn[:, 640:] == WHITE).all()


def test_large_regions_are_reported_and_small_ones_are_not(image, metadata):
    plain = np.zeros((480, 640), dtype=int)
    plain[100:104, 100:104] = 1
    drawn = draw_overlay(image, plain, metadata, alpha=0.0, legend=False).astype(int)
    changed = np.abs(drawn - image).max(axis=2) > 0
    changed[95:110, 95:110] = False  # the outline of the small region
    ys, xs = np.nonzero(changed)
    assert len(ys) > 100  # "roof" stands somewhere
    assert np.ptp(ys) < 40 and np.ptp(xs) < 80  # and nothing else does
    assert not changed[:3].any() and not changed[-3:].any()


def test_classes_without_colours_get_colours_of_their_own(image, labels, make_metadata):
    metadata = make_metadata(stuff_classes=["roof", "lawn", "pool"])
    drawn = draw_overlay(image, labels, metadata, alpha=1.0, legend=False)
    roof, lawn = drawn[10, 10], drawn[10, 400]
    assert (roof != lawn).any()
    again = draw_overlay(image, labels, metadata, alpha=1.0, legend=False)
    np.testing.assert_array_equal(again, drawn)


def test_small_images_are_enlarged(metadata):
    image = np.full((96, 128, 3), 90, dtype=np.uint8)
    labels = np.zeros((96, 128), dtype=int)
    assert draw_overlay(image, labels, metadata, legend=False).shape == (480, 640, 3)


def test_images_of_any_size_can_be_drawn(metadata):
    for shape in [(1, 1), (3, 200), (500, 20)]:
        image, labels = np.full((*shape, 3), 90, dtype=np.uint8), np.zeros(shape, dtype=int)
        drawn = draw_overlay(image, labels, metadata)
        assert drawn.dtype == np.uint8 and drawn.shape[0] % shape[0] == 0
        assert draw_comparison(image, labels, labels + 1, metadata).dtype == np.uint8


@pytest.mark.parametrize(
    ("image", "labels", "message"),
    [
        (np.zeros((20, 30, 3), np.float32), np.zeros((20, 30), int), "uint8"),
        (np.zeros((20, 30), np.uint8), np.zeros((20, 30), int), r"\(H, W, 3\)"),
        (np.zeros((20, 30, 3), np.uint8), np.zeros((30, 20), int), r"\(30, 20\).*\(20, 30\)"),
    ],
)
def test_wrong_types_and_sizes_are_errors(metadata, image, labels, message):
    with pytest.raises(ValueError, match=message):
        draw_overlay(image, labels, metadata)


def test_a_comparison_shows_image_truth_and_prediction(image, labels, metadata):
    prediction = np.full_like(labels, 2)
    drawn = draw_comparison(image, labels, prediction, metadata, alpha=1.0)
    gap = (drawn.shape[1] - 3 * 640) // 2
    top = drawn.shape[0] - 480 - strip_height(drawn)
    panels = [drawn[top : top + 480, i * (640 + gap) :][:, :640] for i in range(3)]
    np.testing.assert_array_equal(panels[0], image)
    np.testing.assert_array_equal(panels[1][10, 10], COLORS[0])
    np.testing.assert_array_equal(panels[2][10, 10], COLORS[2])


def test_a_comparison_shows_ignored_truth_in_grey(image, labels, metadata):
    drawn = draw_comparison(image, labels, np.zeros_like(labels), metadata)
    gap = (drawn.shape[1] - 3 * 640) // 2
    top = drawn.shape[0] - 480 - strip_height(drawn)
    ignored = drawn[top + 10 : top + 470, 640 + gap + 490 : 640 + gap + 630].astype(int)
    assert ignored.max() < 110
    # The stripes: two shades, both of them often.
    assert 0.1 < (ignored.mean(axis=2) > 75).mean() < 0.6


@pytest.mark.parametrize("ignored", [[], [255]])
def test_the_legend_of_a_comparison_names_what_is_ignored(metadata, ignored):
    strip = draw_legend_strip(metadata, np.array([0, 2, *ignored]), 600)
    assert has_color(strip, (33, 33, 33)) == bool(ignored)
    assert has_color(strip, COLORS[2]) and not has_color(strip, COLORS[1])


def strip_height(drawn):
    """The height of the white strip with the legend under a comparison."""
    column = (drawn[:, 5] != WHITE).any(axis=1)
    return len(column) - 1 - np.flatnonzero(column).max()


@pytest.mark.parametrize(
    ("wrong_columns", "caption"),
    [(0, "100.0 % of pixels correct"), (120, "75.0 % of pixels correct")],
)
def test_the_caption_gives_the_accuracy_on_labelled_pixels(
    image, labels, metadata, monkeypatch, wrong_columns, caption
):
    titles = []
    monkeypatch.setattr(
        "d2_ctxseg.visualization.overlays._side_by_side",
        lambda panels: titles.extend(panels) or np.zeros((10, 1000, 3), np.uint8),
    )
    prediction = np.where(labels == VOID, 1, labels)
    prediction[:, :wrong_columns] = 2
    draw_comparison(image, labels, prediction, metadata)
    assert titles[:2] == ["image", "ground truth"]
    assert caption in titles[2]


def test_truth_without_labels_has_no_accuracy(image, metadata, monkeypatch):
    titles = []
    monkeypatch.setattr(
        "d2_ctxseg.visualization.overlays._side_by_side",
        lambda panels: titles.extend(panels) or np.zeros((10, 1000, 3), np.uint8),
    )
    truth = np.full((480, 640), VOID)
    draw_comparison(image, truth, np.zeros_like(truth), metadata)
    assert "no labelled pixels" in titles[2]


def test_class_shares_add_up_to_one(labels):
    assert class_shares(labels) == {0: 0.5, 1: 0.25, VOID: 0.25}
