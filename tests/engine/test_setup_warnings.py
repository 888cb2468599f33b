"""Warnings of setup_config about the machine."""

import pytest
import torch

from d2_ctxseg.engine import setup, setup_config


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_that_there_is_no_gpu_is_said_once(tiny_run, caplog):
    setup._warn_once.cache_clear()
    for _ in range(2):
        assert setup_config(str(tiny_run), ["MODEL.DEVICE", "cuda"]).MODEL.DEVICE == "cpu"
    assert caplog.text.count("No GPU is available") == 1
