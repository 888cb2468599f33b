"""The heads of the papers: FCN, UPerNet, PSPNet, DeepLabV3+ and OCRNet."""

import pytest
import torch
import torch.nn.functional as F
from segmentor_cases import NOT_TRAINED
from torch import nn

from d2_ctxseg.classifiers import CLASSIFIER_REGISTRY
from d2_ctxseg.modeling import AuxiliaryFCNHead, EncoderBackbone, SMPDecoderHead, take_predictor
from d2_ctxseg.modeling.heads import (
    DepthwiseSeparableASPPHead,
    FCNHead,
    OCRHead,
    PSPHead,
    UPerHead,
)
from d2_ctxseg.utils.errors import UserError
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model

STAGES = ["res2", "res3", "res4", "res5"]
SHAPE = {
    name: ShapeSpec(channels=channels, stride=stride)
    for name, channels, stride in zip(STAGES, (6, 8, 10, 12), (4, 8, 16, 32))
}
CLASSES = 5
TRAINED_CLASSIFIERS = [name for name, _ in CLASSIFIER_REGISTRY if name not in NOT_TRAINED]
# HRNet's form of FCN: all feature maps, one 1x1 convolution.
FCN_ON_ALL = {
    "in_features": STAGES,
    "channels": None,
    "num_convs": 1,
    "kernel_size": 1,
    "concat_input": False,
}
HEADS = {
    "FCNHead": (FCNHead, {"channels": 16}),
    "FCNHead on all": (FCNHead, FCN_ON_ALL),
    "UPerHead": (UPerHead, {"channels": 16}),
    "PSPHead": (PSPHead, {"channels": 16}),
    "DepthwiseSeparableASPPHead": (DepthwiseSeparableASPPHead, {"channels": 16}),
    "OCRHead": (OCRHead, {"channels": 16, "key_channels": 8}),
}
every_head = pytest.mark.parametrize("head", HEADS, indirect=True)


@pytest.fixture
def head(request):
    head_class, options = HEADS[request.param]
    return head_class(SHAPE, num_classes=CLASSES, **options)


def feature_maps(height=64, width=96, batch=2):
    return {
        name: torch.randn(batch, s.channels, -(-height // s.stride), -(-width // s.stride))
        for name, s in SHAPE.items()
    }


def labels(height=64, width=96, batch=2):
    return torch.randint(0, CLASSES, (batch, height, width))


def without_gradient(module):
    return [name for name, p in module.named_parameters() if p.grad is None]


@every_head
class TestEveryHead:
    @pytest.mark.parametrize("size", [(64, 96), (50, 70), (33, 161), (4, 4)])
    @pytest.mark.parametrize("align_corners", [False, True])
    def test_takes_images_of_any_size(self, head, size, align_corners):
        head.align_corners = align_corners
        output = head.eval().layers(feature_maps(*size))
        stride = head.common_stride
        assert output.shape == (2, CLASSES, -(-size[0] // stride), -(-size[1] // stride))
        assert torch.isfinite(output).all()

    def test_keeps_the_contract(self, head):
        head.eval()
        features = feature_maps()
        logits = head.layers(features)
        predictor = take_predictor(head)
        pixel_features = head.layers(features)
        assert pixel_features.shape[1] == predictor.in_channels
        assert torch.equal(predictor(pixel_features), logits)

    def test_trains_every_parameter_and_predicts_at_stride_1(self, head):
        none, losses = head(feature_maps(), labels())
        sum(losses.values()).backward()
        assert none is None
        assert without_gradient(head) == []
        assert head.eval()(feature_maps())[0].shape == (2, CLASSES, 64, 96)

    def test_has_loss_0_and_gradients_of_0_without_a_labelled_pixel(self, head):
        _, losses = head(feature_maps(), torch.full((2, 64, 96), 255))
        sum(losses.values()).backward()
        assert all(loss == 0 for loss in losses.values())
        assert all(p.grad is not None and not p.grad.any() for p in head.parameters())

    def test_weighs_all_its_losses(self, head):
        features, target = feature_maps(), labels()
        expected = head(features, target)[1]
        head.loss_weight = 0.5
        for name, loss in head(features, target)[1].items():
            torch.testing.assert_close(loss, 0.5 * expected[name])

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_runs_under_autocast(self, head, dtype):
        features = feature_maps()
        expected = head.eval().layers(features)
        with torch.autocast("cpu", dtype=dtype):
            half = head.layers(features).float()
            losses = head.train()(features, labels())[1]
        sum(losses.values()).backward()
        torch.testing.assert_close(half, expected, atol=0.02, rtol=0.1)

    def test_runs_in_float64(self, head):
        features = {name: feature.double() for name, feature in feature_maps().items()}
        assert head.double().eval().layers(features).dtype == torch.float64

    def test_can_be_exported(self, head):
        head.eval().forward = head.layers  # what segmentors call
        features = feature_maps()
        exported = torch.export.export(head, (features,)).module()
        torch.testing.assert_close(exported(features), head.layers(features))

    @pytest.mark.parametrize("name", TRAINED_CLASSIFIERS)
    def test_works_with_every_classifier(self, head, name):
        predictor = take_predictor(head)
        classifier_class = CLASSIFIER_REGISTRY.get(name)
        classifier = classifier_class(predictor.in_channels, CLASSES)
        features, target = feature_maps(), labels()
        pixel_features, losses = head.training_layers(features, target)
        losses = classifier.losses(pixel_features, target) | losses
        sum(losses.values()).backward()
        assert without_gradient(head) == []
        trained = [p for p in classifier.parameters() if p.requires_grad]
        assert all(p.grad is not None for p in trained)
        assert classifier(head.eval().layers(features)).shape[1] == CLASSES


class TestFromAConfig:
    NODES = ("FCN_HEAD", "UPER_HEAD", "PSP_HEAD", "ASPP_HEAD", "OCR_HEAD")
    NAMES = ("FCNHead", "UPerHead", "PSPHead", "DepthwiseSeparableASPPHead", "OCRHead")

    def use(self, cfg, name, node):
        cfg.MODEL.SEM_SEG_HEAD.NAME = name
        cfg.MODEL[node].CHANNELS = 24
        return cfg

    @pytest.mark.parametrize(("name", "node"), zip(NAMES, NODES))
    def test_every_head_trains_and_predicts_in_a_segmentor(self, tiny_config, name, node):
        model = build_model(self.use(tiny_config, name, node))
        images = [{"image": torch.rand(3, 50, 70), "sem_seg": labels(50, 70)[0]} for _ in range(2)]
        losses = model(images)
        sum(losses.values()).backward()
        assert type(model.sem_seg_head).__name__ == name
        assert ("loss_coarse" in losses) == (name == "OCRHead")
        assert model.eval()(images)[0]["sem_seg"].shape == (CLASSES, 50, 70)

    @pytest.mark.parametrize(
        ("name", "features"),
        [
            ("FCNHead", ["res3", "res5"]),
            ("UPerHead", ["res3", "res4"]),
            ("PSPHead", ["res4"]),
            ("DepthwiseSeparableASPPHead", ["res3", "res4"]),
            ("OCRHead", ["res3", "res5"]),
        ],
    )
    def test_feature_maps_are_those_of_detectron2s_key(self, tiny_config, name, features):
        tiny_config.MODEL.SEM_SEG_HEAD.NAME = name
        tiny_config.MODEL.SEM_SEG_HEAD.IN_FEATURES = features
        head = build_model(tiny_config).sem_seg_head
        assert head.common_stride == 4 << (int(features[0][-1]) - 2)
        tiny_config.MODEL.SEM_SEG_HEAD.IN_FEATURES = [*features[:-1], "res6"]
        message = "MODEL.SEM_SEG_HEAD.IN_FEATURES: .* no 'res6'; it has .*Did you mean"
        with pytest.raises(UserError, match=message):
            build_model(tiny_config)
        tiny_config.MODEL.SEM_SEG_HEAD.IN_FEATURES = []
        with pytest.raises(UserError, match="MODEL.SEM_SEG_HEAD.IN_FEATURES is empty"):
            build_model(tiny_config)

    @pytest.mark.parametrize(
        ("name", "number"), [("PSPHead", 1), ("DepthwiseSeparableASPPHead", 2)]
    )
    def test_heads_of_so_many_feature_maps_refuse_more(self, tiny_config, name, number):
        tiny_config.MODEL.SEM_SEG_HEAD.NAME = name
        tiny_config.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["res2", "res3", "res4"]
        with pytest.raises(UserError, match=f"this head takes {number} feature map"):
            build_model(tiny_config)

    @pytest.mark.parametrize(
        ("name", "opts", "stride"),
        [
            ("FCNHead", ["MODEL.FCN_HEAD.IN_FEATURES", ["res3", "res4"]], 8),
            ("PSPHead", ["MODEL.PSP_HEAD.IN_FEATURE", "res4"], 16),
            (
                "DepthwiseSeparableASPPHead",
                ["MODEL.ASPP_HEAD.IN_FEATURE", "res4", "MODEL.ASPP_HEAD.LOW_LEVEL_FEATURE", "res3"],
                8,
            ),
        ],
    )
    def test_keys_of_earlier_versions_hold(self, tiny_config, name, opts, stride):
        tiny_config.merge_from_list(["MODEL.SEM_SEG_HEAD.NAME", name, *opts])
        assert build_model(tiny_config).sem_seg_head.common_stride == stride


class TestFCNHead:
    def test_without_convolutions_it_is_a_linear_classifier(self):
        head = FCNHead(SHAPE, num_convs=0, concat_input=False, num_classes=CLASSES)
        features = feature_maps()
        assert torch.equal(head.pixel_features(features), features["res5"])

    def test_concatenates_feature_maps_in_the_size_of_the_first(self):
        head = FCNHead(SHAPE, **FCN_ON_ALL | {"num_convs": 0}, num_classes=CLASSES)
        features = feature_maps(50, 70)
        expected = [F.interpolate(f, (13, 18), mode="bilinear") for f in features.values()]
        torch.testing.assert_close(head.pixel_features(features), torch.cat(expected, dim=1))

    def test_concatenates_its_input(self):
        head = FCNHead(SHAPE, channels=16, num_classes=CLASSES).eval()
        features = feature_maps()
        inner = head.convs(features["res5"])
        expected = head.concat_conv(torch.cat([features["res5"], inner], dim=1))
        assert torch.equal(head.pixel_features(features), expected)

    def test_even_kernels_are_refused(self):
        with pytest.raises(UserError, match=r"KERNEL_SIZE is 2.*odd"):
            FCNHead(SHAPE, kernel_size=2, num_classes=CLASSES)

    def test_auxiliary_head_keeps_its_names_in_checkpoints(self):
        head = AuxiliaryFCNHead(SHAPE, channels=16, num_convs=2, num_classes=CLASSES)
        weights = {name for name, p in head.named_parameters() if p.ndim == 4}
        assert weights == {"convs.0.weight", "convs.3.weight", "predictor.weight"}

    def test_auxiliary_head_drops_channels_in_training_only(self):
        head = AuxiliaryFCNHead(SHAPE, num_convs=0, dropout=0.5, num_classes=CLASSES)
        features = feature_maps()
        kept = head.pixel_features(features).flatten(2).any(dim=2)
        assert 0 < kept.sum() < kept.numel()
        assert torch.equal(head.eval().pixel_features(features), features["res4"])


@pytest.mark.parametrize("name", ["UPerHead", "PSPHead", "DepthwiseSeparableASPPHead"])
class TestPoolingToOnePixel:
    def test_one_image_cannot_be_trained_on(self, name):
        head_class, options = HEADS[name]
        head = head_class(SHAPE, num_classes=CLASSES, **options)
        with pytest.raises(UserError, match="one image per worker.*IMS_PER_BATCH.*SYNC_BN"):
            head(feature_maps(batch=1), labels(batch=1))

    def test_one_image_can_be_predicted(self, name):
        head_class, options = HEADS[name]
        head = head_class(SHAPE, num_classes=CLASSES, **options).eval()
        assert head(feature_maps(batch=1))[0].shape == (1, CLASSES, 64, 96)


def block(x, layer):
    """Convolution, BatchNorm in evaluation, ReLU, written out."""
    conv, norm = layer.conv, layer.norm
    x = F.conv2d(x, conv.weight, None, 1, conv.padding, conv.dilation, conv.groups)
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return (
        x * scale[:, None, None] + (norm.bias - norm.running_mean * scale)[:, None, None]
    ).relu()


def enlarge(x, like):
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear")


def randomize_norms(module):
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias)


class TestAgainstPlainImplementations:
    @pytest.fixture(params=[(64, 96), (50, 70)])
    def features(self, request):
        return feature_maps(*request.param)

    def built(self, head_class, **options):
        head = head_class(SHAPE, num_classes=CLASSES, **options).eval()
        randomize_norms(head)
        return head

    def pooled(self, x, pyramid, scales):
        maps = [x]
        for (_, layer), scale in zip(pyramid.branches, scales):
            maps.append(enlarge(block(F.adaptive_avg_pool2d(x, scale), layer), x))
        return block(torch.cat(maps, dim=1), pyramid.bottleneck)

    def test_psp_head(self, features):
        head = self.built(PSPHead, channels=16)
        expected = self.pooled(features["res5"], head.pyramid, (1, 2, 3, 6))
        torch.testing.assert_close(head.pixel_features(features), expected, atol=1e-4, rtol=1e-4)

    def test_uper_head(self, features):
        head = self.built(UPerHead, channels=16)
        l2, l3, l4 = (block(features[n], x) for n, x in zip(STAGES, head.laterals))
        p5 = self.pooled(features["res5"], head.pyramid, (1, 2, 3, 6))
        p4 = l4 + enlarge(p5, l4)
        p3 = l3 + enlarge(p4, l3)
        p2 = l2 + enlarge(p3, l2)
        outputs = [block(p, conv) for p, conv in zip((p2, p3, p4), head.fpn_convs)]
        joined = torch.cat([enlarge(p, p2) for p in (*outputs, p5)], dim=1)
        expected = block(joined, head.fpn_bottleneck)
        torch.testing.assert_close(head.pixel_features(features), expected, atol=1e-4, rtol=1e-4)

    def separable(self, x, layer):
        return block(block(x, layer.depthwise), layer.pointwise)

    def test_aspp_head(self, features):
        head = self.built(DepthwiseSeparableASPPHead, channels=16, dilations=(1, 2, 3, 4))
        x, aspp = features["res5"], head.aspp
        mean = block(x.mean(dim=(2, 3), keepdim=True), aspp.image_pool[1])
        maps = [mean.expand(-1, -1, *x.shape[-2:]), block(x, aspp.branches[0])]
        maps += [self.separable(x, layer) for layer in aspp.branches[1:]]
        low_level = block(features["res2"], head.low_level)
        deep = enlarge(block(torch.cat(maps, dim=1), aspp.bottleneck), low_level)
        expected = torch.cat([deep, low_level], dim=1)
        for layer in head.fusion:
            expected = self.separable(expected, layer)
        assert [layer.depthwise.conv.dilation[0] for layer in aspp.branches[1:]] == [2, 3, 4]
        torch.testing.assert_close(head.pixel_features(features), expected, atol=1e-4, rtol=1e-4)

    def test_ocr_head(self, features):
        """Image by image, class by class, pixel by pixel."""
        head = self.built(OCRHead, channels=16, key_channels=8)
        nn.init.normal_(head.coarse.predictor.weight)
        attention = head.object_attention
        joined = torch.cat([enlarge(f, features["res2"]) for f in features.values()], dim=1)
        pixels = block(joined, head.bottleneck)
        coarse = head.coarse.predictor(block(joined, head.coarse.conv))
        query, seen = pixels, []
        for layer in attention.query:
            query = block(query, layer)
        for image in range(2):
            regions = []
            for scores in coarse[image]:
                share = scores.exp() / scores.exp().sum()
                regions.append((share * pixels[image]).sum(dim=(1, 2)))
            regions = torch.stack(regions, dim=1)[None, :, :, None]
            key, value = regions, block(regions, attention.value)[0, :, :, 0]
            for layer in attention.key:
                key = block(key, layer)
            weights = torch.einsum("ck,chw->khw", key[0, :, :, 0], query[image]) / 8**0.5
            seen.append(torch.einsum("khw,ck->chw", weights.softmax(dim=0), value))
        seen = block(torch.stack(seen), attention.output)
        expected = block(torch.cat([seen, pixels], dim=1), attention.bottleneck)
        torch.testing.assert_close(head.pixel_features(features), expected, atol=1e-4, rtol=1e-4)


class TestOCRHead:
    def test_coarse_prediction_has_a_weight_of_its_own(self):
        head = OCRHead(SHAPE, channels=16, key_channels=8, num_classes=CLASSES)
        features, target = feature_maps(), labels()
        first = head(features, target)[1]
        head.loss_weight_coarse = 0.8
        second = head(features, target)[1]
        torch.testing.assert_close(second["loss_coarse"], 2 * first["loss_coarse"])
        torch.testing.assert_close(second["loss_sem_seg"], first["loss_sem_seg"])
        head.loss_weight_coarse = 0.0
        assert set(head(features, target)[1]) == {"loss_sem_seg"}

    def test_coarse_prediction_stays_when_the_predictor_is_taken(self):
        head = OCRHead(SHAPE, channels=16, key_channels=8, num_classes=CLASSES)
        take_predictor(head)
        assert head.coarse.predictor.out_channels == CLASSES
        assert set(head.training_layers(feature_maps(), labels())[1]) == {"loss_coarse"}


# Millions of parameters as papers and mmsegmentation's benchmarks give them.
MODELS = {
    "FCN, ResNet-101-D8": (68.6, 150, "tu-resnet101c", 8, FCNHead, {}),
    "DeepLabV3+, ResNet-50-D8": (43.6, 19, "tu-resnet50c", 8, DepthwiseSeparableASPPHead, {}),
    "PSPNet, ResNet-50-D8": (48.98, 19, "tu-resnet50c", 8, PSPHead, {}),
    "UPerNet, Swin-T": (59.94, 150, "tu-swin_tiny_patch4_window7_224", 32, UPerHead, {}),
    "UPerNet, Swin-B": (121.4, 150, "tu-swin_base_patch4_window12_384", 32, UPerHead, {}),
    "FCN, HRNet-W48": (65.95, 150, "tu-hrnet_w48", 32, FCNHead, FCN_ON_ALL),
    "OCRNet, HRNet-W18": (12.08, 19, "tu-hrnet_w18", 32, OCRHead, {}),
    "SegFormer, MiT-B2": (
        27.48,
        150,
        "mit_b2",
        32,
        SMPDecoderHead,
        {"decoder": "Segformer", "decoder_options": {"segmentation_channels": 768}},
    ),
}


@pytest.mark.parametrize("model", MODELS)
def test_number_of_parameters_is_the_papers(model):
    """With the auxiliary head where the papers' models have one."""
    published, classes, encoder, stride, head_class, options = MODELS[model]
    with torch.device("meta"):
        backbone = EncoderBackbone(
            name=encoder, output_stride=stride, output_norm=encoder.startswith("tu-swin")
        )
        shape = backbone.output_shape()
        parts = [backbone, head_class(shape, num_classes=classes, **options)]
        if encoder.startswith(("tu-resnet", "tu-swin")):
            parts.append(AuxiliaryFCNHead(shape, num_classes=classes))
    count = sum(p.numel() for part in parts for p in part.parameters()) / 1e6
    assert count == pytest.approx(published, rel=0.002)
