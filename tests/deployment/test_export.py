"""Exported segmentors have the outputs of the model; otherwise no file is written."""

import json
import os
from functools import partial

import pytest
import torch
from exported_files import exported_file, needs

from d2_ctxseg.checkpoint import strip_training_only
from d2_ctxseg.deployment import export
from d2_ctxseg.deployment.export import (
    METADATA_FILE,
    SUFFIXES,
    ExportableSegmentor,
    ImageShape,
    export_segmentor,
    load_exported,
)
from d2_ctxseg.utils.errors import UserError
from d2_ctxseg.utils.runtime import is_embedded
from detectron2.modeling import build_model

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
    "semantic and spatial": ["SemanticSpatialSegmentor"],
    "prototype": ["PrototypeSegmentor"],
    "learned prototypes": ["LearnedPrototypeSegmentor"],
    "explicit class": ["ExplicitClassSegmentor"],
    "gaussian mixture": ["GaussianMixtureSegmentor"],
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
    return partial(exported_file, tmp_path)


def logits_of(model, images):
    with torch.no_grad():
        return torch.stack([one["sem_seg"] for one in model([{"image": i} for i in images])])


def assert_gives_logits(run, model, images):
    """Compared here independently of the exporter's own check."""
    expected = logits_of(model, images)
    scale = (expected.max() - expected.min()).item()
    torch.testing.assert_close(run(images) / scale, expected / scale, atol=1e-4, rtol=0)


class TestWhatIsExported:
    @pytest.mark.parametrize(("size", "dynamic"), [((70, 100), False), ((33, 65), True)])
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

    def test_detectron2s_own_segmentor_names_linear_segmentor(self, build):
        with pytest.raises(UserError, match="SemanticSegmentor cannot be exported.*LinearSegment"):
            ExportableSegmentor(build("SemanticSegmentor"))

    def test_a_backbone_that_pads_to_a_square_is_refused(self, build, monkeypatch):
        model = build("LinearSegmentor")
        backbone = type(model.backbone)
        monkeypatch.setattr(backbone, "padding_constraints", {"square_size": 64})
        with pytest.raises(UserError, match="pads images to a square"):
            ExportableSegmentor(model)

    def test_an_unknown_output_suggests_the_nearest(self, build):
        with pytest.raises(UserError, match="Did you mean 'labels'"):
            ExportableSegmentor(build("LinearSegmentor"), "label")


def cases():
    for name in MODELS:
        for export_format in SUFFIXES:
            if export_format == "torch_export" and name not in (*QUICK, "SegViTHead on ViT"):
                continue  # for the time: the ONNX file is made from such a program as well
            quick = name in QUICK and export_format == "torchscript"
            yield pytest.param(name, export_format, marks=[] if quick else pytest.mark.slow)


class TestConfidence:
    @pytest.mark.parametrize(
        "export_format",
        [
            "torchscript",
            pytest.param("onnx", marks=pytest.mark.slow),
            pytest.param("torch_export", marks=pytest.mark.slow),
        ],
    )
    def test_comes_with_the_labels_at_the_temperature(self, build, path, export_format):
        needs(export_format)
        model, file = build("PrototypeSegmentor"), path(export_format)
        options = {"output": "labels+confidence", "temperature": 0.05}
        agreement = export_segmentor(model, file, export_format, SHAPE, **options)
        assert agreement.logit_difference is None
        images = 255 * torch.rand(1, 3, SHAPE.height, SHAPE.width)
        labels, confidence = load_exported(file, export_format)(images)
        logits = logits_of(model, images)
        expected, best = (logits / 0.05).softmax(dim=1).max(dim=1)
        torch.testing.assert_close(confidence, expected, atol=1e-3, rtol=0)
        assert (labels == best).float().mean() > 0.99


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
    @pytest.mark.parametrize("name", ["context-aware", "prototype", "SegViTHead on ViT"])
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

    def test_a_model_that_is_bound_to_one_size_is_reported(self, build, path):
        """Pyramid pooling is."""
        model = build(*MODELS["context-aware with UPerHead"])
        shape = ImageShape(1, 64, 96, dynamic=True)
        with pytest.raises(UserError, match="images of any size.*Remove --dynamic"):
            export_segmentor(model, path("torch_export"), "torch_export", shape)
        assert list(path("onnx").parent.iterdir()) == []


class TestBoundToOneSize:
    def test_windowed_attention_is(self, build, path):
        """Tracing it with free sizes takes too long; it is refused at once."""
        model, shape = build(*MODELS["ECEHead on Swin"]), ImageShape(1, 64, 96, dynamic=True)
        with pytest.raises(UserError, match="window attention"):
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
        with pytest.raises(UserError, match="already exists"):
            export_segmentor(model, file, "onnx", SHAPE)
        monkeypatch.undo()
        export_segmentor(model, file, "onnx", SHAPE, overwrite=True)
        assert os.listdir(file.parent) == ["model.onnx"]

    def test_that_is_there_stays_without_overwrite(self, build, path):
        model, file = build("LinearSegmentor"), path("torchscript")
        file.write_text("precious")
        with pytest.raises(UserError, match=r"model.pt' already exists.*--overwrite"):
            export_segmentor(model, file, "torchscript", SHAPE)
        assert file.read_text() == "precious"
        export_segmentor(model, file, "torchscript", SHAPE, overwrite=True)
        assert torch.jit.load(str(file)) is not None

    @pytest.mark.parametrize("output", ["labels", "logits"])
    def test_that_computes_something_else_is_not_kept(self, build, path, monkeypatch, output):
        model, file = build("LinearSegmentor"), path("torchscript")
        file.write_text("precious")

        def flipped(*arguments):
            run = load_exported(*arguments)
            return lambda images: run(images).flip(-1)

        monkeypatch.setattr(export, "load_exported", flipped)
        with pytest.raises(UserError, match="does not match the model"):
            export_segmentor(model, file, "torchscript", SHAPE, output=output, overwrite=True)
        assert os.listdir(file.parent) == ["model.pt"] and file.read_text() == "precious"

    def test_that_cannot_be_read_again_is_not_kept(self, build, path, monkeypatch):
        def fail(*arguments):
            raise RuntimeError("node is missing")

        monkeypatch.setattr(export, "load_exported", fail)
        with pytest.raises(UserError, match="cannot be read.*node is missing"):
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
