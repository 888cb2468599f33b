"""For the tests of the classifiers' views: small models, a dataset, images."""

import numpy as np
import pytest
import torch
from daylight import small_config
from PIL import Image

from d2_ctxseg.deployment.predictor import SemSegPredictor
from d2_ctxseg.engine.setup import setup_config
from d2_ctxseg.visualization.classifier_views.scene import Scene
from detectron2.modeling import build_model

NUM_CLASSES = 5

DATASET = """
name: views
splits: {test: {images: images, labels: labels}}
classes: [sky, tree, "$road$", Car, car]
palette: [[10, 20, 200], [20, 120, 30], [90, 90, 90], [200, 30, 30], [230, 200, 40]]
"""

# Beneath MODEL, with which a small model's config ends.
OPTIONS = """
  CLASSIFIER: {PROTOTYPE: {NUM_PROTOTYPES: 3}}
  ECE_HEAD: {CHANNELS: 32}
  SEGVIT_HEAD: {CHANNELS: 48}
"""
ECE = ("MODEL.SEM_SEG_HEAD.NAME", "ECEHead")
SEGVIT = ("MODEL.SEM_SEG_HEAD.NAME", "SegViTHead")
SEGVIT += ("MODEL.SEM_SEG_HEAD.IN_FEATURES", "['res4', 'res5']")
EXPLICIT_TOKENS = (*SEGVIT, "MODEL.SEGVIT_HEAD.CLASS_EMBEDDINGS", "explicit")
WINDOWS = ("TEST.SLIDING_WINDOW.ENABLED", "True")
WINDOWS += ("TEST.SLIDING_WINDOW.SIZE", "[48, 64]", "TEST.SLIDING_WINDOW.STRIDE", "[32, 32]")


def random_image(height=72, width=100, seed=0):
    """uint8 RGB (H, W, 3): blurred noise. 72 x 100 is not a multiple of the encoder's divisor."""
    noise = np.random.default_rng(seed).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3))
    image = Image.fromarray(noise.astype(np.uint8)).resize((width, height), Image.BICUBIC)
    return np.asarray(image)


def labels_of(image, seed=0):
    """int64 (H, W): classes in blocks, and ignored pixels (255) at the left."""
    blocks = np.random.default_rng(seed).integers(0, NUM_CLASSES, (image.shape[0], 4))
    labels = blocks[:, np.arange(image.shape[1]) * 4 // image.shape[1]]
    labels[:, :10] = 255
    return labels


@pytest.fixture(scope="session")
def views_folder(tmp_path_factory):
    """A dataset of three images with labels, and the config of a model for it."""
    folder = tmp_path_factory.mktemp("views")
    (folder / "views.yaml").write_text(DATASET)
    config = small_config(folder, "views", "LinearSegmentor", NUM_CLASSES) + OPTIONS
    (folder / "config.yaml").write_text(config)
    for name in ("images", "labels"):
        (folder / name).mkdir()
    for number in range(3):
        image = random_image(seed=number)
        Image.fromarray(image).save(folder / f"images/{number}.png")
        Image.fromarray(labels_of(image).astype(np.uint8)).save(folder / f"labels/{number}.png")
    return folder


@pytest.fixture(scope="session")
def predictor_of(views_folder):
    """Makes the predictor of a meta-architecture, its weights random, but those of one seed."""
    made = {}

    def make(meta_architecture, *opts):
        key = (meta_architecture, *opts)
        if key not in made:
            changes = ["MODEL.META_ARCHITECTURE", meta_architecture, *opts]
            torch.manual_seed(0)
            model = build_model(setup_config(str(views_folder / "config.yaml"), changes))
            with torch.no_grad():  # new predictors are nearly indifferent
                for name, value in model.named_parameters():
                    if name.endswith("predictor.weight"):
                        value.mul_(100)
            weights = str(views_folder / f"{len(made)}.pth")
            torch.save({"model": model.state_dict()}, weights)
            changes += ["MODEL.WEIGHTS", weights]
            made[key] = SemSegPredictor(setup_config(str(views_folder / "config.yaml"), changes))
        return made[key]

    return make


def scene_of(predictor, image=None, **options):
    return Scene.from_predictor(predictor, random_image() if image is None else image, **options)
