#!/usr/bin/env python3
"""Prepare PASCAL-Context with 59 and with 60 classes (see datasets/README.md).

    python datasets/prepare_pascal_context.py

Makes pascal_context/images/{train,val} and pascal_context/annotations_detectron2/{pc59,pc60}/
{train,val} from the images of VOC2010 and the .mat files of PASCAL-Context (trainval.tar.gz), whose
field LabelMap numbers 459 labels. In pc60 the 59 most frequent become 1..59 and all others 0, the
background; in pc59 they become 0..58, and all others 255 (ignored).

The splits are VOC2010's ImageSets/Main/train.txt and val.txt (4998 and 5105 images), as in the
PASCAL-Context paper. The lists that the "detail" package makes from trainval_merged.json, used by
mmsegmentation, have 4996 and 5104. Images are linked, or copied with --copy-images. Reading .mat
files needs SciPy.
"""

from pathlib import Path

from d2_ctxseg.data.preparation import ImageFile, LabelFile
from d2_ctxseg.data.preparation_command import (
    Archive,
    Split,
    complete_pairs,
    preparation_parser,
    prepare_dataset,
    read_name_list,
    source_folder,
)
from d2_ctxseg.data.preparation_sources import (
    label_table,
    matlab_reader,
    read_source_ids,
    require_scipy,
)
from d2_ctxseg.utils.errors import UserError, run_command

SOURCE, FOLDER = "VOCdevkit/VOC2010", "pascal_context"
OFFICIAL_COUNTS = {"train": 4998, "val": 5105}
MAX_LABEL = 459
ARCHIVE = Archive(
    "PASCAL-Context (VOCtrainval_03-May-2010.tar; trainval.tar.gz, unpacked inside of VOC2010)",
    (
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2010/",
        "https://cs.stanford.edu/~roozbeh/pascal-context/",
    ),
    """
    JPEGImages/2008_000002.jpg ...
    ImageSets/Main/train.txt, ImageSets/Main/val.txt
    trainval/2008_000002.mat ...
    labels.txt
    """,
)


def check_label_names(path: Path) -> None:
    """Raise UserError if labels.txt, where it is there, numbers the 59 classes differently."""
    if not path.is_file():
        return
    lines = (line.partition(":") for line in path.read_text(encoding="utf-8").splitlines())
    names = {number.strip(): name.strip() for number, _, name in lines}
    for number, name in read_source_ids("pascal_context").items():
        if names.get(str(number)) != name:
            raise UserError(
                f"{path} calls label {number} '{names.get(str(number))}', but in the official "
                f"release it is '{name}'. Take labels.txt and trainval from one archive."
            )


def tables() -> dict[str, object]:
    """The table of label values of each variant."""
    classes, others = list(read_source_ids("pascal_context")), range(MAX_LABEL + 1)
    return {
        "pc59": label_table(classes, others),
        "pc60": label_table(classes, others, ignore_label=0, first_index=1),
    }


def list_split(name: str, variant: str, source: Path, target: Path, copy_images: bool) -> Split:
    """The labels of a split in the given variant; the images belong to the first variant."""
    pairs, missing = complete_pairs(
        [
            (source / "JPEGImages" / f"{key}.jpg", source / "trainval" / f"{key}.mat")
            for key in read_name_list(source / "ImageSets" / "Main" / f"{name}.txt", ARCHIVE)
        ]
    )
    folder = target / "annotations_detectron2" / variant / name
    reader, table = matlab_reader("LabelMap"), tables()[variant]
    labels = [
        LabelFile(label, folder / f"{image.stem}.png", table, reader, image)
        for image, label in pairs
    ]
    images = [
        ImageFile(image, target / "images" / name / image.name, copy=copy_images)
        for image, _ in (pairs if variant == "pc59" else ())
    ]
    return Split(f"{name} ({variant})", OFFICIAL_COUNTS[name], labels, images, missing)


def main() -> None:
    parser = preparation_parser(__doc__, SOURCE)
    parser.add_argument(
        "--copy-images", action="store_true", help="copy the images rather than link them"
    )
    arguments = parser.parse_args()
    source, target = source_folder(arguments, ARCHIVE), arguments.root / FOLDER
    require_scipy()
    check_label_names(source / "labels.txt")
    prepare_dataset(
        [
            list_split(name, variant, source, target, arguments.copy_images)
            for variant in tables()
            for name in OFFICIAL_COUNTS
        ],
        arguments,
        [
            f"pascal_context_{number}_sem_seg_{name}"
            for number in (59, 60)
            for name in OFFICIAL_COUNTS
        ],
    )


if __name__ == "__main__":
    run_command(main)
