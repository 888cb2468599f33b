"""The cross-entropy in bands equals interpolating first, in value, gradient and errors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d2_ctxseg.losses import interpolation_bands as bands
from d2_ctxseg.losses.functional import segmentation_cross_entropy
from d2_ctxseg.losses.upsampled_cross_entropy import (
    plain_upsampled_cross_entropy,
    upsampled_cross_entropy,
)


def plain(logits, labels, align_corners):
    valid = labels != 255
    total = plain_upsampled_cross_entropy(logits, labels.where(valid, 0), valid, align_corners)
    return total / valid.sum()


def value_and_gradient(function, logits, *arguments):
    logits = logits.clone().requires_grad_()
    loss = function(logits, *arguments)
    loss.backward()
    return loss.detach(), logits.grad


sizes = st.tuples(st.integers(1, 9), st.integers(1, 9))


class TestAgainstInterpolation:
    @given(size=sizes, label_size=sizes, align_corners=st.booleans(), rows=st.integers(1, 4))
    @settings(max_examples=60, deadline=None)
    def test_loss_and_gradient(self, size, label_size, align_corners, rows):
        """Any sizes, larger or smaller than the labels, in bands of any number of rows."""
        logits = torch.randn(2, 3, *size, dtype=torch.float64)
        labels = torch.randint(0, 3, (2, *label_size))
        labels[0, 0, 0] = 255
        labels[1, 0, 0] = 1
        band = {"cpu": rows * 2 * 3 * label_size[1]}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bands, "_BAND_ELEMENTS", band)
            patch.setattr(bands, "_MIN_BAND_ROWS", 1)
            result = value_and_gradient(
                lambda x: segmentation_cross_entropy(x, labels, 255, align_corners), logits
            )
        expected = value_and_gradient(plain, logits, labels, align_corners)
        torch.testing.assert_close(result, expected)

    @pytest.mark.parametrize("align_corners", [False, True])
    def test_in_the_way_of_a_gpu(self, align_corners, monkeypatch):
        """Elsewhere than on a CPU, products with matrices interpolate the columns."""
        monkeypatch.setattr(bands, "_has_fast_kernel", lambda logits: False)
        monkeypatch.setattr(bands, "_BAND_ELEMENTS", {"cpu": 1})
        monkeypatch.setattr(bands, "_MIN_BAND_ROWS", 3)
        logits = torch.randn(2, 3, 4, 5, dtype=torch.float64)
        labels = torch.randint(0, 3, (2, 10, 13))
        result = value_and_gradient(
            lambda x: segmentation_cross_entropy(x, labels, 255, align_corners), logits
        )
        expected = value_and_gradient(plain, logits, labels, align_corners)
        torch.testing.assert_close(result, expected)

    def test_with_class_weights_and_label_smoothing(self):
        logits, labels = (
            torch.randn(2, 3, 4, 5, dtype=torch.float64),
            torch.randint(0, 3, (2, 9, 7)),
        )
        valid = torch.rand(2, 9, 7) < 0.8
        weights = torch.rand(3, dtype=torch.float64)
        options = {"class_weights": weights, "label_smoothing": 0.1}
        result, expected = (
            value_and_gradient(lambda x, f=function: f(x, labels, valid, **options), logits)
            for function in (upsampled_cross_entropy, plain_upsampled_cross_entropy)
        )
        torch.testing.assert_close(result, expected)

    def test_large_logits_do_not_overflow(self):
        logits, labels = 1e4 * torch.randn(1, 4, 3, 3), torch.randint(0, 4, (1, 12, 12))
        result = value_and_gradient(segmentation_cross_entropy, logits, labels)
        expected = value_and_gradient(plain, logits, labels, False)
        torch.testing.assert_close(result, expected)


class TestPrecision:
    def test_of_half_precision_logits_is_computed_in_single(self):
        logits, labels = torch.randn(1, 4, 5, 5).bfloat16(), torch.randint(0, 4, (1, 20, 20))
        loss, gradient = value_and_gradient(segmentation_cross_entropy, logits, labels)
        expected, exact = value_and_gradient(segmentation_cross_entropy, logits.float(), labels)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(gradient, exact.bfloat16())

    def test_gradient_by_finite_differences(self):
        labels = torch.randint(0, 3, (1, 7, 6))
        labels[0, 0] = 255
        logits = torch.randn(1, 3, 3, 4, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda x: segmentation_cross_entropy(x, labels), logits)

    def test_without_gradient_none_is_made(self):
        logits, labels = torch.randn(1, 3, 2, 2), torch.randint(0, 3, (1, 4, 4))
        with torch.no_grad():
            loss = segmentation_cross_entropy(logits.requires_grad_(), labels)
        assert not loss.requires_grad
        torch.testing.assert_close(loss, plain(logits, labels, False).detach())


@pytest.mark.parametrize("label_size", [4, 8])
def test_a_label_that_is_no_class_is_an_error(label_size):
    labels = torch.full((1, label_size, label_size), 7)
    with pytest.raises((IndexError, RuntimeError), match="out of (bounds|range)"):
        segmentation_cross_entropy(torch.randn(1, 5, 4, 4), labels)


def test_memory_does_not_grow_with_classes_times_pixels(monkeypatch):
    """The largest tensor of a training step is a band, not K x H x W numbers."""
    monkeypatch.setattr(bands, "_BAND_ELEMENTS", {"cpu": 2**12})
    monkeypatch.setattr(bands, "_MIN_BAND_ROWS", 1)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), kwargs=None):
            nonlocal largest
            result = function(*arguments, **(kwargs or {}))
            for tensor in result if isinstance(result, (tuple, list)) else [result]:
                if isinstance(tensor, torch.Tensor):
                    largest = max(largest, tensor.untyped_storage().nbytes() // 4)
            return result

    logits = torch.randn(1, 20, 16, 16, requires_grad=True)
    labels = torch.randint(0, 20, (1, 64, 64), dtype=torch.uint8)
    with Watch():
        segmentation_cross_entropy(logits, labels).backward()
    # Labels are counted as well: 64 x 64 int64.
    assert largest <= max(2 * 64 * 64, logits.numel(), 2**12)
    assert largest < 20 * 64 * 64 / 5
