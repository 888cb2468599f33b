"""The distillation loss on its own; the classifiers' tests compare it with the papers' formulas."""

import pytest
import torch

from d2_ctxseg.losses.distillation import DISTILLATION_WEIGHTINGS, distillation_loss

BOUNDARY = torch.zeros(1, 4, 5, dtype=torch.bool)


@pytest.mark.parametrize("weighting", ["plain", "entropy"])
def test_a_boundary_needs_averages_by_class(weighting):
    logits, labels = torch.randn(1, 3, 4, 5), torch.zeros(1, 4, 5, dtype=torch.int64)
    with pytest.raises(ValueError, match="a boundary needs 'class' or 'class_entropy'"):
        distillation_loss(logits, logits, labels, weighting=weighting, boundary=BOUNDARY)


@pytest.mark.parametrize("target", ["half_smoothed", "kl"])
@pytest.mark.parametrize("weighting", DISTILLATION_WEIGHTINGS)
def test_where_every_pixel_is_ignored_loss_and_gradient_are_0(target, weighting):
    student = torch.randn(1, 3, 4, 5, requires_grad=True)
    labels = torch.full((1, 4, 5), 255)
    loss = distillation_loss(
        student, torch.randn(1, 3, 4, 5), labels, target=target, weighting=weighting
    )
    loss.backward()
    assert loss == 0 and not student.grad.any()


@pytest.mark.parametrize("weighting", DISTILLATION_WEIGHTINGS)
def test_equal_predictions_have_no_divergence(weighting):
    logits, labels = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 4, 5))
    loss = distillation_loss(logits, logits, labels, target="kl", weighting=weighting)
    torch.testing.assert_close(loss, torch.tensor(0.0), atol=1e-6, rtol=0)
