"""Detectron2's .pkl files."""

import pickle

import numpy as np
import pytest

from d2_ctxseg.checkpoint.pickled_arrays import read_pickled_arrays
from d2_ctxseg.utils.errors import UserError


class RunsCode:
    def __reduce__(self):
        return print, ("code of the file runs",)


def write(path, content, protocol=2):
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return str(path)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_file_of_detectron2s_zoo(tmp_path, protocol):
    content = {
        "model": {"stem.conv1.weight": np.arange(6.0).reshape(2, 3), "count": np.float32(2)},
        "__author__": "torchvision",
        "matching_heuristics": True,
    }
    read = read_pickled_arrays(write(tmp_path / "a.pkl", content, protocol))
    np.testing.assert_array_equal(read["model"]["stem.conv1.weight"], [[0, 1, 2], [3, 4, 5]])
    assert read["model"]["count"] == 2
    assert read["matching_heuristics"]


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"blobs": x}])
def test_a_file_of_caffe2_is_marked_as_such_and_momentum_left_out(tmp_path, wrap):
    blobs = {"conv1_w": np.zeros(3, np.float32), "conv1_w_momentum": np.zeros(3, np.float32)}
    read = read_pickled_arrays(write(tmp_path / "a.pkl", wrap(blobs)))
    assert list(read["model"]) == ["conv1_w"]
    assert read["__author__"] == "Caffe2"
    assert read["matching_heuristics"]


def test_code_in_a_file_is_not_executed(tmp_path, capsys):
    with pytest.raises(UserError, match=r"it holds (builtins|__builtin__).print, not only arrays"):
        read_pickled_arrays(write(tmp_path / "a.pkl", {"model": RunsCode()}))
    assert "code of the file" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps([1, 2])])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(UserError, match="not a model zoo file that can be read safely"):
        read_pickled_arrays(str(tmp_path / "a.pkl"))
