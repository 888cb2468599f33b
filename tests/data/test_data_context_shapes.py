"""ContextShapes: the same pixels on every machine, created atomically, and a meaningful task."""

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from data_folders import run_script
from PIL import Image

from d2_ctxseg.data import (
    ContextShapesOptions,
    DatasetError,
    check_dataset,
    context_shapes,
    generate_context_shapes,
)
from d2_ctxseg.data.context_shapes_scene import COLORS, draw_scene
from detectron2.data import DatasetCatalog

SMALL = ContextShapesOptions(num_train=4, num_val=2)
SCRIPT = Path(__file__).parents[2] / "datasets" / "prepare_context_shapes.py"


def contents(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def read_manifest(folder):
    return json.loads((folder / "context_shapes.json").read_text())


def digest_of_pixels(folder):
    result = hashlib.sha256()
    for path in sorted(folder.glob("*/*/*.png")):
        result.update(path.relative_to(folder).as_posix().encode())
        result.update(cv2.imread(str(path), cv2.IMREAD_UNCHANGED).tobytes())
    return result.hexdigest()


def test_the_pixels_are_the_same_on_every_machine(tmp_path):
    generate_context_shapes(tmp_path, SMALL)
    assert (
        digest_of_pixels(tmp_path)
        == "1a3f4c3e4c2563fc39086c9882757fa131b05d4a1ed8f3ecaf075a73e4fc5e61"
    )


@pytest.mark.slow
def test_the_pixels_of_the_registered_dataset_are_the_same_on_every_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    generate_context_shapes(tmp_path / "context_shapes")
    assert (
        digest_of_pixels(tmp_path / "context_shapes")
        == "83a08439237d83beaa51279f86e92f8b5b588c0ad7f0e874ed723eebc525eb05"
    )
    for split, count in (("train", 320), ("val", 80)):
        report = check_dataset(f"context_shapes_sem_seg_{split}")
        assert report.num_pairs == count
        assert report.problems == []
        assert all(0.03 < pixels / sum(report.pixels) < 0.06 for pixels in report.pixels[1:])


def test_the_layout_is_the_registered_one(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    generate_context_shapes(tmp_path / "context_shapes", SMALL)
    train = DatasetCatalog.get("context_shapes_sem_seg_train")
    val = DatasetCatalog.get("context_shapes_sem_seg_val")
    assert [record["image_id"] for record in train] == ["0000", "0001", "0002", "0003"]
    assert len(val) == 2
    with Image.open(train[0]["file_name"]) as image, Image.open(val[0]["file_name"]) as other:
        assert (image.mode, image.size) == ("RGB", (128, 96))
        assert image.tobytes() != other.tobytes()


def test_making_it_again_keeps_the_files(tmp_path):
    folder = tmp_path / "made"
    assert generate_context_shapes(folder, SMALL) is True
    before = (folder / "images/train/0000.png").stat().st_mtime_ns
    assert generate_context_shapes(folder, SMALL) is False
    assert (folder / "images/train/0000.png").stat().st_mtime_ns == before
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


@pytest.mark.parametrize("change", ["options", "file"])
def test_a_different_one_is_replaced_only_on_demand(tmp_path, change):
    folder = tmp_path / "made"
    generate_context_shapes(folder, ContextShapesOptions(seed=1, num_train=1, num_val=1))
    wanted = SMALL if change == "options" else ContextShapesOptions(1, 1, 1)
    if change == "file":
        (folder / "labels/val/0000.png").write_bytes(b"changed")
    before = contents(folder)
    with pytest.raises(DatasetError, match="--overwrite"):
        generate_context_shapes(folder, wanted)
    assert contents(folder) == before
    assert generate_context_shapes(folder, wanted, overwrite=True) is True
    assert context_shapes.holds_context_shapes(folder, wanted)
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_a_folder_with_something_else_is_never_touched(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(DatasetError, match="will not be touched"):
        generate_context_shapes(tmp_path, SMALL, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_interrupted_run_leaves_no_files(tmp_path, monkeypatch):
    calls = []

    def fail_later(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return draw_scene(*arguments)

    monkeypatch.setattr(context_shapes, "draw_scene", fail_later)
    with pytest.raises(KeyboardInterrupt):
        generate_context_shapes(tmp_path / "made", SMALL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [{"num_val": 0}, {"width": 31}, {"seed": -1}])
def test_impossible_options_are_refused(wrong):
    with pytest.raises(DatasetError):
        ContextShapesOptions(**wrong)


class TestScenes:
    """The class is the paint, seen in coloured light, so colours alone cannot tell it."""

    @pytest.fixture(scope="class")
    def scenes(self):
        rng = np.random.RandomState(7)
        return [draw_scene(rng, 96, 128) for _ in range(40)]

    @staticmethod
    def nearest(pixels, colors):
        """Index of the colour with the direction of each pixel, so that shade does not matter."""
        colors = colors / np.linalg.norm(colors, axis=-1, keepdims=True)
        return np.argmax(pixels.astype(float) @ colors.T, axis=-1)

    def test_an_object_has_the_colour_of_its_paint_times_the_light(self, scenes):
        for scene in scenes:
            objects = scene.label > 0
            seen_as = COLORS * COLORS[scene.lamp] / 256
            paint = self.nearest(scene.image[objects], seen_as)
            assert (paint + 1 == scene.label[objects]).mean() > 0.9

    def test_the_best_guess_from_colour_alone_is_often_wrong(self, scenes):
        pairs = (COLORS[:, None] * COLORS / 256).reshape(25, 3)  # light 0 paint 0, 1, ..., light 1
        truth = np.concatenate([scene.label[scene.label > 0] for scene in scenes]) - 1
        pixels = np.concatenate([scene.image[scene.label > 0] for scene in scenes])
        pair = self.nearest(pixels, pairs)
        counts = np.zeros((25, 5))
        np.add.at(counts, (pair, truth), 1)
        assert (counts.argmax(1)[pair] == truth).mean() < 0.75

    def test_the_room_shows_the_light(self, scenes):
        for scene in scenes:
            light = self.nearest(scene.image[scene.label == 0], COLORS)
            assert (light == scene.lamp).mean() > 0.9
        assert {scene.lamp for scene in scenes} == set(range(5))


class TestCommand:
    def run(self, *arguments):
        return run_script(SCRIPT, "--num-train", 2, "--num-val", 1, *arguments)

    def test_makes_what_is_requested(self, tmp_path, capsys):
        assert self.run("--output", tmp_path / "made", "--size", "64x48", "--seed", 3) == 0
        assert "Created 2 train and 1 val images of 64x48" in capsys.readouterr().out
        options = {"seed": 3, "num_train": 2, "num_val": 1, "height": 48, "width": 64}
        assert read_manifest(tmp_path / "made")["options"] == options

    def test_makes_it_in_the_datasets_folder_by_default(self, tmp_path, monkeypatch):
        monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
        assert self.run() == 0
        assert len(DatasetCatalog.get("context_shapes_sem_seg_train")) == 2

    def test_a_dry_run_makes_nothing(self, tmp_path, capsys):
        folder = tmp_path / "made"
        assert self.run("--output", folder, "--dry-run") == 0
        expected = f"Would create 2 train and 1 val images of 128x96 in {folder}"
        assert expected in capsys.readouterr().out
        assert not folder.exists()

    def test_a_wrong_folder_ends_with_a_message(self, tmp_path, capsys):
        (tmp_path / "other").touch()
        assert self.run("--output", tmp_path) == 1
        assert capsys.readouterr().err.startswith("error: ")
