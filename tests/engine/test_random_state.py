"""Random states that are preserved, seeded, and stored in a checkpoint."""

# ruff: noqa: NPY002
import io
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d2_ctxseg.engine.random_state import (
    get_random_state,
    preserved_random_state,
    seeded,
    set_random_state,
)

ENTROPY = st.lists(st.integers(0, 2**40), min_size=1, max_size=3)


def draw():
    """Of every generator, and of both of its kinds of numbers."""
    return (
        random.random(),
        random.gauss(0, 1),
        np.random.rand(),
        np.random.randn(),
        torch.rand(1).item(),
        torch.empty(1).exponential_().item(),
    )


@settings(max_examples=25, deadline=None)
@given(ENTROPY, st.integers(0, 5))
def test_a_saved_state_continues_with_the_same_numbers(entropy, num_draws):
    with seeded(*entropy):
        for _ in range(num_draws):
            draw()
        file = io.BytesIO()
        torch.save(get_random_state(), file)
        expected = draw()
        draw()
        file.seek(0)
        set_random_state(torch.load(file, weights_only=True))
        assert draw() == expected


@settings(max_examples=25, deadline=None)
@given(ENTROPY)
def test_numbers_follow_from_the_entropy_alone(entropy):
    with seeded(*entropy):
        first = draw()
    draw()
    with seeded(*entropy):
        assert draw() == first
    with seeded(*entropy, 1):
        assert draw() != first


@pytest.mark.parametrize("context", [preserved_random_state, lambda: seeded(3)])
def test_what_follows_a_block_does_not_depend_on_it(context):
    before = get_random_state()
    expected = draw()
    set_random_state(before)
    with pytest.raises(KeyError), context():
        draw()
        raise KeyError
    assert draw() == expected
