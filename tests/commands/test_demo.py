"""demo/demo.py on images, folders, patterns and videos, with a small trained model."""

import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from daylight import DAY, NIGHT, half_bright, make_run
from PIL import Image

from d2_ctxseg.commands import demo
from d2_ctxseg.commands.parsers.demo import get_parser
from d2_ctxseg.engine.setup import setup_config
from d2_ctxseg.utils.errors import MissingFileError, UserError
from d2_ctxseg.visualization import draw_overlay

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """config.yaml and model_final.pth of a model that distinguishes dark and bright pixels."""
    folder = tmp_path_factory.mktemp("model") / "run"
    return make_run(folder, "LinearSegmentor", "daylight")


@pytest.fixture
def run(model_folder):
    """Runs the script's main part in this process: run("--input", ...)."""

    def run(*arguments, opts=(), weights="model_final.pth"):
        weights = str(model_folder / weights) if weights else ""
        args = get_parser().parse_args(
            ["--config-file", str(model_folder / "config.yaml"), *map(str, arguments)]
            + ["--opts", "MODEL.WEIGHTS", weights, *opts]
        )
        demo.run(args, logging.getLogger("test_demo"))

    return run


@pytest.fixture
def photos(tmp_path):
    """A folder with two PNG files, a JPEG file and a text file."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("one.png", "two.png", "three.jpg"):
        Image.fromarray(half_bright()).save(folder / name)
    (folder / "notes.txt").write_text("not an image")
    return folder


class TestUnsurePixels:
    """A model of two classes is at least half sure, and never as sure as 1."""

    def drawn(self, run, photos, tmp_path, *arguments, **options):
        run("--input", photos / "one.png", "--output", tmp_path / "out.png", *arguments, **options)
        return np.array(Image.open(tmp_path / "out.png").convert("RGB")).astype(int)

    def test_are_hatched_and_the_rest_stays(self, run, photos, tmp_path, caplog):
        plain = self.drawn(run, photos, tmp_path)
        caplog.set_level(logging.INFO)
        assert (self.drawn(run, photos, tmp_path, "-y", "--unsure-below", "0.5") == plain).all()
        assert "0.0% of the pixels unsure" in caplog.text and "d2-ctxseg calibrate" in caplog.text
        hatched = self.drawn(run, photos, tmp_path, "-y", "--unsure-below", "1")
        assert "predicted 2 classes" in caplog.text and "100.0% of the pixels" in caplog.text
        darker = (hatched < plain - 20).any(axis=-1).mean()
        assert 0.15 < darker < 0.45

    def test_are_left_blank(self, run, photos, tmp_path, caplog):
        caplog.set_level(logging.INFO)
        blank = self.drawn(run, photos, tmp_path, "--blank-below", "1")
        image = np.kron(half_bright(), np.ones((5, 5, 1))).astype(int)
        assert "predicted 0 classes" in caplog.text
        assert np.abs(blank[:, : image.shape[1]] - image).mean() < 10

    def test_depend_on_the_temperature_alone(self, run, photos, tmp_path, caplog):
        caplog.set_level(logging.INFO)
        options = {"opts": ["TEST.TEMPERATURE", "1000.0"]}
        self.drawn(run, photos, tmp_path, "--unsure-below", "0.6", **options)
        assert "100.0% of the pixels unsure" in caplog.text
        assert "d2-ctxseg calibrate" not in caplog.text

    @pytest.mark.parametrize("value", ["0", "1.1", "-1", "nan", "sure"])
    def test_a_threshold_that_is_no_share_is_refused(self, value, capsys):
        with pytest.raises(SystemExit):
            get_parser().parse_args(["--model", "x", "--webcam", "--unsure-below", value])
        assert "not above 0 and at most 1" in capsys.readouterr().err


@pytest.fixture
def video(tmp_path):
    """Twelve frames of 128x96 at 10 frames a second."""
    path = tmp_path / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10.0, (128, 96))
    for _ in range(12):
        writer.write(half_bright())
    writer.release()
    return path


def read_video(path):
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        success, frame = capture.read()
        if not success:
            return np.array(frames)[..., ::-1], capture.get(cv2.CAP_PROP_FPS)
        frames.append(frame)


def assert_day_and_night_are_coloured(drawn, alpha, tolerance=30):
    """The left half has night's colour blended in, the right half day's."""
    height, width = drawn.shape[:2]
    image = half_bright().astype(float)
    for color, quarter, pixels in ((NIGHT, 0.25, image[:, :64]), (DAY, 0.75, image[:, 64:])):
        expected = alpha * np.array(color) + (1 - alpha) * pixels.mean(axis=(0, 1))
        x = int(quarter * width)
        corner = drawn[2 : height // 8, x - 3 : x + 3].mean(axis=(0, 1))
        np.testing.assert_allclose(corner, expected, atol=tolerance)


def test_the_script_writes_an_image_for_each_match_of_a_pattern(model_folder, photos, tmp_path):
    result = subprocess.run(
        [sys.executable, ROOT / "demo" / "demo.py", "--config-file", model_folder / "config.yaml"]
        + ["--input", photos / "*.png", "--output", tmp_path / "new" / "pictures"]
        + ["--opts", "MODEL.WEIGHTS", model_folder / "model_final.pth"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    for name in ("one.png", "two.png"):
        assert re.search(rf"{name}: predicted 2 classes in \d+\.\d\ds", result.stdout)
        drawn = np.asarray(Image.open(tmp_path / "new" / "pictures" / name))
        assert drawn.shape[0] == 480 and drawn.shape[1] > 640  # enlarged, with a legend
        assert_day_and_night_are_coloured(drawn[:, :640], alpha=0.6)
    assert len(list((tmp_path / "new" / "pictures").iterdir())) == 2


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="others always have a display")
@pytest.mark.parametrize("source", ["--input", "--video-input", "--webcam"])
def test_without_display_and_output_is_an_error(run, photos, video, monkeypatch, source):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    files = {"--input": [photos], "--video-input": [video], "--webcam": []}[source]
    with pytest.raises(UserError, match="no display.*--output"):
        run(source, *files)


def test_the_webcam_is_only_shown(run, tmp_path):
    with pytest.raises(UserError, match="remove --output"):
        run("--webcam", "--output", tmp_path)


def test_a_folder_means_the_images_in_it(run, photos, tmp_path):
    run("--input", photos, "--output", tmp_path / "pictures")
    names = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert names == ["one.png", "three.jpg", "two.png"]


def test_a_single_image_can_be_written_to_a_file(run, photos, tmp_path):
    run("--input", photos / "one.png", "--output", tmp_path / "result.jpg")
    assert_day_and_night_are_coloured(
        np.asarray(Image.open(tmp_path / "result.jpg"))[:, :640], alpha=0.6
    )


def test_the_image_is_the_overlay_of_the_predicted_labels(run, model_folder, photos):
    weights = ["MODEL.WEIGHTS", str(model_folder / "model_final.pth")]
    predictor = demo.SemSegPredictor(setup_config(str(model_folder / "config.yaml"), weights))
    labels = predictor(half_bright())
    assert labels.shape == (96, 128) and labels.dtype == np.int64
    assert (labels[:, :56] == 0).mean() > 0.95 and (labels[:, 72:] == 1).mean() > 0.95
    run("--input", photos / "one.png", "--output", photos / "result.png")
    np.testing.assert_array_equal(
        np.asarray(Image.open(photos / "result.png")),
        draw_overlay(half_bright(), labels, predictor.metadata),
    )


def test_images_are_resized_and_converted_as_the_config_says(model_folder, monkeypatch):
    opts = ["MODEL.WEIGHTS", str(model_folder / "model_final.pth")]
    opts += ["INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "80", "INPUT.FORMAT", "BGR"]
    predictor = demo.SemSegPredictor(setup_config(str(model_folder / "config.yaml"), opts))
    seen, normalized = [], predictor.model.normalized_images
    monkeypatch.setattr(
        predictor.model,
        "normalized_images",
        lambda inputs: seen.extend(inputs) or normalized(inputs),
    )
    image = np.zeros((96, 128, 3), np.uint8)
    image[..., 0] = 250
    labels = predictor(image)
    assert labels.shape == (96, 128)
    assert seen[0]["image"].shape == (3, 60, 80)  # the longest side is 80 at most
    assert seen[0]["image"].mean(dim=(1, 2)).tolist() == [0, 0, 250]


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])  # a codec each
def test_a_video_becomes_a_video_of_the_same_length_and_speed(run, video, tmp_path, suffix):
    run("--video-input", video, "--output", tmp_path / "new" / f"result{suffix}")
    frames, frames_per_second = read_video(tmp_path / "new" / f"result{suffix}")
    assert len(frames) == 12
    assert frames_per_second == pytest.approx(10)
    assert_day_and_night_are_coloured(frames[5][:, :640], alpha=0.6, tolerance=50)
    assert list((tmp_path / "new").iterdir()) == [tmp_path / "new" / f"result{suffix}"]


def test_a_video_goes_into_a_folder_under_its_own_name(run, video, tmp_path):
    run("--video-input", video, "--output", tmp_path / "pictures")
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == ["clip.mp4"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.png", "no such file"),
        ("*.bmp", "no file matches this pattern"),
        ("empty", "this folder contains no image"),
    ],
)
def test_inputs_that_match_no_file_are_errors(run, photos, tmp_path, name, message):
    (photos / "empty").mkdir()
    with pytest.raises(MissingFileError, match=message):
        run("--input", photos / name, "--output", tmp_path / "pictures")


def test_unreadable_images_are_named_after_the_others_are_done(run, photos, tmp_path):
    (photos / "broken.png").write_bytes(b"no image at all")
    with pytest.raises(UserError, match="broken.png"):
        run("--input", photos, "--output", tmp_path / "pictures")
    assert len(list((tmp_path / "pictures").iterdir())) == 3


def test_no_input_is_overwritten(run, photos):
    before = (photos / "one.png").read_bytes()
    for output in (photos, photos / "one.png", f"{photos}/../{photos.name}/one.png"):
        with pytest.raises(UserError, match="overwrite the input"):
            run("--input", photos / "one.png", "--output", output)
    assert (photos / "one.png").read_bytes() == before


def test_no_video_is_overwritten_by_itself(run, video):
    before = video.read_bytes()
    for output in (video, video.parent):
        with pytest.raises(UserError, match="overwrite the input"):
            run("--video-input", video, "--output", output)
    assert video.read_bytes() == before


def test_several_images_do_not_fit_into_one_file(run, photos, tmp_path):
    with pytest.raises(UserError, match="3 inputs"):
        run("--input", photos, "--output", tmp_path / "result.png")


def test_images_of_the_same_name_do_not_overwrite_one_another(run, photos, tmp_path):
    (tmp_path / "more").mkdir()
    Image.fromarray(half_bright()).save(tmp_path / "more" / "one.png")
    with pytest.raises(UserError, match="2 inputs are called one.png"):
        run("--input", photos / "one.png", tmp_path / "more", "--output", tmp_path / "pictures")


def test_the_kind_of_output_must_be_one_that_can_be_written(run, photos, video, tmp_path):
    with pytest.raises(UserError, match="cannot be written; use one of .jpg"):
        run("--input", photos / "one.png", "--output", tmp_path / "result.psd")
    with pytest.raises(UserError, match="cannot be written; use one of .mp4"):
        run("--video-input", video, "--output", tmp_path / "result.gif")


def test_missing_weights_are_explained(run, photos, tmp_path):
    arguments = ("--input", photos / "one.png", "--output", tmp_path / "result.png")
    with pytest.raises(UserError, match=r"--opts MODEL.WEIGHTS path/to/model_final.pth"):
        run(*arguments, weights=None)
    with pytest.raises(MissingFileError, match="nowhere.pth"):
        run(*arguments, weights="nowhere.pth")


def test_weights_of_another_model_are_refused(run, model_folder, photos, tmp_path):
    torch.save({"model": {"other.weight": torch.zeros(2)}}, model_folder / "other.pth")
    with pytest.raises(ValueError, match="other.weight"):
        run("--input", photos, "--output", tmp_path / "pictures", weights="other.pth")


def test_a_config_without_a_dataset_has_no_class_names(run, photos, tmp_path):
    with pytest.raises(UserError, match="DATASETS.TEST is empty"):
        run("--input", photos, "--output", tmp_path / "pictures", opts=("DATASETS.TEST", "()"))


def test_what_is_no_video_is_reported(run, photos, tmp_path):
    with pytest.raises(UserError, match="notes.txt"):
        run("--video-input", photos / "notes.txt", "--output", tmp_path / "pictures")
    with pytest.raises(MissingFileError, match="missing.mp4"):
        run("--video-input", photos / "missing.mp4", "--output", tmp_path / "pictures")


def test_an_interrupted_video_leaves_no_files(run, video, tmp_path, monkeypatch):
    def interrupted(self, frame):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo.SemSegPredictor, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run("--video-input", video, "--output", tmp_path / "new" / "result.mp4")
    assert list((tmp_path / "new").iterdir()) == []


def test_images_are_shown_in_a_window_until_escape(run, photos, monkeypatch):
    shown = []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(demo, "show", lambda drawn, wait_ms: shown.append(drawn) or 27)
    run("--input", photos)
    assert len(shown) == 1 and shown[0].shape[0] == 480


def test_frames_have_one_size_and_a_fixed_legend(model_folder):
    opts = ["MODEL.WEIGHTS", str(model_folder / "model_final.pth")]
    predictor = demo.SemSegPredictor(setup_config(str(model_folder / "config.yaml"), opts))
    dark, bright = np.zeros((200, 400, 3), np.uint8), np.full((200, 400, 3), 220, np.uint8)
    args = SimpleNamespace(unsure_below=None, blank_below=None)
    first, second = demo.draw_frames(args, [dark, bright], predictor)
    assert first.shape == second.shape and first.shape[1] > 800  # enlarged, with a legend
    names = slice(800, 860)  # in the same places, whatever their shares
    np.testing.assert_array_equal(first[:, names], second[:, names])
    assert (first[:, 860:] != second[:, 860:]).any()


class TestExistingFiles:
    """Files are overwritten with the user's consent only."""

    @pytest.fixture
    def existing(self, tmp_path):
        path = tmp_path / "result.png"
        path.write_bytes(b"mine")
        return path

    @pytest.fixture
    def terminal(self, monkeypatch):
        """Sets the answer that is typed on the terminal; returns the questions."""

        def answering(answer):
            questions = []
            monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
            monkeypatch.setattr("builtins.input", lambda text: questions.append(text) or answer)
            return questions

        return answering

    def test_without_a_terminal_they_are_refused(self, run, photos, video, existing, monkeypatch):
        monkeypatch.setattr(sys, "stdin", None)
        with pytest.raises(UserError, match=r"result.png already exists; .* --overwrite \(-y\)"):
            run("--input", photos / "one.png", "--output", existing)
        result = existing.with_suffix(".mp4")
        result.write_bytes(b"mine")
        with pytest.raises(UserError, match="result.mp4 already exists"):
            run("--video-input", video, "--output", result)
        assert existing.read_bytes() == result.read_bytes() == b"mine"

    def test_the_flag_overwrites_them(self, run, photos, existing):
        run("--input", photos / "one.png", "--output", existing, "-y")
        assert existing.read_bytes() != b"mine"

    @pytest.mark.parametrize("answer", ["", "n", "what?"])
    def test_any_answer_but_yes_keeps_them(self, run, photos, existing, terminal, answer):
        questions = terminal(answer)
        with pytest.raises(UserError, match="Nothing was overwritten"):
            run("--input", photos / "one.png", "--output", existing)
        assert len(questions) == 1 and "result.png" in questions[0]
        assert existing.read_bytes() == b"mine"

    def test_yes_overwrites_them(self, run, photos, existing, terminal):
        terminal("Y")
        run("--input", photos / "one.png", "--output", existing)
        assert existing.read_bytes() != b"mine"

    def test_of_many_three_are_reported(self, run, photos, tmp_path):
        Image.fromarray(half_bright()).save(photos / "four.png")
        run("--input", photos, "--output", tmp_path / "new")
        with pytest.raises(UserError, match="and 1 more already exist"):
            run("--input", photos, "--output", tmp_path / "new")


def test_log_lines_do_not_break_the_progress_bar(run, photos, tmp_path, capsys, caplog):
    """Each message begins on a line of its own: the bar is cleared before and drawn after it."""
    logger = logging.getLogger("test_demo")
    handler = logging.StreamHandler(sys.stdout)
    logger.addHandler(handler)
    try:
        with caplog.at_level(logging.INFO, "test_demo"):
            run("--input", photos, "--output", tmp_path / "new")
    finally:
        logger.removeHandler(handler)
    captured = capsys.readouterr()
    lines = [line for line in captured.out.splitlines() if "predicted" in line]
    assert len(lines) == 3
    assert captured.err.count("\n") == 1  # only the end of the bar
