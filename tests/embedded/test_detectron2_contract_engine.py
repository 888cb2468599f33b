"""What detectron2.engine's default trainer, setup and launcher promise.

The figures in this file were computed with Detectron2 itself, so the same seed gives the same
training in both runtimes.
"""

import argparse
import json

import numpy as np
import pytest
import torch
from tiny_training import TinyTrainer, detectron2_log, simple_trainer, tiny_cfg, train_tiny
from torch import nn

from detectron2.engine import (
    DefaultTrainer,
    SimpleTrainer,
    TrainerBase,
    create_ddp_model,
    default_argument_parser,
    default_setup,
    launch,
)
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.events import EventStorage

# Computed with Detectron2 0.6 and torch 2.14 on a CPU.
LOSSES = [1.2598809, 1.2597487, 1.1803246, 1.1347493, 1.1193117, 1.1178818]
RATES = [0.0001, 0.05005, 0.1, 0.1, 0.01, 0.01]


@pytest.fixture(autouse=True)
def _loggers_as_they_were():
    with detectron2_log():
        yield


# ------------------------------------------------------------------------------- default trainer


def test_the_same_seed_gives_upstreams_training():
    torch.manual_seed(0)
    losses, rates = train_tiny(tiny_cfg("unused"))
    assert losses == pytest.approx(LOSSES, rel=1e-5)
    assert rates == pytest.approx(RATES, rel=1e-5)


def test_a_trainer_has_the_parts_and_the_state_of_the_one_that_does_the_step():
    trainer, inner = TinyTrainer.__new__(TinyTrainer), simple_trainer()
    TrainerBase.__init__(trainer)
    trainer._trainer = inner
    assert (trainer.model, trainer.optimizer) == (inner.model, inner.optimizer)
    TrainerBase.train(trainer, 3, 5)
    state = trainer.state_dict()
    assert set(state) == {"iteration", "_trainer"}
    assert set(state["_trainer"]) == {"iteration", "optimizer"}
    assert state["_trainer"]["iteration"] == 4
    trainer.load_state_dict({**state, "iteration": 9})
    assert trainer.iter == 9


def test_test_returns_the_results_of_each_dataset(tmp_path):
    cfg = tiny_cfg(tmp_path)
    model = build_model(cfg)
    only = TinyTrainer.test(cfg, model)
    assert set(only["sem_seg"]) == {"accuracy"}
    assert model.training
    cfg.DATASETS.TEST = ("one", "two")
    both = TinyTrainer.test(cfg, model)
    assert list(both) == ["one", "two"]
    assert both["one"] == only


def test_test_takes_one_evaluator_a_dataset(tmp_path):
    cfg = tiny_cfg(tmp_path)
    with pytest.raises(AssertionError):
        TinyTrainer.test(cfg, build_model(cfg), evaluators=[])


def test_auto_scale_workers():
    cfg = tiny_cfg("unused")
    assert DefaultTrainer.auto_scale_workers(cfg, 4) is cfg
    cfg.SOLVER.REFERENCE_WORLD_SIZE = 8
    cfg.SOLVER.IMS_PER_BATCH = 16
    cfg.SOLVER.BASE_LR = 0.1
    cfg.SOLVER.MAX_ITER = 5000
    cfg.SOLVER.STEPS = (4000,)
    cfg.SOLVER.WARMUP_ITERS = 1000
    cfg.SOLVER.CHECKPOINT_PERIOD = 1000
    cfg.TEST.EVAL_PERIOD = 500
    cfg.freeze()
    assert DefaultTrainer.auto_scale_workers(cfg, 8) is cfg
    scaled = DefaultTrainer.auto_scale_workers(cfg, 16)
    assert scaled.is_frozen()
    assert cfg.SOLVER.IMS_PER_BATCH == 16
    assert scaled.SOLVER.REFERENCE_WORLD_SIZE == 16
    assert scaled.SOLVER.IMS_PER_BATCH == 32
    assert scaled.SOLVER.BASE_LR == 0.2
    assert scaled.SOLVER.MAX_ITER == 2500
    assert scaled.SOLVER.STEPS == (2000,)
    assert scaled.SOLVER.WARMUP_ITERS == 500
    assert scaled.SOLVER.CHECKPOINT_PERIOD == 500
    assert scaled.TEST.EVAL_PERIOD == 250


# ------------------------------------------------------------------------------------------ setup


def test_default_argument_parser():
    args = default_argument_parser().parse_args([])
    url = vars(args).pop("dist_url")
    assert url.startswith("tcp://127.0.0.1:")
    assert 49152 <= int(url.rsplit(":", 1)[1]) < 65536
    assert vars(args) == {
        "config_file": "", "resume": False, "eval_only": False,
        "num_gpus": 1, "num_machines": 1, "machine_rank": 0, "opts": [],
    }  # fmt: skip
    line = "--config-file a.yaml --resume --eval-only --num-gpus 2 --num-machines 3 "
    line += "--machine-rank 1 --dist-url auto SOLVER.BASE_LR 0.1 OUTPUT_DIR out"
    assert vars(default_argument_parser(epilog="example").parse_args(line.split())) == {
        "config_file": "a.yaml", "resume": True, "eval_only": True,
        "num_gpus": 2, "num_machines": 3, "machine_rank": 1, "dist_url": "auto",
        "opts": ["SOLVER.BASE_LR", "0.1", "OUTPUT_DIR", "out"],
    }  # fmt: skip


def test_default_setup(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    benchmark = torch.backends.cudnn.benchmark
    cfg = tiny_cfg(tmp_path / "out")
    cfg.SEED = 5
    cfg.CUDNN_BENCHMARK = True
    config_file = tmp_path / "given.yaml"
    config_file.write_text("SEED: 5\n")
    args = argparse.Namespace(config_file=str(config_file), eval_only=False)
    try:
        with detectron2_log() as log:
            default_setup(cfg, args)
        assert torch.backends.cudnn.benchmark is True
    finally:
        torch.backends.cudnn.benchmark = benchmark
    assert torch.rand(1) == torch.rand(1, generator=torch.Generator().manual_seed(5))
    assert np.random.random() == np.random.RandomState(5).random()  # noqa: NPY002
    assert (tmp_path / "out" / "config.yaml").read_text() == cfg.dump()
    assert log[0] == "Rank of current process: 0. World size: 1"
    assert log[1].startswith("Environment info:\n")
    assert log[2] == f"Command line arguments: {args}"
    assert log[3].startswith(f"Contents of args.config_file={config_file}:\n")
    assert log[4].startswith("Running with full config:\n")
    assert log[5] == f"Full config saved to {tmp_path / 'out' / 'config.yaml'}"
    text = (tmp_path / "out" / "log.txt").read_text()
    assert "detectron2 INFO: Rank of current process: 0. World size: 1" in text


# ----------------------------------------------------------------------------- several processes


def test_one_process_is_a_plain_call():
    calls = []
    launch(lambda *args: calls.append(args), num_gpus_per_machine=1, args=(1, "two"))
    assert calls == [(1, "two")]
    model = nn.Linear(1, 1)
    assert create_ddp_model(model) is model


def _one_step_on_each_rank(path):
    torch.set_num_threads(1)
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    ddp = create_ddp_model(model, device_ids=None)
    loss = ddp(torch.tensor([[1.0 + 2.0 * comm.get_rank()]])).sum()
    with EventStorage() as storage:
        SimpleTrainer.write_metrics({"loss": loss}, data_time=float(comm.get_rank()), cur_iter=0)
    loss.backward()
    seen = comm.gather(
        {
            "rank": comm.get_rank(),
            "local_rank": comm.get_local_rank(),
            "world_size": comm.get_world_size(),
            "gradient": model.weight.grad.item(),
        }
    )
    if comm.is_main_process():
        metrics = {name: value for name, (value, _) in storage.latest().items()}
        path.write_text(json.dumps({"seen": seen, "metrics": metrics}))


@pytest.mark.slow
@pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.device_count() < 2, reason="needs no GPU or two"
)
def test_two_processes_average_gradients_and_metrics(tmp_path):
    path = tmp_path / "result.json"
    launch(_one_step_on_each_rank, num_gpus_per_machine=2, dist_url="auto", args=(path,))
    result = json.loads(path.read_text())
    assert result["seen"] == [
        {"rank": rank, "local_rank": rank, "world_size": 2, "gradient": 2.0} for rank in (0, 1)
    ]
    assert result["metrics"]["total_loss"] == 2.0
    assert result["metrics"]["data_time"] == 1.0
    assert result["metrics"]["rank_data_time"] == 0.0
