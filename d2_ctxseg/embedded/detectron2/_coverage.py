"""Turns a request for a part of Detectron2 that is not covered here into a helpful ImportError."""

import importlib
import sys
from importlib.machinery import ModuleSpec, PathFinder

INSTALL_GUIDE = "https://detectron2.readthedocs.io/en/latest/tutorials/install.html"
# What d2_ctxseg has in the place of a part that is not covered.
INSTEAD = {
    "DefaultTrainer(cfg)": "d2_ctxseg.engine.Trainer(cfg)",
    "AMPTrainer": "d2_ctxseg.engine.train_step.MicroBatchTrainer",
    "DatasetMapper": "d2_ctxseg.data.SemanticSegmentorMapper",
    "DefaultPredictor": "d2_ctxseg.model_zoo.load_segmentor",
    "SemSegEvaluator": "d2_ctxseg.evaluation.SegmentationEvaluator",
    "visualizer": "d2_ctxseg.visualization.draw_overlay",
    "video_visualizer": "d2_ctxseg.visualization.draw_overlay",
    "LazyCall": "a YAML config, see docs/LIBRARY.md",
    "LazyConfig": "a YAML config, see docs/LIBRARY.md",
    "instantiate": "a YAML config, see docs/LIBRARY.md",
    "build_optimizer": "d2_ctxseg.engine.optimizer.build_optimizer",
    "load_sem_seg": "a dataset of two folders, see docs/DATASETS.md",
}


def not_covered(name: str) -> str:
    """The message for ``name``, the full dotted name that was asked for."""
    instead = INSTEAD.get(name.rpartition(".")[2])
    return (
        f"'{name}' is not part of the embedded Detectron2 runtime of d2_ctxseg, which covers what "
        f"d2_ctxseg itself uses. {f'Use {instead}, or install' if instead else 'Install'} "
        f"Detectron2: {INSTALL_GUIDE}"
    )


class _ImportGuard:
    """First entry of ``sys.meta_path``: finds the modules of this package."""

    @staticmethod
    def find_spec(fullname, path=None, target=None) -> ModuleSpec | None:
        if not fullname.startswith("detectron2."):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None:
            raise ModuleNotFoundError(not_covered(fullname), name=fullname)
        run = spec.loader.exec_module

        def exec_module(module):
            module.__getattr__ = _missing_name(fullname)
            run(module)

        spec.loader.exec_module = exec_module
        return spec


def install_import_guard() -> None:
    """Make ``import detectron2.<not covered>`` and missing names say where to get them."""
    sys.modules["detectron2"].__getattr__ = _missing_name("detectron2")
    if not any(finder is _ImportGuard for finder in sys.meta_path):
        sys.meta_path.insert(0, _ImportGuard)


def _missing_name(module_name: str):
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
