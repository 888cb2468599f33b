"""The pixel loss against PyTorch's, DeepLab's and mmsegmentation's, and what must not change it."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from d2_ctxseg.losses import PixelLoss, segmentation_cross_entropy
from d2_ctxseg.losses import interpolation_bands as bands

WEIGHTS = [0.5, 2.0, 0.0, 1.25]
NUM_CLASSES = len(WEIGHTS)


def upsample(logits, labels, align_corners=False):
    size = labels.shape[-2:]
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=align_corners)


def batch(size=(3, 4), label_size=(7, 9), dtype=torch.float64, ignored=True):
    logits = 3 * torch.randn(2, NUM_CLASSES, *size, dtype=dtype)
    labels = torch.randint(0, NUM_CLASSES, (2, *label_size))
    labels[1, 0, 0] = 0  # at least one of a class with a weight above 0
    if ignored:
        labels[0, :2] = 255
    return logits, labels


def value_and_gradient(function, logits):
    logits = logits.detach().clone().requires_grad_()
    loss = function(logits)
    loss.backward()
    return loss.detach(), logits.grad


def deeplab_ce(logits, labels, share, ignore_label=255):
    """DeepLabCE of Detectron2 (projects/deeplab/deeplab/loss.py), without weights."""
    losses = F.cross_entropy(logits, labels, ignore_index=ignore_label, reduction="none")
    losses = losses.contiguous().view(-1)
    return losses.topk(int(share * losses.numel())).values.mean()


def ohem_pixels(logits, labels, threshold, min_kept, ignore_label=255):
    """The pixels that OHEMPixelSampler of mmsegmentation keeps, with ``min_kept`` a batch."""
    valid = labels != ignore_label
    probability = logits.softmax(dim=1).gather(1, labels.where(valid, 0)[:, None])[:, 0]
    of_valid = probability[valid].sort().values
    least = of_valid[min(min_kept, of_valid.numel() - 1)]
    return valid & (probability < max(least, threshold))


class TestAgainstPyTorch:
    @pytest.mark.parametrize("label_size", [(7, 9), (3, 4), (2, 3)])
    @pytest.mark.parametrize("weights", [None, WEIGHTS])
    @pytest.mark.parametrize("smoothing", [0.0, 0.3])
    @pytest.mark.parametrize("align_corners", [False, True])
    def test_value_and_gradient(self, label_size, weights, smoothing, align_corners, monkeypatch):
        monkeypatch.setattr(bands, "_BAND_ELEMENTS", {"cpu": 2 * 2 * NUM_CLASSES * label_size[1]})
        monkeypatch.setattr(bands, "_MIN_BAND_ROWS", 1)
        logits, labels = batch(label_size=label_size)
        loss = PixelLoss(
            class_weights=weights, label_smoothing=smoothing, align_corners=align_corners
        )
        expected = value_and_gradient(
            lambda x: F.cross_entropy(
                upsample(x, labels, align_corners),
                labels,
                torch.tensor(weights, dtype=x.dtype) if weights else None,
                ignore_index=255,
                label_smoothing=smoothing,
            ),
            logits,
        )
        torch.testing.assert_close(value_and_gradient(lambda x: loss(x, labels), logits), expected)

    @pytest.mark.parametrize("label_size", [(3, 4), (7, 9)])
    def test_a_negative_ignore_label_is_ignored_with_smoothing_too(self, label_size):
        logits, labels = batch(label_size=label_size)
        expected = PixelLoss(label_smoothing=0.3)(logits, labels)
        labels = labels.where(labels != 255, -1)
        loss = PixelLoss(ignore_label=-1, label_smoothing=0.3)(logits, labels)
        torch.testing.assert_close(loss, expected)

    def test_gradient_by_finite_differences(self):
        logits, labels = batch()
        loss = PixelLoss(class_weights=WEIGHTS, label_smoothing=0.2)
        assert torch.autograd.gradcheck(lambda x: loss(x, labels), logits.requires_grad_())

    def test_align_corners_can_be_another_in_a_call(self):
        logits, labels = batch()
        expected = PixelLoss(align_corners=True)(logits, labels)
        assert torch.equal(PixelLoss()(logits, labels, align_corners=True), expected)
        assert not torch.equal(PixelLoss()(logits, labels), expected)


class TestHardPixels:
    @pytest.mark.parametrize("label_size", [(3, 4), (17, 9)])
    @pytest.mark.parametrize("share", [0.01, 0.2, 0.7])
    def test_are_deeplabs_where_enough_pixels_are_labelled(self, label_size, share):
        """With up to 0.7 of the pixels taken and fewer than 0.3 ignored, N is the same."""
        logits, labels = batch(label_size=label_size, ignored=False)
        labels[0, 0] = 255
        share = max(share, 1 / labels.numel())
        expected = value_and_gradient(
            lambda x: deeplab_ce(upsample(x, labels), labels, share), logits
        )
        loss = PixelLoss(hard_pixel_share=share)
        torch.testing.assert_close(value_and_gradient(lambda x: loss(x, labels), logits), expected)

    def test_ignored_pixels_do_not_make_the_loss_smaller(self):
        logits, labels = batch(label_size=(8, 8), ignored=False)
        labels[:, 2:] = 255
        expected = F.cross_entropy(upsample(logits, labels), labels, ignore_index=255)
        loss = PixelLoss(hard_pixel_share=0.5)(logits, labels)
        torch.testing.assert_close(loss, expected)
        assert deeplab_ce(upsample(logits, labels), labels, 0.5) < 0.6 * loss

    @pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9])
    @pytest.mark.parametrize("label_size", [(6, 8), (12, 16)])
    def test_are_those_of_ohem(self, threshold, label_size):
        logits, labels = batch((6, 8), label_size)
        count = int(0.2 * labels.numel())
        upsampled = upsample(logits, labels)
        kept = ohem_pixels(upsampled, labels, threshold, count)
        loss = PixelLoss(hard_pixel_share=0.2, hard_pixel_threshold=threshold)
        assert torch.equal(loss.hard_pixels(logits, labels, False), kept)
        expected = F.cross_entropy(upsampled, labels.where(kept, 255), ignore_index=255)
        torch.testing.assert_close(loss(logits, labels), expected)

    def test_of_equally_hard_ones_that_share_counts(self):
        labels = torch.zeros(1, 10, 10, dtype=torch.int64)
        loss = PixelLoss(hard_pixel_share=0.25)
        hard = loss.hard_pixels(torch.zeros(1, 3, 5, 5), labels, False)
        assert hard.sum() == 25

    def test_weights_count_within_the_hard_ones(self):
        logits, labels = batch()
        loss = PixelLoss(hard_pixel_share=0.3, class_weights=WEIGHTS, label_smoothing=0.1)
        hard = loss.hard_pixels(logits, labels, False)
        plain = PixelLoss(class_weights=WEIGHTS, label_smoothing=0.1)
        torch.testing.assert_close(loss(logits, labels), plain(logits, labels.where(hard, 255)))


class TestInvariants:
    @given(
        seed=st.integers(0, 1000),
        size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
        align_corners=st.booleans(),
    )
    @settings(max_examples=30, deadline=None)
    def test_all_off_is_the_plain_cross_entropy(self, seed, size, align_corners):
        torch.manual_seed(seed)
        logits, labels = batch(size, (5, 4), torch.float32)
        loss = value_and_gradient(
            lambda x: PixelLoss(align_corners=align_corners)(x, labels), logits
        )
        expected = value_and_gradient(
            lambda x: segmentation_cross_entropy(x, labels, 255, align_corners), logits
        )
        assert torch.equal(loss[0], expected[0]) and torch.equal(loss[1], expected[1])

    @given(
        seed=st.integers(0, 1000),
        factor=st.floats(1e-4, 1e4),
        smoothing=st.sampled_from([0.0, 0.1]),
        share=st.sampled_from([1.0, 0.3]),
    )
    @settings(max_examples=30, deadline=None)
    def test_only_the_ratios_of_weights_count(self, seed, factor, smoothing, share):
        torch.manual_seed(seed)
        logits, labels = batch()
        options = {"label_smoothing": smoothing, "hard_pixel_share": share}
        scaled = [factor * weight for weight in WEIGHTS]
        torch.testing.assert_close(
            PixelLoss(class_weights=scaled, **options)(logits, labels),
            PixelLoss(class_weights=WEIGHTS, **options)(logits, labels),
            rtol=1e-5,
            atol=1e-7,
        )

    @given(seed=st.integers(0, 1000), share=st.floats(0.01, 1.0))
    @settings(max_examples=30, deadline=None)
    def test_hard_pixels_have_at_least_the_mean_loss(self, seed, share):
        torch.manual_seed(seed)
        logits, labels = batch()
        plain = PixelLoss()(logits, labels)
        assert PixelLoss(hard_pixel_share=share)(logits, labels) >= plain - 1e-9


OPTIONS = [
    {},
    {"class_weights": WEIGHTS},
    {"label_smoothing": 0.1},
    {"class_weights": WEIGHTS, "label_smoothing": 0.1},
    {"hard_pixel_share": 0.2},
    {"hard_pixel_share": 0.2, "hard_pixel_threshold": 0.7, "class_weights": WEIGHTS},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("label_size", [(3, 4), (7, 9)])
class TestEveryOption:
    @pytest.mark.parametrize("label", [255, 2])  # class 2 has weight 0
    def test_nothing_to_learn_is_0_with_a_gradient_of_0(self, options, label_size, label):
        if label == 2 and "class_weights" not in options:
            return
        labels = torch.full((2, *label_size), label)
        logits = 3 * torch.randn(2, NUM_CLASSES, 3, 4)
        loss, gradient = value_and_gradient(lambda x: PixelLoss(**options)(x, labels), logits)
        assert loss == 0 and torch.equal(gradient, torch.zeros_like(gradient))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_and_autocast_follow_single(self, options, label_size, dtype):
        logits, labels = batch(label_size=label_size, dtype=dtype)
        loss = PixelLoss(**options)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value, gradient = value_and_gradient(lambda x: loss(x, labels), logits)
        expected, exact = value_and_gradient(lambda x: loss(x, labels), logits.float())
        assert value.dtype == torch.float32 and gradient.dtype == dtype
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(gradient, exact.to(dtype))

    def test_double_precision_stays(self, options, label_size):
        logits, labels = batch(label_size=label_size)
        loss = PixelLoss(**options)
        assert loss(logits, labels).dtype == torch.float64
        torch.testing.assert_close(loss(logits, labels).float(), loss(logits.float(), labels))

    def test_labels_of_any_integer_dtype(self, options, label_size):
        logits, labels = batch(label_size=label_size)
        loss = PixelLoss(**options)
        for dtype in (torch.uint8, torch.int16, torch.int32):
            assert torch.equal(loss(logits, labels.to(dtype)), loss(logits, labels))


def test_checkpoints_are_the_same_with_and_without():
    assert PixelLoss(class_weights=WEIGHTS).state_dict() == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hard_pixel_share": 0.0}, "hard_pixel_share is 0.0, expected"),
        ({"hard_pixel_share": 1.5}, "hard_pixel_share is 1.5, expected"),
        ({"hard_pixel_share": math.nan}, "hard_pixel_share is nan, expected"),
        ({"hard_pixel_share": 0.2, "hard_pixel_threshold": 1.0}, "threshold is 1.0, expected"),
        ({"hard_pixel_threshold": 0.7}, "has no effect while hard_pixel_share is 1"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0, expected"),
        ({"label_smoothing": -0.1}, "label_smoothing is -0.1, expected"),
        ({"class_weights": [1.0, -1.0]}, "weight of class 1 is -1.0, expected"),
        ({"class_weights": [math.inf, 1.0]}, "weight of class 0 is inf, expected"),
        ({"class_weights": [0.0, 0.0]}, "are all 0"),
    ],
)
def test_values_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PixelLoss(**options)


def test_memory_does_not_grow_with_classes_times_pixels(monkeypatch):
    """With every option on, too, the largest tensor of a training step is a band."""
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
    labels = torch.randint(0, 20, (1, 64, 64))
    loss = PixelLoss(class_weights=[1.0] * 20, label_smoothing=0.1, hard_pixel_share=0.2)
    with Watch():
        loss(logits, labels).backward()
    assert largest <= 2 * 64 * 64  # the labels, int64
