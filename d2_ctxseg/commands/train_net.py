"""Train or evaluate a segmentor of this project.

python train_net.py --config-file configs/quickstart.yaml
python train_net.py --config-file CONFIG --num-gpus 8
python train_net.py --config-file CONFIG --eval-only MODEL.WEIGHTS output/model_final.pth
torchrun --nproc-per-node 8 train_net.py --config-file CONFIG
"""

import argparse
import logging
import os

from detectron2.engine import default_argument_parser, default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from ..checkpoint import load_weights
from ..data import generate_missing
from ..data.class_balance import refuse_unlabelled
from ..engine import (
    Trainer,
    balance_classes,
    launch_or_join,
    settle_seed,
    setup_config,
    take_run_folder,
)
from ..engine.calibration import with_fitted_temperatures
from ..engine.config_files import find_config_file
from ..engine.resume_check import refuse_other_run
from ..evaluation import add_to_results_file, by_dataset, merge_tasks
from ..report import write_report
from ..utils.errors import UserError, run_command
from ..utils.files import write_errors
from ..utils.outputs import make_output_folder
from ..utils.runtime import describe_runtime

logger = logging.getLogger("d2_ctxseg.train_net")
# A log line that finds the disk full is left out; what matters more says so, once.
logging.raiseExceptions = False


def run(args):
    """Train or evaluate; every worker runs this."""
    if args.save_predictions:
        args.opts += ["TEST.SAVE_PREDICTIONS", "True"]
    if args.config_file:
        args.config_file = find_config_file(args.config_file)  # default_setup opens it
    cfg = setup_config(args.config_file, args.opts, for_inference=args.eval_only)
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
    with write_errors(cfg.OUTPUT_DIR):
        default_setup(cfg, args)  # it saves the config
    logger.info(describe_runtime())

    if args.eval_only:
        cfg = with_fitted_temperatures(cfg)
        model = Trainer.build_model(cfg)
        load_weights(model, cfg.MODEL.WEIGHTS)
        test = Trainer.test_with_TTA if cfg.TEST.AUG.ENABLED else Trainer.test
        results, weights = [test(cfg, model)], cfg.MODEL.WEIGHTS
    else:
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        results, weights = [trainer.train()], os.path.join(cfg.OUTPUT_DIR, "model_final.pth")
        if cfg.TEST.AUG.ENABLED:
            results.append(Trainer.test_with_TTA(cfg, trainer.model))
    if comm.is_main_process() and cfg.DATASETS.TEST:
        write_results(cfg, results, weights)


def write_results(cfg, results: list[dict], weights: str) -> None:
    """Enter the results into OUTPUT_DIR's evaluation.json, and write the report if asked for."""
    path = os.path.join(cfg.OUTPUT_DIR, "evaluation.json")
    datasets = merge_tasks(*(by_dataset(result, cfg.DATASETS.TEST) for result in results))
    add_to_results_file(path, weights, datasets)
    logger.info("Evaluation results are in %s", path)
    if cfg.TEST.REPORT:
        logger.info("The report is in %s", write_report([cfg.OUTPUT_DIR]))


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = default_argument_parser(epilog=__doc__)
    # Detectron2's default is one fixed port a user, so that a second training could not start.
    parser.set_defaults(dist_url="auto")
    parser.add_argument(
        "--save-predictions",
        action="store_true",
        help="write predictions as label images and COCO RLE (TEST.SAVE_PREDICTIONS)",
    )
    return parser


def main() -> None:
    arguments = get_parser().parse_args()
    launch_or_join(run, arguments)


if __name__ == "__main__":
    run_command(main)
