"""The YAML description of a folder dataset: what it may say, and the errors when it is wrong."""

from pathlib import Path

import pytest
import yaml
from data_folders import write_yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from d2_ctxseg.data import DatasetError, generate_palette, read_folder_dataset

PAGE = Path(__file__).parents[2] / "docs" / "DATASETS.md"


def test_a_minimal_description_gets_the_documented_defaults(tmp_path):
    dataset = read_folder_dataset(write_yaml(tmp_path, name="mydata"))
    assert dataset.registered_name("train") == "mydata_sem_seg_train"
    assert dataset.ignore_label == 255
    assert dataset.id_map is None
    assert dataset.label_suffixes == (".png",)
    assert ".jpg" in dataset.image_suffixes
    assert dataset.palette == generate_palette(3)
    assert dataset.resolve_root() == tmp_path


def test_root_is_relative_to_the_yaml_file_from_any_working_directory(tmp_path, monkeypatch):
    dataset = read_folder_dataset(write_yaml(tmp_path / "sets", root="../pictures"))
    monkeypatch.chdir(tmp_path.parent)
    assert dataset.resolve_root().resolve() == tmp_path / "pictures"


def test_root_may_be_absolute(tmp_path):
    dataset = read_folder_dataset(write_yaml(tmp_path, root="/somewhere/else"))
    assert str(dataset.resolve_root()) == "/somewhere/else"


def test_root_below_the_datasets_variable_follows_the_environment(tmp_path, monkeypatch):
    dataset = read_folder_dataset(write_yaml(tmp_path, root="$DETECTRON2_DATASETS/mine"))
    monkeypatch.setenv("DETECTRON2_DATASETS", "/data/all")
    assert str(dataset.resolve_root()) == "/data/all/mine"
    monkeypatch.delenv("DETECTRON2_DATASETS")
    assert str(dataset.resolve_root()) == "datasets/mine"


def test_id_map_turns_ignore_into_the_ignore_label_and_keeps_the_ignore_label(tmp_path):
    path = write_yaml(tmp_path, id_map={7: 0, 8: 2, 0: "ignore"}, ignore_label=200)
    assert read_folder_dataset(path).id_map == {7: 0, 8: 2, 0: 200, 200: 200}


def test_id_map_may_give_the_value_of_the_ignore_label_to_a_class(tmp_path):
    path = write_yaml(tmp_path, id_map={255: 1})
    assert read_folder_dataset(path).id_map == {255: 1}


def test_id_map_may_have_its_former_name(tmp_path):
    path = write_yaml(tmp_path, label_map={7: 0})
    assert read_folder_dataset(path).id_map == {7: 0, 255: 255}


def test_id_map_may_do_what_mmsegmentation_calls_reduce_zero_label(tmp_path):
    path = write_yaml(tmp_path, id_map="reduce_zero_label")
    assert read_folder_dataset(path).id_map == {0: 255, 1: 0, 2: 1, 3: 2, 255: 255}


def test_a_split_may_have_a_list_of_its_images(tmp_path):
    files = {"images": "i", "labels": "l", "list": "train.txt"}
    dataset = read_folder_dataset(write_yaml(tmp_path, splits={"train": files}))
    assert dataset.splits["train"].list == "train.txt"


def test_splits_may_have_further_names(tmp_path):
    dataset = read_folder_dataset(write_yaml(tmp_path, name="mine", aliases={"yours": "train"}))
    assert dataset.registered_names() == {"mine_sem_seg_train": "train", "yours": "train"}


def test_a_palette_may_be_in_a_separate_file(tmp_path):
    (tmp_path / "colors.yaml").write_text("[[1, 2, 3], [4, 5, 6], [7, 8, 9]]")
    dataset = read_folder_dataset(write_yaml(tmp_path, palette="colors.yaml"))
    assert dataset.palette == ((1, 2, 3), (4, 5, 6), (7, 8, 9))


@pytest.mark.parametrize("values", [[0, 65535], [-1.5, 2]])
def test_values_of_images_may_range_over_anything(tmp_path, values):
    assert read_folder_dataset(write_yaml(tmp_path, value_range=values)).value_range == (*values,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clases": ["a"]}, "unknown key 'clases'.*Did you mean 'classes'"),
        ({"name": None}, "lacks the key 'name'"),
        ({"name": "my data"}, "'name' must consist of"),
        ({"splits": {}}, "at least one split"),
        ({"splits": {"train": {"labels": "l"}}}, "split 'train' lacks the key 'images'"),
        ({"splits": {"train": {"images": "i", "labels": None}}}, "'labels' of split 'train'"),
        ({"splits": {"train": "images"}}, "split 'train' must be a mapping"),
        ({"splits": {"train": {"images": "i", "label": "l"}}}, "Did you mean 'labels'"),
        ({"splits": {"train": {"images": "i", "labels": ""}}}, "'labels' of split 'train'"),
        ({"classes": []}, "at least one class name"),
        ({"classes": ["a", "b", "a"]}, "'a' more than once"),
        ({"classes": ["a", True]}, "in quotes"),
        ({"palette": [[0, 0, 0]]}, "list of 3 colours, one per class, but is a list of 1 colour"),
        ({"palette": [[0, 0, 0], [1, 1, 1], [0, 0, 256]]}, r"0\.\.255, but is \[0, 0, 256\]"),
        ({"ignore_label": 2}, "must not be a class index"),
        ({"ignore_label": -1}, r"integer in 0\.\.65535"),
        ({"classes": [f"c{i}" for i in range(300)]}, "255 with 300 classes"),
        ({"id_map": {1: 3}}, r"maps 1 to 3, but must map it to a class index in 0\.\.2"),
        ({"id_map": {1: "ignored"}}, "maps 1 to 'ignored'"),
        ({"id_map": {"road": 1}}, "key of 'id_map' must be an integer"),
        ({"id_map": {}}, "'id_map' must map"),
        ({"image_suffix": []}, "'image_suffix' must be"),
        ({"root": 3}, "'root' must be a path"),
        ({"name": "my data {split}"}, "'name' without {split} must consist of"),
        ({"num_classes": 4}, r"integer in 1\.\.3, but is 4"),
        ({"num_classes": 0}, r"integer in 1\.\.3, but is 0"),
        ({"original_ids": [1, 2]}, "list of 3 integers"),
        ({"original_ids": [1, 2, 65536]}, r"integers in 0\.\.65535"),
        ({"original_ids": [1, 2, True]}, "list of 3 integers"),
        ({"original_ids": 65534}, "first of consecutive integers, but is 65534"),
        ({"original_ids": -1}, "but is -1"),
        ({"original_ids": "1"}, "but is '1'"),
        ({"original_ids": [1, 2, 1]}, "has 1 for more than one class"),
        ({"classes": "nowhere.yaml"}, "'classes' names the file .*nowhere.yaml': no such file"),
        ({"palette": "nowhere.yaml"}, "'palette' names the file .*nowhere.yaml': no such file"),
        ({"id_map": {1: 0}, "label_map": {1: 0}}, "former name of 'id_map': use only"),
        ({"id_map": "reduce"}, "or be 'reduce_zero_label'"),
        ({"aliases": {"other": "val"}}, r"names to splits \(train\)"),
        ({"aliases": ["other"]}, "'aliases' must map"),
        ({"aliases": {"my data": "train"}}, "a name in 'aliases' must consist of"),
        ({"value_range": [0, 0]}, r"'value_range' must be \[low, high\], but is \[0, 0\]"),
        ({"value_range": [0, float("inf")]}, "'value_range' must be"),
        ({"value_range": 255}, "'value_range' must be"),
        ({"value_range": [False, True]}, "'value_range' must be"),
    ],
)
def test_a_wrong_description_is_refused_with_its_file_and_reason(tmp_path, changes, message):
    path = write_yaml(tmp_path, **changes)
    with pytest.raises(DatasetError, match=message) as error:
        read_folder_dataset(path)
    assert str(path) in str(error.value)


def test_a_name_may_say_where_the_split_stands_in_it(tmp_path):
    dataset = read_folder_dataset(write_yaml(tmp_path, name="stuff_{split}_of_mine"))
    assert dataset.registered_name("train") == "stuff_train_of_mine"


@pytest.mark.parametrize("content", ["[a, b, c]", "{7: a, 3: b, 5: c}"])
def test_classes_may_be_in_a_separate_file(tmp_path, content):
    (tmp_path / "classes.yaml").write_text(content)
    dataset = read_folder_dataset(write_yaml(tmp_path, classes="classes.yaml"))
    assert dataset.classes == ("a", "b", "c")
    assert dataset.original_ids == ((7, 3, 5) if content[0] == "{" else None)


def test_a_file_of_classes_that_maps_something_else_than_ids_is_refused(tmp_path):
    (tmp_path / "classes.yaml").write_text("{road: a, 3: b}")
    with pytest.raises(DatasetError, match=r"classes\.yaml, which maps 'road' to a class"):
        read_folder_dataset(write_yaml(tmp_path, classes="classes.yaml"))


@pytest.mark.parametrize(
    ("given", "ids"), [([9, 300, 0], (9, 300, 0)), (1, (1, 2, 3)), (65533, (65533, 65534, 65535))]
)
def test_original_ids_are_a_list_or_the_first_of_consecutive_ones(tmp_path, given, ids):
    assert read_folder_dataset(write_yaml(tmp_path, original_ids=given)).original_ids == ids


def test_original_ids_that_are_given_win_over_those_of_the_file_of_classes(tmp_path):
    (tmp_path / "classes.yaml").write_text("{7: a, 3: b, 5: c}")
    path = write_yaml(tmp_path, classes="classes.yaml", original_ids=[1, 2, 9], num_classes=2)
    assert read_folder_dataset(path).original_ids == (1, 2)


def test_original_ids_of_the_file_are_cut_like_the_classes(tmp_path):
    (tmp_path / "classes.yaml").write_text("{7: a, 3: b, 5: c}")
    path = write_yaml(tmp_path, classes="classes.yaml", num_classes=2)
    assert read_folder_dataset(path).original_ids == (7, 3)


def test_a_split_may_have_no_labels(tmp_path):
    splits = {"train": {"images": "i", "labels": "l"}, "test": {"images": "t"}}
    dataset = read_folder_dataset(write_yaml(tmp_path, splits=splits))
    assert dataset.splits == {"train": ("i", "l", None), "test": ("t", None, None)}
    assert (dataset.has_labels("train"), dataset.has_labels("test")) == (True, False)


def test_of_the_first_classes_the_others_are_ignored(tmp_path):
    dataset = read_folder_dataset(write_yaml(tmp_path, num_classes=2))
    assert dataset.classes == ("road", "tree")
    assert len(dataset.palette) == 2
    assert dataset.id_map == {0: 0, 1: 1, 2: 255, 255: 255}


def test_of_the_first_classes_of_mapped_labels_the_others_are_ignored(tmp_path):
    dataset = read_folder_dataset(
        write_yaml(tmp_path, num_classes=1, id_map={10: 0, 20: 1, 30: "ignore"})
    )
    assert dataset.id_map == {255: 255, 10: 0, 20: 255, 30: 255}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "not valid YAML"),
        ("name: a\nname: b\n", "duplicate key: name"),
        ("just text", "must be a mapping"),
        ("", "must be a mapping"),
        ("name: !!python/object/apply:os.getcwd []", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_description_is_refused(tmp_path, text, message):
    path = tmp_path / "data.yaml"
    path.write_text(text)
    with pytest.raises(DatasetError, match=message):
        read_folder_dataset(path)


def test_a_missing_description_is_reported(tmp_path):
    with pytest.raises(DatasetError, match="nowhere.yaml"):
        read_folder_dataset(tmp_path / "nowhere.yaml")


@settings(deadline=None)
@given(st.integers(1, 300))
def test_generated_colours_differ_and_do_not_depend_on_their_number(number):
    palette = generate_palette(number)
    assert len(set(palette)) == number
    assert palette == generate_palette(300)[:number]
    assert all(0 <= value <= 255 for color in palette for value in color)


def test_the_examples_of_the_page_are_valid_descriptions(tmp_path):
    text = PAGE.read_text(encoding="utf-8")
    examples = [part.split("```")[0] for part in text.split("```yaml\n")[1:]]
    descriptions = [text for text in examples if "classes" in yaml.safe_load(text)]
    assert len(descriptions) == 3
    for example in descriptions:
        path = tmp_path / "example.yaml"
        path.write_text(example)
        read_folder_dataset(path)
