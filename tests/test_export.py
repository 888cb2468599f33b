"""Whole segmentors as TorchScript, ONNX and torch.export files, against the model."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from data_folders import run_script
from PIL import Image
from train_net_runs import ROOT

from d2_ctxseg.checkpoint import strip_training_only
from d2_ctxseg.engine import setup_config
from d2_ctxseg.errors import UserError
from d2_ctxseg.export import FORMATS, ExportableSegmentor, export_segmentor, load_exported
from detectron2.modeling import build_model

SIZE = (64, 96)
SEGMENTORS = {
    "LinearSegmentor": [],
    "ContextAwareSegmentor": [],
    "PrototypeSegmentor": [],
    "ExplicitClassSegmentor": [],
    "ECEHead": [
        *("MODEL.META_ARCHITECTURE", "ExplicitClassSegmentor"),
        *("MODEL.SEM_SEG_HEAD.NAME", "ECEHead", "MODEL.ECE_HEAD.CHANNELS", 32),
    ],
    "SegViTHead": [
        *("MODEL.META_ARCHITECTURE", "ExplicitClassSegmentor"),
        *("MODEL.BACKBONE.NAME", "VisionTransformerBackbone"),
        *("MODEL.ENCODER.NAME", "vit_tiny_patch16_224", "MODEL.SEM_SEG_HEAD.NAME", "SegViTHead"),
        *("MODEL.SEGVIT_HEAD.CHANNELS", 48, "MODEL.SEGVIT_HEAD.NUM_HEADS", 4),
    ],
    "Swin": ["MODEL.ENCODER.NAME", "tu-swin_tiny_patch4_window7_224"],
    "MiT": ["MODEL.ENCODER.NAME", "mit_b0"],
}


def build(cfg, name):
    options = SEGMENTORS[name]
    if not options:
        options = ["MODEL.META_ARCHITECTURE", name]
    cfg.merge_from_list(options)
    torch.manual_seed(3)
    model = build_model(cfg).eval()
    strip_training_only(model)
    return model


def images(count=1, size=SIZE):
    small = 255 * torch.rand(count, 3, 4, 5)
    return F.interpolate(small, size=size, mode="bilinear")


def predictions(model, batch):
    inputs = [{"image": image} for image in batch]
    with torch.no_grad():
        return torch.stack([output["sem_seg"] for output in model(inputs)])


class TestExportableSegmentor:
    @pytest.mark.parametrize("dynamic", [False, True])
    @pytest.mark.parametrize("size", [(64, 96), (50, 71)])
    def test_predicts_what_the_model_predicts(self, tiny_config, size, dynamic):
        model, batch = build(tiny_config, "ContextAwareSegmentor"), images(2, size)
        expected = predictions(model, batch)
        with torch.no_grad():
            logits = ExportableSegmentor(model, "logits", dynamic)(batch)
            labels = ExportableSegmentor(model, "labels", dynamic)(batch)
        torch.testing.assert_close(logits, expected)
        assert labels.dtype == torch.int64 and torch.equal(labels, expected.argmax(1))


@pytest.mark.slow
class TestFiles:
    @pytest.mark.parametrize("format", ["torchscript", "torch_export"])
    @pytest.mark.parametrize("name", SEGMENTORS)
    def test_of_every_classifier_and_kind_of_encoder(self, tiny_config, tmp_path, name, format):
        model, path = build(tiny_config, name), tmp_path / f"model{FORMATS[format]}"
        report = export_segmentor(model, path, format, size=SIZE, output="logits")
        assert report.num_bytes == path.stat().st_size
        batch = images()
        torch.testing.assert_close(
            load_exported(path, format)(batch), predictions(model, batch), rtol=1e-4, atol=1e-3
        )
        assert [file.name for file in tmp_path.iterdir()] == [path.name]

    @pytest.mark.parametrize("name", SEGMENTORS)
    def test_of_onnx(self, tiny_config, tmp_path, name):
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
        model, path = build(tiny_config, name), tmp_path / "model.onnx"
        export_segmentor(model, path, "onnx", size=SIZE, metadata={"classes": '["a"]'})
        labels = load_exported(path, "onnx")(images())
        expected = predictions(model, images())
        assert labels.dtype == torch.int64 and labels.shape == (1, *SIZE)
        assert expected.shape[2:] == SIZE
        assert [file.name for file in tmp_path.iterdir()] == [path.name]

    @pytest.mark.parametrize("format", ["onnx", "torch_export"])
    def test_of_any_size(self, tiny_config, tmp_path, format):
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
        model = build(tiny_config, "ContextAwareSegmentor")
        path = tmp_path / "model"
        export_segmentor(model, path, format, size=SIZE, output="logits", dynamic=True)
        run = load_exported(path, format)
        for count, size in ((1, (64, 64)), (3, (101, 75))):
            batch = images(count, size)
            torch.testing.assert_close(run(batch), predictions(model, batch), rtol=1e-4, atol=1e-3)


class TestMistakes:
    def test_a_file_is_not_overwritten_unasked(self, tiny_config, tmp_path):
        model, path = build(tiny_config, "LinearSegmentor"), tmp_path / "model.pt"
        path.write_text("mine")
        with pytest.raises(UserError, match="exists.*--overwrite"):
            export_segmentor(model, path, "torchscript", size=SIZE)
        assert path.read_text() == "mine"
        export_segmentor(model, path, "torchscript", size=SIZE, overwrite=True)
        assert load_exported(path, "torchscript")(images()).shape == (1, *SIZE)

    def test_torchscript_has_one_size(self, tiny_config, tmp_path):
        model = build(tiny_config, "LinearSegmentor")
        with pytest.raises(UserError, match="size it was traced with"):
            export_segmentor(model, tmp_path / "x.pt", "torchscript", size=SIZE, dynamic=True)

    def test_a_model_that_cannot_be_exported_leaves_nothing(self, tiny_config, tmp_path):
        model = build(tiny_config, "LinearSegmentor")
        model.classifier.forward = lambda features: features if features.sum() > 0 else -features
        with pytest.raises(
            UserError, match="cannot be exported to torch_export for images"
        ):
            export_segmentor(model, tmp_path / "x.pt2", "torch_export", size=SIZE)
        assert not list(tmp_path.iterdir())

    def test_a_file_with_other_results_is_not_kept(self, tiny_config, tmp_path):
        model = build(tiny_config, "LinearSegmentor")
        calls, classifier = [], model.classifier.forward

        def fickle(features):
            calls.append(1)
            return classifier(features) * (1 if len(calls) == 1 else -1)

        model.classifier.forward = fickle
        with pytest.raises(UserError, match="gives other results than the model"):
            export_segmentor(model, tmp_path / "x.pt", "torchscript", size=SIZE)
        assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_command_and_the_example(tiny_run, tmp_path):
    """From a checkpoint to a label map, the last step with onnxruntime alone."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    torch.manual_seed(3)
    model = build_model(setup_config(str(tiny_run), [])).eval()
    weights, exported = tmp_path / "weights.pth", tmp_path / "model.onnx"
    torch.save({"model": model.state_dict()}, weights)
    command = ("--config-file", tiny_run, "--format", "onnx", "--output-file", exported)
    options = ("--opts", "MODEL.WEIGHTS", weights)
    tool = ROOT / "tools" / "export_model.py"
    assert run_script(tool, *command, "--size", 96, 128, *options) == 0
    assert run_script(tool, *command, *options) == 1  # it exists

    pixels = images(1, (96, 128))[0].round()
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy().astype(np.uint8))
    picture.save(tmp_path / "photo.png")
    output = tmp_path / "labels.png"
    run_script(ROOT / "demo" / "onnx_inference.py", exported, tmp_path / "photo.png", output)
    with Image.open(output) as image:
        labels, palette = np.array(image), image.getpalette()
    expected = predictions(model, pixels[None])[0].argmax(0).numpy()
    assert (labels == expected).mean() > 0.999
    properties = {p.key: p.value for p in onnx.load(str(exported)).metadata_props}
    assert len(json.loads(properties["classes"])) == 6
    assert palette[:18] == sum(json.loads(properties["colors"]), [])
