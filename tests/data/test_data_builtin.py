"""The datasets that come described: names, classes, labels, files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from data_folders import write_image
from miniature_archives import (
    ADE20K_FULL,
    CITYSCAPES,
    COCO_CLASSES,
    PASCAL_59,
    mmseg_ade20k,
    mmseg_coco_stuff_10k,
    mmseg_coco_stuff_164k,
    mmseg_pascal_context,
)

from d2_ctxseg.data import (
    DatasetError,
    check_dataset,
    folder_dataset_of,
    read_label,
    register_builtin_datasets,
)
from d2_ctxseg.data.registration import BUILTIN_FOLDER
from d2_ctxseg.evaluation import SegmentationEvaluator
from d2_ctxseg.evaluation.evaluator import label_loader
from detectron2.data import DatasetCatalog, MetadataCatalog

ROOT = Path(__file__).parents[2]

# Registered name without the split -> splits, classes, ignored label, first and last class.
DATASETS = {
    "ade20k_sem_seg_{}": (("train", "val", "test"), 150, 255, "wall", "flag"),
    "ade20k_full_sem_seg_{}": (
        ("train", "val"),
        847,
        65535,
        "wall",
        "adding machine, totalizer, totaliser",
    ),
    "ade20k_full_150_sem_seg_{}": (("train", "val"), 150, 65535, "wall", None),
    "ade20k_full_300_sem_seg_{}": (("train", "val"), 300, 65535, "wall", None),
    "ade20k_full_500_sem_seg_{}": (("train", "val"), 500, 65535, "wall", None),
    "ade20k_full_700_sem_seg_{}": (("train", "val"), 700, 65535, "wall", None),
    "coco_2017_{}_stuff_sem_seg": (("train", "val"), 171, 255, "person", "wood"),
    "coco_2017_{}_stuff_10k_sem_seg": (("train", "test"), 171, 255, "person", "wood"),
    "cityscapes_fine_sem_seg_{}": (("train", "val", "test"), 19, 255, "road", "bicycle"),
    "pascal_context_59_sem_seg_{}": (("train", "val"), 59, 255, "aeroplane", "wood"),
    "pascal_context_60_sem_seg_{}": (("train", "val"), 60, 255, "background", "wood"),
    "mmseg_ade20k_sem_seg_{}": (("train", "val"), 150, 255, "wall", "flag"),
    "mmseg_coco_stuff_164k_sem_seg_{}": (("train", "val"), 171, 255, "person", "wood"),
    "mmseg_coco_stuff_10k_sem_seg_{}": (("train", "test"), 171, 255, "person", "wood"),
    "mmseg_pascal_context_59_sem_seg_{}": (("train", "val"), 59, 255, "aeroplane", "wood"),
    "mmseg_pascal_context_60_sem_seg_{}": (("train", "val"), 60, 255, "background", "wood"),
    "camvid_sem_seg_{}": (("train", "val", "test"), 11, 11, "Sky", "Bicyclist"),
    "camvid_withheld_sem_seg_{}": (("train", "val", "test"), 9, 11, "Sky", "Car"),
    "clothing_co_parsing_sem_seg_{}": (
        ("train", "val", "test"),
        59,
        255,
        "background",
        "wedges",
    ),
    "context_shapes_sem_seg_{}": (("train", "val"), 6, 255, "room", "blue"),
    "context_shapes_withheld_sem_seg_{}": (("train", "val"), 5, 255, "room", "blue"),
    "fishyscapes_lost_and_found_sem_seg_{}": (("val",), 19, 255, "road", "bicycle"),
    "fishyscapes_static_sem_seg_{}": (("val",), 19, 255, "road", "bicycle"),
    "road_anomaly_sem_seg_{}": (("val",), 19, 255, "road", "bicycle"),
}
register_builtin_datasets()
NAMES = [name.format(split) for name, (splits, *_) in DATASETS.items() for split in splits]


@pytest.mark.parametrize("pattern", DATASETS)
def test_every_one_has_its_names_and_classes(pattern):
    splits, num_classes, ignore_label, first, last = DATASETS[pattern]
    for split in splits:
        metadata = MetadataCatalog.get(pattern.format(split))
        assert len(metadata.stuff_classes) == len(metadata.stuff_colors) == num_classes
        assert metadata.stuff_classes[0] == first
        assert last in (None, metadata.stuff_classes[-1])
        assert metadata.ignore_label == ignore_label
        # Detectron2's own type of Cityscapes stays: other projects choose an evaluator by it.
        theirs = "cityscapes_sem_seg" if pattern.startswith("cityscapes") else "sem_seg"
        assert metadata.evaluator_type in ("sem_seg", theirs)


def test_no_description_is_left_out_here():
    described = {folder_dataset_of(name)[0].source for name in NAMES}
    assert described == set(BUILTIN_FOLDER.glob("*.yaml"))


@pytest.mark.parametrize(
    ("name", "index", "class_name", "color"),
    [
        ("ade20k_sem_seg_val", 12, "person", (150, 5, 61)),
        ("coco_2017_val_stuff_sem_seg", 80, "banner", None),
        ("cityscapes_fine_sem_seg_val", 13, "car", (0, 0, 142)),
        ("pascal_context_59_sem_seg_val", 36, "person", None),
        ("ade20k_full_sem_seg_val", 11, "person, individual, someone, somebody", None),
    ],
)
def test_classes_stand_where_the_literature_has_them(name, index, class_name, color):
    metadata = MetadataCatalog.get(name)
    assert metadata.stuff_classes[index].startswith(class_name)
    assert color in (None, tuple(metadata.stuff_colors[index]))


def test_59_classes_of_pascal_context_follow_the_background_of_60():
    with_background = MetadataCatalog.get("pascal_context_60_sem_seg_val")
    without = MetadataCatalog.get("pascal_context_59_sem_seg_val")
    assert with_background.stuff_classes[1:] == without.stuff_classes
    assert [*map(tuple, with_background.stuff_colors[1:])] == [*map(tuple, without.stuff_colors)]


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_one_says_how_it_is_made(name, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    dataset, _ = folder_dataset_of(name)
    remedy = f"Run '{dataset.preparation}'" if dataset.preparation else "datasets/README.md"
    with pytest.raises(DatasetError, match=remedy):
        DatasetCatalog.get(name)


class TestLayoutsOfMmsegmentation:
    """What its converters leave is read where it is."""

    REDUCED = {0: 255} | {number: number - 1 for number in range(1, 172)}
    KEPT = {number: number for number in range(60)}
    TRAIN_IDS = {number - 1: index for index, number in enumerate(COCO_CLASSES)} | {255: 255}

    @pytest.mark.parametrize(
        ("miniature", "pattern", "counts", "id_map"),
        [
            (mmseg_ade20k, "mmseg_ade20k_sem_seg_{}", {"train": 3, "val": 2}, REDUCED),
            (mmseg_coco_stuff_164k, "mmseg_coco_stuff_164k_sem_seg_{}", {"val": 2}, TRAIN_IDS),
            (mmseg_coco_stuff_10k, "mmseg_coco_stuff_10k_sem_seg_{}", {"test": 1}, REDUCED),
            (mmseg_pascal_context, "mmseg_pascal_context_59_sem_seg_{}", {"val": 1}, REDUCED),
            (
                *(mmseg_pascal_context, "mmseg_pascal_context_60_sem_seg_{}"),
                *({"train": 2, "val": 1}, KEPT),
            ),
        ],
    )
    def test_are_read_unchanged(self, tmp_path, monkeypatch, miniature, pattern, counts, id_map):
        monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
        made = miniature(tmp_path)
        for split, count in counts.items():
            name = pattern.format(split)
            records = DatasetCatalog.get(name)
            assert len(records) == count
            for record in records:
                path = Path(record["sem_seg_file_name"])
                assert Path(record["file_name"]).stem == path.stem.removesuffix("_labelTrainIds")
                official = made.labels.get(
                    path.stem, made.labels.get(Path(record["file_name"]).stem)
                )
                expected = [[id_map[value] for value in row] for row in official.tolist()]
                assert label_loader(name)(path).tolist() == expected
            assert check_dataset(name).problems == []


def test_a_name_in_circulation_is_the_same_split(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    write_image(tmp_path / "coco/val2017/a.jpg", np.zeros((4, 6, 3), np.uint8))
    folder = tmp_path / "coco/stuffthingmaps_detectron2/val2017"
    write_image(folder / "a.png", np.zeros((4, 6), np.uint8))
    name, alias = "coco_2017_val_stuff_sem_seg", "coco_2017_test_stuff_sem_seg"
    [record], [same] = DatasetCatalog.get(name), DatasetCatalog.get(alias)
    assert same == {**record, "dataset_name": alias}
    assert folder_dataset_of(alias) == folder_dataset_of(name)
    assert MetadataCatalog.get(alias).stuff_classes == MetadataCatalog.get(name).stuff_classes


class TestOriginalIds:
    """What the publishers' own files hold for the classes, and their servers take."""

    def ids(self, name):
        return MetadataCatalog.get(name).get("original_ids")

    @pytest.mark.parametrize("split", ["train", "val", "test"])
    def test_of_ade20k_are_1_to_150_and_of_cityscapes_the_label_ids(self, split):
        assert self.ids(f"ade20k_sem_seg_{split}") == list(range(1, 151))
        assert self.ids(f"cityscapes_fine_sem_seg_{split}") == list(CITYSCAPES)

    def test_of_coco_stuff_are_coco_s_categories(self):
        for name in ("coco_2017_val_stuff_sem_seg", "coco_2017_test_stuff_10k_sem_seg"):
            assert self.ids(name) == COCO_CLASSES

    @pytest.mark.parametrize("number", [150, 300, 500, 700, 847])
    def test_of_ade20k_with_many_classes_are_the_indices_of_objects(self, number):
        ids = self.ids(f"ade20k_full{'' if number == 847 else f'_{number}'}_sem_seg_val")
        assert len(ids) == number
        assert {ids[index]: index for index in ADE20K_FULL.values() if index < number} == {
            object_index: index for object_index, index in ADE20K_FULL.items() if index < number
        }

    def test_of_pascal_context_are_its_numbers_of_459_labels(self):
        ids = self.ids("pascal_context_59_sem_seg_val")
        assert {ids[index]: index for index in PASCAL_59.values()} == PASCAL_59
        assert self.ids("pascal_context_60_sem_seg_val") == [0, *ids]

    def test_where_they_are_the_indices_there_are_none(self):
        assert self.ids("camvid_sem_seg_test") is None
        assert self.ids("context_shapes_sem_seg_val") is None

    @pytest.mark.parametrize("name", NAMES)
    def test_there_is_one_for_each_class(self, name):
        ids = self.ids(name)
        assert ids is None or len(set(ids)) == len(MetadataCatalog.get(name).stuff_classes)


class TestTestSplits:
    """Images whose labels the servers keep."""

    @pytest.mark.parametrize(
        ("name", "image"),
        [
            ("ade20k_sem_seg_test", "ADEChallengeData2016/images/testing/ADE_test_00000001.jpg"),
            (
                "cityscapes_fine_sem_seg_test",
                "cityscapes/leftImg8bit/test/berlin/berlin_000000_000019_leftImg8bit.png",
            ),
        ],
    )
    def test_have_images_only(self, tmp_path, monkeypatch, name, image):
        monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
        write_image(tmp_path / image, np.zeros((4, 6, 3), np.uint8))
        [record] = DatasetCatalog.get(name)
        assert record["file_name"] == str(tmp_path / image)
        assert "sem_seg_file_name" not in record
        assert MetadataCatalog.get(name).get("sem_seg_root") is None
        assert check_dataset(name).problems == []

    def test_that_are_not_there_do_not_disturb_the_others(self, tmp_path, monkeypatch):
        monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
        folder = tmp_path / "ADEChallengeData2016"
        write_image(folder / "images/validation/a.jpg", np.zeros((4, 6, 3), np.uint8))
        write_image(folder / "annotations_detectron2/validation/a.png", np.zeros((4, 6), np.uint8))
        assert len(DatasetCatalog.get("ade20k_sem_seg_val")) == 1
        with pytest.raises(
            DatasetError, match=r"testing does not exist.*datasets/README\.md"
        ) as no:
            DatasetCatalog.get("ade20k_sem_seg_test")
        assert "prepare ade20k" not in str(no.value), "the command does not make them"

    def test_are_saved_as_the_server_takes_them(self, tmp_path, monkeypatch):
        monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
        city, stem = "cityscapes/leftImg8bit/test/bonn", "bonn_000001_000019_leftImg8bit"
        write_image(tmp_path / city / f"{stem}.png", np.zeros((1, 19, 3), np.uint8))
        name = "cityscapes_fine_sem_seg_test"
        [record] = DatasetCatalog.get(name)
        evaluator = SegmentationEvaluator(
            name, output_dir=tmp_path / "out", save_predictions=True, distributed=False
        )
        evaluator.reset()
        evaluator.process([record], [{"label_map": torch.arange(19)[None]}])
        assert evaluator.evaluate() == {}
        saved = read_label(tmp_path / f"out/predictions/{stem}.png")
        assert saved.tolist() == [list(CITYSCAPES)]


class TestLargeVocabulary:
    """Labels of 16 bits in .tif files, and subsets of the classes."""

    labels = np.array([[0, 149, 150], [846, 300, 65535]], np.uint16)

    @pytest.fixture
    def root(self, tmp_path, monkeypatch):
        folder = tmp_path / "ADE20K_2021_17_01"
        for split in ("training", "validation"):
            image = np.zeros((*self.labels.shape, 3), np.uint8)
            write_image(folder / f"images_detectron2/{split}/a.jpg", image)
            write_image(folder / f"annotations_detectron2/{split}/a.tif", self.labels)
        monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
        return folder

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("ade20k_full", [0, 149, 150, 846, 300, 65535]),
            ("ade20k_full_150", [0, 149, 65535, 65535, 65535, 65535]),
            ("ade20k_full_300", [0, 149, 150, 65535, 65535, 65535]),
            ("ade20k_full_500", [0, 149, 150, 65535, 300, 65535]),
        ],
    )
    def test_labels_past_the_subset_are_ignored(self, root, name, expected):
        [record] = DatasetCatalog.get(f"{name}_sem_seg_val")
        labels = label_loader(f"{name}_sem_seg_val")(record["sem_seg_file_name"])
        assert labels.flatten().tolist() == expected

    def test_the_check_counts_them(self, root):
        report = check_dataset("ade20k_full_sem_seg_train")
        assert report.problems == []
        assert [index for index, count in enumerate(report.pixels) if count] == [
            *(0, 149, 150, 300, 846)
        ]
        assert report.ignored_pixels == 1

    def test_a_label_past_the_classes_is_found(self, root):
        bad = root / "annotations_detectron2/training/a.tif"
        write_image(bad, np.full(self.labels.shape, 847, np.uint16))
        report = check_dataset("ade20k_full_sem_seg_train")
        assert len(report.problems) == 1
        assert "847" in report.problems[0]
