"""Publish the model of a finished training, small and found by its name.

    python tools/publish_model.py output/camvid/fpn_efficientnet_lite0_linear \\
        --name camvid/fpn_efficientnet_lite0_linear --output d2_ctxseg/model_zoo/trained

It leaves out what only training needs, writes the weights in half precision, checks on random
images that the model computes the same within a tolerance, enters it into the folder's index
(models.yaml) and writes a model card. An earlier model of the same name is replaced.
"""

import argparse
from pathlib import Path

from ..model_zoo.publish import publish_run


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, metavar="RUN_FOLDER", help="OUTPUT_DIR of the training")
    parser.add_argument("--name", required=True, help="config to publish it for, below configs/")
    parser.add_argument(
        "--output", required=True, type=Path, metavar="FOLDER", help="for the files"
    )
    parser.add_argument(
        "--weights",
        default="model_final.pth",
        metavar="FILE",
        help="checkpoint in RUN_FOLDER that evaluation.json has scores of (default: %(default)s)",
    )
    parser.add_argument(
        "--commit", default="", help="of this project, that the run was trained with; for the card"
    )
    parser.add_argument(
        "--data-terms", default="", metavar="TEXT", help="terms of use of the data; for the card"
    )
    parser.add_argument(
        "--max-megabytes", type=float, default=12, metavar="NUMBER", help="(default: %(default)s)"
    )
    return parser


def main() -> None:
    args = get_parser().parse_args()
    publication = publish_run(
        args.run,
        args.name,
        args.output,
        weights=args.weights,
        commit=args.commit,
        data_terms=args.data_terms,
        max_megabytes=args.max_megabytes,
    )
    model, agreement = publication.model, publication.agreement
    print(
        f"Removed {', '.join(publication.removed) or 'no part of the model'}. Logits differ by "
        f"{100 * agreement.difference:.2f} % of their standard deviation, "
        f"{100 * agreement.equal_labels:.1f} % of the pixels have the same class."
    )
    print(
        f"Wrote '{args.output / model.file}' ({model.size / 1e6:.1f} MB) and '{publication.card}'."
    )
