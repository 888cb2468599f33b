"""Read every image and label of datasets, and report problems and class frequencies.

    d2-ctxseg check-dataset camvid_sem_seg_train
    d2-ctxseg check-dataset --folder mydata.yaml
    d2-ctxseg check-dataset --config-file mymodel.yaml --json
    d2-ctxseg check-dataset camvid_sem_seg_train --sheet output/sheets

With --sheet, FOLDER/NAME.png shows sample images beside their labels. The exit code is 1 if there
are problems.
"""

from pathlib import Path

from ...utils.arguments import integer_from
from ..command_parser import CommandParser


def get_parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="registered names of splits")
    parser.add_argument(
        "--folder", help="YAML file of a dataset; without NAMEs, all of its splits are checked"
    )
    parser.add_model(named=False, weights=False, required=False)
    parser.add_argument("--workers", type=integer_from(1), help="number of threads that read files")
    parser.add_argument(
        "--sheet", type=Path, metavar="FOLDER", help="write a sheet of samples of each NAME there"
    )
    parser.add_argument(
        "--samples", type=integer_from(1), default=12, help="images per sheet (%(default)s)"
    )
    parser.add_argument("--seed", type=integer_from(0), default=0, help="seed of the samples")
    parser.add_argument("--json", action="store_true", help="print the reports as JSON")
    return parser
