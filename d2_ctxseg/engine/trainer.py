"""Detectron2's trainer with this project's data, optimizer, evaluation and safeguards."""

import logging
import os
import weakref
from collections import OrderedDict
from functools import partial

import numpy as np
import torch
from fvcore.nn.precise_bn import get_bn_modules
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from detectron2.data import (
    DatasetCatalog,
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
)
from detectron2.engine import (
    HookBase,
    SimpleTrainer,
    TrainerBase,
    create_ddp_model,
    hooks,
)
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators
from detectron2.utils import comm
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventWriter,
    TensorboardXWriter,
)

from ..checkpoint import Checkpointer
from ..data import SemanticSegmentorMapper
from ..evaluation import SegmentationEvaluator
from ..evaluation.anomaly_evaluator import TASK as ANOMALY_TASK
from ..evaluation.anomaly_evaluator import AnomalyEvaluator
from ..evaluation.cityscapes import cityscapes_evaluators
from ..evaluation.evaluator import label_loader
from ..modeling import LabelMapPredictor, Temperatures, TestTimeAugmentation
from ..utils.errors import UserError, counted
from .checkpoints import BestCheckpoint, PeriodicCheckpoint, StopOnInterrupt
from .cost import CostOfTraining, TimedModel, count_test_parameters, record_cost
from .data_loader import ResumableLoader
from .ema import UpdateEMA, build_ema
from .hooks import PredictionOverlays
from .interrupts import (
    InterruptibleEvaluator,
    deferred_interrupts,
    leave_interrupts_to_parent,
)
from .lr_scheduler import build_lr_scheduler
from .metrics import MetricsWriter, WriteMetrics
from .model_options import compile_model, synchronize_batch_norm, use_channels_last
from .optimizer import build_optimizer
from .processes import broadcast_buffers
from .progress import WithProgressBar
from .random_state import preserved_random_state, seeded
from .run_folder import settle_seed
from .run_state import RunState
from .train_loop import ResumableTrainer
from .train_step import MicroBatchTrainer

logger = logging.getLogger(__name__)


class Trainer(ResumableTrainer):
    """Trains and evaluates the model of a config, and keeps its checkpoints.

    It adds the following to DefaultTrainer: training in several CPU processes, resuming that gives
    the same result as an uninterrupted run, the best checkpoint, overlays of predictions, gradient
    accumulation, bfloat16, EMA and the other config keys of this project.

    Args:
        cfg: the config of the run; a frozen config is not changed.

    Raises:
        UserError: SOLVER.IMS_PER_BATCH cannot be divided into micro-batches.
    """

    def __init__(self, cfg):
        # DefaultTrainer's constructor cannot wrap a CPU model for several processes, and it fixes
        # the class of the checkpointer.
        TrainerBase.__init__(self)
        self.cfg = cfg = self.auto_scale_workers(cfg, comm.get_world_size()).clone()
        settle_seed(cfg)
        _micro_batch_size(cfg)  # report an impossible size before the model is built
        model = self.build_model(cfg)
        if cfg.MODEL.SYNC_BN:
            model = synchronize_batch_norm(model)
        optimizer = self.build_optimizer(cfg, model)
        self.ema = None
        if cfg.SOLVER.EMA.ENABLED:
            self.ema = build_ema(model, cfg.SOLVER.EMA.DECAY)
        self.run_state = RunState(cfg.SEED, {})
        data_loader = self.build_seeded_loader()

        self._trainer = _build_step(cfg, _wrap_for_processes(model), data_loader, optimizer)
        model = self._trainer.model
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = Checkpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.checkpointer.add_checkpointable("run", self.run_state)
        if self.ema is not None:
            self.checkpointer.add_checkpointable("ema", self.ema)
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.register_hooks(self.build_hooks())

    def build_seeded_loader(self):
        """The loader of ``build_train_loader``, whose position checkpoints store."""
        return self._build_loader("train", self.cfg)

    def _build_loader(self, name: str, cfg):
        with seeded(cfg.SEED):  # Detectron2 draws the order of some samplers
            loader = self.build_train_loader(cfg)
        if isinstance(loader, ResumableLoader):
            self.run_state.loaders[name] = loader
        else:
            logger.warning(
                "build_train_loader does not return a ResumableLoader: after an interruption the "
                "order of the images will differ."
            )
        return loader

    def build_hooks(self) -> list[HookBase]:
        """The hooks in the order in which they run.

        Hooks that change weights run before the checkpoint is written, the evaluation runs after
        it, and the metrics that the other hooks measured are written last.
        """
        cfg = self.cfg
        all_hooks = [
            hooks.IterationTimer(),
            self._ema_update(),
            hooks.LRScheduler(),
            self._precise_bn(),
            PeriodicCheckpoint(cfg.SOLVER.CHECKPOINT_PERIOD),
            hooks.EvalHook(cfg.TEST.EVAL_PERIOD, self._evaluate),
            self._best_checkpoint(),
            self._overlays(),
            CostOfTraining(cfg.OUTPUT_DIR),
            WriteMetrics(),
            StopOnInterrupt(),
        ]
        return [hook for hook in all_hooks if hook is not None]

    def build_writers(self) -> list[EventWriter]:
        """Writers for the log, ``metrics.json`` and TensorBoard's files in OUTPUT_DIR."""
        folder = self.cfg.OUTPUT_DIR
        return [
            CommonMetricPrinter(self.max_iter),
            MetricsWriter(os.path.join(folder, "metrics.json")),
            # TensorBoard drops later iterations that an interrupted process has written.
            TensorboardXWriter(folder, purge_step=self.start_iter),
        ]

    def _ema_update(self) -> HookBase | None:
        if self.ema is None:
            return None
        return UpdateEMA(self.ema, _unwrapped(self.model), self.cfg)

    def _precise_bn(self) -> hooks.PreciseBN | None:
        options = self.cfg.TEST.PRECISE_BN
        if not (options.ENABLED and get_bn_modules(self.model)):
            return None
        # A separate data loader does not change the batches of the training.
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.DATALOADER.NUM_WORKERS = 0
        loader = self._build_loader("precise_bn", cfg)
        return hooks.PreciseBN(self.cfg.TEST.EVAL_PERIOD, self.model, loader, options.NUM_ITER)

    def _evaluate(self) -> OrderedDict:
        """Evaluate the weights and, if enabled, their EMA."""
        # Batch statistics differ between processes; checkpoints hold those of the main process.
        broadcast_buffers(self.model)
        results = self.test(self.cfg, self.model)
        if self.ema is not None:
            broadcast_buffers(self.ema)
            build = partial(self.build_evaluator, self.cfg, task="sem_seg_EMA")
            evaluators = [build(name) for name in self.cfg.DATASETS.TEST]
            ema = LabelMapPredictor(self.ema.module, temperatures=_temperatures(self.cfg))
            merge_results(results, self.test(self.cfg, ema, evaluators))
        self._last_eval_results = results
        return results

    def _best_checkpoint(self) -> BestCheckpoint | None:
        metric, names = self.cfg.TEST.BEST_METRIC, self.cfg.DATASETS.TEST
        if not (metric and names) or self.cfg.TEST.EVAL_PERIOD <= 0:
            return None
        if len(names) > 1:
            metric = f"{names[0]}/{metric}"
        return BestCheckpoint(self.cfg.OUTPUT_DIR, self.cfg.TEST.EVAL_PERIOD, metric)

    def _overlays(self) -> PredictionOverlays | None:
        cfg = self.cfg
        if not (comm.is_main_process() and cfg.DATASETS.TEST):
            return None
        name = cfg.DATASETS.TEST[0]
        records = [r for r in DatasetCatalog.get(name) if r.get("sem_seg_file_name")]
        count = min(cfg.TEST.NUM_OVERLAYS, len(records))
        if count == 0:
            return None
        chosen = np.linspace(0, len(records) - 1, count).round().astype(int)
        return PredictionOverlays(
            cfg.TEST.EVAL_PERIOD,
            _unwrapped(self.model),
            SemanticSegmentorMapper(cfg, is_train=False),
            [records[i] for i in chosen],
            label_loader(name),
            MetadataCatalog.get(name),
            cfg.OUTPUT_DIR,
        )

    @classmethod
    def build_model(cls, cfg) -> nn.Module:
        """The config's model on MODEL.DEVICE; see MODEL.CHANNELS_LAST and MODEL.COMPILE."""
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
    def build_train_loader(cls, cfg) -> ResumableLoader:
        """An endless loader of micro-batches; a step takes SOLVER.ACCUMULATION_STEPS of them."""
        loader = build_detection_train_loader(
            cfg,
            mapper=SemanticSegmentorMapper(cfg, is_train=True),
            total_batch_size=_micro_batch_size(cfg),
        )
        return ResumableLoader(loader, seed=cfg.SEED)

    @classmethod
    def build_test_loader(cls, cfg, dataset_name: str):
        """A loader of single test images, each on exactly one process, with a progress bar."""
        loader = build_detection_test_loader(
            cfg, dataset_name, mapper=SemanticSegmentorMapper(cfg, is_train=False)
        )
        loader.worker_init_fn = leave_interrupts_to_parent
        return WithProgressBar(loader, dataset_name)

    @classmethod
    def build_evaluator(
        cls, cfg, dataset_name: str, task: str = "sem_seg", prediction_key: str = "label_map"
    ):
        """The evaluator of a dataset as configured by the keys of TEST.

        It writes to ``{OUTPUT_DIR}/inference/{task}/{dataset_name}``.

        Args:
            dataset_name: a registered dataset.
            task: the key of the metrics in the results: "sem_seg", "sem_seg_EMA", "sem_seg_TTA".
            prediction_key: the entry of the model's outputs that holds the label map (H, W).
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
            confidence_key=_confidence_key(cfg, prediction_key),
        )
        others = []
        if cfg.TEST.CITYSCAPES_SCRIPTS:
            others += cityscapes_evaluators(dataset_name, task=task, prediction_key=prediction_key)
        if cfg.TEST.ANOMALY.SCORES and task == "sem_seg":
            folder = os.path.join(cfg.OUTPUT_DIR, "inference", ANOMALY_TASK, dataset_name)
            scores, weights = cfg.TEST.ANOMALY.SCORES, cfg.MODEL.WEIGHTS
            others.append(
                AnomalyEvaluator(dataset_name, scores, output_dir=folder, weights=weights)
            )
        return DatasetEvaluators([evaluator, *others]) if others else evaluator

    @classmethod
    def test(cls, cfg, model: nn.Module, evaluators=None) -> OrderedDict:
        """Evaluate on DATASETS.TEST, as DefaultTrainer does.

        Without ``evaluators``, the model returns label maps and the scores of whole images are
        never held in memory. Random numbers drawn during the evaluation do not affect a training.

        Raises:
            KeyboardInterrupt: on Ctrl-C or SIGTERM, after the current image.
        """
        segmentor, timed = _unwrapped(model), None
        if evaluators is None:
            evaluators = [cls.build_evaluator(cfg, name) for name in cfg.DATASETS.TEST]
            predictor = LabelMapPredictor(
                segmentor, None, _temperatures(cfg), cfg.TEST.ANOMALY.SCORES
            )
            model = timed = TimedModel(predictor)
        elif isinstance(evaluators, DatasetEvaluator):
            evaluators = [evaluators]
        with deferred_interrupts() as interrupts, preserved_random_state():
            evaluators = [InterruptibleEvaluator(one, interrupts) for one in evaluators]
            results = super().test(cfg, model, evaluators)
        if timed is not None:
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
        """Evaluate with TEST.AUG ("sem_seg_TTA") and without ("sem_seg") in one pass."""
        logger.info("Running inference with test-time augmentation ...")
        model = getattr(model, "module", model)
        augmentation = TestTimeAugmentation.from_config(cfg)
        scores = cfg.TEST.ANOMALY.SCORES
        model = LabelMapPredictor(model, augmentation, _temperatures(cfg), scores)
        tasks = {"sem_seg": "label_map", "sem_seg_TTA": "label_map_TTA"}
        evaluators = [
            DatasetEvaluators(
                [cls.build_evaluator(cfg, name, task, key) for task, key in tasks.items()]
            )
            for name in cfg.DATASETS.TEST
        ]
        return cls.test(cfg, model, evaluators)


def _temperatures(cfg) -> Temperatures | None:
    return Temperatures.from_config(cfg) if cfg.TEST.CALIBRATION else None


def _confidence_key(cfg, prediction_key: str) -> str | None:
    """The entry of LabelMapPredictor's outputs that holds the confidences of a label map."""
    return prediction_key.replace("label_map", "confidence") if cfg.TEST.CALIBRATION else None


def merge_results(results: dict, others: dict) -> None:
    """Add ``others`` to ``results`` in place; each maps task -> metrics, or dataset -> that."""
    for key, value in others.items():
        if isinstance(results.get(key), dict):
            results[key].update(value)
        else:
            results[key] = value


def _build_step(cfg, model: nn.Module, data_loader, optimizer) -> SimpleTrainer:
    """The trainer of single steps: Detectron2's SimpleTrainer unless a key needs more."""
    amp, steps = cfg.SOLVER.AMP, cfg.SOLVER.ACCUMULATION_STEPS
    if steps == 1 and not amp.ENABLED:
        return SimpleTrainer(model, data_loader, optimizer)
    precision = getattr(torch, amp.PRECISION) if amp.ENABLED else None
    return MicroBatchTrainer(
        model, data_loader, optimizer, accumulation_steps=steps, precision=precision
    )


def _micro_batch_size(cfg) -> int:
    """The number of images in a micro-batch, over all processes."""
    batch, steps = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.ACCUMULATION_STEPS
    processes = comm.get_world_size()
    if steps < 1 or batch % (steps * processes):
        raise UserError(
            f"SOLVER.ACCUMULATION_STEPS is {steps}, but SOLVER.IMS_PER_BATCH {batch} cannot be "
            f"divided into so many micro-batches for {counted(processes, 'process', 'processes')}: "
            "it must be a multiple of their product."
        )
    return batch // steps


def _unwrapped(model: nn.Module) -> nn.Module:
    return model.module if isinstance(model, DistributedDataParallel) else model


def _wrap_for_processes(model: nn.Module) -> nn.Module:
    """The model in DistributedDataParallel if there are several processes."""
    on_cpu = next(model.parameters()).device.type == "cpu"
    options = {"device_ids": None} if on_cpu else {}
    return create_ddp_model(model, broadcast_buffers=False, **options)
