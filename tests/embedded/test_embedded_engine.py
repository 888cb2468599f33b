"""Where the embedded runtime's engine and layers do more than Detectron2's, or say more."""

import pytest
import torch
import torch.distributed as dist
from tiny_training import AfterStep, TinyTrainer, detectron2_log, simple_trainer, tiny_cfg
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from d2_ctxseg.utils.runtime import is_embedded
from detectron2.engine import DefaultTrainer, create_ddp_model, hooks, launch
from detectron2.layers import get_norm
from detectron2.modeling import build_model
from detectron2.utils import comm

pytestmark = pytest.mark.skipif(not is_embedded(), reason="is about the embedded runtime")


@pytest.fixture(autouse=True)
def _loggers_as_they_were():
    with detectron2_log():
        yield


@pytest.fixture
def process_group(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_a_model_on_the_cpu_can_be_distributed(process_group, monkeypatch):
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    model = create_ddp_model(nn.Linear(2, 1), broadcast_buffers=False)
    assert isinstance(model, DistributedDataParallel)
    assert model.device_ids is None
    assert not model.broadcast_buffers
    model(torch.ones(1, 2)).sum().backward()
    assert torch.equal(model.module.weight.grad, torch.ones(1, 2))


def test_an_infinite_score_is_never_the_best():
    class Checkpointer:
        saved = []

        def save(self, name, **state):
            self.saved.append((name, state))

    trainer = simple_trainer()
    scores = iter([0.5, float("inf"), 0.6])
    store = AfterStep(lambda trainer: trainer.storage.put_scalar("score", next(scores)))
    trainer.register_hooks([store, hooks.BestCheckpointer(1, Checkpointer(), "score")])
    with detectron2_log() as log:
        trainer.train(0, 3)
    assert Checkpointer.saved == [
        ("model_best", {"iteration": 0}),
        ("model_best", {"iteration": 2}),
    ]
    assert "Not saving as latest eval score for score is inf" in log[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs a dist_url"),
        ({"dist_url": "auto", "num_machines": 2}, "'auto' works on one machine only"),
    ],
)
def test_launch_says_what_dist_url_has_to_be(options, message):
    with pytest.raises(ValueError, match=message):
        launch(print, num_gpus_per_machine=2, **options)


def test_a_model_of_detectron2_itself_points_to_its_install_guide():
    cfg = tiny_cfg("unused")
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    with pytest.raises(KeyError, match="MODEL.BACKBONE.NAME is 'build_resnet_backbone'.*install"):
        build_model(cfg)


def test_an_unknown_normalization_lists_the_known_ones():
    with pytest.raises(ValueError, match="'Batch'.*'BN'.*'GN'"):
        get_norm("Batch", 8)


def test_detectron2s_own_trainer_points_to_this_projects():
    with pytest.raises(NotImplementedError, match=r"d2_ctxseg\.engine\.Trainer.*install"):
        DefaultTrainer(tiny_cfg("unused"))


def test_hooks_and_writers_of_a_wrong_type_are_refused():
    with pytest.raises(TypeError, match="HookBase"):
        simple_trainer().register_hooks([print])
    with pytest.raises(TypeError, match="EventWriter"):
        hooks.PeriodicWriter([print])


def _train_on_two_processes(output_dir):
    torch.set_num_threads(1)
    torch.manual_seed(comm.get_rank())  # DistributedDataParallel sends the weights of rank 0
    TinyTrainer(tiny_cfg(output_dir, max_iter=3)).train()


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="is about processes on the CPU")
def test_default_trainer_on_two_cpu_processes(tmp_path):
    launch(_train_on_two_processes, 2, dist_url="auto", args=(tmp_path / "two",))
    torch.manual_seed(0)
    TinyTrainer(tiny_cfg(tmp_path / "one", max_iter=3)).train()
    # Both processes see the same batches, so the average gradient is that of one process.
    one, two = (
        torch.load(tmp_path / name / "model_final.pth", weights_only=True)["model"]
        for name in ("one", "two")
    )
    assert list(one) == list(two)
    for name in one:
        torch.testing.assert_close(two[name], one[name])
