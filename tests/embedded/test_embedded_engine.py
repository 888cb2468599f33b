"""Where the embedded runtime's engine and layers do more than Detectron2's, or say more."""

import pytest
import torch
import torch.distributed as dist
from tiny_training import detectron2_log, simple_trainer, tiny_cfg
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from d2_ctxseg.utils.runtime import is_embedded
from detectron2.engine import DefaultTrainer, create_ddp_model, launch
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


def test_hooks_of_a_wrong_type_are_refused():
    with pytest.raises(TypeError, match="HookBase"):
        simple_trainer().register_hooks([print])
