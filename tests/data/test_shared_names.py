"""Names that other Detectron2 projects register as well: their datasets are kept, and work here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from data_folders import write_image

from d2_ctxseg.utils.runtime import is_embedded

ROOT = Path(__file__).parents[2]

# As MaskFormer and Mask2Former do it when they are imported: other classes than ours, no colours,
# another ignore label, ids that are not the indices of the classes, files that hold ids, and
# colours for a dataset of Detectron2's.
OTHER_PROJECT = """
import os
from detectron2.data import DatasetCatalog, MetadataCatalog

folder = os.environ["OTHER_FOLDER"]

def records(label):
    image = f"{folder}/image.png"
    return lambda: [{"file_name": image, "sem_seg_file_name": f"{folder}/{label}.png"}]

for split in ("train", "val"):
    name = f"ade20k_full_sem_seg_{split}"
    DatasetCatalog.register(name, records("indices"))
    MetadataCatalog.get(name).set(
        stuff_classes=["a", "b", "c"], evaluator_type="sem_seg", ignore_label=65535,
        stuff_dataset_id_to_contiguous_id={7: 0, 8: 1, 9: 2},
    )
    name = f"coco_2017_{split}_stuff_sem_seg"
    DatasetCatalog.register(name, records("ids"))
    MetadataCatalog.get(name).set(stuff_classes=["a"], id_map={5: 0})
    MetadataCatalog.get(f"ade20k_sem_seg_{split}").set(stuff_colors=[[1, 2, 3]] * 150)
"""

USE_ITS_DATASETS = """
import json, torch
from d2_ctxseg.data import SemanticSegmentorMapper, folder_dataset_of, read_label
from d2_ctxseg.engine import setup_config
from d2_ctxseg.evaluation import SegmentationEvaluator
from d2_ctxseg.evaluation.evaluator import label_loader
from detectron2.data import DatasetCatalog, MetadataCatalog

found = {}
train, val = "ade20k_full_sem_seg_train", "ade20k_full_sem_seg_val"
cfg = setup_config("", [
    "DATASETS.TRAIN", (train,), "DATASETS.TEST", (val,), "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 3,
    "MODEL.DEVICE", "cpu", "MODEL.META_ARCHITECTURE", "LinearSegmentor",
    "MODEL.BACKBONE.NAME", "EncoderBackbone", "INPUT.MIN_SIZE_TRAIN", (8,),
], for_inference=True)
(record,) = DatasetCatalog.get(train)
found["trained on"] = SemanticSegmentorMapper(cfg, True)(record)["sem_seg"].unique().tolist()

output = other_project.folder + "/output"
evaluator = SegmentationEvaluator(val, output_dir=output, save_predictions=True, distributed=False)
evaluator.reset()
evaluator.process([record], [{"label_map": torch.zeros(8, 10, dtype=torch.int64)}])
found["IoU"] = evaluator.evaluate()["sem_seg"]["IoU-a"]
found["saved"] = read_label(output + "/predictions/image.png").max().item()
found["colours"] = MetadataCatalog.get(val).get("stuff_colors")

load = label_loader("coco_2017_val_stuff_sem_seg")
found["of ids"] = load(other_project.folder + "/ids.png").max().item()

dataset, split = folder_dataset_of("ade20k_sem_seg_val")
found["ours"] = [dataset.name, split, len(MetadataCatalog.get("ade20k_sem_seg_val").stuff_colors)]
print(json.dumps(found))
"""

# What asks for a dataset, each with a name of its own.
ASK = """
import json
from detectron2.data import DatasetCatalog, MetadataCatalog
before = DatasetCatalog.list() + MetadataCatalog.list()
import d2_ctxseg
after = DatasetCatalog.list() + MetadataCatalog.list()
import d2_ctxseg.report.classes as classes
from d2_ctxseg.data import registration
from d2_ctxseg.evaluation import evaluator

registered = {}
for name, ask in {
    "coco_2017_train_stuff_sem_seg": lambda n: registration.register_builtin_datasets(["x", n]),
    "coco_2017_val_stuff_sem_seg": registration.folder_dataset_of,
    "coco_2017_train_stuff_10k_sem_seg": registration.has_labels,
    "ade20k_full_sem_seg_val": evaluator.label_loader,
    "coco_2017_test_stuff_10k_sem_seg": lambda name: classes.classes_of(name, ["person"]),
    "ade20k_full_sem_seg_train": evaluator.SegmentationEvaluator,
}.items():
    try:
        ask(name)
    except d2_ctxseg.data.DatasetError as error:  # the files are not there
        assert "does not exist" in str(error), error
    registered[name] = "stuff_colors" in MetadataCatalog.get(name).as_dict()
registration.register_builtin_datasets()
prefixes = "ade20k_sem", "ade20k_full_sem", "coco_2017_", "pascal_context_59"
shared = [n for n in after if n.startswith(prefixes)]
own = {"camvid_sem_seg_train", "pascal_context_60_sem_seg_val", "ade20k_full_150_sem_seg_val"}
ours = own <= set(after)
theirs = [name for name in shared if name not in before]
print(json.dumps([theirs, ours, registered, DatasetCatalog.list()]))
"""


def run(folder, *code):
    """What a program prints as JSON, in an interpreter of its own."""
    (folder / "other_project.py").write_text(OTHER_PROJECT, encoding="utf-8")
    path = [str(folder), str(ROOT), *sys.path]
    if is_embedded():  # so that the other project can be the first to import it
        path.append(str(ROOT / "d2_ctxseg" / "embedded"))
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(path),
        "OTHER_FOLDER": str(folder),
        "DETECTRON2_DATASETS": str(folder),
    }
    command = [sys.executable, "-c", "\n".join(code)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "imports", ["import other_project, d2_ctxseg", "import d2_ctxseg, other_project"]
)
def test_in_both_orders_of_imports_the_other_projects_datasets_are_used(tmp_path, imports):
    indices = np.array([[0, 1, 2, 65535, 0]] * 4, np.uint16).repeat(2, 0).repeat(2, 1)
    write_image(tmp_path / "image.png", np.zeros((8, 10, 3), np.uint8))
    write_image(tmp_path / "indices.png", indices)
    write_image(tmp_path / "ids.png", np.full((8, 10), 5, np.uint8))
    assert run(tmp_path, imports, USE_ITS_DATASETS) == {
        "trained on": [0, 1, 2, 255],
        "IoU": 50.0,  # 0 at 4 of the 8 labelled columns
        "saved": 7,
        "colours": None,
        "of ids": 0,
        "ours": ["ade20k", "val", 150],
    }


def test_shared_names_are_registered_when_they_are_requested_and_others_on_import(tmp_path):
    taken_on_import, has_own, registered, all_names = run(tmp_path, ASK)
    assert taken_on_import == []
    assert has_own
    assert registered == dict.fromkeys(registered, True)
    assert set(registered) <= set(all_names)
