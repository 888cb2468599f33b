"""The trainer that a config describes."""

import logging
import os
from collections import OrderedDict
from collections.abc import Sequence

from fvcore.nn.precise_bn import get_bn_modules
from torch import nn

from .._coverage import not_covered
from ..config import CfgNode
from ..evaluation import (
    DatasetEvaluator,
    inference_on_dataset,
    print_csv_format,
    verify_results,
)
from ..modeling import build_model
from ..utils import comm
from ..utils.events import CommonMetricPrinter, EventWriter, JSONWriter, TensorboardXWriter
from ..utils.file_io import PathManager
from . import hooks
from ._setup import create_ddp_model, default_argument_parser, default_setup
from .train_loop import HookBase, TrainerBase

__all__ = ["DefaultTrainer", "create_ddp_model", "default_argument_parser", "default_setup"]


def _of_inner_trainer(name: str) -> property:
    return property(
        lambda self: getattr(self._trainer, name),
        lambda self, value: setattr(self._trainer, name, value),
    )


class DefaultTrainer(TrainerBase):
    """Trains what a config describes, with the usual hooks.

    A subclass has a constructor of its own, which sets the attributes (``start_iter`` and
    ``max_iter`` too) and registers ``build_hooks()``, and the classmethods
    ``build_train_loader(cfg)``, ``build_test_loader(cfg, dataset_name)`` and
    ``build_evaluator(cfg, dataset_name)``.

    Attributes:
        cfg: the config; `auto_scale_workers` may have changed it.
        scheduler: the learning rate schedule.
        checkpointer: saves and loads model and trainer in ``cfg.OUTPUT_DIR``.
        model, data_loader, optimizer: those of the inner trainer, ``_trainer``, which does a step.
    """

    model = _of_inner_trainer("model")
    data_loader = _of_inner_trainer("data_loader")
    optimizer = _of_inner_trainer("optimizer")

    def __init__(self, cfg: CfgNode):
        raise NotImplementedError(not_covered("detectron2.engine.DefaultTrainer(cfg)"))

    def resume_or_load(self, resume: bool = True) -> None:
        """Continue the training in ``cfg.OUTPUT_DIR``, or load ``cfg.MODEL.WEIGHTS``.

        Args:
            resume: if there is a last checkpoint, load all of it (weights, optimizer, schedule) and
                start at the iteration after its own. Otherwise only the weights of
                ``cfg.MODEL.WEIGHTS`` are loaded, and training starts at iteration 0.
        """
        self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        if resume and self.checkpointer.has_checkpoint():
            self.start_iter = self.iter + 1

    def build_hooks(self) -> list[HookBase | None]:
        """Timer, schedule, PreciseBN, checkpoints, evaluation, writers; in this order.

        Checkpoints come after PreciseBN, which changes the model, and before the evaluation, which
        may fail. The writers are last, to see what all others stored.
        """
        cfg = self.cfg
        is_main = comm.is_main_process()
        result = [hooks.IterationTimer(), hooks.LRScheduler(), self._build_precise_bn()]
        if is_main:
            period = cfg.SOLVER.CHECKPOINT_PERIOD
            result.append(hooks.PeriodicCheckpointer(self.checkpointer, period))

        def test_and_keep_results():
            self._last_eval_results = self.test(self.cfg, self.model)
            return self._last_eval_results

        result.append(hooks.EvalHook(cfg.TEST.EVAL_PERIOD, test_and_keep_results))
        if is_main:
            result.append(hooks.PeriodicWriter(self.build_writers(), period=20))
        return result

    def _build_precise_bn(self) -> hooks.PreciseBN | None:
        options = self.cfg.TEST.PRECISE_BN
        if not (options.ENABLED and get_bn_modules(self.model)):
            return None
        # A data loader of its own leaves the batches of the training as they are.
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.DATALOADER.NUM_WORKERS = 0
        data_loader = self.build_train_loader(cfg)
        return hooks.PreciseBN(self.cfg.TEST.EVAL_PERIOD, self.model, data_loader, options.NUM_ITER)

    def build_writers(self) -> list[EventWriter]:
        """Writers to the log, to ``metrics.json`` and to TensorBoard's files in ``OUTPUT_DIR``."""
        folder = self.cfg.OUTPUT_DIR
        PathManager.mkdirs(folder)
        return [
            CommonMetricPrinter(self.max_iter),
            JSONWriter(os.path.join(folder, "metrics.json")),
            TensorboardXWriter(folder),
        ]

    def train(self) -> dict | None:
        """Train.

        Returns:
            The last evaluation's results if ``cfg.TEST.EXPECTED_RESULTS`` asks to verify them, on
            the main process; otherwise None.
        """
        super().train(self.start_iter, self.max_iter)
        if not (self.cfg.TEST.EXPECTED_RESULTS and comm.is_main_process()):
            return None
        assert hasattr(self, "_last_eval_results"), (
            "TEST.EXPECTED_RESULTS is set, but nothing was evaluated during training."
        )
        verify_results(self.cfg, self._last_eval_results)
        return self._last_eval_results

    def run_step(self):
        """One step of the inner trainer."""
        self._trainer.iter = self.iter
        self._trainer.run_step()

    def state_dict(self) -> dict:
        """The base class's state and "_trainer", the inner trainer's."""
        return {**super().state_dict(), "_trainer": self._trainer.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        """Restore what ``state_dict`` returned."""
        super().load_state_dict(state_dict)
        self._trainer.load_state_dict(state_dict["_trainer"])

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """The model of ``cfg.MODEL.META_ARCHITECTURE``, logged."""
        model = build_model(cfg)
        logging.getLogger(__name__).info(f"Model:\n{model}")
        return model

    @classmethod
    def test(
        cls, cfg: CfgNode, model: nn.Module, evaluators: Sequence[DatasetEvaluator] | None = None
    ) -> dict:
        """Evaluate ``model`` on all datasets of ``cfg.DATASETS.TEST``.

        Args:
            evaluators: one a dataset; by default ``build_evaluator`` makes them.

        Returns:
            The results by dataset; with one dataset its results themselves.
        """
        names = cfg.DATASETS.TEST
        if evaluators is not None:
            assert len(names) == len(evaluators), (
                f"{len(evaluators)} evaluators for {len(names)} datasets: {tuple(names)}"
            )
        results = OrderedDict()
        for i, name in enumerate(names):
            loader = cls.build_test_loader(cfg, name)
            evaluator = cls.build_evaluator(cfg, name) if evaluators is None else evaluators[i]
            results[name] = cls._test_one(model, name, loader, evaluator)
        return next(iter(results.values())) if len(results) == 1 else results

    @staticmethod
    def _test_one(model: nn.Module, dataset_name: str, loader, evaluator: DatasetEvaluator) -> dict:
        logger = logging.getLogger(__name__)
        results = inference_on_dataset(model, loader, evaluator)
        if comm.is_main_process():
            assert isinstance(results, dict), (
                f"Evaluator must return a dict on the main process. Got {results} instead."
            )
            logger.info(f"Evaluation results for {dataset_name} in csv format:")
            print_csv_format(results)
        return results

    @staticmethod
    def auto_scale_workers(cfg: CfgNode, num_workers: int) -> CfgNode:
        """Adapt a config made for ``cfg.SOLVER.REFERENCE_WORLD_SIZE`` processes to another number.

        The images per process stay the same; the learning rate grows with the batch
        (https://arxiv.org/abs/1706.02677), and everything counted in iterations shrinks with it.

        Returns:
            A new config; ``cfg`` itself if the reference is 0 (off) or ``num_workers``.
        """
        reference = cfg.SOLVER.REFERENCE_WORLD_SIZE
        if reference in (0, num_workers):
            return cfg
        assert cfg.SOLVER.IMS_PER_BATCH % reference == 0, (
            f"SOLVER.IMS_PER_BATCH ({cfg.SOLVER.IMS_PER_BATCH}) is not a multiple of "
            f"SOLVER.REFERENCE_WORLD_SIZE ({reference})."
        )
        frozen = cfg.is_frozen()
        cfg = cfg.clone()
        cfg.defrost()
        scale = num_workers / reference
        solver = cfg.SOLVER
        solver.IMS_PER_BATCH = round(solver.IMS_PER_BATCH * scale)
        solver.BASE_LR *= scale
        solver.MAX_ITER = round(solver.MAX_ITER / scale)
        solver.WARMUP_ITERS = round(solver.WARMUP_ITERS / scale)
        solver.STEPS = tuple(round(step / scale) for step in solver.STEPS)
        solver.CHECKPOINT_PERIOD = round(solver.CHECKPOINT_PERIOD / scale)
        cfg.TEST.EVAL_PERIOD = round(cfg.TEST.EVAL_PERIOD / scale)
        solver.REFERENCE_WORLD_SIZE = num_workers
        logging.getLogger(__name__).info(
            f"Auto-scaling the config to batch_size={solver.IMS_PER_BATCH}, "
            f"learning_rate={solver.BASE_LR}, max_iter={solver.MAX_ITER}, "
            f"warmup={solver.WARMUP_ITERS}."
        )
        if frozen:
            cfg.freeze()
        return cfg
