"""Shared by all tests: Detectron2 made importable, one thread per process, small configs."""

import pytest
import torch
from classifier_view_runs import predictor_of, views_folder  # noqa: F401  (fixtures)
from train_net_runs import context_shapes_root, tiny_run  # noqa: F401  (fixtures)

from d2_ctxseg import add_ctxseg_config  # importing it makes detectron2 importable
from detectron2.config import get_cfg

# The suite runs in several processes (pytest-xdist) on few cores.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.get_closest_marker("first") is None)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def tiny_config():
    """A small segmentor of 5 classes with random weights, on the CPU."""
    cfg = get_cfg()
    add_ctxseg_config(cfg)
    cfg.merge_from_list(
        ["MODEL.DEVICE", "cpu", "MODEL.META_ARCHITECTURE", "ContextAwareSegmentor"]
        + ["MODEL.BACKBONE.NAME", "EncoderBackbone", "MODEL.BACKBONE.FREEZE_AT", 0]
        + ["MODEL.ENCODER.NAME", "resnet18"]
        + ["MODEL.ENCODER.WEIGHTS", "", "MODEL.SEM_SEG_HEAD.NAME", "SMPDecoderHead"]
        + ["MODEL.SEM_SEG_HEAD.DECODER.NAME", "FPN", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 5]
        + ["MODEL.SEM_SEG_HEAD.DECODER.OPTIONS"]
        + [["pyramid_channels", 32, "segmentation_channels", 32]]
        + ["MODEL.PIXEL_STD", [57.0, 57.0, 57.0]]
    )
    return cfg
