"""``python -m d2_ctxseg.utils.collect_env`` prints the Detectron2 in use and library versions."""

from importlib import metadata

from tabulate import tabulate

from .. import __version__
from .runtime import describe_runtime

PACKAGES = ("timm", "segmentation-models-pytorch", "fvcore", "iopath", "pycocotools", "matplotlib")


def collect_env_info() -> str:
    """Detectron2's report on the machine, and the versions of this project's libraries."""
    from detectron2.utils.collect_env import collect_env_info as collect_detectron2_env_info

    versions = [("d2_ctxseg", __version__)]
    versions += [(name, _version(name)) for name in PACKAGES]
    return "\n".join([describe_runtime(), tabulate(versions), collect_detectron2_env_info()])


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    print(collect_env_info())
