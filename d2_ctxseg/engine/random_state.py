"""The random state of a process: preserved, seeded for one purpose, saved in checkpoints."""

# ruff: noqa: NPY002 -- the global generators are those that Detectron2 and PyTorch draw from.
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Restore the state of the CPU's generators after the block."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


@contextmanager
def seeded(*entropy: int) -> Iterator[None]:
    """Seed the CPU's generators in the block, and restore their state after it.

    Args:
        entropy: integers >= 0. Any two sequences of them give independent random numbers.
    """
    words = np.random.SeedSequence(entropy).generate_state(4)
    with preserved_random_state():
        random.seed(words.tobytes())
        np.random.seed(words)
        # Not torch.manual_seed, which would seed GPUs as well.
        torch.default_generator.manual_seed(int.from_bytes(words[:2].tobytes(), "little") >> 1)
        yield


def get_random_state() -> dict:
    """The state of Python's, numpy's and torch's generators, as numbers and tensors.

    Returns:
        "python", "numpy", "torch", and with a GPU "cuda" (of the current one).
    """
    version, words, gauss = random.getstate()
    _, key, position, has_gauss, cached = np.random.get_state()
    state = {
        "python": {"version": version, "words": torch.tensor(words), "gauss": gauss},
        "numpy": {
            "key": torch.from_numpy(key.astype(np.int64)),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "gauss": float(cached),
        },
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict) -> None:
    """Restore the result of :func:`get_random_state`."""
    python, numpy = state["python"], state["numpy"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    key = numpy["key"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", key, numpy["position"], numpy["has_gauss"], numpy["gauss"]))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
