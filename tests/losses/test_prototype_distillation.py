"""Distillation of class prototypes against loops over classes."""

import pytest
import torch

from d2_ctxseg.losses import prototype_distillation as module
from d2_ctxseg.losses.prototype_distillation import channel_distillation, relation_distillation


def vectors(seed, batch=2, classes=6, channels=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, classes, channels, generator=generator, dtype=torch.float64)


def plain_relation_distillation(student, teacher, scale):
    batch, classes, _ = student.shape
    total = 0.0
    for s, t in zip(student, teacher):
        s, t = s / s.norm(dim=1, keepdim=True), t / t.norm(dim=1, keepdim=True)
        for i in range(classes):
            relations = torch.stack([scale * (s[i] @ s[j].detach()) for j in range(classes)])
            expected = torch.stack([scale * (t[i] @ t[j]) for j in range(classes)])
            excess = relations.softmax(0) - expected.softmax(0).detach()
            total = total + sum(excess[j].clamp(min=0) for j in range(classes) if j != i)
    return total / (batch * classes)


class TestRelations:
    @pytest.mark.parametrize("rows", [None, 1, 4])
    @pytest.mark.parametrize("scale", [15.0, 2.0])
    def test_value_and_gradient_in_blocks_of_any_number_of_rows(self, monkeypatch, rows, scale):
        student, teacher = vectors(0).requires_grad_(), vectors(1).requires_grad_()
        expected = plain_relation_distillation(student, teacher, scale)
        (gradient,) = torch.autograd.grad(expected, student)
        if rows:
            monkeypatch.setattr(module, "_RELATIONS", rows * 2 * 6)
        loss = relation_distillation(student, teacher, scale)
        loss.backward()
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(student.grad, gradient)
        assert teacher.grad is None

    def test_is_0_where_no_class_is_confused_more_than_in_the_teacher(self):
        student = vectors(0)
        assert relation_distillation(student, student) == 0
        orthogonal = torch.eye(5, dtype=torch.float64)[None]
        assert relation_distillation(orthogonal, torch.ones_like(orthogonal)) == 0
        assert relation_distillation(torch.ones_like(orthogonal), orthogonal) > 0.5

    def test_of_a_single_class_is_0(self):
        assert relation_distillation(vectors(0, classes=1), vectors(1, classes=1)) == 0


class TestChannels:
    def test_is_a_cross_entropy_over_the_channels(self):
        student, teacher = vectors(2).requires_grad_(), vectors(3).requires_grad_()
        loss = channel_distillation(student, teacher)
        losses = [
            -(t.softmax(0) * s.softmax(0).log()).sum()
            for s, t in zip(student.flatten(0, 1), teacher.flatten(0, 1))
        ]
        torch.testing.assert_close(loss, torch.stack(losses).mean())
        loss.backward()
        expected = (student.detach().softmax(2) - teacher.detach().softmax(2)) / 12
        torch.testing.assert_close(student.grad, expected)
        assert teacher.grad is None


@pytest.mark.parametrize("function", [relation_distillation, channel_distillation])
def test_half_precision_is_computed_in_single(function):
    student, teacher = vectors(0).bfloat16(), vectors(1).bfloat16()
    loss = function(student, teacher)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, function(student.float(), teacher.float()))
