"""Upload a trained model to the Hugging Face Hub, with a model card generated from its run.

    d2-ctxseg push --run output/mymodel --repo user/my-model --license apache-2.0
    d2-ctxseg push --run output/mymodel --folder my-model

The second command writes the same files to a folder, without a network. Log in with hf auth login.
"""

from pathlib import Path

from ..command_parser import CommandParser


def get_parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(__doc__, has_config=False)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", metavar="FOLDER", help="a training's OUTPUT_DIR")
    source.add_argument("--model", metavar="NAME", help="a trained model, or a checkpoint")
    parser.add_argument("--weights", metavar="NAME", help="a file in the run's folder")
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--repo", metavar="USER/MODEL", help="on the Hub; created if needed")
    target.add_argument("--folder", type=Path, metavar="FOLDER", help="write the files here")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument(
        "--license", default="", metavar="NAME", help="license of the weights, for the card"
    )
    parser.add_argument(
        "--commit", default="", help="commit of this project that trained the run, for the card"
    )
    parser.add_argument(
        "--data-terms",
        default="",
        metavar="SENTENCE",
        help="the terms of use of the training data, for the card",
    )
    return parser
