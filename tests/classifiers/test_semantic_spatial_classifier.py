"""The semantic and spatial adaptive classifier against the authors' numbers, a slow reference that
goes class by class, and bad batches.
"""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from d2_ctxseg.checkpoint import convert_official_state_dict, strip_training_only
from d2_ctxseg.classifiers import SemanticSpatialClassifier

FIXTURE = np.load(Path(__file__).parents[1] / "fixtures" / "semantic_spatial.npz")
LOSSES = {
    "loss_sem_seg": "ce_refined_all_pixels",
    "loss_vanilla": "ce_vanilla",
    "loss_oracle": "ce_oracle",
    "loss_dice": "dice_refined",
    "loss_dice_oracle": "dice_oracle",
    "loss_response": "response",
    "loss_semantic": "semantic_weighted",
    "loss_spatial": "spatial_weighted",
}


def official_state(prefix="state/"):
    state = {
        key.removeprefix(prefix): torch.from_numpy(FIXTURE[key])
        for key in FIXTURE.files
        if key.startswith(prefix)
    }
    return convert_official_state_dict(state, "ssa")


def authors_classifier(**options):
    """With the authors' weights and their divisor."""
    classifier = SemanticSpatialClassifier(16, 7, sem_seg_divisor="all", **options)
    classifier.load_state_dict(official_state())
    return classifier


@pytest.fixture(params=["", "large/"], ids=["12x14", "26x30"])
def fixture(request):
    """Reads an array of one of the two batches; only the larger one has boundaries."""
    return lambda name: torch.from_numpy(FIXTURE[request.param + name])


class TestParityWithTheAuthorsCode:
    def test_logits(self, fixture):
        labels = fixture("input/labels")
        prediction = authors_classifier().predict(fixture("input/features"), labels)
        for name in ("vanilla", "refined", "oracle"):
            expected = fixture(f"output/{name}_logits")
            torch.testing.assert_close(getattr(prediction, name), expected, atol=1e-4, rtol=0)

    def test_prediction_at_test_time(self, fixture):
        classifier = authors_classifier(dropout=0.5).eval()
        strip_training_only(classifier)
        with torch.no_grad():
            logits = classifier(fixture("input/features"))
        torch.testing.assert_close(logits, fixture("output/test_logits"), atol=1e-4, rtol=0)

    def test_prototypes(self, fixture):
        _, prototypes, oracle = authors_classifier()._predict_with_prototypes(
            fixture("input/features"), fixture("input/labels")
        )
        for name in ("semantic", "spatial"):
            for ours, key in ((prototypes, name), (oracle, f"oracle_{name}")):
                ours = getattr(ours, name)
                expected = fixture(f"output/{key}_prototype").expand_as(ours)
                torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)

    def test_losses_as_released(self, fixture):
        losses = authors_classifier().losses(fixture("input/features"), fixture("input/labels"))
        assert set(losses) == set(LOSSES)
        for name, key in LOSSES.items():
            torch.testing.assert_close(losses[name], fixture(f"output/{key}"), rtol=1e-5, atol=0)

    def test_total_and_all_gradients(self, fixture):
        classifier, features = authors_classifier(), fixture("input/features").requires_grad_()
        total = sum(classifier.losses(features, fixture("input/labels")).values())
        torch.testing.assert_close(total, fixture("output/total"), rtol=1e-5, atol=0)
        total.backward()
        tolerance = {"rtol": 1e-4, "atol": 1e-6}
        torch.testing.assert_close(features.grad, fixture("output/grad_features"), **tolerance)
        large = "large/" if features.shape[2] > 12 else ""
        expected = official_state(f"{large}output/grad_state/")
        gradients = {name: p.grad for name, p in classifier.named_parameters()}
        torch.testing.assert_close(gradients, expected, rtol=1e-3, atol=2e-6)

    @pytest.mark.parametrize("align_corners", [False, True])
    def test_interpolation_and_divisor(self, fixture, align_corners):
        classifier = authors_classifier(loss_align_corners=align_corners)
        classifier.sem_seg_divisor = "labelled"
        losses = classifier.losses(fixture("input/features"), fixture("input/labels"))
        suffix = f"align_corners_{str(align_corners).lower()}"
        expected = {
            "loss_sem_seg": f"ce_refined_{suffix}",
            "loss_vanilla": f"ce_vanilla_{suffix}",
            "loss_oracle": f"ce_oracle_{suffix}",
            "loss_dice": "dice_refined" if align_corners else f"dice_refined_{suffix}",
            "loss_dice_oracle": "dice_oracle" if align_corners else f"dice_oracle_{suffix}",
        }
        for name, key in expected.items():
            torch.testing.assert_close(losses[name], fixture(f"output/{key}"), rtol=1e-5, atol=0)

    def test_response_without_the_frame(self, fixture):
        classifier = authors_classifier(boundary_frame=0)
        losses = classifier.losses(fixture("input/features"), fixture("input/labels"))
        expected = fixture("output/response_no_frame")
        torch.testing.assert_close(losses["loss_response"], expected, rtol=1e-5, atol=0)


# ------------------------------------------------------------------------------ slow reference


def mlp(projector, *vectors):
    """Linear, ReLU, Linear of one joined vector."""
    first, _, second = projector
    return second.weight @ (first.weight @ torch.cat(vectors)).relu() + second.bias


def cosine_scores(classifier, weights, pixels):
    """(K, C) and (C, h, w) to (K, h, w)."""
    weights = weights / (weights.norm(dim=1, keepdim=True) + 1e-12)
    pixels = pixels / (pixels.norm(dim=0, keepdim=True) + 1e-12)
    return classifier.scale * torch.einsum("kc,chw->khw", weights, pixels)


def reference_predictions(model, features, labels):
    """Logits and prototypes, image by image and class by class, from the method's description."""
    small = F.interpolate(labels[:, None].double(), features.shape[-2:])[:, 0].long()
    classes, weight = range(model.num_classes), model.predictor.weight.flatten(1)
    position = model.position_encoding(features)
    vanilla = model.predictor(features)
    of_images = []
    for z, x, p, y in zip(vanilla, features, position, small):
        semantic, spatial, oracle_semantic, oracle_spatial = [], [], [], []
        share, attention = z.softmax(0), z.flatten(1).softmax(1).view_as(z)
        for k in classes:
            center = (share[k] * x).sum((1, 2)) / (share[k].sum() + 1e-12)
            semantic.append(mlp(model.semantic_projector, center, weight[k]))
            center = (attention[k] * p).sum((1, 2))
            spatial.append(mlp(model.spatial_projector, model.position_vectors[k], center))
            pixels = features.transpose(0, 1)[:, small == k]
            center = pixels.mean(1) if pixels.numel() else weight[k].detach()
            oracle_semantic.append(mlp(model.oracle_semantic_projector, center, weight[k]))
            own = model.position_vectors[k]
            center = p[:, y == k].mean(1) if (y == k).any() else own.detach()
            oracle_spatial.append(mlp(model.oracle_spatial_projector, center, own))
        parts = [torch.stack(v) for v in (semantic, spatial, oracle_semantic, oracle_spatial)]
        refined = (parts[0] + parts[1]) @ model.weight_projection.weight.T
        oracle = (parts[2] + parts[3]) @ model.oracle_weight_projection.weight.T
        scores = [cosine_scores(model, w, x + p) for w in (refined, oracle)]
        of_images.append([z, *scores, *parts])
    return [torch.stack(values) for values in zip(*of_images)], small


def reference_response(refined, oracle, small):
    boundary = np.zeros(small.shape, bool)
    height, width = small.shape[1:]
    if min(height, width) > 12:
        for b, image in enumerate(small.numpy().astype(np.uint8)):
            edges = cv2.Canny(image, 0, 0)
            edges[:6], edges[-6:], edges[:, :6], edges[:, -6:] = 0, 0, 0, 0
            boundary[b] = cv2.dilate(edges, np.ones((3, 3), np.uint8)) > 0
    boundary = torch.from_numpy(boundary)
    log_p, q = refined.log_softmax(1), oracle.softmax(1).detach()
    of_classes = []
    for k in range(refined.shape[1]):
        if not (small == k).any():
            continue
        truth = torch.zeros(refined.shape[1], dtype=q.dtype)
        truth[k] = 1
        target = 0.5 * q + 0.5 * truth[:, None, None]
        loss, entropy = -(target * log_p).sum(1), -(q * (q + 1e-12).log()).sum(1)
        halves = [(small == k) & boundary, (small == k) & ~boundary]
        means = [(loss * entropy)[m].sum() / (entropy[m].sum() + 1e-12) for m in halves]
        of_classes.append(0.5 * sum(means))
    return sum(of_classes) / len(of_classes) if of_classes else refined.sum() * 0


def reference_dice(logits, labels):
    logits = F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=True)
    losses = []
    for scores, image in zip(logits.sigmoid(), labels):
        for k in image[image != 255].unique():
            target = (image == k).double()
            overlap, total = (scores[k] * target).sum(), scores[k].sum() + target.sum()
            losses.append(1 - (2 * overlap + 1) / (total + 1))
    return sum(losses) / max(1, len(losses))


def reference_relations(student, teacher):
    def relations(vectors, others):
        vectors, others = (v / v.norm(dim=1, keepdim=True) for v in (vectors, others))
        return (15 * vectors @ others.T).softmax(1)

    total, (batch, classes, _) = 0, student.shape
    for s, t in zip(student, teacher):
        excess = (relations(s, s.detach()) - relations(t, t).detach()).clamp(min=0)
        total = total + excess.sum() - excess.diagonal().sum()
    return total / (batch * classes)


def reference_losses(model, features, labels):
    (vanilla, refined, oracle, *parts), small = reference_predictions(model, features, labels)
    semantic, spatial, oracle_semantic, oracle_spatial = parts

    def cross_entropy(logits):
        logits = F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=True)
        return F.cross_entropy(logits, labels, ignore_index=255)

    return {
        "loss_sem_seg": cross_entropy(refined),
        "loss_vanilla": cross_entropy(vanilla),
        "loss_oracle": cross_entropy(oracle),
        "loss_dice": reference_dice(refined, labels),
        "loss_dice_oracle": reference_dice(oracle, labels),
        "loss_response": reference_response(refined, oracle, small),
        "loss_semantic": 10 * reference_relations(semantic, oracle_semantic),
        "loss_spatial": 0.4
        * -(oracle_spatial.softmax(2).detach() * spatial.log_softmax(2)).sum(2).mean(),
    }


def labels_in_blocks(generator, batch, size, classes, present):
    """Squares of the first ``present`` classes, a tenth of them ignored."""
    height, width = size
    coarse = torch.randint(0, present, (batch, height, width), generator=generator)
    coarse[torch.rand(coarse.shape, generator=generator) < 0.1] = 255
    side = max(1, min(height, width) // 4)
    blocks = coarse[:, ::side, ::side].repeat_interleave(side, 1).repeat_interleave(side, 2)
    return blocks[:, :height, :width]


class TestAgainstTheSlowReference:
    @pytest.mark.parametrize(
        ("size", "label_size", "classes", "present"),
        [
            ((1, 1), (4, 4), 3, 3),
            ((5, 4), (5, 4), 4, 2),
            ((12, 18), (48, 72), 6, 4),
            ((13, 13), (26, 26), 5, 5),
            ((17, 25), (50, 63), 9, 6),
            ((24, 21), (96, 84), 150, 12),
        ],
    )
    @pytest.mark.parametrize("ignored_image", [False, True])
    def test_losses_and_gradients(self, size, label_size, classes, present, ignored_image):
        """Small and odd sizes, absent classes, and an image without a label."""
        generator = torch.Generator().manual_seed(sum(size) + classes)
        labels = labels_in_blocks(generator, 3, label_size, classes, present)
        labels[0, 0, 0] = 0
        if ignored_image:
            labels[1] = 255
        features = torch.randn(3, 8, *size, generator=generator, dtype=torch.float64)
        features.requires_grad_()
        model = SemanticSpatialClassifier(8, classes).double()
        with torch.no_grad():
            model.predictor.weight.normal_(generator=generator)
        losses = model.losses(features, labels)
        expected = reference_losses(model, features, labels)
        for name, loss in losses.items():
            torch.testing.assert_close(loss, expected[name], rtol=1e-6, atol=1e-9)
        inputs = [features, *model.parameters()]
        gradients = torch.autograd.grad(sum(losses.values()), inputs)
        expected = torch.autograd.grad(sum(expected.values()), inputs)
        torch.testing.assert_close(gradients, expected, rtol=1e-5, atol=1e-8)

    def test_without_a_labelled_pixel_losses_are_0(self):
        """Where a division by the number of labelled pixels is none by 0."""
        model, labels = SemanticSpatialClassifier(8, 4), torch.full((2, 32, 32), 255)
        losses = model.losses(torch.randn(2, 8, 16, 16), labels)
        assert set(losses) == set(LOSSES) and not any(losses.values())


class TestAblations:
    features = torch.randn(2, 8, 16, 17, generator=torch.Generator().manual_seed(0))
    labels = labels_in_blocks(torch.Generator().manual_seed(1), 2, (32, 34), 5, 4)

    def losses(self, **options):
        torch.manual_seed(0)
        model = SemanticSpatialClassifier(8, 5, **options)
        torch.nn.init.normal_(model.predictor.weight)
        return model.losses(self.features, self.labels)

    @pytest.mark.parametrize(
        "options",
        [
            *({"response_weighting": w} for w in ("plain", "entropy", "class", "class_entropy")),
            {"boundary": "neighbours"},
            {"boundary_frame": 2},
            {"boundary_dilation": 0},
        ],
    )
    def test_of_the_response_change_that_loss_alone(self, options):
        usual, changed = self.losses(), self.losses(**options)
        assert not torch.allclose(usual.pop("loss_response"), changed.pop("loss_response"))
        torch.testing.assert_close(changed, usual)

    @pytest.mark.parametrize("context", ["batch", "image"])
    @pytest.mark.parametrize("name", ["semantic", "spatial"])
    def test_the_oracle_sees_the_batch_or_each_image(self, name, context):
        """Of the batch its prototypes are the same in all images."""
        model = SemanticSpatialClassifier(8, 5, **{f"{name}_oracle_context": context})
        oracle = model._predict_with_prototypes(self.features, self.labels)[2]
        first, second = getattr(oracle, name)
        assert torch.allclose(first, second) == (context == "batch")

    @pytest.mark.parametrize("prototypes", ["semantic", "spatial"])
    def test_one_kind_of_prototypes_alone(self, prototypes):
        model = SemanticSpatialClassifier(8, 5, prototypes=prototypes)
        losses = model.losses(self.features, self.labels)
        other = {"semantic": "spatial", "spatial": "semantic"}[prototypes]
        assert set(losses) == set(LOSSES) - {f"loss_{other}"}
        sum(losses.values()).backward()
        assert all(p.grad is not None for p in model.parameters())
        # As the whole classifier, with the other one's prototypes and position features at 0.
        full = SemanticSpatialClassifier(8, 5)
        full.load_state_dict(model.state_dict(), strict=False)
        with torch.no_grad():
            for module in (f"{other}_projector", f"oracle_{other}_projector"):
                full.get_submodule(module)[2].weight.zero_()
                full.get_submodule(module)[2].bias.zero_()
            if prototypes == "semantic":
                full.position_encoding.weight.zero_()
                full.position_encoding.bias.zero_()
        torch.testing.assert_close(
            model.predict(self.features, self.labels), full.predict(self.features, self.labels)
        )

    def test_dot_product_and_scale(self):
        model = SemanticSpatialClassifier(8, 5).eval()
        assert model(self.features).abs().max() <= 15 + 1e-4
        doubled = SemanticSpatialClassifier(8, 5, scale=30.0).eval()
        dot = SemanticSpatialClassifier(8, 5, similarity="dot").eval()
        for other in (doubled, dot):
            other.load_state_dict(model.state_dict())
        torch.testing.assert_close(doubled(self.features), 2 * model(self.features))
        weight = model.weight_projection(model._prototypes(*self.parts(model)).sum())
        pixels = self.features + model.position_encoding(self.features)
        expected = torch.einsum("bkc,bchw->bkhw", weight, pixels)
        torch.testing.assert_close(dot(self.features), expected)

    def parts(self, model):
        return model.predictor(self.features), self.features, model.position_encoding(self.features)

    @pytest.mark.parametrize("name", [name.removeprefix("loss_") for name in LOSSES])
    def test_each_loss_can_be_left_out(self, name):
        full, rest = self.losses(), self.losses(**{f"loss_weight_{name}": 0.0})
        full.pop(f"loss_{name}")
        torch.testing.assert_close(rest, full)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"prototypes": "none"}, "expected one of both, semantic, spatial"),
            ({"similarity": "cos"}, "similarity is 'cos', expected one of cosine, dot"),
            ({"semantic_oracle_context": "all"}, "semantic_oracle_context.*of batch, image"),
            ({"spatial_oracle_context": "all"}, "spatial_oracle_context.*of batch, image"),
            ({"response_weighting": "none"}, "class_entropy, class_entropy_boundary"),
            ({"boundary": "sobel"}, "expected one of canny, neighbours"),
            ({"boundary_frame": -1}, "boundary_frame is -1, expected .* at least 0"),
            ({"boundary_dilation": -2}, "boundary_dilation is -2, expected .* at least 0"),
            ({"sem_seg_divisor": "none"}, "expected one of labelled, all"),
        ],
    )
    def test_unknown_ones_list_the_known_ones(self, options, message):
        with pytest.raises(ValueError, match=message):
            SemanticSpatialClassifier(8, 4, **options)


class TestClassifier:
    def test_a_class_scores_by_where_it_is(self):
        """The same features, moved within the image, score differently: what P is for."""
        torch.manual_seed(0)
        model = SemanticSpatialClassifier(8, 4, prototypes="spatial").eval()
        features = torch.randn(1, 8, 6, 6)
        centre = features.clone()
        centre[:, :, 2:4, 2:4] = features[:, :, :2, :2]
        assert not torch.allclose(model(features)[..., 0, 0], model(centre)[..., 2, 2], atol=1e-3)

    def test_dropout_is_seen_by_the_vanilla_prediction_only(self):
        features, labels = torch.randn(2, 64, 4, 4), torch.randint(0, 4, (2, 4, 4))
        model = SemanticSpatialClassifier(64, 4, dropout=0.5)
        dropped, full = model.predict(features, labels), model.eval().predict(features, labels)
        assert not torch.allclose(dropped.vanilla, full.vanilla)
        torch.testing.assert_close(dropped.oracle, full.oracle)

    def test_features_are_left_as_they_are(self):
        """Without gradients the pixels' sum is made in place of the position features."""
        model, features = SemanticSpatialClassifier(8, 4).eval(), torch.randn(1, 8, 5, 5)
        before, expected = features.clone(), model(features)
        with torch.no_grad():
            torch.testing.assert_close(model(features), expected)
        assert torch.equal(features, before)

    def test_what_only_training_needs_can_be_stripped(self):
        model, features = SemanticSpatialClassifier(8, 4).eval(), torch.randn(1, 8, 5, 5)
        expected, whole = model(features), sum(p.numel() for p in model.parameters())
        strip_training_only(model)
        torch.testing.assert_close(model(features), expected)
        # Two projectors of 2C x C/2 + C/2 x C + C, and a map of C x C.
        assert whole - sum(p.numel() for p in model.parameters()) == 4 * 8 * 8 + 2 * 8
        with pytest.raises(ValueError, match="stripped for deployment"):
            model.predict(features, torch.zeros(1, 5, 5, dtype=torch.int64))

    def test_number_of_parameters(self):
        """Beyond the vanilla classifier 4 C^2 + 12 C + K C at test time."""
        channels, classes = 16, 5
        model = SemanticSpatialClassifier(channels, classes)
        strip_training_only(model)
        count = sum(p.numel() for p in model.parameters()) - (channels + 1) * classes
        assert count == 4 * channels**2 + 12 * channels + classes * channels
