"""The densities of Gaussian mixtures against their formula: values, gradients, precision."""

import math

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from d2_ctxseg.classifiers import GaussianMixtureClassifier
from d2_ctxseg.classifiers.mixture_density import (
    Densities,
    class_log_density,
    component_log_density,
    mixture_densities,
)


def plain_log_density(embeddings, means, scales):
    """The formula with its differences, (N, K, M)."""
    distance = ((embeddings[:, None, None] - means) / scales).square().sum(dim=3)
    constant = 0.5 * means.shape[2] * math.log(2 * math.pi) + scales.log().sum(dim=2)
    return -constant - 0.5 * distance


def random_mixtures(num_classes=4, num_components=3, channels=8, dtype=torch.float64):
    shape = (num_classes, num_components, channels)
    means = F.normalize(torch.randn(shape, dtype=dtype), dim=2)
    return means, 0.1 + torch.rand(shape, dtype=dtype)


class TestDensities:
    @given(
        seed=st.integers(0, 1000),
        sizes=st.tuples(st.integers(1, 20), st.integers(1, 5), st.integers(1, 4)),
    )
    @settings(max_examples=20, deadline=None)
    def test_are_those_of_the_formula(self, seed, sizes):
        torch.manual_seed(seed)
        mixtures = random_mixtures(*sizes[1:])
        embeddings = torch.randn(sizes[0], 8, dtype=torch.float64)
        expected = plain_log_density(embeddings, *mixtures)
        torch.testing.assert_close(component_log_density(embeddings, *mixtures), expected)

    def test_are_exact_enough_in_single_precision(self):
        """With the smallest scales there are, where terms of opposite signs are the largest."""
        embeddings = F.normalize(torch.randn(500, 64, dtype=torch.float64), dim=1)
        means, scales = random_mixtures(5, 3, 64)
        scales = torch.full_like(scales, 0.1)
        expected = plain_log_density(embeddings, means, scales)
        actual = component_log_density(embeddings.float(), means.float(), scales.float())
        torch.testing.assert_close(actual.double(), expected, atol=1e-3, rtol=0)

    def test_integrate_to_1(self):
        """Two channels, a grid over all the mass."""
        line = torch.linspace(-8, 8, 400, dtype=torch.float64)
        grid = torch.cartesian_prod(line, line)
        density = component_log_density(grid, *random_mixtures(2, 2, 2))
        area = (16 / 399) ** 2
        torch.testing.assert_close(density.exp().sum(dim=0) * area, torch.ones(2, 2).double())
        mixture = class_log_density(density, "logsumexp")
        torch.testing.assert_close(mixture.exp().sum(dim=0) * area, torch.ones(2).double())

    def test_of_classes_are_the_largest_or_the_mean_of_their_components(self):
        density = torch.randn(6, 4, 3)
        assert torch.equal(class_log_density(density), density.amax(dim=2))
        expected = density.exp().mean(dim=2).log()
        torch.testing.assert_close(class_log_density(density, "logsumexp"), expected)

    def test_in_chunks_equal_the_formula_with_its_gradient(self):
        classifier = GaussianMixtureClassifier(8, 5, embedding_channels=None).double()
        classifier.means, classifier.scales = random_mixtures(5, 5)
        embeddings = F.normalize(torch.randn(30, 8, dtype=torch.float64), dim=1)
        labels, results = torch.randint(0, 5, (30,)), []
        for compute in (
            classifier._densities,
            lambda *pixels: mixture_densities(pixels[0], *classifier.mixtures(), pixels[1]),
        ):
            leaf = embeddings.clone().requires_grad_()
            densities = compute(leaf, labels)
            assert isinstance(densities, Densities)
            weighted = [(x * torch.arange(x.numel()).view(x.shape)).sum() for x in densities]
            sum(weighted).backward()
            results.append([*(x.detach() for x in densities), leaf.grad])
        torch.testing.assert_close(*results)

    def test_far_from_all_mixtures_give_no_denormal_gradients(self):
        """A CPU would take a hundred times as long for them."""
        classifier = GaussianMixtureClassifier(64, 5, embedding_channels=None)
        classifier.scales.fill_(0.1)
        leaf = classifier.embed(torch.randn(1, 64, 4, 4)).detach().requires_grad_()
        densities = classifier._densities(leaf, torch.zeros(16, dtype=torch.long))
        (1e-9 * densities.log_partition.sum()).backward()
        size = leaf.grad.abs()
        assert not ((size > 0) & (size < torch.finfo(torch.float32).tiny)).any()
