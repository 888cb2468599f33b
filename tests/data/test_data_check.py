"""The check of a dataset, the conversion of colour labels, and their commands."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from data_folders import IGNORE, run_script, unique_name, write_image, write_pairs, write_yaml
from PIL import Image

from d2_ctxseg.data import (
    DatasetError,
    check_dataset,
    convert_color_labels,
    read_folder_dataset,
    register_folder_dataset,
)
from d2_ctxseg.visualization.sample_sheet import GAP, TILE_WIDTH, draw_sample_sheet

TOOLS = Path(__file__).parents[2] / "tools"


def check(folder, **changes):
    [name] = register_folder_dataset(write_yaml(folder, **changes))
    return check_dataset(name, num_workers=2)


class TestCheck:
    def test_counts_pixels_and_images_of_each_class(self, tmp_path):
        labels = [[[0, 0, 0], [0, 1, IGNORE]], [[1, 1, 1], [1, IGNORE, IGNORE]]]
        write_pairs(tmp_path, ["a", "b"], size=(2, 3))
        for name, label in zip("ab", labels):
            write_image(tmp_path / f"labels/{name}.png", np.array(label, np.uint8))
        report = check(tmp_path)
        assert report.problems == []
        assert report.num_pairs == 2
        assert report.pixels == [4, 5, 0]
        assert report.images == [1, 2, 0]
        assert report.ignored_pixels == 3
        text = report.as_text()
        assert "No problems." in text
        assert [line.split() for line in text.splitlines()][2:6] == [
            ["0", "road", "4", "33.33%", "1"],
            ["1", "tree", "5", "41.67%", "2"],
            ["2", "car", "0", "0.00%", "0"],
            ["(ignored)", "3", "25.00%"],
        ]

    def test_sees_labels_through_the_id_map(self, tmp_path):
        write_pairs(tmp_path, ["a"], size=(1, 4))
        write_image(tmp_path / "labels/a.png", np.array([[7, 7, 8, 255]], np.uint8))
        report = check(tmp_path, id_map={7: 2, 8: "ignore"})
        assert (report.pixels, report.ignored_pixels) == ([0, 0, 2], 2)

    def test_names_that_are_not_utf8_are_a_problem(self, tmp_path, capsys):
        write_pairs(tmp_path, ["good", "bad"])
        for folder in ("images", "labels"):
            path = tmp_path / folder / "bad.png"
            path.rename(path.with_name("caf\udce9.png"))
        report = check(tmp_path)
        [problem] = report.problems
        assert "1 file with names that are not UTF-8: b'caf\\xe9.png'. Rename them." in problem
        print(report.as_text())

    def test_collects_every_problem_and_continues(self, tmp_path):
        write_pairs(tmp_path, ["good", "value", "size", "image", "label", "alone", "lonely"])
        write_image(tmp_path / "labels/value.png", np.full((12, 16), 9, np.uint8))
        write_image(tmp_path / "labels/size.png", np.zeros((12, 15), np.uint8))
        (tmp_path / "images/image.png").write_bytes(b"junk")
        Image.new("RGB", (16, 12)).save(tmp_path / "labels/label.png")
        (tmp_path / "labels/alone.png").unlink()
        (tmp_path / "images/lonely.png").unlink()
        report = check(tmp_path)
        assert report.num_pairs == 5
        expected = ["1 image has no label", "1 label has no image", "holds the value 9"]
        expected += ["has 15x12", "Cannot read the image", "mode RGB"]
        for part in expected:
            assert sum(part in problem for problem in report.problems) == 1, part
        assert len(report.problems) == len(expected)
        assert f"{len(expected)} problems" in report.as_text()

    def test_equal_problems_are_one_with_a_number_and_three_examples(self, tmp_path):
        names = [f"f{i}" for i in range(6)]
        write_pairs(tmp_path, names)
        for i, name in enumerate(names[:5]):  # different values, but the same kind of problem
            write_image(tmp_path / f"labels/{name}.png", np.full((12, 16), 9 + i, np.uint8))
        (tmp_path / "images/f5.png").write_bytes(b"junk")
        report = check(tmp_path)
        assert len(report.problems) == 6
        of_values, of_image = sorted(report.summary, reverse=True, key=lambda text: "times" in text)
        assert of_values.startswith(
            f"5 times: {tmp_path}/labels/f0.png holds the value 9, expected"
        )
        also = ", ".join(f"{tmp_path}/labels/f{i}.png" for i in (1, 2))
        assert of_values.endswith(f"Also: {also} and 2 more.")
        assert of_image in report.problems
        text = report.as_text()
        assert "6 problems" in text and text.count("\n  - ") == 2
        assert report.as_dict()["problems"] == report.problems

    def test_a_missing_folder_is_a_problem_like_others(self, tmp_path):
        report = check(tmp_path, root="away")
        assert len(report.problems) == 1
        assert "does not exist" in report.problems[0]
        assert "1 problem\n" in report.as_text()

    def test_of_a_split_without_labels_the_images_are_read(self, tmp_path):
        write_pairs(tmp_path, ["a", "b"])
        splits = {"test": {"images": "images"}}
        report = check(tmp_path, splits=splits)
        assert (report.num_images, report.num_pairs, report.labelled) == (2, 0, False)
        text = report.as_text()
        assert text.splitlines() == [f"{report.name}: 2 images without labels", "  No problems."]
        (tmp_path / "images/a.png").write_bytes(b"junk")
        report = check(tmp_path, splits=splits)
        [problem] = report.problems
        assert "Cannot read the image" in problem and "a.png" in problem

    def test_an_unknown_name_is_an_error(self):
        with pytest.raises(DatasetError, match="is not a folder dataset"):
            check_dataset("nobody_knows")


class TestColorLabels:
    """For labels with colours the check says how to convert them."""

    palette = [[128, 0, 0], [0, 128, 0], [0, 0, 128]]

    def check(self, folder, colors, **changes):
        for name in ("a", "b"):
            write_image(folder / f"images/{name}.png", np.zeros((1, len(colors), 3), np.uint8))
            write_image(folder / f"labels/{name}.png", np.array([colors], np.uint8))
        return check(folder, **changes)

    def test_the_command_it_prints_converts_them(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        data = tmp_path / "with space"
        colors = [*self.palette, [0, 0, 0], [9, 9, 9]]
        report = self.check(data, colors, palette=self.palette)
        assert len(report.problems) == 2 and len(report.summary) == 1
        [hint] = report.notes
        command = re.search(r"d2-ctxseg convert-labels (.+) and name", hint)[1]
        assert "--ignore-color 0,0,0 --ignore-color 9,9,9" in command
        assert run_script(TOOLS / "convert_color_labels.py", *shlex.split(command)) == 0
        with Image.open(data / "labels_indexed/train/a.png") as label:
            assert np.asarray(label).tolist() == [[0, 1, 2, IGNORE, IGNORE]]

    def test_the_folder_it_names_is_found_by_the_yaml(self, tmp_path, monkeypatch, capsys):
        """The YAML's folders are relative to its root, not to the working directory."""
        monkeypatch.chdir(tmp_path)
        data = tmp_path / "data"
        [hint] = self.check(data, self.palette, palette=self.palette).notes
        command, labels = re.search(
            r"d2-ctxseg convert-labels (.+) and name (\S+) as", hint
        ).groups()
        assert run_script(TOOLS / "convert_color_labels.py", *shlex.split(command)) == 0
        assert f"Now name {labels} as 'labels' of the split 'train'" in capsys.readouterr().out
        splits = {"train": {"images": "images", "labels": labels}}
        assert check(data, palette=self.palette, splits=splits).problems == []

    def test_without_a_palette_it_is_requested_first(self, tmp_path):
        [hint] = self.check(tmp_path, [[1, 2, 3]]).notes
        assert "has no 'palette'" in hint and "(1, 2, 3)" in hint and "python" not in hint

    def test_many_other_colours_are_an_error_of_the_palette(self, tmp_path):
        [hint] = self.check(tmp_path, [[i, 5, 5] for i in range(20)], palette=self.palette).notes
        assert "20 colours that are not in 'palette'" in hint and "--ignore-color" not in hint


class TestNotes:
    """Notes on what is not an error."""

    def write(self, folder, name, pixels, label=(6, 4), **options):
        write_image(folder / f"labels/{name}.png", np.zeros(label, np.uint8))
        (folder / "images").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / f"images/{name}.png", **options)

    def test_images_that_are_rotated_are_reported(self, tmp_path):
        exif = Image.Exif()
        exif[0x0112] = 6
        self.write(tmp_path, "a", np.zeros((4, 6, 3), np.uint8), exif=exif)
        self.write(tmp_path, "b", np.zeros((6, 4, 3), np.uint8))
        report = check(tmp_path)
        assert report.problems == []
        [note] = report.notes
        assert note.startswith("1 image has an EXIF orientation (a.png)")
        assert f"Note: {note}" in report.as_text()

    def test_a_label_on_the_pixels_as_they_are_stored_is_a_problem(self, tmp_path):
        exif = Image.Exif()
        exif[0x0112] = 6
        self.write(tmp_path, "a", np.zeros((4, 6, 3), np.uint8), (4, 6), exif=exif)
        [problem] = check(tmp_path).problems
        assert "has 4x6 pixels, but its label" in problem and "EXIF" in problem

    def test_values_outside_of_the_range_are_reported(self, tmp_path):
        self.write(tmp_path, "a", np.full((6, 4), 4096, np.uint16))
        self.write(tmp_path, "b", np.full((6, 4), 4095, np.uint16))
        report = check(tmp_path, value_range=[0, 4095])
        assert report.problems == []
        assert report.notes[0].startswith("1 image has values outside of 'value_range'")
        [problem, _] = check(tmp_path).problems
        assert "a.png has values of type uint16" in problem and "value_range" in problem

    def test_different_numbers_of_channels_are_reported(self, tmp_path):
        self.write(tmp_path, "a", np.zeros((6, 4, 4), np.uint8))
        self.write(tmp_path, "b", np.zeros((6, 4, 3), np.uint8))
        report = check(tmp_path)
        assert report.problems == [] and "3 in 1, 4 in 1 images" in report.notes[0]


class TestSheetWithoutLabels:
    def sheet(self, folder, number):
        [name] = register_folder_dataset(write_yaml(folder, splits={"test": {"images": "images"}}))
        return draw_sample_sheet(name, number)

    def test_shows_the_images_alone(self, tmp_path):
        for name, color in (("a", [200, 0, 0]), ("b", [0, 0, 200])):
            write_image(tmp_path / f"images/{name}.png", np.full((24, 32, 3), color, np.uint8))
        sheet = self.sheet(tmp_path, 2)
        height = TILE_WIDTH * 24 // 32
        assert sheet.shape == (height + GAP, 2 * TILE_WIDTH + GAP, 3)
        shown = {tuple(sheet[height // 2, left].tolist()) for left in (9, TILE_WIDTH + GAP + 9)}
        assert shown == {(200, 0, 0), (0, 0, 200)}

    def test_leaves_out_what_cannot_be_read(self, tmp_path):
        write_pairs(tmp_path, ["a", "b"])
        (tmp_path / "images/a.png").write_bytes(b"junk")
        assert self.sheet(tmp_path, 2).shape == self.sheet(tmp_path, 1).shape
        (tmp_path / "images/b.png").write_bytes(b"junk")
        with pytest.raises(DatasetError, match="No image of"):
            self.sheet(tmp_path, 2)


class TestConvertColorLabels:
    palette = [[128, 0, 0], [0, 128, 0], [0, 0, 128]]

    def write(self, folder, colors, name="a", **changes):
        """A dataset whose label holds these colours in one row."""
        write_image(folder / f"images/{name}.png", np.zeros((1, len(colors), 3), np.uint8))
        write_image(folder / f"labels/{name}.png", np.array([colors], np.uint8))
        return read_folder_dataset(write_yaml(folder, palette=self.palette, **changes))

    def test_colours_become_indices_under_the_same_names(self, tmp_path):
        dataset = self.write(tmp_path, [*self.palette, [0, 0, 0]], "city/a", ignore_label=99)
        output = tmp_path / "new/train"
        assert convert_color_labels(dataset, "train", output, ((0, 0, 0),)) == 1
        with Image.open(output / "city/a.png") as label:
            assert label.mode == "L"
            assert np.asarray(label).tolist() == [[0, 1, 2, 99]]

    def test_unknown_colours_are_reported_and_nothing_is_written(self, tmp_path):
        dataset = self.write(tmp_path, [[128, 0, 0], [1, 2, 3]])
        with pytest.raises(DatasetError, match=r"a\.png holds 1 colour .*\(1, 2, 3\)"):
            convert_color_labels(dataset, "train", tmp_path / "new")
        assert not (tmp_path / "new").exists()
        assert not list(tmp_path.glob(".new*"))

    def test_refuses_a_split_without_labels(self, tmp_path):
        dataset = self.write(tmp_path, self.palette, splits={"test": {"images": "images"}})
        with pytest.raises(DatasetError, match="has only images"):
            convert_color_labels(dataset, "test", tmp_path / "new")

    def test_refuses_an_existing_folder_an_unknown_split_and_doubled_colours(self, tmp_path):
        dataset = self.write(tmp_path, self.palette)
        with pytest.raises(DatasetError, match="already exists"):
            convert_color_labels(dataset, "train", tmp_path / "labels")
        with pytest.raises(DatasetError, match="no split 'val', only train"):
            convert_color_labels(dataset, "val", tmp_path / "new")
        with pytest.raises(DatasetError, match="have the same colour"):
            convert_color_labels(dataset, "train", tmp_path / "new", ((128, 0, 0),))


class TestCommands:
    def test_check_reports_as_json_and_exits_with_0(self, tmp_path, capsys):
        write_pairs(tmp_path, ["a", "b"])
        name = unique_name()
        path = write_yaml(tmp_path, name=name)
        assert run_script(TOOLS / "check_dataset.py", "--folder", path, "--json") == 0
        [report] = json.loads(capsys.readouterr().out)
        assert report["name"] == f"{name}_sem_seg_train"
        assert report["num_pairs"] == 2

    def test_check_takes_the_datasets_of_a_config_and_exits_with_1_on_problems(
        self, tmp_path, capsys
    ):
        write_pairs(tmp_path, ["a"])
        (tmp_path / "labels/a.png").write_bytes(b"junk")
        name = unique_name()
        path = write_yaml(tmp_path, name=name)
        config = tmp_path / "config.yaml"
        config.write_text(f"DATASETS:\n  FOLDERS: ['{path}']\n  TRAIN: ('{name}_sem_seg_train',)\n")
        assert run_script(TOOLS / "check_dataset.py", "--config-file", config) == 1
        output = capsys.readouterr().out
        assert f"{name}_sem_seg_train: 1 pair" in output
        assert "Cannot read the label" in output

    def test_check_without_anything_to_check_is_reported(self, capsys):
        assert run_script(TOOLS / "check_dataset.py") == 1
        assert capsys.readouterr().err.startswith("error: Nothing to check")

    def test_convert(self, tmp_path, capsys):
        write_pairs(tmp_path, ["a"], size=(1, 2))
        write_image(tmp_path / "labels/a.png", np.array([[[9, 9, 9], [0, 0, 0]]], np.uint8))
        yaml_path = write_yaml(tmp_path, classes=["one"], palette=[[9, 9, 9]])
        output = tmp_path / "new"
        command = [TOOLS / "convert_color_labels.py", yaml_path, "train", "--output", output]
        assert run_script(*command) == 1
        assert "--ignore-color" in capsys.readouterr().err
        assert run_script(*command, "--ignore-color", "0,0,0") == 0
        with Image.open(output / "a.png") as label:
            assert np.asarray(label).tolist() == [[0, 255]]
