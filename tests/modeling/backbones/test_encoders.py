"""Encoders as segmentors have them: strides, norms, stochastic depth, memory, pyramids."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from d2_ctxseg.modeling import EncoderBackbone, VisionTransformerBackbone
from d2_ctxseg.modeling.backbones.activation_checkpointing import checkpoint_activations
from d2_ctxseg.modeling.backbones.feature_pyramid import FeaturePyramid
from d2_ctxseg.modeling.heads import ECEHead, SegViTHead, SMPDecoderHead, UPerHead
from d2_ctxseg.utils.errors import UserError
from detectron2.modeling import build_backbone

SWIN = "tu-swin_tiny_patch4_window7_224"
VIT = "vit_tiny_patch16_224"
# Name and stride of the deepest feature map.
ENCODERS = {
    "resnet18": 32,
    "tu-resnet50c": 8,
    "tu-mobilenetv2_100": 8,
    "tu-hrnet_w18_small": 32,
    SWIN: 32,
    "mit_b0": 32,
    "tu-convnext_atto": 32,
    "efficientnet-b0": 32,
}
every_encoder = pytest.mark.parametrize(("name", "stride"), ENCODERS.items())


@every_encoder
class TestEveryEncoder:
    def test_gives_what_it_announces_and_has_no_unused_parameter(self, name, stride):
        backbone = EncoderBackbone(name=name, output_stride=stride)
        features = backbone(torch.randn(2, 3, 64, 96))
        for key, shape in backbone.output_shape().items():
            assert features[key].shape == (
                2,
                shape.channels,
                64 // shape.stride,
                96 // shape.stride,
            )
        sum(features[key].sum() for key in ("res2", "res3", "res4", "res5")).backward()
        trained = [(key, p) for key, p in backbone.named_parameters() if p.requires_grad]
        assert [key for key, p in trained if p.grad is None] == []
        assert trained

    def test_can_be_built_on_the_meta_device(self, name, stride):
        with torch.device("meta"):
            backbone = EncoderBackbone(name=name, output_stride=stride, output_norm=True)
        assert {p.device.type for p in backbone.parameters()} == {"meta"}


def test_what_is_unused_is_found_once_and_frozen_every_time(monkeypatch):
    monkeypatch.setattr("d2_ctxseg.modeling.backbones.encoder._unused_parameters", {})
    traced, trace = [], EncoderBackbone._trace
    monkeypatch.setattr(
        EncoderBackbone, "_trace", lambda self, name: traced.append(name) or trace(self, name)
    )
    for _ in range(2):
        backbone = EncoderBackbone(name="efficientnet-b0")
        frozen = [key for key, p in backbone.named_parameters() if not p.requires_grad]
        assert frozen == [
            f"encoder.{key}" for key in ("_conv_head.weight", "_bn1.weight", "_bn1.bias")
        ]
    EncoderBackbone(name="efficientnet-b0", output_norm=True)
    assert traced == ["efficientnet-b0"] * 2


class TestStrides:
    def convolutions(self, module):
        return [
            (m.stride[0], m.dilation[0])
            for m in module.modules()
            if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)
        ]

    def test_resnet_d8_is_dilated_from_the_second_block_of_a_stage_on(self):
        model = EncoderBackbone(name="tu-resnet50c", output_stride=8).encoder.model
        assert self.convolutions(model.layer2) == [(2, 1)] + 3 * [(1, 1)]
        assert self.convolutions(model.layer3) == [(1, 1)] + 5 * [(1, 2)]
        assert self.convolutions(model.layer4) == [(1, 2)] + 2 * [(1, 4)]

    @pytest.mark.parametrize(("stride", "fourth", "sixth"), [(8, 2, 4), (16, 1, 2)])
    def test_mobilenet_is_dilated_in_the_first_block_of_a_stage(self, stride, fourth, sixth):
        backbone = EncoderBackbone(name="tu-mobilenetv2_100", output_stride=stride)
        stages = [self.convolutions(stage) for stage in backbone.encoder.model.blocks]
        first = 2 if stride == 16 else 1
        assert stages[3] == [(first, fourth)] + 3 * [(1, 1)]
        assert stages[4] == [(1, fourth)] + 2 * [(1, 1)]
        assert stages[5] == [(1, sixth)] + 2 * [(1, 1)]
        assert stages[6] == [(1, sixth)]

    @pytest.mark.parametrize("stride", [8, 16])
    def test_resnet_101_takes_both(self, stride):
        with torch.device("meta"):
            shape = EncoderBackbone(name="tu-resnet101c", output_stride=stride).output_shape()
        assert shape["res5"].stride == stride

    def test_an_encoder_without_a_pyramid_is_refused(self):
        with pytest.raises(UserError, match="'tu-deit_tiny_patch16_224' has no feature maps of"):
            EncoderBackbone(name="tu-deit_tiny_patch16_224")


class TestHRNet:
    def test_branches_are_as_they_are(self):
        shape = EncoderBackbone(name="tu-hrnet_w18_small").output_shape()
        assert [shape[f"res{i}"].channels for i in (2, 3, 4, 5)] == [16, 32, 64, 128]

    def test_branches_are_enlarged_bilinearly(self):
        encoder = EncoderBackbone(name="tu-hrnet_w18_small").encoder
        modes = {m.mode for m in encoder.modules() if isinstance(m, nn.Upsample)}
        assert modes == {"bilinear"}


class TestSwin:
    @pytest.fixture(scope="class")
    def blocks(self):
        backbone = EncoderBackbone(name=SWIN).eval()
        return [block for i in range(4) for block in backbone.encoder.model[f"layers_{i}"].blocks]

    def test_every_other_block_shifts_its_windows(self, blocks):
        """In the last stage, too, where a window is as large as the classifier's feature map."""
        assert [block.shift_size for block in blocks] == [(0, 0), (3, 3)] * 6
        assert {block.window_size for block in blocks} == {(7, 7)}

    def test_pads_to_whole_windows_before_shifting(self, blocks):
        x = torch.randn(1, 10, 16, 96)
        padded = torch.zeros(1, 14, 21, 96)
        padded[:, :10, :16] = x
        with torch.no_grad():
            for block in blocks[:2]:
                expected = block._attn(padded)[:, :10, :16]
                torch.testing.assert_close(block._attn(x), expected)

    def test_attention_of_a_pixel_stays_in_its_shifted_window(self, blocks):
        """Shifted windows of 7 begin at 3: pixels 3 to 9 see each other."""
        x = torch.randn(1, 16, 16, 96, requires_grad=True)
        blocks[1]._attn(x)[0, 5, 5].sum().backward()
        seen = x.grad[0].abs().sum(dim=2) > 1e-12
        expected = torch.zeros(16, 16, dtype=torch.bool)
        expected[3:10, 3:10] = True
        assert torch.equal(seen, expected)


class TestOutputNorm:
    def test_channels_of_every_pixel_have_mean_0_and_variance_1(self):
        backbone = EncoderBackbone(name="tu-convnext_atto", output_norm=True).eval()
        with torch.no_grad():
            features = backbone(torch.randn(1, 3, 64, 96))
        for name in ("res2", "res3", "res4", "res5"):
            mean = features[name].mean(dim=1)
            variance = features[name].var(dim=1, correction=0)
            torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-5, rtol=0)
            torch.testing.assert_close(variance, torch.ones_like(variance), atol=0.02, rtol=0)

    def test_norms_are_trained(self):
        backbone = EncoderBackbone(name="resnet18", output_norm=True)
        sum(f.square().sum() for f in backbone(torch.randn(2, 3, 64, 64)).values()).backward()
        assert len(list(backbone.output_norms.parameters())) == 8
        assert all(p.grad is not None for p in backbone.parameters())


class TestDropPath:
    def highest_rate(self, backbone):
        return max(getattr(m, "drop_prob", 0.0) or 0.0 for m in backbone.modules())

    @pytest.mark.parametrize("name", ["tu-convnext_atto", "mit_b0", "tu-resnet18", SWIN])
    def test_rate_is_the_one_requested(self, name):
        with torch.device("meta"):
            assert self.highest_rate(EncoderBackbone(name=name)) == 0
            backbone = EncoderBackbone(name=name, drop_path_rate=0.3)
        assert self.highest_rate(backbone) == pytest.approx(0.3)

    @pytest.mark.parametrize(
        "name", ["resnet18", "tu-hrnet_w18_small", "tu-densenet121", "timm-efficientnet-b0"]
    )
    def test_encoders_that_do_not_know_it_say_so(self, name):
        with pytest.raises(
            UserError, match=f"DROP_PATH_RATE 0.3: encoder '{name}' does not support"
        ):
            EncoderBackbone(name=name, drop_path_rate=0.3)


class TestActivationCheckpointing:
    @pytest.mark.parametrize(
        "name", ["resnet18", "tu-mobilenetv2_100", "tu-hrnet_w18_small", "mit_b0"]
    )
    def test_recomputed_activations_change_nothing(self, name):
        """Nor does BatchNorm count a batch twice."""
        rate = 0.5 if name == "mit_b0" else 0.0
        options = {"name": name, "output_stride": ENCODERS[name], "drop_path_rate": rate}
        usual = EncoderBackbone(**options)
        # As a running average of the weights has it.
        saving = copy.deepcopy(EncoderBackbone(**options, activation_checkpointing=True))
        saving.load_state_dict(usual.state_dict())
        image, losses = torch.randn(2, 3, 32, 32), []
        for backbone in (usual, saving):
            torch.manual_seed(5)
            features = backbone(image)
            losses.append(features["res5"].square().mean() + features["res3"].square().mean())
            losses[-1].backward()
        torch.testing.assert_close(losses[0], losses[1])
        pairs = [(p.grad, q.grad) for p, q in zip(usual.parameters(), saving.parameters())]
        torch.testing.assert_close(*zip(*((p, q) for p, q in pairs if p is not None)))
        torch.testing.assert_close(dict(usual.named_buffers()), dict(saving.named_buffers()))

    def test_keeps_fewer_activations(self):
        def kept(activation_checkpointing):
            backbone = EncoderBackbone(
                name="resnet18", activation_checkpointing=activation_checkpointing
            )
            kept_by_parameters = {p.data_ptr() for p in backbone.parameters()}
            sizes = {}

            def pack(tensor):
                if tensor.data_ptr() not in kept_by_parameters:
                    sizes[tensor.data_ptr()] = tensor.numel()
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                backbone(torch.randn(1, 3, 64, 64))
            return sum(sizes.values())

        assert kept(True) < 0.8 * kept(False)

    def test_an_encoder_without_blocks_is_refused(self):
        encoder = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())
        with pytest.raises(UserError, match="ACTIVATION_CHECKPOINTING: encoder 'own' has no"):
            checkpoint_activations(encoder, "own")

    def test_a_block_that_overwrites_its_input_is_refused(self):
        class Overwriting(nn.Module):
            def __init__(self):
                super().__init__()
                self.activation, self.conv = (
                    nn.Sequential(nn.ReLU(inplace=True)),
                    nn.Conv2d(3, 3, 1),
                )

            def forward(self, x):
                return self.conv(self.activation(x))

        encoder = nn.Sequential(nn.Conv2d(3, 3, 1), Overwriting())
        checkpoint_activations(encoder, "own")
        with pytest.raises(UserError, match=r"\(Overwriting\) overwrites its input"):
            encoder(torch.randn(1, 3, 4, 4))

    def test_the_plain_way_would_count_batches_twice(self):
        """What the test of recomputed activations guards against does happen."""
        norm = nn.BatchNorm2d(3)
        checkpoint(norm, torch.randn(2, 3, 4, 4), use_reentrant=False).sum().backward()
        assert norm.num_batches_tracked == 2


class TestFeaturePyramid:
    def pyramid(self, **options):
        return VisionTransformerBackbone(
            name=VIT, out_indices=(0, 1, 2, 3), pyramid=True, **options
        )

    def test_is_as_announced_and_reaches_every_parameter(self):
        backbone = self.pyramid()
        features = backbone(torch.randn(2, 3, 64, 96))
        shapes = backbone.output_shape()
        assert list(features) == list(shapes) == ["res2", "res3", "res4", "res5"]
        assert [shape.stride for shape in shapes.values()] == [4, 8, 16, 32]
        for name, shape in shapes.items():
            expected = (2, shape.channels, 64 // shape.stride, 96 // shape.stride)
            assert features[name].shape == expected
        assert backbone.size_divisibility == 32
        sum(feature.square().sum() for feature in features.values()).backward()
        assert [name for name, p in backbone.named_parameters() if p.grad is None] == []

    def test_third_map_is_the_third_blocks_output_and_the_fourth_is_pooled(self):
        maps = [torch.randn(1, 8, 6, 4) for _ in range(4)]
        pyramid = FeaturePyramid(8)(maps)
        assert pyramid["res4"] is maps[2]
        assert torch.equal(pyramid["res5"], maps[3].unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5)))

    def test_feeds_heads_for_pyramids(self):
        backbone = self.pyramid()
        head = UPerHead(backbone.output_shape(), channels=16, num_classes=5)
        assert head.eval()(backbone(torch.randn(2, 3, 64, 96)))[0].shape == (2, 5, 64, 96)

    def test_recomputed_activations_change_nothing(self):
        usual, saving = self.pyramid(), self.pyramid(activation_checkpointing=True)
        saving.load_state_dict(usual.state_dict())
        image, gradients = torch.randn(1, 3, 32, 32), []
        for backbone in (usual, saving):
            backbone(image)["res3"].square().sum().backward()
            gradients.append([p.grad for p in backbone.encoder.blocks[:2].parameters()])
        torch.testing.assert_close(*gradients)

    def test_other_numbers_of_blocks_are_refused(self):
        with pytest.raises(UserError, match=r"PYRAMID needs .* four blocks.*names 2: \(3, 5\)"):
            VisionTransformerBackbone(name=VIT, out_indices=(3, 5), pyramid=True)

    def test_other_patch_sizes_are_refused(self):
        with pytest.raises(UserError, match="PYRAMID: the patches .* 14 pixels.*'patch16'"):
            VisionTransformerBackbone(
                name="vit_small_patch14_reg4_dinov2", out_indices=(0, 1, 2, 3), pyramid=True
            )


class TestConfig:
    def test_every_key_arrives(self, tiny_config):
        encoder = tiny_config.MODEL.ENCODER
        encoder.NAME, encoder.DROP_PATH_RATE = "tu-convnext_atto", 0.2
        encoder.OUTPUT_NORM = encoder.ACTIVATION_CHECKPOINTING = True
        backbone = build_backbone(tiny_config)
        assert TestDropPath().highest_rate(backbone) == pytest.approx(0.2)
        assert len(backbone.output_norms) == 4

    def test_pyramid_arrives(self, tiny_config):
        tiny_config.MODEL.BACKBONE.NAME = "VisionTransformerBackbone"
        encoder = tiny_config.MODEL.ENCODER
        encoder.NAME, encoder.OUT_INDICES, encoder.PYRAMID = VIT, (0, 1, 2, 3), True
        assert list(build_backbone(tiny_config).output_shape()) == ["res2", "res3", "res4", "res5"]


@pytest.mark.parametrize(
    "decoder", ["FPN", "UPerNet", "Segformer", "Unet", "UnetPlusPlus", "Linknet"]
)
def test_decoders_can_be_built_on_the_meta_device(decoder):
    with torch.device("meta"):
        shape = EncoderBackbone(name="resnet18").output_shape()
        head = SMPDecoderHead(shape, decoder=decoder, num_classes=5)
    assert {p.device.type for p in head.parameters()} == {"meta"}


def test_heads_that_classify_can_be_built_on_the_meta_device():
    with torch.device("meta"):
        shape = EncoderBackbone(name="resnet18").output_shape()
        heads = [
            ECEHead([shape[f"res{i}"].channels for i in (2, 3, 4, 5)], 5),
            SegViTHead({"res5": shape["res5"]}, num_classes=5, channels=24, num_heads=2),
        ]
    assert {p.device.type for head in heads for p in head.parameters()} == {"meta"}
