"""configs/upstream: Detectron2's own backbones and heads under this project's classifiers."""

import logging
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from d2_ctxseg.engine import setup_config
from d2_ctxseg.utils.errors import UserError
from d2_ctxseg.utils.runtime import is_embedded
from detectron2.modeling import build_model

FOLDER = Path(__file__).parents[1] / "configs" / "upstream"
LEAVES = sorted(path for path in FOLDER.glob("*.yaml") if not path.name.startswith("Base-"))
# Small and with norms that work on the CPU.
SMALL = ["MODEL.DEVICE", "cpu", "MODEL.RESNETS.DEPTH", "50", "INPUT.CROP.SIZE", "[64, 128]"]

needs_upstream = pytest.mark.skipif(is_embedded(), reason="needs an installed Detectron2")


def batch():
    return [
        {
            "image": torch.randint(0, 255, (3, 64, 128), dtype=torch.uint8),
            "sem_seg": torch.randint(0, 19, (64, 128)),
        }
        for _ in range(2)
    ]


@needs_upstream
@pytest.mark.slow
@pytest.mark.parametrize("path", LEAVES, ids=lambda path: path.stem)
def test_one_training_step_and_a_prediction(path):
    overrides = list(SMALL)
    if "deeplab" in path.stem:
        overrides += ["MODEL.RESNETS.NORM", "BN", "MODEL.SEM_SEG_HEAD.NORM", "BN"]
    model = build_model(setup_config(str(path), overrides))
    losses = model.train()(batch())
    sum(losses.values()).backward()
    unused = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert unused == []
    with torch.no_grad():
        output = model.eval()(batch())[0]["sem_seg"]
    assert output.shape == (19, 64, 128)


@needs_upstream
@pytest.mark.parametrize("head", ["deeplabv3_r103", "deeplabv3plus_r103"])
def test_deeplab_trains_on_hard_pixels_as_its_own_loss_does(head, caplog):
    overrides = [*SMALL, "MODEL.RESNETS.NORM", "BN", "MODEL.SEM_SEG_HEAD.NORM", "BN"]
    path = str(FOLDER / f"{head}_linear.yaml")
    with caplog.at_level(logging.INFO):
        model = build_model(setup_config(path, overrides))
    assert "trains on hard pixels" in caplog.text
    logits, labels = torch.randn(2, 19, 8, 16), torch.randint(0, 19, (2, 32, 64))
    labels[:, :3] = 255
    size = {"size": (32, 64), "mode": "bilinear", "align_corners": False}
    expected = model.sem_seg_head.loss(F.interpolate(logits, **size), labels)
    torch.testing.assert_close(model.classifier.pixel_loss(logits, labels), expected)

    overrides += ["MODEL.SEM_SEG_HEAD.LOSS_TYPE", "cross_entropy"]
    model = build_model(setup_config(path, overrides))
    assert model.classifier.pixel_loss.hard_pixel_share == 1.0
    with pytest.raises(UserError, match="LOSS_TYPE is 'focal', expected one of 'cross_entropy'"):
        build_model(setup_config(path, [*overrides[:-1], "focal"]))


@needs_upstream
def test_pointrend_is_used_without_its_points(caplog):
    model = build_model(setup_config(str(FOLDER / "pointrend_r101_context_aware.yaml"), SMALL))
    assert type(model.sem_seg_head).__name__ == "SemSegFPNHead"
    assert "points are not refined" in caplog.text


def test_there_is_a_config_for_each_head_and_classifier():
    heads = ("fpn_r50", "deeplabv3_r103", "deeplabv3plus_r103", "pointrend_r101")
    classifiers = ("linear", "context_aware", "prototype", "explicit_class")
    assert {path.stem for path in LEAVES} == {f"{h}_{c}" for h in heads for c in classifiers}


@pytest.mark.skipif(not is_embedded(), reason="says what happens without Detectron2")
@pytest.mark.parametrize("path", LEAVES[:1], ids=lambda path: path.stem)
def test_without_detectron2_the_error_names_what_is_missing(path):
    with pytest.raises((UserError, ImportError), match="not registered|nothing is registered"):
        build_model(setup_config(str(path), SMALL))
