"""The result file on confidences: reliability diagram and risk-coverage curve."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..utils.files import write_json
from .calibration import PIXELS, Reliability, calibration_metrics, reliability, risk_at

FILE_NAME = "calibration.json"
# Where the risk is written, as shares of the pixels.
_COVERAGES = np.arange(1, 101) / 100


@dataclass(frozen=True)
class Calibration:
    """The content of ``calibration.json``.

    Attributes:
        pixels: number of evaluated pixels.
        metrics: metrics of ``calibration.calibration_metrics``, in per cent.
        reliability: shares, not per cent.
        coverage: shares of the pixels, the surest ones, 0.01 to 1.
        risk: share of errors among them.
    """

    pixels: int
    metrics: dict[str, float]
    reliability: Reliability
    coverage: np.ndarray
    risk: np.ndarray

    @classmethod
    def of_counts(cls, counts: np.ndarray) -> "Calibration":
        """From ``calibration.confidence_counts``, not empty."""
        pixels, metrics = int(counts[PIXELS].sum()), calibration_metrics(counts)
        return cls(pixels, metrics, reliability(counts), _COVERAGES, risk_at(counts, _COVERAGES))

    def write(self, folder: str | os.PathLike) -> None:
        """Write the file into a folder; NaN becomes null."""
        bins = {name: values.tolist() for name, values in asdict(self.reliability).items()}
        curve = {"coverage": self.coverage.tolist(), "risk": self.risk.tolist()}
        content = {"pixels": self.pixels, **self.metrics, "reliability": bins}
        write_json(Path(folder) / FILE_NAME, {**content, "risk_coverage": curve})

    @classmethod
    def read(cls, path: str | os.PathLike) -> "Calibration":
        """Read what :meth:`write` wrote.

        Raises:
            OSError: there is no such file.
            ValueError: it holds something else.
        """
        try:
            content = json.loads(Path(path).read_bytes())
            bins = {name: _numbers(values) for name, values in content["reliability"].items()}
            curve = [_numbers(content["risk_coverage"][name]) for name in ("coverage", "risk")]
            metrics = {name: float(content[name]) for name in ("ECE", "AURC")}
            return cls(int(content["pixels"]), metrics, Reliability(**bins), *curve)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error


def _numbers(values: list) -> np.ndarray:
    """Of a list of JSON, null as NaN; ValueError for anything else."""
    array = np.array(values, dtype=float)
    if array.ndim != 1:
        raise ValueError(f"expected a list of numbers, not {values!r}")
    return array
