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
import torch.multiprocessing

from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import TORCH_VERSION, seed_all_rng
from detectron2.utils.file_io import PathHandler, PathManager
from detectron2.utils.logger import (
    create_small_table,
    log_every_n,
    log_every_n_seconds,
    log_first_n,
    setup_logger,
)
from detectron2.utils.memory import retry_if_cuda_oom
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

    def test_first_n(self, logged):
        lines = logged("contract_first")
        for i in range(5):
            log_first_n(logging.INFO, f"line {i}", n=2, name="contract_first")
        assert lines == ["line 0", "line 1"]

    def test_first_n_by_message(self, logged):
        lines = logged("contract_first")
        for i in range(6):
            log_first_n(logging.INFO, f"even {i % 2}", name="contract_first", key="message")
        log_first_n(logging.INFO, "even 1", name="contract_first", key="message")
        assert lines == ["even 0", "even 1"]

    def test_first_n_by_caller_and_message(self, logged):
        lines = logged("contract_first")
        for _ in range(2):
            for text in ("x", "y"):
                log_first_n(logging.INFO, text, name="contract_first", key=("caller", "message"))
        log_first_n(logging.INFO, "x", name="contract_first", key=("caller", "message"))
        assert lines == ["x", "y", "x"]

    def test_every_n(self, logged):
        lines = logged(__name__)
        for i in range(7):
            log_every_n(logging.INFO, str(i), n=3)
        assert lines == ["0", "3", "6"], "in the logger of the caller's module"

    def test_every_n_seconds(self, logged, monkeypatch):
        lines = logged("contract_seconds")
        for now, text in [(100.0, "first"), (104.0, "too soon"), (110.0, "later")]:
            monkeypatch.setattr("time.time", lambda now=now: now)
            log_every_n_seconds(logging.INFO, text, n=10, name="contract_seconds")
        assert lines == ["first", "later"]

    def test_small_table(self):
        assert create_small_table({"mIoU": 55.12345, "pACC": 90.0}) == (
            "|  mIoU  |  pACC  |\n|:------:|:------:|\n| 55.123 | 90.000 |"
        )


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

    def test_own_prefixes(self, tmp_path):
        class Handler(PathHandler):
            def _get_supported_prefixes(self):
                return ["contract://"]

            def _get_local_path(self, path, **kwargs):
                return str(tmp_path / path.removeprefix("contract://"))

        PathManager.register_handler(Handler(), allow_override=True)
        assert PathManager.get_local_path("contract://x.pth") == str(tmp_path / "x.pth")


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

    def test_torch_version(self):
        assert torch.__version__.startswith(f"{TORCH_VERSION[0]}.{TORCH_VERSION[1]}.")

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


class TestRetryIfOutOfMemory:
    def test_a_second_try(self):
        calls = []

        def once_too_large(x):
            calls.append(x)
            if len(calls) == 1:
                raise RuntimeError("CUDA out of memory. Tried to allocate 1 TiB")
            return x + 1

        assert retry_if_cuda_oom(once_too_large)(1) == 2
        assert calls == [1, 1]

    def test_the_third_try_is_the_last(self):
        calls = []

        def always_too_large(x, *, y):
            calls.append((x, y))
            raise RuntimeError("CUDA out of memory. Tried to allocate 1 TiB")

        with pytest.raises(RuntimeError, match="out of memory"):
            retry_if_cuda_oom(always_too_large)(1, y=2)
        assert calls == [(1, 2)] * 3

    def test_other_errors_are_not_caught(self):
        def wrong():
            raise RuntimeError("shapes differ")

        with pytest.raises(RuntimeError, match="shapes differ"):
            retry_if_cuda_oom(wrong)()


class TestOneProcess:
    def test_it_is_the_main_process_of_one(self):
        assert (comm.get_world_size(), comm.get_rank()) == (1, 0)
        assert (comm.get_local_size(), comm.get_local_rank()) == (1, 0)
        assert comm.is_main_process()

    def test_nothing_is_sent(self):
        comm.synchronize()
        assert comm.all_gather({"a": 1}) == [{"a": 1}]
        assert comm.gather("x") == ["x"]
        values = {"loss": torch.tensor(1.0)}
        assert comm.reduce_dict(values) is values

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
    torch.multiprocessing.spawn(_one_of_two_processes, (str(tmp_path / "meeting"),), nprocs=2)


def _one_of_two_processes(rank, meeting_point):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{meeting_point}", rank=rank, world_size=2
    )
    with pytest.raises(AssertionError, match="create_local_process_group"):
        comm.get_local_rank()
    comm.create_local_process_group(1)  # two machines of one process
    comm.create_local_process_group(1)  # a second call does nothing
    assert (comm.get_world_size(), comm.get_rank()) == (2, rank)
    assert (comm.get_local_size(), comm.get_local_rank()) == (1, 0)
    assert comm.get_local_process_group() is not None
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

    values = {"b": torch.tensor(float(rank)), "a": torch.tensor(2.0)}
    mean, total = comm.reduce_dict(values), comm.reduce_dict(values, average=False)
    if rank == 0:
        assert (mean["a"], mean["b"], total["b"]) == (2.0, 0.5, 1.0)
    torch.distributed.destroy_process_group()
