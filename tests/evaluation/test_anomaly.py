"""Metrics of anomaly scores from counts: against their definitions, pair by pair."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as np_st

from d2_ctxseg.evaluation.anomaly import NUM_BINS, ScoreCounts, anomaly_metrics, score_bins

floats = st.floats(width=32, allow_nan=False)


def brute_force(scores, is_unknown):
    """AUROC over all pairs, AP and FPR95 over all thresholds, in per cent."""
    known, unknown = scores[~is_unknown], scores[is_unknown]
    pairs = (unknown[:, None] > known) + 0.5 * (unknown[:, None] == known)
    precision, fpr95, before, average = [], None, 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        found = scores >= threshold
        recall = (found & is_unknown).sum() / is_unknown.sum()
        precision = (found & is_unknown).sum() / found.sum()
        average += (recall - before) * precision
        before = recall
        if recall >= 0.95 and fpr95 is None:
            fpr95 = (found & ~is_unknown).sum() / (~is_unknown).sum()
    return {"AUROC": 100 * pairs.mean(), "AP": 100 * average, "FPR95": 100 * fpr95}


def counted(scores, is_unknown):
    counts = ScoreCounts()
    counts.add(np.asarray(scores, np.float32), np.asarray(is_unknown))
    return counts


@st.composite
def pixels(draw):
    """Scores that a bin holds exactly, with many equal ones, and at least one pixel of each."""
    count = draw(st.integers(2, 40))
    scores = draw(np_st.arrays(np.float32, count, elements=st.integers(-9, 9).map(float)))
    is_unknown = draw(np_st.arrays(np.bool_, count))
    is_unknown[:2] = True, False
    return scores, is_unknown


class TestMetrics:
    @given(pixels())
    @settings(max_examples=25, deadline=None)
    def test_are_those_of_the_definitions(self, drawn):
        assert counted(*drawn).metrics() == pytest.approx(brute_force(*drawn))

    @given(pixels())
    @settings(max_examples=15, deadline=None)
    def test_are_those_of_scikit_learn(self, drawn):
        sklearn = pytest.importorskip("sklearn.metrics")
        scores, is_unknown = drawn
        found = counted(*drawn).metrics()
        assert found["AUROC"] == pytest.approx(100 * sklearn.roc_auc_score(is_unknown, scores))
        average = sklearn.average_precision_score(is_unknown, scores)
        assert found["AP"] == pytest.approx(100 * average)
        false, true, _ = sklearn.roc_curve(is_unknown, scores, drop_intermediate=False)
        assert found["FPR95"] == pytest.approx(100 * false[np.argmax(true >= 0.95)])

    def test_of_random_scores_differ_little_from_those_of_all_bits(self):
        rng = np.random.default_rng(0)
        is_unknown = rng.random(2000) < 0.1
        scores = (rng.normal(size=2000) + is_unknown).astype(np.float32)
        expected = brute_force(scores, is_unknown)
        assert counted(scores, is_unknown).metrics() == pytest.approx(expected, abs=0.1)

    def test_of_a_score_that_separates_are_perfect(self):
        found = counted([0.1, 0.2, 0.9], [False, False, True]).metrics()
        assert found == {"AUROC": 100, "AP": 100, "FPR95": 0}

    def test_of_one_score_for_all_are_those_of_chance(self):
        found = counted([1.0] * 10, [True] * 2 + [False] * 8).metrics()
        assert found == pytest.approx({"AUROC": 50, "AP": 20, "FPR95": 100})

    @pytest.mark.parametrize("is_unknown", [True, False])
    def test_of_one_kind_of_pixels_are_not_a_number(self, is_unknown):
        assert np.isnan(list(counted([1.0, 2.0], [is_unknown] * 2).metrics().values())).all()
        assert np.isnan(list(anomaly_metrics(*np.zeros((2, 5), int)).values())).all()


class TestBins:
    @given(floats, floats)
    def test_ascend_as_the_scores(self, a, b):
        first, second = score_bins(np.array([a, b], np.float32)).tolist()
        assert (first <= second) if a <= b else (first >= second)
        assert min(first, second) >= 0 and max(first, second) < NUM_BINS

    @given(st.floats(2.0**-100, 2.0**100, width=32))
    def test_distinguish_what_differs_by_a_thousandth(self, score):
        bins = score_bins(np.array([score, score * 1.001, -score, -score * 1.001], np.float32))
        assert bins[0] < bins[1] and bins[3] < bins[2]

    def test_of_both_zeros_and_of_infinity(self):
        bins = score_bins(np.array([-np.inf, -1, -0.0, 0.0, 1, np.inf], np.float32))
        assert bins[2] == bins[3] and (np.diff(bins) >= 0).all()

    def test_of_nan_are_refused(self):
        with pytest.raises(ValueError, match="NaN"):
            score_bins(np.array([1.0, np.nan], np.float32))


@given(pixels(), st.integers(0, 40))
@settings(max_examples=20, deadline=None)
def test_counts_of_parts_add_up(drawn, cut):
    scores, is_unknown = drawn
    parts = counted(scores[:cut], is_unknown[:cut]) + counted(scores[cut:], is_unknown[cut:])
    whole = counted(scores, is_unknown)
    assert np.array_equal(parts.known, whole.known)
    assert np.array_equal(parts.unknown, whole.unknown)
