"""From records to the tensors a segmentor takes."""

import pickle

import numpy as np
import pytest
import torch
from data_folders import IGNORE, write_image, write_pairs, write_yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from d2_ctxseg import add_ctxseg_config
from d2_ctxseg.data import (
    DatasetError,
    LabelFormat,
    PadToSize,
    SemanticSegmentorMapper,
    register_folder_dataset,
)
from d2_ctxseg.data.images import upright
from d2_ctxseg.data.mapper import build_resize
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog
from detectron2.data import transforms as T


def make_config(*options, train=()):
    cfg = get_cfg()
    add_ctxseg_config(cfg)
    cfg.DATASETS.TRAIN = train
    cfg.INPUT.MIN_SIZE_TRAIN = (12,)
    cfg.INPUT.MIN_SIZE_TEST = 0
    cfg.INPUT.RANDOM_FLIP = "none"
    cfg.merge_from_list(list(options))
    return cfg


def make_mapper(augmentations=(), ignore_value=IGNORE, **formats):
    return SemanticSegmentorMapper(
        is_train=True,
        augmentations=list(augmentations),
        image_format="BGR",
        ignore_value=ignore_value,
        label_formats=formats or {"data": LabelFormat(3, IGNORE)},
    )


def write_record(folder, image, label, name="data"):
    return {
        "file_name": str(write_image(folder / "image.png", image)),
        "sem_seg_file_name": str(write_image(folder / "label.png", label)),
        "dataset_name": name,
    }


@pytest.fixture
def dataset(tmp_path):
    """(name, labels) of a registered dataset with two images of 12x16 pixels."""
    labels = write_pairs(tmp_path, ["a", "b"])
    [name] = register_folder_dataset(write_yaml(tmp_path))
    return name, labels


def test_training_gives_image_and_label(dataset):
    name, labels = dataset
    mapper = SemanticSegmentorMapper(make_config(train=(name,)), is_train=True)
    record = DatasetCatalog.get(name)[1]
    result = mapper(record)
    assert result["image"].shape == (3, 12, 16)
    assert result["image"].dtype == torch.uint8
    assert result["sem_seg"].dtype == torch.int64
    np.testing.assert_array_equal(result["sem_seg"], labels[1])
    assert (result["height"], result["width"]) == (12, 16)
    assert result["file_name"] == record["file_name"]
    assert "image" not in record, "the dataset's own record must not change"


def test_images_without_labels_are_predicted_and_not_trained_on(tmp_path):
    write_pairs(tmp_path, ["a"])
    [name] = register_folder_dataset(write_yaml(tmp_path, splits={"test": {"images": "images"}}))
    [record] = DatasetCatalog.get(name)
    assert SemanticSegmentorMapper(make_config(), is_train=False)(record)["image"].shape[0] == 3
    with pytest.raises(DatasetError, match=f"DATASETS.TRAIN names '{name}'.* no labels"):
        SemanticSegmentorMapper(make_config(train=(name,)), is_train=True)
    with pytest.raises(DatasetError, match=r"a\.png has no label, so it cannot be trained on"):
        make_mapper()(record)


def test_testing_leaves_the_label_out_and_does_not_even_read_it(dataset):
    name, _ = dataset
    record = DatasetCatalog.get(name)[0]
    record["sem_seg_file_name"] = "nowhere.png"
    result = SemanticSegmentorMapper(make_config(), is_train=False)(record)
    assert "sem_seg" not in result
    assert result["image"].shape == (3, 12, 16)


def test_testing_resizes_the_image_and_keeps_its_size_on_disk(dataset):
    name, _ = dataset
    cfg = make_config("INPUT.MIN_SIZE_TEST", 24, "INPUT.MAX_SIZE_TEST", 100)
    result = SemanticSegmentorMapper(cfg, is_train=False)(DatasetCatalog.get(name)[0])
    assert result["image"].shape == (3, 24, 32)
    assert (result["height"], result["width"]) == (12, 16)


@pytest.mark.parametrize("image_format", ["BGR", "RGB"])
def test_the_channels_come_in_the_order_of_the_config(tmp_path, image_format):
    image = np.zeros((4, 4, 3), np.uint8)
    image[..., 0] = 200  # red on disk
    record = {"file_name": str(write_image(tmp_path / "image.png", image))}
    cfg = make_config("INPUT.FORMAT", image_format)
    result = SemanticSegmentorMapper(cfg, is_train=False)(record)
    assert result["image"][image_format.index("R")].eq(200).all()


def test_the_ignore_label_of_the_dataset_becomes_the_ignore_value(tmp_path):
    label = np.array([[0, 1, 11], [11, 2, 0]], np.uint8)
    record = write_record(tmp_path, np.zeros((2, 3, 3), np.uint8), label)
    result = make_mapper(data=LabelFormat(3, 11))(record)
    assert result["sem_seg"].tolist() == [[0, 1, 255], [255, 2, 0]]


@pytest.mark.parametrize("ignore_value", [-100, 65535])
def test_ignore_values_and_classes_beyond_a_byte(tmp_path, ignore_value):
    label = np.array([[0, 299], [65535, 255]], np.uint16)
    record = write_record(tmp_path, np.zeros((2, 2, 3), np.uint8), label)
    mapper = make_mapper(
        [T.ResizeTransform(2, 2, 4, 4)], ignore_value, data=LabelFormat(300, 65535)
    )
    row = [[0, 0, 299, 299]] * 2 + [[ignore_value, ignore_value, 255, 255]] * 2
    assert mapper(record)["sem_seg"].tolist() == row


def test_an_ignore_value_that_is_a_class_is_refused():
    with pytest.raises(ValueError, match="255 is the index of a class.*IGNORE_VALUE"):
        make_mapper(data=LabelFormat(300, 65535))


def test_each_record_is_read_the_way_of_its_own_dataset(tmp_path):
    label, image = np.array([[7, 8]], np.uint8), np.zeros((1, 2, 3), np.uint8)
    mapper = make_mapper(
        one=LabelFormat(2, 255, {7: 0, 8: 255}), other=LabelFormat(2, 255, {7: 1, 8: 0})
    )
    assert mapper(write_record(tmp_path, image, label, "one"))["sem_seg"].tolist() == [[0, 255]]
    assert mapper(write_record(tmp_path, image, label, "other"))["sem_seg"].tolist() == [[1, 0]]
    with pytest.raises(DatasetError, match="DATASETS.TRAIN"):
        mapper(write_record(tmp_path, image, label, "third"))


def test_records_without_the_name_of_their_dataset(tmp_path):
    image, label = np.zeros((1, 2, 3), np.uint8), np.array([[0, 1]], np.uint8)
    record = write_record(tmp_path, image, label)
    del record["dataset_name"]
    same = make_mapper(a=LabelFormat(2, 255), b=LabelFormat(2, 255))
    assert same(record)["sem_seg"].tolist() == [[0, 1]]
    different = make_mapper(a=LabelFormat(2, 255), b=LabelFormat(3, 255))
    with pytest.raises(DatasetError, match="'dataset_name'"):
        different(record)


class TestTurnedImages:
    """Photographs are rotated by their EXIF orientation, as in Detectron2."""

    def record(self, folder, number, label):
        exif = Image.Exif()
        exif[0x0112] = number
        image = np.arange(6, dtype=np.uint8).reshape(2, 3)
        record = write_record(folder, image, label)
        Image.fromarray(np.stack([image] * 3, -1)).save(record["file_name"], exif=exif)
        return record

    @pytest.mark.parametrize("number", range(1, 9))
    def test_match_labels_that_lie_on_the_upright_image(self, tmp_path, number):
        stored = np.array([[0, 1, 2], [2, 0, 1]], np.uint8)
        record = self.record(tmp_path, number, upright(stored, number))
        result = make_mapper()(record)
        image, label = result["image"][0].numpy(), result["sem_seg"].numpy()
        assert (result["height"], result["width"]) == image.shape == label.shape
        # The image counts its pixels in the order in which they are stored.
        assert label.flatten()[np.argsort(image.flatten())].tolist() == stored.flatten().tolist()

    def test_refuse_labels_that_lie_on_the_pixels_as_they_are_stored(self, tmp_path):
        record = self.record(tmp_path, 6, np.zeros((2, 3), np.uint8))
        with pytest.raises(DatasetError, match=r"has 2x3 pixels, but its label .* 3x2.*EXIF"):
            make_mapper()(record)


class TestErrors:
    def test_values_outside_the_classes(self, tmp_path):
        record = write_record(
            tmp_path, np.zeros((1, 3, 3), np.uint8), np.array([[0, 3, 9]], np.uint8)
        )
        with pytest.raises(DatasetError, match=r"label\.png holds the values 3, 9"):
            make_mapper()(record)

    def test_sizes_that_differ(self, tmp_path):
        record = write_record(tmp_path, np.zeros((4, 5, 3), np.uint8), np.zeros((4, 4), np.uint8))
        with pytest.raises(DatasetError, match=r"image\.png has 5x4 .*label\.png has 4x4"):
            make_mapper()(record)

    @pytest.mark.parametrize("content", [b"junk", b"", None])
    def test_an_image_that_cannot_be_read(self, tmp_path, content):
        path = tmp_path / "image.jpg"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(DatasetError, match=r"Cannot read the image .*image\.jpg"):
            make_mapper()({"file_name": str(path)})

    def test_a_dataset_that_is_not_registered(self):
        cfg = make_config(train=("camvid_sem_seg_trian",))
        with pytest.raises(DatasetError, match="Did you mean 'camvid_sem_seg_train'"):
            SemanticSegmentorMapper(cfg, is_train=True)


class TestAugmentationsOfTheConfig:
    def kinds(self, *options):
        mapper = SemanticSegmentorMapper(make_config(*options), is_train=True)
        return [type(augmentation).__name__ for augmentation in mapper.augmentations.augs]

    def test_resize_alone(self):
        assert self.kinds() == ["ResizeShortestEdge"]

    def test_all_in_the_order_of_the_papers(self):
        assert self.kinds(
            *["INPUT.RATIO_RANGE", (0.5, 2.0), "INPUT.CROP.ENABLED", True],
            *["INPUT.CROP.TYPE", "absolute", "INPUT.CROP.SIZE", [8, 8]],
            *["INPUT.RANDOM_FLIP", "horizontal", "INPUT.COLOR_AUG_SSD", True],
        ) == [
            "ResizeAndCrop",
            "RandomFlip",
            "PhotometricDistortion",
            "PadToSize",
        ]

    def test_those_of_protoseg(self):
        mapper = SemanticSegmentorMapper(
            make_config("INPUT.ASPECT_RANGE", (0.9, 1.1), "INPUT.BRIGHTNESS_SHIFT", 10),
            is_train=True,
        )
        resize, shift = mapper.augmentations.augs
        assert type(resize).__name__ == "ResizeRatioRange"
        assert (resize.ratio_range, resize.aspect_range) == ((1.0, 1.0), (0.9, 1.1))
        assert type(shift).__name__ == "BrightnessShift" and shift.max_shift == 10

    def test_padding_needs_an_absolute_crop(self):
        assert "PadToSize" not in self.kinds("INPUT.CROP.ENABLED", True)
        absolute = ["INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", "absolute"]
        absolute += ["INPUT.CROP.SIZE", [8, 8]]
        assert "PadToSize" in self.kinds(*absolute)
        assert "PadToSize" not in self.kinds(*absolute, "INPUT.PAD_TO_CROP", False)

    def test_the_crop_avoids_a_single_category_other_than_the_ignored_one(self, tmp_path):
        # Left half: one class. Right half: two classes in the same number.
        label = np.zeros((8, 32), np.uint8)
        label[:4, 16:] = 1
        image = np.zeros((8, 32, 3), np.uint8)
        [name] = register_folder_dataset(write_yaml(tmp_path))
        record = write_record(tmp_path, image, label, name)
        cfg = make_config(
            *["INPUT.MIN_SIZE_TRAIN", (8,), "INPUT.CROP.ENABLED", True],
            *["INPUT.CROP.TYPE", "absolute", "INPUT.CROP.SIZE", [8, 8]],
            *["INPUT.CROP.SINGLE_CATEGORY_MAX_AREA", 0.75],
            train=(name,),
        )
        mapper = SemanticSegmentorMapper(cfg, is_train=True)
        np.random.seed(0)  # noqa: NPY002 (what Detectron2 seeds)
        crops = [mapper(record)["sem_seg"].flatten() for _ in range(30)]
        assert np.mean([crop.bincount().max() < 0.75 * 64 for crop in crops]) > 0.9
        assert mapper.augmentations.augs[0].ignored_category == IGNORE

    @pytest.mark.parametrize(("flip", "axis"), [("horizontal", 1), ("vertical", 0)])
    def test_flips_image_and_label_alike(self, tmp_path, flip, axis):
        label = np.array([[0, 1], [2, 255]], np.uint8)
        [name] = register_folder_dataset(write_yaml(tmp_path))
        record = write_record(tmp_path, np.stack([label] * 3, -1), label, name)
        cfg = make_config("INPUT.RANDOM_FLIP", flip, "INPUT.MIN_SIZE_TRAIN", (2,), train=(name,))
        mapper = SemanticSegmentorMapper(cfg, is_train=True)
        seen = set()
        for _ in range(20):
            result = mapper(record)
            assert result["image"][0].tolist() == result["sem_seg"].tolist()
            seen.add(str(result["sem_seg"].tolist()))
        assert seen == {str(label.tolist()), str(np.flip(label, axis).tolist())}


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("image_format", ["BGR", "ALL"])
def test_the_config_gives_what_detectron2s_steps_give_with_the_same_seed(
    tmp_path, antialias, image_format
):
    generator = np.random.default_rng(0)
    label = generator.integers(0, 4, (12, 15), np.uint8).repeat(6, 0).repeat(6, 1)
    label[label == 3] = IGNORE
    image = generator.integers(0, 256, (*label.shape, 3), np.uint8)
    [name] = register_folder_dataset(write_yaml(tmp_path))
    record = write_record(tmp_path, image, label, name)
    cfg = make_config(
        *["INPUT.MIN_SIZE_TRAIN", (60, 80), "INPUT.MAX_SIZE_TRAIN", 200],
        *["INPUT.RATIO_RANGE", (0.5, 2.0), "INPUT.ASPECT_RANGE", (0.9, 1.1)],
        *["INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", "absolute", "INPUT.CROP.SIZE", [64, 48]],
        *["INPUT.CROP.SINGLE_CATEGORY_MAX_AREA", 0.4, "INPUT.RANDOM_FLIP", "horizontal"],
        *["INPUT.ANTIALIAS", antialias, "INPUT.FORMAT", image_format],
        train=(name,),
    )
    one = SemanticSegmentorMapper(cfg, is_train=True)
    steps = [
        build_resize(cfg),
        T.RandomCrop_CategoryAreaConstraint("absolute", (64, 48), 0.4, IGNORE),
        T.RandomFlip(),
        PadToSize((64, 48), cfg.MODEL.PIXEL_MEAN, IGNORE),
    ]
    two = SemanticSegmentorMapper(
        True,
        augmentations=steps,
        image_format=image_format,
        ignore_value=IGNORE,
        label_formats=one.label_formats,
    )
    for seed in range(25):
        results = []
        for mapper in (one, two):
            np.random.seed(seed)  # noqa: NPY002 (what Detectron2 seeds)
            results.append(mapper(record))
        found, expected = results
        assert found["sem_seg"].equal(expected["sem_seg"])
        assert found["image"].dtype == expected["image"].dtype
        difference = (found["image"].float() - expected["image"].float()).abs().max()
        assert difference <= (2 if image_format == "BGR" else 0.02)


class NearestResize(T.ResizeTransform):
    """Resizes images as labels."""

    def apply_image(self, img, interp=None):
        return super().apply_image(img, Image.NEAREST)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    size=st.tuples(st.integers(2, 30), st.integers(2, 30)),
    crop=st.tuples(st.integers(2, 24), st.integers(2, 24)),
    seed=st.integers(0, 2**31),
)
def test_augmented_images_and_labels_stay_together(tmp_path, size, crop, seed):
    """The image shows the label, so any misalignment would be seen."""
    label = np.random.default_rng(seed).choice([0, 1, 2, 11], size).astype(np.uint8)
    image = np.stack([label] * 3, -1)
    record = write_record(tmp_path, image, label)
    mapper = make_mapper(
        [
            NearestResize(*size, size[0] * 2, size[1] * 2),
            T.RandomCrop_CategoryAreaConstraint("absolute", crop, 0.75, IGNORE),
            T.RandomFlip(),
            PadToSize(crop, (77, 77, 77), IGNORE),
        ],
        data=LabelFormat(3, 11),
    )
    np.random.seed(seed)  # noqa: NPY002 (what Detectron2 seeds)
    result = mapper(record)
    image, label = result["image"][0].numpy(), result["sem_seg"].numpy()
    assert image.shape == label.shape == tuple(crop)
    padding = image == 77
    assert (label[padding] == IGNORE).all()
    assert set(np.unique(label)) <= {0, 1, 2, IGNORE}
    shown = np.where(image == 11, IGNORE, image)
    np.testing.assert_array_equal(label[~padding], shown[~padding])


def test_the_mapper_travels_to_worker_processes(dataset):
    name, _ = dataset
    mapper = SemanticSegmentorMapper(make_config(train=(name,)), is_train=True)
    record = DatasetCatalog.get(name)[0]
    copy = pickle.loads(pickle.dumps(mapper))
    assert copy(record)["sem_seg"].equal(mapper(record)["sem_seg"])
