"""Sheets of images beside their labels: of a dataset, and of what training is given."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from data_folders import run_script, unique_name, write_image, write_pairs, write_yaml

from d2_ctxseg.data import DatasetError, register_folder_dataset
from d2_ctxseg.visualization.sample_sheet import draw_sample_sheet, labelled_sheet
from detectron2.data import MetadataCatalog

TOOLS = Path(__file__).parents[2] / "tools"
COLORS = [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


@pytest.fixture
def name(tmp_path):
    write_pairs(tmp_path, ["a", "b", "c"], size=(24, 32))
    [name] = register_folder_dataset(write_yaml(tmp_path, palette=COLORS))
    return name


class TestSheet:
    def test_shows_image_and_labels_of_each_sample(self, name):
        black = np.zeros((96, 128, 3), np.uint8)
        samples = [(black, np.full((96, 128), label)) for label in (0, 1, 2)]
        sheet = labelled_sheet(samples, MetadataCatalog.get(name), columns=3, tile_width=256)
        assert sheet.shape[1] == 3 * 256 + 2 * 8
        for number, color in enumerate(COLORS):
            left = number * (256 + 8)
            assert sheet[20, left + 20].tolist() == [0, 0, 0]
            right = sheet[20, left + 128 + 20].astype(int)
            assert right.argmax() == np.argmax(color) and right.max() > 100

    def test_takes_as_many_as_there_are(self, name):
        few, many = draw_sample_sheet(name, num_samples=2), draw_sample_sheet(name, num_samples=9)
        assert few.shape[1] == many.shape[1]
        assert few.shape[0] < many.shape[0]

    def test_a_seed_chooses_the_same_again_and_another_others(self, name):
        first = draw_sample_sheet(name, 1, seed=0)
        assert np.array_equal(first, draw_sample_sheet(name, 1, seed=0))
        others = [draw_sample_sheet(name, 1, seed=seed) for seed in range(1, 8)]
        assert any(not np.array_equal(first, other) for other in others)

    def test_leaves_out_what_cannot_be_read(self, name, tmp_path):
        (tmp_path / "images/a.png").write_bytes(b"junk")
        write_image(tmp_path / "labels/b.png", np.zeros((3, 3), np.uint8))
        one = draw_sample_sheet(name, 1)
        assert draw_sample_sheet(name, 3).shape == one.shape
        (tmp_path / "images/c.png").write_bytes(b"junk")
        with pytest.raises(DatasetError, match="No pair of image and label"):
            draw_sample_sheet(name, 3)


class TestTools:
    def test_check_dataset_draws_a_sheet_beside_the_report(self, name, tmp_path, capsys):
        sheets = tmp_path / "sheets"
        script = TOOLS / "check_dataset.py"
        assert run_script(script, name, "--sheet", sheets, "--samples", 2) == 0
        assert cv2.imread(str(sheets / f"{name}.png")).shape[1] > 1000
        captured = capsys.readouterr()
        assert "No problems." in captured.out
        assert f"{name}.png" in captured.err

    def test_check_dataset_reports_where_there_is_nothing_to_draw(self, tmp_path, capsys):
        path = write_yaml(tmp_path, name=unique_name())
        assert run_script(TOOLS / "check_dataset.py", "--folder", path, "--sheet", tmp_path) == 1
        captured = capsys.readouterr()
        assert "1 problem\n" in captured.out
        assert "No samples of" in captured.err

    def test_visualize_data_draws_crops_as_training_takes_them(self, tiny_run, tmp_path, capsys):
        output = tmp_path / "images"
        script = TOOLS / "visualize_data.py"
        arguments = ["--config-file", tiny_run, "--output", output, "--num-images", 3]
        assert run_script(script, *arguments) == 0
        assert sorted(path.name for path in output.iterdir()) == [
            *(f"000{i}.png" for i in range(3)),
            "sheet.png",
        ]
        # A crop of 64x64 beside its labels, enlarged.
        height, width, _ = cv2.imread(str(output / "0000.png")).shape
        assert width == 2 * height and height % 64 == 0
        assert "Drew 3 images" in capsys.readouterr().out

    def test_visualize_data_draws_the_same_for_a_seed(self, tiny_run, tmp_path):
        script = TOOLS / "visualize_data.py"
        for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
            arguments = ["--config-file", tiny_run, "--output", tmp_path / folder]
            assert run_script(script, *arguments, "--num-images", 2, "--seed", seed) == 0
        sheets = [(tmp_path / folder / "sheet.png").read_bytes() for folder in "abc"]
        assert sheets[0] == sheets[1] != sheets[2]
