"""What detectron2.data promises about data loaders, installed or embedded.

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
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T

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
    return [
        {
            "file_name": str(tmp_path / "images" / f"{i}.png"),
            "sem_seg_file_name": str(tmp_path / "labels" / f"{i}.png"),
        }
        for i in range(NUM_IMAGES)
    ]


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


@pytest.fixture
def mapper(cfg):
    """Crops, resizes and flips as the config says, which is what Detectron2's mapper does."""
    augmentations = T.AugmentationList(
        [
            T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE),
            T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN, "choice"),
            T.RandomFlip(),
        ]
    )

    def mapper(record):
        image = utils.read_image(record["file_name"], cfg.INPUT.FORMAT)
        sem_seg = utils.read_image(record["sem_seg_file_name"], "L")[:, :, 0]
        record["height"], record["width"] = sem_seg.shape
        inputs = T.AugInput(image, sem_seg=sem_seg)
        augmentations(inputs)
        record["image"] = torch.from_numpy(np.ascontiguousarray(inputs.image.transpose(2, 0, 1)))
        record["sem_seg"] = torch.from_numpy(inputs.sem_seg.astype(np.int64))
        return record

    return mapper


def as_it_is(record):
    return {**record, "width": 1, "height": 1}


class TestLoaders:
    @pytest.mark.parametrize(
        ("num_workers", "expected"),
        [
            (0, {"87": "cb1126ce75bc319b", "45": "1781ca8e850030b7", "12": "ae52981d24d88754"}),
            (2, {"84": "447f15d28de70418", "75": "b73ffb205d946db2", "21": "65390c84be26f628"}),
        ],
        ids=["0", "2"],
    )
    def test_training_batches(self, num_workers, expected, cfg, mapper):
        cfg.DATALOADER.NUM_WORKERS = num_workers
        np.random.seed(1)  # noqa: NPY002
        torch.manual_seed(1)
        batches = first(build_detection_train_loader(cfg, mapper=mapper), 3)
        assert [(stems(batch), digest(batch)) for batch in batches] == list(expected.items())

    def test_training_with_overwritten_arguments(self, cfg):
        loader = build_detection_train_loader(
            cfg, mapper=as_it_is, total_batch_size=3, aspect_ratio_grouping=False
        )
        assert len(next(iter(loader))) == 3

    @only_embedded
    def test_other_samplers_and_mappers_are_not_covered(self, cfg):
        with pytest.raises(NotImplementedError, match="Use d2_ctxseg.data.SemanticSegmentorMapper"):
            build_detection_train_loader(cfg)
        with pytest.raises(NotImplementedError, match="Use d2_ctxseg.data.SemanticSegmentorMapper"):
            build_detection_test_loader(cfg, cfg.DATASETS.TEST[0])
        cfg.DATALOADER.SAMPLER_TRAIN = "RepeatFactorTrainingSampler"
        with pytest.raises(NotImplementedError, match=r"RepeatFactorTrainingSampler.*install"):
            build_detection_train_loader(cfg, mapper=as_it_is)

    def test_test_batches_are_single_images_in_order(self, cfg):
        cfg.DATALOADER.NUM_WORKERS = 1
        loader = build_detection_test_loader(cfg, cfg.DATASETS.TEST[0], mapper=as_it_is)
        assert len(loader) == NUM_IMAGES
        batches = list(loader)
        assert [stems(batch) for batch in batches] == list("012345678")

    def test_collate_function(self, cfg):
        for grouping in (True, False):
            loader = build_detection_train_loader(
                cfg, mapper=as_it_is, aspect_ratio_grouping=grouping, collate_fn=stems
            )
            assert next(iter(loader)) == "87"

    def test_total_batch_size_is_shared_among_processes(self, cfg, monkeypatch):
        monkeypatch.setattr("detectron2.data.build.get_world_size", lambda: 2)
        loader = build_detection_train_loader(cfg, mapper=as_it_is, total_batch_size=4)
        assert len(next(iter(loader))) == 2
        with pytest.raises(AssertionError, match="divisible"):
            build_detection_train_loader(cfg, mapper=as_it_is, total_batch_size=3)

    @only_embedded
    def test_instances_are_not_covered(self, name):
        DatasetCatalog.register(name, lambda: [{"file_name": "a", "annotations": []}])
        with pytest.raises(NotImplementedError, match="install"):
            get_detection_dataset_dicts(name)
        assert len(get_detection_dataset_dicts(name, filter_empty=False)) == 1

    def test_records_of_several_datasets_are_joined(self, name):
        DatasetCatalog.register(name, lambda: [{"file_name": "a"}, {"file_name": "b"}])
        assert len(get_detection_dataset_dicts(name)) == 2
        joined = get_detection_dataset_dicts([name, name], filter_empty=False)
        assert [record["file_name"] for record in joined] == ["a", "b", "a", "b"]

    def test_datasets_must_exist(self, name):
        with pytest.raises(KeyError, match="not registered"):
            get_detection_dataset_dicts([name])
        with pytest.raises(AssertionError):
            get_detection_dataset_dicts([])
        DatasetCatalog.register(name, list)
        with pytest.raises(AssertionError, match="is empty"):
            get_detection_dataset_dicts([name])
