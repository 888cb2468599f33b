"""The trainer that a config describes."""

import logging
from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from .._coverage import not_covered
from ..config import CfgNode
from ..evaluation import DatasetEvaluator, inference_on_dataset, print_csv_format
from ..modeling import build_model
from ..utils import comm
from ._setup import create_ddp_model, default_argument_parser, default_setup
from .train_loop import TrainerBase

__all__ = ["DefaultTrainer", "create_ddp_model", "default_argument_parser", "default_setup"]


def _of_inner_trainer(name: str) -> property:
    return property(
        lambda self: getattr(self._trainer, name),
        lambda self, value: setattr(self._trainer, name, value),
    )


class DefaultTrainer(TrainerBase):
    """Builds, steps and tests what a config describes.

    A subclass has a constructor of its own, which sets ``_trainer``, the inner trainer that does a
    step, and the classmethods ``build_test_loader(cfg, dataset_name)`` and
    ``build_evaluator(cfg, dataset_name)``.

    Attributes:
        model, data_loader, optimizer: those of the inner trainer.
    """

    model = _of_inner_trainer("model")
    data_loader = _of_inner_trainer("data_loader")
    optimizer = _of_inner_trainer("optimizer")

    def __init__(self, cfg: CfgNode):
        raise NotImplementedError(not_covered("detectron2.engine.DefaultTrainer(cfg)"))

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
