"""tools/export_model.py, and demo/onnx_inference.py on what it writes."""

import json
import runpy
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from daylight import DAY, NIGHT, half_bright, make_run
from exported_files import exported_file, needs
from PIL import Image

from d2_ctxseg.deployment.export import METADATA_FILE, load_exported

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """Exports of a model that distinguishes dark and bright pixels."""
    folder = tmp_path_factory.mktemp("export") / "run"
    return make_run(folder, "ContextAwareSegmentor", "exported")


@pytest.fixture
def path(tmp_path):
    """The name of a file to write, by format."""
    return partial(exported_file, tmp_path)


@pytest.fixture
def export_model(run_folder, monkeypatch, capfd):
    """Runs tools/export_model.py in this process; returns what it prints."""

    # It would keep the messages from caplog, in other tests as well.
    monkeypatch.setattr("detectron2.utils.logger.setup_logger", lambda **options: None)

    def run(*arguments, opts=(), weights=True):
        weights = str(run_folder / "model_final.pth") if weights else ""
        command = ["export_model.py", "--config-file", str(run_folder / "config.yaml")]
        command += [*map(str, arguments), "--opts", "MODEL.WEIGHTS", weights, *opts]
        monkeypatch.setattr(sys, "argv", command)
        capfd.readouterr()
        runpy.run_path(str(ROOT / "tools" / "export_model.py"), run_name="__main__")
        return capfd.readouterr().out

    return run


WITHOUT_TORCH = """
import runpy, sys
for name in ("torch", "detectron2", "d2_ctxseg", "cv2"):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_onnx_inference(*arguments):
    """demo/onnx_inference.py without PyTorch, Detectron2 and this project."""
    script = str(ROOT / "demo" / "onnx_inference.py")
    command = [sys.executable, "-c", WITHOUT_TORCH, script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


class TestTool:
    def test_says_what_it_wrote_and_how_it_was_checked(self, export_model, path):
        file = path("torchscript")
        printed = export_model(
            *["--format", "torchscript", "--output-file", file, "--size", 64, 96],
            *["--outputs", "logits", "--batch-size", 2],
        )
        assert f"Wrote '{file}', {file.stat().st_size / 1e6:.1f} MB." in printed
        assert "image: float32 (2, 3, 64, 96), RGB pixel values 0 to 255" in printed
        assert "logits: float32 (2, 2, 64, 96)" in printed
        assert "logits differ by at most" in printed
        assert "0.0000% of 24576 pixels have another label" in printed

    def test_says_what_the_file_does_not_do(self, export_model, path, caplog):
        caplog.set_level("INFO", logger="d2_ctxseg")
        export_model(
            *["--format", "torchscript", "--output-file", path("torchscript")],
            opts=["TEST.AUG.ENABLED", "True", "TEST.SLIDING_WINDOW.ENABLED", "True"]
            + ["TEST.SLIDING_WINDOW.SIZE", "[64, 96]", "TEST.SLIDING_WINDOW.STRIDE", "[32, 32]"],
        )
        assert "predicts without sliding windows" in caplog.text
        assert "predicts without test-time augmentation" in caplog.text
        assert "Images of 64x96 (height x width), from TEST.SLIDING_WINDOW.SIZE" in caplog.text

    def test_puts_into_the_file_what_a_program_must_know(self, export_model, path):
        file, found = path("torchscript"), {METADATA_FILE: ""}
        export_model("--format", "torchscript", "--output-file", file, "--size", 64, 96)
        torch.jit.load(str(file), _extra_files=found)
        metadata = json.loads(found[METADATA_FILE])
        assert json.loads(metadata["classes"]) == ["night", "day"]
        assert json.loads(metadata["colors"]) == [NIGHT, DAY]
        assert json.loads(metadata["input_size"]) == [64, 96]
        assert json.loads(metadata["padding"]) == [128.0, 128.0, 128.0]
        assert (metadata["image_format"], metadata["output"]) == ("RGB", "labels")

    def test_wants_weights(self, export_model, path):
        with pytest.raises(SystemExit, match="MODEL.WEIGHTS is empty"):
            export_model(
                *["--format", "onnx", "--output-file", path("onnx"), "--size", 64, 96],
                weights=False,
            )


@pytest.mark.slow
class TestOnnxInference:
    @pytest.mark.parametrize(
        ("options", "opts"),
        [
            (["--size", 96, 128], []),
            # Half the size, and a strip of padding below.
            (["--size", 64, 64, "--outputs", "logits"], []),
            (["--dynamic", "--size", 64, 96], []),
            (["--dynamic", "--size", 64, 96], ["INPUT.MIN_SIZE_TEST", "64"]),
        ],
        ids=["of the image's size", "smaller", "dynamic", "dynamic, smaller"],
    )
    def test_colours_the_classes(self, export_model, tmp_path, path, options, opts):
        needs("onnx")
        export_model("--format", "onnx", "--output-file", path("onnx"), *options, opts=opts)
        Image.fromarray(half_bright()).save(tmp_path / "photo.png")
        printed = run_onnx_inference(path("onnx"), tmp_path / "photo.png", tmp_path / "out.png")
        decoded = np.asarray(Image.open(tmp_path / "out.png"))
        assert decoded.shape == (96, 128, 3)
        assert (decoded[:, :56] == NIGHT).all(axis=2).mean() > 0.9
        assert (decoded[:, 72:] == DAY).all(axis=2).mean() > 0.9
        assert "night" in printed and "day" in printed

    def test_leaves_unsure_pixels_black(self, export_model, tmp_path, path):
        needs("onnx")
        options = ["--size", 96, 128, "--outputs", "labels+confidence"]
        arguments = ["--format", "onnx", "--output-file", path("onnx"), *options]
        printed = export_model(*arguments, opts=["TEST.TEMPERATURE", "1000.0"])
        assert "int64 (1, 96, 128), float32 of the same shape at temperature 1000\n" in printed
        Image.fromarray(half_bright()).save(tmp_path / "photo.png")
        files = path("onnx"), tmp_path / "photo.png", tmp_path / "out.png"
        assert "unsure" not in run_onnx_inference(*files)
        assert "100.0%  unsure" in run_onnx_inference(*files, "--blank-below", 0.6)
        assert not np.asarray(Image.open(tmp_path / "out.png")).any()
        assert "unsure" not in run_onnx_inference(*files, "--blank-below", 0.4)

    def test_reverses_the_channels_for_a_model_of_bgr(self, export_model, tmp_path, path):
        """Its input to the model equals that of the demos."""
        needs("onnx")
        opts = ["INPUT.FORMAT", "BGR", "MODEL.PIXEL_MEAN", "[0.0, 128.0, 255.0]"]
        options = ["--size", 96, 128]
        export_model("--format", "onnx", "--output-file", path("onnx"), *options, opts=opts)
        image = half_bright() // [1, 2, 4]
        Image.fromarray(image.astype(np.uint8)).save(tmp_path / "photo.png")
        run_onnx_inference(path("onnx"), tmp_path / "photo.png", tmp_path / "out.png")
        bgr = torch.from_numpy(image[:, :, ::-1].transpose(2, 0, 1).copy()).float()
        labels = load_exported(path("onnx"), "onnx")(bgr[None])[0].numpy()
        decoded = np.asarray(Image.open(tmp_path / "out.png"))
        assert np.array_equal(decoded, np.uint8([NIGHT, DAY])[labels])
