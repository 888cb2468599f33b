"""Read Detectron2's model zoo files (.pkl) without executing code from them.

They are pickled dicts of numpy arrays. ``torch.load(weights_only=True)`` reads only pickles in
torch's zip format, and ``pickle.load`` would execute code in the file.
"""

import collections
import pickle
from collections.abc import Mapping

import numpy as np

from ..utils.errors import UserError

# What a pickled array consists of. numpy 2 moved its modules; files have the old or the new name.
_NAMES = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
    ("collections", "OrderedDict"),
    *(
        (f"numpy.{core}.multiarray", name)
        for core in ("core", "_core")
        for name in ("_reconstruct", "scalar")
    ),
}


class _ArrayUnpickler(pickle.Unpickler):
    """An unpickler that accepts only numpy arrays and plain containers."""

    def find_class(self, module: str, name: str):
        if (module, name) not in _NAMES:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, not only arrays")
        if name == "OrderedDict":
            return collections.OrderedDict
        return super().find_class(module, name)


def read_pickled_arrays(path: str) -> dict:
    """The content of a .pkl file of Detectron2's or Caffe2's model zoo, in Detectron2's format.

    Returns:
        ``{"model": {name: numpy array}, "__author__": ..., "matching_heuristics": bool}``.

    Raises:
        UserError: the file is damaged, or holds other objects than numpy arrays and plain
            containers.
    """
    try:
        with open(path, "rb") as file:
            # Python 2 wrote these files.
            content = _ArrayUnpickler(file, encoding="latin1").load()
        if not isinstance(content, dict):
            raise pickle.UnpicklingError(f"it holds a {type(content).__name__}, not a dict")
    except Exception as error:  # pickle raises half a dozen classes for a bad file
        raise UserError(
            f"'{path}' is not a model zoo file that can be read safely (a pickled dict of numpy "
            f"arrays): {error}"
        ) from error
    if "model" in content and "__author__" in content:
        return content
    # A file of Caffe2. The files of detectors have one more level.
    arrays: Mapping[str, np.ndarray] = content.get("blobs", content)
    weights = {key: value for key, value in arrays.items() if not key.endswith("_momentum")}
    return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}
