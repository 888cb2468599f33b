"""Files are written atomically, and errors state the cause."""

import errno
import os
import resource
import signal

import pytest
import torch

from d2_ctxseg.utils.errors import UserError
from d2_ctxseg.utils.files import WriteError, atomic_write, remove_unfinished, write_json


@pytest.fixture
def small_limit():
    """Files of at most 1000 bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


class TestAtomicWrite:
    def test_interrupted_writing_leaves_nothing(self, tmp_path):
        with pytest.raises(KeyboardInterrupt), atomic_write(tmp_path / "a" / "b.txt") as file:
            file.write("half")
            raise KeyboardInterrupt
        assert list((tmp_path / "a").iterdir()) == []

    def test_what_utf8_cannot_express_is_escaped(self, tmp_path):
        with atomic_write(tmp_path / "names.txt") as file:
            file.write("caf\udce9 ü")
        assert (tmp_path / "names.txt").read_bytes() == "caf\\udce9 ü".encode()

    @pytest.mark.parametrize(
        "write",
        [lambda f: f.write(bytes(2000)), lambda f: torch.save({"model": torch.zeros(1000)}, f)],
        ids=["bytes", "checkpoint"],
    )
    def test_a_full_disk_leaves_the_earlier_file(self, tmp_path, small_limit, write):
        path = tmp_path / "model.pth"
        path.write_bytes(b"earlier")
        expected = pytest.raises(WriteError, match="model.pth' cannot be written: File too large")
        with expected, atomic_write(path, "wb") as file:
            write(file)
        assert path.read_bytes() == b"earlier"
        assert os.listdir(tmp_path) == ["model.pth"]

    def test_the_message_says_what_to_do(self, tmp_path):
        expected = pytest.raises(UserError, match="No space left on device. Free some space")
        with expected, atomic_write(tmp_path / "a.txt"):
            raise OSError(errno.ENOSPC, "full")

    def test_errors_about_a_file_that_is_read_stay_as_they_are(self, tmp_path):
        expected = pytest.raises(FileNotFoundError, match="nowhere")
        with expected as caught, atomic_write(tmp_path / "a.txt"), open(tmp_path / "nowhere"):
            pass
        assert not isinstance(caught.value, WriteError)


def test_unfinished_files_of_processes_that_have_ended_are_deleted(tmp_path):
    dead = tmp_path / "sub" / f".a.txt.{2**22 + 1}.part"  # Linux gives lower ids
    dead.parent.mkdir()
    others = [tmp_path / f".b.txt.{os.getpid()}.part", tmp_path / "c.part", tmp_path / "d.txt"]
    for path in (dead, *others):
        path.touch()
    assert remove_unfinished(tmp_path) == [dead]
    assert not dead.exists() and all(path.exists() for path in others)


def test_json_has_null_for_nan(tmp_path):
    write_json(tmp_path / "a.json", {"a": [float("nan"), 1.5], "b": float("inf")})
    text = (tmp_path / "a.json").read_text()
    assert text == '{\n  "a": [\n    null,\n    1.5\n  ],\n  "b": null\n}\n'
