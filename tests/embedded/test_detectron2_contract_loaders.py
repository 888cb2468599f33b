"""What detectron2.data promises about the dataset mapper and data loaders, installed or embedded.

The same seed must give the same training batches. The figures were recorded on Detectron2.
"""

import hashlib
import itertools
import os
import uuid

import numpy as np
import pytest
import torch
from PIL import Image

from d2_ctxseg.utils.runtime import is_embedded
from detectron2.config import get_cfg
from detectron2.data import (
    DatasetCatalog,
    DatasetFromList,
    DatasetMapper,
    build_batch_data_loader,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.data.datasets import load_sem_seg
from detectron2.data.samplers import InferenceSampler, TrainingSampler

NUM_IMAGES = 9
only_embedded = pytest.mark.skipif(
    not is_embedded(), reason="the installed Detectron2 covers everything"
)


@pytest.fixture
def name():
    """A name that no dataset has yet."""
    name = f"contract_{uuid.uuid4().hex}"
    yield name
    DatasetCatalog.pop(name, None)


@pytest.fixture
def records(tmp_path):
    """Nine images with label maps on disk; every third is upright, the others are wide."""
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for i in range(NUM_IMAGES):
        y, x = np.mgrid[:60, :40] if i % 3 == 0 else np.mgrid[:40, :60]
        pixels = np.stack([(4 + i) * x, 5 * y + i, 3 * x + 2 * y], axis=2).astype(np.uint8)
        labels = ((x // 10 + y // 10 + i) % 3).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
        Image.fromarray(labels).save(tmp_path / "labels" / f"{i}.png")
    return load_sem_seg(str(tmp_path / "labels"), str(tmp_path / "images"), image_ext="png")


@pytest.fixture
def cfg(name, records):
    """Trains on ``records`` with batches of two, crop, resize and flip."""
    DatasetCatalog.register(name, lambda: records)
    cfg = get_cfg()
    cfg.SEED = 5
    cfg.DATASETS.TRAIN = (name,)
    cfg.DATASETS.TEST = (name,)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.INPUT.MIN_SIZE_TRAIN = (24, 40, 50)
    cfg.INPUT.MAX_SIZE_TRAIN = 80
    cfg.INPUT.MIN_SIZE_TEST = 20
    cfg.INPUT.CROP.ENABLED = True
    return cfg


def stems(batch):
    """The images of a batch as a string of their numbers."""
    return "".join(os.path.basename(record["file_name"])[0] for record in batch)


def digest(batch):
    """A short hash of the images and label maps of a batch."""
    sha = hashlib.sha256()
    for record in batch:
        for key in ("image", "sem_seg"):
            sha.update(f"{tuple(record[key].shape)} {record[key].dtype}".encode())
            sha.update(record[key].numpy().tobytes())
    return sha.hexdigest()[:16]


def first(iterable, count):
    return list(itertools.islice(iterable, count))


class TestDatasetMapper:
    def test_makes_tensors(self, records):
        mapper = DatasetMapper(True, augmentations=[T.Resize((20, 30))], image_format="BGR")
        before = dict(records[1])
        mapped = mapper(records[1])
        assert records[1] == before
        assert sorted(mapped) == ["file_name", "height", "image", "sem_seg", "width"]
        assert (mapped["height"], mapped["width"]) == (40, 60)
        assert mapped["image"].shape == (3, 20, 30)
        assert mapped["image"].dtype == torch.uint8
        assert mapped["sem_seg"].shape == (20, 30)
        assert mapped["sem_seg"].dtype == torch.int64
        pixels = utils.read_image(records[1]["file_name"], "BGR")
        resized = T.ResizeTransform(40, 60, 20, 30).apply_image(pixels)
        np.testing.assert_array_equal(mapped["image"].numpy(), resized.transpose(2, 0, 1))

    def test_of_a_config_crops_and_flips_in_training_only(self, cfg):
        training = [type(aug).__name__ for aug in DatasetMapper(cfg, True).augmentations.augs]
        inference = [type(aug).__name__ for aug in DatasetMapper(cfg, False).augmentations.augs]
        assert training == ["RandomCrop", "ResizeShortestEdge", "RandomFlip"]
        assert inference == ["ResizeShortestEdge"]
        cfg.INPUT.RANDOM_FLIP = "none"
        cfg.INPUT.CROP.ENABLED = False
        assert len(DatasetMapper(cfg, True).augmentations.augs) == 1

    def test_of_a_config_takes_other_arguments_too(self, cfg, records):
        mapper = DatasetMapper(cfg, is_train=False, augmentations=[], image_format="RGB")
        pixels = utils.read_image(records[0]["file_name"], "RGB")
        image = mapper(records[0])["image"].numpy()
        np.testing.assert_array_equal(image, pixels.transpose(2, 0, 1))

    def test_works_without_labels(self, records):
        mapper = DatasetMapper(False, augmentations=[], image_format="RGB")
        assert "sem_seg" not in mapper({"file_name": records[0]["file_name"]})

    @only_embedded
    def test_instances_are_not_covered(self, records, name):
        record = {**records[0], "annotations": []}
        mapper = DatasetMapper(True, augmentations=[], image_format="RGB")
        with pytest.raises(NotImplementedError, match="install"):
            mapper(record)
        DatasetCatalog.register(name, lambda: [record])
        with pytest.raises(NotImplementedError, match="install"):
            get_detection_dataset_dicts(name)
        assert get_detection_dataset_dicts(name, filter_empty=False) == [record]


class TestLoaders:
    @pytest.mark.parametrize(
        ("num_workers", "expected"),
        [
            (
                0,
                [
                    ("87", "cb1126ce75bc319b"),
                    ("45", "1781ca8e850030b7"),
                    ("12", "ae52981d24d88754"),
                ],
            ),
            (
                2,
                [
                    ("84", "447f15d28de70418"),
                    ("75", "b73ffb205d946db2"),
                    ("21", "65390c84be26f628"),
                ],
            ),
        ],
        ids=["0", "2"],
    )
    def test_training_batches(self, num_workers, expected, cfg):
        cfg.DATALOADER.NUM_WORKERS = num_workers
        np.random.seed(1)  # noqa: NPY002
        torch.manual_seed(1)
        batches = first(build_detection_train_loader(cfg), 3)
        assert [(stems(batch), digest(batch)) for batch in batches] == expected

    def test_training_without_a_config(self, records):
        loader = build_detection_train_loader(
            records,
            mapper=DatasetMapper(True, augmentations=[], image_format="RGB"),
            sampler=TrainingSampler(NUM_IMAGES, shuffle=False),
            total_batch_size=4,
            aspect_ratio_grouping=False,
            num_workers=1,
        )
        assert [stems(batch) for batch in first(loader, 3)] == ["0123", "4567", "8012"]

    def test_training_with_overwritten_arguments(self, cfg):
        loader = build_detection_train_loader(
            cfg, mapper=lambda record: record, total_batch_size=3, aspect_ratio_grouping=False
        )
        assert [sorted(record) for record in next(iter(loader))] == [
            ["file_name", "sem_seg_file_name"]
        ] * 3

    def test_training_on_a_random_subset(self, cfg):
        cfg.DATALOADER.SAMPLER_TRAIN = "RandomSubsetTrainingSampler"
        cfg.DATALOADER.RANDOM_SUBSET_RATIO = 0.5
        np.random.seed(1)  # noqa: NPY002
        batches = first(build_detection_train_loader(cfg, aspect_ratio_grouping=False), 4)
        assert [stems(batch) for batch in batches] == ["20", "58", "05", "28"]

    def test_unknown_sampler(self, cfg):
        cfg.DATALOADER.SAMPLER_TRAIN = "AnySampler"
        with pytest.raises(ValueError, match="AnySampler"):
            build_detection_train_loader(cfg)

    @only_embedded
    def test_samplers_for_instances_are_not_covered(self, cfg):
        cfg.DATALOADER.SAMPLER_TRAIN = "RepeatFactorTrainingSampler"
        with pytest.raises(NotImplementedError, match="RepeatFactorTrainingSampler.*install"):
            build_detection_train_loader(cfg)

    def test_test_batches_are_single_images_in_order(self, cfg):
        cfg.DATALOADER.NUM_WORKERS = 1
        loader = build_detection_test_loader(cfg, cfg.DATASETS.TEST[0])
        assert len(loader) == NUM_IMAGES
        batches = list(loader)
        assert [stems(batch) for batch in batches] == list("012345678")
        assert batches[1][0]["image"].shape == (3, 20, 30)
        assert (batches[1][0]["height"], batches[1][0]["width"]) == (40, 60)

    def test_testing_without_a_config(self, records):
        loader = build_detection_test_loader(records, mapper=None, batch_size=4)
        assert [stems(batch) for batch in loader] == ["0123", "4567", "8"]

    def test_collate_function(self, records):
        for grouping in (True, False):
            loader = build_detection_train_loader(
                records,
                mapper=DatasetMapper(True, augmentations=[], image_format="RGB"),
                sampler=TrainingSampler(NUM_IMAGES, shuffle=False),
                total_batch_size=2,
                aspect_ratio_grouping=grouping,
                collate_fn=stems,
            )
            assert next(iter(loader)) == ("12" if grouping else "01")
        loader = build_detection_test_loader(records, mapper=None, collate_fn=stems)
        assert next(iter(loader)) == "0"

    def test_batch_size_of_one_process(self):
        dataset, sampler = DatasetFromList([1, 2, 3]), InferenceSampler(3)
        loader = build_batch_data_loader(dataset, sampler, None, single_gpu_batch_size=2)
        assert list(loader) == [[1, 2]]
        loader = build_batch_data_loader(dataset, sampler, 2, drop_last=False)
        assert list(loader) == [[1, 2], [3]]
        with pytest.raises(ValueError, match="incompatible"):
            build_batch_data_loader(dataset, sampler, 2, single_gpu_batch_size=2)
        with pytest.raises(AssertionError):
            build_batch_data_loader(dataset, sampler, 0)

    def test_total_batch_size_is_shared_among_processes(self, monkeypatch):
        monkeypatch.setattr("detectron2.data.build.get_world_size", lambda: 2)
        sampler = TrainingSampler(3)
        loader = build_batch_data_loader(DatasetFromList([1, 2, 3]), sampler, 4)
        assert len(next(iter(loader))) == 2
        with pytest.raises(AssertionError, match="divisible"):
            build_batch_data_loader(DatasetFromList([1, 2, 3]), sampler, 3)

    def test_records_of_several_data_sets_are_joined(self, name):
        DatasetCatalog.register(name, lambda: [{"file_name": "a"}, {"file_name": "b"}])
        assert len(get_detection_dataset_dicts(name)) == 2
        joined = get_detection_dataset_dicts([name, name], filter_empty=False)
        assert [record["file_name"] for record in joined] == ["a", "b", "a", "b"]

    def test_data_sets_must_be_there(self, name):
        with pytest.raises(KeyError, match="not registered"):
            get_detection_dataset_dicts([name])
        with pytest.raises(AssertionError):
            get_detection_dataset_dicts([])
        DatasetCatalog.register(name, list)
        with pytest.raises(AssertionError, match="is empty"):
            get_detection_dataset_dicts([name])
