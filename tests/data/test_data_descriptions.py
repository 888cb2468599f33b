"""The datasets of a config, described inside it: the YAML files may be missing."""

import logging
import shutil
from pathlib import Path

import pytest
import yaml
from data_folders import CLASSES, unique_name, write_pairs, write_yaml
from train_net_runs import ROOT

from d2_ctxseg.data import DatasetError, read_folder_dataset
from d2_ctxseg.data.description_reader import read_description
from d2_ctxseg.data.descriptions import metadata_of, register_datasets_of
from d2_ctxseg.engine import setup_config
from d2_ctxseg.utils.errors import UserError
from detectron2.data import DatasetCatalog, MetadataCatalog

EVERYTHING = {
    "palette": [[1, 2, 3], [4, 5, 6], [7, 8, 9]],
    "ignore_label": 99,
    "id_map": {0: 2, 7: 1, 8: "ignore"},
    "image_suffix": "_image.tif",
    "original_ids": [4, 9, 300],
    "value_range": [0, 4095],
    "splits": {"train": {"images": "i", "labels": "l", "list": "x.txt"}, "test": {"images": "t"}},
}


def config_of(path: Path, name: str, **datasets) -> Path:
    """A config file beside the description, which it names by a relative path or not at all."""
    config = path.with_name("config.yaml")
    names = [f"{name}_sem_seg_train"]
    config.write_text(
        yaml.safe_dump(
            {
                "_BASE_": str(ROOT / "configs/Base-Segmentor.yaml"),
                "INPUT": {"CROP": {"SIZE": [8, 8]}},
                "MODEL": {"DEVICE": "cpu", "SEM_SEG_HEAD": {"NUM_CLASSES": 3}},
                "DATASETS": {"FOLDERS": [str(path)], "TRAIN": names, "TEST": names} | datasets,
            }
        )
    )
    return config


def forget(name: str) -> None:
    """As in another process."""
    from d2_ctxseg.data import registration

    for registered in [n for n in registration._registered if n.startswith(name)]:
        del registration._registered[registered]
        DatasetCatalog.remove(registered)
        MetadataCatalog.remove(registered)


@pytest.fixture
def saved(tmp_path):
    """The config.yaml of a run on a dataset whose folder was deleted, and the dataset's name."""
    name = unique_name()
    folder = tmp_path / "data"
    write_pairs(folder, ["a", "b"])
    description = write_yaml(folder, name=name)
    cfg = setup_config(str(config_of(description, name)), [])
    path = tmp_path / "elsewhere" / "config.yaml"
    path.parent.mkdir()
    path.write_text(cfg.dump())
    shutil.rmtree(folder)
    forget(name)
    return path, name


@pytest.mark.parametrize("changes", [{}, EVERYTHING, {"num_classes": 2}, {"root": "~/x"}])
def test_a_description_says_all_that_the_file_says(tmp_path, changes):
    dataset = read_folder_dataset(write_yaml(tmp_path, **changes))
    described = yaml.safe_load(yaml.safe_dump(dataset.describe()))  # as a config keeps it
    again = read_description(described)
    assert again.describe() == dataset.describe()
    assert again.metadata() == dataset.metadata()
    assert again.resolve_root() == dataset.resolve_root().absolute()
    assert (again.splits, again.image_suffixes) == (dataset.splits, dataset.image_suffixes)


def test_a_root_below_the_datasets_folder_still_follows_the_variable(tmp_path, monkeypatch):
    dataset = read_folder_dataset(write_yaml(tmp_path, root="$DETECTRON2_DATASETS/mine"))
    again = read_description(dataset.describe())
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "moved"))
    assert again.resolve_root() == tmp_path / "moved/mine"


class TestWithoutTheFile:
    def test_a_saved_config_is_whole(self, saved):
        path, name = saved
        cfg = setup_config(str(path), [], for_inference=True)
        metadata = metadata_of(cfg, f"{name}_sem_seg_train")
        assert metadata.stuff_classes == CLASSES and len(metadata.stuff_colors) == 3
        assert metadata.ignore_label == 255

    def test_the_images_are_looked_for_where_they_were(self, saved):
        path, name = saved
        write_pairs(path.parents[1] / "data", ["a"])
        cfg = setup_config(str(path), [])
        (record,) = DatasetCatalog.get(cfg.DATASETS.TRAIN[0])
        assert record["file_name"] == str(path.parents[1] / "data/images/a.png")

    def test_a_file_that_came_back_counts(self, saved, tmp_path):
        path, name = saved
        write_yaml(tmp_path / "data", name=name, root="moved")
        write_pairs(tmp_path / "data/moved", ["c"])
        setup_config(str(path), [])
        (record,) = DatasetCatalog.get(f"{name}_sem_seg_train")
        assert record["file_name"].endswith("moved/images/c.png")

    def test_a_file_with_other_classes_does_not_count(self, saved, tmp_path, caplog):
        path, name = saved
        write_yaml(tmp_path / "data", name=name, classes=["car", "road", "tree"])
        with caplog.at_level(logging.WARNING):
            cfg = setup_config(str(path), [])
        assert metadata_of(cfg, f"{name}_sem_seg_train").stuff_classes == CLASSES
        assert "data.yaml has other classes" in caplog.text

    def test_an_old_config_without_descriptions_says_what_is_missing(self, saved):
        path, name = saved
        content = yaml.safe_load(path.read_text())
        del content["DATASETS"]["DESCRIPTIONS"]
        path.write_text(yaml.safe_dump(content))
        with pytest.raises(DatasetError, match="data.yaml': no such file"):
            setup_config(str(path), [], for_inference=True)

    def test_saving_it_again_changes_nothing(self, saved, tmp_path):
        path, _ = saved
        again = tmp_path / "again.yaml"
        again.write_text(setup_config(str(path), []).dump())
        assert yaml.safe_load(again.read_text()) == yaml.safe_load(path.read_text())


class TestOneNameTwice:
    def test_a_model_keeps_its_classes_where_another_dataset_has_its_name(self, saved, tmp_path):
        path, name = saved
        other = write_yaml(tmp_path / "other", name=name, classes=["a", "b", "c"])
        setup_config(str(config_of(other, name)), [], for_inference=True)
        cfg = setup_config(str(path), [], for_inference=True)
        assert metadata_of(cfg, f"{name}_sem_seg_train").stuff_classes == CLASSES

    def test_a_training_is_refused(self, saved, tmp_path):
        path, name = saved
        other = write_yaml(tmp_path / "other", name=name, classes=["a", "b", "c"])
        setup_config(str(config_of(other, name)), [])
        with pytest.raises(DatasetError, match="already described by"):
            setup_config(str(path), [])

    def test_two_files_of_one_config_are_refused(self, tmp_path):
        name = unique_name()
        paths = [write_yaml(tmp_path / folder, name=name) for folder in ("one", "two")]
        config = config_of(paths[0], name, FOLDERS=list(map(str, paths)))
        with pytest.raises(DatasetError, match=r"two/data.yaml.*already described by.*one/"):
            setup_config(str(config), [], for_inference=True)


class TestDatasetOfPythonCode:
    @pytest.fixture
    def registered(self):
        name = unique_name()
        DatasetCatalog.register(name, list)
        MetadataCatalog.get(name).set(
            stuff_classes=CLASSES, stuff_colors=[(1, 2, 3)] * 3, ignore_label=200
        )
        yield name
        MetadataCatalog.remove(name)

    def test_its_classes_are_kept(self, registered, tmp_path):
        names = {"TRAIN": [registered], "TEST": [registered], "FOLDERS": []}
        config = config_of(tmp_path / "none.yaml", "x", **names)
        saved = tmp_path / "saved.yaml"
        saved.write_text(setup_config(str(config), []).dump())
        DatasetCatalog.remove(registered)
        MetadataCatalog.remove(registered)
        cfg = setup_config(str(saved), [], for_inference=True)
        metadata = metadata_of(cfg, registered)
        assert metadata.stuff_classes == CLASSES and metadata.ignore_label == 200
        assert metadata.stuff_colors == [[1, 2, 3]] * 3
        with pytest.raises(UserError, match=f"no dataset is registered as '{registered}'"):
            setup_config(str(saved), [])  # a training needs its images


def test_a_dataset_of_this_package_needs_no_description():
    cfg = setup_config("camvid/fpn_resnet18_linear", ["MODEL.DEVICE", "cpu"])
    assert cfg.DATASETS.DESCRIPTIONS == []


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"name": "x", "splits": {}}, "expected a mapping .* 'source'"),
        ({"source": "x.yaml", "name": "x", "splits": {}, "classes": ["a"]}, "x.yaml: 'splits'"),
        ("nothing", "expected a mapping"),
    ],
)
def test_a_damaged_description_is_reported(tiny_config, description, message):
    tiny_config.DATASETS.DESCRIPTIONS = [description]
    with pytest.raises(DatasetError, match=message):
        register_datasets_of(tiny_config)
