"""Plain vision transformers as backbones."""

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d2_ctxseg.modeling.backbones.vision_transformer import VisionTransformerBackbone
from d2_ctxseg.utils.errors import UserError
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, build_backbone

TINY = "vit_tiny_patch16_224"


class TestFeatureMaps:
    @pytest.mark.parametrize(
        ("name", "patch"),
        [
            (TINY, 16),
            ("deit_tiny_distilled_patch16_224", 16),
            ("vit_small_patch14_reg4_dinov2", 14),
            ("eva02_tiny_patch14_224", 14),
            ("vit_pe_spatial_tiny_patch16_512", 16),
        ],
    )
    def test_they_are_as_announced_and_reach_every_parameter(self, name, patch):
        """Images of another size and shape than the model was made for, too."""
        backbone = VisionTransformerBackbone(name=name, out_indices=(1, 3))
        features = backbone(torch.randn(1, 3, 3 * patch, 5 * patch))
        shapes = backbone.output_shape()
        assert list(features) == list(shapes) == ["block1", "block3"]
        for key, shape in shapes.items():
            assert features[key].shape == (1, shape.channels, 3, 5)
            assert shape.stride == backbone.size_divisibility == patch
        sum(feature.sum() for feature in features.values()).backward()
        assert [name for name, p in backbone.named_parameters() if p.grad is None] == []

    def test_they_are_the_outputs_of_timms_blocks(self):
        backbone = VisionTransformerBackbone(name=TINY, out_indices=(2, 11)).eval()
        model = timm.create_model(TINY, num_classes=0).eval()
        model.load_state_dict(backbone.encoder.state_dict(), strict=False)
        image, outputs = torch.randn(1, 3, 224, 224), {}
        for index in (2, 11):
            model.blocks[index].register_forward_hook(
                lambda module, args, output, index=index: outputs.update({index: output})
            )
        with torch.no_grad():
            model(image)
            features = backbone(image)
        for index, tokens in outputs.items():
            # The first is the class token.
            expected = tokens[:, 1:].transpose(1, 2).unflatten(2, (14, 14))
            torch.testing.assert_close(features[f"block{index}"], expected)

    @given(height=st.integers(1, 6), width=st.integers(1, 6))
    @settings(max_examples=8, deadline=None)
    def test_any_multiple_of_the_patch_size_will_do(self, height, width):
        backbone = VisionTransformerBackbone(name=TINY, out_indices=(0,)).eval()
        with torch.no_grad():
            feature = backbone(torch.randn(2, 3, 16 * height, 16 * width))["block0"]
        assert feature.shape == (2, 192, height, width)
        assert torch.isfinite(feature).all()

    def test_position_is_distinguished_at_every_size(self):
        """A uniform image differs from place to place only by the interpolated position table."""
        backbone = VisionTransformerBackbone(name=TINY, out_indices=(0,)).eval()
        with torch.no_grad():
            feature = backbone(torch.zeros(1, 3, 320, 96))["block0"][0].flatten(1)
        assert len(feature.unique(dim=1).T) == 20 * 6

    def test_repeated_calls_are_equal(self):
        backbone = VisionTransformerBackbone(name=TINY, drop_path_rate=0.5).eval()
        image = torch.randn(1, 3, 64, 48)
        with torch.no_grad():
            first, second = backbone(image), backbone(image)
        assert all(torch.equal(first[key], second[key]) for key in first)

    def test_runs_under_autocast(self):
        backbone = VisionTransformerBackbone(name=TINY, out_indices=(1,)).eval()
        image = torch.randn(1, 3, 64, 48)
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            half = backbone(image)["block1"].float()
        with torch.no_grad():
            torch.testing.assert_close(half, backbone(image)["block1"], atol=0.1, rtol=0.1)

    def test_blocks_beyond_the_last_one_chosen_are_left_out(self):
        backbone = VisionTransformerBackbone(name=TINY, out_indices=(0, 4))
        assert len(backbone.encoder.blocks) == 5
        assert not any("head" in name for name, _ in backbone.named_parameters())

    def test_drop_path_skips_branches_in_training_only(self):
        backbone = VisionTransformerBackbone(name=TINY, out_indices=(11,), drop_path_rate=0.9)
        image = torch.randn(1, 3, 32, 32)
        with torch.no_grad():
            assert not torch.equal(backbone(image)["block11"], backbone(image)["block11"])

    def test_images_of_other_channels(self):
        backbone = VisionTransformerBackbone(name=TINY, out_indices=(0,), in_channels=4)
        assert backbone(torch.randn(1, 4, 32, 32))["block0"].shape == (1, 192, 2, 2)


class TestWeights:
    def test_a_local_file_fills_the_model(self, tmp_path):
        """Files hold the whole classifier: more blocks than are chosen, the norm, the head."""
        source = timm.create_model(TINY)
        torch.save(source.state_dict(), tmp_path / "weights.pth")
        loaded = VisionTransformerBackbone(
            name=TINY, weights=str(tmp_path / "weights.pth"), out_indices=(1, 3)
        )
        for key, value in loaded.encoder.state_dict().items():
            assert torch.equal(value, source.state_dict()[key])

    def test_a_file_of_another_model_lists_the_keys(self, tmp_path):
        torch.save({"conv1.weight": torch.ones(3)}, tmp_path / "weights.pth")
        with pytest.raises(UserError, match=r"Missing.*: .*pos_embed.*Not used: conv1.weight"):
            VisionTransformerBackbone(name=TINY, weights=str(tmp_path / "weights.pth"))

    def test_a_file_that_is_not_there_is_reported(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="nowhere.pth"):
            VisionTransformerBackbone(name=TINY, weights=str(tmp_path / "nowhere.pth"))

    @pytest.mark.parametrize(
        ("name", "weights", "expected"),
        [
            (TINY, "imagenet", TINY),
            (f"tu-{TINY}.augreg_in21k", "imagenet", f"{TINY}.augreg_in21k"),
            (TINY, "augreg_in21k", f"{TINY}.augreg_in21k"),
        ],
    )
    def test_names_and_tags_are_passed_to_timm(self, monkeypatch, name, weights, expected):
        asked = []

        def create_model(name, pretrained, **options):
            asked.append((name, pretrained))
            raise ConnectionError("no route to host")

        monkeypatch.setattr("timm.create_model", create_model)
        with pytest.raises(UserError, match="could not be downloaded.*Without a network"):
            VisionTransformerBackbone(name=name, weights=weights)
        assert asked == [(expected, True)]

    @pytest.mark.parametrize("weights", ["augreg_in22k", "imagnet"])
    def test_unknown_tags_list_the_known_ones(self, weights):
        with pytest.raises(UserError, match="no weights.*it has imagenet, augreg_in21k"):
            VisionTransformerBackbone(name=TINY, weights=weights)

    def test_a_tag_does_not_matter_for_random_weights(self):
        tagged = VisionTransformerBackbone(name=f"{TINY}.augreg_in21k", out_indices=(0,))
        assert tagged.output_shape() == {"block0": ShapeSpec(channels=192, stride=16)}


class TestBadInput:
    def test_unknown_names_suggest_the_nearest(self):
        with pytest.raises(UserError, match=f"no 'vit_tinny_patch16_224'.*Did you mean '{TINY}'"):
            VisionTransformerBackbone(name="vit_tinny_patch16_224")

    @pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "beit_base_patch16_224"])
    def test_models_that_are_not_plain_or_of_one_size_are_refused(self, name):
        with pytest.raises(UserError, match=f"'{name}' is not a plain .*any size.*'tu-{name}'"):
            VisionTransformerBackbone(name=name)

    @pytest.mark.parametrize("out_indices", [(), (3, 12), (-1,), (7, 5), (5, 5)])
    def test_blocks_must_be_there_and_ascend(self, out_indices):
        with pytest.raises(UserError, match="OUT_INDICES.*from 0 to 11"):
            VisionTransformerBackbone(name=TINY, out_indices=out_indices)


def test_is_built_from_a_config(tiny_config):
    assert BACKBONE_REGISTRY.get("VisionTransformerBackbone") is VisionTransformerBackbone
    tiny_config.MODEL.BACKBONE.NAME = "VisionTransformerBackbone"
    keys = {"NAME": TINY, "WEIGHTS": "", "OUT_INDICES": (2, 5), "DROP_PATH_RATE": 0.1}
    tiny_config.MODEL.ENCODER = CfgNode({**tiny_config.MODEL.ENCODER, **keys})
    shape = ShapeSpec(channels=192, stride=16)
    backbone = build_backbone(tiny_config)
    assert backbone.output_shape() == {"block2": shape, "block5": shape}
