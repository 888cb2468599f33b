"""A dataset of dark and bright pixels, and small models trained on it."""

from pathlib import Path
from string import Template

import numpy as np
import torch

from d2_ctxseg.engine.setup import setup_config
from detectron2.modeling import build_model

NIGHT, DAY = [10, 20, 200], [240, 220, 30]

DATASET = """
name: $NAME
splits: {test: {images: images, labels: labels}}
classes: [night, day]
palette: [[10, 20, 200], [240, 220, 30]]
"""

CONFIG = """
DATASETS:
  FOLDERS: ["$FOLDER/$NAME.yaml"]
  TRAIN: ("${NAME}_sem_seg_test",)
  TEST: ("${NAME}_sem_seg_test",)
INPUT: {FORMAT: "RGB", MIN_SIZE_TEST: 0}
MODEL:
  DEVICE: "cpu"
  META_ARCHITECTURE: "$META_ARCHITECTURE"
  PIXEL_MEAN: [128.0, 128.0, 128.0]
  PIXEL_STD: [64.0, 64.0, 64.0]
  BACKBONE: {NAME: "EncoderBackbone", FREEZE_AT: 0}
  ENCODER: {NAME: "tu-test_resnet", WEIGHTS: ""}
  SEM_SEG_HEAD:
    NAME: "SMPDecoderHead"
    NUM_CLASSES: $NUM_CLASSES
    DECODER: {NAME: "FPN", OPTIONS: ["pyramid_channels", 32, "segmentation_channels", 32]}
"""


def small_config(folder: Path, dataset: str, meta_architecture: str, num_classes: int) -> str:
    """The YAML text of a small model's config; its dataset is described in ``folder``."""
    return Template(CONFIG).substitute(
        FOLDER=folder, NAME=dataset, META_ARCHITECTURE=meta_architecture, NUM_CLASSES=num_classes
    )


def half_bright(height=96, width=128):
    """uint8 RGB: dark on the left, bright on the right, with some noise."""
    image = np.random.default_rng(0).integers(0, 40, (height, width, 3))
    image[:, width // 2 :] += 200
    return image.astype(np.uint8)


def make_run(folder: Path, meta_architecture: str, dataset: str) -> Path:
    """The output folder of a training that distinguishes dark and bright pixels.

    Args:
        folder: to be made.
        meta_architecture: as MODEL.META_ARCHITECTURE.
        dataset: a name that no other test module registers.
    """
    folder.mkdir(parents=True)
    description = folder.parent / f"{dataset}.yaml"
    description.write_text(Template(DATASET).substitute(NAME=dataset))
    config = small_config(folder.parent, dataset, meta_architecture, num_classes=2)
    (folder / "config.yaml").write_text(config)
    torch.manual_seed(0)
    model = build_model(setup_config(str(folder / "config.yaml"), []))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(30):
        labels = torch.randint(0, 2, (4, 2, 2)).repeat_interleave(32, 1).repeat_interleave(32, 2)
        images = labels[:, None] * 200 + torch.randint(0, 40, (4, 3, 64, 64))
        batch = [{"image": i.float(), "sem_seg": y} for i, y in zip(images, labels)]
        optimizer.zero_grad()
        sum(model(batch).values()).backward()
        optimizer.step()
    torch.save({"model": model.state_dict()}, folder / "model_final.pth")
    return folder
