"""Semantic segmentation in Detectron2 with context-aware classifiers.

Importing the package makes ``detectron2`` importable (the installed one, or the embedded runtime)
and registers the project's datasets, backbones, heads and meta-architectures. Datasets whose names
Detectron2 or other projects use as well (ADE20K, Cityscapes, coco_2017) are registered when a
config or a function of this project names one, or by ``data.register_builtin_datasets()``.
"""

import sys
import warnings
from importlib import import_module

from .utils.runtime import ensure_detectron2

__version__ = "0.1.0"
__all__ = ["add_ctxseg_config", "load_segmentor", "push_to_hub"]
# Where the names of __all__ are; they are imported when they are asked for.
_PLACES = {
    "add_ctxseg_config": ".config",
    "load_segmentor": ".model_zoo",
    "push_to_hub": ".model_zoo",
}

ensure_detectron2()


def register() -> None:
    """Register everything in Detectron2. Further calls have no effect."""
    with warnings.catch_warnings():
        # Of timm and segmentation-models-pytorch, whose imports call torch.jit.script.
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", DeprecationWarning)
        from . import data, modeling  # noqa: F401  (their import registers)

    data.register_builtin_datasets(data.unshared_names())


def __getattr__(name: str):
    if name not in _PLACES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    register()
    return getattr(import_module(_PLACES[name], __name__), name)


# A command of this project, and no other program, reads its arguments first: see d2_ctxseg_cli.py.
_command = sys.modules.get("d2_ctxseg_cli")
if not (_command and _command.reading_arguments):
    register()
