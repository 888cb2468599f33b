"""The reliability diagram and the risk-coverage curve as a file of an evaluation."""

import os
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ..utils.files import write_json
from .calibration import PIXELS, calibration_metrics, reliability, risk_at

FILE_NAME = "calibration.json"
# Where the risk is written, as shares of the pixels.
_COVERAGES = np.arange(1, 101) / 100


def write_calibration(folder: str | os.PathLike, counts: np.ndarray | None) -> None:
    """Write ``calibration.json``; without counts, remove the one of an earlier evaluation.

    Args:
        folder: where an evaluation's files are.
        counts: of ``calibration.confidence_counts``.
    """
    path = Path(folder) / FILE_NAME
    if counts is None:
        path.unlink(missing_ok=True)
        return
    bins = {name: values.tolist() for name, values in asdict(reliability(counts)).items()}
    content = {
        "pixels": int(counts[PIXELS].sum()),
        **calibration_metrics(counts),
        "reliability": bins,
        "risk_coverage": {
            "coverage": _COVERAGES.tolist(),
            "risk": risk_at(counts, _COVERAGES).tolist(),
        },
    }
    write_json(path, content)
