"""OUTPUT_DIR belongs to one training; a seed is drawn once for a run."""

import os
import signal
import socket

import pytest

from d2_ctxseg.engine.run_folder import (
    LOCK_FILE,
    saved_config,
    settle_seed,
    take_run_folder,
)
from d2_ctxseg.utils.errors import UserError
from d2_ctxseg.utils.files import WriteError
from detectron2.config import get_cfg


@pytest.fixture
def owner(tmp_path):
    """The id of a process that trains in ``tmp_path``."""
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            take_run_folder(str(tmp_path), resume=False)
            os.write(told, b".")
            signal.pause()
        finally:
            os._exit(1)
    assert os.read(ready, 1) == b"."
    yield pid
    if os.waitpid(pid, os.WNOHANG)[0] == 0:
        end(pid)


def end(pid):
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


class TestLock:
    def test_a_second_training_is_refused_with_the_owner_of_the_lock(self, owner, tmp_path):
        expected = f"belongs to a training.*process {owner} on {socket.gethostname()}"
        with pytest.raises(UserError, match=expected):
            take_run_folder(str(tmp_path), resume=True)

    def test_of_a_killed_training_it_is_stale(self, tmp_path, owner):
        os.kill(owner, signal.SIGKILL)
        os.waitid(os.P_PID, owner, os.WEXITED | os.WNOWAIT)
        assert str(owner) in (tmp_path / LOCK_FILE).read_text()
        take_run_folder(str(tmp_path), resume=False)
        assert str(os.getpid()) in (tmp_path / LOCK_FILE).read_text()

    def test_worker_processes_do_not_hold_it(self, tmp_path):
        ready, told = os.pipe()
        pid = os.fork()
        if pid == 0:
            take_run_folder(str(tmp_path), resume=False)
            worker = os.fork()
            if worker == 0:
                signal.pause()
            os.write(told, str(worker).encode())
            os._exit(0)
        worker = int(os.read(ready, 20))
        os.waitpid(pid, 0)
        take_run_folder(str(tmp_path), resume=False)
        os.kill(worker, signal.SIGKILL)

    def test_one_process_may_train_twice_in_a_folder(self, tmp_path):
        take_run_folder(str(tmp_path), resume=False)
        take_run_folder(str(tmp_path), resume=True)


class TestFolder:
    def test_an_earlier_training_is_not_overwritten(self, tmp_path):
        (tmp_path / "model_0000001.pth").touch()
        with pytest.raises(UserError, match="checkpoints of an earlier training.*--resume"):
            take_run_folder(str(tmp_path), resume=False)
        take_run_folder(str(tmp_path), resume=True)

    def test_what_killed_processes_left_unfinished_is_deleted(self, tmp_path):
        part = tmp_path / "inference" / f".classes.csv.{2**22 + 1}.part"  # Linux gives lower ids
        part.parent.mkdir()
        part.touch()
        take_run_folder(str(tmp_path), resume=False)
        assert not part.exists()

    def test_a_file_in_its_place_is_one_message(self, tmp_path):
        (tmp_path / "output").touch()
        with pytest.raises(WriteError, match="cannot be written: File exists"):
            take_run_folder(str(tmp_path / "output"), resume=False)
        with pytest.raises(WriteError, match="cannot be written: Not a directory"):
            take_run_folder(str(tmp_path / "output" / "run"), resume=False)


class TestSeed:
    @pytest.fixture
    def cfg(self, tmp_path):
        cfg = get_cfg()
        cfg.OUTPUT_DIR = str(tmp_path)
        cfg.freeze()
        return cfg

    def test_a_negative_one_is_drawn(self, cfg, caplog):
        caplog.set_level("INFO")
        seeds = set()
        for _ in range(3):
            one = cfg.clone()
            settle_seed(one)
            seeds.add(one.SEED)
            assert f"SEED is {one.SEED}, drawn at random" in caplog.text
            assert one.is_frozen()
        assert len(seeds) == 3 and min(seeds) >= 0

    def test_a_resumed_run_keeps_its_own(self, cfg, tmp_path):
        first = cfg.clone()
        settle_seed(first)
        (tmp_path / "config.yaml").write_text(first.dump())
        again, new = cfg.clone(), cfg.clone()
        settle_seed(again, resume=True)
        settle_seed(new)
        assert again.SEED == first.SEED != new.SEED

    def test_one_that_was_chosen_stays(self, cfg, tmp_path):
        (tmp_path / "config.yaml").write_text("SEED: 3")
        cfg.defrost()
        cfg.SEED = 7
        settle_seed(cfg, resume=True)
        assert cfg.SEED == 7

    @pytest.mark.parametrize("content", [b"SEED: [", b"\xff\xfe", b"", b"- 1", b"SEED: -1"])
    def test_a_damaged_config_is_as_good_as_none(self, cfg, tmp_path, content):
        (tmp_path / "config.yaml").write_bytes(content)
        settle_seed(cfg, resume=True)
        assert cfg.SEED >= 0

    def test_a_config_that_is_a_folder_is_as_good_as_none(self, tmp_path):
        (tmp_path / "config.yaml").mkdir()
        assert saved_config(str(tmp_path)) == {}
