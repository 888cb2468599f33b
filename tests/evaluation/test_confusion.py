"""Confusion matrices and metrics, against NumPy and Detectron2's evaluator."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2_ctxseg.evaluation.confusion import (
    boundary,
    confusion_matrix,
    image_metrics,
    iou_per_class,
    segmentation_metrics,
    smallest_label_type,
)


def random_labels(shape, num_classes, seed, patch=4):
    """Patches of random labels, some of them ``num_classes``, "ignored"."""
    grid = [-(-length // patch) for length in shape]
    labels = np.random.default_rng(seed).integers(0, num_classes + 1, grid)
    labels = np.kron(labels, np.ones((patch, patch), labels.dtype))[: shape[0], : shape[1]]
    return labels.astype(smallest_label_type(num_classes))


def plain_confusion(prediction, ground_truth, num_classes):
    matrix = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    np.add.at(matrix, (prediction.astype(int).ravel(), ground_truth.astype(int).ravel()), 1)
    return matrix


class TestConfusionMatrix:
    @settings(deadline=None, max_examples=40)
    @given(
        st.sampled_from([1, 2, 19, 150, 255, 256, 847]),
        st.tuples(st.integers(0, 40), st.integers(1, 40)),
        st.integers(0, 2**16),
    )
    def test_counts_every_pair(self, num_classes, shape, seed):
        prediction = random_labels(shape, num_classes, seed)
        ground_truth = random_labels(shape, num_classes, seed + 1)
        matrix = confusion_matrix(prediction, ground_truth, num_classes)
        assert matrix.dtype == np.int64
        assert np.array_equal(matrix, plain_confusion(prediction, ground_truth, num_classes))

    def test_is_exact_where_single_precision_is_not(self):
        labels = np.ones((4100, 4100), np.uint8)
        assert labels.size > 2**24
        labels[0, :3] = 0
        matrix = confusion_matrix(labels, labels, 2)
        assert matrix.tolist() == [[3, 0, 0], [0, 4100**2 - 3, 0], [0, 0, 0]]

    def test_a_strided_label_map_is_counted_too(self):
        labels = random_labels((20, 30), 5, 0)
        flipped = labels[:, ::-2]
        expected = plain_confusion(flipped, flipped, 5)
        assert np.array_equal(confusion_matrix(flipped, flipped, 5), expected)

    def test_bad_input_is_refused(self):
        labels = np.zeros((4, 4), np.uint8)
        with pytest.raises(ValueError, match="one type and one shape"):
            confusion_matrix(labels, labels[:2], 3)
        with pytest.raises(ValueError, match="one type and one shape"):
            confusion_matrix(labels, labels.astype(np.uint16), 3)
        with pytest.raises(ValueError, match="labels above 3"):
            confusion_matrix(labels + 4, labels, 3)


class TestMetrics:
    # 0 is found in half of its 4 pixels, 1 in all of its 2; 2 is predicted once and never true.
    confusion = np.array([[2, 0, 0, 5], [1, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    names = ["a", "b", "c"]

    def test_by_hand(self):
        metrics = segmentation_metrics(self.confusion, self.names)
        assert metrics["IoU-a"] == pytest.approx(100 * 2 / 4)
        assert metrics["IoU-b"] == pytest.approx(100 * 2 / 3)
        assert np.isnan(metrics["IoU-c"]) and np.isnan(metrics["ACC-c"])
        assert metrics["mIoU"] == pytest.approx(50 * (2 / 4 + 2 / 3))
        assert metrics["fwIoU"] == pytest.approx(100 * (4 / 6 * 2 / 4 + 2 / 6 * 2 / 3))
        assert metrics["mACC"] == pytest.approx(50 * (2 / 4 + 1))
        assert metrics["pACC"] == pytest.approx(100 * 4 / 6)
        assert list(metrics)[:2] == ["mIoU", "fwIoU"]

    def test_a_class_that_is_only_predicted_may_count_as_0(self):
        """As mmsegmentation has it: mIoU alone changes, and what nobody names stays out."""
        usual = segmentation_metrics(self.confusion, self.names)
        metrics = segmentation_metrics(self.confusion, self.names, None, "zero_if_predicted")
        assert metrics["IoU-c"] == 0 and np.isnan(metrics["ACC-c"])
        assert metrics["mIoU"] == pytest.approx(100 * (2 / 4 + 2 / 3 + 0) / 3)
        for name in ("fwIoU", "mACC", "pACC", "IoU-a", "IoU-b"):
            assert metrics[name] == usual[name]
        neither = self.confusion.copy()
        neither[2, 0] = 0
        metrics = segmentation_metrics(neither, self.names, None, "zero_if_predicted")
        assert np.isnan(metrics["IoU-c"])
        assert metrics["mIoU"] == pytest.approx(50 * (2 / 3 + 2 / 3))

    def test_predictions_at_ignored_pixels_do_not_count(self):
        ignored_only = np.array([[2, 0, 0], [0, 0, 9], [0, 0, 0]])
        metrics = segmentation_metrics(ignored_only, ["a", "b"], None, "zero_if_predicted")
        assert metrics["mIoU"] == 100 and np.isnan(metrics["IoU-b"])

    def test_an_unknown_rule_is_refused(self):
        with pytest.raises(ValueError, match="absent_classes is 'zero', expected one of"):
            segmentation_metrics(self.confusion, self.names, None, "zero")

    def test_of_one_image(self):
        metrics = image_metrics(self.confusion)
        assert metrics == pytest.approx({"mIoU": 50 * (2 / 4 + 2 / 3), "pACC": 100 * 4 / 6})
        assert all(np.isnan(value) for value in image_metrics(np.zeros((4, 4))).values())

    def test_a_class_that_is_only_predicted_has_an_iou_of_zero(self):
        assert iou_per_class(self.confusion[:-1, :-1])[2] == 0
        assert np.isnan(iou_per_class(np.zeros((2, 2)))).all()


def test_a_boundary_is_a_band_along_the_edges():
    labels = np.full((100, 100), 7, np.uint8)
    edge = boundary(labels)
    distance = round(0.02 * np.sqrt(2) * 100)
    assert (edge[distance:-distance, distance:-distance] == 0).all()
    assert (edge[:distance] == 7).all() and (edge[:, -distance:] == 7).all()
