"""Semantic segmentation in Detectron2 with classifiers that know the image they look at.

Importing the package makes ``detectron2`` importable (the installed one, or the embedded runtime)
and registers the project's datasets, backbones, heads and meta-architectures. Datasets whose names
Detectron2 or other projects use as well (ADE20K, Cityscapes, coco_2017) are registered when a
config or a function of this project names one, or by ``data.register_builtin_datasets()``.
"""

from .utils.runtime import ensure_detectron2

ensure_detectron2()

from . import data, modeling  # noqa: E402, F401  (registration needs detectron2)
from .config import add_ctxseg_config  # noqa: E402

data.register_builtin_datasets(data.unshared_names())

__version__ = "0.1.0"
__all__ = ["add_ctxseg_config"]
