"""Datasets with pixels of no class: 'anomaly' in a YAML, and the public layouts."""

import numpy as np
import pytest
from data_folders import write_image, write_yaml

from d2_ctxseg.data import DatasetError, read_label, registration
from d2_ctxseg.data.description_reader import read_description, read_folder_dataset
from d2_ctxseg.data.registration import generate_missing, register_builtin_datasets, unshared_names
from d2_ctxseg.evaluation.anomaly_evaluator import AnomalyEvaluator
from detectron2.data import DatasetCatalog, MetadataCatalog

ID_MAP = {0: 0, 1: 1, 2: 2, 3: "ignore"}
# Name, and the files of one image and its label below DETECTRON2_DATASETS.
LAYOUTS = {
    "fishyscapes_lost_and_found_sem_seg_val": (
        "fishyscapes/LostAndFound/images/0000_04_Maurener_000000_000030_leftImg8bit.png",
        "fishyscapes/LostAndFound/labels/0000_04_Maurener_000000_000030_labels.png",
    ),
    "fishyscapes_static_sem_seg_val": (
        "fishyscapes/Static/images/0_rgb.png",
        "fishyscapes/Static/labels/0_labels.png",
    ),
    "road_anomaly_sem_seg_val": (
        "RoadAnomaly/frames/animals01.jpg",
        "RoadAnomaly/frames/animals01.labels/labels_semantic.png",
    ),
}


class TestDescription:
    def test_known_are_the_values_of_all_classes(self, tmp_path):
        path = write_yaml(tmp_path, id_map=ID_MAP, anomaly={"unknown": [3]})
        assert read_folder_dataset(path).anomaly == ((3,), (0, 1, 2))

    def test_known_values_can_be_those_of_no_class(self, tmp_path):
        id_map = {0: "ignore", 1: "ignore", 255: "ignore"}
        path = write_yaml(tmp_path, id_map=id_map, anomaly={"unknown": [1], "known": [0]})
        dataset = read_folder_dataset(path)
        assert dataset.anomaly == ((1,), (0,))
        assert read_description(dataset.describe()).anomaly == dataset.anomaly
        assert dataset.metadata()["anomaly_ids"] == ((1,), (0,))

    def test_without_an_id_map_they_are_the_indices(self, tmp_path):
        path = write_yaml(tmp_path, anomaly={"unknown": [7]})
        assert read_folder_dataset(path).anomaly == ((7,), (0, 1, 2))

    def test_of_most_datasets_there_is_none(self, tmp_path):
        assert read_folder_dataset(write_yaml(tmp_path)).anomaly is None

    @pytest.mark.parametrize(
        ("anomaly", "message"),
        [
            (
                {"unknown": [1]},
                "'unknown' in 'anomaly' contains 1, which is in 'known' or belongs",
            ),
            ({"unknown": [3], "known": [3]}, "contains 3, which is in 'known'"),
            ({"unknown": []}, "must be a list of values in the label files.* but is \\[\\]"),
            ({"unknown": 3}, "integers in 0..65535, but is 3"),
            ({"unknown": [True]}, "integers in 0..65535"),
            ({"known": [0]}, "'anomaly' lacks the key 'unknown'"),
            ({"unknow": [3]}, "unknown key 'unknow' in 'anomaly'"),
            ([3], "'anomaly' must be a mapping"),
        ],
    )
    def test_what_it_cannot_be_is_reported(self, tmp_path, anomaly, message):
        with pytest.raises(DatasetError, match=message):
            read_folder_dataset(write_yaml(tmp_path, id_map=ID_MAP, anomaly=anomaly))


class TestPublicLayouts:
    @pytest.mark.parametrize("name", LAYOUTS)
    def test_are_found_and_evaluated(self, name, tmp_path, monkeypatch):
        """A miniature of each: its images are paired, its values are known, unknown and neither."""
        monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
        image, label = (tmp_path / path for path in LAYOUTS[name])
        write_image(image, np.zeros((4, 6, 3), np.uint8))
        write_image(label, np.array([[0, 1, 2, 255]], np.uint8).repeat(4, 0))
        if "fishyscapes" in name:
            write_image(label, np.array([[0, 1, 1, 255]], np.uint8).repeat(4, 0))
        register_builtin_datasets([name])
        (record,) = DatasetCatalog.get(name)
        assert (record["file_name"], record["sem_seg_file_name"]) == (str(image), str(label))
        metadata = MetadataCatalog.get(name)
        assert len(metadata.stuff_classes) == 19
        assert (read_label(label, metadata.id_map) == 255).all()  # nothing for the mIoU
        AnomalyEvaluator(name, ["energy"])

    def test_are_registered_when_they_are_requested(self):
        """Other projects may have their own under such names."""
        assert not set(LAYOUTS) & set(unshared_names())


class TestWithheldClasses:
    @pytest.mark.parametrize("name", ["camvid_withheld", "context_shapes_withheld"])
    def test_are_ignored_by_the_classes_and_unknown_to_the_evaluation(self, name):
        (split,) = (n for n in unshared_names() if n == f"{name}_sem_seg_val")
        register_builtin_datasets([split])
        metadata = MetadataCatalog.get(split)
        whole = MetadataCatalog.get(split.replace("_withheld", ""))
        unknown, known = metadata.anomaly_ids
        left = [whole.stuff_classes[raw] for raw in known]
        assert left == metadata.stuff_classes
        assert {metadata.id_map[raw] for raw in unknown} == {metadata.ignore_label}
        assert set(range(len(whole.stuff_classes))) == {*unknown, *known}
        kept = [tuple(whole.stuff_colors[raw]) for raw in known]
        assert [tuple(color) for color in metadata.stuff_colors] == kept

    def test_context_shapes_are_generated_for_them_too(self, tmp_path, monkeypatch):
        made = []
        monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
        monkeypatch.setitem(registration._generators, "context_shapes_withheld", made.append)
        generate_missing(["context_shapes_withheld_sem_seg_val"])
        assert made == [tmp_path / "context_shapes"]
