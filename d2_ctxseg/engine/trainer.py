"""Detectron2's trainer with this project's data, optimizer, evaluation and safeguards."""

import logging
import os
import weakref
from collections import OrderedDict
from functools import partial

import numpy as np
import torch
from torch import nn

from detectron2.data import (
    DatasetCatalog,
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
)
from detectron2.engine import (
    DefaultTrainer,
    SimpleTrainer,
    TrainerBase,
    create_ddp_model,
    hooks,
)
from detectron2.evaluation import DatasetEvaluators
from detectron2.utils import comm

from ..checkpoint import Checkpointer
from ..data import SemanticSegmentorMapper
from ..evaluation import SegmentationEvaluator
from ..evaluation.cityscapes import cityscapes_evaluators
from ..evaluation.evaluator import label_loader
from ..modeling import LabelMapPredictor, TestTimeAugmentation
from ..utils.errors import UserError
from .cost import CostOfTraining, TimedModel, count_test_parameters, record_cost
from .ema import AverageWeights, average_of
from .hooks import CheckpointOnInterrupt, PredictionOverlays, ResumableBestCheckpointer
from .lr_scheduler import build_lr_scheduler
from .model_options import compile_model, synchronize_batch_norm, use_channels_last
from .optimizer import build_optimizer
from .progress import WithProgressBar
from .train_step import PartwiseTrainer

logger = logging.getLogger(__name__)


class Trainer(DefaultTrainer):
    """Trains, evaluates and keeps the checkpoints of one run, as ``cfg`` says.

    Differs from DefaultTrainer in that it trains with several CPU processes as well, writes
    checkpoints atomically, leaves one behind on Ctrl-C, keeps the best one and draws predictions,
    and in gradient accumulation, bfloat16, averaged weights and the other keys of this project.
    """

    def __init__(self, cfg):
        # DefaultTrainer's constructor cannot wrap a model on the CPU for several processes, and
        # fixes the class of the checkpointer.
        TrainerBase.__init__(self)
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        self.cfg = cfg
        _images_of_a_part(cfg)  # where it cannot be, say so before the model is built
        model = self.build_model(cfg)
        if cfg.MODEL.SYNC_BN:
            model = synchronize_batch_norm(model)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)
        self.average = None
        if cfg.SOLVER.EMA.ENABLED:
            self.average = average_of(model, cfg.SOLVER.EMA.DECAY)

        self._trainer = _build_step(cfg, _wrap_for_workers(model), data_loader, optimizer)
        model = self._trainer.model
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = Checkpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        if self.average is not None:
            self.checkpointer.add_checkpointable("ema", self.average)
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume: bool = True) -> None:
        """As DefaultTrainer's; a poly schedule that is resumed goes to this run's MAX_ITER."""
        super().resume_or_load(resume)
        # The checkpoint brings the length of its own schedule along; past it the rate has no value.
        before = getattr(self.scheduler, "max_iters", self.max_iter)
        if before != self.max_iter:
            logger.warning(
                "The checkpoint's schedule had %d iterations; it now goes to SOLVER.MAX_ITER %d.",
                before,
                self.max_iter,
            )
            self.scheduler.max_iters = self.max_iter

    def train(self) -> OrderedDict | None:
        """Train up to SOLVER.MAX_ITER; the last evaluation's results on the main process.

        Raises:
            UserError: the loss became infinite or NaN; the message names the iteration.
        """
        try:
            super().train()
        except FloatingPointError as error:
            raise UserError(
                f"Training stopped. {error}\nCommon causes: a learning rate (SOLVER.BASE_LR) that "
                "is too high, no warm-up, half precision. SOLVER.CLIP_GRADIENTS may help; the "
                "checkpoints written before are in OUTPUT_DIR."
            ) from error
        return getattr(self, "_last_eval_results", None)

    def build_hooks(self) -> list[hooks.HookBase]:
        """DefaultTrainer's hooks and this project's, which come before the metrics are written."""
        all_hooks = [hook for hook in super().build_hooks() if hook is not None]
        if self.average is not None:
            all_hooks = self._with_average(all_hooks)
        writer = [hook for hook in all_hooks if isinstance(hook, hooks.PeriodicWriter)]
        others = [hook for hook in all_hooks if not isinstance(hook, hooks.PeriodicWriter)]
        own = []
        if comm.is_main_process() and self.cfg.DATASETS.TEST:
            own = [self._best_checkpointer(), self._overlays()]
        own.append(CostOfTraining(self.cfg.OUTPUT_DIR))
        interrupt = [CheckpointOnInterrupt(self.checkpointer)]
        return others + [hook for hook in own if hook is not None] + writer + interrupt

    def _with_average(self, all_hooks: list[hooks.HookBase]) -> list[hooks.HookBase]:
        """The hooks with an average that is updated first and evaluated beside the weights."""

        def evaluate():
            results = self.test(self.cfg, self.model)
            build = partial(self.build_evaluator, self.cfg, task="sem_seg_EMA")
            evaluators = [build(name) for name in self.cfg.DATASETS.TEST]
            average = LabelMapPredictor(self.average.module)
            merge_results(results, self.test(self.cfg, average, evaluators))
            self._last_eval_results = results
            return results

        model = getattr(self.model, "module", self.model)
        update = AverageWeights(self.average, model, self.cfg.OUTPUT_DIR)
        evaluation = hooks.EvalHook(self.cfg.TEST.EVAL_PERIOD, evaluate)
        return [update] + [
            evaluation if isinstance(hook, hooks.EvalHook) else hook for hook in all_hooks
        ]

    def _best_checkpointer(self) -> hooks.BestCheckpointer | None:
        metric = self.cfg.TEST.BEST_METRIC
        if not metric or self.cfg.TEST.EVAL_PERIOD <= 0:
            return None
        if len(self.cfg.DATASETS.TEST) > 1:
            metric = f"{self.cfg.DATASETS.TEST[0]}/{metric}"
        return ResumableBestCheckpointer(
            self.cfg.OUTPUT_DIR, self.cfg.TEST.EVAL_PERIOD, self.checkpointer, metric
        )

    def _overlays(self) -> PredictionOverlays | None:
        cfg, name = self.cfg, self.cfg.DATASETS.TEST[0]
        records = [r for r in DatasetCatalog.get(name) if r.get("sem_seg_file_name")]
        count = min(cfg.TEST.NUM_OVERLAYS, len(records))
        if count == 0:
            return None
        chosen = np.linspace(0, len(records) - 1, count).round().astype(int)
        return PredictionOverlays(
            cfg.TEST.EVAL_PERIOD,
            getattr(self.model, "module", self.model),
            SemanticSegmentorMapper(cfg, is_train=False),
            [records[i] for i in chosen],
            label_loader(name),
            MetadataCatalog.get(name),
            cfg.OUTPUT_DIR,
        )

    @classmethod
    def build_model(cls, cfg) -> nn.Module:
        """The config's model on its device, in the memory format and compiled as MODEL says."""
        model = super().build_model(cfg)
        if cfg.MODEL.CHANNELS_LAST:
            use_channels_last(model)
        if cfg.MODEL.COMPILE:
            compile_model(model)
        return model

    @classmethod
    def build_optimizer(cls, cfg, model: nn.Module):
        """See :func:`d2_ctxseg.engine.optimizer.build_optimizer`."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg, optimizer):
        """See :func:`d2_ctxseg.engine.lr_scheduler.build_lr_scheduler`."""
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg):
        """Endless batches of training images and labels, SOLVER.ACCUMULATION_STEPS a step."""
        return build_detection_train_loader(
            cfg,
            mapper=SemanticSegmentorMapper(cfg, is_train=True),
            total_batch_size=_images_of_a_part(cfg),
        )

    @classmethod
    def build_test_loader(cls, cfg, dataset_name: str):
        """Test images one by one, each on exactly one worker, with a progress bar."""
        loader = build_detection_test_loader(
            cfg, dataset_name, mapper=SemanticSegmentorMapper(cfg, is_train=False)
        )
        return WithProgressBar(loader, dataset_name)

    @classmethod
    def build_evaluator(
        cls, cfg, dataset_name: str, task: str = "sem_seg", prediction_key: str = "label_map"
    ):
        """The evaluator of a dataset, as TEST says.

        It writes to ``{OUTPUT_DIR}/inference/{task}/{dataset_name}``.
        """
        evaluator = SegmentationEvaluator(
            dataset_name,
            task=task,
            prediction_key=prediction_key,
            output_dir=os.path.join(cfg.OUTPUT_DIR, "inference", task, dataset_name),
            boundary_iou=cfg.TEST.BOUNDARY_IOU,
            absent_classes=cfg.TEST.ABSENT_CLASSES,
            save_predictions=cfg.TEST.SAVE_PREDICTIONS,
            num_examples=cfg.TEST.NUM_EXAMPLES,
            weights=cfg.MODEL.WEIGHTS,
        )
        if not cfg.TEST.CITYSCAPES_SCRIPTS:
            return evaluator
        official = cityscapes_evaluators(dataset_name, task=task, prediction_key=prediction_key)
        return DatasetEvaluators([evaluator, *official]) if official else evaluator

    @classmethod
    def test(cls, cfg, model: nn.Module, evaluators=None) -> OrderedDict:
        """As DefaultTrainer's; without ``evaluators``, full scores are never made."""
        if evaluators is not None:
            return super().test(cfg, model, evaluators)
        segmentor = getattr(model, "module", model)
        timed = TimedModel(LabelMapPredictor(segmentor))
        results = super().test(cfg, timed)
        record_cost(
            cfg.OUTPUT_DIR,
            {
                "test_parameters": count_test_parameters(segmentor),
                "seconds_per_image": timed.seconds_per_image(),
            },
        )
        return results

    @classmethod
    def test_with_TTA(cls, cfg, model: nn.Module) -> OrderedDict:
        """Evaluate single-scale, "sem_seg", and as TEST.AUG says, "sem_seg_TTA", in one pass."""
        logger.info("Running inference with test-time augmentation ...")
        model = getattr(model, "module", model)
        model = LabelMapPredictor(model, TestTimeAugmentation.from_config(cfg))
        tasks = {"sem_seg": "label_map", "sem_seg_TTA": "label_map_TTA"}
        evaluators = [
            DatasetEvaluators(
                [cls.build_evaluator(cfg, name, task, key) for task, key in tasks.items()]
            )
            for name in cfg.DATASETS.TEST
        ]
        return cls.test(cfg, model, evaluators)


def merge_results(results: dict, others: dict) -> None:
    """Add the tasks of ``others`` to ``results``: task -> metrics, or dataset -> that."""
    for key, value in others.items():
        if isinstance(results.get(key), dict):
            results[key].update(value)
        else:
            results[key] = value


def _build_step(cfg, model: nn.Module, data_loader, optimizer) -> SimpleTrainer:
    """What does a step: Detectron2's SimpleTrainer where no key asks for more."""
    amp, parts = cfg.SOLVER.AMP, cfg.SOLVER.ACCUMULATION_STEPS
    if parts == 1 and not amp.ENABLED:
        return SimpleTrainer(model, data_loader, optimizer)
    precision = getattr(torch, amp.PRECISION) if amp.ENABLED else None
    return PartwiseTrainer(model, data_loader, optimizer, parts=parts, precision=precision)


def _images_of_a_part(cfg) -> int:
    """Images, over all workers, that go through the model at once."""
    batch, parts = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.ACCUMULATION_STEPS
    workers = comm.get_world_size()
    if parts < 1 or batch % (parts * workers):
        raise UserError(
            f"SOLVER.ACCUMULATION_STEPS is {parts}, but SOLVER.IMS_PER_BATCH {batch} cannot be "
            f"divided into so many parts for {workers} worker(s): it must be a multiple of "
            "their product."
        )
    return batch // parts


def _wrap_for_workers(model: nn.Module) -> nn.Module:
    """DistributedDataParallel where there are several workers, on GPUs and on the CPU."""
    on_cpu = next(model.parameters()).device.type == "cpu"
    options = {"device_ids": None} if on_cpu else {}
    return create_ddp_model(model, broadcast_buffers=False, **options)
