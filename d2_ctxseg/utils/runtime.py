"""Make ``import detectron2`` work with an installed Detectron2 or with the embedded runtime."""

import importlib.util
import sys
from pathlib import Path

EMBEDDED_ROOT = Path(__file__).resolve().parents[1] / "embedded"


def ensure_detectron2() -> None:
    """Append the embedded runtime to ``sys.path`` if Detectron2 is not installed.

    At the END of the path it cannot shadow an installation. A subprocess started by ``spawn`` calls
    this function again when it imports the package.
    """
    if importlib.util.find_spec("detectron2") is None:
        sys.path.append(str(EMBEDDED_ROOT))


def is_embedded() -> bool:
    """True if ``detectron2`` is the embedded runtime, False if it is an installed Detectron2."""
    import detectron2

    return EMBEDDED_ROOT in Path(detectron2.__file__).resolve().parents


def describe_runtime() -> str:
    """One line for the log: the Detectron2 in use."""
    import detectron2

    kind = "the embedded runtime of d2_ctxseg" if is_embedded() else "the installed Detectron2"
    folder = Path(detectron2.__file__).parent
    return f"Running on {kind}: detectron2 {detectron2.__version__} ({folder})"
