"""The context-aware classifier against the authors' numbers, a plain reference, and bad batches."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from d2_ctxseg.classifiers import CLASSIFIER_REGISTRY, ContextAwareClassifier, LinearClassifier
from d2_ctxseg.classifiers.context_aware import oracle_context
from d2_ctxseg.classifiers.distillation import distillation_loss
from d2_ctxseg.classifiers.functional import (
    class_membership,
    resize_labels,
    segmentation_cross_entropy,
    weighted_class_means,
)

FIXTURE = np.load(Path(__file__).parent / "fixtures" / "context_aware.npz")
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

    def test_losses_and_their_gradient(self, authors_classifier):
        features = fixture("input/features").requires_grad_()
        losses = authors_classifier.losses(features, fixture("input/labels"))
        assert set(losses) == {"loss_sem_seg", "loss_vanilla", "loss_oracle", "loss_kl"}
        torch.testing.assert_close(losses["loss_kl"], fixture("output/kl"), rtol=1e-5, atol=0)
        total = sum(losses.values())
        torch.testing.assert_close(total, fixture("output/total"), rtol=1e-5, atol=0)
        total.backward()
        torch.testing.assert_close(
            features.grad, fixture("output/grad_features"), rtol=1e-4, atol=1e-7
        )


def class_by_class_context(features, labels, absent):
    """The oracle's context as a loop over classes."""
    context = absent.clone()
    pixels = features.transpose(0, 1).flatten(1)
    for k in range(absent.shape[0]):
        of_class = labels.flatten() == k
        if of_class.any():
            context[k] = pixels[:, of_class].mean(dim=1)
    return context


def class_by_class_distillation(student, teacher, labels):
    """The distillation loss as a loop over classes."""
    num_classes = student.shape[1]
    student, teacher = (x.transpose(0, 1).flatten(1).T for x in (student, teacher))
    losses = []
    for k in range(num_classes):
        of_class = labels.flatten() == k
        if of_class.any():
            q = teacher[of_class].softmax(1)
            target = 0.5 * q + 0.5 * F.one_hot(torch.tensor(k), num_classes)
            loss = -(target * student[of_class].log_softmax(1)).sum(1)
            entropy = -(q * q.log()).sum(1)
            losses.append((loss * entropy).sum() / entropy.sum())
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

    def test_distillation(self):
        student, teacher = torch.randn(2, 5, 5, 6), torch.randn(2, 5, 5, 6)
        loss = distillation_loss(student, teacher, self.labels)
        expected = class_by_class_distillation(student, teacher, self.labels)
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


@pytest.mark.parametrize("classifier_class", [LinearClassifier, ContextAwareClassifier])
class TestEveryClassifier:
    @given(
        batch=st.integers(1, 3),
        classes=st.integers(1, 6),
        size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
        factor=st.integers(1, 3),
        seed=st.integers(0, 1000),
        ignored=st.floats(0, 1),
    )
    @settings(max_examples=25, deadline=None)
    def test_losses_and_gradients_are_finite(
        self, classifier_class, batch, classes, size, factor, seed, ignored
    ):
        generator = torch.Generator().manual_seed(seed)
        label_size = (batch, size[0] * factor, size[1] * factor)
        labels = torch.randint(0, classes, label_size, generator=generator)
        labels[torch.rand(label_size, generator=generator) < ignored] = 255
        features = torch.randn(batch, 8, *size, generator=generator).requires_grad_()
        losses = classifier_class(8, classes).losses(features, labels)
        sum(losses.values()).backward()
        assert all(torch.isfinite(loss) and loss >= 0 for loss in losses.values())
        assert torch.isfinite(features.grad).all()

    def test_a_batch_without_a_labelled_pixel_has_loss_0_and_gradient_0(self, classifier_class):
        features = torch.randn(2, 8, 3, 3, requires_grad=True)
        labels = torch.full((2, 6, 6), 255)
        total = sum(classifier_class(8, 4).losses(features, labels).values())
        total.backward()
        assert total == 0
        assert torch.equal(features.grad, torch.zeros_like(features))

    def test_is_registered_under_its_name(self, classifier_class):
        assert CLASSIFIER_REGISTRY.get(classifier_class.__name__) is classifier_class

    def test_starts_from_the_given_predictor(self, classifier_class):
        predictor = torch.nn.Conv2d(8, 4, 1)
        assert classifier_class(8, 4, predictor=predictor).predictor is predictor

    def test_refuses_a_predictor_of_another_shape(self, classifier_class):
        with pytest.raises(ValueError, match=r"expected \(4, 8, 1, 1\)"):
            classifier_class(8, 4, predictor=torch.nn.Conv2d(8, 4, 3))

    def test_works_under_autocast_on_non_contiguous_features(self, classifier_class):
        classifier = classifier_class(8, 4)
        features = torch.randn(2, 6, 6, 8).permute(0, 3, 1, 2)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses = classifier.losses(features, torch.randint(0, 4, (2, 6, 6)))
            logits = classifier(features)
        torch.testing.assert_close(logits.float(), classifier(features), atol=0.3, rtol=0.1)
        assert all(torch.isfinite(loss) for loss in losses.values())


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
