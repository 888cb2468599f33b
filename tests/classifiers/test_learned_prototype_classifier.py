"""The learned prototypes against a class-by-class reference, and against the vanilla classifier."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d2_ctxseg.classifiers import LearnedPrototypeClassifier, LinearClassifier
from d2_ctxseg.losses.functional import segmentation_cross_entropy


def reference_scores(features, weight, score):
    """Class by class and vector by vector, from the formula."""
    classes = []
    for vectors in weight:
        products = [(vector[:, None, None] * features).sum(1) for vector in vectors]
        if score == "max":
            best = products[0]
            for product in products[1:]:
                best = torch.maximum(best, product)
            classes.append(best)
        else:
            classes.append(sum(product.exp() for product in products).log())
    return torch.stack(classes, dim=1)


def classifier_of(classes=4, prototypes=3, channels=8, **options):
    classifier = LearnedPrototypeClassifier(
        channels, classes, num_prototypes=prototypes, **options
    ).double()
    torch.nn.init.normal_(classifier.weight)
    return classifier


@given(
    classes=st.integers(1, 5),
    prototypes=st.integers(1, 4),
    score=st.sampled_from(["max", "logsumexp"]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=30, deadline=None)
def test_scores_are_those_of_the_formula(classes, prototypes, score, seed):
    torch.manual_seed(seed)
    classifier = classifier_of(classes, prototypes, score=score)
    features = torch.randn(2, 8, 3, 4, dtype=torch.float64)
    logits = classifier(features)
    assert logits.shape == (2, classes, 3, 4)
    torch.testing.assert_close(logits, reference_scores(features, classifier.weight, score))


@pytest.mark.parametrize("score", ["max", "logsumexp"])
def test_one_vector_a_class_is_the_vanilla_classifier_without_bias(score):
    classifier = classifier_of(prototypes=1, score=score)
    linear = LinearClassifier(8, 4).double()
    linear.predictor.weight.data = classifier.weight.data.view(4, 8, 1, 1)
    torch.nn.init.zeros_(linear.predictor.bias)
    features = torch.randn(2, 8, 5, 5, dtype=torch.float64)
    labels = torch.randint(0, 4, (2, 10, 10))
    torch.testing.assert_close(classifier(features), linear(features))
    torch.testing.assert_close(classifier.losses(features, labels), linear.losses(features, labels))


def test_neither_score_depends_on_the_order_of_a_class_s_vectors():
    for score in ("max", "logsumexp"):
        classifier = classifier_of(score=score)
        features = torch.randn(1, 8, 3, 3, dtype=torch.float64)
        before = classifier(features)
        classifier.weight.data = classifier.weight.data[:, [2, 0, 1]]
        torch.testing.assert_close(classifier(features), before)


def test_the_sum_lies_above_the_maximum_by_at_most_the_logarithm_of_their_number():
    most = classifier_of(prototypes=5)
    total = classifier_of(prototypes=5, score="logsumexp")
    total.load_state_dict(most.state_dict())
    features = torch.randn(2, 8, 4, 4, dtype=torch.float64)
    above = total(features) - most(features)
    assert (above > 0).all() and (above <= torch.log(torch.tensor(5.0))).all()


class TestGradients:
    def test_equal_those_of_the_formula(self):
        classifier = classifier_of()
        features = torch.randn(2, 8, 3, 3, dtype=torch.float64)
        labels = torch.randint(0, 4, (2, 6, 6))
        labels[0, :2] = 255
        classifier.losses(features, labels)["loss_sem_seg"].backward()
        weight = classifier.weight.detach().clone().requires_grad_()
        logits = reference_scores(features, weight, "max")
        segmentation_cross_entropy(logits, labels).backward()
        torch.testing.assert_close(classifier.weight.grad, weight.grad)

    def test_reach_with_the_maximum_only_vectors_that_are_the_best_somewhere(self):
        classifier = classifier_of(classes=2, prototypes=2)
        classifier.weight.data[:, 1] = -100.0  # never, of features that are positive
        features = torch.rand(1, 8, 4, 4, dtype=torch.float64) + 0.1
        classifier.losses(features, torch.randint(0, 2, (1, 4, 4)))["loss_sem_seg"].backward()
        assert classifier.weight.grad[:, 0].any() and not classifier.weight.grad[:, 1].any()

    def test_reach_all_vectors_with_the_sum(self):
        classifier = classifier_of(score="logsumexp")
        features = torch.randn(1, 8, 4, 4, dtype=torch.float64)
        classifier.losses(features, torch.randint(0, 4, (1, 4, 4)))["loss_sem_seg"].backward()
        assert (classifier.weight.grad != 0).all()


def test_dropout_acts_on_the_features_in_training_only():
    classifier = LearnedPrototypeClassifier(8, 4, dropout=0.5)
    features = torch.randn(1, 8, 3, 3)
    assert not torch.equal(classifier(features), classifier(features))
    classifier.eval()
    assert torch.equal(classifier(features), classifier(features))


def test_the_predictor_of_a_head_is_replaced():
    classifier = LearnedPrototypeClassifier(8, 4, predictor=torch.nn.Conv2d(8, 4, 1))
    assert [(name, tuple(p.shape)) for name, p in classifier.named_parameters()] == [
        ("weight", (4, 10, 8))
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_prototypes": 0}, "num_prototypes is 0, expected 1 or more"),
        ({"score": "mean"}, "score is 'mean', expected one of max, logsumexp"),
    ],
)
def test_meaningless_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LearnedPrototypeClassifier(8, 4, **options)
