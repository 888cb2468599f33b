"""The dice loss in bands equals interpolating first, in value, gradient and memory."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from d2_ctxseg.losses import interpolation_bands as bands
from d2_ctxseg.losses import upsampled_dice as module
from d2_ctxseg.losses.upsampled_dice import class_sizes, plain_upsampled_dice, upsampled_dice


def class_by_class(logits, labels, valid, align_corners):
    """A loop over images and the classes that each of them has."""
    size = labels.shape[1:]
    logits = F.interpolate(logits, size, mode="bilinear", align_corners=align_corners)
    total = logits.new_zeros(())
    for scores, image, known in zip(logits.sigmoid(), labels, valid):
        for k in image[known].unique():
            target = ((image == k) & known).to(scores)
            overlap = (scores[k] * target).sum()
            total = total + 1 - (2 * overlap + 1) / (scores[k].sum() + target.sum() + 1)
    return total


def value_and_gradient(function, logits, *arguments):
    logits = logits.clone().requires_grad_()
    loss = function(logits, *arguments)
    loss.backward()
    return loss.detach(), logits.grad


def batch(size=(3, 4), label_size=(7, 9), classes=5, ignored=0.2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    options = {"generator": generator, "dtype": torch.float64}
    logits = 3 * torch.randn(2, classes, *size, **options)
    # The last class is absent.
    labels = torch.randint(0, max(1, classes - 1), (2, *label_size), generator=generator)
    valid = torch.rand(2, *label_size, generator=generator) >= ignored
    return logits, labels, valid


@pytest.fixture(params=["present classes", "all classes"])
def path(request, monkeypatch):
    """The way of the CPU, and the one of devices that would have to be waited for."""
    if request.param == "all classes":
        monkeypatch.setattr(module, "_without_absent_classes", lambda x, labels, valid: (x, labels))


sizes = st.tuples(st.integers(1, 9), st.integers(1, 9))


@pytest.mark.usefixtures("path")
class TestAgainstInterpolation:
    @pytest.mark.parametrize("align_corners", [False, True])
    @pytest.mark.parametrize("ignored", [0.0, 0.3, 1.0])
    def test_loss_and_gradient(self, align_corners, ignored):
        arguments = (*batch(ignored=ignored), align_corners)
        result = value_and_gradient(upsampled_dice, *arguments)
        torch.testing.assert_close(result, value_and_gradient(plain_upsampled_dice, *arguments))
        if ignored == 1:
            assert result[0] == 0 and not result[1].any()
        else:
            torch.testing.assert_close(result, value_and_gradient(class_by_class, *arguments))

    def test_gradient_by_finite_differences(self):
        logits, labels, valid = batch()
        logits.requires_grad_()
        assert torch.autograd.gradcheck(lambda x: upsampled_dice(x, labels, valid, True), logits)

    def test_half_precision_is_computed_in_single(self):
        logits, labels, valid = batch()
        loss, gradient = value_and_gradient(upsampled_dice, logits.bfloat16(), labels, valid)
        rounded = logits.bfloat16().float()
        expected, exact = value_and_gradient(upsampled_dice, rounded, labels, valid)
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(gradient, exact.bfloat16())

    def test_without_gradient_none_is_made(self):
        logits, labels, valid = batch()
        with torch.no_grad():
            loss = upsampled_dice(logits.requires_grad_(), labels, valid)
        assert not loss.requires_grad
        torch.testing.assert_close(loss, plain_upsampled_dice(logits, labels, valid).detach())


@given(
    size=sizes,
    label_size=sizes,
    align_corners=st.booleans(),
    rows=st.integers(1, 4),
    classes=st.integers(1, 4),
    seed=st.integers(0, 100),
)
@settings(max_examples=60, deadline=None)
def test_any_sizes_in_bands_of_any_number_of_rows(
    size, label_size, align_corners, rows, classes, seed
):
    arguments = (*batch(size, label_size, classes, seed=seed), align_corners)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bands, "_BAND_ELEMENTS", {"cpu": rows * 2 * classes * label_size[1]})
        patch.setattr(bands, "_MIN_BAND_ROWS", 1)
        result = value_and_gradient(upsampled_dice, *arguments)
    torch.testing.assert_close(result, value_and_gradient(plain_upsampled_dice, *arguments))


def test_sizes_count_the_valid_pixels_of_each_class():
    labels = torch.tensor([[[0, 2, 2]], [[1, 1, 0]]])
    valid = torch.tensor([[[True, True, True]], [[True, True, False]]])
    assert class_sizes(labels, valid, 4).tolist() == [[1, 0, 2, 0], [0, 2, 0, 0]]


@pytest.mark.usefixtures("path")
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

    logits, labels, valid = batch((16, 16), (64, 64), 21)
    logits = logits.float().requires_grad_()
    with Watch():
        upsampled_dice(logits, labels, valid).backward()
    # Labels and indices of both images are counted as well: 64 x 64 int64 each.
    assert largest <= max(2 * 2 * 64 * 64, logits.numel())
    assert largest < 2 * 20 * 64 * 64 / 5
