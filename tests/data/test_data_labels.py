"""Reading label files: which formats count as labels, label maps, and the errors."""

import numpy as np
import pytest
from data_folders import write_image
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from d2_ctxseg.data import (
    DatasetError,
    LabelFormat,
    check_label_values,
    check_same_size,
    read_label,
)
from detectron2.data import MetadataCatalog

VALUES = np.array([[0, 1, 2], [11, 200, 255]], dtype=np.uint8)


def test_palette_images_give_their_indices_and_not_their_colours(tmp_path):
    label = read_label(write_image(tmp_path / "label.png", VALUES, mode="P"))
    np.testing.assert_array_equal(label, VALUES)
    assert label.dtype == np.uint8


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_one_channel_of_8_16_or_32_bits(tmp_path, dtype):
    suffix = "tif" if dtype == np.int32 else "png"
    label = read_label(write_image(tmp_path / f"label.{suffix}", VALUES.astype(dtype)))
    np.testing.assert_array_equal(label, VALUES)
    assert label.dtype == np.uint8


def test_one_bit_images_have_classes_0_and_1(tmp_path):
    write_image(tmp_path / "label.png", np.array([[True, False], [False, True]]))
    assert read_label(tmp_path / "label.png").tolist() == [[1, 0], [0, 1]]


def test_values_above_255_come_as_int32(tmp_path):
    label = read_label(write_image(tmp_path / "label.png", np.array([[3, 847]], np.uint16)))
    assert label.tolist() == [[3, 847]]
    assert label.dtype == np.int32


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "F"])
def test_other_modes_are_refused_with_the_way_to_convert_them(tmp_path, mode):
    path = tmp_path / ("label.tif" if mode == "F" else "label.png")
    Image.new(mode, (4, 3)).save(path)
    with pytest.raises(DatasetError, match=f"mode {mode}.*d2-ctxseg convert-labels") as error:
        read_label(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("content", [b"", b"no image at all", None])
def test_a_file_that_cannot_be_read_is_reported(tmp_path, content):
    path = tmp_path / "label.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"Cannot read the label .*label\.png"):
        read_label(path)


def test_a_truncated_file_is_reported(tmp_path):
    path = write_image(tmp_path / "label.png", np.tile(VALUES, (40, 40)))
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(DatasetError, match=r"label\.png"):
        read_label(path)


def test_an_id_map_is_applied(tmp_path):
    path = write_image(tmp_path / "label.png", VALUES)
    id_map = {0: 5, 1: 0, 2: 255, 11: 300, 200: 1, 255: 255}
    assert read_label(path, id_map).tolist() == [[5, 0, 255], [300, 1, 255]]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_values_that_the_map_does_not_know_are_named_with_the_file(tmp_path, dtype):
    path = write_image(tmp_path / "label.tif", VALUES.astype(dtype))
    with pytest.raises(DatasetError, match="values 11, 200, which 'id_map'") as error:
        read_label(path, {0: 0, 1: 1, 2: 2, 255: 255})
    assert str(path) in str(error.value)


def test_negative_values_are_unknown_to_every_map(tmp_path):
    path = write_image(tmp_path / "label.tif", np.array([[-1, 0]], np.int32))
    assert read_label(path).tolist() == [[-1, 0]]
    with pytest.raises(DatasetError, match="value -1"):
        read_label(path, {0: 0})


@settings(deadline=None)
@given(
    id_map=st.dictionaries(st.integers(0, 65535), st.integers(0, 65535), min_size=1),
    data=st.data(),
)
def test_every_pixel_gets_what_the_map_says(tmp_path_factory, id_map, data):
    raw = data.draw(st.lists(st.sampled_from(sorted(id_map)), min_size=1, max_size=20))
    path = tmp_path_factory.mktemp("labels") / "label.png"
    write_image(path, np.array([raw], dtype=np.uint16))
    assert read_label(path, id_map).tolist() == [[id_map[value] for value in raw]]


def test_values_outside_the_classes_are_named_with_the_file():
    label = np.array([[0, 2, 255], [7, 3, 1]])
    with pytest.raises(DatasetError, match=r"there/label.png holds the values 3, 7.*\(0\.\.2\)"):
        check_label_values(label, LabelFormat(3, 255), "there/label.png")
    check_label_values(label, LabelFormat(8, 255), "there/label.png")


def test_different_sizes_are_named_with_both_files():
    image, label = np.zeros((4, 6, 3)), np.zeros((4, 5))
    with pytest.raises(DatasetError, match="a.jpg has 6x4 pixels.* b.png has 5x4"):
        check_same_size(image, label, "a.jpg", "b.png")
    check_same_size(image, image[..., 0], "a.jpg", "b.png")


def test_the_format_comes_from_the_metadata():
    label_format = LabelFormat.from_metadata(MetadataCatalog.get("camvid_sem_seg_train"))
    assert label_format == LabelFormat(num_classes=11, ignore_label=11, id_map=None)


def test_the_former_name_of_the_id_map_in_metadata_is_known():
    MetadataCatalog.get("registered_by_others").set(stuff_classes=["a"], label_map={7: 0})
    label_format = LabelFormat.from_metadata(MetadataCatalog.get("registered_by_others"))
    assert label_format.id_map == {7: 0}


def test_a_label_with_an_exif_orientation_of_its_own_is_rotated_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.array([[1, 2, 3]], np.uint8)).save(tmp_path / "label.png", exif=exif)
    assert read_label(tmp_path / "label.png").tolist() == [[1], [2], [3]]


def test_a_dataset_without_classes_is_reported():
    with pytest.raises(DatasetError, match="'nobody_knows' has no 'stuff_classes'"):
        LabelFormat.from_metadata(MetadataCatalog.get("nobody_knows"))
