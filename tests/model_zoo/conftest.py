"""A tiny model as a training leaves it, and a folder of trained models with it."""

import shutil
from pathlib import Path

import pytest
import torch
from train_net_runs import ROOT, TINY_RUN

from d2_ctxseg.engine import setup_config
from d2_ctxseg.evaluation import add_to_results_file
from d2_ctxseg.model_zoo.publish import publish_run
from detectron2.modeling import build_model

# Published for this config, which has another encoder and decoder.
NAME = "quickstart"
CLASSES_SCORES = {"mIoU": 61.2345, "fwIoU": 70.0, "mACC": 80.0, "pACC": 90.0, "IoU-room": 55.5}


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory) -> Path:
    """config.yaml, model_final.pth and evaluation.json of a tiny context-aware model."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    folder.mkdir()
    config = TINY_RUN.format(root=ROOT, output=folder)
    (folder / "tiny.yaml").write_text(config)
    cfg = setup_config(str(folder / "tiny.yaml"), [])
    (folder / "config.yaml").write_text(cfg.dump())
    torch.manual_seed(0)
    model = build_model(cfg)
    for module in model.modules():  # as after some steps
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    state = {"model": model.state_dict(), "optimizer": {"state": {}}, "iteration": 3}
    torch.save(state, folder / "model_final.pth")
    scores = {"context_shapes_sem_seg_val": {"sem_seg": CLASSES_SCORES}}
    add_to_results_file(folder / "evaluation.json", str(folder / "model_final.pth"), scores)
    return folder


@pytest.fixture(scope="session")
def _published(finished_run, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("zoo") / "trained"
    publish_run(finished_run, NAME, folder)
    return folder


@pytest.fixture
def zoo(_published, tmp_path) -> Path:
    """A folder of trained models with that one, published as "quickstart"; free to be damaged."""
    return shutil.copytree(_published, tmp_path / "trained")
