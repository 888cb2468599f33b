"""Turns a request for a part of Detectron2 that is not covered here into a helpful ImportError."""

import importlib
import sys

INSTALL_GUIDE = "https://detectron2.readthedocs.io/en/latest/tutorials/install.html"


def not_covered(name: str) -> str:
    """The message for ``name``, the full dotted name that was asked for."""
    return (
        f"'{name}' is not part of the embedded Detectron2 runtime of d2_ctxseg, which covers "
        f"semantic segmentation only. Install Detectron2 to use it: {INSTALL_GUIDE}"
    )


class _ImportGuard:
    """Last entry of ``sys.meta_path``: reached only by modules that nothing else could find."""

    @staticmethod
    def find_spec(fullname, path=None, target=None):
        if fullname.startswith("detectron2."):
            raise ModuleNotFoundError(not_covered(fullname), name=fullname)


def install_import_guard() -> None:
    """Make ``import detectron2.<not covered>`` say where to get it."""
    if not any(isinstance(finder, _ImportGuard) for finder in sys.meta_path):
        sys.meta_path.append(_ImportGuard())


def module_getattr(module_name: str):
    """A module-level ``__getattr__`` (PEP 562) for the covered module ``module_name``.

    Submodules are imported on demand, as ``from package import submodule`` expects. Everything
    else raises ImportError; dunder names raise AttributeError because Python probes for them.
    """

    def __getattr__(name: str):
        full_name = f"{module_name}.{name}"
        if name.startswith("__"):
            raise AttributeError(f"module {module_name!r} has no attribute {name!r}")
        if hasattr(sys.modules[module_name], "__path__"):
            return importlib.import_module(full_name)
        raise ImportError(not_covered(full_name), name=full_name)

    return __getattr__
