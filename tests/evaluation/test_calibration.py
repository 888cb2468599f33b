"""Calibration and risk-coverage from counts: exact cases, others' formulas, invariants."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2_ctxseg.evaluation.calibration import (
    CORRECT,
    NUM_BINS,
    PIXELS,
    area_under_risk_coverage,
    confidence_counts,
    expected_calibration_error,
    no_counts,
    reliability,
    risk_at,
    risk_coverage,
)


def ece_of_torchmetrics(confidence, correct, num_bins):
    """torchmetrics' calibration error with norm "l1": bins of (low, high], and 0 in the first."""
    edges = np.linspace(0, 1, num_bins + 1)
    total = 0.0
    for low, high in zip(edges[:-1], edges[1:]):
        inside = (confidence > low) & (confidence <= high) | ((low == 0) & (confidence == 0))
        if inside.any():
            total += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    return total


def aurc_of_ranking(confidence, correct):
    """The mean risk of the n surest pixels over n, and of all numbers in between."""
    errors = np.append(0, np.cumsum(~correct[np.argsort(-confidence, kind="stable")]))
    parts = np.linspace(0, 1, 2001)[1:]
    kept = (np.arange(len(correct))[:, None] + parts).ravel()
    return np.mean(np.interp(kept, np.arange(len(errors)), errors) / kept)


def pixels(seed, count, wrong=0.3):
    rng = np.random.default_rng(seed)
    return rng.random(count), rng.random(count) > wrong


class TestCounts:
    def test_are_added_image_by_image(self):
        confidence, correct = pixels(0, 600)
        parts = [
            confidence_counts(c.reshape(10, 20), r.reshape(10, 20))
            for c, r in zip(np.split(confidence, 3), np.split(correct, 3))
        ]
        whole = confidence_counts(confidence, correct)
        np.testing.assert_array_equal(sum(parts)[:2], whole[:2])
        np.testing.assert_allclose(sum(parts)[2], whole[2])

    def test_take_the_ends_of_the_range(self):
        counts = confidence_counts(np.array([0.0, 1.0]), np.array([False, True]))
        assert counts[PIXELS, [0, -1]].tolist() == [1, 1]
        assert counts[CORRECT, [0, -1]].tolist() == [0, 1]

    @pytest.mark.parametrize("value", [-0.1, 1.1, np.nan, np.inf])
    def test_refuse_what_is_no_confidence(self, value):
        with pytest.raises(ValueError, match="not in"):
            confidence_counts(np.array([0.5, value]), np.array([True, True]))

    def test_refuse_other_shapes(self):
        with pytest.raises(ValueError, match=r"\(2,\).*\(3,\)"):
            confidence_counts(np.zeros(2), np.zeros(3, bool))


class TestExpectedCalibrationError:
    @given(st.integers(0, 2**32 - 1), st.integers(1, 500))
    @settings(max_examples=50, deadline=None)
    def test_is_that_of_torchmetrics(self, seed, count):
        confidence, correct = pixels(seed, count)
        expected = ece_of_torchmetrics(confidence, correct, NUM_BINS)
        assert expected_calibration_error(confidence_counts(confidence, correct)) == pytest.approx(
            expected, abs=1e-9
        )

    @pytest.mark.parametrize("sure, right, expected", [(0.9, 0.9, 0), (0.9, 0.6, 0.3), (1, 0, 1)])
    def test_of_one_confidence_is_its_distance_from_the_accuracy(self, sure, right, expected):
        correct = np.arange(100) < 100 * right
        counts = confidence_counts(np.full(100, float(sure)), correct)
        assert expected_calibration_error(counts) == pytest.approx(expected)

    def test_vanishes_for_confidences_that_are_true(self):
        rng = np.random.default_rng(0)
        confidence = rng.random(200_000)
        counts = confidence_counts(confidence, rng.random(200_000) < confidence)
        assert expected_calibration_error(counts) < 0.01

    def test_of_nothing_is_not_a_number(self):
        assert np.isnan(expected_calibration_error(no_counts()))


@given(st.integers(0, 2**32 - 1), st.integers(1, 300))
@settings(max_examples=30, deadline=None)
def test_the_diagram_has_all_pixels_and_its_confidences_in_their_bins(seed, count):
    confidence, correct = pixels(seed, count)
    diagram = reliability(confidence_counts(confidence, correct))
    assert diagram.share.sum() == pytest.approx(1)
    filled = diagram.share > 0
    assert np.nansum(diagram.share * diagram.accuracy) == pytest.approx(correct.mean())
    assert np.nansum(diagram.share * diagram.confidence) == pytest.approx(confidence.mean())
    place = diagram.confidence[filled] * NUM_BINS - np.flatnonzero(filled)
    assert ((place > -1e-9) & (place < 1 + 1e-9)).all()
    assert np.isnan(diagram.accuracy[~filled]).all()


class TestRiskCoverage:
    def test_of_a_few_pixels(self):
        confidence = np.array([0.95, 0.85, 0.55, 0.35])
        counts = confidence_counts(confidence, np.array([True, False, True, False]))
        coverage, risk = risk_coverage(counts)
        np.testing.assert_allclose(coverage, [0.25, 0.5, 0.75, 1])
        np.testing.assert_allclose(risk, [0, 1 / 2, 1 / 3, 1 / 2])
        np.testing.assert_allclose(risk_at(counts, np.array([0.25, 0.375, 1])), [0, 1 / 3, 1 / 2])

    @given(st.integers(0, 2**32 - 1), st.integers(1, 60))
    @settings(max_examples=30, deadline=None)
    def test_the_area_is_the_mean_of_all_risks(self, seed, count):
        # One pixel a bin at most, so that the counts know the order.
        confidence = np.random.default_rng(seed).permutation(np.arange(60) / 60 + 0.005)[:count]
        _, correct = pixels(seed, count)
        area = area_under_risk_coverage(confidence_counts(confidence, correct))
        assert area == pytest.approx(aurc_of_ranking(confidence, correct), abs=2e-3)

    @given(st.integers(0, 2**32 - 1), st.integers(1, 2000))
    @settings(max_examples=30, deadline=None)
    def test_all_pixels_have_the_share_of_errors(self, seed, count):
        confidence, correct = pixels(seed, count)
        counts = confidence_counts(confidence, correct)
        coverage, risk = risk_coverage(counts)
        assert (np.diff(coverage) > 0).all() and coverage[-1] == 1
        assert risk[-1] == pytest.approx(1 - correct.mean())
        assert ((risk >= 0) & (risk <= 1)).all()
        assert 0 <= area_under_risk_coverage(counts) <= 1

    def test_confidence_that_says_nothing_leaves_the_share_of_errors(self):
        counts = confidence_counts(np.full(100, 0.7), np.arange(100) >= 20)
        assert area_under_risk_coverage(counts) == pytest.approx(0.2)

    @pytest.mark.parametrize("right, expected", [(True, 0), (False, 1)])
    def test_without_errors_and_with_nothing_else(self, right, expected):
        counts = confidence_counts(np.linspace(0, 1, 50), np.full(50, right))
        assert area_under_risk_coverage(counts) == pytest.approx(expected)

    def test_tells_high_confidences_from_each_other(self):
        confidence = np.array([1 - 1e-3] * 50 + [1 - 1e-5] * 50)
        counts = confidence_counts(confidence, np.arange(100) >= 50)
        assert risk_at(counts, np.array(0.5)) == 0

    def test_of_nothing(self):
        assert np.isnan(area_under_risk_coverage(no_counts()))
        assert [len(values) for values in risk_coverage(no_counts())] == [0, 0]
