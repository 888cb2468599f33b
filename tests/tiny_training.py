"""Tiny models and trainers for the tests of the engine, on an installed or embedded Detectron2."""

import logging
from contextlib import contextmanager

import torch
from torch import nn

from d2_ctxseg.engine.optimizer import parameter_groups
from detectron2.config import get_cfg
from detectron2.engine import DefaultTrainer, HookBase, SimpleTrainer, hooks
from detectron2.evaluation import DatasetEvaluator
from detectron2.layers import Conv2d, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_model
from detectron2.solver import build_lr_scheduler
from detectron2.solver.build import maybe_add_gradient_clipping
from detectron2.utils.logger import setup_logger

NUM_CLASSES = 3


@BACKBONE_REGISTRY.register()
class TinyTestBackbone(Backbone):
    """Two convolutions: "res2" (stride 4) and "res3" (stride 8), with normalization "BN"."""

    def __init__(self, cfg, input_shape):
        super().__init__()
        self._out_features = ["res2", "res3"]
        self._out_feature_channels = {"res2": 2, "res3": 3}
        self._out_feature_strides = {"res2": 4, "res3": 8}
        self.stem = Conv2d(input_shape.channels, 2, kernel_size=4, stride=4, bias=False)
        self.stage = Conv2d(
            2, 3, kernel_size=2, stride=2, bias=False, norm=get_norm("BN", 3), activation=torch.tanh
        )

    @property
    def size_divisibility(self):
        return 8

    def forward(self, x):
        res2 = self.stem(x)
        return {"res2": res2, "res3": self.stage(res2)}


def tiny_cfg(output_dir, max_iter=6):
    """The config of a training of ``max_iter`` iterations on the CPU."""
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(output_dir)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.PIXEL_STD = [58.0, 58.0, 58.0]
    cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
    cfg.MODEL.BACKBONE.NAME = "TinyTestBackbone"
    head = cfg.MODEL.SEM_SEG_HEAD
    head.NAME = "SemSegFPNHead"
    head.IN_FEATURES = ["res2", "res3"]
    head.NUM_CLASSES = NUM_CLASSES
    head.CONVS_DIM = 2
    head.NORM = ""
    cfg.DATASETS.TRAIN = ("synthetic_train",)
    cfg.DATASETS.TEST = ("synthetic_test",)
    cfg.SOLVER.MAX_ITER = max_iter
    cfg.SOLVER.BASE_LR = 0.1
    cfg.SOLVER.STEPS = (4,)
    cfg.SOLVER.WARMUP_ITERS = 2
    return cfg


def synthetic_batch(seed=0, size=2):
    """A batch as the dataset mapper makes it: images (3, 16, 24) float32, labels (16, 24) int64."""
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            "image": torch.rand(3, 16, 24, generator=generator) * 255,
            "sem_seg": torch.randint(NUM_CLASSES, (16, 24), generator=generator),
            "height": 16,
            "width": 24,
        }
        for _ in range(size)
    ]


class EndlessBatches:
    """The same batch in every step, so that a resumed training sees the same data."""

    def __iter__(self):
        while True:
            yield synthetic_batch()


class PixelAccuracy(DatasetEvaluator):
    """The share of correct pixels in percent, as {"sem_seg": {"accuracy": ...}}."""

    def reset(self):
        self.correct = []

    def process(self, inputs, outputs):
        for item, output in zip(inputs, outputs):
            self.correct.append((output["sem_seg"].argmax(0) == item["sem_seg"]).float().mean())

    def evaluate(self):
        return {"sem_seg": {"accuracy": 100 * torch.stack(self.correct).mean().item()}}


class AfterStep(HookBase):
    """Calls a function with the trainer after each step."""

    def __init__(self, function):
        self.function = function

    def after_step(self):
        self.function(self.trainer)


class TinyTrainer(DefaultTrainer):
    """Tests on synthetic data."""

    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        return [synthetic_batch(seed=1, size=1), synthetic_batch(seed=2, size=1)]

    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        return PixelAccuracy()


def train_tiny(cfg):
    """Train the config's model; returns total loss and learning rate of each iteration."""
    model = build_model(cfg)
    optimizer = _build_sgd(cfg, model)
    trainer = SimpleTrainer(model, EndlessBatches(), optimizer)
    trainer.scheduler = build_lr_scheduler(cfg, optimizer)
    trainer.register_hooks([hooks.LRScheduler()])
    trainer.train(0, cfg.SOLVER.MAX_ITER)
    return history(trainer, "total_loss"), history(trainer, "lr")


def _build_sgd(cfg, model):
    solver = cfg.SOLVER
    groups = parameter_groups(
        model,
        lr=solver.BASE_LR,
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
    )
    options = {"momentum": solver.MOMENTUM, "nesterov": solver.NESTEROV}
    return maybe_add_gradient_clipping(cfg, torch.optim.SGD)(groups, lr=solver.BASE_LR, **options)


class Quadratic(nn.Module):
    """One weight, which starts at 2; the losses of a batch x are (w x)^2 and |w|."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        return {"loss_square": (self.weight * x) ** 2, "loss_abs": self.weight.abs()}


def simple_trainer(batches=(1.0,) * 10, model=None):
    """A trainer of `Quadratic` by gradient descent with rate 0.1 on the given batches."""
    model = model or Quadratic()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return SimpleTrainer(model, [torch.tensor(x) for x in batches], optimizer)


def history(trainer, name):
    """All values of a scalar that the trainer's event storage holds."""
    return [value for value, _ in trainer.storage.history(name).values()]


@contextmanager
def detectron2_log():
    """Yields the list of messages that detectron2's loggers log inside the block.

    Detectron2 turns propagation off and adds handlers; both are undone at the end.
    """
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore")]
    before = [(logger.level, logger.propagate, logger.handlers[:]) for logger in loggers]
    loggers[0].addHandler(handler)
    loggers[0].setLevel(logging.DEBUG)
    try:
        yield messages
    finally:
        for logger, (level, propagate, handlers) in zip(loggers, before):
            logger.setLevel(level)
            logger.propagate = propagate
            logger.handlers[:] = handlers
        setup_logger.cache_clear()  # it would not add the handlers again otherwise
