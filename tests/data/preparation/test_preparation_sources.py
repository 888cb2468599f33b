"""The tables of official label values, and the readers of official label files."""

import json

import numpy as np
import pycocotools.mask
import pytest
from data_folders import write_image

from d2_ctxseg.data import DatasetError
from d2_ctxseg.data.description_reader import read_folder_dataset
from d2_ctxseg.data.preparation import (
    class_indices,
    draw_segments,
    matlab_reader,
    read_ade20k_objects,
    read_pascal_in_detail,
    read_source_ids,
)
from d2_ctxseg.data.registration import BUILTIN_FOLDER


class TestSourceIds:
    COUNTS = {
        "ade20k": 150,
        "ade20k_full": 847,
        "coco_stuff": 171,
        "cityscapes": 19,
        "pascal_context": 59,
        "pascal_context_60": 60,
    }

    @pytest.mark.parametrize("name", COUNTS)
    def test_number_every_class_once(self, name):
        ids = read_source_ids(name)
        assert len(ids) == self.COUNTS[name]
        assert len(set(ids.values())) == len(ids)
        assert all(isinstance(number, int) and number >= 0 for number in ids)

    def test_are_those_of_the_official_tables(self):
        named = {name: dict(read_source_ids(name)) for name in self.COUNTS}
        assert named["ade20k"][1] == "wall" and named["ade20k"][150] == "flag"
        assert named["ade20k_full"][2978] == "wall"
        assert named["ade20k_full"][3148] == "adding machine, totalizer, totaliser"
        assert max(named["ade20k_full"]) == 3156, "datasets/README.md says so"
        assert named["coco_stuff"][13] == "stop sign" and named["coco_stuff"][182] == "wood"
        assert named["cityscapes"][7] == "road" and named["cityscapes"][33] == "bicycle"
        assert named["pascal_context"][2] == "aeroplane" and named["pascal_context"][458] == "wood"

    def test_of_coco_stuff_leave_out_the_things_nobody_annotated(self):
        absent = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91}
        assert list(read_source_ids("coco_stuff")) == sorted(set(range(1, 183)) - absent)

    def test_of_pascal_context_are_alphabetical_in_number_and_name(self):
        ids = read_source_ids("pascal_context")
        assert list(ids) == sorted(ids)
        assert list(ids.values()) == sorted(ids.values())
        assert read_source_ids("pascal_context_60") == {0: "background", **ids}

    @pytest.mark.parametrize(
        ("name", "descriptions"),
        [
            ("ade20k", ["ade20k", "mmseg_ade20k"]),
            ("ade20k_full", ["ade20k_full"]),
            ("coco_stuff", ["coco_stuff_164k", "coco_stuff_10k", "mmseg_coco_stuff_164k"]),
            ("cityscapes", ["cityscapes"]),
            ("pascal_context", ["pascal_context_59", "mmseg_pascal_context_59"]),
            ("pascal_context_60", ["pascal_context_60", "mmseg_pascal_context_60"]),
        ],
    )
    def test_are_in_the_order_of_the_registered_classes(self, name, descriptions):
        for description in descriptions:
            classes = read_folder_dataset(BUILTIN_FOLDER / f"{description}.yaml").classes
            assert list(classes) == list(read_source_ids(name).values())


class TestClassIndices:
    def test_are_those_of_the_classes_and_the_ignore_label_of_all_else(self):
        assert class_indices([7, 4], [0, 5, 7]) == {0: 255, 5: 255, 7: 0, 4: 1}

    def test_can_start_at_another_index(self):
        indices = class_indices([4, 7], range(9), ignore_label=0, first_index=1)
        assert [indices[value] for value in range(9)] == [0, 0, 0, 0, 1, 0, 0, 2, 0]


class TestAde20kObjects:
    def test_are_read_from_two_channels(self, tmp_path):
        pixels = np.array([[[0, 0, 9], [110, 162, 1], [118, 162, 2]]], np.uint8)
        path = write_image(tmp_path / "a_seg.png", pixels)
        assert read_ade20k_objects(path).tolist() == [[0, 11 * 256 + 162, 11 * 256 + 162]]

    def test_need_an_rgb_image(self, tmp_path):
        path = write_image(tmp_path / "a_seg.png", np.zeros((2, 2), np.uint8))
        with pytest.raises(DatasetError, match="mode L"):
            read_ade20k_objects(path)


class TestMatlab:
    @pytest.fixture
    def save(self, tmp_path):
        scipy_io = pytest.importorskip("scipy.io", reason="reading .mat files needs SciPy")

        def save(values):
            scipy_io.savemat(tmp_path / "a.mat", {"S": values})
            return tmp_path / "a.mat"

        return save

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float64])
    def test_a_matrix_of_integers_is_read_of_any_type(self, save, dtype):
        values = matlab_reader("S")(save(np.array([[0, 182], [7, 1]], dtype)))
        assert values.tolist() == [[0, 182], [7, 1]] and values.dtype.kind == "i"

    @pytest.mark.parametrize("values", [np.array([[0.5, 1]]), np.zeros((2, 2, 2)), "text"])
    def test_anything_else_is_refused(self, save, values):
        with pytest.raises(DatasetError, match=r"'S' of .*a\.mat is not a matrix of integers"):
            matlab_reader("S")(save(values))

    def test_a_missing_field_is_reported(self, save):
        with pytest.raises(DatasetError, match=r"'LabelMap' of .*a\.mat"):
            matlab_reader("LabelMap")(save(np.zeros((2, 2))))


class TestPascalInDetail:
    def mask(self, values) -> dict:
        encoded = pycocotools.mask.encode(np.asfortranarray(values, np.uint8))
        return {**encoded, "counts": encoded["counts"].decode()}

    def write(self, folder, **changes):
        segments = [(2, [[1, 1], [0, 0]]), (9, [[0, 1], [0, 1]])]
        content = {
            "images": [
                {"image_id": 7, "file_name": "a.jpg", "phase": "train", "height": 2, "width": 2},
                {"image_id": 8, "file_name": "b.jpg", "phase": "test", "height": 2, "width": 2},
            ],
            "annos_segmentation": [
                {"image_id": 7, "category_id": number, "segmentation": self.mask(mask)}
                for number, mask in segments
            ],
        }
        path = folder / "trainval_merged.json"
        path.write_text(json.dumps(content | changes))
        return path

    def test_later_segments_lie_over_earlier_ones_and_the_rest_is_0(self, tmp_path):
        path = self.write(tmp_path)
        splits = read_pascal_in_detail(path)
        assert {split: list(images) for split, images in splits.items()} == {
            "train": ["a"],
            "val": [],
        }
        assert draw_segments(path, *splits["train"]["a"]).tolist() == [[2, 9], [0, 9]]

    @pytest.mark.parametrize("changes", [{"images": None}, {"annos_segmentation": [{}]}])
    def test_a_file_of_another_kind_is_refused(self, tmp_path, changes):
        with pytest.raises(DatasetError, match=r"trainval_merged\.json cannot be read as"):
            read_pascal_in_detail(self.write(tmp_path, **changes))

    def test_a_mask_of_another_size_is_refused(self, tmp_path):
        with pytest.raises(DatasetError, match="mask that cannot be decoded"):
            draw_segments("x.json", (3, 3), [(2, self.mask([[1, 1]]))])
