"""The context-aware classifier against the authors' numbers, a plain reference, and bad batches."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from d2_ctxseg.classifiers import ContextAwareClassifier
from d2_ctxseg.classifiers.context_aware import oracle_context
from d2_ctxseg.losses.distillation import (
    DISTILLATION_TARGETS,
    DISTILLATION_WEIGHTINGS,
    distillation_loss,
)
from d2_ctxseg.losses.functional import (
    class_membership,
    resize_labels,
    segmentation_cross_entropy,
    weighted_class_means,
)

FIXTURE = np.load(Path(__file__).parents[1] / "fixtures" / "context_aware.npz")
AUTHORS_MODULES = {
    "conv_seg": "predictor",
    "proj": "estimated_projector",
    "apd_proj": "oracle_projector",
}


def fixture(name):
    return torch.from_numpy(FIXTURE[name])


@pytest.fixture
def authors_classifier():
    classifier = ContextAwareClassifier(16, 7)
    state = {}
    for key in FIXTURE.files:
        if key.startswith("state/"):
            module, _, rest = key.removeprefix("state/").partition(".")
            state[f"{AUTHORS_MODULES[module]}.{rest}"] = fixture(key)
    classifier.load_state_dict(state)
    return classifier


class TestParityWithTheAuthorsCode:
    def test_logits(self, authors_classifier):
        prediction = authors_classifier.predict(fixture("input/features"), fixture("input/labels"))
        for name in ("vanilla", "refined", "oracle"):
            expected = fixture(f"output/{name}_logits")
            torch.testing.assert_close(getattr(prediction, name), expected, atol=1e-4, rtol=0)

    @pytest.mark.parametrize("align_corners", [False, True])
    def test_cross_entropies(self, authors_classifier, align_corners):
        labels = fixture("input/labels")
        prediction = authors_classifier.predict(fixture("input/features"), labels)
        for name in ("vanilla", "refined", "oracle"):
            loss = segmentation_cross_entropy(
                getattr(prediction, name), labels, align_corners=align_corners
            )
            expected = fixture(f"output/ce_{name}_align_corners_{str(align_corners).lower()}")
            torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)

    def test_losses_as_released(self, authors_classifier):
        """In all four of the authors' heads align_corners is True but for the refined logits."""
        losses = authors_classifier.losses(fixture("input/features"), fixture("input/labels"))
        assert set(losses) == {"loss_sem_seg", "loss_vanilla", "loss_oracle", "loss_kl"}
        expected = {
            "loss_sem_seg": "ce_refined_align_corners_false",
            "loss_vanilla": "ce_vanilla_align_corners_true",
            "loss_oracle": "ce_oracle_align_corners_true",
            "loss_kl": "kl",
        }
        for name, key in expected.items():
            torch.testing.assert_close(losses[name], fixture(f"output/{key}"), rtol=1e-5, atol=0)

    def test_total_without_align_corners_and_its_gradient(self, authors_classifier):
        authors_classifier.auxiliary_align_corners = False
        features = fixture("input/features").requires_grad_()
        losses = authors_classifier.losses(features, fixture("input/labels"))
        total = sum(losses.values())
        torch.testing.assert_close(total, fixture("output/total"), rtol=1e-5, atol=0)
        total.backward()
        torch.testing.assert_close(
            features.grad, fixture("output/grad_features"), rtol=1e-4, atol=1e-7
        )

    def test_prediction_is_untouched_by_how_losses_are_interpolated(self):
        torch.manual_seed(0)
        features = fixture("input/features")
        released = ContextAwareClassifier(16, 7)
        other = ContextAwareClassifier(16, 7, auxiliary_align_corners=False)
        other.load_state_dict(released.state_dict())
        assert torch.equal(released(features), other(features))
        assert not released.align_corners


def class_by_class_context(features, labels, absent):
    """The oracle's context as a loop over classes."""
    context = absent.clone()
    pixels = features.transpose(0, 1).flatten(1)
    for k in range(absent.shape[0]):
        of_class = labels.flatten() == k
        if of_class.any():
            context[k] = pixels[:, of_class].mean(dim=1)
    return context


def pixel_rows(logits):
    """(B, K, h, w) to (B * h * w, K)."""
    return logits.transpose(0, 1).flatten(1).T


def plain_distillation(student, teacher, labels, target, weighting, entropy_logits):
    """The distillation loss with a loop over classes."""
    labels, num_classes = labels.flatten(), student.shape[1]
    labelled = labels != 255
    student, q = pixel_rows(student).log_softmax(1), pixel_rows(teacher).softmax(1)
    if target == "kl":
        loss = (q * (q.log() - student)).sum(1)
    else:
        truth = F.one_hot(labels.where(labelled, 0), num_classes)
        loss = -((0.5 * q + 0.5 * truth) * student).sum(1)
    weight = torch.ones_like(loss)
    if "entropy" in weighting:
        p = pixel_rows(entropy_logits).softmax(1)
        weight = -(p * p.log()).sum(1)
    if weighting in ("plain", "entropy"):
        return (loss * weight)[labelled].sum() / weight[labelled].sum()
    of_classes = [labels == k for k in range(num_classes) if (labels == k).any()]
    losses = [(loss * weight)[mask].sum() / weight[mask].sum() for mask in of_classes]
    return torch.stack(losses).mean()


class TestAgainstClassByClassReference:
    labels = torch.randint(0, 4, (2, 5, 6), generator=torch.Generator().manual_seed(1))

    def test_oracle_context_with_an_absent_class(self):
        features, absent = torch.randn(2, 3, 5, 6), torch.randn(5, 3)
        context = oracle_context(features, self.labels, absent)
        expected = class_by_class_context(features, self.labels, absent)
        torch.testing.assert_close(context, expected.expand(2, -1, -1))

    def test_no_gradient_flows_into_the_weights_of_an_absent_class(self):
        absent = torch.randn(5, 3, requires_grad=True)
        assert not oracle_context(torch.randn(2, 3, 5, 6), self.labels, absent).requires_grad

    def test_oracle_context_of_each_image(self):
        features, absent = torch.randn(2, 3, 5, 6), torch.randn(5, 3)
        context = oracle_context(features, self.labels, absent, per_image=True)
        for i in range(2):
            expected = class_by_class_context(features[i : i + 1], self.labels[i], absent)
            torch.testing.assert_close(context[i], expected)

    @pytest.mark.parametrize("target", DISTILLATION_TARGETS)
    @pytest.mark.parametrize("weighting", DISTILLATION_WEIGHTINGS)
    @pytest.mark.parametrize("entropy_of_teacher", [True, False])
    def test_distillation(self, target, weighting, entropy_of_teacher):
        student, teacher, other = torch.randn(3, 2, 5, 5, 6)
        labels = self.labels.clone()
        labels[:, 0] = 255
        loss = distillation_loss(
            student,
            teacher,
            labels,
            target=target,
            weighting=weighting,
            entropy_logits=None if entropy_of_teacher else other,
        )
        entropy_logits = teacher if entropy_of_teacher else other
        expected = plain_distillation(student, teacher, labels, target, weighting, entropy_logits)
        torch.testing.assert_close(loss, expected)

    def test_distillation_leaves_the_teacher_alone(self):
        teacher = torch.randn(2, 5, 5, 6, requires_grad=True)
        student = torch.randn(2, 5, 5, 6, requires_grad=True)
        distillation_loss(student, teacher, self.labels).backward()
        assert teacher.grad is None
        assert student.grad.abs().sum() > 0


class TestFunctions:
    def test_membership_has_a_row_of_ones_per_class_and_none_for_ignored_pixels(self):
        membership = class_membership(torch.tensor([[[0, 2], [255, 2]]]), 3)
        assert membership.tolist() == [[[1, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 1]]]

    def test_weighted_means(self):
        features = torch.tensor([1.0, 3.0]).reshape(1, 1, 1, 2)
        weights = torch.tensor([[[0.25, 0.75], [0.0, 0.0]]])
        means = weighted_class_means(features, weights)
        torch.testing.assert_close(means, torch.tensor([[[2.5], [0.0]]]))

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
    def test_labels_of_any_integer_dtype(self, dtype):
        labels = torch.tensor([[[0, 1], [2, 3]]], dtype=dtype)
        assert resize_labels(labels, (4, 4))[0, :, 0].tolist() == [0, 0, 2, 2]
        losses = ContextAwareClassifier(4, 4).losses(torch.randn(1, 4, 2, 2), labels)
        assert all(torch.isfinite(loss) for loss in losses.values())

    def test_cross_entropy_is_the_mean_over_labelled_pixels(self):
        logits = torch.randn(1, 3, 2, 2)
        labels = torch.tensor([[[0, 255], [2, 255]]])
        expected = F.cross_entropy(logits, labels, ignore_index=255)
        torch.testing.assert_close(segmentation_cross_entropy(logits, labels), expected)


class TestContextAwareness:
    def test_the_image_decides_the_score_of_a_pixel(self):
        """The same pixel feature scores differently in another scene: what the method is for."""
        classifier = ContextAwareClassifier(8, 4).eval()
        torch.nn.init.normal_(classifier.predictor.weight)
        scenes = torch.randn(2, 8, 4, 4)
        scenes[:, :, 0, 0] = 1.0
        refined, vanilla = classifier(scenes)[:, :, 0, 0], classifier.predictor(scenes)[:, :, 0, 0]
        assert torch.allclose(vanilla[0], vanilla[1])
        assert not torch.allclose(refined[0], refined[1], atol=1e-3)

    def test_images_of_a_batch_do_not_influence_each_other(self):
        classifier = ContextAwareClassifier(8, 4).eval()
        features = torch.randn(3, 8, 4, 4)
        separate = torch.cat([classifier(image[None]) for image in features])
        torch.testing.assert_close(classifier(features), separate)

    def test_scores_lie_within_the_scale(self):
        logits = ContextAwareClassifier(8, 4, scale=15.0)(torch.randn(2, 8, 4, 4) * 100)
        assert logits.abs().max() <= 15.0 + 1e-4

    def test_weights_scale_losses_and_0_leaves_them_out(self):
        classifier = ContextAwareClassifier(8, 4, loss_weight_vanilla=0.5, loss_weight_kl=0.0)
        reference = ContextAwareClassifier(8, 4)
        reference.load_state_dict(classifier.state_dict())
        features, labels = torch.randn(2, 8, 4, 4), torch.randint(0, 4, (2, 4, 4))
        losses, full = classifier.losses(features, labels), reference.losses(features, labels)
        assert "loss_kl" not in losses
        torch.testing.assert_close(losses["loss_vanilla"], 0.5 * full["loss_vanilla"])

    def test_without_oracle_loss_its_projector_is_not_trained(self):
        classifier = ContextAwareClassifier(8, 4, loss_weight_oracle=0.0)
        losses = classifier.losses(torch.randn(2, 8, 4, 4), torch.randint(0, 4, (2, 4, 4)))
        sum(losses.values()).backward()
        trained = {name for name, p in classifier.named_parameters() if p.grad is not None}
        assert trained == {
            name for name, p in classifier.named_parameters() if "oracle" not in name
        }

    def test_dropout_is_seen_by_the_vanilla_prediction_only(self):
        """As in the authors' code; the estimated context follows the vanilla prediction."""
        features, labels = torch.randn(2, 64, 4, 4), torch.randint(0, 4, (2, 4, 4))
        classifier = ContextAwareClassifier(64, 4, dropout=0.5)
        dropped, full = (
            classifier.predict(features, labels),
            classifier.eval().predict(features, labels),
        )
        assert not torch.allclose(dropped.vanilla, full.vanilla)
        torch.testing.assert_close(dropped.oracle, full.oracle)


class TestAblations:
    features, labels = torch.randn(2, 8, 4, 4), torch.arange(32).reshape(2, 4, 4) % 4

    def losses(self, **options):
        torch.manual_seed(0)
        return ContextAwareClassifier(8, 5, **options).losses(self.features, self.labels)

    @pytest.mark.parametrize(
        "options",
        [
            {"distillation_target": "kl"},
            {"distillation_weighting": "plain"},
            {"distillation_weighting": "entropy"},
            {"distillation_weighting": "class"},
            {"entropy_source": "vanilla"},
            {"entropy_source": "estimated"},
        ],
    )
    def test_of_the_distillation_change_that_loss_alone(self, options):
        usual, changed = self.losses(), self.losses(**options)
        assert not torch.equal(usual.pop("loss_kl"), changed.pop("loss_kl"))
        torch.testing.assert_close(changed, usual)

    def test_the_oracle_context_of_each_image_is_another(self):
        assert not torch.equal(
            self.losses()["loss_oracle"], self.losses(oracle_context="image")["loss_oracle"]
        )

    def test_dot_product_is_not_scaled_or_normalised(self):
        classifier = ContextAwareClassifier(8, 5, similarity="dot").eval()
        doubled = classifier(2 * self.features)
        assert doubled.abs().max() > classifier(self.features).abs().max()
        assert "loss_kl" in classifier.losses(self.features, self.labels)

    @pytest.mark.parametrize("name", ["sem_seg", "vanilla", "oracle", "kl"])
    def test_each_loss_can_be_left_out(self, name):
        option = "loss_weight_" + {"sem_seg": "refined"}.get(name, name)
        full, rest = self.losses(), self.losses(**{option: 0.0})
        full.pop(f"loss_{name}")
        torch.testing.assert_close(rest, full)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"similarity": "cos"}, "similarity is 'cos', expected one of cosine, dot"),
            ({"distillation_target": "ce"}, "expected one of half_smoothed, kl"),
            (
                {"distillation_weighting": "none"},
                "expected one of plain, entropy, class, class_entropy",
            ),
            ({"entropy_source": "refined"}, "expected one of oracle, estimated, vanilla"),
            ({"oracle_context": "all"}, "expected one of batch, image"),
        ],
    )
    def test_unknown_ones_list_the_known_ones(self, options, message):
        with pytest.raises(ValueError, match=message):
            ContextAwareClassifier(8, 4, **options)
