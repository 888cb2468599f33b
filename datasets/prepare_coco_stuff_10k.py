#!/usr/bin/env python3
"""Prepare COCO-Stuff-10K v1.1 with 171 classes (see datasets/README.md).

    python datasets/prepare_coco_stuff_10k.py

Makes coco/coco_stuff_10k/{images_detectron2,annotations_detectron2}/{train,test} from the images,
.mat files and lists of the official archive: the labels (field S) are 0 for unlabeled and run from
1 to 182 with gaps, where COCO numbers things that nobody annotated. They become 255 (ignored) and
0..170. Images are linked, or copied with --copy-images. Reading .mat files needs SciPy.
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
from d2_ctxseg.utils.errors import run_command

FOLDER = "coco/coco_stuff_10k"
OFFICIAL_COUNTS = {"train": 9000, "test": 1000}
ARCHIVE = Archive(
    "COCO-Stuff-10K (cocostuff-10k-v1.1.zip, not v1.0)",
    ("https://github.com/nightrome/cocostuff10k",),
    """
    images/COCO_train2014_000000000077.jpg ...
    annotations/COCO_train2014_000000000077.mat ...
    imageLists/train.txt, imageLists/test.txt
    """,
)


def list_split(name: str, source: Path, target: Path, copy_images: bool) -> Split:
    """The images and labels that the official list ``name`` names."""
    table = label_table(read_source_ids("coco_stuff"), ignored_values=[0])
    images, labels = [], []
    pairs, missing = complete_pairs(
        [
            (source / "images" / f"{key}.jpg", source / "annotations" / f"{key}.mat")
            for key in read_name_list(source / "imageLists" / f"{name}.txt", ARCHIVE)
        ]
    )
    for image, label in pairs:
        label_target = target / "annotations_detectron2" / name / f"{image.stem}.png"
        image_target = target / "images_detectron2" / name / image.name
        images.append(ImageFile(image, image_target, copy=copy_images))
        labels.append(LabelFile(label, label_target, table, matlab_reader("S"), image))
    return Split(name, OFFICIAL_COUNTS[name], labels, images, missing)


def main() -> None:
    parser = preparation_parser(__doc__, FOLDER)
    parser.add_argument(
        "--copy-images", action="store_true", help="copy the images rather than link them"
    )
    arguments = parser.parse_args()
    source, target = source_folder(arguments, ARCHIVE), arguments.root / FOLDER
    require_scipy()
    prepare_dataset(
        [list_split(name, source, target, arguments.copy_images) for name in OFFICIAL_COUNTS],
        arguments,
        ["coco_2017_train_stuff_10k_sem_seg", "coco_2017_test_stuff_10k_sem_seg"],
    )


if __name__ == "__main__":
    run_command(main)
