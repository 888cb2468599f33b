"""What detectron2.data promises about catalogs, datasets, samplers and images, installed or
embedded.

The figures were recorded on Detectron2.
"""

import itertools
import uuid

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import detection_utils as utils
from detectron2.data.common import (
    AspectRatioGroupedDataset,
    DatasetFromList,
    MapDataset,
    ToIterableDataset,
)
from detectron2.data.samplers import InferenceSampler, TrainingSampler
from detectron2.utils import comm


@pytest.fixture
def name():
    """A name that no dataset has yet."""
    name = f"contract_{uuid.uuid4().hex}"
    yield name
    DatasetCatalog.pop(name, None)
    MetadataCatalog.pop(name, None)


def first(iterable, count):
    return list(itertools.islice(iterable, count))


class TestCatalogs:
    def test_dataset_is_loaded_when_requested(self, name):
        DatasetCatalog.register(name, lambda: [{"file_name": "a.png"}])
        assert name in DatasetCatalog
        assert name in DatasetCatalog.list()
        assert DatasetCatalog.get(name) == [{"file_name": "a.png"}]
        DatasetCatalog.remove(name)
        assert name not in DatasetCatalog

    def test_unknown_dataset_lists_the_known_ones(self, name):
        DatasetCatalog.register(name, list)
        with pytest.raises(KeyError, match=f"'nowhere' is not registered.*{name}"):
            DatasetCatalog.get("nowhere")

    def test_dataset_is_registered_once_and_as_a_function(self, name):
        DatasetCatalog.register(name, list)
        with pytest.raises(AssertionError, match="already registered"):
            DatasetCatalog.register(name, list)
        with pytest.raises(AssertionError):
            DatasetCatalog.register(name + "_2", [])

    def test_metadata_is_one_object(self, name):
        metadata = MetadataCatalog.get(name)
        assert metadata.name == name
        assert metadata.set(ignore_label=255) is metadata
        metadata.stuff_classes = ["road"]
        assert MetadataCatalog.get(name) is metadata
        assert name in MetadataCatalog.list()
        assert metadata.as_dict() == {
            "name": name,
            "ignore_label": 255,
            "stuff_classes": ["road"],
        }

    def test_metadata_is_write_once(self, name):
        metadata = MetadataCatalog.get(name).set(stuff_classes=["road"])
        metadata.stuff_classes = ["road"]
        with pytest.raises(AssertionError, match="stuff_classes.*cannot be set"):
            metadata.stuff_classes = ["sky"]
        assert metadata.stuff_classes == ["road"]

    def test_missing_metadata_lists_what_there_is(self, name):
        metadata = MetadataCatalog.get(name)
        with pytest.raises(AttributeError, match=r"(?i)'stuff_classes'.*metadata is empty"):
            metadata.stuff_classes  # noqa: B018
        metadata.ignore_label = 255
        with pytest.raises(AttributeError, match="'stuff_classes'.*ignore_label"):
            metadata.stuff_classes  # noqa: B018
        assert metadata.get("stuff_classes", []) == []
        assert not hasattr(metadata, "stuff_colors")


class TestDatasets:
    def test_from_list_gives_copies(self):
        elements = [{"a": [1]}, {"a": [2]}]
        dataset = DatasetFromList(elements)
        dataset[1]["a"].append(3)
        assert [dataset[0], dataset[1]] == elements
        assert len(dataset) == 2

    def test_map(self):
        dataset = MapDataset(DatasetFromList([1, 2, 3]), lambda x: 10 * x)
        assert len(dataset) == 3
        assert dataset[2] == 30

    def test_map_tries_others_where_an_element_is_unusable(self):
        dataset = MapDataset(list(range(20)), lambda x: None if x % 3 else x)
        assert [dataset[i] for i in range(20)] == [
            0, 0, 6, 3, 3, 3, 6, 0, 0, 9, 0, 3, 12, 3, 12, 15, 12, 0, 18, 12,
        ]  # fmt: skip

    @pytest.mark.parametrize("chunk_size", [1, 4])
    def test_workers_share_the_indices_in_chunks(self, chunk_size):
        dataset = ToIterableDataset(
            DatasetFromList(list(range(13))), InferenceSampler(13), shard_chunk_size=chunk_size
        )
        assert list(dataset) == list(range(13))
        loader = DataLoader(dataset, batch_size=chunk_size, num_workers=2)
        batches = [batch.tolist() for batch in loader]
        expected = [list(range(i, min(i + chunk_size, 13))) for i in range(0, 13, chunk_size)]
        assert sorted(batches) == expected
        assert len(dataset) == 13

    def test_groups_by_aspect_ratio(self):
        sizes = [(2, 1), (1, 2), (3, 1), (1, 1), (1, 3), (5, 1)]
        elements = [{"width": width, "height": height} for width, height in sizes]
        batches = list(AspectRatioGroupedDataset(elements, 2))
        assert batches == [[elements[0], elements[2]], [elements[1], elements[3]]]


class TestSamplers:
    def test_training_order(self):
        assert first(TrainingSampler(7, seed=42), 14) == [1, 6, 3, 5, 4, 0, 2, 5, 3, 2, 4, 0, 1, 6]

    def test_training_seed_comes_from_numpy_if_none_is_given(self):
        np.random.seed(3)  # noqa: NPY002
        assert first(TrainingSampler(7), 7) == [1, 5, 2, 0, 3, 6, 4]

    def test_processes_share_one_training_order(self, monkeypatch):
        whole = first(TrainingSampler(7, seed=42), 12)
        monkeypatch.setattr(comm, "get_world_size", lambda: 3)
        for rank in range(3):
            monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
            assert first(TrainingSampler(7, seed=42), 4) == whole[rank::3]

    def test_inference_gives_every_index_once(self, monkeypatch):
        assert list(InferenceSampler(5)) == [0, 1, 2, 3, 4]
        monkeypatch.setattr(comm, "get_world_size", lambda: 3)
        parts = []
        for rank in range(3):
            monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
            sampler = InferenceSampler(8)
            parts.append(list(sampler))
            assert len(sampler) == len(parts[-1])
        assert parts == [[0, 1, 2], [3, 4, 5], [6, 7]]

    def test_sizes_are_checked(self):
        with pytest.raises(ValueError, match="positive"):
            TrainingSampler(0)


class TestImages:
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_are_read_upright(self, orientation, tmp_path):
        pixels = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
        image = Image.fromarray(pixels)
        exif = image.getexif()
        exif[274] = orientation
        image.save(tmp_path / "a.png", exif=exif)
        upright = {
            1: pixels,
            2: pixels[:, ::-1],
            3: pixels[::-1, ::-1],
            4: pixels[::-1],
            5: pixels.T,
            6: pixels[::-1].T,
            7: pixels[::-1, ::-1].T,
            8: pixels.T[::-1],
        }
        read = utils.read_image(str(tmp_path / "a.png"), "L")
        assert read.shape[2] == 1
        np.testing.assert_array_equal(read[:, :, 0], upright[orientation])

    def test_are_read_in_the_format_requested(self, tmp_path):
        pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3) * 10
        path = str(tmp_path / "a.png")
        Image.fromarray(pixels).save(path)
        np.testing.assert_array_equal(utils.read_image(path, "RGB"), pixels)
        np.testing.assert_array_equal(utils.read_image(path, "BGR"), pixels[:, :, ::-1])
        np.testing.assert_array_equal(utils.read_image(path), pixels)
        with pytest.raises(FileNotFoundError):
            utils.read_image(str(tmp_path / "b.png"))

    def test_are_converted_to_rgb(self):
        pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3) * 10
        np.testing.assert_array_equal(utils.convert_image_to_rgb(pixels, "BGR"), pixels[..., ::-1])
        rgb = utils.convert_image_to_rgb(pixels.astype(np.float32), "RGB")
        np.testing.assert_array_equal(rgb, pixels)
        grey = utils.convert_image_to_rgb(pixels[:, :, :1], "L")
        np.testing.assert_array_equal(grey, np.repeat(pixels[:, :, :1], 3, axis=2))
