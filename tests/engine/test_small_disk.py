"""A full disk ends a training with one message, and no progress is lost."""

import resource
import shutil
import subprocess
import zipfile

import pytest
from resume_runs import differences, start, wait, write_config

pytestmark = pytest.mark.slow


@pytest.fixture
def mounted(tmp_path):
    """A function that makes a disk of so many kilobytes, or resizes it."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(*options):
        command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
        return subprocess.run(command, capture_output=True).returncode

    if shutil.which("mount") is None or mount("size=4k"):
        pytest.skip("mounting is not permitted")

    def resize(kilobytes):
        assert mount("remount", f"size={kilobytes}k") == 0
        return folder

    yield resize
    subprocess.run(["umount", "-l", str(folder)], check=True)


def train(config, console, *arguments, before=lambda: None):
    """Exit code of a run and what it printed."""
    console.unlink(missing_ok=True)
    code = wait(start("--config-file", config, *arguments, console=console, before=before))
    return code, console.read_text()


def assert_one_message(code, log, expected):
    assert code == 1, log[-3000:]
    assert log.splitlines()[-1].startswith("error: ")
    assert expected in log.splitlines()[-1]
    assert "Traceback" not in log and "Logging error" not in log


def assert_whole(folder):
    for path in folder.glob("model_*.pth"):
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
    assert not list(folder.rglob("*.part"))


def test_the_run_continues_when_there_is_space_again(
    tmp_path, context_shapes_root, monkeypatch, mounted
):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(context_shapes_root))
    whole, console = tmp_path / "whole", tmp_path / "console.txt"
    assert train(write_config(tmp_path / "whole.yaml", whole), console)[0] == 0
    output = mounted(4)
    config = write_config(tmp_path / "full.yaml", output)
    for kilobytes in (8, 40, 100, 200, 300, 400, 500):
        mounted(kilobytes)
        code, log = train(config, console, "--resume")
        assert_one_message(code, log, "cannot be written: No space left on device. Free some space")
        assert_whole(output)
    mounted(20_000)
    assert train(config, console, "--resume")[0] == 0
    assert differences(whole, output) == []


def test_a_limit_on_files_is_one_message(tmp_path, context_shapes_root, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(context_shapes_root))
    config = write_config(tmp_path / "full.yaml", tmp_path / "output")
    code, log = train(
        config,
        tmp_path / "console.txt",
        *("MODEL.SEM_SEG_HEAD.CONVS_DIM", 512),  # checkpoints that are larger than the log
        before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)),
    )
    assert_one_message(code, log, "model_0000003.pth' cannot be written: File too large")
    assert_whole(tmp_path / "output")


def test_a_disk_that_cannot_be_written_to_is_one_message(
    tmp_path, context_shapes_root, monkeypatch, mounted
):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(context_shapes_root))
    output = mounted(1000)
    subprocess.run(["mount", "-o", "remount,ro", str(output)], check=True)
    config = write_config(tmp_path / "full.yaml", output / "run")
    code, log = train(config, tmp_path / "console.txt")
    assert_one_message(code, log, f"the folder '{output}' is not writable")
