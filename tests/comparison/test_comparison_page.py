"""The page of a comparison: it is complete, escapes its input, and reports missing parts."""

import json
import re

import pytest
from report_runs import read_page
from study_runs import write_run

from d2_ctxseg.comparison import compare, read_planned, read_study
from d2_ctxseg.comparison.charts import Whisker, band_chart, whisker_chart
from d2_ctxseg.comparison.image_pairs import extreme_images
from d2_ctxseg.comparison.page import write_page
from d2_ctxseg.utils.files import write_json

HOSTILE = "<script>alert('1')</script> & co"


def written(tmp_path, folders):
    study = read_study(folders)
    return write_page(study, compare(study, num_resamples=200), tmp_path / "page.html")


def page_of(tmp_path, *folders):
    return written(tmp_path, folders).read_text(encoding="utf-8")


def without_date(text):
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "", text)


@pytest.fixture
def folders(tmp_path):
    curve = ((25, 30.0), (50, 50.0))
    return [
        write_run(tmp_path / f"{name}_{seed}", name, seed, accuracy, curve=curve)
        for name, accuracy in (("linear", 0.5), ("context_aware", 0.7))
        for seed in (1, 2)
    ]


def test_it_says_what_each_classifier_gains_and_shows_intervals_and_curves(tmp_path, folders):
    text = page_of(tmp_path, *folders)
    assert "gains 2" in text and "the baseline" in text
    assert text.count('class="chart whiskers"') == 4, "mIoU, mACC, pACC and classes"
    assert 'class="line band series-1"' in text
    assert text.count("<td") > 20


def test_results_have_spread_interval_and_number_of_seeds_that_gain(tmp_path, folders):
    page = read_page(written(tmp_path, folders))
    header, linear, other = page.tables["table 0"]
    assert header[:6] == ["classifier", "seeds", "mIoU", "Δ mIoU", "95 %", "seeds that gain"]
    assert linear[3] == "baseline"
    assert re.fullmatch(r"\d\d\.\d\d ± \d\.\d\d", other[2])
    assert re.fullmatch(r"[+−]\d+\.\d\d … \+\d+\.\d\d", other[4])
    assert other[5] == "2 of 2"


def test_one_seed_is_a_warning_at_the_top(tmp_path, folders):
    several, one = page_of(tmp_path, *folders), page_of(tmp_path, folders[0], folders[2])
    assert "one seed only: context_aware" in one[: one.index("<h2>")]
    assert "one seed alone" not in several


def test_a_seed_that_the_baseline_lacks_is_reported(tmp_path, folders):
    more = write_run(tmp_path / "more", "context_aware", 9, 0.7)
    assert "no run with seed 9" in page_of(tmp_path, *folders, more)


def test_runs_on_different_machines_are_not_to_be_compared_in_time(tmp_path):
    costs = [{"device": device, "threads": 1, "seconds_per_image": 1} for device in ("cpu", "GPU")]
    folders = [
        write_run(tmp_path / name, name, cost=cost)
        for name, cost in zip(("linear", "context_aware"), costs)
    ]
    assert "cannot be compared: the runs were on cpu, 1 thread; GPU, 1 thread." in page_of(
        tmp_path, *folders
    )


def test_runs_of_a_classifier_that_differ_in_more_than_the_seed_are_a_warning(tmp_path):
    runs = {
        "linear": [write_run(tmp_path / "a", seed=1, solver={"BASE_LR": 1})],
        "other": [
            write_run(tmp_path / f"b{seed}", seed=seed, solver={"BASE_LR": seed}) for seed in (1, 2)
        ],
    }
    study = read_planned(runs, "linear")
    text = write_page(study, compare(study, num_resamples=200), tmp_path / "page.html").read_text()
    assert "The runs of other differ in more than the seed: SOLVER.BASE_LR." in text


def test_without_evaluations_during_the_training_there_are_no_curves(tmp_path):
    folders = [
        write_run(tmp_path / name, name, curve=((50, 40.0),))
        for name in ("linear", "context_aware")
    ]
    text = page_of(tmp_path, *folders)
    assert "TEST.EVAL_PERIOD" in text and 'class="line band' not in text


def test_a_comparison_read_from_its_file_gives_the_same_page(tmp_path, folders):
    study = read_study(folders[::2])  # one seed: no standard deviation, null in the file
    content = compare(study, num_resamples=200)
    write_json(tmp_path / "comparison.json", content)
    again = json.loads((tmp_path / "comparison.json").read_text())
    pages = [
        write_page(study, some, tmp_path / "page.html").read_text() for some in (content, again)
    ]
    assert without_date(pages[0]) == without_date(pages[1])


def test_runs_are_listed_under_their_classifier(tmp_path, folders):
    text = page_of(tmp_path, *folders)
    runs = text[text.index('id="runs"') :]
    places = [runs.index(str(folder)) for folder in folders]
    assert places == sorted(places)


def test_it_needs_no_other_file(tmp_path, folders):
    text = page_of(tmp_path, *folders)
    assert re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', text) == []


def test_names_of_classes_and_classifiers_are_escaped(tmp_path):
    classes = ("road", HOSTILE, "sky")
    folders = [
        write_run(tmp_path / str(accuracy), name, 1, accuracy, classes=classes)
        for name, accuracy in (("linear", 0.5), ("context_aware", 0.7), (HOSTILE, 0.6))
    ]
    text = page_of(tmp_path, *folders)
    assert HOSTILE not in text and "&lt;script&gt;alert" in text
    assert HOSTILE in read_page(tmp_path / "page.html").text


def test_missing_checkpoints_are_reported_and_scores_stay(tmp_path, folders):
    text = page_of(tmp_path, *folders)
    assert "No images" in text
    assert re.search(r"points, mean over 2 seeds</span> · <span[^>]*>seed 1: linear \d", text)


def test_of_many_classes_the_extremes_are_drawn_and_the_rest_can_be_unfolded(tmp_path):
    classes = tuple(f"class {i}" for i in range(50))
    folders = [
        write_run(tmp_path / name, name, 1, accuracy, classes=classes)
        for name, accuracy in (("linear", 0.5), ("context_aware", 0.7))
    ]
    text = page_of(tmp_path, *folders)
    assert "30 more classes" in text


def test_extreme_images_are_not_neighbours(tmp_path):
    folders = [
        write_run(tmp_path / name, name, seed, accuracy, images=60)
        for seed, (name, accuracy) in ((1, ("linear", 0.5)), (1, ("context_aware", 0.7)))
    ]
    images = extreme_images(read_study(folders), "context_aware", "val")
    numbers = sorted(int(image.file_name[:-4]) for image in images)
    assert len(numbers) == 3, "all gain"
    assert min(b - a for a, b in zip(numbers, numbers[1:])) >= 3
    differences = [image.difference for image in images]
    assert differences == sorted(differences, reverse=True)


def test_a_hollow_dot_is_an_interval_that_holds_zero():
    rows = [Whisker("a", 0, 1.0, 0.5, 1.5), Whisker("b", 0, 1.0, -0.5, 2.5)]
    assert [row["excludes_zero"] for row in whisker_chart(rows)["rows"]] == [True, False]


def test_a_very_long_whisker_ends_in_an_arrow_and_does_not_squeeze_the_others():
    rows = [Whisker("a", 0, 2.0, -300.0, 300.0, (1.0, 3.0)), Whisker("b", 0, 1.0, 0.5, 1.5)]
    long, short = whisker_chart(rows)["rows"]
    assert [arrow for _, arrow in long["ends"]] == [-1, 1]
    assert [arrow for _, arrow in short["ends"]] == [0, 0]
    assert long["text"] == "+2.00 [−300.00, +300.00]"


def test_charts_stay_within_their_image():
    chart = whisker_chart([Whisker("name", 0, 2.0, -9.0, 300.0, (1.0, 3.0))])
    (row,) = chart["rows"]
    places = [row["mean"], row["low"], row["high"], *row["points"], chart["zero"]]
    assert min(places) >= 0 and max(places) <= chart["width"]


def test_long_names_are_cut_and_shown_in_full_by_the_mouse(tmp_path, folders):
    name = "a name that is far too long for a row of a chart"
    other = write_run(tmp_path / "other", name, 1, 0.6)
    text = page_of(tmp_path, *folders, other)
    assert f"<title>{name}: " in text and "a name that is far too long for a r…</text>" in text


def test_charts_of_nothing_are_left_out():
    assert whisker_chart([Whisker("a", 0, float("nan"), 0, 1)]) is None
    assert band_chart({"a": {"iterations": [], "mean": [], "low": [], "high": []}}) is None
