"""Train classifiers on one base config with several seeds, and compare their scores.

    d2-ctxseg compare --config-file quickstart --classifiers linear context_aware \\
        --seeds 1 2 3 --output output/comparison --jobs 2

A classifier is linear, context_aware, semantic_spatial, prototype, learned_prototype,
explicit_class, gaussian_mixture, the registered name of your own classifier, or a variant,
LABEL=CLASSIFIER,KEY=VALUE, such as no_kl=context_aware,LOSS_WEIGHT_KL=0.0. Each run is an ordinary
training in OUTPUT/LABEL/seed_N. The same command continues interrupted runs and keeps finished
ones. --print-commands prints one command per run for a scheduler (a job array); --gather then
compares the finished runs. --runs compares any runs.

The results are comparison.json, comparison.md and comparison.html.
"""

from ...utils.arguments import integer_from
from ..command_parser import CommandParser


def get_parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(__doc__)
    parser.add_model(named=False, required=False)
    parser.add_argument(
        "--classifiers", nargs="+", metavar="NAME", default=["linear", "context_aware"]
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], metavar="N")
    parser.add_argument(
        "--output", required=True, metavar="FOLDER", help="folder of the runs and results"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="number of parallel runs")
    parser.add_argument("--baseline", metavar="NAME", help="(default: the first classifier)")
    parser.add_argument(
        "--dataset", default="", help="main dataset of the results (default: of DATASETS.TEST)"
    )
    parser.add_argument(
        "--num-resamples", type=integer_from(100), default=4000, metavar="N", help="(4000)"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--dry-run", action="store_true", help="only print the plan")
    what.add_argument("--print-commands", action="store_true", help="print one command per run")
    what.add_argument(
        "--gather", action="store_true", help="compare finished runs, without training"
    )
    what.add_argument("--runs", nargs="+", metavar="RUN", help="compare the runs in these folders")
    return parser
