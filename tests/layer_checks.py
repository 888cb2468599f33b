"""What holds for every layer: a test class takes it in with ``make_part`` and ``shapes``."""

import torch


def outputs_of(part, inputs):
    output = part(*inputs)
    return output if isinstance(output, tuple) else (output,)


class LayerChecks:
    """``make_part()`` is a new layer, ``shapes`` are those of inputs that fit it."""

    def test_gradient(self, make_part, shapes):
        inputs = [torch.randn(shape).double().requires_grad_() for shape in shapes]
        assert torch.autograd.gradcheck(make_part().double(), inputs)

    def test_every_parameter_has_a_gradient(self, make_part, shapes):
        part = make_part()
        sum(x.square().sum() for x in outputs_of(part, [torch.randn(s) for s in shapes])).backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in part.parameters())

    def test_works_under_autocast_on_non_contiguous_input(self, make_part, shapes):
        part = make_part().eval()
        inputs = [
            torch.randn(shape[::-1]).permute(*reversed(range(len(shape)))) for shape in shapes
        ]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = outputs_of(part, inputs)
        expected = outputs_of(part, [x.contiguous() for x in inputs])
        for output, of_float32 in zip(outputs, expected):
            torch.testing.assert_close(output.float(), of_float32, atol=0.1, rtol=0.1)

    def test_images_of_a_batch_do_not_influence_each_other_at_test_time(self, make_part, shapes):
        part = make_part().eval()
        inputs = [torch.randn(shape) for shape in shapes]
        first = outputs_of(part, [x[:1] for x in inputs])
        for output, of_first in zip(outputs_of(part, inputs), first):
            torch.testing.assert_close(output[:1], of_first)
