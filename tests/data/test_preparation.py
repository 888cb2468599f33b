"""Making the files of a dataset: tables of labels, single files, runs, and their numbers."""

import argparse
import os
import signal
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from data_folders import write_image
from PIL import Image

from d2_ctxseg.data import DatasetError, read_label
from d2_ctxseg.data.folder_dataset import read_folder_dataset
from d2_ctxseg.data.preparation import FolderLink, ImageFile, LabelFile, reduced_size
from d2_ctxseg.data.preparation_command import (
    Archive,
    Split,
    complete_pairs,
    list_folder,
    prepare_dataset,
    read_name_list,
)
from d2_ctxseg.data.preparation_run import estimate_bytes, prepare_files, remove_leftovers
from d2_ctxseg.data.preparation_sources import (
    label_table,
    map_values,
    read_ade20k_objects,
    read_source_ids,
)
from d2_ctxseg.data.registration import BUILTIN_FOLDER
from d2_ctxseg.utils.errors import MissingFileError, UserError

TABLE = label_table([1, 2, 3], [0])
ARCHIVE = Archive("Testset", ("https://example.org/data",), "a/*.png\nb/*.png")


def label_files(folder: Path, count: int, size=(6, 8)) -> list[LabelFile]:
    rng = np.random.default_rng(0)
    files = []
    for index in range(count):
        values = rng.integers(0, 4, size).astype(np.uint8)
        source = write_image(folder / f"official/{index}.png", values)
        files.append(LabelFile(source, folder / f"made/{index}.png", TABLE))
    return files


def end_this_process(path: Path):
    os.kill(os.getpid(), signal.SIGKILL)


def options(**changes) -> argparse.Namespace:
    values = {"workers": 1, "dry_run": False, "overwrite": False, "verify": False}
    return argparse.Namespace(**{**values, "allow_incomplete": False, **changes})


def modification_times(folder: Path) -> dict[Path, int]:
    return {path: path.lstat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


class TestSourceIds:
    COUNTS = {"ade20k_full": 847, "coco_stuff": 171, "cityscapes": 19, "pascal_context": 59}

    @pytest.mark.parametrize("name", COUNTS)
    def test_number_every_class_once(self, name):
        ids = read_source_ids(name)
        assert len(ids) == self.COUNTS[name]
        assert len(set(ids.values())) == len(ids)
        assert all(isinstance(number, int) and number > 0 for number in ids)

    def test_are_those_of_the_official_tables(self):
        named = {name: dict(read_source_ids(name)) for name in self.COUNTS}
        assert named["ade20k_full"][2978] == "wall"
        assert named["ade20k_full"][3148] == "adding machine, totalizer, totaliser"
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

    @pytest.mark.parametrize(
        ("name", "description", "first"),
        [
            ("ade20k_full", "ade20k_full", 0),
            ("coco_stuff", "coco_stuff_164k", 0),
            ("coco_stuff", "coco_stuff_10k", 0),
            ("cityscapes", "cityscapes", 0),
            ("pascal_context", "pascal_context_59", 0),
            ("pascal_context", "pascal_context_60", 1),
        ],
    )
    def test_are_in_the_order_of_the_registered_classes(self, name, description, first):
        classes = read_folder_dataset(BUILTIN_FOLDER / f"{description}.yaml").classes
        assert list(classes)[first:] == list(read_source_ids(name).values())


class TestLabelTable:
    def test_sends_classes_to_their_indices_and_others_to_the_ignore_label(self):
        table = label_table([7, 4], [0, 5], ignore_label=255)
        values = np.array([[0, 4, 5, 7]], np.uint8)
        assert map_values(values, table, "x").tolist() == [[255, 1, 255, 0]]

    def test_can_start_at_another_index(self):
        table = label_table([4, 7], range(9), ignore_label=0, first_index=1)
        assert map_values(np.arange(9), table, "x").tolist() == [0, 0, 0, 0, 1, 0, 0, 2, 0]

    @pytest.mark.parametrize("value", [2, 8, 200])
    def test_refuses_a_value_that_is_no_label(self, value):
        with pytest.raises(DatasetError, match=rf"bad\.png holds values .*: {value}\."):
            map_values(np.array([[7, value]], np.uint8), label_table([7], [0]), "bad.png")

    def test_gives_8_bits_unless_more_are_needed(self):
        values = np.array([[0, 300]], np.uint16)
        assert map_values(values, label_table([300], [0]), "x").dtype == np.uint8
        wide = map_values(values, label_table([300], [0], ignore_label=65535), "x")
        assert wide.dtype == np.uint16 and wide.tolist() == [[65535, 0]]


class TestAde20kObjects:
    def test_are_read_from_two_channels(self, tmp_path):
        pixels = np.array([[[0, 0, 9], [110, 162, 1], [118, 162, 2]]], np.uint8)
        path = write_image(tmp_path / "a_seg.png", pixels)
        assert read_ade20k_objects(path).tolist() == [[0, 11 * 256 + 162, 11 * 256 + 162]]

    def test_need_an_rgb_image(self, tmp_path):
        path = write_image(tmp_path / "a_seg.png", np.zeros((2, 2), np.uint8))
        with pytest.raises(DatasetError, match="mode L"):
            read_ade20k_objects(path)


class TestLabelFile:
    def test_of_16_bits_keeps_large_values(self, tmp_path):
        source = write_image(tmp_path / "a.png", np.array([[0, 1], [2, 1]], np.uint8))
        table = label_table([1, 2], [0], ignore_label=65535, first_index=845)
        file = LabelFile(source, tmp_path / "b.tif", table)
        file.write()
        assert read_label(file.target).tolist() == [[65535, 845], [846, 845]]
        assert file.is_present(verify=True)

    def test_is_reduced_by_taking_nearest_pixels(self, tmp_path):
        values = np.repeat(np.repeat(np.array([[1, 2, 3], [3, 0, 1]], np.uint8), 4, 0), 4, 1)
        source = write_image(tmp_path / "a.png", values)
        file = LabelFile(source, tmp_path / "b.png", TABLE, short_side=2)
        file.write()
        assert read_label(file.target).tolist() == [[0, 1, 2], [2, 255, 0]]
        assert file.is_present(verify=True)

    def test_must_have_the_size_of_its_image(self, tmp_path):
        source = write_image(tmp_path / "a.png", np.zeros((4, 5), np.uint8))
        image = write_image(tmp_path / "a.jpg", np.zeros((4, 6, 3), np.uint8))
        with pytest.raises(DatasetError, match="5x4 pixels, but its image .* is 6x4"):
            LabelFile(source, tmp_path / "b.png", TABLE, image=image).content()

    def test_that_differs_is_noticed_with_verify_only(self, tmp_path):
        (file,) = label_files(tmp_path, 1)
        write_image(file.target, np.zeros((6, 8), np.uint8))
        assert file.is_present()
        with pytest.raises(DatasetError, match="labels differ.*--overwrite"):
            file.is_present(verify=True)

    def test_of_another_size_or_kind_is_noticed_always(self, tmp_path):
        (file,) = label_files(tmp_path, 1)
        write_image(file.target, np.zeros((6, 9), np.uint8))
        with pytest.raises(DatasetError, match="9x6, not 8x6"):
            file.is_present()
        write_image(file.target, np.zeros((6, 8, 3), np.uint8))
        with pytest.raises(DatasetError, match="mode RGB"):
            file.is_present()


class TestImageFile:
    def source(self, folder: Path, size=(40, 60), **options) -> Path:
        pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        path = folder / "official" / "a.jpg"
        path.parent.mkdir(parents=True)
        Image.fromarray(pixels).save(path, **options)
        return path

    def test_is_a_relative_link_that_survives_moving_the_root(self, tmp_path):
        source = self.source(tmp_path / "old")
        file = ImageFile(source, tmp_path / "old/made/train/a.jpg")
        file.write()
        assert file.is_present(verify=True)
        (tmp_path / "old").rename(tmp_path / "new")
        moved = tmp_path / "new/made/train/a.jpg"
        assert moved.is_symlink() and not Path(os.readlink(moved)).is_absolute()
        assert moved.read_bytes() == (tmp_path / "new/official/a.jpg").read_bytes()

    def test_is_copied_where_links_cannot_be_made(self, tmp_path, monkeypatch):
        monkeypatch.setattr(Path, "symlink_to", lambda *_: (_ for _ in ()).throw(OSError()))
        source = self.source(tmp_path)
        file = ImageFile(source, tmp_path / "made/a.jpg")
        file.write()
        assert not file.target.is_symlink() and file.is_present(verify=True)
        assert file.target.read_bytes() == source.read_bytes()

    def test_is_reduced_to_the_shorter_side(self, tmp_path):
        file = ImageFile(self.source(tmp_path), tmp_path / "made/a.jpg", short_side=20)
        file.write()
        assert Image.open(file.target).size == (30, 20) and file.is_present()

    def test_is_stored_as_its_label_lies_when_exif_would_turn_it(self, tmp_path):
        exif = Image.Exif()
        exif[0x0112] = 6
        file = ImageFile(self.source(tmp_path, exif=exif), tmp_path / "made/a.jpg")
        file.write()
        assert not file.target.is_symlink()
        with Image.open(file.target) as image:
            assert image.size == (60, 40) and 0x0112 not in image.getexif()

    def test_in_its_place_already_is_never_written(self, tmp_path):
        source = self.source(tmp_path)
        before = source.read_bytes()
        ImageFile(source, source, short_side=5, copy=True).write()
        assert source.read_bytes() == before and not source.is_symlink()


@pytest.mark.parametrize(
    ("size", "reduced"),
    [((683, 512), (683, 512)), ((1024, 768), (683, 512)), ((700, 1400), (512, 1024))],
)
def test_the_shorter_side_is_reduced_to_512_as_in_public_preparations(size, reduced):
    assert reduced_size(size, 512) == reduced
    assert reduced_size(size, None) == size


class TestRun:
    @pytest.mark.parametrize("num_workers", [1, 2])
    def test_writes_what_each_pixel_becomes(self, tmp_path, num_workers):
        files = label_files(tmp_path, 20)
        report = prepare_files(files, num_workers=num_workers)
        assert (report.written, report.present, report.errors) == (20, 0, [])
        for file in files:
            official, made = (
                np.asarray(Image.open(file.source)),
                np.asarray(Image.open(file.target)),
            )
            expected = [[{0: 255, 1: 0, 2: 1, 3: 2}[v] for v in row] for row in official.tolist()]
            assert made.tolist() == expected

    def test_works_in_a_process_whose_opencv_has_threads(self, tmp_path):
        cv2.setNumThreads(4)
        cv2.GaussianBlur(np.zeros((2000, 2000), np.float32), (9, 9), 1.0)
        report = prepare_files(label_files(tmp_path, 20), num_workers=2)
        assert (report.written, report.errors) == (20, [])

    def test_again_changes_nothing(self, tmp_path):
        files = label_files(tmp_path, 3)
        prepare_files(files, num_workers=1)
        before = modification_times(tmp_path)
        report = prepare_files(files, num_workers=1, verify=True)
        assert (report.written, report.present) == (0, 3)
        assert modification_times(tmp_path) == before

    def test_goes_on_where_it_was_stopped(self, tmp_path):
        files = label_files(tmp_path, 5)
        prepare_files(files[:2], num_workers=1)
        before = modification_times(tmp_path / "made")
        report = prepare_files(files, num_workers=1)
        assert (report.written, report.present) == (3, 2)
        assert before.items() <= modification_times(tmp_path / "made").items()

    @pytest.mark.parametrize("num_workers", [1, 2])
    def test_names_bad_files_and_does_the_others(self, tmp_path, num_workers):
        files = label_files(tmp_path, 20)
        write_image(files[4].source, np.full((6, 8), 9, np.uint8))
        files[7].source.write_bytes(b"no image")
        report = prepare_files(files, num_workers=num_workers)
        assert report.written == 18
        assert len(report.errors) == 2
        assert "4.png holds values" in report.errors[0] and "7.png" in report.errors[1]
        assert not files[4].target.exists() and not files[7].target.exists()

    @pytest.mark.parametrize("num_workers", [1, 2])
    def test_ends_when_files_cannot_be_written(self, tmp_path, num_workers):
        files = label_files(tmp_path, 20)
        (tmp_path / "made").write_text("a file where the folder should be")
        with pytest.raises(UserError, match="Cannot write .*made"):
            prepare_files(files, num_workers=num_workers)

    def test_overwrites_only_when_asked(self, tmp_path):
        (file,) = label_files(tmp_path, 1)
        write_image(file.target, np.zeros((6, 8), np.uint8))
        assert "labels differ" in prepare_files([file], num_workers=1, verify=True).errors[0]
        assert not read_label(file.target).any()
        assert prepare_files([file], num_workers=1, overwrite=True).written == 1
        assert file.is_present(verify=True)

    def test_deletes_what_a_killed_run_left_long_ago(self, tmp_path):
        names = [".a.png.12.part", ".b.png.13.part", ".c.png.14.part", "d.12.part"]
        old, new, own, other = (tmp_path / name for name in names)
        for path in (old, new, own, other):
            path.touch()
        for path in (old, other):
            os.utime(path, (time.time() - 3600,) * 2)
        remove_leftovers({tmp_path, tmp_path / "none"}, process_ids={14})
        assert sorted(tmp_path.iterdir()) == sorted([new, other])

    def test_says_what_to_do_when_a_worker_is_killed(self, tmp_path):
        files = label_files(tmp_path, 20)
        files[9] = LabelFile(files[9].source, files[9].target, TABLE, read=end_this_process)
        with pytest.raises(UserError, match="worker process was killed.*--workers"):
            prepare_files(files, num_workers=2)

    def test_estimates_the_size_of_what_it_would_write(self, tmp_path):
        files = label_files(tmp_path, 9, size=(50, 70))
        estimate = estimate_bytes(files)
        assert not (tmp_path / "made").exists()
        prepare_files(files, num_workers=1)
        size = sum(file.target.stat().st_size for file in files)
        assert 0.8 * size < estimate < 1.2 * size
        assert estimate_bytes([]) == 0


class TestCommand:
    def test_accepts_the_official_number_of_files(self, tmp_path, capsys):
        files = label_files(tmp_path, 3)
        prepare_dataset([Split("train", 3, files)], options(), ["name"])
        assert "3 files written" in capsys.readouterr().out
        prepare_dataset([Split("train", 3, files)], options(), ["name"])
        assert "Nothing to do: all 3 files are there already" in capsys.readouterr().out

    @pytest.mark.parametrize("official_count", [2, 4])
    def test_refuses_another_number_of_files(self, tmp_path, official_count):
        splits = [Split("train", official_count, label_files(tmp_path, 3))]
        with pytest.raises(UserError, match=f"train: 3 labels .* has {official_count}"):
            prepare_dataset(splits, options(), ["name"])
        assert not (tmp_path / "made").exists()
        prepare_dataset(splits, options(allow_incomplete=True), ["name"])
        assert len(list((tmp_path / "made").iterdir())) == 3

    def test_refuses_a_folder_without_any_label(self):
        with pytest.raises(UserError, match="Is --source the right folder"):
            prepare_dataset([Split("train", 3, [])], options(allow_incomplete=True), ["name"])

    def test_names_files_of_a_list_that_are_missing(self, tmp_path):
        there, gone = tmp_path / "a.jpg", tmp_path / "b.jpg"
        there.touch()
        pairs, missing = complete_pairs([(there, there), (there, gone)])
        assert pairs == [(there, there)] and missing == [gone]
        splits = [Split("train", 2, label_files(tmp_path, 2), missing=missing)]
        with pytest.raises(UserError, match=r"1 files .*missing:\n- .*b\.jpg"):
            prepare_dataset(splits, options(), ["name"])

    def test_refuses_two_sources_for_one_file(self, tmp_path):
        files = label_files(tmp_path, 1) * 2
        with pytest.raises(UserError, match="would become one file"):
            prepare_dataset([Split("train", 2, files)], options(), ["name"])

    def test_refuses_no_workers(self, tmp_path):
        with pytest.raises(UserError, match="--workers must be at least 1"):
            prepare_dataset([], options(workers=0), ["name"])

    def test_says_when_images_are_not_there(self, tmp_path, capsys):
        link = FolderLink(tmp_path / "none", tmp_path / "images")
        prepare_dataset([Split("train", 1, label_files(tmp_path, 1))], options(), ["name"], [link])
        assert f"the images are not there yet: {tmp_path / 'images'}" in capsys.readouterr().out

    def test_missing_folders_and_lists_name_the_official_page_and_layout(self, tmp_path):
        for read in (
            lambda: list_folder(tmp_path / "no", "*", ARCHIVE),
            lambda: read_name_list(tmp_path / "no", ARCHIVE),
        ):
            with pytest.raises(MissingFileError, match=r"https://example.org/data(.|\n)*a/\*\.png"):
                read()
