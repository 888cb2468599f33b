"""python -m d2_ctxseg.utils.collect_env says which Detectron2 runs, and the versions."""

import torch

import detectron2
from d2_ctxseg.utils.collect_env import PACKAGES, collect_env_info
from d2_ctxseg.utils.runtime import is_embedded


def test_report():
    report = collect_env_info()
    kind = "the embedded runtime" if is_embedded() else "the installed Detectron2"
    assert report.startswith(f"Running on {kind}")
    for name in (*PACKAGES, "d2_ctxseg", detectron2.__version__, torch.__version__):
        assert name in report
