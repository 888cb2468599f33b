"""Which mean and standard deviation images are normalised with."""

import logging
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import timm
import yaml
from timm.models import register_model

from d2_ctxseg.engine import setup_config
from d2_ctxseg.modeling.backbones import encoder, vision_transformer
from d2_ctxseg.modeling.backbones.normalization import encoder_normalization
from detectron2.config import CfgNode
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_backbone

ROOT = Path(__file__).parents[3]
WEIGHTS = ROOT.parent / "shared" / "weights" / "tf_efficientnet_lite0.safetensors"
LITE0 = "tu-tf_efficientnet_lite0"
CLIP_VIT = "vit_base_patch16_clip_224"
IMAGENET = [[123.675, 116.28, 103.53], [58.395, 57.12, 57.375]]
HALF = [[127.5] * 3] * 2
CLIP = [[122.770938, 116.746013, 104.093736], [68.500533, 66.632158, 70.323163]]
DPN = [[124.0, 117.0, 104.0], [59.88024] * 3]
DETECTRON2 = [[103.53, 116.28, 123.675], [1.0, 1.0, 1.0]]
VIT = ("MODEL.BACKBONE.NAME", "VisionTransformerBackbone")
# MODEL.ENCODER.NAME and WEIGHTS, other overrides, and mean and deviation in RGB.
ENCODERS = [
    (LITE0, "imagenet", (), HALF),
    (LITE0, "./weights.safetensors", (), HALF),
    (LITE0, "", (), HALF),
    ("tu-resnet18.a1_in1k", "imagenet", (), IMAGENET),
    ("tu-inception_v4", "imagenet", (), HALF),
    (CLIP_VIT, "imagenet", VIT, CLIP),
    (f"tu-{CLIP_VIT}.openai", "imagenet", VIT, CLIP),
    ("vit_small_patch14_dinov2", "imagenet", VIT, IMAGENET),
    ("vit_small_patch16_dinov3", "lvd1689m", VIT, IMAGENET),
    ("vit_base_patch16_224", "imagenet", VIT, HALF),
    # Another tag than the default one, in the name or as the weights, has other numbers.
    ("vit_base_patch16_224.dino", "imagenet", VIT, IMAGENET),
    ("vit_base_patch16_224.dino", "./weights.safetensors", VIT, IMAGENET),
    ("vit_base_patch16_224", "dino", VIT, IMAGENET),
    ("resnet18", "imagenet", (), IMAGENET),
    ("mit_b0", "imagenet", (), IMAGENET),
    ("resnext101_32x16d", "", (), IMAGENET),  # has no weights "imagenet"
    ("efficientnet-b0", "imagenet", (), IMAGENET),
    ("efficientnet-b0", "advprop", (), HALF),
    ("inceptionresnetv2", "imagenet", (), HALF),
    ("xception", "imagenet", (), HALF),
    ("timm-tf_efficientnet_lite1", "imagenet", (), HALF),
    ("dpn68", "imagenet", (), DPN),
]


@register_model
def own_test_model(pretrained=False, **options):
    """A model of timm's that has no pretrained_cfg."""
    return timm.create_model("test_resnet", pretrained=False, **options)


@BACKBONE_REGISTRY.register()
class OwnTestBackbone(Backbone):
    """A backbone that is neither of this project nor of a library."""


def write_config(path: Path, base="Base-Segmentor.yaml", **model) -> str:
    base = {"_BASE_": str(ROOT / "configs" / base)} if base else {}
    path.write_text(yaml.safe_dump({**base, "MODEL": {"DEVICE": "cpu", **model}}))
    return str(path)


def normalization_of(cfg: CfgNode) -> list:
    return [cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD]


@pytest.fixture
def config_file(tmp_path):
    return write_config(tmp_path / "config.yaml")


class TestEncoders:
    @pytest.mark.parametrize(("name", "weights", "opts", "expected"), ENCODERS)
    def test_have_their_own(self, config_file, name, weights, opts, expected):
        """In training, in evaluation, which drops the weights, and in the order of BGR."""
        opts = [*opts, "MODEL.ENCODER.NAME", name, "MODEL.ENCODER.WEIGHTS", weights]
        for for_inference in (False, True):
            cfg = setup_config(config_file, opts, for_inference=for_inference)
            assert normalization_of(cfg) == expected
            cfg = setup_config(
                config_file, [*opts, "INPUT.FORMAT", "BGR"], for_inference=for_inference
            )
            assert normalization_of(cfg) == [row[::-1] for row in expected]

    @pytest.mark.parametrize("name", ["tu-own_test_model", "tu-resnet18.no_such_tag", "resnet19"])
    def test_of_which_nothing_is_known_have_imagenets(self, config_file, name):
        cfg = setup_config(config_file, ["MODEL.ENCODER.NAME", name])
        assert normalization_of(cfg) == IMAGENET

    def test_those_of_timm_agree_with_timm(self, tiny_config):
        tiny_config.INPUT.FORMAT = "RGB"
        for name in ("resnet18", "inception_v3", "convnext_atto", "tf_efficientnet_b0.ap_in1k"):
            tiny_config.MODEL.ENCODER.NAME = f"tu-{name}"
            expected = smp.encoders.get_preprocessing_params(f"tu-{name}")
            found = encoder_normalization(tiny_config)
            assert found.mean == pytest.approx([255 * x for x in expected["mean"]])
            assert found.std == pytest.approx([255 * x for x in expected["std"]])


class TestWhatTheConfigStates:
    stated = {"PIXEL_MEAN": [1.0, 2.0, 3.0], "PIXEL_STD": [4.0, 5.0, 6.0]}

    def test_counts(self, tmp_path):
        path = write_config(tmp_path / "own.yaml", ENCODER={"NAME": LITE0}, **self.stated)
        assert normalization_of(setup_config(path, [])) == list(self.stated.values())
        derived = write_config(tmp_path / "derived.yaml", base=path)
        assert normalization_of(setup_config(derived, [])) == list(self.stated.values())

    def test_counts_even_if_it_is_what_base_segmentor_has(self, tmp_path):
        numbers = dict(zip(("PIXEL_MEAN", "PIXEL_STD"), IMAGENET))
        path = write_config(tmp_path / "own.yaml", ENCODER={"NAME": LITE0}, **numbers)
        assert normalization_of(setup_config(path, [])) == IMAGENET

    def test_the_overrides_count(self, config_file):
        opts = ["MODEL.ENCODER.NAME", LITE0, "MODEL.PIXEL_STD", "[1.0, 2.0, 3.0]"]
        assert normalization_of(setup_config(config_file, opts)) == [HALF[0], [1.0, 2.0, 3.0]]

    def test_a_config_without_base_segmentor_gets_the_encoders_in_detectron2s_order(self, tmp_path):
        model = {"META_ARCHITECTURE": "LinearSegmentor", "BACKBONE": {"NAME": "EncoderBackbone"}}
        path = write_config(tmp_path / "own.yaml", base=None, **model)
        assert normalization_of(setup_config(path, [])) == [row[::-1] for row in IMAGENET]

    def test_of_other_backbones_the_config_is_left_alone(self, tmp_path, config_file):
        model = {"META_ARCHITECTURE": "LinearSegmentor", "BACKBONE": {"NAME": "OwnTestBackbone"}}
        path = write_config(tmp_path / "own.yaml", base=None, **model)
        assert normalization_of(setup_config(path, [])) == DETECTRON2
        cfg = setup_config(config_file, ["MODEL.BACKBONE.NAME", "OwnTestBackbone"])
        assert normalization_of(cfg) == IMAGENET

    @pytest.mark.parametrize("name", ["resnet18", LITE0])
    def test_the_saved_config_of_a_run_keeps_its_numbers(self, tmp_path, caplog, name):
        """Of a run before encoders had their own: ImageNet's, whatever the encoder."""
        path = write_config(tmp_path / "own.yaml", ENCODER={"NAME": name})
        cfg = setup_config(path, []).clone()
        cfg.defrost()
        cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = IMAGENET
        (tmp_path / "saved.yaml").write_text(cfg.dump())
        saved = setup_config(str(tmp_path / "saved.yaml"), [], for_inference=True)
        assert normalization_of(saved) == IMAGENET
        build_backbone(saved)
        assert caplog.text == ""

    def test_the_numbers_are_in_the_saved_config(self, tmp_path, config_file):
        (tmp_path / "saved.yaml").write_text(
            setup_config(config_file, ["MODEL.ENCODER.NAME", LITE0]).dump()
        )
        values = yaml.safe_load((tmp_path / "saved.yaml").read_text())["MODEL"]
        assert [values["PIXEL_MEAN"], values["PIXEL_STD"]] == HALF


class TestLog:
    @pytest.fixture
    def built(self, monkeypatch, caplog, config_file):
        """A function that builds the encoder of a config as if its weights could be fetched."""
        caplog.set_level(logging.INFO, logger="d2_ctxseg.modeling.backbones.normalization")
        for module, no_weights in ((encoder, None), (vision_transformer, "")):

            def random(
                name, weights, *args, build=module._build_encoder, none=no_weights, **kwargs
            ):
                return build(name, none, *args, **kwargs)

            monkeypatch.setattr(module, "_build_encoder", random)

        def build_with(*opts, for_inference=False):
            caplog.clear()
            build_backbone(setup_config(config_file, list(opts), for_inference=for_inference))
            return caplog.text

        return build_with

    @pytest.mark.parametrize("opts", [(), (*VIT, "MODEL.ENCODER.OUT_INDICES", "(0,)")])
    def test_says_what_is_taken(self, built, opts):
        name = "vit_tiny_patch16_224" if opts else LITE0
        text = built(*opts, "MODEL.ENCODER.NAME", name)
        assert "INFO" in text and "WARNING" not in text
        assert f"encoder '{name}' expect: mean [127.5, 127.5, 127.5]" in text

    def test_warns_of_other_numbers_and_names_both(self, built):
        stated = ("MODEL.PIXEL_MEAN", "[103.0, 116.0, 123.0]", "MODEL.ENCODER.NAME", "resnet18")
        text = built(*stated)
        assert "WARNING" in text and "Images (RGB) are normalised" in text
        assert "PIXEL_MEAN [103.0, 116.0, 123.0] and" in text
        assert "'resnet18' expect mean [123.675, 116.28, 103.53] and" in text
        assert built(*stated, "INPUT.FORMAT", "BGR").count("WARNING") == 0

    def test_rounded_numbers_are_not_other_ones(self, built):
        text = built("MODEL.PIXEL_MEAN", "[123.7, 116.3, 103.5]", "MODEL.ENCODER.NAME", "resnet18")
        assert "WARNING" not in text

    def test_evaluation_and_random_weights_are_quiet(self, built):
        stated = ("MODEL.PIXEL_MEAN", "[1.0, 1.0, 1.0]")
        assert built(*stated, for_inference=True) == ""
        assert built(*stated, "MODEL.ENCODER.WEIGHTS", "") == ""


@pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"needs the weights file {WEIGHTS.name}")
def test_real_weights_are_normalised_for(config_file, caplog):
    opts = ["MODEL.ENCODER.NAME", LITE0, "MODEL.ENCODER.WEIGHTS", str(WEIGHTS)]
    cfg = setup_config(config_file, opts)
    build_backbone(cfg)
    assert normalization_of(cfg) == HALF
    assert "WARNING" not in caplog.text


def test_the_camvid_configs_have_what_their_encoder_wants():
    for path in sorted((ROOT / "configs" / "camvid").glob("fpn_*.yaml")):
        expected = HALF if "efficientnet" in path.stem else IMAGENET
        assert normalization_of(setup_config(str(path), [])) == expected
