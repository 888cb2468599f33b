"""Cityscapes' own evaluation, on a miniature of the official archive."""

import json
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from data_folders import run_script, unique_name, write_image
from miniature_archives import CITYSCAPES, cityscapes
from PIL import Image
from two_processes import run_in_two_processes

from d2_ctxseg.data import register_builtin_datasets
from d2_ctxseg.evaluation import SegmentationEvaluator
from d2_ctxseg.evaluation.cityscapes import (
    CityscapesScriptsEvaluator,
    cityscapes_evaluators,
    is_cityscapes,
)
from detectron2.data import DatasetCatalog, MetadataCatalog

SCRIPT = Path(__file__).parents[2] / "datasets/prepare_cityscapes.py"
NAME = "cityscapes_fine_sem_seg_val"
MODULE = "cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling"
SIZE = (48, 64)
TASK = "sem_seg_cityscapesscripts"
PERSON, RIDER, CAR = 24, 25, 26
# Pixels that an object of the class has on average, from the package.
AVERAGE = {PERSON: 3462.4756337644, RIDER: 3930.4788056518, CAR: 12794.0202738185}
KEYS = ["IoU-", "iIoU-", "IoU_sup-", "iIoU_sup-"]


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Three validation images with all label ids; an object is what has its id in 4 columns."""
    register_builtin_datasets([NAME])
    made = cityscapes(tmp_path)
    official_files(tmp_path, "lindau_000000_000019", made.labels)
    for number in (20, 21):
        name = f"munster_000000_0000{number}"
        made.image(f"cityscapes/leftImg8bit/val/munster/{name}_leftImg8bit.png", SIZE)
        values = made.values(f"{name}_gtFine_labelIds", range(34), SIZE)
        write_image(label_file(tmp_path, name, "labelIds"), values.astype(np.uint8))
        official_files(tmp_path, name, made.labels)
    options = ["--root", tmp_path, "--workers", 1, "--allow-incomplete"]
    assert run_script(SCRIPT, *options) == 0
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path


def label_file(root, name, kind):
    city = name.partition("_")[0]
    return root / f"cityscapes/gtFine/val/{city}/{name}_gtFine_{kind}.png"


def official_files(root, name, labels):
    """The instances of an image: 1000 times the label id plus a number, where there are objects."""
    values = labels[f"{name}_gtFine_labelIds"].astype(np.int32)
    numbers = np.arange(values.shape[1])[None] // 4
    instances = np.where(values >= 24, values * 1000 + numbers, values)
    write_image(label_file(root, name, "instanceIds"), instances.astype(np.uint16))


def read_ids(record, kind):
    path = record["sem_seg_file_name"].replace("labelTrainIds", kind)
    return np.asarray(Image.open(path)).astype(np.int64)


def predictions(records):
    """Label maps of classes, most of them correct; and the ids they stand for."""
    rng = np.random.default_rng(0)
    ids = np.array(list(CITYSCAPES))
    for record in records:
        ground_truth = read_ids(record, "labelTrainIds")
        random = rng.integers(0, 19, ground_truth.shape)
        labels = np.where(
            (ground_truth == 255) | (rng.random(ground_truth.shape) < 0.4), random, ground_truth
        )
        yield record, labels, ids[labels]


def evaluated(evaluator, records, key="label_map"):
    evaluator.reset()
    for record, labels, _ in predictions(records):
        output = {key: torch.from_numpy(labels)}
        if key == "sem_seg":
            one_hot = torch.nn.functional.one_hot(output[key], 19)
            output[key] = one_hot.permute(2, 0, 1).float()
        evaluator.process([{"file_name": record["file_name"]}], [output])
    return evaluator.evaluate()


@pytest.fixture
def package():
    return pytest.importorskip(MODULE, reason="needs the package cityscapesscripts")


class TestFigures:
    def test_iou_is_that_of_our_evaluator(self, root, package):
        records = DatasetCatalog.get(NAME)
        ours = evaluated(SegmentationEvaluator(NAME, distributed=False), records)["sem_seg"]
        [evaluator] = cityscapes_evaluators(NAME, distributed=False)
        theirs = evaluated(evaluator, records)[TASK]
        assert 20 < theirs["mIoU"] < 80
        assert theirs["mIoU"] == pytest.approx(ours["mIoU"], abs=1e-9)
        classes = MetadataCatalog.get(NAME).stuff_classes
        for name in classes:
            assert theirs[f"IoU-{name}"] == pytest.approx(ours[f"IoU-{name}"], abs=1e-9)

    @pytest.mark.parametrize(
        ("name", "ids"),
        [("iIoU-person", [PERSON]), ("iIoU-car", [CAR]), ("iIoU_sup-human", [PERSON, RIDER])],
    )
    def test_iiou_weights_objects_by_their_average_size(self, root, package, name, ids):
        records = DatasetCatalog.get(NAME)
        metrics = evaluated(CityscapesScriptsEvaluator(NAME, distributed=False), records)[TASK]
        hits = misses = false = 0.0
        for record, _, predicted in predictions(records):
            ground_truth, instances = read_ids(record, "labelIds"), read_ids(record, "instanceIds")
            found = np.isin(predicted, ids)
            false += (
                found & np.isin(ground_truth, list(CITYSCAPES)) & ~np.isin(ground_truth, ids)
            ).sum()
            for instance in np.unique(instances[np.isin(instances // 1000, ids)]):
                of_object = instances == instance
                weight = AVERAGE[instance // 1000] / of_object.sum()
                hits += weight * (of_object & found).sum()
                misses += weight * (of_object & ~found).sum()
        assert metrics[name] == pytest.approx(100 * hits / (hits + misses + false))

    def test_names_are_those_of_the_report_and_of_the_benchmark(self, root, package):
        metrics = evaluated(CityscapesScriptsEvaluator(NAME), DatasetCatalog.get(NAME))[TASK]
        assert list(metrics)[:4] == ["mIoU", "iIoU", "IoU_sup", "iIoU_sup"]
        names = {key: [n.partition("-")[2] for n in metrics if n.startswith(key)] for key in KEYS}
        assert [len(names[key]) for key in KEYS] == [19, 8, 7, 2]
        assert names["iIoU_sup-"] == ["human", "vehicle"]
        for total, key in (("mIoU", "IoU-"), ("iIoU", "iIoU-"), ("IoU_sup", "IoU_sup-")):
            mean = np.mean([metrics[f"{key}{name}"] for name in names[key]])
            assert metrics[total] == pytest.approx(mean)

    def test_scores_and_other_outputs_can_be_rated(self, root, package):
        records = DatasetCatalog.get(NAME)
        expected = evaluated(CityscapesScriptsEvaluator(NAME), records)[TASK]
        assert evaluated(CityscapesScriptsEvaluator(NAME), records, "sem_seg")[TASK] == expected
        options = {"task": "sem_seg_TTA", "prediction_key": "label_map_TTA"}
        [evaluator] = cityscapes_evaluators(NAME, **options)
        assert evaluated(evaluator, records, "label_map_TTA") == {f"{TASK}_TTA": expected}

    def test_an_evaluator_starts_again_and_leaves_no_files(self, root, package, monkeypatch):
        monkeypatch.setattr("tempfile.tempdir", str(root / "temporary"))
        (root / "temporary").mkdir()
        for setting in ("quiet", "JSONOutput", "evalInstLevelScore"):
            monkeypatch.setattr(package.args, setting, setting != "quiet")
        before = dict(vars(package.args))
        records = DatasetCatalog.get(NAME)
        evaluator = CityscapesScriptsEvaluator(NAME)
        expected = evaluated(evaluator, records)
        assert evaluated(evaluator, records) == expected
        assert vars(package.args) == before
        assert package.np is np
        assert not list((root / "temporary").iterdir())

    def test_only_images_that_were_predicted_count(self, root, package):
        record, labels, _ = next(predictions(DatasetCatalog.get(NAME)))
        evaluator = CityscapesScriptsEvaluator(NAME)
        evaluator.reset()
        ground_truth = torch.from_numpy(read_ids(record, "labelTrainIds"))
        output = {"label_map": torch.where(ground_truth == 255, 0, ground_truth)}
        evaluator.process([{"file_name": record["file_name"]}], [output])
        assert evaluator.evaluate()[TASK]["mIoU"] == 100

    def test_the_quiet_package_prints_nothing(self, root, package, capsys):
        evaluated(CityscapesScriptsEvaluator(NAME), DatasetCatalog.get(NAME))
        assert capsys.readouterr().out == ""


class TestWhereItIsLeftOut:
    def left_out(self, caplog, evaluator=None):
        evaluator = evaluator or CityscapesScriptsEvaluator(NAME)
        with caplog.at_level(logging.WARNING):
            assert evaluated(evaluator, DatasetCatalog.get(NAME)) == {}
        [line] = [r.getMessage() for r in caplog.records if "is left out" in r.getMessage()]
        assert "\n" not in line
        return line

    def test_a_missing_package_is_reported(self, root, monkeypatch, caplog):
        monkeypatch.setitem(sys.modules, MODULE, None)
        assert "pip install cityscapesscripts" in self.left_out(caplog)

    @pytest.mark.parametrize("kind", ["labelIds", "instanceIds"])
    def test_without_official_files_one_line_names_the_first(self, root, caplog, kind):
        label_file(root, "munster_000000_000020", kind).unlink()
        line = self.left_out(caplog)
        assert "1 of 6 official files" in line
        assert f"munster_000000_000020_gtFine_{kind}.png" in line

    def test_what_the_package_complains_about_is_reported(self, root, package, caplog):
        small = np.zeros((3, 3), np.uint8)
        write_image(label_file(root, "munster_000000_000020", "labelIds"), small)
        assert "are not equal" in self.left_out(caplog)

    def test_without_predictions(self, root, package, caplog):
        evaluator = CityscapesScriptsEvaluator(NAME)
        evaluator.reset()
        assert evaluator.evaluate() == {}
        assert "no image was predicted" in caplog.text

    def test_with_several_machines(self, root, package, caplog, monkeypatch):
        evaluator = CityscapesScriptsEvaluator(NAME)
        gather = "d2_ctxseg.evaluation.cityscapes.comm.all_gather"
        monkeypatch.setattr(gather, lambda facts: [facts, (None, None, "another machine")])
        assert "several machines" in self.left_out(caplog, evaluator)


class TestWhichDataSets:
    def test_cityscapes_with_labels_and_no_other(self, root):
        assert is_cityscapes(NAME)
        assert not is_cityscapes("cityscapes_fine_sem_seg_test")
        assert not is_cityscapes("camvid_sem_seg_val")
        assert cityscapes_evaluators("cityscapes_fine_sem_seg_test") == []

    @pytest.mark.parametrize("suffix", ["_gtFine_labelIds.png", "_gtFine_labelTrainIds.png"])
    def test_the_users_own_description_of_it_too(self, suffix):
        name, record = unique_name(), {"file_name": "a", "sem_seg_file_name": f"a{suffix}"}
        DatasetCatalog.register(name, lambda: [record])
        metadata = MetadataCatalog.get(name)
        metadata.set(stuff_classes=MetadataCatalog.get(NAME).stuff_classes[::-1])
        assert is_cityscapes(name)
        record["sem_seg_file_name"] = "a.png"
        assert not is_cityscapes(name)


def one_worker(rank, folder, shares):
    register_builtin_datasets([NAME])
    records = DatasetCatalog.get(NAME)
    evaluator = CityscapesScriptsEvaluator(NAME)
    evaluator.reset()
    for record, labels, _ in list(predictions(records))[shares[rank]]:
        output = {"label_map": torch.from_numpy(labels)}
        evaluator.process([{"file_name": record["file_name"]}], [output])
    results = evaluator.evaluate()
    assert (results is None) == (rank == 1)
    if results:
        (folder / "results.json").write_text(json.dumps(results))


@pytest.mark.slow
def test_two_workers_have_the_results_of_one(root, package):
    expected = evaluated(CityscapesScriptsEvaluator(NAME), DatasetCatalog.get(NAME))
    shares = [slice(0, 1), slice(1, 3)]
    run_in_two_processes(one_worker, root, root, shares)
    assert json.loads((root / "results.json").read_text()) == expected
