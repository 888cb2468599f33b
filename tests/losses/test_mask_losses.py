"""The losses of class masks against a loop over images, classes and pixels, and bad batches."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d2_ctxseg.losses.mask_losses import (
    binary_cross_entropy_mask_loss,
    dice_mask_loss,
    mask_targets,
    sigmoid_focal_mask_loss,
    weighted_mask_losses,
)

MASK_LOSS_FUNCTIONS = [sigmoid_focal_mask_loss, binary_cross_entropy_mask_loss, dice_mask_loss]
every_mask_loss = pytest.mark.parametrize("loss_function", MASK_LOSS_FUNCTIONS)


def focal_of_pixels(probabilities, truths):
    losses = []
    for p, t in zip(probabilities, truths):
        of_true_answer = p if t else 1 - p
        alpha = 0.25 if t else 0.75
        losses.append(-alpha * (1 - of_true_answer) ** 2 * math.log(of_true_answer))
    return sum(losses) / len(losses)


def cross_entropy_of_pixels(probabilities, truths):
    losses = [-math.log(p if t else 1 - p) for p, t in zip(probabilities, truths)]
    return sum(losses) / len(losses)


def dice_of_pixels(probabilities, truths):
    overlap = sum(p * t for p, t in zip(probabilities, truths))
    return 1 - (2 * overlap + 1) / (sum(probabilities) + sum(truths) + 1)


def pair_by_pair(of_pixels, mask_logits, labels, ignore_label):
    """Mean over every class that an image holds, from its labelled pixels."""
    losses = []
    for image_logits, image_labels in zip(mask_logits, labels):
        labelled = image_labels != ignore_label
        for k, class_logits in enumerate(image_logits):
            if (image_labels == k).any():
                truths = (image_labels == k)[labelled].long().tolist()
                losses.append(of_pixels(class_logits[labelled].sigmoid().tolist(), truths))
    return sum(losses) / len(losses)


def random_batch(ignored=0.3, classes=5, size=(2, 4, 6)):
    labels = torch.randint(0, classes - 1, size)  # the last class is absent
    labels[torch.rand(size) < ignored] = 255
    return torch.randn(size[0], classes, *size[1:]).double(), labels


class TestMaskTargets:
    labels = torch.tensor([[[0, 0, 2, 2], [0, 0, 2, 2], [1, 1, 255, 9], [1, 1, 9, 9]]])

    def test_at_the_size_of_the_labels(self):
        targets, valid, present = mask_targets(self.labels, 4, (4, 4))
        assert targets.shape == (1, 4, 4, 4) and targets.dtype == torch.float32
        assert torch.equal(targets[0, 2], (self.labels[0] == 2).float())
        assert torch.equal(valid[0, 0], (self.labels[0] < 4).float())
        assert present.tolist() == [[1, 1, 1, 0]]

    def test_labels_are_resized_by_nearest_neighbour(self):
        targets, valid, present = mask_targets(self.labels, 4, (2, 2))
        assert targets[0, :3].argmax(dim=0).tolist() == [[0, 2], [1, 0]]
        assert valid.tolist() == [[[[1, 1], [1, 0]]]]
        assert present.tolist() == [[1, 1, 1, 0]]

    def test_a_label_to_ignore_may_be_that_of_a_class(self):
        targets, valid, present = mask_targets(self.labels, 4, (4, 4), ignore_label=0)
        assert present.tolist() == [[0, 1, 1, 0]]
        assert valid[0, 0, 0, 0] == 0 and targets[0, 0].sum() == 0

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
    def test_labels_of_any_integer_dtype(self, dtype):
        expected = mask_targets(self.labels, 4, (2, 2))
        for of_dtype, of_int64 in zip(mask_targets(self.labels.to(dtype), 4, (2, 2)), expected):
            assert torch.equal(of_dtype, of_int64)


class TestAgainstPairByPairReference:
    @pytest.mark.parametrize(
        "loss_function, of_pixels",
        zip(MASK_LOSS_FUNCTIONS, [focal_of_pixels, cross_entropy_of_pixels, dice_of_pixels]),
    )
    def test_mean_over_present_classes_of_labelled_pixels(self, loss_function, of_pixels):
        mask_logits, labels = random_batch()
        loss = loss_function(mask_logits, *mask_targets(labels, 5, (4, 6)))
        expected = pair_by_pair(of_pixels, mask_logits, labels, 255)
        assert loss.dtype == torch.float64
        assert loss.item() == pytest.approx(expected, rel=1e-6)


@every_mask_loss
class TestEveryMaskLoss:
    @given(
        batch=st.integers(1, 3),
        classes=st.integers(1, 5),
        size=st.tuples(st.integers(1, 4), st.integers(1, 4)),
        ignored=st.sampled_from([0.0, 0.5, 1.0]),
        scale=st.sampled_from([1.0, 200.0]),
        seed=st.integers(0, 1000),
    )
    @settings(max_examples=25, deadline=None)
    def test_is_finite_and_not_negative(
        self, loss_function, batch, classes, size, ignored, scale, seed
    ):
        torch.manual_seed(seed)
        labels = torch.randint(0, classes, (batch, *size))
        labels[torch.rand(labels.shape) < ignored] = 255
        mask_logits = (torch.randn(batch, classes, *size) * scale).requires_grad_()
        loss = loss_function(mask_logits, *mask_targets(labels, classes, size))
        loss.backward()
        assert torch.isfinite(loss) and loss >= 0
        assert torch.isfinite(mask_logits.grad).all()

    def test_is_0_with_gradient_0_where_everything_is_ignored(self, loss_function):
        mask_logits = torch.randn(2, 3, 4, 4, requires_grad=True)
        loss = loss_function(mask_logits, *mask_targets(torch.full((2, 4, 4), 255), 3, (4, 4)))
        loss.backward()
        assert loss == 0
        assert torch.equal(mask_logits.grad, torch.zeros_like(mask_logits))

    def test_ignored_pixels_and_absent_classes_take_no_part(self, loss_function):
        mask_logits, labels = random_batch()
        mask_logits.requires_grad_()
        loss_function(mask_logits, *mask_targets(labels, 5, (4, 6))).backward()
        assert (mask_logits.grad.transpose(0, 1)[:, labels == 255] == 0).all()
        assert (mask_logits.grad[:, 4] == 0).all()
        assert (mask_logits.grad.transpose(0, 1)[:4, labels != 255] != 0).all()

    def test_is_small_for_the_true_masks_and_large_for_their_opposite(self, loss_function):
        _, labels = random_batch()
        truth = mask_targets(labels, 5, (4, 6))
        right = (2 * truth.targets - 1) * 10
        assert loss_function(right, *truth) < 1e-3
        assert loss_function(-right, *truth) > 0.5

    def test_gradient(self, loss_function):
        mask_logits, labels = random_batch(size=(1, 2, 3))
        truth = [x.double() for x in mask_targets(labels, 5, (2, 3))]
        assert torch.autograd.gradcheck(
            lambda x: loss_function(x, *truth), mask_logits.requires_grad_()
        )

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_sums_over_a_large_map_do_not_overflow_in_half_precision(self, loss_function, dtype):
        mask_logits = torch.full((1, 1, 300, 300), 3.0)
        truth = mask_targets(torch.zeros(1, 300, 300, dtype=torch.long), 1, (300, 300))
        expected = loss_function(mask_logits, *truth)
        with torch.autocast("cpu", dtype=dtype):
            loss = loss_function(mask_logits.to(dtype), *truth)
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, expected)


class TestWeightedMaskLosses:
    def test_weights_scale_losses_and_0_leaves_them_out(self):
        mask_logits, labels = random_batch()
        plain = weighted_mask_losses(mask_logits, labels, weight_mask=1.0, weight_dice=1.0)
        default = weighted_mask_losses(mask_logits, labels)
        assert set(default) == {"loss_mask", "loss_dice"}
        torch.testing.assert_close(default["loss_mask"], 5.0 * plain["loss_mask"])
        torch.testing.assert_close(default["loss_dice"], 2.0 * plain["loss_dice"])
        assert set(weighted_mask_losses(mask_logits, labels, weight_mask=0.0)) == {"loss_dice"}
        assert weighted_mask_losses(mask_logits, labels, weight_mask=0.0, weight_dice=0.0) == {}

    def test_the_mask_loss_can_be_chosen(self):
        mask_logits, labels = random_batch()
        truth = mask_targets(labels, 5, (4, 6))
        for name, function in [
            ("focal", sigmoid_focal_mask_loss),
            ("bce", binary_cross_entropy_mask_loss),
        ]:
            losses = weighted_mask_losses(mask_logits, labels, mask_loss=name, weight_mask=1.0)
            torch.testing.assert_close(losses["loss_mask"], function(mask_logits, *truth))

    def test_masks_are_compared_at_their_own_resolution(self):
        mask_logits, labels = random_batch()
        enlarged = labels.repeat_interleave(3, dim=1).repeat_interleave(3, dim=2)
        expected = weighted_mask_losses(mask_logits, labels)
        assert weighted_mask_losses(mask_logits, enlarged) == expected

    def test_an_unknown_mask_loss_is_refused(self):
        with pytest.raises(ValueError, match="mask_loss is 'hinge', expected one of focal, bce"):
            weighted_mask_losses(*random_batch(), mask_loss="hinge")
