"""Preparation of many files: writing, resuming, errors, skipped files and messages."""

import argparse
import os
from pathlib import Path

import numpy as np
import pytest
from data_folders import unique_name, write_image, write_yaml

from d2_ctxseg.commands.parsers.prepare import dataset_parser
from d2_ctxseg.data import DatasetError, check_dataset, read_label, register_folder_dataset
from d2_ctxseg.data.folder_dataset import datasets_root
from d2_ctxseg.data.preparation import (
    Archive,
    LabelFile,
    Pair,
    Split,
    class_indices,
    prepare_dataset,
    prepare_pairs,
)
from d2_ctxseg.utils.errors import MissingFileError, UserError
from detectron2.data import DatasetCatalog

ID_MAP = class_indices([1, 2, 3], [0])
ARCHIVE = Archive("Testset", ("https://example.org/data",), "a/*.png\nb/*.png", ("one", "two"))


def make_pairs(folder: Path, count: int) -> list[Pair]:
    pairs = []
    for index in range(count):
        values = np.random.default_rng(index).integers(0, 4, (6, 8)).astype(np.uint8)
        source = write_image(folder / f"official/{index}.png", values)
        pairs.append(Pair(LabelFile(source, folder / f"labels/{index}.png", ID_MAP)))
    return pairs


def split(folder: Path, pairs, official_count: int | None = None) -> Split:
    count = len(pairs) if official_count is None else official_count
    return Split("train", count, folder / "labels", pairs)


def options(*words) -> argparse.Namespace:
    arguments = dataset_parser("camvid").parse_args(["--workers", "2", *words])
    arguments.root = arguments.root or datasets_root()
    return arguments


def modification_times(folder: Path) -> dict[Path, int]:
    return {path: path.lstat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


class TestPairs:
    def test_are_made_and_what_each_pixel_becomes_is_correct(self, tmp_path):
        pairs = make_pairs(tmp_path, 5)
        assert prepare_pairs(pairs, 2) == dict.fromkeys(pairs, True)
        for pair in pairs:
            official = read_label(pair.label.source).tolist()
            expected = [[{0: 255, 1: 0, 2: 1, 3: 2}[value] for value in row] for row in official]
            assert read_label(pair.label.target).tolist() == expected

    def test_continue_where_an_earlier_run_was_stopped(self, tmp_path):
        pairs = make_pairs(tmp_path, 5)
        prepare_pairs(pairs[:2])
        before = modification_times(tmp_path / "labels")
        assert list(prepare_pairs(pairs, verify=True).values()) == [False, False, True, True, True]
        assert before.items() <= modification_times(tmp_path / "labels").items()

    def test_that_are_broken_are_reported_and_do_not_stop_the_others(self, tmp_path):
        pairs = make_pairs(tmp_path, 9)
        write_image(pairs[4].label.source, np.full((6, 8), 9, np.uint8))
        pairs[7].label.source.write_bytes(b"no image")
        outcomes = prepare_pairs(pairs, 2)
        errors = {pair: error for pair, error in outcomes.items() if error is not True}
        assert list(errors) == [pairs[4], pairs[7]]
        assert all(isinstance(error, DatasetError) for error in errors.values())
        assert sorted(path.stem for path in (tmp_path / "labels").iterdir()) == [*"0123568"]

    def test_end_when_files_cannot_be_written(self, tmp_path):
        pairs = make_pairs(tmp_path, 9)
        (tmp_path / "labels").write_text("a file where the folder should be")
        with pytest.raises(UserError, match="Cannot write .*labels"):
            prepare_pairs(pairs, 2)

    def test_need_a_worker(self):
        with pytest.raises(UserError, match="--workers must be at least 1"):
            prepare_pairs([], 0)


class TestDataset:
    def test_is_created_once(self, tmp_path, capsys):
        splits = [split(tmp_path, make_pairs(tmp_path, 3))]
        prepare_dataset(splits, options(), ["name"])
        assert "3 pairs written" in capsys.readouterr().out
        prepare_dataset(splits, options(), ["name"])
        assert "Nothing to do: 0 pairs written, 3 already existed" in capsys.readouterr().out

    @pytest.mark.parametrize("official_count", [2, 4])
    def test_must_have_the_official_number_of_files(self, tmp_path, official_count):
        splits = [split(tmp_path, make_pairs(tmp_path, 3), official_count)]
        with pytest.raises(UserError, match=f"train: 3 labels .* has {official_count}"):
            prepare_dataset(splits, options(), ["name"])
        assert not (tmp_path / "labels").exists()
        prepare_dataset(splits, options("--allow-incomplete"), ["name"])
        assert len(list((tmp_path / "labels").iterdir())) == 3

    def test_without_any_label_is_refused(self, tmp_path):
        with pytest.raises(UserError, match="Check that --source"):
            prepare_dataset([split(tmp_path, [], 3)], options("--allow-incomplete"), ["name"])

    def test_of_which_files_are_missing_names_them(self, tmp_path):
        pairs = make_pairs(tmp_path, 3)
        pairs[1].label.source.unlink()
        with pytest.raises(UserError, match=r"1 missing file:\n- .*official/1\.png"):
            prepare_dataset([split(tmp_path, pairs)], options(), ["name"])
        prepare_dataset([split(tmp_path, pairs)], options("--allow-incomplete"), ["name"])
        assert sorted(path.stem for path in (tmp_path / "labels").iterdir()) == ["0", "2"]

    def test_has_its_folder_of_images_linked_unless_something_is_there(self, tmp_path, capsys):
        unpacked, target = tmp_path / "unpacked", tmp_path / "images"
        splits = [split(tmp_path, make_pairs(tmp_path, 1))]
        prepare_dataset(splits, options(), ["name"], [(unpacked, target)])
        assert f"the images are missing: {target}" in capsys.readouterr().out
        unpacked.mkdir()
        prepare_dataset(splits, options(), ["name"], [(unpacked, target)])
        assert target.resolve() == unpacked and not Path(os.readlink(target)).is_absolute()
        prepare_dataset(splits, options(), ["name"], [(tmp_path / "other", target)])
        assert target.resolve() == unpacked


class TestBrokenPairs:
    """The images stay in their folder, and the labels of two of them cannot be made."""

    @pytest.fixture
    def pairs(self, tmp_path):
        pairs = make_pairs(tmp_path, 5)
        for pair in pairs:
            name = f"images/{pair.label.source.name}"
            write_image(tmp_path / name, np.zeros((6, 8, 3), np.uint8))
        write_image(pairs[4].label.source, np.full((6, 8), 9, np.uint8))
        pairs[2].label.source.write_bytes(b"no image")
        return pairs

    def test_are_an_error_that_says_how_to_continue(self, tmp_path, pairs):
        with pytest.raises(UserError, match=r"2 pairs(.|\n)*2\.png(.|\n)*4\.png.*9(.|\n)*--skip-"):
            prepare_dataset([split(tmp_path, pairs)], options(), ["name"])
        assert len(list((tmp_path / "labels").iterdir())) == 3

    def test_are_left_out_on_demand_by_the_loader_too_and_never_silently(
        self, tmp_path, pairs, capsys, caplog
    ):
        prepare_dataset([split(tmp_path, pairs)], options("--skip-broken"), ["name"])
        out = capsys.readouterr().out
        assert (
            "lists 2 broken pairs for the loader to skip" in out
            and "4.png holds the value 9" in out
        )
        [name] = register_folder_dataset(write_yaml(tmp_path, name=unique_name()))
        assert [record["image_id"] for record in DatasetCatalog.get(name)] == ["0", "1", "3"]
        skipped = tmp_path / "labels/skipped.txt"
        assert f"{skipped} leaves out 2 pairs" in caplog.text
        report = check_dataset(name)
        assert (report.num_pairs, report.problems) == (3, [])
        assert f"Note: {skipped} leaves out 2 pairs" in report.as_text()

    def test_that_were_repaired_are_taken_again(self, tmp_path, pairs):
        prepare_dataset([split(tmp_path, pairs)], options("--skip-broken"), ["name"])
        for pair in pairs:
            write_image(pair.label.source, np.ones((6, 8), np.uint8))
        prepare_dataset([split(tmp_path, pairs)], options(), ["name"])
        assert sorted(path.name for path in (tmp_path / "labels").iterdir()) == [
            f"{index}.png" for index in range(5)
        ]

    def test_are_no_excuse_for_files_that_differ_from_what_is_there(self, tmp_path, pairs):
        write_image(tmp_path / "labels/0.png", np.zeros((3, 3), np.uint8))
        with pytest.raises(UserError, match="already exists"):
            prepare_dataset([split(tmp_path, pairs)], options("--skip-broken"), ["name"])


class TestArchive:
    def test_is_looked_for_in_its_folders_in_their_order(self, tmp_path):
        arguments = options("--root", str(tmp_path))
        with pytest.raises(MissingFileError, match=r"one does not exist(.|\n)*example\.org"):
            ARCHIVE.find(arguments)
        (tmp_path / "two").mkdir()
        assert ARCHIVE.find(arguments) == tmp_path / "two"
        (tmp_path / "one").mkdir()
        assert ARCHIVE.find(arguments) == tmp_path / "one"

    def test_that_is_unpacked_elsewhere_is_taken_from_there_alone(self, tmp_path):
        (tmp_path / "one").mkdir()
        with pytest.raises(MissingFileError, match="elsewhere does not exist"):
            ARCHIVE.find(options("--root", str(tmp_path), "--source", f"{tmp_path}/elsewhere"))

    def test_lists_files_without_those_of_the_system(self, tmp_path):
        for name in ("b.png", "a.png", "._a.png", "c.txt"):
            (tmp_path / name).touch()
        assert ARCHIVE.list(tmp_path, "*.png") == [tmp_path / "a.png", tmp_path / "b.png"]
        with pytest.raises(MissingFileError, match=r"a/\*\.png\n  b/\*\.png"):
            ARCHIVE.list(tmp_path / "no", "*")
