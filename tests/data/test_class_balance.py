"""Median-frequency weights, counted in label files."""

import numpy as np
import pytest
from data_folders import write_image, write_yaml

from d2_ctxseg.data import DatasetError, register_folder_dataset
from d2_ctxseg.data.class_balance import (
    ClassPixels,
    balanced_class_weights,
    count_class_pixels,
    median_frequency_weights,
)


def test_weights_are_the_median_frequency_over_the_classes():
    counts = ClassPixels(np.array([80, 10, 10, 0]), np.array([100, 100, 50, 0]))
    # Frequencies 0.8, 0.1 and 0.2; the median is 0.2.
    assert median_frequency_weights(counts) == [0.25, 2.0, 1.0, 1.0]


def test_labels_without_a_class_are_refused():
    with pytest.raises(DatasetError, match="No class occurs"):
        median_frequency_weights(ClassPixels(np.zeros(3, int), np.zeros(3, int)))


def folder_dataset(folder, labels, **changes):
    """The registered name of a dataset with these label images; classes: road, tree, car."""
    for i, label in enumerate(labels):
        write_image(folder / f"images/{i}.png", np.zeros((*label.shape, 3), np.uint8))
        write_image(folder / f"labels/{i}.png", label)
    return register_folder_dataset(write_yaml(folder, **changes))


LABELS = [
    np.array([[0, 0, 1, 255]], np.uint8),
    np.array([[0, 0], [0, 0]], np.uint8),
]


def test_all_pixels_of_the_images_with_a_class_count_ignored_ones_too(tmp_path):
    counts = count_class_pixels(folder_dataset(tmp_path, LABELS))
    assert counts.pixels.tolist() == [6, 1, 0]
    assert counts.pixels_of_images.tolist() == [8, 4, 0]


def test_several_datasets_are_counted_together(tmp_path):
    names = folder_dataset(tmp_path / "one", LABELS[:1]) + folder_dataset(
        tmp_path / "other", LABELS[1:]
    )
    assert count_class_pixels(names).pixels_of_images.tolist() == [8, 4, 0]


def test_values_are_mapped_as_in_training(tmp_path):
    id_map = {0: 2, 1: "ignore", 255: "ignore"}
    names = folder_dataset(tmp_path, LABELS, id_map=id_map)
    assert count_class_pixels(names).pixels.tolist() == [0, 0, 6]


def test_a_class_that_never_occurs_is_reported(tmp_path, caplog):
    # Frequencies 6/8 and 1/4, median 1/2.
    assert balanced_class_weights(folder_dataset(tmp_path, LABELS)) == [0.666667, 2.0, 1.0]
    assert "get the weight 1: car." in caplog.text


def test_a_label_that_is_no_class_is_named_with_its_file(tmp_path):
    names = folder_dataset(tmp_path, [np.full((2, 2), 7, np.uint8)])
    with pytest.raises(DatasetError, match="0.png holds the value 7"):
        count_class_pixels(names)


def test_no_dataset_is_a_mistake():
    with pytest.raises(DatasetError, match="no labels"):
        count_class_pixels([])
