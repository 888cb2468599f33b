"""The versions that matter for a bug report: ``python -m detectron2.utils.collect_env``."""

import importlib
import os
import sys

import torch
from tabulate import tabulate

__all__ = ["collect_env_info"]

# Import names of the libraries that are listed.
LIBRARIES = (
    "numpy",
    "torchvision",
    "fvcore",
    "iopath",
    "PIL",
    "cv2",
)


def collect_env_info() -> str:
    """A text table: platform, Python, detectron2, torch, GPUs, libraries; then torch's build."""
    rows = [
        ("sys.platform", sys.platform),
        ("Python", sys.version.replace("\n", "")),
        ("detectron2", _describe("detectron2")),
        ("PyTorch", _describe("torch")),
        ("PyTorch debug build", torch.version.debug),
        *_gpu_rows(),
        *((name, _describe(name)) for name in LIBRARIES),
    ]
    return tabulate(rows) + "\n" + torch.__config__.show()


def _describe(module_name: str) -> str:
    """Version and folder of a library."""
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        return f"cannot be imported: {error}"
    return f"{module.__version__} @{os.path.dirname(module.__file__)}"


def _gpu_rows() -> list[tuple[str, str]]:
    if not torch.cuda.is_available():
        return [("GPU available", "No: torch.cuda.is_available() == False")]
    rows = [("GPU available", "Yes"), ("CUDA", str(torch.version.cuda))]
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        rows.append((f"GPU {index}", f"{torch.cuda.get_device_name(index)} (arch={major}.{minor})"))
    return rows


if __name__ == "__main__":
    print(collect_env_info())
