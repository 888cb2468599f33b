"""The steps that fit Gaussian mixtures, each against a loop over components and pixels."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from d2_ctxseg.classifiers.mixture_estimation import (
    ComponentMemory,
    evenly_spaced_ranks,
    fit_components,
    log_responsibilities,
    sample_components,
    scales_of,
    write_to_rings,
)

DOUBLE = {"dtype": torch.float64}


def plain_sinkhorn(density, epsilon=0.05, iterations=3):
    """The plan (n, M) of one class, as it is written in the authors' description."""
    plan = (density / density.abs().max() / epsilon).exp()
    plan = plan / plan.sum()
    for _ in range(iterations):
        plan = plan / (plan.shape[1] * plan.sum(dim=0, keepdim=True))
        plan = plan / (plan.shape[0] * plan.sum(dim=1, keepdim=True))
    return plan.shape[0] * plan


class TestEStep:
    @given(
        seed=st.integers(0, 1000),
        pixels=st.integers(1, 40),
        num_classes=st.integers(1, 6),
        num_components=st.integers(1, 5),
        iterations=st.integers(1, 4),
    )
    @settings(max_examples=30, deadline=None)
    def test_all_classes_at_once_equal_class_by_class(
        self, seed, pixels, num_classes, num_components, iterations
    ):
        generator = torch.Generator().manual_seed(seed)
        density = 30 * torch.randn(pixels, num_components, generator=generator, **DOUBLE) - 20
        classes = torch.randint(0, num_classes, (pixels,), generator=generator)
        plan = log_responsibilities(density, classes, num_classes, iterations=iterations).exp()
        for k in classes.unique():
            expected = plain_sinkhorn(density[classes == k], iterations=iterations)
            torch.testing.assert_close(plan[classes == k], expected)

    def test_a_lone_pixel_of_a_class_is_a_tie_that_the_first_component_wins(self):
        density = torch.tensor([[-3.0, -1.0, -2.0]])
        plan = log_responsibilities(density, torch.tensor([1]), 2)
        torch.testing.assert_close(plan.exp(), torch.full((1, 3), 1 / 3))
        assert plan.argmax() == 0

    def test_soft_is_the_same_plan(self):
        density, classes = torch.randn(20, 3), torch.randint(0, 2, (20,))
        hard, soft = (
            log_responsibilities(density, classes, 2, e_step=e_step)
            for e_step in ("sinkhorn", "sinkhorn_soft")
        )
        assert torch.equal(hard, soft)

    def test_the_posterior_is_the_softmax_over_the_components(self):
        density, classes = torch.randn(20, 3, **DOUBLE), torch.randint(0, 2, (20,))
        posterior = log_responsibilities(density, classes, 2, e_step="posterior").exp()
        torch.testing.assert_close(posterior, density.softmax(dim=1))

    def test_densities_that_are_all_0_divide_evenly(self):
        plan = log_responsibilities(torch.zeros(4, 2), torch.zeros(4, dtype=torch.long), 3)
        torch.testing.assert_close(plan.exp(), torch.full((4, 2), 0.5))


class TestEvenlySpacedRanks:
    @given(st.integers(1, 30), st.lists(st.integers(0, 5000), min_size=1, max_size=20))
    @settings(max_examples=100, deadline=None)
    def test_are_those_of_linspace(self, most, counts):
        ranks = evenly_spaced_ranks(torch.tensor(counts), most)
        assert ranks.shape == (len(counts), most)
        for row, n in zip(ranks, counts):
            if n <= most:
                assert row[:n].tolist() == list(range(n))
            else:
                assert torch.equal(row, torch.linspace(0, n - 1, most, dtype=torch.int64))

    @given(st.integers(2, 30), st.integers(0, 5000))
    def test_keep_the_first_and_the_last_and_none_twice(self, most, more):
        (row,) = evenly_spaced_ranks(torch.tensor([most + more]), most).tolist()
        assert row[0] == 0 and row[-1] == most + more - 1
        assert sorted(set(row)) == row


def plain_sample(embeddings, components, weights, num_components, most):
    """For each component its pixels and their weights, of a loop over the pixels."""
    chosen = []
    for component in range(num_components):
        found = [
            (embeddings[n], weights[n, r])
            for n in range(len(embeddings))
            for r in range(components.shape[1])
            if components[n, r] == component
        ]
        if len(found) > most:
            found = [found[i] for i in torch.linspace(0, len(found) - 1, most, dtype=torch.int64)]
        chosen.append(found)
    return chosen


class TestSampling:
    @given(
        seed=st.integers(0, 1000),
        pixels=st.integers(1, 60),
        num_components=st.integers(1, 6),
        copies=st.integers(1, 3),
        most=st.integers(1, 12),
    )
    @settings(max_examples=40, deadline=None)
    def test_takes_each_components_pixels_in_their_order(
        self, seed, pixels, num_components, copies, most
    ):
        generator = torch.Generator().manual_seed(seed)
        embeddings = torch.randn(pixels, 3, generator=generator)
        # num_components itself stands for none.
        shape = (pixels, copies)
        components = torch.randint(0, num_components + 1, shape, generator=generator)
        weights = torch.rand(shape, generator=generator)
        samples, of_samples, counts = sample_components(
            embeddings, components, weights, num_components, most
        )
        expected = plain_sample(embeddings, components, weights, num_components, most)
        assert counts.tolist() == [len(found) for found in expected]
        for row, row_weights, found in zip(samples, of_samples, expected):
            for place, (embedding, weight) in enumerate(found):
                assert torch.equal(row[place], embedding) and row_weights[place] == weight
            assert not row[len(found) :].any() and not row_weights[len(found) :].any()

    def test_pixels_that_are_not_chosen_may_be_anything(self):
        embeddings = torch.tensor([[1.0, 2.0], [float("nan"), float("inf")]])
        samples, _, counts = sample_components(
            embeddings, torch.tensor([[0], [2]]), torch.ones(2, 1), 2, 3
        )
        assert counts.tolist() == [1, 0]
        assert samples.isfinite().all()


class TestRings:
    @given(
        seed=st.integers(0, 1000),
        size=st.integers(1, 9),
        writes=st.lists(st.integers(0, 9), min_size=1, max_size=6),
    )
    @settings(max_examples=40, deadline=None)
    def test_hold_the_latest_values(self, seed, size, writes):
        generator = torch.Generator().manual_seed(seed)
        rings, pointers = torch.zeros(1, 2, size), torch.zeros(1, dtype=torch.int64)
        expected, place = torch.zeros(size, 2), 0
        for count in writes:
            count = min(count, size)
            values = torch.randn(1, size, 2, generator=generator)
            write_to_rings(rings, pointers, values, torch.tensor([count]))
            pointers += count
            for value in values[0, :count]:
                expected[place % size] = value
                place += 1
            assert torch.equal(rings[0].T, expected)

    def test_are_written_each_for_itself(self):
        rings = torch.zeros(3, 1, 4)
        values = torch.arange(1.0, 7.0).reshape(3, 2, 1)
        write_to_rings(rings, torch.tensor([0, 3, 2]), values, torch.tensor([2, 2, 0]))
        assert rings[:, 0].tolist() == [[1, 2, 0, 0], [4, 0, 0, 3], [0, 0, 0, 0]]


class TestMStep:
    def test_is_the_mean_direction_and_the_spread_around_it(self):
        samples = torch.randn(4, 5, 30, **DOUBLE)
        direction, variance = fit_components(samples)
        expected = F.normalize(samples.sum(dim=2), dim=1)
        torch.testing.assert_close(direction, expected)
        spread = (samples - expected[..., None]).square().sum(dim=2) / 30
        torch.testing.assert_close(variance, spread)

    def test_weights_count_samples_as_often_as_they_say(self):
        samples = torch.randn(2, 5, 3, **DOUBLE)
        weights = torch.tensor([[2, 0, 1], [1, 1, 3]])
        repeated = [s.repeat_interleave(w, dim=1)[None] for s, w in zip(samples, weights)]
        expected = [torch.cat(parts) for parts in zip(*map(fit_components, repeated))]
        torch.testing.assert_close(list(fit_components(samples, weights.double())), expected)

    def test_without_any_weight_nothing_divides_by_0(self):
        fitted = fit_components(torch.randn(1, 2, 3), torch.zeros(1, 3))
        assert all(x.isfinite().all() for x in fitted)

    def test_scales(self):
        variance = torch.tensor([[0.03, 0.05]])
        floor = torch.tensor([[0.04, 0.06]]).sqrt()
        torch.testing.assert_close(scales_of(variance, "diagonal"), floor)
        torch.testing.assert_close(scales_of(variance, "spherical"), torch.full((1, 2), 0.05**0.5))
        assert torch.equal(scales_of(variance, "fixed"), torch.ones(1, 2))


class TestMemory:
    def test_starts_with_the_same_random_unit_vectors_for_any_seed(self):
        torch.manual_seed(1)
        first, following = ComponentMemory(3, 8, 10), torch.rand(1)
        torch.manual_seed(2)
        second = ComponentMemory(3, 8, 10)
        assert torch.equal(first.samples, second.samples)
        torch.testing.assert_close(first.samples.norm(dim=1), torch.ones(3, 10))
        # Nor does it draw from the numbers that others draw from.
        torch.manual_seed(1)
        assert torch.rand(1) == following

    def test_says_its_size(self):
        assert "750 components x 64 channels x 1000, 183.1 MiB" in repr(
            ComponentMemory(750, 64, 1000)
        )

    def test_has_no_values_on_the_meta_device(self):
        with torch.device("meta"):
            memory = ComponentMemory(750, 64, 32000)
        assert memory.samples.is_meta
        assert "5859.4 MiB" in repr(memory)

    @pytest.mark.parametrize("weighted", [False, True])
    def test_continues_after_a_checkpoint(self, weighted, tmp_path):
        sizes = (2, 4, 6, 0.5 if weighted else None)
        memory = ComponentMemory(*sizes)
        memory.write(torch.randn(2, 3, 4), torch.rand(2, 3), torch.tensor([3, 1]))
        memory.count_step()
        torch.save(memory.state_dict(), tmp_path / "memory.pth")
        other = ComponentMemory(*sizes)
        other.load_state_dict(torch.load(tmp_path / "memory.pth", weights_only=True))
        assert other.count == 1
        torch.testing.assert_close(other.state_dict(), memory.state_dict(), rtol=0, atol=0)
        assert other.pointers.tolist() == [3, 1]
        if weighted:
            assert math.isclose(other.weights[1, -1], 0.5) and other.weights[0, 0] != 0.5
