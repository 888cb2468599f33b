"""Shared by all tests: Detectron2 made importable, one thread per process, clean registries."""

import pytest
import torch

import d2_ctxseg  # noqa: F401  (makes detectron2 importable)

# The suite runs in several processes (pytest-xdist) on few cores.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
