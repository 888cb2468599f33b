"""Backbones, heads and the head contract."""

import pytest
import torch
from torch import nn

from d2_ctxseg.modeling import AuxiliaryFCNHead, EncoderBackbone, SMPDecoderHead, take_predictor
from d2_ctxseg.utils.errors import UserError
from detectron2.layers import ShapeSpec

# The stride of the encoder that each decoder is tried with: not all take all.
DECODERS = {
    "FPN": 32,
    "UPerNet": 32,
    "Segformer": 32,
    "PSPNet": 8,
    "PAN": 16,
    "DeepLabV3Plus": 16,
    "Unet": 32,
    "UnetPlusPlus": 32,
    "Linknet": 32,
}


class TestEncoderBackbone:
    @pytest.mark.parametrize("name", ["resnet18", "mit_b0", "tu-resnet10t"])
    def test_feature_maps_are_as_announced(self, name):
        backbone = EncoderBackbone(name=name).eval()
        features = backbone(torch.randn(1, 3, 64, 96))
        for key, shape in backbone.output_shape().items():
            expected = (1, shape.channels, 64 // shape.stride, 96 // shape.stride)
            assert tuple(features[key].shape) == expected
        assert backbone.size_divisibility == 32

    def test_dilation(self):
        backbone = EncoderBackbone(name="resnet18", output_stride=8)
        strides = {key: shape.stride for key, shape in backbone.output_shape().items()}
        assert strides == {"res0": 1, "res1": 2, "res2": 4, "res3": 8, "res4": 8, "res5": 8}
        assert backbone(torch.randn(1, 3, 64, 64))["res5"].shape[-1] == 8

    def test_unknown_name_suggests_the_nearest(self):
        with pytest.raises(UserError, match="no encoder 'resnet19'.*Did you mean 'resnet1"):
            EncoderBackbone(name="resnet19")

    def test_unknown_timm_name_suggests_the_nearest(self):
        with pytest.raises(UserError, match="Did you mean 'tu-convnext_tiny'"):
            EncoderBackbone(name="tu-convnext_tinny")

    def test_timm_name_without_prefix_is_reported(self):
        with pytest.raises(UserError, match="write 'tu-convnext_tiny'"):
            EncoderBackbone(name="convnext_tiny")

    def test_unknown_weights_list_those_there_are(self):
        with pytest.raises(UserError, match=r"MODEL.ENCODER.WEIGHTS.*imagenet"):
            EncoderBackbone(name="resnet18", weights="imagnet")

    def test_weights_without_network(self, monkeypatch):
        def refuse(*args, **kwargs):
            raise ConnectionError("no route to host")

        monkeypatch.setattr("segmentation_models_pytorch.encoders.hf_hub_download", refuse)
        with pytest.raises(UserError, match="could not be downloaded.*Without a network"):
            EncoderBackbone(name="resnet18", weights="imagenet")

    @pytest.mark.parametrize("name", ["resnet18", "tu-resnet10t"])
    def test_local_weights(self, tmp_path, name):
        source = EncoderBackbone(name=name)
        encoder = source.encoder.model if name.startswith("tu-") else source.encoder
        # Files of image classifiers hold the classifier as well.
        torch.save({**encoder.state_dict(), "fc.weight": torch.ones(3)}, tmp_path / "weights.pth")
        loaded = EncoderBackbone(name=name, weights=str(tmp_path / "weights.pth"))
        for key, value in source.state_dict().items():
            assert torch.equal(value, loaded.state_dict()[key])

    def test_local_weights_of_another_encoder_list_the_keys(self, tmp_path):
        torch.save({"blocks.0.weight": torch.ones(3)}, tmp_path / "weights.pth")
        with pytest.raises(
            UserError, match=r"Missing.*: .*conv1.weight.*Not used: blocks.0.weight"
        ):
            EncoderBackbone(name="resnet18", weights=str(tmp_path / "weights.pth"))

    def test_missing_local_weights_name_the_path(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="nowhere.pth"):
            EncoderBackbone(name="resnet18", weights=str(tmp_path / "nowhere.pth"))

    def test_unsupported_output_stride(self):
        with pytest.raises(UserError, match="OUTPUT_STRIDE 8: encoder 'tu-poolformer_s12'"):
            EncoderBackbone(name="tu-poolformer_s12", output_stride=8)


class TestSMPDecoderHead:
    @pytest.mark.parametrize("decoder", DECODERS)
    def test_predictions_and_losses(self, decoder):
        backbone = EncoderBackbone(name="resnet18", output_stride=DECODERS[decoder])
        head = SMPDecoderHead(backbone.output_shape(), decoder=decoder, num_classes=5)
        features = backbone(torch.randn(2, 3, 128, 160))
        _, losses = head(features, torch.randint(0, 5, (2, 128, 160)))
        losses["loss_sem_seg"].backward()
        stride = head.common_stride
        assert head.eval().layers(features).shape == (2, 5, 128 // stride, 160 // stride)
        assert head(features)[0].shape == (2, 5, 128, 160)

    def test_strides_that_a_decoder_cannot_take_are_refused(self):
        shape = EncoderBackbone(name="resnet18", output_stride=32).output_shape()
        with pytest.raises(UserError, match="'DeepLabV3Plus' does not work with .*OUTPUT_STRIDE"):
            SMPDecoderHead(shape, decoder="DeepLabV3Plus", num_classes=5)

    def test_options_reach_the_decoder(self):
        shape = EncoderBackbone(name="resnet18").output_shape()
        head = SMPDecoderHead(
            shape, decoder="UPerNet", decoder_options={"decoder_channels": 24}, num_classes=5
        )
        assert head.predictor.in_channels == 24

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"decoder": "UpperNet"}, "no decoder 'UpperNet'.*Did you mean 'UPerNet'"),
            (
                {"decoder": "UPerNet", "decoder_options": {"decoder_chanels": 8}},
                "no option 'decoder_chanels'.*Did you mean 'decoder_channels'",
            ),
        ],
    )
    def test_typing_errors_are_reported_with_the_nearest_name(self, arguments, message):
        shape = EncoderBackbone(name="resnet18").output_shape()
        with pytest.raises(UserError, match=message):
            SMPDecoderHead(shape, num_classes=5, **arguments)

    def test_a_backbone_without_the_feature_maps_is_refused(self):
        shape = {"res5": ShapeSpec(channels=8, stride=32)}
        with pytest.raises(UserError, match="EncoderBackbone"):
            SMPDecoderHead(shape, decoder="FPN", num_classes=5)


class TestHeadContract:
    def test_layers_yield_pixel_features_once_the_predictor_is_taken(self):
        shape = {"res4": ShapeSpec(channels=8, stride=16)}
        head = AuxiliaryFCNHead(shape, channels=6, num_classes=5).eval()
        features = {"res4": torch.randn(1, 8, 4, 4)}
        logits = head.layers(features)
        predictor = take_predictor(head)
        assert head.layers(features).shape == (1, 6, 4, 4)
        assert torch.equal(predictor(head.layers(features)), logits)

    def test_a_head_without_the_contract_is_refused(self):
        with pytest.raises(UserError, match="Linear cannot be wrapped: it has no layers"):
            take_predictor(nn.Linear(2, 2))

    def test_a_predictor_that_is_no_1x1_convolution_is_refused(self):
        head = AuxiliaryFCNHead({"res4": ShapeSpec(channels=8, stride=16)}, num_classes=5)
        head.predictor = nn.Conv2d(256, 5, 3)
        with pytest.raises(UserError, match="expected a 1x1 convolution"):
            take_predictor(head)
