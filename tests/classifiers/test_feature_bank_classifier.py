"""FeatureBankClassifier: soft nearest neighbours over a bank of labelled features."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import d2_ctxseg.classifiers.feature_bank as module
from d2_ctxseg.classifiers import CLASSIFIER_REGISTRY, FeatureBankClassifier


def filled(size=40, channels=8, classes=4, seed=0, **options):
    """A bank of random features, shares and weights."""
    generator = torch.Generator().manual_seed(seed)
    classifier = FeatureBankClassifier(channels, classes, **options).eval()
    classifier.fill(
        torch.randn(size, channels, generator=generator),
        torch.rand(size, classes, generator=generator).pow(4).softmax(dim=1),
        torch.rand(size, generator=generator) + 0.1,
    )
    return classifier


def pixel_by_pixel(classifier, features):
    """The formula of the docstring in plain loops: (B, K, h, w)."""
    logits = features.new_zeros(len(features), classifier.num_classes, *features.shape[2:])
    for b, y, x in torch.ones_like(features[:, 0]).nonzero().tolist():
        pixel = features[b, :, y, x] / features[b, :, y, x].norm()
        cosines = [float(pixel @ f) for f in classifier.features]
        nearest = sorted(range(len(cosines)), key=lambda j: -cosines[j])
        nearest = nearest[: classifier.num_neighbors]
        votes = torch.tensor(
            [
                cosines[j] / classifier.temperature
                + classifier.prior * float(classifier.weights[j].log())
                for j in nearest
            ]
        ).softmax(dim=0)
        shares = sum(vote * classifier.shares[j] for vote, j in zip(votes, nearest))
        logits[b, :, y, x] = shares.clamp(min=1e-4).log()
    return logits


class TestVote:
    @settings(max_examples=15, deadline=None)
    @given(
        seed=st.integers(0, 1000),
        neighbors=st.integers(1, 50),
        temperature=st.sampled_from([0.02, 0.5]),
        prior=st.sampled_from([0.0, 0.5, 1.0]),
    )
    def test_is_that_of_the_formula(self, seed, neighbors, temperature, prior):
        """Also if the bank has fewer features than neighbours."""
        options = {"num_neighbors": neighbors, "temperature": temperature, "prior": prior}
        classifier = filled(seed=seed, **options)
        features = torch.randn(2, 8, 2, 3, generator=torch.Generator().manual_seed(seed))
        expected = pixel_by_pixel(classifier, features)
        torch.testing.assert_close(classifier(features), expected, rtol=1e-4, atol=1e-4)

    def test_a_pixel_of_the_bank_has_its_own_class(self):
        classifier = filled(size=30, channels=16)
        classifier.shares.copy_(F.one_hot(torch.arange(30) % 4, 4))
        pixels = 3.0 * classifier.features.T[None, :, :, None]
        assert torch.equal(classifier(pixels).argmax(dim=1).flatten(), torch.arange(30) % 4)

    def test_probabilities_are_the_shares(self):
        logits = filled(num_neighbors=5)(torch.randn(1, 8, 4, 4))
        total = logits.exp().sum(dim=1)
        torch.testing.assert_close(total, torch.ones_like(total), atol=5e-4, rtol=0)

    def test_chunks_change_nothing(self, monkeypatch):
        classifier, features = filled(), torch.randn(2, 8, 5, 7)
        whole = classifier(features), classifier.anomaly_score(features)
        monkeypatch.setitem(module._CHUNK_ELEMENTS, "cpu", 100)  # two pixels at a time
        torch.testing.assert_close(classifier(features), whole[0])
        torch.testing.assert_close(classifier.anomaly_score(features), whole[1])

    def test_frequent_classes_win_with_the_prior_alone(self):
        """Two equal features, one of which represents a hundred times as many pixels."""
        features, shares = torch.ones(2, 3), torch.eye(2)
        for prior, expected in ((0.0, [0.5, 0.5]), (0.5, [1 / 11, 10 / 11]), (1.0, [1 / 101] * 2)):
            classifier = FeatureBankClassifier(3, 2, prior=prior)
            classifier.fill(features, shares, torch.tensor([1.0, 100.0]))
            found = classifier(torch.ones(1, 3, 1, 1)).exp().flatten()
            assert found[0].item() == pytest.approx(expected[0], rel=1e-4)

    def test_in_half_precision_and_under_autocast(self):
        classifier, features = filled(temperature=0.1), torch.randn(1, 8, 3, 3)
        exact = classifier(features)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(classifier(features), exact)
        half = classifier(features.bfloat16())
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, exact, atol=0.5, rtol=0.1)
        double = classifier.double()(features.double())
        assert double.dtype == torch.float64
        torch.testing.assert_close(double.float(), exact, atol=1e-3, rtol=1e-3)


class TestAnomalyScore:
    def test_is_0_in_the_bank_and_grows_with_the_distance(self):
        classifier = filled(size=1, channels=2, num_neighbors=1)
        classifier.fill(torch.tensor([[1.0, 0.0]]), torch.ones(1, 4) / 4, torch.ones(1))
        pixels = torch.tensor([[5.0, 0.0], [1.0, 1.0], [0.0, 2.0], [-1.0, 0.0]])
        scores = classifier.anomaly_score(pixels.T[None, :, :, None]).flatten()
        torch.testing.assert_close(scores, -torch.tensor([1.0, 0.5**0.5, 0.0, -1.0]))

    def test_is_interpolated_to_a_size(self):
        classifier, features = filled(), torch.randn(2, 8, 3, 4)
        assert classifier.anomaly_score(features, (6, 8)).shape == (2, 6, 8)


class TestBank:
    def test_unfilled_prefers_no_class(self):
        logits = FeatureBankClassifier(8, 4, size=10)(torch.randn(1, 8, 2, 2))
        torch.testing.assert_close(logits, torch.full_like(logits, 0.25).log())

    def test_is_saved_with_the_model_and_is_no_parameter(self):
        classifier, features = filled(size=25), torch.randn(1, 8, 2, 2)
        other = FeatureBankClassifier(8, 4, size=25)
        other.load_state_dict(classifier.state_dict())
        assert torch.equal(other(features), classifier(features))
        assert list(classifier.parameters()) == []

    def test_has_one_label_and_weight_a_feature_and_the_channels_of_the_pixels(self):
        classifier = FeatureBankClassifier(8, 4)
        with pytest.raises(ValueError, match="3 features, 2 class shares and 3 weights"):
            classifier.fill(torch.ones(3, 8), torch.ones(2, 4), torch.ones(3))
        with pytest.raises(ValueError, match="at least one"):
            classifier.fill(torch.ones(0, 8), torch.ones(0, 4), torch.ones(0))
        with pytest.raises(ValueError, match="have 7 channels, expected 8"):
            classifier.fill(torch.ones(3, 7), torch.ones(3, 4), torch.ones(3))

    def test_is_not_trained(self):
        with pytest.raises(RuntimeError, match="build-bank fills it"):
            FeatureBankClassifier(8, 4).losses(torch.ones(1, 8, 1, 1), torch.zeros(1, 1, 1))
        assert not FeatureBankClassifier.is_trained
        assert CLASSIFIER_REGISTRY.get("FeatureBankClassifier") is FeatureBankClassifier

    @pytest.mark.parametrize(
        ("option", "value"),
        [("size", 0), ("num_neighbors", 0), ("temperature", 0.0), ("prior", -1.0)],
    )
    def test_options_out_of_range_are_refused(self, option, value):
        with pytest.raises(ValueError, match=f"{option} is {value}"):
            FeatureBankClassifier(8, 4, **{option: value})
