"""Networks of the authors' codes: names and shapes, random weights, outputs, and configs of ours.

The names and shapes in fixtures/official_keys, and the outputs in fixtures/official_models.npz, are
of the authors' own code with the weights that ``random_weights`` makes (see the README there).
"""

import json
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import torch

from d2_ctxseg import add_ctxseg_config
from detectron2.config import get_cfg

FIXTURES = Path(__file__).parent / "fixtures"
BRANCHES = ["res2", "res3", "res4", "res5"]

CONTEXT_AWARE = {"META_ARCHITECTURE": "ContextAwareSegmentor"}
LINEAR = {"META_ARCHITECTURE": "LinearSegmentor"}
AUXILIARY = {"AUXILIARY_HEAD.ENABLED": True, "AUXILIARY_HEAD.CHANNELS": 16}
SWIN = {"ENCODER.NAME": "tu-swin_tiny_patch4_window7_224", "ENCODER.OUTPUT_NORM": True}
RESNET = {"ENCODER.NAME": "tu-resnet50c", "ENCODER.OUTPUT_STRIDE": 8}
MOBILENET = {"ENCODER.NAME": "tu-mobilenetv2_100", "ENCODER.OUTPUT_STRIDE": 8}
HRNET = {"ENCODER.NAME": "tu-hrnet_w18_small_v2"}
MIT = {"ENCODER.NAME": "mit_b0"}
SYSTEMS = {
    "swin_uper": {
        **(CONTEXT_AWARE | SWIN | AUXILIARY),
        "SEM_SEG_HEAD.NAME": "UPerHead",
        "UPER_HEAD.CHANNELS": 32,
    },
    "resnet_aspp": {
        **(CONTEXT_AWARE | RESNET | AUXILIARY),
        "SEM_SEG_HEAD.NAME": "DepthwiseSeparableASPPHead",
        "ASPP_HEAD.CHANNELS": 32,
        "ASPP_HEAD.LOW_LEVEL_CHANNELS": 8,
    },
    "mobilenet_psp": {
        **(LINEAR | MOBILENET | AUXILIARY),
        "SEM_SEG_HEAD.NAME": "PSPHead",
        "PSP_HEAD.CHANNELS": 32,
    },
    "mobilenet_fcn": {
        **(LINEAR | MOBILENET | AUXILIARY),
        "SEM_SEG_HEAD.NAME": "FCNHead",
        "FCN_HEAD.CHANNELS": 32,
    },
    "hrnet_ocr": {
        **(CONTEXT_AWARE | HRNET),
        "SEM_SEG_HEAD.NAME": "OCRHead",
        "OCR_HEAD.CHANNELS": 32,
        "OCR_HEAD.KEY_CHANNELS": 16,
    },
    "segformer": {
        **(LINEAR | MIT),
        "SEM_SEG_HEAD.NAME": "SMPDecoderHead",
        "SEM_SEG_HEAD.DECODER.NAME": "Segformer",
        "SEM_SEG_HEAD.DECODER.OPTIONS": ["segmentation_channels", 32],
    },
    "protoseg": {
        **HRNET,
        "META_ARCHITECTURE": "PrototypeSegmentor",
        "SEM_SEG_HEAD.NAME": "FCNHead",
        "SEM_SEG_HEAD.IN_FEATURES": BRANCHES,
        "FCN_HEAD.CHANNELS": None,
        "FCN_HEAD.NUM_CONVS": 1,
        "FCN_HEAD.CONCAT_INPUT": False,
        "CLASSIFIER.PROTOTYPE.NUM_PROTOTYPES": 4,
        "CLASSIFIER.PROTOTYPE.PROJECTION": True,
        "CLASSIFIER.ALIGN_CORNERS": True,
    },
}


def random_weights(shapes):
    """Values for the authors' keys, of a size that keeps activations moderate, always the same."""
    return {key: random_tensor(key, shape) for key, shape in shapes.items()}


def random_tensor(key, shape):
    # RandomState's numbers never change between versions of numpy.
    generator = np.random.RandomState(zlib.crc32(key.encode()))
    if key.endswith("num_batches_tracked"):
        return torch.tensor(generator.randint(1000))
    if key.endswith("relative_position_index"):
        return torch.from_numpy(generator.randint(0, 9, shape))
    if key.endswith("running_var"):
        return torch.from_numpy(generator.uniform(0.5, 1.5, shape)).float()
    values = generator.standard_normal(shape)
    if len(shape) > 1:
        values /= np.sqrt(np.prod(shape[1:]))
    elif key.endswith("weight"):
        values = 1 + 0.1 * values
    else:
        values *= 0.1
    return torch.from_numpy(values).float()


def official_shapes(name):
    def flatten(tree, prefix=""):
        for key, value in tree.items():
            if isinstance(value, dict):
                yield from flatten(value, f"{prefix}{key}.")
            else:
                yield prefix + key, tuple(value)

    return dict(flatten(json.loads((FIXTURES / "official_keys" / f"{name}.json").read_text())))


@cache
def official(name):
    return random_weights(official_shapes(name))


def official_output(name):
    with np.load(FIXTURES / "official_models.npz") as arrays:
        return torch.from_numpy(arrays[name])


def image():
    # Sides that are no multiples of Swin's windows.
    values = np.random.RandomState(0).standard_normal((1, 3, 96, 160))
    return torch.from_numpy(values).float()


def config(options):
    cfg = get_cfg()
    add_ctxseg_config(cfg)
    common = {
        "DEVICE": "cpu",
        "BACKBONE.NAME": "EncoderBackbone",
        "BACKBONE.FREEZE_AT": 0,
        "ENCODER.WEIGHTS": "",
        "SEM_SEG_HEAD.NUM_CLASSES": 5,
    }
    for key, value in (common | options).items():
        cfg.merge_from_list([f"MODEL.{key}", value])
    return cfg
