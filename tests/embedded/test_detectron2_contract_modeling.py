"""What detectron2.layers and detectron2.modeling promise, installed or embedded.

Parameter names and numbers decide whether a checkpoint of one runtime means the same in the other.
The figures in this file were computed with Detectron2 itself.
"""

import pytest
import torch
from tiny_training import NUM_CLASSES, synthetic_batch, tiny_cfg
from torch import nn
from torch.nn import functional as F

from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    SEM_SEG_HEADS_REGISTRY,
    Backbone,
    SemanticSegmentor,
    build_backbone,
    build_model,
    build_sem_seg_head,
)
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from detectron2.modeling.postprocessing import sem_seg_postprocess

# Computed with Detectron2 0.6 and torch 2.14 on a CPU.
FPN_LOGITS = [-5.2187276, 3.2250259, -1.2227032]  # mean, standard deviation, one pixel
FPN_LOSS = 1.4256284
FPN_GRADIENT_NORMS = [0.3773584, 1.7863193]  # predictor, last convolution of p4
MODEL_LOSS = 1.2598809
MODEL_LOGIT_STDS = [0.3242072, 0.4767332]

SHAPES = {
    "p4": ShapeSpec(channels=5, stride=16),
    "p2": ShapeSpec(channels=3, stride=4),
    "p3": ShapeSpec(channels=4, stride=8),
}


def fpn_features():
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.rand(2, shape.channels, 64 // shape.stride, 32 // shape.stride,
                         generator=generator)
        for name, shape in SHAPES.items()
    }  # fmt: skip


def fpn_head(norm="GN"):
    torch.manual_seed(0)
    return SemSegFPNHead(
        SHAPES, num_classes=3, conv_dims=32, common_stride=4, loss_weight=0.5, norm=norm,
        ignore_value=255,
    )  # fmt: skip


def names(module):
    return list(module.state_dict())


# ---------------------------------------------------------------------------------------- layers


def test_conv2d_applies_norm_then_activation():
    conv = Conv2d(2, 4, 3, padding=1, bias=False, norm=nn.BatchNorm2d(4), activation=F.relu)
    x = torch.randn(2, 2, 5, 6)
    expected = F.relu(conv.norm(F.conv2d(x, conv.weight, padding=1)))
    assert torch.equal(conv(x), expected)
    assert names(conv)[0] == "weight"
    assert {"norm.weight", "norm.bias", "norm.running_mean"} < set(names(conv))


def test_conv2d_takes_an_empty_batch():
    conv = Conv2d(2, 32, 3, padding=1, norm=get_norm("GN", 32), activation=F.relu)
    assert conv(torch.zeros(0, 2, 5, 6)).shape == (0, 32, 5, 6)


def test_get_norm_by_name():
    layers = {"BN": nn.BatchNorm2d, "SyncBN": nn.SyncBatchNorm, "GN": nn.GroupNorm}
    assert {name: type(get_norm(name, 64)) for name in layers} == layers


def test_get_norm_takes_a_callable_or_nothing():
    assert get_norm(lambda channels: nn.GroupNorm(4, channels), 8).num_groups == 4
    assert get_norm("", 8) is None
    assert get_norm(None, 8) is None
    assert get_norm("GN", 64).num_groups == 32


def test_layer_norm_normalizes_the_channels_of_each_pixel():
    norm = get_norm("LN", 6)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(2, 6, 3, 4)
    expected = F.layer_norm(x.permute(0, 2, 3, 1), (6,), norm.weight, norm.bias, eps=1e-6)
    assert torch.allclose(norm(x), expected.permute(0, 3, 1, 2), atol=1e-5)
    assert names(norm) == ["weight", "bias"]


# ------------------------------------------------------------------------------------------ head


def test_fpn_head_parameter_names():
    assert [name for name, _ in fpn_head().named_parameters()] == [
        "p2.0.weight", "p2.0.norm.weight", "p2.0.norm.bias",
        "p3.0.weight", "p3.0.norm.weight", "p3.0.norm.bias",
        "p4.0.weight", "p4.0.norm.weight", "p4.0.norm.bias",
        "p4.2.weight", "p4.2.norm.weight", "p4.2.norm.bias",
        "predictor.weight", "predictor.bias",
    ]  # fmt: skip
    assert "p2.0.bias" in names(fpn_head(norm=""))


def test_fpn_head_contract_for_wrapping():
    head, features = fpn_head(), fpn_features()
    assert (head.common_stride, head.ignore_value, head.loss_weight) == (4, 255, 0.5)
    assert head.in_features == ["p2", "p3", "p4"]
    logits = head.layers(features)
    assert logits.shape == (2, 3, 16, 8)
    head.predictor = nn.Identity()
    assert head.layers(features).shape == (2, 32, 16, 8)


def test_fpn_head_numbers():
    head, features = fpn_head(), fpn_features()
    logits, losses = head.eval()(features)
    assert losses == {}
    assert logits.shape == (2, 3, 64, 32)
    got = [logits.mean(), logits.std(), logits[1, 2, 63, 0]]
    assert [value.item() for value in got] == pytest.approx(FPN_LOGITS, rel=1e-5)

    labels = (torch.arange(2 * 64 * 32).view(2, 64, 32) * 7) % 3
    labels[:, :10] = 255
    nothing, losses = head.train()(features, labels)
    assert nothing is None
    assert set(losses) == {"loss_sem_seg"}
    assert losses["loss_sem_seg"].item() == pytest.approx(FPN_LOSS, rel=1e-5)
    losses["loss_sem_seg"].backward()
    norms = [head.predictor.weight.grad.norm().item(), head.p4[2].weight.grad.norm().item()]
    assert norms == pytest.approx(FPN_GRADIENT_NORMS, rel=1e-5)


def test_fpn_head_needs_features():
    with pytest.raises(ValueError, match="empty"):
        SemSegFPNHead({}, num_classes=3, conv_dims=32, common_stride=4)


def test_fpn_head_from_config_takes_the_features_it_names():
    cfg = tiny_cfg("unused")
    cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["p3", "p2"]
    cfg.MODEL.SEM_SEG_HEAD.LOSS_WEIGHT = 0.25
    head = build_sem_seg_head(cfg, SHAPES)
    assert type(head) is SemSegFPNHead
    assert head.in_features == ["p2", "p3"]
    assert head.loss_weight == 0.25
    assert head.ignore_value == 255
    assert head.predictor.out_channels == NUM_CLASSES


# ----------------------------------------------------------------------------------------- model


def test_registries_have_upstreams_names():
    assert BACKBONE_REGISTRY._name == "BACKBONE"
    assert META_ARCH_REGISTRY._name == "META_ARCH"
    assert SEM_SEG_HEADS_REGISTRY._name == "SEM_SEG_HEADS"
    assert META_ARCH_REGISTRY.get("SemanticSegmentor") is SemanticSegmentor
    assert SEM_SEG_HEADS_REGISTRY.get("SemSegFPNHead") is SemSegFPNHead


@pytest.mark.parametrize(
    ("build", "key"),
    [
        (build_model, "META_ARCHITECTURE"),
        (build_backbone, "BACKBONE.NAME"),
        (lambda cfg: build_sem_seg_head(cfg, SHAPES), "SEM_SEG_HEAD.NAME"),
    ],
)
def test_an_unknown_name_is_an_error_that_quotes_it(build, key):
    cfg = tiny_cfg("unused")
    cfg.merge_from_list([f"MODEL.{key}", "NoSuchThing"])
    with pytest.raises(KeyError, match="NoSuchThing"):
        build(cfg)


def test_backbone_defaults():
    backbone = build_backbone(tiny_cfg("unused"))
    assert isinstance(backbone, Backbone)
    assert backbone.padding_constraints == {}
    assert backbone.output_shape() == {
        "res2": ShapeSpec(channels=2, stride=4),
        "res3": ShapeSpec(channels=3, stride=8),
    }
    assert Backbone.size_divisibility.fget(backbone) == 0
    with pytest.raises(TypeError):
        Backbone()


def test_model_state_dict():
    model = build_model(tiny_cfg("unused"))
    assert type(model) is SemanticSegmentor
    assert model.device == torch.device("cpu")
    assert names(model) == [
        "backbone.stem.weight", "backbone.stage.weight",
        "backbone.stage.norm.weight", "backbone.stage.norm.bias",
        "backbone.stage.norm.running_mean", "backbone.stage.norm.running_var",
        "backbone.stage.norm.num_batches_tracked",
        "sem_seg_head.res2.0.weight", "sem_seg_head.res2.0.bias",
        "sem_seg_head.res3.0.weight", "sem_seg_head.res3.0.bias",
        "sem_seg_head.predictor.weight", "sem_seg_head.predictor.bias",
    ]  # fmt: skip


def test_model_training_and_inference():
    torch.manual_seed(0)
    model = build_model(tiny_cfg("unused"))
    losses = model.train()(synthetic_batch())
    assert set(losses) == {"loss_sem_seg"}
    assert losses["loss_sem_seg"].item() == pytest.approx(MODEL_LOSS, rel=1e-5)

    item = synthetic_batch(size=1)[0]
    with torch.no_grad():
        same_size, larger = model.eval()([
            {"image": item["image"][:, :13, :21]},
            {"image": item["image"], "height": 30, "width": 50},
        ])  # fmt: skip
    assert same_size["sem_seg"].shape == (NUM_CLASSES, 13, 21)
    assert larger["sem_seg"].shape == (NUM_CLASSES, 30, 50)
    got = [same_size["sem_seg"].std().item(), larger["sem_seg"].std().item()]
    assert got == pytest.approx(MODEL_LOGIT_STDS, rel=1e-5)


def test_padding_of_labels_is_ignored():
    model = build_model(tiny_cfg("unused")).eval()
    seen = {}
    model.sem_seg_head.register_forward_hook(lambda module, args, out: seen.update(labels=args[1]))
    item = synthetic_batch(size=1)[0]
    small = {"image": item["image"][:, :9, :9], "sem_seg": item["sem_seg"][:9, :9]}
    with torch.no_grad():
        model([item, small])
    assert seen["labels"].shape == (2, 16, 24)
    assert (seen["labels"][1, 9:] == 255).all()
    assert torch.equal(seen["labels"][1, :9, :9], small["sem_seg"])


def test_sem_seg_postprocess_cuts_the_padding_and_resizes():
    logits = torch.arange(2 * 4 * 6, dtype=torch.float32).view(2, 4, 6)
    result = sem_seg_postprocess(logits, (3, 5), 6, 10)
    expected = F.interpolate(logits[None, :, :3, :5], size=(6, 10), mode="bilinear")[0]
    assert torch.equal(result, expected)
