"""``PathManager``: opens local paths and http(s) addresses alike (these are cached on disk)."""

from iopath.common.file_io import HTTPURLHandler, PathHandler
from iopath.common.file_io import PathManager as PathManagerBase

from .._coverage import INSTALL_GUIDE

__all__ = ["PathHandler", "PathManager"]

# An instance of its own, not iopath's global one: other libraries register their handlers there.
PathManager = PathManagerBase()


class _ModelZooHandler(PathHandler):
    """Refuses the addresses of Detectron2's model zoo.

    Its files are pickles, and to read a pickle is to run the code in it.
    """

    def _get_supported_prefixes(self):
        return ["detectron2://", "catalog://"]

    def _refuse(self, path, *args, **kwargs):
        raise NotImplementedError(
            f"'{path}': the embedded Detectron2 runtime does not read Detectron2's model zoo. "
            f"Use a .pth file, or install Detectron2: {INSTALL_GUIDE}"
        )

    _open = _get_local_path = _exists = _isfile = _isdir = _refuse


PathManager.register_handler(HTTPURLHandler())
PathManager.register_handler(_ModelZooHandler())
