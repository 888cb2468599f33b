"""The Gaussian mixtures against the authors' numbers, against plain formulas, and bad batches."""

import itertools
import math
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from test_mixture_density import plain_log_density

from d2_ctxseg.checkpoint import convert_official_state_dict, strip_training_only
from d2_ctxseg.classifiers import GaussianMixtureClassifier
from d2_ctxseg.classifiers.mixture_density import class_log_density, component_log_density
from d2_ctxseg.classifiers.mixture_estimation import fit_components

ROOT = Path(__file__).parents[2]
FIXTURE = np.load(ROOT / "tests" / "fixtures" / "gaussian_mixture.npz")
REFERENCE = runpy.run_path(str(ROOT / "benchmarks" / "reference.py"))


def fixture(name):
    return torch.from_numpy(FIXTURE[name])


def features_and_labels():
    return fixture("input/features"), fixture("input/labels")


def authors_classifier(**options):
    options = {
        "num_components": 3,
        "embedding_channels": None,
        "memory_size": 20,
        "max_samples": 8,
        "mean_momentum": 0.9,
        "scale_momentum": 0.5,
        "sem_seg_divisor": "all",
        **options,
    }
    classifier = GaussianMixtureClassifier(16, 6, **options)
    state = {key[6:]: fixture(key) for key in FIXTURE.files if key.startswith("state/")}
    classifier.load_state_dict(convert_official_state_dict(state, "gmmseg"))
    return classifier


def assert_near(actual, name, atol=1e-5):
    torch.testing.assert_close(actual, fixture(f"output/{name}"), atol=atol, rtol=1e-5)


class TestParityWithTheAuthorsCode:
    def test_embeddings_densities_and_logits(self):
        classifier, (features, _) = authors_classifier().eval(), features_and_labels()
        embeddings = classifier.embed(features)
        assert_near(embeddings, "embeddings")
        density = component_log_density(embeddings, *classifier.mixtures())
        assert_near(density, "component_log_density")
        assert_near(classifier.class_log_density(features), "class_log_density")
        assert_near(classifier(features), "logits")

    def test_assignment(self):
        classifier, (features, labels) = authors_classifier(), features_and_labels()
        small = F.interpolate(labels[:, None].float(), size=(12, 14)).long().flatten()
        assert torch.equal(small.view(2, 12, 14), fixture("output/labels_small"))
        valid = small != 255
        classes = small.where(valid, 0)
        density = component_log_density(classifier.embed(features), *classifier.mixtures())
        own = density[torch.arange(len(classes)), classes]
        plan = classifier.assign(own, classes, valid)
        assert_near(plan.exp().where(valid[:, None], 0), "sinkhorn_plan")
        targets = (classes * 3 + plan.argmax(dim=1)).where(valid, -1)
        assert torch.equal(targets, fixture("output/target"))
        correct = classifier(features).argmax(dim=1) == small.view(2, 12, 14)
        assert torch.equal(correct, fixture("output/correct"))

    @pytest.mark.parametrize(
        ("divisor", "ce", "grad"),
        [("all", "ce", "grad_features"), ("labelled", "ce_valid_mean", "grad_features_valid_mean")],
    )
    def test_losses_and_gradient(self, divisor, ce, grad):
        classifier, (features, labels) = (
            authors_classifier(sem_seg_divisor=divisor),
            features_and_labels(),
        )
        features.requires_grad_()
        losses = classifier.losses(features, labels)
        assert_near(losses["loss_sem_seg"], ce)
        assert_near(losses["loss_contrast"], "contrast_weighted", atol=1e-7)
        sum(losses.values()).backward()
        assert_near(features.grad, grad, atol=1e-8)

    def test_two_steps(self):
        """The first fits the mixtures, the second fills the memory only."""
        classifier, batch = authors_classifier(), features_and_labels()
        assert_near(sum(classifier.losses(*batch).values()), "total")
        assert_near(classifier.means, "updated_means", atol=1e-6)
        assert_near(classifier.scales, "updated_diagonal", atol=1e-6)
        assert_near(classifier.memory.samples, "updated_queue")
        assert torch.equal(classifier.memory.pointers, fixture("output/updated_queue_ptr"))
        assert classifier.memory.steps == fixture("output/updated_iteration_counter")
        assert_near(sum(classifier.losses(*batch).values()), "step2_total")
        assert_near(classifier.means, "step2_means", atol=1e-6)
        assert_near(classifier.scales, "step2_diagonal", atol=1e-6)
        assert_near(classifier.memory.samples, "step2_queue")
        assert torch.equal(classifier.memory.pointers, fixture("output/step2_queue_ptr"))

    def test_anomaly(self):
        classifier, (features, labels) = authors_classifier().eval(), features_and_labels()
        assert_near(classifier.anomaly_score(features), "anomaly_density")
        size = labels.shape[-2:]
        assert_near(classifier.anomaly_score(features, size), "anomaly_density_full")
        logits = classifier(features)
        assert_near(-logits.amax(dim=1), "anomaly_logit")
        full = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        assert_near(-full.amax(dim=1), "anomaly_logit_full")


class TestAgainstALoopOverClasses:
    @given(
        seed=st.integers(0, 1000),
        num_classes=st.integers(1, 9),
        num_components=st.integers(1, 5),
        channels=st.sampled_from([8, 16]),
        memory_size=st.integers(6, 40),
        refit_interval=st.integers(1, 3),
        ignored=st.floats(0, 0.95),
    )
    @settings(max_examples=20, deadline=None)
    def test_some_steps(
        self, seed, num_classes, num_components, channels, memory_size, refit_interval, ignored
    ):
        """Absent classes, images that are wholly ignored, memories that run full."""
        torch.manual_seed(seed)
        options = {
            "num_components": num_components,
            "embedding_channels": channels,
            "memory_size": memory_size,
            "max_samples": 6,
            "mean_momentum": 0.7,
            "scale_momentum": 0.4,
            "refit_interval": refit_interval,
        }
        classifier = GaussianMixtureClassifier(8, num_classes, **options)
        reference = REFERENCE["ClassByClassGaussianMixture"](8, num_classes, **options)
        reference.load_state_dict(classifier.state_dict())
        generator = torch.Generator().manual_seed(seed)
        for _ in range(4):
            features = torch.randn(2, 8, 7, 6, generator=generator)
            labels = torch.randint(0, num_classes, (2, 14, 12), generator=generator)
            labels[torch.rand(labels.shape, generator=generator) < ignored] = 255
            labels[1] = 255 if seed % 2 else labels[1]
            labels[0, 0, 0] = 0
            torch.testing.assert_close(
                classifier.losses(features, labels),
                reference.losses(features, labels),
                rtol=1e-4,
                atol=1e-5,
            )
            torch.testing.assert_close(
                classifier.state_dict(), reference.state_dict(), rtol=1e-4, atol=1e-5
            )


def plain_sinkhorn_assignment(density):
    """(n, M) densities of the pixels of one class to the component of each (n,)."""
    plan = (density / density.abs().max() / 0.05).exp()
    for _ in range(3):
        plan = plan / plan.sum(dim=0, keepdim=True)
        plan = plan / plan.sum(dim=1, keepdim=True)
    return plan.argmax(dim=1)


def make_batch(num_classes=4, shape=(2, 8, 6, 6), seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(shape, generator=generator)
    labels = torch.randint(0, num_classes, (shape[0], *shape[2:]), generator=generator)
    return features, labels


def state_of(classifier):
    return {key: value.clone() for key, value in classifier.state_dict().items()}


def assert_unchanged(classifier, before, but=()):
    for key, value in classifier.state_dict().items():
        assert key in but or torch.equal(value, before[key]), key


class TestFitting:
    def test_stays_in_eval_mode(self):
        classifier = GaussianMixtureClassifier(8, 4).eval()
        before, batch = state_of(classifier), make_batch()
        first = classifier.losses(*batch), classifier(batch[0])
        second = classifier.losses(*batch), classifier(batch[0])
        assert_unchanged(classifier, before)
        torch.testing.assert_close(first, second, rtol=0, atol=0)

    def test_prediction_takes_means_of_unit_length_and_writes_nothing(self):
        classifier = GaussianMixtureClassifier(8, 4).double().eval()
        features = make_batch()[0].double()
        expected = classifier(features)
        classifier.means.mul_(0.3)
        before = state_of(classifier)
        torch.testing.assert_close(classifier(features), expected)
        assert_unchanged(classifier, before)

    def test_of_an_absent_class_stays(self):
        classifier = GaussianMixtureClassifier(8, 4, mean_momentum=0.5, embedding_channels=None)
        before = state_of(classifier)
        classifier.losses(*make_batch(num_classes=2))
        torch.testing.assert_close(classifier.means[2:], before["means"][2:])
        assert torch.equal(classifier.scales[2:], before["scales"][2:])
        assert (classifier.scales[:2] != 1).all()
        assert not torch.allclose(classifier.means[:2], before["means"][:2])

    def test_without_a_labelled_pixel_changes_nothing(self):
        classifier = GaussianMixtureClassifier(8, 4, embedding_channels=None)
        classifier.losses(*make_batch())
        before = state_of(classifier)
        losses = classifier.losses(make_batch()[0], torch.full((2, 6, 6), 255))
        assert all(loss == 0 for loss in losses.values())
        assert_unchanged(classifier, before, but=["memory.steps"])

    @pytest.mark.parametrize("memory_size", [0, 30])
    def test_an_overflow_in_half_precision_changes_nothing(self, memory_size):
        classifier = GaussianMixtureClassifier(
            8, 4, embedding_channels=None, memory_size=memory_size
        )
        before, (features, labels) = state_of(classifier), make_batch()
        features[0, 0, 0, 0] = float("inf")
        classifier.losses(features, labels)
        assert_unchanged(classifier, before, but=["memory.steps"])

    def test_only_pixels_that_are_classified_correctly_count_unless_all_shall(self):
        features, labels = make_batch()
        options = {"embedding_channels": None, "max_samples": 72}
        for only_correct in (True, False):
            classifier = GaussianMixtureClassifier(8, 4, only_correct=only_correct, **options)
            correct = classifier(features).argmax(dim=1) == labels
            assert 0 < correct.sum() < labels.numel()
            classifier.losses(features, labels)
            expected = correct.sum() if only_correct else labels.numel()
            assert classifier.memory.pointers.sum() == expected

    def test_a_memory_takes_no_more_samples_than_it_holds(self):
        classifier = GaussianMixtureClassifier(
            8, 1, num_components=1, embedding_channels=None, memory_size=7, max_samples=20
        )
        features, labels = make_batch(num_classes=1)
        embeddings = classifier.embed(features)
        classifier.losses(features, labels)
        index = torch.linspace(0, 71, 7, dtype=torch.int64)
        torch.testing.assert_close(classifier.memory.samples[0].T, embeddings[index].detach())
        assert classifier.memory.pointers == 0

    def test_more_than_255_components_are_no_ignored_label(self):
        """Class 51 has components 255 to 259."""
        options = {"embedding_channels": None, "only_correct": False, "loss_weight_contrast": 1.0}
        classifier = GaussianMixtureClassifier(8, 60, **options)
        features, labels = torch.randn(1, 8, 20, 20), torch.full((1, 20, 20), 51)
        density = component_log_density(classifier.embed(features), *classifier.mixtures())
        assigned = plain_sinkhorn_assignment(density[:, 51])
        expected = F.cross_entropy(density.flatten(1), 255 + assigned)
        losses = classifier.losses(features, labels)
        torch.testing.assert_close(losses["loss_contrast"], expected)
        assert (classifier.memory.pointers[255:260] == 20).all()

    def test_a_checkpoint_brings_everything_back(self, tmp_path):
        options = {"embedding_channels": None, "memory_size": 30, "refit_interval": 3}
        classifier = GaussianMixtureClassifier(8, 4, **options)
        for seed in range(2):
            classifier.losses(*make_batch(seed=seed))
        torch.save(classifier.state_dict(), tmp_path / "weights.pth")
        other = GaussianMixtureClassifier(8, 4, **options)
        other.load_state_dict(torch.load(tmp_path / "weights.pth", weights_only=True))
        for seed in range(2, 5):  # step 3 fits again
            classifier.losses(*make_batch(seed=seed))
            other.losses(*make_batch(seed=seed))
        torch.testing.assert_close(other.state_dict(), classifier.state_dict(), rtol=0, atol=0)

    def test_a_new_classifier_fits_at_its_first_step(self):
        """Then all scales are those of random unit vectors: about sqrt(2 / D + 0.01)."""
        classifier = GaussianMixtureClassifier(64, 2, memory_size=2000)
        classifier.losses(*make_batch(num_classes=2, shape=(2, 64, 6, 6)))
        expected = torch.full((), math.sqrt(2 / 64 + 0.01))
        torch.testing.assert_close(classifier.scales.mean(), expected, atol=0.01, rtol=0)


class TestMemory:
    def test_is_not_in_a_stripped_classifier_which_predicts_as_before(self):
        classifier = GaussianMixtureClassifier(8, 4).eval()
        features, _ = make_batch()
        expected = classifier(features), classifier.anomaly_score(features)
        assert strip_training_only(classifier) == ["memory"]
        assert not any(key.startswith("memory") for key in classifier.state_dict())
        actual = classifier(features), classifier.anomaly_score(features)
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)

    def test_is_bounded_and_its_size_stands_in_the_printed_model(self):
        classifier = GaussianMixtureClassifier(512, 150)
        assert classifier.memory.samples.nbytes == 4 * 150 * 5 * 64 * 1000
        assert "750 components x 64 channels x 1000, 183.1 MiB" in repr(classifier)

    def test_starts_alike_on_all_workers_for_any_seeds(self):
        torch.manual_seed(1)
        first = GaussianMixtureClassifier(8, 4)
        torch.manual_seed(2)
        second = GaussianMixtureClassifier(8, 4)
        assert torch.equal(first.memory.samples, second.memory.samples)

    def test_does_not_grow_with_the_parameters(self):
        def parameters(**options):
            with torch.device("meta"):  # a memory of 1 GB
                classifier = GaussianMixtureClassifier(768, **options)
            return sum(p.numel() for p in classifier.parameters())

        # The projection, its norm, and the two LayerNorms.
        expected = 768 * 64 + 2 * 64 + 2 * 64 + 2 * 150
        assert parameters(num_classes=150) == expected
        assert parameters(num_classes=150, num_components=10) == expected
        assert parameters(num_classes=847) == expected + 2 * (847 - 150)


class TestOptions:
    """Each against what it means."""

    def fitted(self, batch=None, **options):
        """A classifier of one class and one component after a step, with its embeddings."""
        classifier = GaussianMixtureClassifier(
            8, 1, num_components=1, embedding_channels=None, memory_size=0, **options
        )
        features, labels = batch or make_batch(num_classes=1)
        embeddings = classifier.embed(features).detach()
        before = state_of(classifier)
        classifier.losses(features, labels)
        return classifier, embeddings, before

    def test_without_a_memory_the_pixels_of_the_batch_are_fitted(self):
        classifier, embeddings, _ = self.fitted(max_samples=100, mean_momentum=0.0)
        mean = F.normalize(embeddings.sum(dim=0), dim=0)
        spread = (embeddings - mean).square().mean(dim=0)
        torch.testing.assert_close(classifier.means[0, 0], mean)
        torch.testing.assert_close(classifier.scales[0, 0], (spread + 0.01).sqrt())

    def test_without_a_memory_a_component_without_a_pixel_keeps_what_it_has(self):
        classifier = GaussianMixtureClassifier(
            8, 2, num_components=4, embedding_channels=None, memory_size=0, mean_momentum=0.5
        )
        before = state_of(classifier)
        features, labels = make_batch(num_classes=1, shape=(1, 8, 1, 1))
        classifier.losses(features, labels)  # one pixel, of one component at most
        changed = (classifier.scales != before["scales"]).any(dim=2)
        assert changed.sum() <= 1
        torch.testing.assert_close(classifier.means[~changed], before["means"][~changed])

    def test_momenta(self):
        momenta = {"mean_momentum": 0.3, "scale_momentum": 0.6}
        moved, embeddings, before = self.fitted(max_samples=100, **momenta)
        direction, variance = fit_components(embeddings.T[None])
        old = F.normalize(before["means"], dim=2)
        torch.testing.assert_close(moved.means, 0.3 * old + 0.7 * direction)
        torch.testing.assert_close(moved.scales, 0.6 + 0.4 * (variance + 0.01).sqrt()[None])

    @pytest.mark.parametrize("covariance", ["spherical", "fixed"])
    def test_covariance(self, covariance):
        classifier, embeddings, _ = self.fitted(max_samples=100, covariance=covariance)
        _, variance = fit_components(embeddings.T[None])
        expected = (variance.mean() + 0.01).sqrt() if covariance == "spherical" else torch.ones(())
        torch.testing.assert_close(classifier.scales, expected.expand_as(classifier.scales))

    @pytest.mark.parametrize("e_step", ["sinkhorn_soft", "posterior"])
    def test_soft_e_steps_weigh_the_pixels(self, e_step):
        classifier = GaussianMixtureClassifier(
            8,
            2,
            num_components=3,
            embedding_channels=None,
            memory_size=0,
            max_samples=100,
            mean_momentum=0.0,
            e_step=e_step,
            only_correct=False,
        )
        features, labels = make_batch(num_classes=2)
        embeddings, flat = classifier.embed(features).detach(), labels.flatten()
        density = component_log_density(embeddings, *classifier.mixtures())
        own = density[torch.arange(len(flat)), flat]
        plan = classifier.assign(own, flat, torch.ones_like(flat, dtype=torch.bool)).exp()
        classifier.losses(features, labels)
        for k, m in itertools.product(range(2), range(3)):
            weights = plan[flat == k, m]
            pixels = embeddings[flat == k]
            mean = F.normalize((weights[:, None] * pixels).sum(dim=0), dim=0)
            spread = (weights[:, None] * (pixels - mean).square()).sum(dim=0) / weights.sum()
            torch.testing.assert_close(classifier.means[k, m], mean)
            torch.testing.assert_close(classifier.scales[k, m], (spread + 0.01).sqrt())

    @pytest.mark.parametrize("e_step", ["sinkhorn_soft", "posterior"])
    def test_soft_e_steps_keep_the_weights_beside_the_memory(self, e_step):
        classifier = GaussianMixtureClassifier(
            8, 2, num_components=4, embedding_channels=None, memory_size=50, e_step=e_step
        )
        assert (classifier.memory.weights == 0.25).all()
        classifier.losses(*make_batch(num_classes=2))
        memory = classifier.memory
        # All components of a class get the same pixels, whose weights add up to 1.
        of_class = memory.samples.unflatten(0, (2, 4))
        count = int(memory.pointers[0])
        assert count == memory.pointers[1] > 0
        assert torch.equal(of_class[0, 0, :, :count], of_class[0, 3, :, :count])
        total = memory.weights.unflatten(0, (2, 4)).sum(dim=1)
        torch.testing.assert_close(total, torch.ones_like(total))

    def test_refit_interval(self):
        classifier = GaussianMixtureClassifier(8, 4, embedding_channels=None, refit_interval=3)
        changes = []
        for seed in range(5):
            before = classifier.scales.clone()
            classifier.losses(*make_batch(seed=seed))
            changes.append(not torch.equal(before, classifier.scales))
        assert changes == [True, False, False, True, False]

    def test_class_score_and_score_norm(self):
        features, _ = make_batch()
        usual = GaussianMixtureClassifier(8, 4, embedding_channels=None)
        for class_score, score_norm in itertools.product(("max", "logsumexp"), (True, False)):
            classifier = GaussianMixtureClassifier(
                8,
                4,
                embedding_channels=None,
                class_score=class_score,
                score_norm=score_norm,
            )
            classifier.load_state_dict(usual.state_dict(), strict=False)
            density = plain_log_density(usual.embed(features), *usual.mixtures())
            expected = class_log_density(density, class_score)
            if score_norm:
                expected = F.layer_norm(expected, (4,))
            expected = expected.T.reshape(4, 2, 6, 6).transpose(0, 1)
            torch.testing.assert_close(classifier(features), expected, atol=1e-4, rtol=1e-4)

    def test_embedding(self):
        assert isinstance(GaussianMixtureClassifier(64, 4).projection, torch.nn.Identity)
        own = GaussianMixtureClassifier(8, 4, embedding_channels=None)
        assert isinstance(own.projection, torch.nn.Identity)
        embeddings = GaussianMixtureClassifier(8, 4, embedding_channels=12).embed(make_batch()[0])
        assert embeddings.shape == (72, 12)
        torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(72))

    def test_sem_seg_divisor(self):
        features, labels = make_batch()
        labels[0] = 255
        valid, every = (
            GaussianMixtureClassifier(8, 4, sem_seg_divisor=divisor).eval()
            for divisor in ("labelled", "all")
        )
        every.load_state_dict(valid.state_dict())
        first, second = valid.losses(features, labels), every.losses(features, labels)
        torch.testing.assert_close(second["loss_sem_seg"], first["loss_sem_seg"] / 2)
        torch.testing.assert_close(second["loss_contrast"], first["loss_contrast"])

    @pytest.mark.parametrize("covariance", ["diagonal", "spherical", "fixed"])
    def test_means_and_scales_can_be_trained_instead(self, covariance):
        classifier = GaussianMixtureClassifier(
            8, 4, embedding_channels=None, learning="gradient", covariance=covariance
        )
        assert classifier.memory is None
        scales = {"diagonal": 8, "spherical": 1, "fixed": 0}[covariance]
        count = sum(p.numel() for p in classifier.parameters())
        assert count == 4 * 5 * (8 + scales) + 2 * 8 + 2 * 4
        optimizer = torch.optim.SGD(classifier.parameters(), lr=0.5)
        batch, totals = make_batch(), []
        for _ in range(20):
            total = sum(classifier.losses(*batch).values())
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            totals.append(total.item())
        assert all(p.grad is not None for p in classifier.parameters())
        assert totals[-1] < totals[0]
        assert (classifier.mixtures()[1] > 0).all()

    def test_losses_fall_where_mixtures_are_fitted(self):
        """The training loop: four classes that are linearly separable in the features."""
        torch.manual_seed(3)
        classifier = GaussianMixtureClassifier(
            8, 4, num_components=2, memory_size=50, mean_momentum=0.5
        )
        optimizer = torch.optim.Adam(classifier.parameters(), lr=0.01)
        accuracy = []
        for seed in range(60):
            features, labels = make_batch(seed=seed, shape=(2, 8, 8, 8))
            features = features + 2 * F.one_hot(labels, 8).movedim(3, 1)
            correct = classifier(features).argmax(dim=1) == labels
            accuracy.append(correct.float().mean().item())
            optimizer.zero_grad()
            sum(classifier.losses(features, labels).values()).backward()
            optimizer.step()
        assert sum(accuracy[-5:]) / 5 > 0.8 > sum(accuracy[:5]) / 5


class TestAnomalyScore:
    def test_is_minus_the_largest_density(self):
        classifier = GaussianMixtureClassifier(8, 4).eval()
        features, _ = make_batch()
        score = classifier.anomaly_score(features)
        assert score.shape == (2, 6, 6)
        assert torch.equal(score, -classifier.class_log_density(features).amax(dim=1))

    def test_grows_with_the_distance_from_all_means(self):
        classifier = GaussianMixtureClassifier(8, 2, embedding_channels=None).eval()
        classifier.scales.fill_(0.2)
        near, far = classifier.means[1, 0], -classifier.means.sum(dim=(0, 1))
        features = torch.stack([near, far])[..., None, None]
        classifier.feature_norm = torch.nn.Identity()
        low, high = classifier.anomaly_score(features).flatten()
        assert high > low + 1

    def test_is_computed_in_single_precision_under_autocast(self):
        classifier = GaussianMixtureClassifier(8, 4, embedding_channels=None).eval()
        features, _ = make_batch()
        expected = classifier.anomaly_score(features)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            actual = classifier.anomaly_score(features)
        assert actual.dtype == torch.float32
        torch.testing.assert_close(actual, expected, atol=0.05, rtol=0)


class TestGradientAccumulation:
    options = {"num_components": 1, "embedding_channels": None, "memory_size": 30}

    def batches(self):
        return [make_batch(seed=seed, shape=(1, 8, 6, 6)) for seed in range(2)]

    def test_mixtures_move_once_a_step_and_all_batches_see_the_old_ones(self):
        classifier = GaussianMixtureClassifier(8, 4, **self.options)
        classifier.accumulation_steps = 2
        before = state_of(classifier)
        first, second = self.batches()
        classifier.losses(*first)
        assert_unchanged(classifier, before)
        classifier.losses(*second)
        assert classifier.memory.steps == 1
        after = state_of(classifier)
        assert not torch.equal(after["means"], before["means"])
        classifier.losses(*first)
        assert_unchanged(classifier, after)

    def test_the_step_is_that_of_the_pixels_of_all_batches(self):
        """One component a class: no clustering, so that one step of the joined batch is equal."""
        accumulated = GaussianMixtureClassifier(8, 4, **self.options)
        accumulated.accumulation_steps = 2
        joined = GaussianMixtureClassifier(8, 4, **self.options)
        joined.load_state_dict(accumulated.state_dict())
        for batch in self.batches():
            accumulated.losses(*batch)
        joined.losses(*(torch.cat(parts) for parts in zip(*self.batches())))
        torch.testing.assert_close(accumulated.state_dict(), joined.state_dict())


class TestBadOptions:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"class_score": "sum"}, "class_score is 'sum', expected one of max, logsumexp"),
            ({"e_step": "hard"}, "expected one of sinkhorn, sinkhorn_soft, posterior"),
            ({"covariance": "full"}, "expected one of diagonal, spherical, fixed"),
            ({"learning": "sgd"}, "learning is 'sgd', expected one of em, gradient"),
            ({"sem_seg_divisor": "any"}, "expected one of labelled, all"),
            ({"mean_momentum": 1.5}, "mean_momentum is 1.5, expected 0 to 1"),
            ({"scale_momentum": -0.1}, "scale_momentum is -0.1, expected 0 to 1"),
            ({"num_components": 0}, "num_components is 0, expected a number above 0"),
            ({"embedding_channels": 0}, "embedding_channels is 0, expected a number above 0"),
            ({"max_samples": 0}, "max_samples is 0, expected a number above 0"),
            ({"refit_interval": 0}, "refit_interval is 0, expected a number above 0"),
            ({"memory_size": -1}, "memory_size is -1, expected at least 0"),
        ],
    )
    def test_are_reported(self, options, message):
        with pytest.raises(ValueError, match=message):
            GaussianMixtureClassifier(8, 4, **options)
