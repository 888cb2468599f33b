"""Train or evaluate a segmentor of this project."""

import argparse
import logging
import os

from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from ..checkpoint import load_weights
from ..data import generate_missing
from ..data.class_balance import refuse_unlabelled
from ..engine import (
    Trainer,
    balance_classes,
    keep_imports,
    launch_or_join,
    settle_seed,
    take_run_folder,
)
from ..engine.calibration import with_fitted_temperatures
from ..engine.console import short_console
from ..engine.resume_check import refuse_other_run
from ..engine.setup import refuse_untrained_classifier
from ..evaluation import add_to_results_file, by_dataset, merge_tasks
from ..report import write_report
from ..utils.errors import UserError
from ..utils.files import write_errors
from ..utils.outputs import make_output_folder
from ..utils.runtime import describe_runtime
from .model_config import config_file_of, config_of, run_config_file

logger = logging.getLogger("d2_ctxseg.train_net")
# A log line that finds the disk full is left out; what matters more says so, once.
logging.raiseExceptions = False


def run(args):
    """Train or evaluate; every worker runs this."""
    cfg = read_config(args)
    if not args.eval_only:
        refuse_untrained_classifier(cfg)
    key = "TEST" if args.eval_only else "TRAIN"
    if not cfg.DATASETS[key]:
        doing = "--eval-only evaluates on" if args.eval_only else "a training needs"
        raise UserError(f"DATASETS.{key} is {cfg.DATASETS[key]}: name what {doing}.")
    make_output_folder(cfg.OUTPUT_DIR, "OUTPUT_DIR")
    if not args.eval_only:
        take_run_folder(cfg.OUTPUT_DIR, resume=args.resume)
        if args.resume:
            refuse_other_run(cfg)
    with write_errors(cfg.OUTPUT_DIR):
        setup_logger(cfg.OUTPUT_DIR, comm.get_rank(), name="d2_ctxseg", abbrev_name="ctxseg")
    if cfg.DATASETS.GENERATE_MISSING:
        generate_missing(cfg.DATASETS.TRAIN + cfg.DATASETS.TEST)
    if not args.eval_only:
        refuse_unlabelled(cfg.DATASETS.TRAIN)
        settle_seed(cfg, resume=args.resume)
        balance_classes(cfg, resume=args.resume)
    with short_console(cfg.OUTPUT_DIR):
        with write_errors(cfg.OUTPUT_DIR):
            keep_imports(cfg)
            default_setup(cfg, args)  # it saves the config
        logger.info(describe_runtime())
        if args.eval_only:
            cfg = with_fitted_temperatures(cfg)
            model = Trainer.build_model(cfg)
        else:
            trainer = Trainer(cfg)

    if args.eval_only:
        load_weights(model, cfg.MODEL.WEIGHTS)
        test = Trainer.test_with_TTA if cfg.TEST.AUG.ENABLED else Trainer.test
        results, weights = [test(cfg, model)], cfg.MODEL.WEIGHTS
    else:
        trainer.resume_or_load(resume=args.resume)
        results, weights = [trainer.train()], os.path.join(cfg.OUTPUT_DIR, "model_final.pth")
        if cfg.TEST.AUG.ENABLED:
            results.append(Trainer.test_with_TTA(cfg, trainer.model))
    if comm.is_main_process() and cfg.DATASETS.TEST:
        write_results(cfg, results, weights)


def read_config(args: argparse.Namespace) -> CfgNode:
    """The config of the run; ``args`` are changed to what Detectron2's ``default_setup`` needs.

    With ``--run`` everything is written to that folder, where it may have been moved to; a training
    is continued there.
    """
    extra = ["TEST.SAVE_PREDICTIONS", True] if args.save_predictions else []
    if args.run:
        extra += [] if "OUTPUT_DIR" in args.opts[::2] else ["OUTPUT_DIR", args.run]
        args.resume = not args.eval_only
        if args.resume:  # its weights are those of the checkpoint to resume from
            args.config_file, args.run = str(run_config_file(args.run)), None
    cfg = config_of(args, *extra, for_inference=args.eval_only)
    args.config_file = config_file_of(args)  # default_setup opens it
    return cfg


def write_results(cfg, results: list[dict], weights: str) -> None:
    """Add the results to OUTPUT_DIR's evaluation.json, and write the report if it is enabled."""
    path = os.path.join(cfg.OUTPUT_DIR, "evaluation.json")
    datasets = merge_tasks(*(by_dataset(result, cfg.DATASETS.TEST) for result in results))
    add_to_results_file(path, weights, datasets)
    logger.info("Evaluation results are in %s", path)
    if cfg.TEST.REPORT:
        logger.info("The report is in %s", write_report([cfg.OUTPUT_DIR]))


def main(arguments: argparse.Namespace) -> None:
    """Start the processes of the run."""
    launch_or_join(run, arguments)
