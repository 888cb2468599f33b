"""What this project relies on in Detectron2's utilities, on either runtime."""

import logging
import os
import pickle
import random
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from two_processes import run_in_two_processes

from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import setup_logger
from detectron2.utils.registry import Registry
from detectron2.utils.serialize import PicklableWrapper


@pytest.fixture
def logged():
    """Collects the messages of a logger, whether or not it passes them on."""
    handlers = []

    def collect(name):
        messages = []
        handler = logging.Handler()
        handler.emit = lambda record: messages.append(record.getMessage())
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        handlers.append((logger, handler, logger.level))
        logger.setLevel(logging.DEBUG)
        return messages

    yield collect
    for logger, handler, level in handlers:
        logger.removeHandler(handler)
        logger.setLevel(level)


def mark_colour(text, colour, attrs=()):
    return f"<{' '.join([colour, *attrs])} {text}>"


TIME = r"\[\d\d/\d\d \d\d:\d\d:\d\d"


class TestLogger:
    def test_terminal_and_file(self, tmp_path, capsys, monkeypatch):
        # Whether there really are colours depends on the terminal.
        monkeypatch.setattr("detectron2.utils.logger.colored", mark_colour)
        logger = setup_logger(str(tmp_path), name="contract_a", abbrev_name="a")
        assert setup_logger(str(tmp_path), name="contract_a", abbrev_name="a") is logger
        logging.getLogger("contract_a.part").info("one")
        logger.warning("two")
        logger.error("three")
        lines = capsys.readouterr().out.splitlines()
        assert re.fullmatch(rf"<green {TIME} a\.part\]: >one", lines[0])
        assert re.fullmatch(rf"<red blink WARNING> <green {TIME} contract_a\]: >two", lines[1])
        assert lines[2].startswith("<red blink underline ERROR> <green ")
        assert len(lines) == 3, "a second call adds nothing"

        lines = (tmp_path / "log.txt").read_text().splitlines()
        assert re.fullmatch(TIME + r"\] a\.part INFO: one", lines[0])
        assert re.fullmatch(TIME + r"\] contract_a WARNING: two", lines[1])

    def test_without_colour(self, capsys):
        setup_logger(name="contract_b", color=False).info("plain")
        assert re.fullmatch(TIME + r"\] contract_b INFO: plain\n", capsys.readouterr().out)

    def test_other_ranks_write_to_a_file_of_their_own_and_not_to_the_terminal(
        self, tmp_path, capsys
    ):
        setup_logger(str(tmp_path / "own.log"), 2, name="contract_c").info("hello")
        assert capsys.readouterr().out == ""
        assert "contract_c INFO: hello" in (tmp_path / "own.log.rank2").read_text()

    def test_propagation_is_a_choice(self):
        assert not setup_logger(name="contract_d", configure_stdout=False).propagate
        assert setup_logger(
            name="contract_e", configure_stdout=False, enable_propagation=True
        ).propagate


class TestFiles:
    def test_local_paths(self, tmp_path):
        path = str(tmp_path / "a" / "b.txt")
        PathManager.mkdirs(os.path.dirname(path))
        with PathManager.open(path, "w") as file:
            file.write("text")
        assert PathManager.isfile(path)
        assert PathManager.exists(path)
        assert PathManager.ls(str(tmp_path / "a")) == ["b.txt"]
        assert PathManager.get_local_path(path) == path


class TestSmallThings:
    def test_registry(self):
        registry = Registry("CONTRACT")

        @registry.register()
        def build():
            return 1

        assert registry.get("build") is build
        assert "build" in registry
        with pytest.raises(KeyError, match="nothing"):
            registry.get("nothing")
        with pytest.raises(AssertionError, match="already registered"):
            registry.register(build)

    def test_seed_makes_everything_repeat(self):
        def draw():
            return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002

        seed_all_rng(7)
        first = draw()
        assert os.environ["PYTHONHASHSEED"] == "7"
        seed_all_rng(7)
        assert draw() == first
        seed_all_rng(8)
        assert draw() != first

    def test_a_drawn_seed_is_logged(self, logged):
        lines = logged("detectron2.utils.env")
        seed_all_rng()
        assert re.fullmatch(r"Using a generated random seed \d+", lines[0])

    def test_environment_table(self):
        text = collect_env_info()
        for name in ("sys.platform", "Python", "detectron2", "PyTorch", "GPU available", "numpy"):
            assert re.search(rf"^{name}\s+\S", text, re.MULTILINE), name
        assert torch.__version__ in text

    @pytest.mark.slow
    def test_environment_table_from_the_command_line(self):
        result = subprocess.run(
            [sys.executable, "-m", "detectron2.utils.collect_env"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert "PyTorch built with" in result.stdout

    def test_closure_survives_pickling(self):
        pytest.importorskip("cloudpickle")
        offset = 3
        add = PicklableWrapper(lambda x: x + offset)
        assert add(1) == 4
        assert pickle.loads(pickle.dumps(add))(1) == 4

    def test_wrapper_shows_the_attributes_of_what_it_wraps(self):
        wrapped = PicklableWrapper(PicklableWrapper(np.float64(2.5)))
        assert wrapped.is_integer() is False


class TestOneProcess:
    def test_it_is_the_main_process_of_one(self):
        assert (comm.get_world_size(), comm.get_rank()) == (1, 0)
        assert comm.get_local_rank() == 0
        assert comm.is_main_process()

    def test_nothing_is_sent(self):
        comm.synchronize()
        assert comm.all_gather({"a": 1}) == [{"a": 1}]
        assert comm.gather("x") == ["x"]

    def test_seed_is_drawn_with_numpy(self):
        np.random.seed(3)  # noqa: NPY002
        expected = np.random.randint(2**31)  # noqa: NPY002
        np.random.seed(3)  # noqa: NPY002
        assert comm.shared_random_seed() == expected

    def test_there_is_no_local_group(self):
        with pytest.raises(AssertionError, match="create_local_process_group"):
            comm.get_local_process_group()


@pytest.mark.slow
def test_two_processes(tmp_path):
    run_in_two_processes(_one_of_two_processes, tmp_path)


def _one_of_two_processes(rank):
    with pytest.raises(AssertionError, match="create_local_process_group"):
        comm.get_local_rank()
    comm.create_local_process_group(1)  # two machines of one process
    comm.create_local_process_group(1)  # a second call does nothing
    assert (comm.get_world_size(), comm.get_rank(), comm.get_local_rank()) == (2, rank, 0)
    assert comm.is_main_process() == (rank == 0)

    comm.synchronize()
    own = {"rank": rank, "array": np.arange(rank)}
    assert [item["rank"] for item in comm.all_gather(own)] == [0, 1]
    assert comm.all_gather(own, group=comm.get_local_process_group()) == [own]
    assert comm.gather(rank) == ([0, 1] if rank == 0 else [])
    assert comm.gather(rank, dst=1) == ([0, 1] if rank == 1 else [])

    np.random.seed(rank)  # noqa: NPY002
    seeds = comm.all_gather(comm.shared_random_seed())
    assert seeds[0] == seeds[1]
