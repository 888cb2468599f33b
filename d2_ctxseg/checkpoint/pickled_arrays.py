"""Detectron2's model zoo files (.pkl), read without running code from them.

They are pickles of dicts of numpy arrays. ``torch.load(weights_only=True)`` does not read pickles
without torch's zip around them, and plain ``pickle.load`` would run whatever a file says.
"""

import collections
import pickle
from collections.abc import Mapping

import numpy as np

from ..utils.errors import UserError

# What a pickled array is made of. numpy 2 moved its modules; files name them either way.
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
    """Knows numpy arrays and plain containers only."""

    def find_class(self, module: str, name: str):
        if (module, name) not in _NAMES:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, not only arrays")
        if name == "OrderedDict":
            return collections.OrderedDict
        return super().find_class(module, name)


def read_pickled_arrays(path: str) -> dict:
    """The content of a .pkl file of Detectron2's or Caffe2's model zoo, as its checkpointer has it.

    Returns:
        ``{"model": {name: numpy array}, "__author__": ..., "matching_heuristics": bool}``.

    Raises:
        UserError: the file holds more than numpy arrays and plain containers, or is damaged.
    """
    try:
        with open(path, "rb") as file:
            # Written by Python 2.
            content = _ArrayUnpickler(file, encoding="latin1").load()
        if not isinstance(content, dict):
            raise pickle.UnpicklingError(f"it holds a {type(content).__name__}, not a dict")
    except Exception as error:  # pickle raises half a dozen classes for a bad file
        raise UserError(
            f"'{path}' is not a model zoo file that can be read safely (a pickle of numpy arrays "
            f"by name): {error}"
        ) from error
    if "model" in content and "__author__" in content:
        return content
    # Of Caffe2; those of detectors have one more level.
    arrays: Mapping[str, np.ndarray] = content.get("blobs", content)
    weights = {key: value for key, value in arrays.items() if not key.endswith("_momentum")}
    return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}
