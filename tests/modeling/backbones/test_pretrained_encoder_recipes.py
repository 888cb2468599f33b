"""The configs of docs/PRETRAINED_ENCODERS.md build and train."""

import re
from pathlib import Path

import pytest
import torch

from d2_ctxseg.engine import Trainer, setup_config
from detectron2.modeling import build_model

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "PRETRAINED_ENCODERS.md").read_text(encoding="utf-8")
CONFIGS = dict(re.findall(r"```yaml\n# mine/([\w-]+\.yaml)\n(.*?)```", PAGE, re.DOTALL))
RECIPES = [name for name in CONFIGS if not name.startswith("Base-")]
OTHER_NAMES = re.search(r"\| pretrained by \|(.*?)\n\n", PAGE, re.DOTALL)[1]
OTHER_TRANSFORMERS = re.findall(r"\| `([\w.]+)` \|", OTHER_NAMES)
SIDE = 64


@pytest.fixture
def folder(tmp_path):
    """The page's configs, without its dataset."""
    for name, text in CONFIGS.items():
        text = text.replace('"../configs/', f'"{ROOT}/configs/')
        text = re.sub(r"\nDATASETS:\n(  .*\n)+", "\n", text)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def assert_trains(config_file: Path, *opts: str) -> torch.nn.Module:
    """One step of a model with random weights on the meta device, which works out shapes."""
    opts = ["MODEL.DEVICE", "meta", "MODEL.ENCODER.WEIGHTS", "", *opts]
    cfg = setup_config(str(config_file), opts)
    with torch.device("meta"):
        model = build_model(cfg).train()
        optimizer = Trainer.build_optimizer(cfg, model)
        images = torch.zeros(2, 3, *cfg.INPUT.CROP.SIZE)
        labels = torch.zeros(2, *cfg.INPUT.CROP.SIZE, dtype=torch.int64)
        sum(model.losses(images, labels).values()).backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    assert sum(len(group["params"]) for group in optimizer.param_groups) > 0
    return model.backbone


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes(folder, recipe):
    backbone = assert_trains(folder / recipe)
    all_frozen = not any(p.requires_grad for p in backbone.parameters())
    assert all_frozen == (recipe == "dinov2_frozen.yaml")


@pytest.mark.parametrize("name", OTHER_TRANSFORMERS)
@pytest.mark.parametrize("recipe", ["dinov2_frozen.yaml", "dinov2_tuned.yaml"])
def test_other_transformers_in_the_recipes_of_dinov2(folder, recipe, name):
    assert_trains(folder / recipe, "MODEL.ENCODER.NAME", name)


@pytest.mark.parametrize(
    "name", ["resnet50", "mit_b0", "tu-tf_efficientnet_lite0", "tu-convnext_tiny.dinov3_lvd1689m"]
)
def test_other_encoders_in_the_convolutional_recipe(folder, name):
    assert name in PAGE
    assert_trains(folder / "convnext.yaml", "MODEL.ENCODER.NAME", name)


@pytest.mark.parametrize("freeze_at", ["0", "13"])
def test_dinov3_frozen_or_tuned_as_a_whole(folder, freeze_at):
    assert_trains(folder / "dinov3.yaml", "MODEL.BACKBONE.FREEZE_AT", freeze_at)


def test_larger_dinov2(folder):
    maps = ["block5", "block11", "block17", "block23"]
    for name, opts in [
        ("vit_base_patch14_reg4_dinov2", []),
        (
            "vit_large_patch14_reg4_dinov2",
            ["MODEL.ENCODER.OUT_INDICES", "[5, 11, 17, 23]", "MODEL.BACKBONE.FREEZE_AT", "25"]
            + ["MODEL.SEM_SEG_HEAD.IN_FEATURES", str(maps)],
        ),
    ]:
        assert name in PAGE
        backbone = assert_trains(folder / "dinov2_frozen.yaml", "MODEL.ENCODER.NAME", name, *opts)
        assert not any(p.requires_grad for p in backbone.parameters())


def test_the_page_has_what_is_tested_here():
    assert len(RECIPES) == 4 and len(OTHER_TRANSFORMERS) == 6
