"""The page of a comparison: whole, safe, and honest about what is missing."""

import re

import pytest
from study_runs import write_run

from d2_ctxseg.comparison import compare, read_study
from d2_ctxseg.comparison.charts import Whisker, band_chart, whisker_chart
from d2_ctxseg.comparison.image_pairs import extreme_images
from d2_ctxseg.comparison.page import write_page

HOSTILE = "<script>alert('1')</script> & co"


def page_of(tmp_path, *folders):
    study = read_study(folders)
    content = compare(study, num_resamples=200)
    return write_page(study, content, tmp_path / "page.html").read_text(encoding="utf-8")


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


def test_runs_are_listed_under_their_classifier(tmp_path, folders):
    text = page_of(tmp_path, *folders)
    runs = text[text.index('id="runs"') :]
    places = [runs.index(str(folder)) for folder in folders]
    assert places == sorted(places)


def test_it_needs_no_other_file(tmp_path, folders):
    text = page_of(tmp_path, *folders)
    assert re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', text) == []


def test_names_are_escaped(tmp_path):
    classes = ("road", HOSTILE, "sky")
    folders = [
        write_run(tmp_path / name, name, 1, accuracy, classes=classes)
        for name, accuracy in (("linear", 0.5), ("context_aware", 0.7))
    ]
    text = page_of(tmp_path, *folders)
    assert HOSTILE not in text and "&lt;script&gt;alert" in text


def test_missing_checkpoints_are_said_and_scores_stay(tmp_path, folders):
    text = page_of(tmp_path, *folders)
    assert "No pictures" in text
    assert "mIoU of the image: linear" in text


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


def test_charts_of_nothing_are_left_out():
    assert whisker_chart([Whisker("a", 0, float("nan"), 0, 1)]) is None
    assert band_chart({"a": {"iterations": [], "mean": [], "low": [], "high": []}}) is None
