"""ECENet's head against the authors' numbers, with each of its switches, and in Detectron2."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from d2_ctxseg.checkpoint import convert_official_state_dict
from d2_ctxseg.modeling.heads import take_predictor
from d2_ctxseg.modeling.heads.ece import ECEHead
from d2_ctxseg.utils.errors import UserError
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model

FIXTURE = np.load(Path(__file__).parents[2] / "fixtures" / "explicit_class.npz")
AUTHORS_STATE = {
    key.removeprefix("state/"): torch.from_numpy(FIXTURE[key])
    for key in FIXTURE.files
    if key.startswith("state/")
}
CHANNELS = (4, 6, 8, 12)
NAMES = ("res2", "res3", "res4", "res5")
SHAPES = {name: ShapeSpec(channels=8, stride=4 << i) for i, name in enumerate(NAMES)}
LOSSES = {"loss_sem_seg", "loss_mask", "loss_dice", "loss_diversity"}
SWITCHES = {
    "feature_reconstruction": (True, False),
    "semantics_attention": (True, False),
    "updater": ("gated", "add", "none"),
    "ghost_upsample": (True, False),
    "assisted_prediction": (True, False),
}


def fixture(name):
    return torch.from_numpy(FIXTURE[name])


def tiny_head(num_classes=5, **options):
    return ECEHead(CHANNELS, num_classes, channels=8, **options)


def features_of(height=64, width=96, batch=2, channels=CHANNELS):
    """Stages of strides 4 to 32, their sizes rounded up as convolutions with padding do."""
    return {
        name: torch.randn(batch, c, -(-height // (4 << i)), -(-width // (4 << i)))
        for i, (name, c) in enumerate(zip(NAMES, channels))
    }


def labels_of(height=64, width=96, batch=2, num_classes=5):
    labels = torch.randint(0, num_classes, (batch, height // 8, width // 8))
    labels = labels.repeat_interleave(8, dim=1).repeat_interleave(8, dim=2)
    labels[:, :8] = 255
    return labels


def parameters_out_of_step(head):
    """Those that distributed training would stumble over: trainable, but without a gradient."""
    return [n for n, p in head.named_parameters() if p.requires_grad == (p.grad is None)]


class TestParityWithTheAuthorsCode:
    @pytest.fixture
    def head(self):
        head = ECEHead((16, 32, 64, 128), 9, channels=32)
        head.load_state_dict(convert_official_state_dict(AUTHORS_STATE, "ecenet"))
        return head.eval()

    stages = [fixture(f"input/features_{i}") for i in range(4)]

    def test_prediction(self, head):
        prediction = head.predict(self.stages)
        for name in ("logits", "auxiliary_mask", "class_embeddings"):
            expected = fixture(f"output/{name}")
            torch.testing.assert_close(getattr(prediction, name), expected, atol=1e-4, rtol=0)

    def test_diversity_maps(self, head):
        maps = head.predict(self.stages).diversity_maps
        assert len(maps) == 4
        for i, stage_map in enumerate(maps):
            expected = fixture(f"output/diversity_map_{i}")
            torch.testing.assert_close(stage_map, expected, atol=1e-6, rtol=0)

    def test_masks_of_all_stages(self, head):
        masks = head.decode(self.stages).masks
        assert [mask.shape[2] for mask in masks] == [4, 8, 16, 32]
        for i, mask in enumerate(masks):
            mask = F.interpolate(mask, size=(32, 40), mode="bilinear")
            torch.testing.assert_close(mask, fixture(f"output/mask_{i}"), atol=1e-4, rtol=0)

    def test_the_seed_mask_has_as_many_groups_as_there_are_attention_heads(self):
        """The authors' first convolution of the seed mask, ``learner.0``, is of that shape."""
        state = {**AUTHORS_STATE, "learner.0.weight": torch.randn(32, 32 // 8, 1, 1)}
        head = ECEHead((16, 32, 64, 128), 9, channels=32, num_heads=8)
        head.load_state_dict(convert_official_state_dict(state, "ecenet"))
        assert torch.equal(head.seed_mask[0].weight, state["learner.0.weight"])
        assert head.eval().predict(self.stages).logits.isfinite().all()
        with pytest.raises(RuntimeError, match="seed_mask.0.weight"):
            head.load_state_dict(convert_official_state_dict(AUTHORS_STATE, "ecenet"))

    def test_channels_need_not_be_a_multiple_of_4(self):
        head = ECEHead(CHANNELS, 5, channels=6, num_heads=3)
        assert head.predict(list(features_of().values())).logits.shape == (2, 5, 16, 24)

    def test_number_of_parameters(self):
        head = ECEHead((128, 256, 512, 1024), 150)
        assert sum(p.numel() for p in head.parameters()) == pytest.approx(9.89e6, rel=0.01)


class TestSwitches:
    @pytest.mark.parametrize("values", itertools.product(*SWITCHES.values()))
    def test_losses_reach_every_parameter(self, values):
        head = tiny_head(**dict(zip(SWITCHES, values)))
        losses = head.all_losses(features_of(), labels_of())
        assert set(losses) == LOSSES - (set() if head.reconstructions else {"loss_diversity"})
        sum(losses.values()).backward()
        assert parameters_out_of_step(head) == []

    @pytest.mark.parametrize("values", itertools.product(*SWITCHES.values()))
    def test_released_pixel_features_reach_every_parameter(self, values):
        head = tiny_head(**dict(zip(SWITCHES, values)))
        take_predictor(head)
        head.layers(features_of()).square().sum().backward()
        assert parameters_out_of_step(head) == []

    @pytest.mark.parametrize("values", itertools.product(*SWITCHES.values()))
    def test_losses_reach_every_parameter_without_mask_losses(self, values):
        weights = {"loss_weight_mask": 0.0, "loss_weight_dice": 0.0}
        head = tiny_head(**dict(zip(SWITCHES, values)), **weights)
        losses = head.all_losses(features_of(), labels_of())
        assert set(losses) <= {"loss_sem_seg", "loss_diversity"}
        sum(losses.values()).backward()
        assert parameters_out_of_step(head) == []

    def test_nothing_is_frozen_by_default(self):
        assert all(p.requires_grad for p in tiny_head().parameters())

    def test_without_assistance_the_prediction_is_the_predictors(self):
        features = features_of()
        plain, assisted = tiny_head(assisted_prediction=False).eval(), tiny_head().eval()
        assert torch.equal(plain.logits(features), plain.layers(features))
        assert not torch.allclose(assisted.logits(features), assisted.layers(features), atol=1e-3)

    def test_without_attention_the_seed_is_the_only_mask(self):
        head = tiny_head(semantics_attention=False).eval()
        stages = list(features_of().values())
        (seed,) = head.decode(stages).masks
        expected = F.interpolate(seed, size=(16, 24), mode="bilinear")
        torch.testing.assert_close(head.predict(stages).auxiliary_mask, expected)

    def test_updaters(self):
        stages = list(features_of().values())
        none, add = tiny_head(updater="none").eval(), tiny_head(updater="add").eval()
        decoding = none.decode(stages)
        expected = none.extractions[0](decoding.masks[0])
        torch.testing.assert_close(decoding.class_embeddings, expected)
        decoding = add.decode(stages)
        extracted = [f(mask) for f, mask in zip(reversed(add.extractions), decoding.masks)]
        torch.testing.assert_close(decoding.class_embeddings, sum(extracted))

    def test_pool_ratio_and_heads_reach_the_parts(self):
        head = tiny_head(num_classes=9, pool_ratio=3.0, num_heads=2)
        assert all(e.pool.sizes == (1, 2, 3, 6, 9) for e in head.extractions)
        assert all(attention.num_heads == 2 for attention in head.attentions)


class TestPrediction:
    def test_auxiliary_mask_is_the_sum_of_all_masks_but_the_last(self):
        head = tiny_head().eval()
        stages = list(features_of().values())
        prediction, decoding = head.predict(stages), head.decode(stages)
        masks = [F.interpolate(m, size=(16, 24), mode="bilinear") for m in decoding.masks]
        torch.testing.assert_close(prediction.auxiliary_mask, sum(masks[:3]))
        assistance = head.assistance(decoding.class_embeddings, sum(masks))
        expected = head.predictor(decoding.pixel_features) + assistance
        torch.testing.assert_close(prediction.logits, expected)

    @pytest.mark.parametrize("ghost_upsample", [True, False])
    @pytest.mark.parametrize("size", [(100, 70), (33, 129), (32, 32), (1, 1)])
    def test_stages_that_are_no_exact_multiples_of_each_other(self, size, ghost_upsample):
        head = tiny_head(ghost_upsample=ghost_upsample)
        features = features_of(*size)
        expected = (2, 5, *features["res2"].shape[2:])
        assert head.logits(features).shape == expected
        losses = head.all_losses(features, torch.randint(0, 5, (2, *size)))
        assert all(torch.isfinite(loss) for loss in losses.values())

    def test_stages_of_a_dilated_backbone(self):
        head = ECEHead(CHANNELS, 5, channels=8, strides=(4, 8, 8, 8)).eval()
        stages = [torch.randn(1, c, *s) for c, s in zip(CHANNELS, [(8, 8)] + 3 * [(4, 4)])]
        assert [len(upsampler) for upsampler in head.upsamplers] == [1, 1, 1]
        assert head.predict(stages).logits.shape == (1, 5, 8, 8)

    def test_two_stages_of_a_single_stride(self):
        head = ECEHead((4, 4), 5, in_features=("a", "b"), channels=8, strides=(16, 16)).eval()
        assert head.common_stride == 16
        features = {name: torch.randn(1, 4, 3, 3) for name in "ab"}
        assert head(features)[0].shape == (1, 5, 48, 48)

    def test_repeated_calls_in_eval_mode_are_equal(self):
        head, features = tiny_head().eval(), features_of()
        assert torch.equal(head.logits(features), head.logits(features))

    def test_memory_layout_does_not_matter(self):
        head, features = tiny_head().eval(), features_of()
        strided = {k: x.mT.contiguous().mT for k, x in features.items()}
        torch.testing.assert_close(head.logits(strided), head.logits(features))

    def test_images_of_a_batch_do_not_influence_each_other_at_test_time(self):
        head, features = tiny_head().eval(), features_of()
        alone = head.logits({name: x[:1] for name, x in features.items()})
        torch.testing.assert_close(head.logits(features)[:1], alone)


class TestLosses:
    @given(
        num_classes=st.integers(1, 5),
        size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
        ignored=st.sampled_from([0.0, 0.5, 1.0]),
        mask_loss=st.sampled_from(["focal", "bce"]),
        seed=st.integers(0, 1000),
    )
    @settings(max_examples=10, deadline=None)
    def test_losses_and_gradients_are_finite(self, num_classes, size, ignored, mask_loss, seed):
        torch.manual_seed(seed)
        head = tiny_head(num_classes, mask_loss=mask_loss)
        labels = torch.randint(0, num_classes, (2, *size))
        labels[torch.rand(labels.shape) < ignored] = 255
        losses = head.all_losses(features_of(*size), labels)
        sum(losses.values()).backward()
        assert all(torch.isfinite(loss) and loss >= 0 for loss in losses.values())
        assert all(torch.isfinite(p.grad).all() for p in head.parameters())

    def test_without_a_labelled_pixel_only_the_diversity_loss_is_left(self):
        head = tiny_head()
        losses = head.all_losses(features_of(), torch.full((2, 64, 96), 255))
        assert {name for name, loss in losses.items() if loss != 0} == {"loss_diversity"}
        head = tiny_head(loss_weight_diversity=0.0)
        losses = head.all_losses(features_of(), torch.full((2, 64, 96), 255))
        sum(losses.values()).backward()
        assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in head.parameters())

    def test_weights_scale_losses_and_0_leaves_them_out(self):
        head = tiny_head(dropout=0.0)
        options = {"loss_weight_mask": 2.5, "loss_weight_dice": 0.0, "loss_weight": 2.0}
        weighted = tiny_head(dropout=0.0, **options)
        weighted.load_state_dict(head.state_dict())
        features, labels = features_of(), labels_of()
        losses, full = weighted.all_losses(features, labels), head.all_losses(features, labels)
        assert set(losses) == LOSSES - {"loss_dice"}
        for name, factor in [("loss_sem_seg", 2), ("loss_mask", 1), ("loss_diversity", 2)]:
            torch.testing.assert_close(losses[name], factor * full[name])

    def test_gradient(self):
        options = {"in_features": ("a", "b"), "strides": (4, 8), "channels": 4, "dropout": 0.0}
        head = ECEHead((4, 4), 2, **options).double()
        stages = [torch.randn(1, 4, s, 2 * s).double().requires_grad_() for s in (2, 1)]
        labels = torch.tensor([[[0, 1, 255, 1], [1, 1, 0, 0]]])

        def losses(a, b):
            return tuple(head.all_losses({"a": a, "b": b}, labels).values())

        assert torch.autograd.gradcheck(losses, stages)

    def test_works_under_autocast(self):
        head, features = tiny_head(), features_of()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses = head.all_losses(features, labels_of())
            logits = head.eval().logits(features)
        sum(losses.values()).backward()
        assert all(torch.isfinite(loss) for loss in losses.values())
        torch.testing.assert_close(logits.float(), head.logits(features), atol=0.1, rtol=0.1)

    def test_training_fits_a_batch(self):
        head = tiny_head(dropout=0.0)
        features, labels = features_of(), labels_of()
        optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2)
        cross_entropies = []
        for _ in range(50):
            losses = head.all_losses(features, labels)
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
            cross_entropies.append(losses["loss_sem_seg"].item())
        assert cross_entropies[-1] < 0.3 * cross_entropies[0]


class TestHeadContract:
    def test_layers_are_the_predictor_on_pixel_features(self):
        head, features = tiny_head().eval(), features_of()
        expected = head.predictor(head.pixel_features(features))
        torch.testing.assert_close(head.layers(features), expected)
        assert head.common_stride == 4 and head.ignore_value == 255

    def test_another_classifier_can_take_the_predictor(self):
        head, features = tiny_head(dropout=0.5), features_of()
        predictor = take_predictor(head)
        assert (predictor.in_channels, predictor.out_channels) == (8, 5)
        # Dropout is the classifier's now.
        torch.testing.assert_close(head.layers(features), head.layers(features))
        assert head.layers(features).shape == (2, 8, 16, 24)
        with pytest.raises(UserError, match="a classifier has replaced its predictor"):
            head.logits(features)

    def test_forward_as_detectron2_expects_it(self):
        head, features = tiny_head(), features_of()
        prediction, losses = head(features, labels_of())
        assert prediction is None and set(losses) == LOSSES
        prediction, losses = head.eval()(features)
        expected = F.interpolate(head.logits(features), scale_factor=4, mode="bilinear")
        torch.testing.assert_close(prediction, expected)
        assert prediction.shape == (2, 5, 64, 96) and losses == {}


@pytest.fixture
def ece_config(tiny_config):
    cfg = tiny_config
    cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
    cfg.MODEL.SEM_SEG_HEAD.NAME = "ECEHead"
    cfg.MODEL.ECE_HEAD.CHANNELS = 16
    return cfg


class TestInDetectron2:
    def test_trains_and_predicts_in_detectron2s_semantic_segmentor(self, ece_config):
        model = build_model(ece_config)
        assert type(model.sem_seg_head) is ECEHead
        image = torch.randint(0, 255, (3, 64, 96), dtype=torch.uint8)
        inputs = [{"image": image, "sem_seg": torch.randint(0, 5, (64, 96))}] * 2
        losses = model(inputs)
        assert set(losses) == LOSSES
        sum(losses.values()).backward()
        assert all(p.grad is not None for p in model.sem_seg_head.parameters())
        with torch.no_grad():
            outputs = model.eval()([{"image": image, "height": 50, "width": 70}])
        assert outputs[0]["sem_seg"].shape == (5, 50, 70)

    def test_options_come_from_the_config(self, ece_config):
        ece_config.merge_from_list(
            ["MODEL.ECE_HEAD.UPDATER", "none", "MODEL.ECE_HEAD.ASSISTED_PREDICTION", False]
            + ["MODEL.SEM_SEG_HEAD.IN_FEATURES", ("res3", "res4")]
            + ["MODEL.ECE_HEAD.LOSS_WEIGHT_DICE", 0.0, "MODEL.SEM_SEG_HEAD.IGNORE_VALUE", 4]
        )
        head = ECEHead(ece_config, SHAPES)
        assert head.in_features == ("res3", "res4") and head.common_stride == 8
        assert not head.updaters and head.assistance is None and head.ignore_value == 4
        assert head.mask_loss_weights == {"weight_mask": 5.0, "weight_dice": 0.0}

    def test_a_stage_that_the_backbone_does_not_have(self, ece_config):
        ece_config.MODEL.SEM_SEG_HEAD.IN_FEATURES = ("res2", "res6")
        with pytest.raises(UserError, match="no 'res6'; it has res2, res3, res4, res5"):
            ECEHead(ece_config, SHAPES)

    @pytest.mark.parametrize(
        "options, message",
        [
            ({"in_channels": (4, 6, 8)}, "3 in_channels, 4 in_features and 4 strides"),
            ({"in_channels": (4, 6, 8, 9)}, "needs even numbers"),
            ({"strides": (4, 8, 12, 16)}, "powers of two"),
            ({"strides": (8, 4, 8, 16)}, "powers of two"),
            ({"channels": 10}, r"CHANNELS is 10, .*multiple of NUM_HEADS \(4\). Set it to"),
            ({"num_heads": 3}, r"multiple of NUM_HEADS \(3\). Set it to 9, or"),
            ({"num_heads": 0}, "NUM_HEADS is 0, expected a positive number"),
            ({"pool_ratio": 0.0}, "POOL_RATIO is 0.0"),
            ({"updater": "gate"}, "UPDATER is 'gate', .* Did you mean 'gated'"),
            ({"mask_loss": "dice"}, "MASK_LOSS is 'dice', expected one of focal, bce"),
        ],
    )
    def test_refuses_arguments_that_do_not_fit(self, options, message):
        with pytest.raises(UserError, match=message):
            ECEHead(**{"in_channels": CHANNELS, "num_classes": 5, "channels": 8, **options})


class Logits(nn.Module):
    """The prediction as a function of tensors, as exporters want it."""

    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, *stages):
        return self.head.predict(stages).logits


@pytest.mark.parametrize(
    "num_stages", [2, pytest.param(4, marks=pytest.mark.slow)], ids="{} stages".format
)
def test_torch_export_and_onnx(num_stages):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    first = slice(num_stages)
    options = {"in_features": NAMES[first], "strides": (4, 8, 16, 32)[first]}
    module = Logits(ECEHead(CHANNELS[first], 5, channels=8, **options)).eval()
    stages = tuple(features_of(100, 70).values())[first]
    expected = module(*stages).detach()
    exported = torch.export.export(module, stages)
    torch.testing.assert_close(exported.module()(*stages), expected)
    program = torch.onnx.export(exported, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    names = [tensor.name for tensor in session.get_inputs()]
    (logits,) = session.run(None, dict(zip(names, (stage.numpy() for stage in stages))))
    torch.testing.assert_close(torch.from_numpy(logits), expected, atol=1e-5, rtol=1e-4)
