"""timm's "same" padding: as numbers where the sides are multiples of the stride."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import pad_same
from timm.layers.pool2d_same import MaxPool2dSame
from timm.layers.std_conv import StdConv2dSame
from torch import nn

from d2_ctxseg.deployment.same_padding import pad_multiple, same_padding_of_multiples

pairs = st.tuples(st.integers(1, 7), st.integers(1, 7))
few = st.tuples(st.integers(1, 4), st.integers(1, 4))


@given(kernel=pairs, stride=few, dilation=few, times=few, value=st.sampled_from([0.0, -torch.inf]))
def test_is_what_timm_pads(kernel, stride, dilation, times, value):
    image = torch.rand(2, *(step * count for step, count in zip(stride, times)))
    expected = pad_same(image, kernel, stride, dilation, value)
    assert torch.equal(pad_multiple(image, kernel, stride, dilation, value), expected)


def network() -> nn.Module:
    layers = [StdConv2dSame(3, 4, 3, stride=2), Conv2dSame(4, 4, 5, stride=2), MaxPool2dSame(3, 2)]
    return nn.Sequential(*layers).eval()


def paddings(module: nn.Module) -> list:
    """The amounts that a traced module pads by, in images whose sides are free multiples of 8."""
    eighth = torch.export.Dim("eighth", min=2)
    exported = torch.export.export(
        module,
        (torch.rand(1, 3, 32, 48),),
        dynamic_shapes={"input": {3: 8 * eighth}},
        strict=False,
    )
    pads = [node for node in exported.graph.nodes if "pad" in str(node.target)]
    assert len(pads) == 3
    return [amount for node in pads for amount in node.args[1]]


def test_a_traced_model_has_numbers_for_it():
    module = network()
    with same_padding_of_multiples():
        assert all(isinstance(amount, int) for amount in paddings(module))
    assert not all(isinstance(amount, int) for amount in paddings(module))


def test_the_results_are_the_same():
    module, image = network(), torch.rand(2, 3, 24, 40)
    expected = module(image)
    with same_padding_of_multiples():
        assert torch.equal(module(image), expected)


def test_afterwards_timm_pads_as_before():
    module, image = network(), torch.rand(1, 3, 21, 33)
    expected = module(image)
    with pytest.raises(RuntimeError, match="on the way"), same_padding_of_multiples():
        raise RuntimeError("on the way")
    assert torch.equal(module(image), expected)
