"""SegViT's head against plain references, on bad batches, exported and trained."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from d2_ctxseg.modeling import take_predictor
from d2_ctxseg.modeling.backbones.vision_transformer import VisionTransformerBackbone
from d2_ctxseg.modeling.heads.segvit import (
    CLASS_EMBEDDINGS,
    SegViTHead,
    classification_loss,
    log_class_scores,
    present_classes,
)
from d2_ctxseg.utils.errors import UserError
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY, build_model

SHAPES = {f"block{i}": ShapeSpec(channels=12, stride=4) for i in (5, 7, 11)}
LOSSES = {"loss_class", "loss_mask", "loss_dice"}


def build_head(kind="learned", num_classes=5, input_shape=SHAPES, **options):
    options = {"channels": 16, "num_heads": 4, "num_layers": 2, **options}
    return SegViTHead(input_shape, num_classes=num_classes, class_embeddings=kind, **options)


def feature_maps(batch=2, size=(3, 4), **options):
    return {name: torch.randn(batch, 12, *size, **options) for name in SHAPES}


def is_finite_zero(gradient):
    return gradient is not None and torch.equal(gradient, torch.zeros_like(gradient))


class TestScores:
    def test_they_are_the_sum_over_tokens_of_class_times_mask(self):
        class_logits, mask_logits = torch.randn(2, 3, 4), torch.randn(2, 3, 2, 5)
        scores = log_class_scores(class_logits, mask_logits, epsilon=0.0).exp()
        for b in range(2):
            for k in range(3):
                expected = sum(
                    class_logits[b, q].softmax(0)[k] * mask_logits[b, q].sigmoid() for q in range(3)
                )
                torch.testing.assert_close(scores[b, k], expected)

    def test_they_are_finite_where_no_mask_covers_a_pixel(self):
        class_logits = torch.full((1, 2, 3), -100.0)
        class_logits[..., -1] = 100.0
        scores = log_class_scores(class_logits, torch.full((1, 2, 2, 2), -1e4))
        assert torch.isfinite(scores).all()

    def test_they_keep_float32_under_autocast(self):
        class_logits, mask_logits = torch.randn(1, 3, 4), torch.randn(1, 3, 2, 2)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            scores = log_class_scores(class_logits.bfloat16(), mask_logits)
        expected = log_class_scores(class_logits.bfloat16().float(), mask_logits)
        assert torch.equal(scores, expected)


def token_by_token_classification_loss(class_logits, labels, no_object_weight):
    """One stage's cross-entropy as loops; class_logits (B, K, K + 1)."""
    num_classes = class_logits.shape[1]
    total, weights = 0.0, 0.0
    for logits, label in zip(class_logits, labels):
        present = set(label[label < num_classes].tolist())
        for k in range(num_classes if present else 0):
            target, weight = (k, 1.0) if k in present else (num_classes, no_object_weight)
            total -= weight * logits[k].log_softmax(dim=0)[target]
            weights += weight
    return total / max(weights, 1e-12)


def class_by_class_mask_losses(mask_logits, labels):
    """One stage's focal and dice loss as loops; mask_logits (B, K, H, W) as large as the labels."""
    focal, dice = [], []
    for masks, label in zip(mask_logits, labels):
        valid = label < masks.shape[0]
        for k in label[valid].unique().tolist():
            logit, target = masks[k][valid], (label[valid] == k).to(masks.dtype)
            p = logit.sigmoid()
            loss = F.binary_cross_entropy(p, target, reduction="none")
            wrong = torch.where(target > 0, 1 - p, p)
            alpha = torch.where(target > 0, 0.25, 0.75)
            focal.append((alpha * wrong**2 * loss).mean())
            dice.append(1 - (2 * (p * target).sum() + 1) / (p.sum() + target.sum() + 1))
    return torch.stack(focal).mean(), torch.stack(dice).mean()


class TestLosses:
    def labels(self):
        """Classes 0 to 3 of 5, one ignored quarter, and a second image of one class."""
        labels = torch.randint(0, 4, (3, 12, 16))
        labels[0, :6, :8] = 255
        labels[1] = 2
        labels[2] = 255
        return labels

    @pytest.mark.parametrize("kind", CLASS_EMBEDDINGS)
    def test_they_are_those_of_loops_over_images_classes_and_stages(self, kind):
        head = build_head(kind, no_object_weight=0.3).double().eval()
        features, labels = feature_maps(3, dtype=torch.float64), self.labels()
        class_logits, mask_logits = head.predict(features)
        expected = dict.fromkeys(LOSSES, 0.0)
        for logits, masks in zip(class_logits, mask_logits):
            masks = F.interpolate(masks, size=(12, 16), mode="bilinear", align_corners=False)
            focal, dice = class_by_class_mask_losses(masks, labels)
            expected["loss_class"] += token_by_token_classification_loss(logits, labels, 0.3)
            expected["loss_mask"] += 20.0 * focal
            expected["loss_dice"] += dice
        losses = head.all_losses(features, labels)
        assert set(losses) == LOSSES
        for name, loss in losses.items():
            torch.testing.assert_close(loss, expected[name])

    def test_classes_are_present_for_any_dtype_and_ignore_value(self):
        labels = torch.tensor([[[0, 2], [2, 7]], [[3, 3], [3, 3]]], dtype=torch.uint8)
        assert present_classes(labels, 4, 7).tolist() == [[1, 0, 1, 0], [0, 0, 0, 1]]
        assert present_classes(labels, 4, 2).tolist() == [[1, 0, 0, 0], [0, 0, 0, 1]]

    def test_a_token_of_a_present_class_shall_say_its_class_and_others_that_there_is_none(self):
        present = torch.tensor([[True, False]])
        right = torch.tensor([[[[50.0, 0.0, 0.0], [0.0, 0.0, 50.0]]]])
        assert classification_loss(right, present) < 1e-6
        assert classification_loss(right.flip(2), present) > 10

    @pytest.mark.parametrize("kind", CLASS_EMBEDDINGS)
    @given(
        batch=st.integers(1, 3),
        classes=st.integers(1, 6),
        size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
        ignored=st.floats(0, 1),
        seed=st.integers(0, 1000),
    )
    @settings(max_examples=12, deadline=None)
    def test_they_and_all_gradients_are_finite(self, kind, batch, classes, size, ignored, seed):
        """One class, one pixel, absent classes, ignored images: whatever a batch may hold."""
        torch.manual_seed(seed)
        head = build_head(kind, num_classes=classes)
        labels = torch.randint(0, classes, (batch, 4 * size[0], 4 * size[1]))
        labels[torch.rand(labels.shape) < ignored] = 255
        losses = head.all_losses(feature_maps(batch, size), labels)
        sum(losses.values()).backward()
        assert all(torch.isfinite(loss) and loss >= 0 for loss in losses.values())
        gradients = {name: p.grad for name, p in head.named_parameters()}
        assert [name for name, gradient in gradients.items() if gradient is None] == []
        assert all(torch.isfinite(gradient).all() for gradient in gradients.values())

    @pytest.mark.parametrize("kind", CLASS_EMBEDDINGS)
    def test_a_batch_without_a_labelled_pixel_has_loss_0_and_gradient_0(self, kind):
        head = build_head(kind)
        losses = head.all_losses(feature_maps(), torch.full((2, 12, 16), 255))
        assert all(loss == 0 for loss in losses.values())
        sum(losses.values()).backward()
        assert all(is_finite_zero(p.grad) for p in head.parameters())

    @pytest.mark.parametrize("kind", CLASS_EMBEDDINGS)
    def test_every_parameter_learns(self, kind):
        head = build_head(kind)
        # Where the similarity is not a mask, the softmax cancels the bias of the keys.
        unused = {f"stages.{i}.layers.0.cross_attention.key.bias" for i in range(3)}
        losses = head.all_losses(feature_maps(), self.labels()[:2])
        sum(losses.values()).backward()
        still = {n for n, p in head.named_parameters() if p.grad.abs().max() < 1e-12}
        assert still <= unused

    def test_weights_scale_them(self):
        weights = {"loss_weight_class": 2.0, "loss_weight_mask": 0.0, "loss_weight_dice": 3.0}
        head, plain = build_head(loss_weight=0.5, **weights).eval(), build_head().eval()
        plain.load_state_dict(head.state_dict())
        features, labels = feature_maps(3), self.labels()
        losses, reference = head.all_losses(features, labels), plain.all_losses(features, labels)
        torch.testing.assert_close(losses["loss_class"], reference["loss_class"])
        torch.testing.assert_close(losses["loss_dice"], 1.5 * reference["loss_dice"])
        assert losses["loss_mask"] == 0

    def test_loss_stride_lowers_the_resolution_of_the_mask_losses_alone(self):
        whole, coarse = build_head().eval(), build_head(loss_stride=4).eval()
        coarse.load_state_dict(whole.state_dict())
        features = feature_maps()
        # Blocks of one label each, as large as the stride.
        blocks = torch.randint(0, 5, (2, 3, 4))
        labels = blocks.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)
        losses, reference = coarse.all_losses(features, labels), whole.all_losses(features, blocks)
        for name in LOSSES:
            torch.testing.assert_close(losses[name], reference[name])


class LogitsOfMaps(nn.Module):
    """A head as a module of tensors alone, for export."""

    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, *maps):
        return self.head(dict(zip(self.head.in_features, maps)))[0]


def exportable(kind):
    """A module in evaluation mode and its example inputs."""
    shapes = {name: SHAPES[name] for name in ("block7", "block11")}
    head = build_head(kind, input_shape=shapes, num_layers=1)
    return LogitsOfMaps(head).eval(), (torch.randn(1, 12, 3, 4), torch.randn(1, 12, 3, 4))


@pytest.mark.parametrize("kind", CLASS_EMBEDDINGS)
class TestSegViTHead:
    def test_is_registered_under_its_name(self, kind):
        assert SEM_SEG_HEADS_REGISTRY.get("SegViTHead") is SegViTHead

    def test_shapes(self, kind):
        head = build_head(kind).eval()
        features = feature_maps(2, (3, 5))
        prediction = head.predict(features)
        assert prediction.class_logits.shape == (3, 2, 5, 6)
        assert prediction.mask_logits.shape == (3, 2, 5, 3, 5)
        assert head.logits(features).shape == (2, 5, 3, 5)
        logits, losses = head(features)
        assert logits.shape == (2, 5, 12, 20)
        assert losses == {}

    def test_returns_losses_alone_in_training(self, kind):
        prediction, losses = build_head(kind)(feature_maps(), torch.randint(0, 5, (2, 12, 16)))
        assert prediction is None
        assert set(losses) == LOSSES

    def test_masks_are_enlarged_before_the_sigmoid(self, kind):
        """As the authors do. At the size of the feature maps it makes no difference."""
        head = build_head(kind).eval()
        features = feature_maps()
        class_logits, mask_logits = head.predict(features)
        masks = F.interpolate(mask_logits[-1], scale_factor=4, mode="bilinear")
        torch.testing.assert_close(head(features)[0], log_class_scores(class_logits[-1], masks))
        expected = log_class_scores(class_logits[-1], mask_logits[-1])
        torch.testing.assert_close(head.logits(features), expected)

    def test_stages_go_from_deep_to_shallow_and_masks_take_the_shallow_size(self, kind):
        shape = {
            "res4": ShapeSpec(channels=6, stride=16),
            "res5": ShapeSpec(channels=12, stride=32),
        }
        head = build_head(kind, input_shape=shape).eval()
        features = {"res4": torch.randn(1, 6, 5, 7), "res5": torch.randn(1, 12, 3, 4)}
        assert head.common_stride == 16
        assert head.predict(features).mask_logits.shape == (2, 1, 5, 5, 7)
        assert head.stages[0].lateral[0].in_features == 12
        changed = {**features, "res4": torch.randn(1, 6, 5, 7)}
        before, after = head.predict(features), head.predict(changed)
        assert torch.equal(before.class_logits[0], after.class_logits[0])
        assert not torch.allclose(before.class_logits[1], after.class_logits[1])

    def test_repeated_calls_are_equal(self, kind):
        head, features = build_head(kind).eval(), feature_maps()
        assert torch.equal(head(features)[0], head(features)[0])

    def test_images_of_a_batch_do_not_influence_each_other(self, kind):
        head, features = build_head(kind).eval(), feature_maps(3)
        separate = [head({name: x[i : i + 1] for name, x in features.items()})[0] for i in range(3)]
        torch.testing.assert_close(head(features)[0], torch.cat(separate), atol=1e-5, rtol=1e-4)

    def test_works_under_autocast_on_non_contiguous_features(self, kind):
        head = build_head(kind).eval()
        features = {name: torch.randn(2, 3, 4, 12).permute(0, 3, 1, 2) for name in head.in_features}
        labels = torch.randint(0, 5, (2, 12, 16))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = head.logits(features)
            losses = head.all_losses(features, labels)
        assert logits.dtype == torch.float32
        torch.testing.assert_close(logits, head.logits(features), atol=0.1, rtol=0.1)
        for name, loss in head.all_losses(features, labels).items():
            torch.testing.assert_close(losses[name], loss, atol=0.1, rtol=0.1)

    def test_can_be_exported(self, kind):
        model, maps = exportable(kind)
        with torch.no_grad():
            exported = torch.export.export(model, maps).module()
            torch.testing.assert_close(exported(*maps), model(*maps))

    @pytest.mark.slow
    def test_exports_to_onnx(self, kind, tmp_path):
        onnxruntime = pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
        model, maps = exportable(kind)
        path = str(tmp_path / "head.onnx")
        torch.onnx.export(model, maps, path, dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        inputs = {item.name: x.numpy() for item, x in zip(session.get_inputs(), maps)}
        with torch.no_grad():
            expected = model(*maps).numpy()
        np.testing.assert_allclose(session.run(None, inputs)[0], expected, atol=1e-4)

    def test_has_no_predictor_to_take(self, kind):
        with pytest.raises(UserError, match="SegViTHead classifies by itself"):
            take_predictor(build_head(kind))

    def test_overfits_one_image(self, kind):
        """The backbone's features depend on the position through the position table."""
        backbone = VisionTransformerBackbone(name="vit_tiny_patch16_224", out_indices=(1, 3, 5))
        options = {"channels": 48, "num_layers": 1, "num_classes": 4, "dropout": 0.0}
        head = build_head(kind, input_shape=backbone.output_shape(), **options)
        image, labels = torch.randn(1, 3, 64, 96), torch.zeros(1, 64, 96, dtype=torch.long)
        labels[:, 32:, :48], labels[:, :32, 48:], labels[:, :16] = 1, 2, 255
        optimizer = torch.optim.AdamW([*backbone.parameters(), *head.parameters()], lr=1e-3)
        totals = []
        for _ in range(30):
            _, losses = head(backbone(image), labels)
            totals.append(sum(losses.values()))
            optimizer.zero_grad()
            totals[-1].backward()
            optimizer.step()
        assert totals[-1] < 0.3 * totals[0]
        logits, _ = head.eval()(backbone.eval()(image))
        assert (logits.argmax(dim=1) == labels)[labels != 255].float().mean() > 0.9


class TestExplicitEmbeddings:
    def test_the_tokens_come_from_the_image(self):
        """Learned tokens are the same for all images; explicit ones are not."""
        head = build_head("explicit").eval()
        pixels = head.stages[0].project(torch.randn(2, 12, 3, 4))
        tokens, mask = head.class_tokens.seed(pixels, (3, 4))
        assert tokens.shape == (2, 5, 16)
        assert mask.shape == (2, 5, 3, 4)
        assert not torch.allclose(tokens[0], tokens[1])

    def test_the_seed_mask_is_part_of_every_stages_mask(self):
        head = build_head("explicit").eval()
        features = feature_maps()
        seed = head.class_tokens.seed(head.stages[0].project(features["block11"]), (3, 4))[1]
        tokens = head.class_tokens.extractions[0](seed)
        _, first = head.stages[0](tokens, head.stages[0].project(features["block11"]))
        expected = seed + first.unflatten(2, (3, 4))
        torch.testing.assert_close(head.predict(features).mask_logits[0], expected)


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"input_shape": {}}, "input_shape is empty"),
            ({"channels": 18}, "CHANNELS 18 cannot be divided among .*NUM_HEADS 4 heads"),
            ({"kind": "explicitt"}, "no kind 'explicitt'.*Did you mean 'explicit'"),
            ({"loss_stride": 0}, "LOSS_STRIDE is 0"),
        ],
    )
    def test_wrong_arguments_are_reported(self, options, message):
        with pytest.raises(UserError, match=message):
            build_head(**options)


class TestInDetectron2:
    @pytest.fixture
    def cfg(self, tiny_config):
        model = tiny_config.MODEL
        model.META_ARCHITECTURE = "SemanticSegmentor"
        model.BACKBONE.NAME = "VisionTransformerBackbone"
        encoder = {"NAME": "vit_tiny_patch16_224", "WEIGHTS": ""}
        encoder = {**encoder, "OUT_INDICES": (1, 3), "DROP_PATH_RATE": 0.0}
        model.ENCODER = CfgNode({**model.ENCODER, **encoder})
        model.SEM_SEG_HEAD.NAME = "SegViTHead"
        model.SEGVIT_HEAD = CfgNode(
            {"CHANNELS": 24, "NUM_HEADS": 3, "NUM_LAYERS": 1, "DROPOUT": 0.1}
            | {"CLASS_EMBEDDINGS": "learned", "LOSS_WEIGHT_CLASS": 1.0, "LOSS_WEIGHT_MASK": 20.0}
            | {"LOSS_WEIGHT_DICE": 1.0, "NO_OBJECT_WEIGHT": 0.1, "LOSS_STRIDE": 1}
        )
        return tiny_config

    @pytest.mark.parametrize("kind", CLASS_EMBEDDINGS)
    def test_the_semantic_segmentor_trains_and_predicts_with_it(self, cfg, kind):
        """Images that the patch size does not divide are padded by Detectron2."""
        cfg.MODEL.SEGVIT_HEAD.CLASS_EMBEDDINGS = kind
        model = build_model(cfg)
        image = torch.randint(0, 255, (3, 40, 56), dtype=torch.uint8)
        losses = model([{"image": image, "sem_seg": torch.randint(0, 5, (40, 56))}])
        assert set(losses) == LOSSES
        sum(losses.values()).backward()
        assert [name for name, p in model.named_parameters() if p.grad is None] == []
        with torch.no_grad():
            output = model.eval()([{"image": image, "height": 80, "width": 112}])
        assert output[0]["sem_seg"].shape == (5, 80, 112)

    def test_feature_maps_can_be_chosen(self, cfg):
        cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["block3"]
        assert build_model(cfg).sem_seg_head.in_features == ("block3",)

    def test_unknown_feature_maps_list_the_known_ones(self, cfg):
        cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["block2", "block3"]
        with pytest.raises(UserError, match="no 'block2'; it has block1, block3"):
            build_model(cfg)
