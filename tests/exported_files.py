"""For the tests of the export: names of files, and what a format needs."""

from pathlib import Path

import pytest

from d2_ctxseg.deployment.export import SUFFIXES


def exported_file(folder: Path, export_format: str) -> Path:
    """The name of a file to write in that format."""
    return folder / f"model{SUFFIXES[export_format]}"


def needs(export_format: str) -> None:
    """Skips the test where packages that only this format needs are missing."""
    if export_format == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
