"""The temperature that calibrates confidences."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d2_ctxseg.evaluation.temperature import (
    LEAST,
    MOST,
    fit_temperature,
    negative_log_likelihood,
)


def labelled(temperature, count=20_000, classes=4, scale=3.0, seed=0):
    """Scores, and labels drawn from softmax(scores / temperature)."""
    generator = torch.Generator().manual_seed(seed)
    scores = scale * torch.randn(count, classes, generator=generator)
    probabilities = (scores / temperature).softmax(dim=1)
    return scores, torch.multinomial(probabilities, 1, generator=generator)[:, 0]


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_the_temperature_of_the_labels_is_found(temperature):
    assert fit_temperature(*labelled(temperature)) == pytest.approx(temperature, rel=0.05)


@given(st.floats(0.01, 100), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_it_follows_the_scale_and_not_the_offset_of_scores(factor, seed):
    scores, labels = labelled(1.5, count=300, seed=seed)
    one = fit_temperature(scores, labels)
    assert fit_temperature(factor * scores + 7, labels) == pytest.approx(factor * one, rel=1e-3)


@given(st.integers(0, 1000), st.floats(0.02, 50))
@settings(max_examples=30, deadline=None)
def test_no_other_temperature_is_likelier(seed, other):
    scores, labels = labelled(0.7, count=200, seed=seed)
    best = negative_log_likelihood(scores, labels, fit_temperature(scores, labels))
    assert best <= negative_log_likelihood(scores, labels, other) + 1e-9


@given(st.floats(LEAST, MOST))
def test_the_class_stays(temperature):
    scores = labelled(1.0, count=100)[0].double()
    probabilities = (scores / temperature).softmax(dim=1)
    highest = probabilities.amax(dim=1)
    assert torch.equal(probabilities.gather(1, scores.argmax(1)[:, None])[:, 0], highest)


def test_the_likelihood_is_the_cross_entropy():
    scores, labels = labelled(1.0, count=100)
    expected = torch.nn.functional.cross_entropy(scores / 2, labels).item()
    assert negative_log_likelihood(scores, labels, 2.0) == pytest.approx(expected)


def test_a_weight_counts_as_so_many_pixels():
    scores, labels = labelled(2.0, count=500)
    weights = torch.arange(500) % 3
    repeated = torch.repeat_interleave(torch.arange(500), weights)
    assert fit_temperature(scores, labels, weights) == pytest.approx(
        fit_temperature(scores[repeated], labels[repeated]), rel=1e-6
    )


def test_scores_that_are_always_correct_and_always_wrong_give_the_limits():
    scores = torch.eye(3)
    assert fit_temperature(scores, torch.arange(3)) == pytest.approx(LEAST, rel=0.01)
    assert fit_temperature(-scores, torch.arange(3)) == pytest.approx(MOST, rel=0.01)


def test_half_precision_is_taken():
    scores, labels = labelled(2.0, count=2000)
    expected = fit_temperature(scores.half().float(), labels)
    assert fit_temperature(scores.half(), labels) == pytest.approx(expected)


def test_nothing_to_fit_and_scores_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="no pixel"):
        fit_temperature(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
    for value in (math.nan, math.inf, -math.inf):
        scores = torch.tensor([[0.0, value]])
        with pytest.raises(ValueError, match="finite"):
            fit_temperature(scores, torch.zeros(1, dtype=torch.int64))
