"""Scaling to unit length equals ``F.normalize``, in value and gradient."""

import torch
import torch.nn.functional as F

from d2_ctxseg.losses.functional import unit_length


def test_value_and_gradient_equal_normalize():
    vectors = torch.randn(5, 7, dtype=torch.float64) * 10.0 ** torch.arange(-3, 2)[:, None]
    vectors.requires_grad_()
    slope = torch.randn(5, 7, dtype=torch.float64)
    for result, expected in zip(
        (unit_length(vectors), *torch.autograd.grad((unit_length(vectors) * slope).sum(), vectors)),
        (
            F.normalize(vectors, dim=1),
            *torch.autograd.grad((F.normalize(vectors, dim=1) * slope).sum(), vectors),
        ),
    ):
        torch.testing.assert_close(result, expected)


def test_a_vector_of_zeros_stays_one_and_its_gradient_is_finite():
    zeros = torch.zeros(1, 4, requires_grad=True)
    unit_length(zeros).sum().backward()
    assert not unit_length(zeros).any()
    assert zeros.grad.isfinite().all()
