#!/usr/bin/env python3
"""Train each head with each classifier for a few iterations, and check that the loss decreases.

    python benchmarks/heads.py --output output/heads
    python benchmarks/heads.py --heads UPerHead OCRHead --classifiers prototype --iterations 200

The runs train on CamVid (datasets/README.md) one after the other, from random weights. A finished
run is not repeated. The exit code is 1 if a loss did not decrease.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from tabulate import tabulate
from tqdm import tqdm

from d2_ctxseg.utils.errors import UserError, run_command
from d2_ctxseg.utils.files import write_json

ROOT = Path(__file__).resolve().parents[1]
CLASSIFIERS = ("linear", "context_aware", "prototype", "explicit_class")
WINDOW = 20  # metrics.json has one row per 20 iterations, with their median loss

# Small heads on a small encoder: config keys besides MODEL.SEM_SEG_HEAD.NAME.
HEADS = {
    "FCNHead": "MODEL.ENCODER.OUTPUT_STRIDE 16 MODEL.FCN_HEAD.CHANNELS 128",
    "PSPHead": "MODEL.ENCODER.OUTPUT_STRIDE 16 MODEL.PSP_HEAD.CHANNELS 128",
    "DepthwiseSeparableASPPHead": "MODEL.ENCODER.OUTPUT_STRIDE 16 MODEL.ASPP_HEAD.CHANNELS 128",
    "UPerHead": "MODEL.UPER_HEAD.CHANNELS 64",
    "OCRHead": "MODEL.OCR_HEAD.CHANNELS 64 MODEL.OCR_HEAD.KEY_CHANNELS 32"
    " MODEL.OCR_HEAD.COARSE_CHANNELS 64",
    "SMPDecoderHead": "MODEL.SEM_SEG_HEAD.DECODER.NAME Segformer"
    " MODEL.SEM_SEG_HEAD.DECODER.OPTIONS ['segmentation_channels',64]",
    "ECEHead": "MODEL.ECE_HEAD.CHANNELS 64",
    "SegViTHead": "MODEL.BACKBONE.NAME VisionTransformerBackbone"
    " MODEL.ENCODER.NAME vit_tiny_patch16_224 MODEL.SEGVIT_HEAD.CHANNELS 96"
    " MODEL.SEGVIT_HEAD.NUM_HEADS 4 MODEL.SEGVIT_HEAD.LOSS_STRIDE 2",
}
# SegViTHead classifies by itself, with learned or explicit embeddings.
SEGVIT = {"linear": "learned", "explicit_class": "explicit"}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--heads", nargs="+", choices=HEADS, default=list(HEADS), metavar="HEAD")
    parser.add_argument("--classifiers", nargs="+", choices=CLASSIFIERS, default=CLASSIFIERS)
    parser.add_argument("--iterations", type=int, default=60, help="(%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("output/heads"), help="(%(default)s)")
    arguments = parser.parse_args()
    if arguments.iterations < 2 * WINDOW:
        raise UserError(f"--iterations is {arguments.iterations}, expected at least {2 * WINDOW}.")
    return arguments


def overrides(head: str, classifier: str, iterations: int, folder: Path) -> list[str]:
    """The config overrides for a head, relative to the classifier's CamVid config."""
    common = (
        "TEST.AUG.ENABLED False DATASETS.TEST () SOLVER.IMS_PER_BATCH 4"
        " SOLVER.WARMUP_ITERS 10 DATALOADER.NUM_WORKERS 0"
    )
    words = f"MODEL.SEM_SEG_HEAD.NAME {head} {HEADS[head]} {common}".split()
    if head == "SegViTHead":
        words += ["MODEL.META_ARCHITECTURE", "ExplicitClassSegmentor"]
        words += ["MODEL.SEGVIT_HEAD.CLASS_EMBEDDINGS", SEGVIT[classifier]]
    return [*words, "SOLVER.MAX_ITER", str(iterations), "OUTPUT_DIR", str(folder)]


def train(head: str, classifier: str, iterations: int, folder: Path) -> None:
    """Run train_net.py unless the run is finished; its log is ``{folder}/output.txt``."""
    if (folder / "model_final.pth").exists():
        return
    command = [sys.executable, str(ROOT / "train_net.py"), "--resume", "--config-file"]
    command += [str(ROOT / f"configs/camvid/fpn_resnet18_{classifier}.yaml")]
    command += overrides(head, classifier, iterations, folder)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "output.txt", "w", encoding="utf-8") as log:
        result = subprocess.run(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
    if result.returncode:
        raise UserError(f"{head} with {classifier} failed; see {folder / 'output.txt'}.")


def read_result(head: str, classifier: str, folder: Path) -> dict:
    """The median losses of the first and the last iterations."""
    lines = (folder / "metrics.json").read_text(encoding="utf-8").splitlines()
    losses = [row["total_loss"] for row in map(json.loads, lines) if "total_loss" in row]
    return {
        "head": head,
        "classifier": SEGVIT[classifier] if head == "SegViTHead" else classifier,
        "first loss": losses[0],
        "last loss": losses[-1],
    }


def main() -> None:
    arguments = parse_arguments()
    runs = [
        (head, classifier)
        for head in arguments.heads
        for classifier in arguments.classifiers
        if head != "SegViTHead" or classifier in SEGVIT
    ]
    results = []
    for head, classifier in tqdm(runs, unit="run"):
        folder = arguments.output.resolve() / f"{head}_{classifier}"
        train(head, classifier, arguments.iterations, folder)
        results.append(read_result(head, classifier, folder))
    write_json(arguments.output / "heads.json", results)
    print(tabulate(results, headers="keys", tablefmt="github", floatfmt=".2f"))
    if any(result["last loss"] >= result["first loss"] for result in results):
        sys.exit("A loss did not decrease.")


if __name__ == "__main__":
    run_command(main)
