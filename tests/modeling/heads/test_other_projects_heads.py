"""Heads of other Detectron2 projects take every classifier as they are (docs/EXTENDING.md)."""

import pytest
import torch
import torch.nn.functional as F
from segmentor_cases import NOT_TRAINED
from torch import nn

from d2_ctxseg.modeling.segmentors import PixelClassifierSegmentor
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY, build_model


class PixelDecoder(nn.Module):
    """Gives per-pixel embeddings, and features of a transformer encoder that it does not have."""

    def __init__(self, input_shape: dict[str, ShapeSpec], channels: int):
        super().__init__()
        self.mask_dim = channels
        self.laterals = nn.ModuleDict(
            {name: Conv2d(shape.channels, channels, 1) for name, shape in input_shape.items()}
        )

    def forward_features(self, features):
        maps = [lateral(features[name]) for name, lateral in self.laterals.items()]
        return sum(F.interpolate(x, maps[0].shape[-2:]) for x in maps), None


@SEM_SEG_HEADS_REGISTRY.register()
class StandInForMaskFormersHead(nn.Module):
    """The members of MaskFormer's PerPixelBaselineHead, and keys of its config that it reads."""

    @configurable
    def __init__(
        self, input_shape, *, num_classes, pixel_decoder, loss_weight=1.0, ignore_value=-1
    ):
        super().__init__()
        self.in_features = [name for name, _ in input_shape.items()]
        self.ignore_value, self.common_stride, self.loss_weight = ignore_value, 4, loss_weight
        self.pixel_decoder = pixel_decoder
        self.predictor = Conv2d(pixel_decoder.mask_dim, num_classes, kernel_size=1)

    @classmethod
    def from_config(cls, cfg, input_shape):
        head = cfg.MODEL.SEM_SEG_HEAD
        input_shape = {name: input_shape[name] for name in head.IN_FEATURES}
        return {
            "input_shape": input_shape,
            "ignore_value": head.IGNORE_VALUE,
            "num_classes": head.NUM_CLASSES,
            "pixel_decoder": PixelDecoder(input_shape, head.MASK_DIM),
            "loss_weight": head.LOSS_WEIGHT,
        }

    def layers(self, features):
        embeddings, _ = self.pixel_decoder.forward_features(features)
        return self.predictor(embeddings)

    def losses(self, predictions, targets):
        size = targets.shape[-2:]
        predictions = F.interpolate(predictions, size, mode="bilinear", align_corners=False)
        loss = F.cross_entropy(predictions, targets, ignore_index=self.ignore_value)
        return {"loss_sem_seg": loss * self.loss_weight}

    def forward(self, features, targets=None):
        x = self.layers(features)
        if self.training:
            return None, self.losses(x, targets)
        return F.interpolate(x, scale_factor=4, mode="bilinear", align_corners=False), {}


@pytest.fixture
def cfg(tiny_config):
    # What add_mask_former_config does after add_ctxseg_config: some keys have the same names.
    tiny_config.INPUT.COLOR_AUG_SSD = False
    tiny_config.SOLVER.OPTIMIZER = "ADAMW"
    tiny_config.SOLVER.BACKBONE_MULTIPLIER = 0.1
    tiny_config.SOLVER.WEIGHT_DECAY_EMBED = 0.0
    tiny_config.MODEL.MASK_FORMER = CfgNode()
    head = tiny_config.MODEL.SEM_SEG_HEAD
    head.MASK_DIM = 32
    head.NAME, head.LOSS_WEIGHT = "StandInForMaskFormersHead", 0.5
    head.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    tiny_config.MODEL.CLASSIFIER.DROPOUT = 0.0
    return tiny_config


SEGMENTORS = [
    name
    for name, architecture in META_ARCH_REGISTRY
    if isinstance(architecture, type)
    and issubclass(architecture, PixelClassifierSegmentor)
    and architecture.classifier_class is not None
    and name not in NOT_TRAINED
]
inputs = [
    {
        "image": torch.randint(0, 255, (3, 64, 96), dtype=torch.uint8),
        "sem_seg": torch.randint(0, 5, (64, 96)),
    }
    for _ in range(2)
]


@pytest.mark.parametrize("meta_architecture", SEGMENTORS)
def test_every_classifier_trains_and_predicts_behind_it(cfg, meta_architecture):
    cfg.MODEL.META_ARCHITECTURE = meta_architecture
    model = build_model(cfg)
    losses = model(inputs)
    sum(losses.values()).backward()
    assert "loss_sem_seg" in losses
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    with torch.no_grad():
        assert model.eval()(inputs[:1])[0]["sem_seg"].shape == (5, 64, 96)


def test_with_the_linear_classifier_it_is_what_it_was(cfg):
    models = {}
    for name in ("LinearSegmentor", "SemanticSegmentor"):
        cfg.MODEL.META_ARCHITECTURE = name
        models[name] = build_model(cfg)
    ours, theirs = models.values()
    theirs.load_state_dict(
        {
            key.replace("classifier.predictor", "sem_seg_head.predictor"): value
            for key, value in ours.state_dict().items()
        }
    )
    losses, expected = ours(inputs), theirs(inputs)
    torch.testing.assert_close(losses["loss_sem_seg"], expected["loss_sem_seg"])
    with torch.no_grad():
        found = ours.eval()(inputs[:1])[0]["sem_seg"]
        torch.testing.assert_close(found, theirs.eval()(inputs[:1])[0]["sem_seg"])
