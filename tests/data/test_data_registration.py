"""Registering folder datasets, pairing their files, and making the generated ones."""

import os
from pathlib import Path

import pytest
from data_folders import CLASSES, IGNORE, unique_name, write_pairs, write_yaml
from two_processes import run_in_two_processes

from d2_ctxseg.data import (
    DatasetError,
    folder_dataset_of,
    generate_missing,
    read_folder_dataset,
    register_folder_dataset,
    register_folder_datasets,
    registration,
)
from d2_ctxseg.data.pairing import pair_split
from d2_ctxseg.data.registration import has_labels
from detectron2.data import DatasetCatalog, MetadataCatalog


def test_the_built_in_datasets_are_registered_on_import():
    expected = {f"camvid_sem_seg_{split}" for split in ("train", "val", "test")}
    expected |= {f"context_shapes_sem_seg_{split}" for split in ("train", "val")}
    assert expected <= set(DatasetCatalog.list())


def test_camvid_has_its_11_classes_and_colours():
    metadata = MetadataCatalog.get("camvid_sem_seg_val")
    assert metadata.stuff_classes == [
        *["Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car"],
        *["Pedestrian", "Bicyclist"],
    ]
    assert metadata.stuff_colors[3] == (128, 64, 128)
    assert metadata.stuff_colors[10] == (0, 128, 192)
    assert metadata.ignore_label == 11
    assert metadata.evaluator_type == "sem_seg"


def test_records_and_metadata_of_a_split(tmp_path):
    write_pairs(tmp_path, ["b", "a"])
    [name] = register_folder_dataset(write_yaml(tmp_path))
    records = DatasetCatalog.get(name)
    assert [record["image_id"] for record in records] == ["a", "b"]
    assert records[0] == {
        "file_name": str(tmp_path / "images/a.png"),
        "sem_seg_file_name": str(tmp_path / "labels/a.png"),
        "image_id": "a",
        "dataset_name": name,
    }
    metadata = MetadataCatalog.get(name)
    assert metadata.stuff_classes == CLASSES
    assert len(metadata.stuff_colors) == len(CLASSES)
    assert metadata.ignore_label == IGNORE
    assert metadata.image_root == str(tmp_path / "images")
    assert metadata.sem_seg_root == str(tmp_path / "labels")
    assert metadata.get("id_map") is None


class TestWithoutLabels:
    splits = {"train": {"images": "images", "labels": "labels"}, "test": {"images": "images"}}

    def test_records_have_none_and_metadata_no_folder_of_them(self, tmp_path):
        write_pairs(tmp_path, ["b", "a"])
        test, train = sorted(register_folder_dataset(write_yaml(tmp_path, splits=self.splits)))
        (tmp_path / "labels/a.png").unlink()
        assert DatasetCatalog.get(test) == [
            {
                "file_name": str(tmp_path / f"images/{key}.png"),
                "image_id": key,
                "dataset_name": test,
            }
            for key in ("a", "b")
        ]
        metadata = MetadataCatalog.get(test)
        assert metadata.stuff_classes == CLASSES
        assert metadata.image_root == str(tmp_path / "images")
        assert metadata.get("sem_seg_root") is None
        assert (has_labels(train), has_labels(test)) == (True, False)
        assert has_labels("nobody_knows"), "of datasets of others it is assumed"

    def test_pairing_them_is_an_error(self, tmp_path):
        write_pairs(tmp_path, ["a"])
        dataset = read_folder_dataset(write_yaml(tmp_path, splits=self.splits))
        with pytest.raises(DatasetError, match="'test' has no 'labels' in .*data.yaml"):
            pair_split(dataset, "test")

    def test_a_name_that_is_taken_over_loses_its_folder_of_labels(self, tmp_path, monkeypatch):
        name = unique_name()
        monkeypatch.setattr(registration, "BUILTIN_FOLDER", tmp_path)
        DatasetCatalog.register(f"{name}_sem_seg_test", list)
        MetadataCatalog.get(f"{name}_sem_seg_test").set(sem_seg_root="labels", gt_ext="png")
        register_folder_dataset(write_yaml(tmp_path, name=name, splits=self.splits))
        metadata = MetadataCatalog.get(f"{name}_sem_seg_test")
        assert metadata.get("sem_seg_root") is None
        assert metadata.gt_ext == "png"


def test_original_ids_are_in_the_metadata_if_they_are_known(tmp_path):
    [name] = register_folder_dataset(write_yaml(tmp_path, original_ids=7))
    assert MetadataCatalog.get(name).original_ids == [7, 8, 9]
    [name] = register_folder_dataset(write_yaml(tmp_path / "other"))
    assert MetadataCatalog.get(name).get("original_ids") is None


def test_the_value_range_of_images_is_in_records_and_metadata(tmp_path):
    write_pairs(tmp_path, ["a"])
    [name] = register_folder_dataset(write_yaml(tmp_path, value_range=[0, 4095]))
    assert DatasetCatalog.get(name)[0]["value_range"] == (0, 4095)
    assert MetadataCatalog.get(name).value_range == (0, 4095)


def test_nothing_is_looked_at_before_a_split_is_loaded(tmp_path):
    [name] = register_folder_dataset(write_yaml(tmp_path, root="not/there/yet"))
    write_pairs(tmp_path / "not/there/yet", ["a"])
    assert len(DatasetCatalog.get(name)) == 1


def test_the_datasets_folder_is_the_one_of_the_moment_of_loading(tmp_path, monkeypatch):
    [name] = register_folder_dataset(write_yaml(tmp_path, root="$DETECTRON2_DATASETS/mine"))
    for folder, count in (("one", 1), ("two", 2)):
        write_pairs(tmp_path / folder / "mine", [str(i) for i in range(count)])
        monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / folder))
        assert len(DatasetCatalog.get(name)) == count
        root = tmp_path / folder / "mine/images"
        assert MetadataCatalog.get(name).image_root == str(root)


def test_registering_the_same_file_again_changes_nothing(tmp_path):
    path = write_yaml(tmp_path)
    assert register_folder_datasets([path, path]) == register_folder_dataset(str(path)) * 2


def test_another_dataset_of_the_same_name_is_refused(tmp_path):
    name = unique_name()
    first = write_yaml(tmp_path / "first", name=name)
    second = write_yaml(tmp_path / "second", name=name)
    register_folder_dataset(first)
    with pytest.raises(DatasetError, match="already described by") as error:
        register_folder_dataset(second)
    assert str(first) in str(error.value)
    assert str(second) in str(error.value)


def test_a_file_that_changed_after_its_registration_is_refused(tmp_path):
    name = unique_name()
    register_folder_dataset(write_yaml(tmp_path, name=name))
    changed = write_yaml(tmp_path, name=name, ignore_label=99)
    with pytest.raises(DatasetError, match="has changed since"):
        register_folder_dataset(changed)


def test_a_name_that_someone_else_registered_is_refused_and_no_split_is_registered(tmp_path):
    name = unique_name()
    DatasetCatalog.register(f"{name}_sem_seg_val", list)
    folders = {"images": "images", "labels": "labels"}
    path = write_yaml(tmp_path, name=name, splits={"train": folders, "val": folders})
    with pytest.raises(DatasetError, match="registered already"):
        register_folder_dataset(path)
    assert f"{name}_sem_seg_train" not in DatasetCatalog


def test_asking_for_an_unknown_folder_dataset_suggests_the_nearest():
    with pytest.raises(DatasetError, match="Did you mean 'camvid_sem_seg_train'"):
        folder_dataset_of("camvid_sem_seg_trian")


class TestPairing:
    def load(self, folder: Path, **changes):
        [name] = register_folder_dataset(write_yaml(folder, **changes))
        return DatasetCatalog.get(name)

    def test_pairs_names_with_suffixes_in_subfolders(self, tmp_path):
        for city in ("aachen", "bonn"):
            write_pairs(tmp_path, [f"{city}/0_x"])
            os.rename(
                tmp_path / f"images/{city}/0_x.png",
                tmp_path / f"images/{city}/0_leftImg8bit.png",
            )
            for kind in ("labelIds", "color"):
                (tmp_path / f"labels/{city}/0_gtFine_{kind}.png").write_bytes(b"")
            os.remove(tmp_path / f"labels/{city}/0_x.png")
        records = self.load(
            tmp_path, image_suffix="_leftImg8bit.png", label_suffix="_gtFine_labelIds.png"
        )
        assert [record["image_id"] for record in records] == ["aachen/0", "bonn/0"]
        assert records[1]["sem_seg_file_name"].endswith("labels/bonn/0_gtFine_labelIds.png")

    def test_upper_case_suffixes_count_and_hidden_and_other_files_do_not(self, tmp_path):
        write_pairs(tmp_path, ["a"])
        os.rename(tmp_path / "images/a.png", tmp_path / "images/a.PNG")
        (tmp_path / "images/._a.png").write_bytes(b"")
        (tmp_path / "images/notes.txt").write_text("")
        assert [record["image_id"] for record in self.load(tmp_path)] == ["a"]

    def test_a_missing_root_names_the_path_and_the_yaml(self, tmp_path):
        with pytest.raises(DatasetError, match="does not exist.*'root' in") as error:
            self.load(tmp_path, root="away")
        assert str(tmp_path / "away") in str(error.value)

    @pytest.mark.parametrize("value", [None, "/no/such/place"])
    def test_a_missing_datasets_folder_names_the_variable_and_its_value(
        self, tmp_path, monkeypatch, value
    ):
        monkeypatch.chdir(tmp_path)
        if value is None:
            monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
            expected = (str(tmp_path / "datasets/camvid"), "is not set")
        else:
            monkeypatch.setenv("DETECTRON2_DATASETS", value)
            expected = ("/no/such/place/camvid", "is '/no/such/place'")
        with pytest.raises(DatasetError, match="DETECTRON2_DATASETS") as error:
            DatasetCatalog.get("camvid_sem_seg_train")
        for part in expected:
            assert part in str(error.value)

    def test_a_missing_folder(self, tmp_path):
        (tmp_path / "images").mkdir()
        with pytest.raises(DatasetError, match=r"images contains no file.*It is empty"):
            self.load(tmp_path)
        write_pairs(tmp_path, ["a"])
        (tmp_path / "labels/a.png").unlink()
        (tmp_path / "labels").rmdir()
        with pytest.raises(DatasetError, match="label folder .*labels does not exist"):
            self.load(tmp_path)

    def test_a_folder_with_other_files_only(self, tmp_path):
        write_pairs(tmp_path, ["a"])
        with pytest.raises(DatasetError, match=r"ends with \.webp .*other files: a\.png"):
            self.load(tmp_path, image_suffix=".webp")

    def test_files_without_partner_are_counted_and_the_first_ones_named(self, tmp_path):
        write_pairs(tmp_path, [f"{i:02d}" for i in range(9)])
        for i in range(7):
            (tmp_path / f"labels/{i:02d}.png").unlink()
        (tmp_path / "images/08.png").unlink()
        with pytest.raises(DatasetError) as error:
            self.load(tmp_path)
        message = str(error.value)
        assert "7 images have no label" in message
        assert "00.png, 01.png, 02.png, 03.png, 04.png, ..." in message
        assert "1 label has no image" in message
        assert "08.png" in message

    def test_of_a_split_with_a_list_the_listed_images_count(self, tmp_path):
        write_pairs(tmp_path, ["a", "more/b", "c", "d"])
        (tmp_path / "labels/d.png").unlink()
        (tmp_path / "train.txt").write_text("more/b\n\na\n")
        (tmp_path / "val.txt").write_text("c\n")
        folders = {"images": "images", "labels": "labels"}
        splits = {name: {**folders, "list": f"{name}.txt"} for name in ("train", "val")}
        train, val = register_folder_dataset(write_yaml(tmp_path, splits=splits))
        assert [record["image_id"] for record in DatasetCatalog.get(train)] == ["a", "more/b"]
        assert [record["image_id"] for record in DatasetCatalog.get(val)] == ["c"]

    def test_a_list_may_count_for_images_without_labels(self, tmp_path):
        write_pairs(tmp_path, ["a", "b"])
        (tmp_path / "test.txt").write_text("b\n")
        splits = {"test": {"images": "images", "list": "test.txt"}}
        assert [record["image_id"] for record in self.load(tmp_path, splits=splits)] == ["b"]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("a\nb.png\nc\n", r"2 of 3 lines name no image in .*images: b\.png, c"),
            ("\n", "it is empty"),
            (None, "the list .* cannot be read"),
        ],
    )
    def test_a_list_that_does_not_fit(self, tmp_path, content, message):
        write_pairs(tmp_path, ["a", "b"])
        if content is not None:
            (tmp_path / "train.txt").write_text(content)
        files = {"images": "images", "labels": "labels", "list": "train.txt"}
        with pytest.raises(DatasetError, match=message) as error:
            self.load(tmp_path, splits={"train": files})
        assert str(tmp_path / "train.txt") in str(error.value)

    def test_a_listed_image_needs_its_label(self, tmp_path):
        write_pairs(tmp_path, ["a", "b"])
        (tmp_path / "labels/b.png").unlink()
        (tmp_path / "train.txt").write_text("a\nb\n")
        files = {"images": "images", "labels": "labels", "list": "train.txt"}
        with pytest.raises(DatasetError, match=r"1 image has no label.*b\.png"):
            self.load(tmp_path, splits={"train": files})

    def test_what_the_preparation_skipped_is_left_out_with_a_warning(self, tmp_path, caplog):
        write_pairs(tmp_path, ["a", "city/b", "c"])
        (tmp_path / "labels/city/b.png").unlink()
        (tmp_path / "labels/skipped.txt").write_text("city/b.png\tit is broken\nc.png\n")
        assert [record["image_id"] for record in self.load(tmp_path)] == ["a"]
        assert "skipped.txt leaves out 2 pairs" in caplog.text

    def test_two_images_for_one_label(self, tmp_path):
        write_pairs(tmp_path, ["a"])
        (tmp_path / "images/a.jpg").write_bytes(b"")
        with pytest.raises(DatasetError, match="two files of one name"):
            self.load(tmp_path)


class TestGenerateMissing:
    @pytest.fixture(autouse=True)
    def _generator_in_an_empty_datasets_folder(self, tmp_path, monkeypatch):
        monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
        self.root = tmp_path / "context_shapes"
        self.calls = []

        def generate(folder):
            self.calls.append(folder)
            folder.mkdir()

        monkeypatch.setitem(registration._generators, "context_shapes", generate)

    def test_makes_a_generated_dataset_once(self):
        generate_missing(["context_shapes_sem_seg_train", "context_shapes_sem_seg_val"])
        generate_missing(["context_shapes_sem_seg_val"])
        assert self.calls == [self.root]

    def test_leaves_other_datasets_alone(self):
        generate_missing(["camvid_sem_seg_train", "nobody_knows"])
        assert self.calls == []

    def test_reports_what_went_wrong(self, monkeypatch):
        def fail(folder):
            raise OSError("disk full")

        monkeypatch.setitem(registration._generators, "context_shapes", fail)
        with pytest.raises(DatasetError, match="disk full"):
            generate_missing(["context_shapes_sem_seg_val"])


def _generate_in_one_of_two_processes(rank: int, folder: str) -> None:
    made_by = Path(folder) / "made_by"

    def generate(root):
        root.mkdir()
        with made_by.open("a") as file:
            file.write(f"{rank}\n")

    registration._generators["context_shapes"] = generate
    generate_missing(["context_shapes_sem_seg_train"])
    assert (Path(folder) / "context_shapes").is_dir()


@pytest.mark.slow
def test_only_the_first_process_generates_and_the_others_wait(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    run_in_two_processes(_generate_in_one_of_two_processes, tmp_path, str(tmp_path))
    assert (tmp_path / "made_by").read_text() == "0\n"


def camvid_folder() -> Path | None:
    """Where the real CamVid lies, if it does."""
    repository = Path(__file__).parents[2]
    candidates = [os.environ.get("D2_CTXSEG_CAMVID_ROOT")]
    if os.environ.get("DETECTRON2_DATASETS"):
        candidates.append(Path(os.environ["DETECTRON2_DATASETS"]) / "camvid")
    candidates += [repository / "datasets/camvid", repository / "../shared/datasets/camvid"]
    return next((Path(c).resolve() for c in candidates if c and Path(c).is_dir()), None)


@pytest.mark.parametrize(("split", "count"), [("train", 367), ("val", 101), ("test", 233)])
def test_the_real_camvid(tmp_path, monkeypatch, split, count):
    folder = camvid_folder()
    if folder is None:
        pytest.skip("CamVid is not here: set D2_CTXSEG_CAMVID_ROOT to its folder")
    (tmp_path / "camvid").symlink_to(folder)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    assert len(DatasetCatalog.get(f"camvid_sem_seg_{split}")) == count
