"""The parts of the report: reading, confusions, images, markup, charts."""

import math
import re

import numpy as np
import pytest
from data_folders import write_image
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies
from jinja2 import UndefinedError
from PIL import Image
from report_runs import Page, decoded_image, write_dataset, write_lines, write_run

from d2_ctxseg.report.charts import Series, axes_of, heat_map, histogram, line_chart, ticks
from d2_ctxseg.report.classes import DatasetClasses
from d2_ctxseg.report.confusion import (
    counted,
    most_confused,
    shares_of_ground_truth,
    top_confusions,
)
from d2_ctxseg.report.example_images import draw_errors, draw_example
from d2_ctxseg.report.html import format_number, number_cell, render
from d2_ctxseg.report.run import Example, read_run


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture
def run(tmp_path, dataset):
    return write_run(tmp_path / "run", dataset)


class TestReading:
    def test_a_resumed_run_counts_what_came_last(self, run, dataset):
        lines = [(0, 5.0), (20, 4.0), (40, 9.0), (20, 3.0), (40, 2.0)]
        write_lines(run, [{"iteration": i, "total_loss": v} for i, v in lines])
        assert read_run(run).curves["total_loss"] == {0: 5.0, 20: 3.0, 40: 2.0}

    def test_a_line_that_was_cut_off_at_the_end_is_passed_over(self, run):
        with (run / "metrics.json").open("a") as file:
            file.write('{"iteration": 120, "total_l')
        assert max(read_run(run).curves["total_loss"]) == 80

    def test_scores_get_the_name_of_the_only_dataset(self, run, dataset):
        assert read_run(run).curves[f"{dataset[1]}/sem_seg/mIoU"] == {50: 50.0, 100: 100.0}

    def test_single_scale_comes_first(self, tmp_path, dataset):
        tasks = ("sem_seg_TTA", "other", "sem_seg_EMA", "sem_seg")
        run = read_run(write_run(tmp_path / "run", dataset, tasks=tasks))
        found = list(run.evaluations[dataset[1]])
        assert found == ["sem_seg", "sem_seg_EMA", "sem_seg_TTA", "other"]


counts_of_pixels = numpy_strategies.arrays(
    np.int64, st.integers(1, 5).map(lambda n: (n, n)), elements=st.integers(0, 9)
)


class TestConfusions:
    def test_rows_become_the_truth_and_ignored_pixels_go(self):
        matrix = np.array([[5, 1, 7], [2, 6, 7], [7, 7, 7]])
        np.testing.assert_array_equal(counted(matrix), [[5, 2], [1, 6]])

    @given(counts=counts_of_pixels, number=st.integers(1, 30))
    @settings(max_examples=40, deadline=None)
    def test_the_largest_are_those_of_a_plain_search(self, counts, number):
        pairs = [
            (pixels, pixels / counts[t].sum())
            for (t, p), pixels in np.ndenumerate(counts)
            if t != p and pixels
        ]
        for by, place in (("pixels", 0), ("share", 1)):
            found = top_confusions(counts, number, by=by)
            expected = sorted((pair[place] for pair in pairs), reverse=True)[:number]
            assert [getattr(item, by) for item in found] == pytest.approx(expected)
            for item in found:
                assert item.ground_truth != item.predicted
                assert item.pixels == counts[item.ground_truth, item.predicted]
                assert item.share == pytest.approx(item.pixels / counts[item.ground_truth].sum())

    @given(counts=counts_of_pixels, number=st.integers(1, 6))
    @settings(max_examples=40, deadline=None)
    def test_the_most_confused_classes_have_the_most_wrong_pixels(self, counts, number):
        wrong = [
            sum(counts[i, j] + counts[j, i] for j in range(len(counts)) if j != i)
            for i in range(len(counts))
        ]
        occurring = [i for i in range(len(counts)) if counts[i].any() or counts[:, i].any()]
        chosen = most_confused(counts, number).tolist()
        assert chosen == sorted(set(chosen)) and set(chosen) <= set(occurring)
        assert len(chosen) == min(number, len(occurring))
        left = [wrong[i] for i in occurring if i not in chosen]
        assert not left or max(left) <= min(wrong[i] for i in chosen)

    @given(counts=counts_of_pixels)
    @settings(max_examples=20, deadline=None)
    def test_shares_of_a_class_add_up_to_one(self, counts):
        sums = shares_of_ground_truth(counts).sum(axis=1)
        np.testing.assert_allclose(sums, counts.any(axis=1).astype(float))


class TestImages:
    COLORS = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]

    @pytest.fixture
    def example(self, tmp_path):
        """The left half is correct, the right half wrong, and the lowest rows are ignored."""
        ground_truth = np.zeros((40, 60), np.uint8)
        ground_truth[:, 30:], ground_truth[30:] = 2, 255
        write_image(tmp_path / "image.png", np.full((40, 60, 3), 120, np.uint8))
        write_image(tmp_path / "truth.png", ground_truth)
        prediction = np.where(ground_truth == 255, 0, ground_truth)
        prediction[:, 30:] = 1
        path = write_image(tmp_path / "prediction.png", prediction.astype(np.uint8))
        names = [str(tmp_path / name) for name in ("image.png", "truth.png")]
        return Example(*names, 50.0, "worst", path)

    @pytest.fixture
    def classes(self):
        def load(path):
            return np.array(Image.open(path)).astype(np.int64)

        return DatasetClasses(["a", "b", "c"], self.COLORS, load)

    def test_show_labels_in_the_classes_colours(self, example, classes):
        panels = draw_example(example, classes, 10**6).panels
        assert list(panels) == ["image", "ground truth", "prediction", "errors"]
        ground_truth, prediction = (
            decoded_image(panels["ground truth"]),
            decoded_image(panels["prediction"]),
        )
        assert (ground_truth[:30, :30] == self.COLORS[0]).all()
        assert (ground_truth[:30, 30:] == self.COLORS[2]).all()
        assert (prediction[:30, 30:] == self.COLORS[1]).all()
        hatch = ground_truth[30:].reshape(-1, 3)
        assert len(np.unique(hatch, axis=0)) == 2 and (np.ptp(hatch, axis=1) == 0).all()

    def test_name_what_was_confused(self, example, classes):
        drawn = draw_example(example, classes, 10**6)
        (confusion,) = drawn.confusions
        assert (confusion.ground_truth, confusion.predicted, confusion.pixels) == (2, 1, 900)
        assert confusion.share == drawn.accuracy == 0.5
        assert drawn.shown_classes == [0, 1, 2] and drawn.note is None
        assert drawn.has_ignored

    def test_mark_wrong_pixels_and_no_others(self):
        rng = np.random.default_rng(0)
        ground_truth, prediction = rng.choice([0, 1, 2, 255], (2, 20, 30))
        image = rng.integers(0, 256, (20, 30, 3), np.uint8)
        drawing = draw_errors(image, ground_truth, prediction, 3).astype(int)
        is_orange = drawing[:, :, 0] > drawing[:, :, 2] + 50
        np.testing.assert_array_equal(
            is_orange, (ground_truth != 255) & (ground_truth != prediction)
        )

    def test_shrink_to_what_they_may_take(self, example, classes, tmp_path):
        rng = np.random.default_rng(0)
        write_image(tmp_path / "image.png", rng.integers(0, 256, (600, 900, 3), np.uint8))
        labels = np.kron(rng.integers(0, 3, (60, 90)), np.ones((10, 10))).astype(np.uint8)
        for name in ("truth.png", "prediction.png"):
            write_image(tmp_path / name, labels)
        large = draw_example(example, classes, 10**7).panels
        small = draw_example(example, classes, 100_000).panels
        assert sum(map(len, small.values())) < sum(map(len, large.values()))
        assert decoded_image(large["image"]).shape == (320, 480, 3)
        assert {decoded_image(panel).shape[1] for panel in small.values()} < {240, 360, 480}

    def test_of_another_size_are_left_out(self, example, classes, tmp_path):
        write_image(tmp_path / "truth.png", np.zeros((10, 10), np.uint8))
        drawn = draw_example(example, classes, 10**6)
        assert list(drawn.panels) == ["image", "prediction"]
        assert drawn.note == "The ground truth is 10x10 pixels, the prediction 60x40."

    def test_without_a_prediction_there_is_none(self, example, classes):
        example.prediction.unlink()
        drawn = draw_example(example, classes, 10**6)
        assert drawn.panels == {} and str(example.prediction) in drawn.note

    def test_of_more_classes_than_a_palette_holds(self, example, tmp_path):
        colors = np.stack(np.unravel_index(np.arange(600), (10, 10, 10)), axis=1) * 25
        labels = np.arange(2400).reshape(40, 60) % 600
        write_image(tmp_path / "prediction.png", labels.astype(np.uint16))
        classes = DatasetClasses([str(i) for i in range(600)], colors.tolist(), None, "No truth.")
        drawn = draw_example(example, classes, 10**6)
        np.testing.assert_array_equal(decoded_image(drawn.panels["prediction"]), colors[labels])
        assert drawn.note == "No truth."

    def test_without_labelled_pixels_have_no_accuracy(self, example, classes, tmp_path):
        write_image(tmp_path / "truth.png", np.full((40, 60), 255, np.uint8))
        drawn = draw_example(example, classes, 10**6)
        assert drawn.accuracy is None and drawn.confusions == []


class TestHtml:
    @pytest.fixture(scope="class")
    def template(self, tmp_path_factory):
        path = tmp_path_factory.mktemp("templates") / "page.html"
        path.write_text('<p title="{{ text }}">{{ text }}</p>')
        return path

    @given(text=st.text())
    @settings(max_examples=50, deadline=None)
    def test_any_text_survives_as_content_and_as_attribute(self, template, text):
        # A parser makes line ends uniform and cannot show NUL.
        text = re.sub(r"[\r\x00]", "", text)
        shown = Page(render(template, text=text))
        assert shown.tags == [("p", {"title": text})]
        assert "".join(shown.texts) == text

    def test_what_a_template_needs_must_be_there(self, template):
        with pytest.raises(UndefinedError, match="text"):
            render(template)

    @pytest.mark.parametrize(
        ("value", "text"), [(1234.5, "+1,234.50"), (-0.001, "0.00"), (-2, "−2.00"), (math.nan, "–")]
    )
    def test_numbers_are_written_for_people(self, value, text):
        assert format_number(value, signed=True) == text

    def test_changes_have_a_colour(self):
        classes = [number_cell(v, signed=True).split('"')[1] for v in (1, -1, 0.001, math.nan)]
        assert classes == ["number gain", "number loss", "number", "number"]


class TestCharts:
    @given(low=st.floats(-1e6, 1e6), width=st.floats(1e-3, 1e6))
    @settings(max_examples=60, deadline=None)
    def test_ticks_are_few_and_within_the_axis(self, low, width):
        values = ticks(low, low + width)
        assert 1 <= len(values) <= 6
        margin = 1e-6 * (width + abs(low))
        assert all(low - margin <= value <= low + width + margin for value in values)

    @given(
        x=st.lists(st.floats(0, 1e6), min_size=1, max_size=5),
        y=st.lists(st.floats(-1e7, 1e7), min_size=1, max_size=5),
    )
    @settings(max_examples=60, deadline=None)
    def test_axes_have_room_for_their_numbers_and_one_at_the_end(self, x, y):
        axes = axes_of(np.array(x), np.array(y), 420, 220)
        longest = max(len(text) for _, text in axes.y_ticks)
        assert axes.x.start - 6 >= 6 * longest  # about 6 pixels a letter
        places = [place for place, _ in axes.x_ticks]
        assert places[-1] == axes.x(max(x)) and places == sorted(places)
        widths = [6 * len(text) for _, text in axes.x_ticks]
        gaps = zip(places, places[1:], widths, widths[1:])
        assert all(b - a > (left + right) / 2 for a, b, left, right in gaps)

    def test_lines_lie_within_the_image(self):
        (line,) = line_chart([Series("loss", 0, [0, 10, 20], [5.0, -3.0, 1.0])]).marks
        points = [tuple(map(float, p.split(","))) for p in line["points"].split()]
        assert points[0][1] < points[2][1] < points[1][1]  # higher values are further up
        assert all(0 <= x <= 420 and 0 <= y <= 220 for x, y in points)
        assert line["dots"] == []

    def test_long_lines_are_thinned_to_means(self):
        x = np.arange(30_000)
        (line,) = line_chart([Series("loss", 0, x, np.where(x % 2, 1.0, 3.0))]).marks
        points = line["points"].split()
        assert len(points) == 300
        assert len({point.split(",")[1] for point in points}) == 1  # the mean is 2 everywhere

    @pytest.mark.parametrize("values", [[], [math.nan, math.inf]])
    def test_there_is_no_chart_of_nothing(self, values):
        assert line_chart([Series("loss", 0, range(len(values)), values)]) is None

    def test_a_single_point_and_a_flat_line_can_be_seen(self):
        assert len(line_chart([Series("loss", 0, [5], [2.0])]).marks[0]["dots"]) == 1
        assert "nan" not in line_chart([Series("loss", 0, [5, 6], [0.0, 0.0])]).marks[0]["points"]

    def test_a_histogram_counts_every_value(self):
        titles = [bar["title"] for bar in histogram([0, 2, 50, 100, 100]).marks]
        assert len(titles) == 20
        assert titles[0] == "0 to 5: 2" and titles[-1] == "95 to 100: 2"

    def test_a_heat_map_marks_the_diagonal_and_leaves_zeros_empty(self):
        values = np.array([[0.9, 0.1], [0.0, 1.0]])
        chart = heat_map(values, ["a", "b"], lambda row, column: f"{row} as {column}")
        kinds = {mark["title"]: mark["kind"] for mark in chart.marks if "title" in mark}
        assert kinds == {"0 as 0": "hit strong", "0 as 1": "miss", "1 as 1": "hit strong"}

    def test_a_heat_map_of_few_classes_is_not_tiny(self):
        sizes = [
            heat_map(np.eye(n), ["name"] * n, lambda row, column: "").width for n in (2, 5, 10, 30)
        ]
        assert sizes == sorted(sizes) and sizes[1] > 300
