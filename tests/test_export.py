"""Whole segmentors leave PyTorch as files that give what the model gives, or not at all."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from app_runs import make_run
from PIL import Image
from test_demo import DAY, NIGHT, half_bright
from torch import nn

from d2_ctxseg import export
from d2_ctxseg.checkpoint import strip_training_only
from d2_ctxseg.errors import UserError
from d2_ctxseg.export import (
    METADATA_FILE,
    SUFFIXES,
    ExportableSegmentor,
    ImageShape,
    export_segmentor,
    load_exported,
)
from d2_ctxseg.export_check import check_file, compare
from d2_ctxseg.runtime import is_embedded
from detectron2.modeling import build_model

ROOT = Path(__file__).parents[1]
CLASSES = 5
SHAPE = ImageShape(1, 70, 100)  # of sides that no stride divides
VIT = [
    *["MODEL.BACKBONE.NAME", "VisionTransformerBackbone", "MODEL.ENCODER.NAME", "test_vit"],
    *["MODEL.ENCODER.OUT_INDICES", (1, 3), "MODEL.SEM_SEG_HEAD.NAME", "SegViTHead"],
    *["MODEL.SEGVIT_HEAD.CHANNELS", 24, "MODEL.SEGVIT_HEAD.NUM_HEADS", 3],
    *["MODEL.SEGVIT_HEAD.NUM_LAYERS", 2],
]
MODELS = {
    "linear": ["LinearSegmentor"],
    "context-aware": ["ContextAwareSegmentor"],
    "prototype": ["PrototypeSegmentor"],
    "explicit class": ["ExplicitClassSegmentor"],
    "context-aware on ResNet": ["ContextAwareSegmentor", "MODEL.ENCODER.NAME", "resnet18"],
    "prototype on MiT": [
        *["PrototypeSegmentor", "MODEL.ENCODER.NAME", "mit_b0"],
        *["MODEL.SEM_SEG_HEAD.DECODER.NAME", "Segformer"],
        *["MODEL.SEM_SEG_HEAD.DECODER.OPTIONS", ["segmentation_channels", 32]],
    ],
    "ECEHead on Swin": [
        *["ExplicitClassSegmentor", "MODEL.ENCODER.NAME", "tu-swin_tiny_patch4_window7_224"],
        *["MODEL.SEM_SEG_HEAD.NAME", "ECEHead", "MODEL.ECE_HEAD.CHANNELS", 16],
    ],
    "SegViTHead on ViT": ["ExplicitClassSegmentor", *VIT],
    "context-aware with UPerHead": ["ContextAwareSegmentor", "MODEL.SEM_SEG_HEAD.NAME", "UPerHead"],
}
QUICK = ("linear", "context-aware")


@pytest.fixture
def build(tiny_config):
    """Builds a small model in eval mode, whose classes differ: build("ContextAwareSegmentor")."""

    def build(meta_architecture, *opts):
        tiny_config.merge_from_list(["MODEL.ENCODER.NAME", "tu-test_resnet", *opts])
        tiny_config.MODEL.META_ARCHITECTURE = meta_architecture
        model = build_model(tiny_config).eval()
        strip_training_only(model)
        return model

    return build


@pytest.fixture
def path(tmp_path):
    """The name of a file to write, by format."""
    return lambda export_format: tmp_path / f"model{SUFFIXES[export_format]}"


def needs(export_format):
    if export_format == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")


def logits_of(model, images):
    with torch.no_grad():
        return torch.stack([one["sem_seg"] for one in model([{"image": i} for i in images])])


def assert_gives_logits(run, model, images):
    """Compared here anew, without the check that the exporter itself makes."""
    expected = logits_of(model, images)
    scale = (expected.max() - expected.min()).item()
    torch.testing.assert_close(run(images) / scale, expected / scale, atol=1e-4, rtol=0)


class TestWhatIsExported:
    @pytest.mark.parametrize("dynamic", [False, True])
    @pytest.mark.parametrize("size", [(64, 96), (70, 100), (33, 65)])
    def test_gives_the_models_logits_and_their_argmax(self, build, size, dynamic):
        model, images = build("ContextAwareSegmentor"), 255 * torch.rand(2, 3, *size)
        expected = logits_of(model, images)
        with torch.no_grad():
            logits = ExportableSegmentor(model, "logits", dynamic=dynamic)(images)
            labels = ExportableSegmentor(model, dynamic=dynamic)(images)
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
        assert torch.equal(labels, logits.argmax(dim=1))

    def test_a_model_in_training_mode_is_refused(self, build):
        with pytest.raises(UserError, match=r"call eval\(\)"):
            ExportableSegmentor(build("LinearSegmentor").train())

    def test_detectron2s_own_segmentor_is_answered_with_linear_segmentor(self, build):
        with pytest.raises(UserError, match="SemanticSegmentor cannot be exported.*LinearSegment"):
            ExportableSegmentor(build("SemanticSegmentor"))

    def test_a_backbone_that_pads_to_a_square_is_refused(self, build, monkeypatch):
        model = build("LinearSegmentor")
        backbone = type(model.backbone)
        monkeypatch.setattr(backbone, "padding_constraints", {"square_size": 64})
        with pytest.raises(UserError, match="pads images to a square"):
            ExportableSegmentor(model)

    def test_an_unknown_output_is_answered_with_the_nearest(self, build):
        with pytest.raises(UserError, match="Did you mean 'labels'"):
            ExportableSegmentor(build("LinearSegmentor"), "label")


def cases():
    for name in MODELS:
        for export_format in SUFFIXES:
            if export_format == "torch_export" and name not in QUICK:
                continue  # ONNX files are made from the same programs
            quick = name in QUICK and export_format == "torchscript"
            yield pytest.param(name, export_format, marks=[] if quick else pytest.mark.slow)


class TestEveryModel:
    @pytest.mark.parametrize(("name", "export_format"), cases())
    def test_gives_the_same_logits_from_its_file(self, build, path, name, export_format):
        needs(export_format)
        model, file = build(*MODELS[name]), path(export_format)
        agreement = export_segmentor(model, file, export_format, SHAPE, output="logits")
        assert agreement.logit_difference <= 1e-4 * agreement.logit_range
        assert agreement.pixels == 2 * SHAPE.height * SHAPE.width
        images = 255 * torch.rand(1, 3, SHAPE.height, SHAPE.width)
        assert_gives_logits(load_exported(file, export_format), model, images)

    @pytest.mark.slow
    @pytest.mark.skipif(is_embedded(), reason="needs an installed Detectron2")
    @pytest.mark.parametrize("export_format", SUFFIXES)
    def test_with_detectron2s_backbone_and_head_does_as_well(self, build, path, export_format):
        needs(export_format)
        fpn = ["MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "MODEL.RESNETS.DEPTH", 18]
        fpn += ["MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.SEM_SEG_HEAD.NAME", "SemSegFPNHead"]
        fpn += ["MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"]]
        fpn += ["MODEL.FPN.IN_FEATURES", ["res2", "res3", "res4", "res5"]]
        model = build("ContextAwareSegmentor", *fpn)
        file = path(export_format)
        export_segmentor(model, file, export_format, SHAPE, output="logits")
        images = 255 * torch.rand(1, 3, SHAPE.height, SHAPE.width)
        assert_gives_logits(load_exported(file, export_format), model, images)


@pytest.mark.slow
class TestAnySize:
    @pytest.mark.parametrize("export_format", ["onnx", "torch_export"])
    @pytest.mark.parametrize("name", ["context-aware"])
    def test_one_file_takes_images_of_any_size_and_number(self, build, path, name, export_format):
        needs(export_format)
        model, file = build(*MODELS[name]), path(export_format)
        shape = ImageShape(1, 64, 64, dynamic=True)
        export_segmentor(model, file, export_format, shape, output="logits")
        run = load_exported(file, export_format)
        for size in [(1, 64, 64), (2, 96, 65), (4, 34, 130)]:
            images = 255 * torch.rand(size[0], 3, *size[1:])
            assert_gives_logits(run, model, images)

    def test_in_onnx_its_axes_have_names(self, build, path):
        onnxruntime = pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
        shape = ImageShape(1, 64, 96, dynamic=True)
        export_segmentor(build("LinearSegmentor"), path("onnx"), "onnx", shape, output="logits")
        session = onnxruntime.InferenceSession(str(path("onnx")))
        assert session.get_inputs()[0].shape == ["batch", 3, "height", "width"]
        assert session.get_outputs()[0].shape == ["batch", CLASSES, "height", "width"]

    def test_a_model_that_is_bound_to_one_size_is_told(self, build, path):
        """Pyramid pooling is."""
        model = build(*MODELS["context-aware with UPerHead"])
        shape = ImageShape(1, 64, 96, dynamic=True)
        with pytest.raises(UserError, match="images of any size.*Leave --dynamic out"):
            export_segmentor(model, path("torch_export"), "torch_export", shape)
        assert list(path("onnx").parent.iterdir()) == []


class TestBoundToOneSize:
    def test_windowed_attention_is(self, build, path):
        """Tracing it with free sizes takes too long; it is refused at once."""
        model, shape = build(*MODELS["ECEHead on Swin"]), ImageShape(1, 64, 96, dynamic=True)
        with pytest.raises(UserError, match="attention in windows"):
            export_segmentor(model, path("torch_export"), "torch_export", shape)

    def test_torchscript_is(self, build, path):
        with pytest.raises(UserError, match="one size only.*torch_export or onnx"):
            export_segmentor(
                build("LinearSegmentor"),
                path("torchscript"),
                "torchscript",
                ImageShape(1, 64, 96, dynamic=True),
            )

    @pytest.mark.parametrize(
        "export_format", ["torchscript", pytest.param("torch_export", marks=pytest.mark.slow)]
    )
    def test_another_size_is_refused_when_the_file_is_run(self, build, path, export_format):
        export_segmentor(build("LinearSegmentor"), path(export_format), export_format, SHAPE)
        run = load_exported(path(export_format), export_format)
        # Errors of the runtimes, which have no class in common.
        with pytest.raises(Exception, match="expected|Guard failed"):
            run(torch.rand(1, 3, 96, 96))


METADATA = {"classes": json.dumps(["sky", "größe"]), "image_format": "RGB"}


class TestFile:
    def test_labels_are_int64_and_one_an_image_of_the_batch(self, build, path):
        model, shape = build("ContextAwareSegmentor"), ImageShape(2, 64, 96)
        agreement = export_segmentor(model, path("torchscript"), "torchscript", shape)
        assert agreement.logit_difference is None and agreement.unclear < 0.5
        images = 255 * torch.rand(2, 3, 64, 96)
        labels = load_exported(path("torchscript"), "torchscript")(images)
        assert labels.dtype == torch.int64 and labels.shape == (2, 64, 96)
        assert (labels == logits_of(model, images).argmax(dim=1)).float().mean() > 0.999

    def test_of_torchscript_has_the_metadata_inside(self, build, path):
        file, found = path("torchscript"), {METADATA_FILE: ""}
        export_segmentor(build("LinearSegmentor"), file, "torchscript", SHAPE, metadata=METADATA)
        torch.jit.load(str(file), _extra_files=found)
        assert json.loads(found[METADATA_FILE]) == METADATA

    def test_of_torch_export_has_the_metadata_inside(self, build, path):
        file, found = path("torch_export"), {METADATA_FILE: ""}
        export_segmentor(build("LinearSegmentor"), file, "torch_export", SHAPE, metadata=METADATA)
        torch.export.load(str(file), extra_files=found)
        assert json.loads(found[METADATA_FILE]) == METADATA

    @pytest.mark.slow
    def test_of_onnx_has_the_metadata_and_the_weights_inside(self, build, path):
        onnx = pytest.importorskip("onnx")
        pytest.importorskip("onnxscript")
        export_segmentor(build("LinearSegmentor"), path("onnx"), "onnx", SHAPE, metadata=METADATA)
        model = onnx.load(str(path("onnx")), load_external_data=False)
        onnx.checker.check_model(model)
        assert {item.key: item.value for item in model.metadata_props}.items() >= METADATA.items()
        assert model.opset_import[0].version == export.ONNX_OPSET
        assert [item.name for item in model.graph.output] == ["labels"]
        assert os.listdir(path("onnx").parent) == ["model.onnx"]

    @pytest.mark.slow
    def test_of_onnx_beyond_2_gib_has_its_weights_beside(self, build, path, monkeypatch):
        needs("onnx")
        monkeypatch.setattr(export, "_LARGEST_SINGLE_FILE", 1000)
        model, file = build("LinearSegmentor"), path("onnx")
        export_segmentor(model, file, "onnx", SHAPE, output="logits")
        assert sorted(os.listdir(file.parent)) == ["model.onnx", "model.onnx.data"]
        images = 255 * torch.rand(1, 3, SHAPE.height, SHAPE.width)
        assert_gives_logits(load_exported(file, "onnx"), model, images)
        with pytest.raises(UserError, match="is there already"):
            export_segmentor(model, file, "onnx", SHAPE)

    def test_that_is_there_stays_unless_it_shall_be_replaced(self, build, path):
        model, file = build("LinearSegmentor"), path("torchscript")
        file.write_text("precious")
        with pytest.raises(UserError, match=r"model.pt' is there already.*--overwrite"):
            export_segmentor(model, file, "torchscript", SHAPE)
        assert file.read_text() == "precious"
        export_segmentor(model, file, "torchscript", SHAPE, overwrite=True)
        assert torch.jit.load(str(file)) is not None

    @pytest.mark.parametrize("output", ["labels", "logits"])
    def test_that_computes_something_else_is_not_kept(self, build, path, monkeypatch, output):
        model, file = build("LinearSegmentor"), path("torchscript")
        file.write_text("precious")

        def mirrored(*arguments):
            run = load_exported(*arguments)
            return lambda images: run(images).flip(-1)

        monkeypatch.setattr(export, "load_exported", mirrored)
        with pytest.raises(UserError, match="computes something else"):
            export_segmentor(model, file, "torchscript", SHAPE, output=output, overwrite=True)
        assert os.listdir(file.parent) == ["model.pt"] and file.read_text() == "precious"

    def test_that_cannot_be_read_again_is_not_kept(self, build, path, monkeypatch):
        def fail(*arguments):
            raise RuntimeError("node is missing")

        monkeypatch.setattr(export, "load_exported", fail)
        with pytest.raises(UserError, match="cannot be read again.*node is missing"):
            export_segmentor(build("LinearSegmentor"), path("torchscript"), "torchscript", SHAPE)
        assert os.listdir(path("torchscript").parent) == []

    def test_of_a_model_that_the_format_has_no_words_for_is_not_begun(
        self, build, path, monkeypatch
    ):
        model = build("LinearSegmentor")
        logits = type(model).logits

        def with_a_number(self, images):
            return logits(self, images) * (2.0 if images.sum().item() > 0 else 1.0)

        monkeypatch.setattr(type(model), "logits", with_a_number)
        with pytest.raises(UserError, match="cannot be exported as torch_export"):
            export_segmentor(model, path("torch_export"), "torch_export", SHAPE)
        assert os.listdir(path("torch_export").parent) == []

    @pytest.mark.parametrize(
        ("name", "export_format", "message"),
        [
            ("model.pth", "torchscript", r"must end in \.pt\."),
            ("model.onnx", "onxx", "Did you mean 'onnx'"),
        ],
    )
    def test_of_a_wrong_name_or_format_is_refused(
        self, build, tmp_path, name, export_format, message
    ):
        with pytest.raises(UserError, match=message):
            export_segmentor(build("LinearSegmentor"), tmp_path / name, export_format, SHAPE)

    def test_of_a_model_with_a_sliding_window_is_refused(self, build, path):
        model = build("LinearSegmentor", "TEST.SLIDING_WINDOW.ENABLED", True)
        with pytest.raises(UserError, match="sliding"):
            export_segmentor(model, path("torchscript"), "torchscript", SHAPE)

    @pytest.mark.parametrize("shape", [(0, 8, 8), (1, -1, 8), (1, 8, 0)])
    def test_of_images_without_pixels_is_refused(self, shape):
        with pytest.raises(UserError, match="expected 1 or more"):
            ImageShape(*shape)


class Brightness(nn.Module):
    """A model of three classes by brightness; the first two are ``gap`` apart, everywhere."""

    def __init__(self, gap=1.0):
        super().__init__()
        self.gap = gap
        self.register_buffer("pixel_mean", torch.zeros(3, 1, 1))

    def logits(self, images):
        gray = images.mean(dim=1)
        return torch.stack([gray, gray + self.gap, 0 * gray], dim=1)

    def forward(self, batched_inputs):
        return [{"sem_seg": self.logits(item["image"][None])[0]} for item in batched_inputs]


class TestCheck:
    images = 255 * torch.rand(2, 3, 8, 9, generator=torch.Generator().manual_seed(1))

    def test_the_model_agrees_with_itself(self):
        model = Brightness()
        agreement = check_file(model, model.logits, [(1, 8, 9), (3, 4, 5)], "logits")
        assert agreement.logit_difference == agreement.other_labels == agreement.unclear == 0
        assert agreement.pixels == 2 * (8 * 9 + 3 * 4 * 5)

    def test_a_difference_is_measured(self):
        model = Brightness(gap=50.0)
        result = compare(model, lambda images: model.logits(images) + 0.005, self.images, "logits")
        assert result.logit_difference == pytest.approx(0.005, rel=0.1)

    def test_a_large_difference_is_refused(self):
        model = Brightness()
        with pytest.raises(UserError, match="differ from the model's by up to 0.5"):
            compare(model, lambda images: model.logits(images) + 0.5, self.images, "logits")

    def test_where_rounding_decides_labels_may_differ(self):
        model = Brightness(gap=0.01)

        def first_class(images):
            return torch.zeros(images.shape[0], *images.shape[2:], dtype=torch.int64)

        agreement = compare(model, first_class, self.images, "labels")
        assert agreement.unclear == agreement.other_labels == 1
        with pytest.raises(UserError, match="could not be checked"):
            check_file(model, first_class, [(1, 8, 9)], "labels")
        model.gap = 1.0
        with pytest.raises(UserError, match="100.00% of the pixels have another label"):
            compare(model, first_class, self.images, "labels")

    def test_one_wrong_pixel_is_found(self):
        model = Brightness()

        def run(images):
            labels = model.logits(images).argmax(dim=1)
            labels[0, 0, 0] = 2
            return labels

        with pytest.raises(UserError, match="0.69% of the pixels"):
            compare(model, run, self.images, "labels")

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_what_is_not_finite_is_refused(self, value):
        model = Brightness()
        with pytest.raises(UserError, match="differ"):
            compare(model, lambda images: model.logits(images) * value, self.images, "logits")
        with pytest.raises(UserError, match="not finite"):
            compare(Brightness(gap=value), model.logits, self.images, "logits")

    def test_another_shape_is_refused(self):
        model = Brightness()
        with pytest.raises(UserError, match=r"gives \(2, 3, 4, 9\).*the model \(2, 3, 8, 9\)"):
            compare(model, lambda i: model.logits(i)[:, :, ::2], self.images, "logits")

    def test_a_file_that_fails_is_refused(self):
        def run(images):
            raise RuntimeError("indices out of bounds")

        with pytest.raises(UserError, match="fails for images of .2, 3, 8, 9.*out of bounds"):
            compare(Brightness(), run, self.images, "logits")


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """Of a model that tells dark pixels from bright ones."""
    folder = tmp_path_factory.mktemp("export") / "run"
    return make_run(folder, "ContextAwareSegmentor", "exported")


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
    """demo/onnx_inference.py where nothing of PyTorch, Detectron2 and this project is there."""
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
        picture = np.asarray(Image.open(tmp_path / "out.png"))
        assert picture.shape == (96, 128, 3)
        assert (picture[:, :56] == NIGHT).all(axis=2).mean() > 0.9
        assert (picture[:, 72:] == DAY).all(axis=2).mean() > 0.9
        assert "night" in printed and "day" in printed

    def test_reverses_the_channels_for_a_model_of_bgr(self, export_model, tmp_path, path):
        """What it gives to the model is what the demos give to it."""
        needs("onnx")
        opts = ["INPUT.FORMAT", "BGR", "MODEL.PIXEL_MEAN", "[0.0, 128.0, 255.0]"]
        options = ["--size", 96, 128]
        export_model("--format", "onnx", "--output-file", path("onnx"), *options, opts=opts)
        image = half_bright() // [1, 2, 4]
        Image.fromarray(image.astype(np.uint8)).save(tmp_path / "photo.png")
        run_onnx_inference(path("onnx"), tmp_path / "photo.png", tmp_path / "out.png")
        bgr = torch.from_numpy(image[:, :, ::-1].transpose(2, 0, 1).copy()).float()
        labels = load_exported(path("onnx"), "onnx")(bgr[None])[0].numpy()
        picture = np.asarray(Image.open(tmp_path / "out.png"))
        assert np.array_equal(picture, np.uint8([NIGHT, DAY])[labels])
