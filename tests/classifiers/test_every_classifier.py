"""What every classifier must do, whatever its method."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d2_ctxseg.classifiers import (
    CLASSIFIER_REGISTRY,
    ContextAwareClassifier,
    ExplicitClassClassifier,
    GaussianMixtureClassifier,
    LearnedPrototypeClassifier,
    LinearClassifier,
    PrototypeClassifier,
    SemanticSpatialClassifier,
)

CLASSIFIERS = (
    LinearClassifier,
    ContextAwareClassifier,
    PrototypeClassifier,
    LearnedPrototypeClassifier,
    ExplicitClassClassifier,
    GaussianMixtureClassifier,
    SemanticSpatialClassifier,
)
# What they learn takes the place of a head's predictor.
WITHOUT_PREDICTOR = (PrototypeClassifier, LearnedPrototypeClassifier, GaussianMixtureClassifier)
# Losses with a teacher, or another part, that is a constant by design.
DISTILLATION = {
    ContextAwareClassifier: ("kl",),
    SemanticSpatialClassifier: ("response", "semantic", "spatial"),
}
every_classifier = pytest.mark.parametrize("classifier_class", CLASSIFIERS)


@every_classifier
class TestBatches:
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
        """Absent classes, ignored pixels, one class, images of one pixel, different scenes."""
        generator = torch.Generator().manual_seed(seed)
        label_size = (batch, size[0] * factor, size[1] * factor)
        labels = torch.randint(0, classes, label_size, generator=generator)
        labels[torch.rand(label_size, generator=generator) < ignored] = 255
        features = torch.randn(batch, 8, *size, generator=generator).requires_grad_()
        classifier = classifier_class(8, classes)
        losses = classifier.losses(features, labels)
        sum(losses.values()).backward()
        assert all(torch.isfinite(loss) and loss >= 0 for loss in losses.values())
        gradients = [features.grad, *(p.grad for p in classifier.parameters() if p.requires_grad)]
        assert all(torch.isfinite(gradient).all() for gradient in gradients)

    def test_without_a_labelled_pixel_have_loss_0_and_gradient_0(self, classifier_class):
        classifier = classifier_class(8, 4)
        features = torch.randn(2, 8, 3, 3, requires_grad=True)
        total = sum(classifier.losses(features, torch.full((2, 6, 6), 255)).values())
        total.backward()
        assert total == 0
        assert torch.equal(features.grad, torch.zeros_like(features))
        for parameter in classifier.parameters():
            assert not parameter.requires_grad or not parameter.grad.any()

    @pytest.mark.parametrize("ignore_label", [0, 3, -1, 254])
    def test_with_any_ignore_label(self, classifier_class, ignore_label):
        """Pixels that are ignored count as little with a label that is also a class's number."""
        features, labels = torch.randn(2, 8, 4, 4), torch.randint(1, 3, (2, 4, 4))
        hidden = torch.rand(2, 4, 4) < 0.5
        usual = classifier_class(8, 4).eval()
        other = classifier_class(8, 4, ignore_label=ignore_label).eval()
        other.load_state_dict(usual.state_dict())
        torch.testing.assert_close(
            other.losses(features, labels.masked_fill(hidden, ignore_label)),
            usual.losses(features, labels.masked_fill(hidden, 255)),
        )

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
    def test_with_labels_of_any_integer_dtype(self, classifier_class, dtype):
        classifier = classifier_class(8, 4).eval()
        features, labels = torch.randn(1, 8, 2, 2), torch.tensor([[[0, 1], [3, 255]]])
        if dtype == torch.int16:
            labels = labels.repeat_interleave(2, 1).repeat_interleave(2, 2)
        expected = classifier.losses(features, labels)
        torch.testing.assert_close(classifier.losses(features, labels.to(dtype)), expected)

    def test_that_are_not_contiguous(self, classifier_class):
        classifier = classifier_class(8, 4).eval()
        features = torch.randn(2, 6, 6, 8).permute(0, 3, 1, 2)
        labels = torch.randint(0, 4, (6, 2, 6)).transpose(0, 1)
        torch.testing.assert_close(classifier(features), classifier(features.contiguous()))
        torch.testing.assert_close(
            classifier.losses(features, labels),
            classifier.losses(features.contiguous(), labels.contiguous()),
        )

    def test_images_of_a_batch_do_not_influence_each_others_prediction(self, classifier_class):
        classifier = classifier_class(8, 4).eval()
        features = torch.randn(3, 8, 4, 4)
        separate = torch.cat([classifier(image[None]) for image in features])
        torch.testing.assert_close(classifier(features), separate, atol=1e-5, rtol=1e-5)

    def test_give_the_same_again_in_eval_mode(self, classifier_class):
        classifier = classifier_class(8, 4, dropout=0.5).eval()
        features, labels = torch.randn(2, 8, 4, 4), torch.randint(0, 4, (2, 8, 8))
        first = classifier.losses(features, labels), classifier(features)
        second = classifier.losses(features, labels), classifier(features)
        torch.testing.assert_close(first, second, rtol=0, atol=0)


@every_classifier
class TestPrecision:
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_under_autocast(self, classifier_class, dtype):
        classifier = classifier_class(16, 4).eval()
        features = torch.randn(2, 16, 6, 6, requires_grad=True)
        labels = torch.randint(0, 4, (2, 12, 12))
        expected, exact = classifier.losses(features, labels), classifier(features)
        with torch.autocast("cpu", dtype=dtype):
            losses, logits = classifier.losses(features, labels), classifier(features)
        sum(losses.values()).backward()
        torch.testing.assert_close(logits.float(), exact, atol=0.3, rtol=0.1)
        for name, loss in losses.items():
            assert loss.dtype == torch.float32
            torch.testing.assert_close(loss, expected[name], atol=0.1, rtol=0.1)
        assert torch.isfinite(features.grad).all()

    def test_gradients_in_half_precision_follow_those_in_single(self, classifier_class):
        classifier, labels = classifier_class(16, 4).eval(), torch.randint(0, 4, (2, 12, 12))
        gradients = []
        for enabled in (False, True):
            features = torch.randn(2, 16, 6, 6, generator=torch.Generator().manual_seed(0))
            features.requires_grad_()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
                losses = classifier.losses(features, labels)
            sum(losses.values()).backward()
            gradients.append(features.grad.flatten())
        assert torch.cosine_similarity(*gradients, dim=0) > 0.97

    def test_gradient_of_the_losses_in_double_precision(self, classifier_class):
        """A tiny case, against finite differences. Teachers and weights are constants by design."""
        constant = DISTILLATION.get(classifier_class, ())
        options = {f"loss_weight_{name}": 0.0 for name in constant}
        classifier = classifier_class(8, 3, **options).double().eval()
        for parameter in classifier.parameters():
            # Away from the kinks of a new classifier's nearly equal scores.
            torch.nn.init.normal_(parameter, std=0.5)
        labels = torch.tensor([[[0, 0, 1, 1], [0, 255, 1, 1], [1, 1, 2, 0], [1, 1, 0, 0]]])
        features = torch.randn(1, 8, 2, 2, dtype=torch.float64, requires_grad=True)

        def total(features):
            return sum(classifier.losses(features, labels).values())

        assert torch.autograd.gradcheck(total, features)


@every_classifier
class TestConstruction:
    def test_is_registered_under_its_name(self, classifier_class):
        assert CLASSIFIER_REGISTRY.get(classifier_class.__name__) is classifier_class

    def test_takes_the_predictor_of_a_head(self, classifier_class):
        predictor = torch.nn.Conv2d(8, 4, 1)
        classifier = classifier_class(8, 4, predictor=predictor)
        if classifier_class not in WITHOUT_PREDICTOR:
            assert classifier.predictor is predictor

    def test_says_its_channels_and_classes(self, classifier_class):
        classifier = classifier_class(8, 4, ignore_label=7, align_corners=True)
        assert (classifier.in_channels, classifier.num_classes) == (8, 4)
        assert (classifier.ignore_label, classifier.align_corners) == (7, True)

    def test_every_loss_weight_can_be_0_without_an_unused_parameter(self, classifier_class):
        """Distributed training wants a gradient for every parameter that requires one."""
        names = [f"loss_weight_{name}" for name in classifier_class.default_loss_weights]
        features, labels = torch.randn(2, 8, 4, 4), torch.randint(0, 4, (2, 4, 4))
        for chosen in itertools.product([True, False], repeat=len(names)):
            if names and not any(chosen):
                continue
            off = {name: 0.0 for name, on in zip(names, chosen) if not on}
            classifier = classifier_class(8, 4, **off)
            sum(classifier.losses(features, labels).values()).backward()
            unused = [
                n for n, p in classifier.named_parameters() if p.requires_grad and p.grad is None
            ]
            assert unused == []


@pytest.mark.parametrize("classifier_class", [c for c in CLASSIFIERS if c not in WITHOUT_PREDICTOR])
def test_a_predictor_of_another_shape_is_refused(classifier_class):
    with pytest.raises(ValueError, match=r"expected \(4, 8, 1, 1\)"):
        classifier_class(8, 4, predictor=torch.nn.Conv2d(8, 4, 3))


@every_classifier
def test_features_that_are_all_0_are_no_division_by_0(classifier_class):
    features = torch.zeros(1, 8, 3, 3, requires_grad=True)
    classifier = classifier_class(8, 4)
    losses = classifier.losses(features, torch.randint(0, 4, (1, 6, 6)))
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert torch.isfinite(features.grad).all()
    assert torch.isfinite(classifier.eval()(features)).all()


@every_classifier
class TestLossWeights:
    def test_a_weight_of_zero_leaves_a_loss_out(self, classifier_class):
        names = classifier_class.default_loss_weights
        weights = {f"loss_weight_{name}": 0.0 for name in {*names} - {"sem_seg", "refined"}}
        losses = classifier_class(8, 4, **weights).losses(
            torch.randn(1, 8, 6, 6), torch.randint(0, 4, (1, 12, 12))
        )
        assert set(losses) == {"loss_sem_seg"}

    def test_an_unknown_loss_or_a_negative_weight_is_refused(self, classifier_class):
        with pytest.raises(TypeError, match=f"{classifier_class.__name__}.*'loss_weight_of'"):
            classifier_class(8, 4, loss_weight_of=1.0)
        for name in classifier_class.default_loss_weights:
            with pytest.raises(ValueError, match=f"loss_weight_{name} is -1.0"):
                classifier_class(8, 4, **{f"loss_weight_{name}": -1.0})
