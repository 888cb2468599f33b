"""Memory of calls and of processes."""

import pytest
import torch

from d2_ctxseg.utils.device import peak_memory, peak_memory_so_far

CPU = torch.device("cpu")
MEBI = 2**18  # of float32


def test_peak_memory_is_the_most_that_is_held_at_a_time():
    def call():
        for _ in range(3):
            torch.empty(MEBI)  # freed at once
        kept = torch.empty(2 * MEBI)
        torch.empty(MEBI)
        return kept

    assert peak_memory(call, CPU) == 3 * 2**20


def test_what_was_there_before_does_not_count():
    before = torch.ones(4 * MEBI)
    assert peak_memory(lambda: before + 1, CPU) == pytest.approx(4 * 2**20, rel=1e-3)


def test_a_process_has_taken_more_than_its_tensors():
    kept = torch.ones(8 * MEBI)
    assert peak_memory_so_far(CPU) > kept.numel() * kept.element_size()
