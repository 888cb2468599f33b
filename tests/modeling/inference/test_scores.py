"""Scores made band by band, against the same made all at once."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from d2_ctxseg.modeling.inference.scores import (
    HorizontallyFlipped,
    Logits,
    Mean,
    Probabilities,
    Resized,
    Windows,
)

sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))
many = settings(deadline=None, max_examples=50)


def interpolate(logits, size, align_corners=False):
    return F.interpolate(logits[None], size, mode="bilinear", align_corners=align_corners)[0]


def assert_same_but_for_ties(scores, band_elements=None):
    """Where another label is given, its score is the highest but for rounding."""
    whole, labels = scores.tensor(), scores.label_map(band_elements)
    assert labels.shape == whole.shape[1:] == scores.shape[1:]
    assert labels.dtype == torch.int64
    chosen, best = whole.gather(0, labels[None])[0], whole.amax(0)
    assert ((best - chosen) <= 1e-5 * best.abs().clamp(min=1)).all()
    return (labels != whole.argmax(0)).float().mean()


def assert_rows_are_those_of_the_whole(scores):
    whole = scores.tensor()
    assert whole.shape == scores.shape
    for start in range(0, scores.shape[1], 3):
        stop = min(start + 3, scores.shape[1])
        rows = scores.rows(start, stop)
        torch.testing.assert_close(rows, whole[:, start:stop], rtol=1e-5, atol=1e-5)


class TestResized:
    @many
    @given(st.integers(1, 9), sizes, sizes, sizes, st.booleans(), st.integers(1, 3000))
    def test_is_interpolation_and_cropping(
        self, classes, shape, padded, output, align_corners, band_elements
    ):
        crop = (max(padded[0] - 2, 1), max(padded[1] - 3, 1))
        logits = torch.randn(classes, *shape)
        cropped = Resized(Logits(logits), padded, crop, align_corners)
        scores = Resized(cropped, output)
        expected = interpolate(logits, padded, align_corners)[:, : crop[0], : crop[1]]
        assert torch.equal(cropped.tensor(), expected)
        assert torch.equal(scores.tensor(), interpolate(expected, output))
        assert_rows_are_those_of_the_whole(scores)
        assert_same_but_for_ties(scores, band_elements)

    @pytest.mark.parametrize("classes", [1, 2, 19, 150, 847])
    def test_labels_of_random_scores_are_the_same_bit_for_bit(self, classes):
        scores = Resized(Logits(torch.randn(classes, 16, 20)), (64, 80), (61, 75))
        assert torch.equal(scores.label_map(), scores.tensor().argmax(0))
        assert torch.equal(scores.label_map(1), scores.tensor().argmax(0))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_is_interpolated_in_single_precision(self, dtype):
        logits = torch.randn(6, 8, 9).to(dtype)
        expected = interpolate(logits.float(), (16, 18)).argmax(0)
        assert torch.equal(Resized(Logits(logits), (16, 18)).label_map(), expected)

    def test_double_precision_stays(self):
        logits = torch.randn(6, 8, 9, dtype=torch.float64)
        scores = Resized(Logits(logits), (16, 18))
        assert scores.rows(0, 4).dtype == torch.float64
        assert torch.equal(scores.label_map(), interpolate(logits, (16, 18)).argmax(0))


class TestLabelMap:
    @pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
    def test_scores_may_be_large_or_close(self, scale):
        logits = scale * torch.randn(7, 40, 48)
        assert torch.equal(Logits(logits).label_map(), logits.argmax(0))

    def test_of_equal_scores_the_first_class_wins(self):
        logits = torch.zeros(5, 3, 4)
        logits[2:4] = 1
        assert Logits(logits).label_map().unique().tolist() == [2]

    def test_a_class_may_be_ruled_out(self):
        logits = torch.randn(5, 3, 4)
        logits[1] = -torch.inf
        assert torch.equal(Logits(logits).label_map(), logits.argmax(0))

    def test_no_label_is_outside_even_where_scores_are_no_numbers(self):
        labels = Logits(torch.full((5, 3, 4), torch.nan)).label_map()
        assert ((labels >= 0) & (labels < 5)).all()

    def test_scores_stay_as_they_were(self):
        logits = torch.randn(3, 5, 6)
        before = logits.clone()
        Logits(logits).label_map()
        Mean([Logits(logits)]).label_map()
        assert torch.equal(logits, before)

    @pytest.mark.parametrize("classes, height, width", [(847, 512, 512), (19, 1024, 2048)])
    def test_no_tensor_is_larger_than_a_band_or_the_logits(self, classes, height, width):
        """The memory does not grow with classes times pixels."""
        logits = torch.randn(classes, height // 16, width // 16)
        scores = Resized(Logits(logits), (height, width))
        with LargestTensor() as largest:
            scores.label_map()
        # Four rows, or what fits the cache, twice in double the width for safety.
        bound = max(1 << 20, 4 * classes * width, height * width)
        assert largest.elements <= bound
        with LargestTensor() as largest:
            scores.tensor()
        assert largest.elements == classes * height * width


class LargestTensor(torch.overrides.TorchFunctionMode):
    """The number of elements of the largest tensor that is made meanwhile."""

    elements = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.elements = max(self.elements, result.numel())
        return result


class TestOthers:
    views = [torch.randn(4, 9, 7) for _ in range(3)]

    def test_horizontally_flipped(self):
        scores = HorizontallyFlipped(Logits(self.views[0]))
        assert torch.equal(scores.tensor(), self.views[0].flip(-1))
        assert_rows_are_those_of_the_whole(scores)

    def test_probabilities(self):
        scores = Probabilities(Logits(self.views[0]))
        torch.testing.assert_close(scores.tensor(), self.views[0].softmax(0))
        assert_rows_are_those_of_the_whole(scores)
        half = Probabilities(Logits(self.views[0].half()))
        assert half.tensor().dtype == torch.float32

    def test_mean(self):
        scores = Mean([Logits(view) for view in self.views])
        torch.testing.assert_close(scores.tensor(), torch.stack(self.views).mean(0))
        assert_rows_are_those_of_the_whole(scores)
        assert_same_but_for_ties(scores, 1)

    @many
    @given(sizes, sizes, sizes)
    def test_windows(self, size, window, stride):
        height, width = size
        h, w = min(window[0], height), min(window[1], width)
        tops = [*range(0, height - h, min(stride[0], h)), height - h]
        lefts = [*range(0, width - w, min(stride[1], w)), width - w]
        total, count = torch.zeros(3, *size), torch.zeros(size)
        windows = []
        for top in tops:
            for left in lefts:
                logits = torch.randn(3, 5, 5)
                windows.append((top, left, Resized(Logits(logits), (h, w))))
                total[:, top : top + h, left : left + w] += interpolate(logits, (h, w))
                count[top : top + h, left : left + w] += 1
        scores = Windows(size, windows)
        torch.testing.assert_close(scores.tensor(), total / count)
        assert_rows_are_those_of_the_whole(scores)
        assert_same_but_for_ties(scores, 1)


class TestConfidence:
    """The highest probability at a temperature, without a change of the label map."""

    def probabilities(self, scores, temperature):
        whole = scores.tensor().float()
        logits = whole.log() if scores.are_probabilities else whole
        return (logits / temperature).softmax(dim=0)

    def cases(self, shape=(5, 23, 17)):
        logits = Logits(4 * torch.randn(shape))
        other = HorizontallyFlipped(Logits(4 * torch.randn(shape)))
        return [
            logits,
            Resized(logits, (40, 30)),
            Mean([logits, other]),
            Mean([Probabilities(logits), Probabilities(other)]),
            Logits(torch.rand(shape).softmax(dim=0), are_probabilities=True),
        ]

    @pytest.mark.parametrize("temperature", [0.2, 1.0, 3.0])
    def test_is_the_highest_probability_and_the_label_map_stays(self, temperature):
        for scores in self.cases():
            labels, confidence = scores.label_map_and_confidence(temperature, 300)
            assert torch.equal(labels, scores.label_map(300))
            expected = self.probabilities(scores, temperature).amax(dim=0)
            torch.testing.assert_close(confidence, expected, rtol=1e-4, atol=1e-5)

    def test_probabilities_stay_as_they_are_at_temperature_1(self):
        *_, scores = self.cases()
        _, confidence = scores.label_map_and_confidence()
        torch.testing.assert_close(confidence, scores.tensor().amax(dim=0))

    def test_a_probability_that_was_rounded_to_0_is_no_problem(self):
        scores = Logits(torch.tensor([[[1.0]], [[0.0]]]), are_probabilities=True)
        assert scores.label_map_and_confidence(2.0)[1].item() == pytest.approx(1)
        assert scores.at(torch.tensor([0])).isfinite().all()

    def test_stored_logits_do_not_change(self):
        logits = torch.randn(3, 8, 8)
        before = logits.clone()
        Logits(logits).label_map_and_confidence(0.5)
        assert torch.equal(logits, before)

    @many
    @given(st.integers(1, 40), st.integers(1, 600))
    def test_the_logits_of_some_pixels_are_those_of_the_whole(self, count, band_elements):
        for scores in self.cases():
            height, width = scores.shape[1:]
            places = torch.randperm(height * width)[:count].sort().values
            whole = scores.tensor().float()
            whole = whole.log() if scores.are_probabilities else whole
            rows = scores.at(places, band_elements)
            torch.testing.assert_close(rows, whole.flatten(1)[:, places].T, rtol=1e-4, atol=1e-4)
