"""Padding of batches, windows and exported images; and test images that are not padded."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from d2_ctxseg.deployment.export import ExportableSegmentor, ImageShape, export_segmentor
from d2_ctxseg.modeling.padding import feature_sizes, pad_to_multiple, sizes_if_padded
from d2_ctxseg.utils.errors import UserError
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_model
from detectron2.structures import ImageList

WITH_CONTEXT = ["ContextAwareSegmentor", "ExplicitClassSegmentor", "SemanticSpatialSegmentor"]
sides = st.integers(1, 200)


@BACKBONE_REGISTRY.register()
class PatchBackbone(Backbone):
    """Each feature sees its own 4x4 pixels, so that padding shows in what is estimated only."""

    size_divisibility = 32

    def __init__(self, cfg, input_shape):
        super().__init__()
        self.patches = nn.Conv2d(3, 16, kernel_size=4, stride=4)

    def forward(self, image):
        return {"res5": self.patches(pad_to_multiple(image, 4))}

    def output_shape(self):
        return {"res5": ShapeSpec(channels=16, stride=4)}


@pytest.fixture
def cfg(tiny_config):
    tiny_config.merge_from_list(
        ["MODEL.BACKBONE.NAME", "PatchBackbone", "MODEL.SEM_SEG_HEAD.NAME", "FCNHead"]
        + ["MODEL.FCN_HEAD.NUM_CONVS", 0, "MODEL.FCN_HEAD.CONCAT_INPUT", False]
        + ["MODEL.CLASSIFIER.DROPOUT", 0.0]
        # These count all pixels of an image, ignored ones too, as the authors' do.
        + ["MODEL.CLASSIFIER.SEMANTIC_SPATIAL.LOSS_WEIGHT_DICE", 0.0]
        + ["MODEL.CLASSIFIER.SEMANTIC_SPATIAL.LOSS_WEIGHT_DICE_ORACLE", 0.0]
    )
    return tiny_config


def build(cfg, meta_architecture="ContextAwareSegmentor"):
    cfg.MODEL.META_ARCHITECTURE = meta_architecture
    model = build_model(cfg).eval()
    for parameter in model.parameters():
        # Away from initial scores that are nearly equal, whatever goes in.
        nn.init.normal_(parameter, std=0.3)
    return model


def images(*sizes):
    return [{"image": torch.randint(0, 255, (3, *size), dtype=torch.uint8)} for size in sizes]


def predict(model, inputs):
    with torch.no_grad():
        return [output["sem_seg"] for output in model(inputs)]


def assert_close(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


# The last pixels of an image lie between the last feature of the image and the first one of the
# padding, if there is padding: logits are interpolated from both.
BORDER = 2


@pytest.mark.parametrize("meta_architecture", [*WITH_CONTEXT, "LinearSegmentor"])
class TestPredictions:
    sizes = [(32, 64), (50, 70), (96, 128), (3, 5)]

    def test_of_an_image_are_the_same_alone_and_beside_a_larger_one(self, cfg, meta_architecture):
        model, inputs = build(cfg, meta_architecture), images(*self.sizes)
        for one, together in zip(inputs, predict(model, inputs)):
            inner = ..., slice(0, -BORDER), slice(0, -BORDER)
            assert_close(together[inner], predict(model, [one])[0][inner])

    def test_of_windows_do_not_depend_on_the_batch_of_windows(self, cfg, meta_architecture):
        # Windows of 20 pixels are padded to 32.
        options = cfg.TEST.SLIDING_WINDOW
        options.ENABLED, options.SIZE, options.STRIDE = True, [20, 28], [12, 20]
        options.BATCH_SIZE = 3
        model, (inputs,) = build(cfg, meta_architecture), images((50, 70))
        (found,) = predict(model, [inputs])
        total, count = torch.zeros(5, 50, 70), torch.zeros(50, 70)
        model.sliding_window = None
        for top in (0, 12, 24, 30):
            for left in (0, 20, 40, 42):
                window = ..., slice(top, top + 20), slice(left, left + 28)
                total[window] += predict(model, [{"image": inputs["image"][window]}])[0]
                count[window] += 1
        assert_close(found, total / count)

    def test_that_are_exported_leave_their_own_padding_out(self, cfg, meta_architecture):
        model, (inputs,) = build(cfg, meta_architecture), images((50, 70))
        for dynamic in (False, True):
            exported = ExportableSegmentor(model, "logits", dynamic=dynamic)
            with torch.no_grad():
                (found,) = exported(inputs["image"][None].float())
            assert_close(found, predict(model, [inputs])[0])


@pytest.mark.parametrize("meta_architecture", WITH_CONTEXT)
class TestTheContext:
    def test_would_see_the_padding_if_it_were_not_told(self, cfg, meta_architecture):
        """So the tests above have something to find."""
        model, inputs = build(cfg, meta_architecture), images((32, 64), (96, 128))
        padded = model.normalized_images(inputs).tensor
        with torch.no_grad():
            difference = model.logits(padded) - model.logits(padded, [(32, 64), (96, 128)])
        assert difference[0, :, :32, :64].abs().max() > 0.01
        assert difference[1].abs().max() < 1e-4

    def test_in_training_is_that_of_each_image(self, cfg, meta_architecture):
        """What the padding looks like plays no part in the losses of a batch of unequal images."""
        model = build(cfg, meta_architecture).train()
        sizes = [(32, 64), (64, 32)]
        batch = torch.randn(2, 3, 64, 64)
        labels = torch.full((2, 64, 64), 255)
        for i, (height, width) in enumerate(sizes):
            inner = height - BORDER, width - BORDER
            labels[i, : inner[0], : inner[1]] = torch.randint(0, 5, inner)
        losses = []
        for _ in range(2):
            batch[0, :, 32:], batch[1, :, :, 32:] = torch.randn(3, 32, 64), torch.randn(3, 64, 32)
            losses.append(model.losses(batch, labels, sizes))
        torch.testing.assert_close(*losses)

    @pytest.mark.slow
    def test_is_the_same_in_a_file_for_images_of_any_size(self, cfg, meta_architecture, tmp_path):
        # The exporter compares the file with the model, on images that are padded and that are not.
        model = build(cfg, meta_architecture)
        shape = ImageShape(1, 50, 70, dynamic=True)
        file = tmp_path / "model.pt2"
        agreement = export_segmentor(model, file, "torch_export", shape, output="logits")
        assert agreement.logit_difference < 1e-4 * agreement.logit_range


class TestWithoutPadding:
    """TEST.PAD False: images go in as they are."""

    @pytest.fixture
    def cfg(self, cfg):
        cfg.TEST.PAD = False
        return cfg

    def test_each_image_goes_in_alone_in_its_own_size(self, cfg):
        model, seen = build(cfg), []
        model.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
        outputs = predict(model, images((50, 70), (33, 64)))
        assert seen == [(1, 3, 50, 70), (1, 3, 33, 64)]
        assert [output.shape for output in outputs] == [(5, 50, 70), (5, 33, 64)]

    def test_logits_are_enlarged_to_the_image_not_to_the_padded_one(self, cfg):
        model, (inputs,) = build(cfg, "LinearSegmentor"), images((50, 70))
        with torch.no_grad():
            logits = model.low_resolution_logits(model.normalized_images([inputs]).tensor)
        assert logits.shape[-2:] == (13, 18)
        expected = nn.functional.interpolate(logits, (50, 70), mode="bilinear")
        assert_close(predict(model, [inputs])[0], expected[0])

    def test_windows_are_not_padded_either(self, cfg):
        options = cfg.TEST.SLIDING_WINDOW
        options.ENABLED, options.SIZE, options.STRIDE = True, [20, 28], [20, 28]
        model, seen = build(cfg), []
        model.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[2:]))
        predict(model, images((50, 70)))
        assert set(seen) == {(20, 28)}

    def test_training_batches_are_padded_all_the_same(self, cfg):
        model = build(cfg).train()
        assert model.normalized_images(images((50, 70), (33, 64))).tensor.shape == (2, 3, 64, 96)

    def test_a_model_that_needs_padding_is_reported(self, tiny_config):
        """Its feature maps are doubled and added, which takes multiples of 32."""
        tiny_config.TEST.PAD = False
        model = build_model(tiny_config).eval()
        assert predict(model, images((64, 96)))[0].shape == (5, 64, 96)
        message = r"an image of 50 x 70 pixels.*TEST.PAD to True, or .*SIZE_DIVISIBILITY_TEST to 32"
        with pytest.raises(UserError, match=message):
            predict(model, images((50, 70)))

    def test_it_is_not_exported(self, cfg, tmp_path):
        with pytest.raises(UserError, match="set the model's pad_test_images to True"):
            export_segmentor(
                build(cfg), tmp_path / "model.pt2", "torch_export", ImageShape(1, 64, 64)
            )


class TestModelsTakeAnySize:
    """The feature maps of the papers' encoders and decoders, in the sizes of mmsegmentation's."""

    @pytest.mark.parametrize("encoder", ["resnet18", "mit_b0", "tu-hrnet_w18_small", "tu-swin"])
    @pytest.mark.parametrize("head", ["UPerHead", "Segformer"])
    def test_rounded_up_at_each_stride(self, tiny_config, encoder, head):
        if encoder == "tu-swin":
            encoder = "tu-swin_tiny_patch4_window7_224"
        tiny_config.MODEL.ENCODER.NAME = encoder
        tiny_config.TEST.PAD = False
        if head == "UPerHead":
            tiny_config.MODEL.SEM_SEG_HEAD.NAME = head
        else:
            tiny_config.MODEL.SEM_SEG_HEAD.DECODER.NAME = head
            tiny_config.MODEL.SEM_SEG_HEAD.DECODER.OPTIONS = []
        tiny_config.MODEL.DEVICE = "meta"
        with torch.device("meta"), torch.no_grad():
            model = build_model(tiny_config).eval()
            features = model.backbone(torch.zeros(1, 3, 70, 101))
            logits = model.low_resolution_logits(torch.zeros(1, 3, 70, 101))
        strides = {f"res{i}": 2**i for i in range(2, 6)}
        assert {name: tuple(features[name].shape[2:]) for name in strides} == {
            name: (-(-70 // stride), -(-101 // stride)) for name, stride in strides.items()
        }
        assert logits.shape[2:] == (18, 26)

    def test_a_plain_vision_transformer_pads_to_whole_patches(self, tiny_config):
        tiny_config.merge_from_list(
            ["MODEL.BACKBONE.NAME", "VisionTransformerBackbone", "MODEL.ENCODER.NAME", "test_vit"]
            + ["MODEL.ENCODER.OUT_INDICES", (1, 3), "MODEL.SEM_SEG_HEAD.NAME", "FCNHead"]
            + ["MODEL.FCN_HEAD.IN_FEATURES", ["block3"], "MODEL.FCN_HEAD.CHANNELS", 8]
            + ["TEST.PAD", False]
        )
        model = build_model(tiny_config).eval()
        with torch.no_grad():
            image = torch.randn(1, 3, 50, 70)
            features = model.backbone(image)["block3"]
            padded = model.backbone(nn.functional.pad(image, (0, 10, 0, 14)))["block3"]
        assert features.shape[2:] == (4, 5)
        torch.testing.assert_close(features, padded)


class TestSizes:
    def test_are_none_where_nothing_is_padded(self):
        whole = ImageList(torch.zeros(2, 3, 4, 6), [(4, 6), (4, 6)])
        assert sizes_if_padded(whole) is None
        part = ImageList(torch.zeros(2, 3, 4, 6), [(4, 6), (4, 5)])
        assert sizes_if_padded(part) == [(4, 6), (4, 5)]

    @given(sides, sides, st.sampled_from([1, 4, 8, 16]))
    def test_of_features_are_those_of_an_image_that_is_not_padded(self, size, more, stride):
        padded = -(-(size + more) // stride) * stride
        (found,) = feature_sizes([(size, padded)], (padded, padded), (padded // stride,) * 2)
        assert found.tolist() == [-(-size // stride), padded // stride]

    @given(sides, st.integers(1, 64))
    def test_become_multiples(self, side, divisor):
        image = torch.ones(1, 1, side, 2 * divisor)
        padded = pad_to_multiple(image, divisor)
        assert padded.shape[2] % divisor == 0 and 0 <= padded.shape[2] - side < divisor
        assert padded.shape[3] == 2 * divisor and padded.sum() == image.sum()
