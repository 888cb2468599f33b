"""The prototype classifier against the authors' numbers, class-by-class references, bad batches."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from d2_ctxseg.classifiers import PrototypeClassifier
from d2_ctxseg.classifiers.chunked_similarity import (
    chunked_class_scores,
    chunked_prototype_similarity,
)
from d2_ctxseg.classifiers.clustering import sinkhorn_log_plan
from d2_ctxseg.classifiers.prototype_similarity import (
    DISTANCES,
    class_scores,
    prototype_similarity,
    similarities,
)
from d2_ctxseg.losses.functional import segmentation_cross_entropy

FIXTURE = np.load(Path(__file__).parents[1] / "fixtures" / "prototype.npz")


def fixture(name):
    return torch.from_numpy(FIXTURE[name])


def authors_classifier(**options):
    options = {"momentum": 0.9, "assignment": "argmax", "num_prototypes": 4, **options}
    classifier = PrototypeClassifier(16, 6, **options)
    names = {"feat_norm": "feature_norm", "mask_norm": "score_norm", "prototypes": "prototypes"}
    state = {}
    for key in FIXTURE.files:
        if key.startswith("state/"):
            module, _, rest = key.removeprefix("state/").partition(".")
            state[f"{names[module]}.{rest}".rstrip(".")] = fixture(key)
    classifier.load_state_dict(state)
    return classifier


class TestParityWithTheAuthorsCode:
    def test_logits(self):
        logits = authors_classifier().eval()(fixture("input/features"))
        torch.testing.assert_close(logits, fixture("output/logits"), atol=1e-4, rtol=0)

    @pytest.mark.parametrize("align_corners", [False, True])
    def test_losses(self, align_corners):
        classifier = authors_classifier(
            align_corners=align_corners, loss_weight_ppc=1.0, loss_weight_ppd=1.0
        )
        losses = classifier.losses(fixture("input/features"), fixture("input/labels"))
        expected = {
            "loss_sem_seg": fixture(f"output/ce_align_corners_{str(align_corners).lower()}"),
            "loss_ppc": fixture("output/ppc"),
            "loss_ppd": fixture("output/ppd"),
        }
        torch.testing.assert_close(losses, expected, rtol=1e-5, atol=0)

    def test_similarities_and_targets(self):
        classifier = authors_classifier()
        labels = F.interpolate(fixture("input/labels")[:, None].float(), size=(12, 14)).long()
        labels = labels.flatten()
        valid = labels != 255
        labels = labels.where(valid, 0)
        prototypes = F.normalize(classifier.prototypes, dim=2)
        embeddings = classifier.embed(fixture("input/features"))
        all_similarities = fixture("output/pixel_prototype_similarity")
        torch.testing.assert_close(
            embeddings @ prototypes.flatten(0, 1).T, all_similarities, atol=1e-5, rtol=0
        )
        of_own_class = prototype_similarity(embeddings, prototypes, labels).of_own_class
        assignment = classifier.assign(of_own_class, labels, valid)
        targets = (labels * 4 + assignment.prototype).where(valid, -1)
        assert torch.equal(targets, fixture("output/pixel_prototype_target"))

    def test_updated_prototypes(self):
        classifier = authors_classifier()
        classifier.losses(fixture("input/features"), fixture("input/labels"))
        expected = fixture("output/updated_prototypes")
        torch.testing.assert_close(classifier.prototypes, expected, atol=1e-6, rtol=0)


def plain_sinkhorn(similarity, epsilon, iterations):
    """The transport plan of one class, in the probability domain."""
    plan = (similarity.double() / epsilon).exp().T
    plan /= plan.sum()
    for _ in range(iterations):
        plan /= plan.sum(dim=1, keepdim=True) * plan.shape[0]
        plan /= plan.sum(dim=0, keepdim=True) * plan.shape[1]
    return (plan * plan.shape[1]).T


class TestClustering:
    def test_all_classes_at_once_equal_class_by_class(self):
        similarity = torch.rand(60, 4, dtype=torch.float64) * 2 - 1
        segments = torch.randint(0, 5, (60,))
        segments[segments == 3] = 2
        plan = sinkhorn_log_plan(similarity, segments, 5, epsilon=0.05, iterations=3).exp()
        for k in segments.unique():
            expected = plain_sinkhorn(similarity[segments == k], 0.05, 3)
            torch.testing.assert_close(plan[segments == k], expected)

    def test_many_iterations_give_every_prototype_the_same_mass(self):
        similarity, segments = torch.rand(90, 3), torch.arange(90) % 2
        plan = sinkhorn_log_plan(similarity, segments, 2, epsilon=0.5, iterations=100).exp()
        for k in (0, 1):
            mass = plan[segments == k].sum(dim=0)
            torch.testing.assert_close(mass, torch.full((3,), 15.0), rtol=1e-3, atol=0)

    @pytest.mark.parametrize("epsilon", [1e-6, 1e-3, 1e3])
    def test_no_epsilon_overflows(self, epsilon):
        similarity, segments = torch.rand(50, 4) * 2 - 1, torch.zeros(50, dtype=torch.long)
        plan = sinkhorn_log_plan(similarity, segments, 2, epsilon=epsilon).exp()
        torch.testing.assert_close(plan.sum(dim=1), torch.ones(50))

    def test_a_class_of_one_pixel(self):
        plan = sinkhorn_log_plan(torch.tensor([[0.1, 0.9, 0.3]]), torch.tensor([1]), 3).exp()
        torch.testing.assert_close(plan.sum(), torch.tensor(1.0))

    @pytest.mark.slow
    def test_a_class_of_a_million_pixels(self):
        similarity, segments = torch.rand(2**20, 4), torch.zeros(2**20, dtype=torch.long)
        mass = sinkhorn_log_plan(similarity, segments, 2, epsilon=0.5, iterations=50).exp().sum(0)
        torch.testing.assert_close(mass, torch.full((4,), 2.0**18), rtol=1e-2, atol=0)


def unit_vectors(*shape, dtype=torch.float32):
    return F.normalize(torch.randn(*shape, dtype=dtype), dim=-1)


@pytest.mark.parametrize("distance", DISTANCES)
class TestSimilarity:
    def test_values_and_gradients_in_chunks_equal_the_equations(self, distance, monkeypatch):
        monkeypatch.setattr("d2_ctxseg.classifiers.chunked_similarity._CHUNK_ELEMENTS", {"cpu": 99})
        monkeypatch.setattr("d2_ctxseg.classifiers.chunked_similarity._MIN_CHUNK_PIXELS", 1)
        embeddings = unit_vectors(40, 8, dtype=torch.float64).requires_grad_()
        prototypes = unit_vectors(5, 3, 8, dtype=torch.float64)
        labels = torch.randint(0, 5, (40,))
        options = {"distance": distance, "temperature": 0.1}
        result = chunked_prototype_similarity(embeddings, prototypes, labels, **options)
        expected = prototype_similarity(embeddings, prototypes, labels, **options)
        weights = [torch.randn_like(part) for part in expected]
        gradients = []
        for parts in (result, expected):
            total = sum((weight * part).sum() for weight, part in zip(weights, parts))
            gradients.append(torch.autograd.grad(total, embeddings)[0])
        torch.testing.assert_close(result, expected)
        torch.testing.assert_close(*gradients)
        scores = chunked_class_scores(embeddings, prototypes, distance)
        torch.testing.assert_close(scores, expected.class_scores)

    def test_gradient(self, distance):
        prototypes, labels = unit_vectors(3, 2, 4, dtype=torch.float64), torch.tensor([0, 2, 1, 2])

        def function(embeddings):
            return tuple(
                chunked_prototype_similarity(embeddings, prototypes, labels, distance=distance)
            )

        embeddings = unit_vectors(4, 4, dtype=torch.float64).requires_grad_()
        assert torch.autograd.gradcheck(function, embeddings)

    def test_the_prototype_itself_is_the_most_similar(self, distance):
        prototypes = unit_vectors(4, 3, 8)
        scores = class_scores(similarities(prototypes[:, 1], prototypes, distance))
        assert torch.equal(scores.argmax(dim=1), torch.arange(4))
        assert torch.isfinite(scores).all()


class TestLosses:
    def test_gradient_of_all_losses(self):
        classifier = PrototypeClassifier(6, 3, num_prototypes=2).double().eval()
        labels = torch.randint(0, 3, (1, 6, 6))

        def total(features):
            return sum(classifier.losses(features, labels).values())

        features = torch.randn(1, 6, 3, 3, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(total, features)

    def test_ignored_pixels_do_not_count(self):
        classifier = PrototypeClassifier(6, 3).eval()
        features, labels = torch.randn(1, 6, 2, 4), torch.tensor([[[0, 1, 255, 255]] * 2])
        losses = classifier.losses(features, labels)
        features[..., 2:] = 100 * torch.randn(1, 6, 2, 2)
        torch.testing.assert_close(classifier.losses(features, labels), losses)

    def test_more_than_255_prototypes(self):
        """With K * M above 255 the number of a prototype may be that of the ignore label."""
        classifier = PrototypeClassifier(8, 40, num_prototypes=10, loss_weight_ppc=1.0).eval()
        labels = torch.full((1, 4, 4), 25)
        features = torch.randn(1, 8, 4, 4)
        prototypes = classifier.prototypes
        similarity = classifier.embed(features) @ prototypes.flatten(0, 1).T
        plan = plain_sinkhorn(similarity[:, 250:260], 0.05, 3)
        expected = F.cross_entropy(similarity, 250 + plan.argmax(dim=1))
        assert 255 in 250 + plan.argmax(dim=1)
        torch.testing.assert_close(classifier.losses(features, labels)["loss_ppc"], expected)

    def test_weights(self):
        classifier = PrototypeClassifier(8, 4, loss_weight_ppd=0.0).eval()
        plain = PrototypeClassifier(8, 4, loss_weight_ppc=1.0, loss_weight_ppd=1.0).eval()
        plain.load_state_dict(classifier.state_dict())
        features, labels = torch.randn(2, 8, 4, 4), torch.randint(0, 4, (2, 4, 4))
        losses, unweighted = classifier.losses(features, labels), plain.losses(features, labels)
        assert set(losses) == {"loss_sem_seg", "loss_ppc"}
        torch.testing.assert_close(losses["loss_ppc"], 0.01 * unweighted["loss_ppc"])
        torch.testing.assert_close(losses["loss_sem_seg"], unweighted["loss_sem_seg"])

    def test_temperature_divides_the_similarities_of_the_contrast(self):
        classifier = PrototypeClassifier(
            8, 4, num_prototypes=1, temperature=0.1, loss_weight_ppc=1.0
        ).eval()
        features, labels = torch.randn(2, 8, 4, 4), torch.randint(0, 4, (2, 4, 4))
        similarity = classifier.embed(features) @ classifier.prototypes[:, 0].T
        expected = F.cross_entropy(similarity / 0.1, labels.flatten())
        torch.testing.assert_close(classifier.losses(features, labels)["loss_ppc"], expected)

    def test_cross_entropy_is_that_of_the_logits(self):
        classifier = PrototypeClassifier(8, 4).eval()
        features, labels = torch.randn(2, 8, 4, 4), torch.randint(0, 4, (2, 9, 9))
        expected = segmentation_cross_entropy(classifier(features), labels)
        torch.testing.assert_close(classifier.losses(features, labels)["loss_sem_seg"], expected)

    @pytest.mark.parametrize("distance", DISTANCES)
    @pytest.mark.parametrize("projection", [False, True])
    def test_options_train(self, distance, projection):
        """Gradient descent on one image decreases the loss with every option."""
        classifier = PrototypeClassifier(
            8, 3, distance=distance, projection=projection, momentum=0.9
        )
        features = torch.nn.Parameter(torch.randn(1, 8, 6, 6))
        labels = torch.randint(0, 3, (1, 6, 6))
        optimizer = torch.optim.Adam([features, *classifier.parameters()], lr=0.05)
        history = []
        for _ in range(40):
            loss = sum(classifier.losses(features, labels).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            history.append(loss.item())
        assert history[-1] < 0.5 * history[0]


class TestPrototypes:
    def test_are_state_and_no_parameters(self):
        classifier = PrototypeClassifier(8, 5, num_prototypes=3)
        assert classifier.prototypes.shape == (5, 3, 8)
        assert "prototypes" in classifier.state_dict()
        assert "prototypes" not in dict(classifier.named_parameters())

    def test_parameters_grow_only_with_the_norm_of_the_scores(self):
        def count(classifier):
            return sum(p.numel() for p in classifier.parameters())

        many = PrototypeClassifier(64, 847, num_prototypes=50)
        few = PrototypeClassifier(64, 150, num_prototypes=1)
        assert count(many) - count(few) == 2 * (847 - 150)

    def test_have_unit_length_from_the_start_and_after_updates(self):
        classifier = PrototypeClassifier(8, 4)
        for _ in range(3):
            length = classifier.prototypes.norm(dim=2)
            torch.testing.assert_close(length, torch.ones_like(length))
            classifier.losses(torch.randn(2, 8, 6, 6), torch.randint(0, 4, (2, 6, 6)))

    def test_stay_in_eval_mode(self):
        classifier = PrototypeClassifier(8, 4).eval()
        before = classifier.prototypes.clone()
        features, labels = torch.randn(2, 8, 6, 6), torch.randint(0, 4, (2, 6, 6))
        first, second = classifier.losses(features, labels), classifier.losses(features, labels)
        assert torch.equal(classifier.prototypes, before)
        torch.testing.assert_close(first, second, rtol=0, atol=0)

    def test_of_an_absent_class_stay(self):
        classifier = PrototypeClassifier(8, 4, momentum=0.5)
        before = classifier.prototypes.clone()
        classifier.losses(torch.randn(2, 8, 6, 6), torch.randint(0, 2, (2, 6, 6)))
        torch.testing.assert_close(classifier.prototypes[2:], before[2:])
        assert not torch.allclose(classifier.prototypes[:2], before[:2])

    @pytest.mark.parametrize("assignment", ["argmax", "gumbel"])
    def test_without_momentum_are_means_of_the_pixels_that_were_correct(self, assignment):
        classifier = PrototypeClassifier(
            8, 3, num_prototypes=1, momentum=0.0, assignment=assignment
        )
        features, labels = torch.randn(2, 8, 6, 6), torch.randint(0, 3, (2, 6, 6))
        embeddings, flat = classifier.embed(features), labels.flatten()
        right = flat == classifier(features).argmax(dim=1).flatten()
        classifier.losses(features, labels)
        for k in range(3):
            mean = embeddings[right & (flat == k)].mean(dim=0)
            torch.testing.assert_close(classifier.prototypes[k, 0], F.normalize(mean, dim=0))

    def test_a_drawn_assignment_moves_prototypes_that_the_argmax_leaves(self):
        """Pixels that are all alike: every prototype is as probable as the others."""
        moved = {}
        for assignment in ("argmax", "gumbel"):
            classifier = PrototypeClassifier(8, 1, num_prototypes=5, assignment=assignment)
            classifier.prototypes.copy_(F.normalize(torch.eye(5, 8)[None], dim=2))
            before = classifier.prototypes.clone()
            features = 50 * torch.eye(8)[:1].T.reshape(1, 8, 1, 1).expand(1, 8, 2, 2)
            classifier.losses(features, torch.zeros(1, 2, 2, dtype=torch.long))
            moved[assignment] = (classifier.prototypes != before).any(dim=2).sum()
        assert moved["argmax"] == 1
        assert moved["gumbel"] > 1

    def test_an_overflow_in_half_precision_moves_nothing(self):
        classifier = PrototypeClassifier(8, 4)
        before = classifier.prototypes.clone()
        features = torch.randn(1, 8, 4, 4)
        features[0, 0, 0, 0] = float("inf")
        classifier.losses(features, torch.randint(0, 4, (1, 4, 4)))
        torch.testing.assert_close(classifier.prototypes, before)

    def test_a_checkpoint_brings_them_back(self, tmp_path):
        classifier = PrototypeClassifier(8, 4)
        classifier.losses(torch.randn(2, 8, 6, 6), torch.randint(0, 4, (2, 6, 6)))
        torch.save(classifier.state_dict(), tmp_path / "weights.pth")
        other = PrototypeClassifier(8, 4)
        other.load_state_dict(torch.load(tmp_path / "weights.pth", weights_only=True))
        assert torch.equal(other.prototypes, classifier.prototypes)


class TestGradientAccumulation:
    def batches(self):
        return [(torch.randn(1, 8, 6, 6), torch.randint(0, 4, (1, 6, 6))) for _ in range(2)]

    def test_prototypes_move_once_a_step_and_all_batches_see_the_old_ones(self):
        classifier = PrototypeClassifier(8, 4, assignment="argmax")
        classifier.accumulation_steps = 2
        before = classifier.prototypes.clone()
        (first, second), twice = self.batches(), []
        classifier.losses(*first)
        assert torch.equal(classifier.prototypes, before)
        classifier.losses(*second)
        assert not torch.equal(classifier.prototypes, before)
        twice.append(classifier.prototypes.clone())
        classifier.losses(*first)
        assert torch.equal(classifier.prototypes, twice[0])

    def test_the_step_is_that_of_the_pixels_of_all_batches(self):
        """One prototype a class: no clustering, so that one step of the joined batch is equal."""
        options = {"num_prototypes": 1, "momentum": 0.5}
        accumulated = PrototypeClassifier(8, 4, **options)
        accumulated.accumulation_steps = 2
        joined = PrototypeClassifier(8, 4, **options)
        joined.load_state_dict(accumulated.state_dict())
        batches = self.batches()
        for batch in batches:
            accumulated.losses(*batch)
        joined.losses(*(torch.cat(parts) for parts in zip(*batches)))
        torch.testing.assert_close(accumulated.prototypes, joined.prototypes)

    def test_a_gradient_scaler_does_not_change_the_number_of_updates(self):
        """Mixed precision; the gradients of the first step overflow, and the scaler skips it."""
        classifier = PrototypeClassifier(8, 4, momentum=0.5, num_prototypes=1)
        plain = PrototypeClassifier(8, 4, momentum=0.5, num_prototypes=1)
        plain.load_state_dict(classifier.state_dict())
        optimizer = torch.optim.SGD(classifier.parameters(), lr=0.0)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
        for features, labels in self.batches():
            loss = sum(classifier.losses(features, labels).values())
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            plain.losses(features, labels)
        assert scaler.get_scale() < 2.0**127
        torch.testing.assert_close(classifier.prototypes, plain.prototypes)


class TestBadOptions:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"assignment": "hard"}, "assignment is 'hard', expected one of gumbel, argmax"),
            ({"distance": "l1"}, "distance is 'l1', expected one of cosine, euclidean, huber"),
            ({"synchronization": "sum"}, "expected one of average, joint"),
            ({"momentum": 1.5}, "momentum is 1.5, expected 0 to 1"),
            ({"num_prototypes": 0}, "num_prototypes is 0, expected a number above 0"),
            ({"temperature": 0.0}, "temperature is 0.0, expected a number above 0"),
        ],
    )
    def test_are_reported(self, options, message):
        with pytest.raises(ValueError, match=message):
            PrototypeClassifier(8, 4, **options)


@given(
    num_prototypes=st.integers(1, 4),
    classes=st.integers(1, 5),
    pixels=st.integers(1, 12),
    seed=st.integers(0, 1000),
)
@settings(max_examples=25, deadline=None)
def test_prototypes_stay_finite_for_any_classes_in_a_batch(num_prototypes, classes, pixels, seed):
    generator = torch.Generator().manual_seed(seed)
    classifier = PrototypeClassifier(4, classes, num_prototypes=num_prototypes, momentum=0.0)
    labels = torch.randint(0, classes, (1, 1, pixels), generator=generator)
    classifier.losses(torch.randn(1, 4, 1, pixels, generator=generator), labels)
    assert torch.isfinite(classifier.prototypes).all()
