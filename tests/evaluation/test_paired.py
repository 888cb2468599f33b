"""Paired differences: equal to the evaluator's metrics, and intervals with correct coverage."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2_ctxseg.evaluation.confusion import ABSENT_CLASSES, segmentation_metrics
from d2_ctxseg.evaluation.image_counts import ImageCounts, image_counts
from d2_ctxseg.evaluation.paired import (
    Difference,
    metric_names,
    metrics_of_counts,
    paired_differences,
    sentence,
)


@given(st.integers(1, 6), st.integers(0, 2**32 - 1), st.sampled_from(ABSENT_CLASSES))
@settings(max_examples=30, deadline=None)
def test_metrics_of_summed_counts_are_those_of_the_summed_confusions(num_classes, seed, absent):
    rng = np.random.default_rng(seed)
    size = num_classes + 1
    confusions = rng.integers(0, 5, (3, size, size)) * rng.integers(0, 2, (3, size, size))
    names = [f"class {i}" for i in range(num_classes)]
    counts = np.stack([image_counts(confusion) for confusion in confusions])
    found = dict(zip(metric_names(names), metrics_of_counts(counts.sum(0), absent)))
    expected = segmentation_metrics(confusions.sum(0), names, None, absent)
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], equal_nan=True)


def simulated_runs(rng, num_seeds, num_images, gain, seed_luck, image_luck):
    """Counts of two models whose accuracy in every class differs by ``gain``, and luck of seed and
    image in which they differ too."""
    num_classes = 3
    true = rng.integers(50, 200, (num_images, num_classes))
    runs = []
    for model_gain in (0.0, gain):
        of_image = rng.normal(0, image_luck, (num_images, 1))
        seeds = []
        for _ in range(num_seeds):
            accuracy = 0.6 + model_gain + of_image + rng.normal(0, seed_luck)
            correct = rng.binomial(true, np.clip(accuracy, 0, 1) + np.zeros_like(true))
            seeds.append(np.stack([correct, true, true], axis=1))
        runs.append(np.array(seeds))
    return runs


@pytest.mark.parametrize(
    ("num_seeds", "seed_luck", "image_luck"),
    [(3, 0.02, 0.0), (3, 0.01, 0.05), (5, 0.02, 0.02), (3, 0.0, 0.08)],
    ids=["luck of the seed", "both", "five seeds", "luck of the image"],
)
def test_the_interval_covers_the_true_difference_about_95_times_in_100(
    num_seeds, seed_luck, image_luck
):
    rng = np.random.default_rng(0)
    gain, repetitions, covered = 0.02, 300, 0
    for _ in range(repetitions):
        runs = simulated_runs(rng, num_seeds, 40, gain, seed_luck, image_luck)
        accuracy = paired_differences(*runs, num_resamples=400)[1]
        covered += accuracy.low <= 100 * gain <= accuracy.high
    # 95 % of 300 is 285; two standard deviations of a binomial are 7.5.
    assert 0.92 <= covered / repetitions <= 0.995


def test_no_gain_is_rarely_reported_as_one():
    rng = np.random.default_rng(1)
    runs = [simulated_runs(rng, 3, 40, 0.0, 0.02, 0.02) for _ in range(200)]
    claims = [paired_differences(*pair, num_resamples=400)[1] for pair in runs]
    assert np.mean([claim.low > 0 or claim.high < 0 for claim in claims]) < 0.09


def test_the_same_runs_do_not_differ_and_swapped_ones_differ_the_other_way():
    rng = np.random.default_rng(2)
    first, second = simulated_runs(rng, 3, 30, 0.05, 0.01, 0.01)
    same = paired_differences(first, first, num_resamples=200)[0]
    assert (same.mean, same.low, same.high) == (0, 0, 0)
    there, back = (
        paired_differences(*pair, num_resamples=4000)[0]
        for pair in ((first, second), (second, first))
    )
    assert there.mean == pytest.approx(-back.mean)
    assert there.low == pytest.approx(-back.high, abs=0.3)
    assert there.per_seed == tuple(-value for value in back.per_seed)
    assert there.share_of_seeds_that_gain == 1


def test_pairing_removes_what_the_images_have_in_common():
    """Hard and easy images widen the interval of a score, not that of a difference."""
    rng = np.random.default_rng(3)
    true = np.full((50, 2), 1000)
    share = rng.uniform(0.2, 0.9, (50, 1))
    counts = [np.stack([np.rint(true * s), true, true], 1)[None] for s in (share, share + 0.01)]
    (difference, *_) = paired_differences(*counts, num_resamples=400)
    assert difference.high - difference.low < 0.5


def test_a_class_that_no_image_has_is_nan_and_leaves_the_rest_alone():
    counts = np.ones((2, 5, 3, 2), np.uint32)
    counts[..., 1] = 0
    differences = paired_differences(counts, counts, num_resamples=100)
    values = dict(zip(metric_names(["here", "absent"]), differences))
    assert np.isnan(values["IoU-absent"].mean) and np.isnan(values["IoU-absent"].low)
    assert values["mIoU"].mean == 0


@pytest.mark.parametrize("shape", [(0, 5, 3, 2), (2, 0, 3, 2), (2, 4, 3, 2)])
def test_runs_that_cannot_be_paired_are_refused(shape):
    with pytest.raises(ValueError, match=r"expected twice \(S, N, 3, K\)"):
        paired_differences(np.ones((2, 5, 3, 2)), np.ones(shape))


@pytest.mark.parametrize(
    ("difference", "text"),
    [
        (Difference(1.3, 0.4, 2.2, (1.0, 1.6)), "gains 1.3 mIoU [0.4, 2.2]"),
        (Difference(-1.3, -2.2, -0.4, (-1.0, -1.6)), "loses 1.3 mIoU [-2.2, -0.4]"),
        (Difference(0.3, -0.4, 1.0, (0.1, 0.5)), "no difference shown: +0.3 mIoU [-0.4, 1.0]"),
    ],
)
def test_a_difference_in_words(difference, text):
    assert sentence(difference) == text


def test_one_seed_cannot_be_distinguished_from_chance():
    text = sentence(Difference(1.3, 0.4, 2.2, (1.3,)))
    assert "with one seed: this cannot tell a better classifier from a lucky seed" in text


def test_counts_of_images_come_back_from_their_file(tmp_path):
    names = ["/data/camvid/val/a.png", "/data/camvid/val/deeper/ä.png"]
    counts = ImageCounts.of_images(names, ["road", "sky"], np.arange(12).reshape(2, 3, 2))
    assert counts.file_names == ("a.png", "deeper/ä.png"), "the same on another machine"
    counts.write(tmp_path / "counts.npz")
    found = ImageCounts.read(tmp_path / "counts.npz")
    assert (found.file_names, found.class_names) == (counts.file_names, counts.class_names)
    np.testing.assert_array_equal(found.counts, counts.counts)


def test_a_damaged_file_of_counts_is_reported(tmp_path):
    path = tmp_path / "counts.npz"
    with pytest.raises(FileNotFoundError, match="Evaluate the run again"):
        ImageCounts.read(path)
    ImageCounts.of_images(["a", "b"], ["road"], np.ones((2, 3, 1))).write(path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match="counts.npz' cannot be read"):
        ImageCounts.read(path)
