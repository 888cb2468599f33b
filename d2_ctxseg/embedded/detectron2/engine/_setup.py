"""What a training process does before and around its trainer. Public in ``defaults``."""

import argparse
import os
import sys

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..config import CfgNode
from ..utils import comm
from ..utils.collect_env import collect_env_info
from ..utils.env import seed_all_rng
from ..utils.file_io import PathManager
from ..utils.logger import setup_logger


def create_ddp_model(model: nn.Module, **kwargs) -> nn.Module:
    """Wrap ``model`` in DistributedDataParallel if there are several processes.

    A model on the GPU is bound to the GPU of the process's local rank; one on the CPU to none.

    Args:
        kwargs: of DistributedDataParallel.
    """
    if comm.get_world_size() == 1:
        return model
    if next(model.parameters()).is_cuda:
        kwargs.setdefault("device_ids", [comm.get_local_rank()])
    return DistributedDataParallel(model, **kwargs)


def default_argument_parser(epilog: str | None = None) -> argparse.ArgumentParser:
    """A parser of the command line of a training script.

    Args:
        epilog: shown below the options; by default some examples.
    """
    program = sys.argv[0]
    examples = f"""
Examples:

One machine with 8 GPUs:
    $ {program} --num-gpus 8 --config-file cfg.yaml

Other values than the config file's:
    $ {program} --config-file cfg.yaml MODEL.WEIGHTS model.pth SOLVER.BASE_LR 0.001

Two machines:
    (first)$ {program} --machine-rank 0 --num-machines 2 --dist-url <URL> [...]
    (second)$ {program} --machine-rank 1 --num-machines 2 --dist-url <URL> [...]
"""
    parser = argparse.ArgumentParser(
        epilog=epilog or examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", default="", metavar="FILE", help="path to the config file")
    add(
        "--resume",
        action="store_true",
        help="continue from the last checkpoint in OUTPUT_DIR, if there is one",
    )
    add("--eval-only", action="store_true", help="evaluate and do not train")
    add("--num-gpus", type=int, default=1, help="number of GPUs *per machine*")
    add("--num-machines", type=int, default=1, help="number of machines")
    add("--machine-rank", type=int, default=0, help="which of the machines this one is, from 0")
    add(
        "--dist-url",
        default=f"tcp://127.0.0.1:{_port_of_user()}",
        help="rendezvous address of the processes; see the init_method of torch.distributed",
    )
    add(
        "opts",
        nargs=argparse.REMAINDER,
        help="config options at the end of the command line, as pairs: KEY VALUE",
    )
    return parser


def _port_of_user() -> int:
    # Always the same for a user: processes left over from an earlier job then show up as
    # "address in use" instead of taking GPU memory unnoticed.
    user = 1 if sys.platform == "win32" else os.getuid()
    return 2**15 + 2**14 + user % 2**14


def default_setup(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Prepare a process: logger, log of environment and config, random seed, cuDNN.

    The full config goes to ``config.yaml`` in ``cfg.OUTPUT_DIR``. With ``cfg.SEED`` >= 0, the
    seed is ``cfg.SEED`` plus the process's rank.

    Args:
        args: the parsed command line; it is logged. ``config_file`` and ``eval_only`` may be there.
    """
    rank = comm.get_rank()
    output_dir = cfg.get("OUTPUT_DIR") or None
    writes_config = comm.is_main_process() and output_dir is not None
    if writes_config:
        PathManager.mkdirs(output_dir)
    setup_logger(output_dir, distributed_rank=rank, name="fvcore")
    logger = setup_logger(output_dir, distributed_rank=rank)

    logger.info(f"Rank of current process: {rank}. World size: {comm.get_world_size()}")
    logger.info("Environment info:\n" + collect_env_info())
    logger.info(f"Command line arguments: {args}")
    config_file = getattr(args, "config_file", "")
    if config_file:
        with PathManager.open(config_file, "r") as file:
            logger.info(f"Contents of args.config_file={config_file}:\n{file.read()}")
    if writes_config:
        logger.info(f"Running with full config:\n{cfg.dump()}")
        path = os.path.join(output_dir, "config.yaml")
        _write_text(path, cfg.dump())
        logger.info(f"Full config saved to {path}")

    seed = cfg.get("SEED", -1)
    seed_all_rng(None if seed < 0 else seed + rank)
    if not getattr(args, "eval_only", False):
        # Evaluation meets images of many sizes, too few of each to pay for the benchmark.
        torch.backends.cudnn.benchmark = cfg.get("CUDNN_BENCHMARK", False)
    _set_float32_precision(cfg.get("FLOAT32_PRECISION", ""), logger)


def _write_text(path: str, text: str) -> None:
    temporary = f"{path}.tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(temporary, path)


def _set_float32_precision(precision: str, logger) -> None:
    """Apply cfg.FLOAT32_PRECISION: "", or "highest", "high" or "medium" as in PyTorch."""
    if not precision:
        return
    logger.info(f"Set fp32 precision to {precision}")
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = precision != "highest"
    logger.info(f"{torch.get_float32_matmul_precision()=}")
    logger.info(f"{torch.backends.cuda.matmul.allow_tf32=}")
    logger.info(f"{torch.backends.cudnn.allow_tf32=}")
