"""The HTML report about runs: what it reads, what it shows, and that it needs no other file."""

import json
import math
import os
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from data_folders import run_script, write_image
from report_runs import HOSTILE, read_page, write_dataset, write_lines, write_run, write_table
from train_net_runs import ROOT

from d2_ctxseg.report import page, write_report
from d2_ctxseg.report.html import format_number
from d2_ctxseg.report.run import read_run
from d2_ctxseg.utils.errors import MissingFileError, UserError


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture
def run(tmp_path, dataset):
    return write_run(tmp_path / "run", dataset)


class TestAPage:
    def test_holds_every_part(self, run):
        shown = read_page(write_report([run]))
        names = [v for v in shown.attributes("href") if v.startswith("#")]
        assert names == ["#results", "#training", "#dataset-0", "#configuration"]
        for text in ("total loss", "Confusions", "All images, from the worst to the best"):
            assert text in shown.text
        assert len([name for name, _ in shown.tags if name == "img"]) == 2 * 4
        assert "LinearSegmentor" in shown.text

    def test_asks_for_nothing_outside_of_it(self, run):
        path = write_report([run])
        shown = read_page(path)
        sources = shown.attributes("src", "href", "srcset", "action", "data", "poster")
        assert sources and all(re.match(r"#[\w-]+$|data:", address) for address in sources)
        styles = path.read_text().split("<style>")[1].split("</style>")[0]
        assert "url(" not in styles and "@import" not in styles
        policy = next(a["content"] for _, a in shown.tags if "http-equiv" in a)
        assert "default-src 'none'" in policy

    def test_links_lead_to_sections(self, run):
        shown = read_page(write_report([run]))
        ids = shown.attributes("id")
        assert len(ids) == len(set(ids))
        assert {v[1:] for v in shown.attributes("href") if v.startswith("#")} <= set(ids)

    def test_lists_the_scores_of_each_task(self, run, dataset):
        results = json.loads((run / "evaluation.json").read_text())["final.pth"][dataset[1]]
        rows = read_page(write_report([run])).tables["table 0"]
        single, multi = (results[task]["mIoU"] for task in ("sem_seg", "sem_seg_TTA"))
        assert [row[1] for row in rows[1:]] == ["single-scale", "multi-scale and flip"]
        assert [row[2] for row in rows[1:]] == [f"{single:.2f}", f"{multi:.2f}"]
        assert rows[2][3] == format_number(multi - single, signed=True)

    def test_lists_the_classes_from_the_best_to_the_worst(self, run, dataset):
        results = json.loads((run / "evaluation.json").read_text())["final.pth"][dataset[1]]
        tables = read_page(write_report([run])).tables
        rows = next(rows for name, rows in tables.items() if name.startswith("single-scale"))[1:]
        expected = sorted(("road", "tree", "car"), key=lambda c: -results["sem_seg"][f"IoU-{c}"])
        assert [row[0] for row in rows] == expected
        assert [row[2] for row in rows] == [
            f"{results['sem_seg'][f'IoU-{name}']:.2f}" for name in expected
        ]

    def test_names_the_largest_confusion_first(self, run, dataset):
        path = run / "inference/sem_seg" / dataset[1] / "confusion_matrix.npy"
        matrix = np.diag([100, 100, 100, 0])
        matrix[2, 0] = 60  # road predicted as car
        matrix[1, 2] = 40
        matrix[3, 0] = matrix[0, 3] = 999  # ignored
        np.save(path, matrix)
        rows = read_page(write_report([run])).tables["The most pixels"]
        assert rows[1] == ["road", "car", "60", "37.50", "60.00"]
        assert len(rows) == 3

    def test_takes_the_place_of_an_older_one_only_when_it_is_complete(self, run, monkeypatch):
        path = write_report([run])
        before = path.read_text()

        def fail(*arguments):
            raise RuntimeError

        monkeypatch.setattr(page, "dataset_section", fail)
        with pytest.raises(RuntimeError):
            write_report([run])
        assert path.read_text() == before
        assert {p.name for p in run.iterdir() if "report" in p.name} == {"report.html"}


class TestNamesFromOutside:
    def test_are_shown_and_not_obeyed(self, tmp_path):
        names = ("road", HOSTILE, "car")
        dataset = write_dataset(tmp_path / "data", names)
        run = write_run(tmp_path / "a <b> & 'c'", dataset, names)
        config = yaml.safe_load((run / "config.yaml").read_text())
        config["MODEL"]["META_ARCHITECTURE"] = HOSTILE
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        write_lines(run, [{"iteration": 1, f"loss_{HOSTILE}": 1.0}])
        shown = read_page(write_report([run]))
        assert shown.text.count(HOSTILE) > 5
        assert "a <b> & 'c'" in shown.text
        assert not [a for _, a in shown.tags if "onerror" in a]
        assert len([name for name, _ in shown.tags if name == "script"]) == 1

    def test_may_hold_bytes_that_are_not_text(self, run, dataset):
        path = run / "inference/sem_seg" / dataset[1] / "examples/examples.json"
        examples = json.loads(path.read_text())
        examples[0]["file_name"] = "caf\udce9.jpg"
        path.write_text(json.dumps(examples))
        assert "caf?.jpg" in read_page(write_report([run])).text

    def test_of_examples_do_not_lead_out_of_the_run(self, run, dataset, tmp_path):
        folder = run / "inference/sem_seg" / dataset[1] / "examples"
        entries = [{"file_name": "a.png", "kind": "worst", "prediction": "../../secret.png"}]
        (folder / "examples.json").write_text(json.dumps(entries))
        evaluation = read_run(run).evaluations[dataset[1]]["sem_seg"]
        assert evaluation.examples[0].prediction == folder / "secret.png"


class TestWhatIsMissing:
    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("confusion_matrix.npy", None),
            ("confusion_matrix.npy", b"\x93NUMPY\x00"),
            ("classes.csv", b""),
            ("classes.csv", b"a,b\n1,2\n"),
            ("images.csv", b"[1, 2"),
            ("examples/examples.json", None),
            ("examples/examples.json", b"[1, 2"),
        ],
    )
    def test_in_an_evaluation_is_reported_and_the_rest_is_shown(self, run, dataset, name, content):
        path = run / "inference/sem_seg" / dataset[1] / name
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        shown = read_page(write_report([run]))
        assert str(path) in shown.text
        parts = ("Confusions", "mIoU 10.00", "IoU of the classes", "How many of")
        assert sum(part in shown.text for part in parts) >= 3

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("config.yaml", None),
            ("config.yaml", "{["),
            ("config.yaml", "- 1\n- 2\n"),
            ("metrics.json", "[1]\n[2]\n"),
        ],
    )
    def test_in_a_run_is_reported_and_the_rest_is_shown(self, run, name, content):
        (run / name).unlink()
        if content is not None:
            (run / name).write_text(content)
        shown = read_page(write_report([run]))
        assert str(run / name) in shown.text
        assert "All images" in shown.text

    def test_an_old_run_has_its_scores_only(self, run, dataset):
        for path in sorted((run / "inference").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        shown = read_page(write_report([run]))
        assert "Only the scores of final.pth" in shown.text
        assert "IoU of the classes" in shown.text
        assert "Confusions" not in shown.text and "All images" not in shown.text

    def test_a_run_that_was_never_evaluated_has_its_curves(self, tmp_path):
        folder = tmp_path / "unfinished"
        folder.mkdir()
        write_lines(folder, [{"iteration": 19, "total_loss": 3.0}])
        shown = read_page(write_report([folder]))
        assert "total loss" in shown.text and "No results" in shown.text

    def test_files_of_the_dataset_leave_the_prediction(self, tmp_path):
        dataset = write_dataset(tmp_path / "data")
        run = write_run(tmp_path / "run", dataset)
        for path in dataset[2][0]:
            Path(path).unlink()
        shown = read_page(write_report([run]))
        # The first of the two examples has its prediction only.
        assert len([name for name, _ in shown.tags if name == "img"]) == 5
        assert "Cannot read the image" in shown.text and "Cannot read the label" in shown.text

    def test_results_of_other_weights_are_not_compared(self, run, dataset):
        """Evaluated later, with other weights, single-scale only."""
        path = run / "inference/sem_seg" / dataset[1] / "results.json"
        results = json.loads(path.read_text())
        path.write_text(json.dumps({**results, "weights": "other.pth"}))
        os.utime(path, (4e9, 4e9))
        notes = read_run(run).notes
        assert any("No sem_seg_TTA" in note and "evaluation of other.pth" in note for note in notes)
        assert set(read_run(run).evaluations[dataset[1]]) == {"sem_seg"}

    def test_an_unknown_dataset_leaves_out_the_ground_truth(self, run, tmp_path, dataset):
        place = run / "inference/sem_seg" / dataset[1]
        results = json.loads((place / "results.json").read_text())
        results["dataset"] = "elsewhere_sem_seg_val"
        (place / "results.json").write_text(json.dumps(results))
        shown = read_page(write_report([run]))
        assert "The dataset elsewhere_sem_seg_val is not registered" in shown.text
        titles = shown.attributes("alt")
        assert titles.count("ground truth") == titles.count("image") - 2

    def test_a_dataset_that_has_changed_leaves_out_the_ground_truth(self, tmp_path):
        dataset = write_dataset(tmp_path / "data", ("road", "tree", "bus"))
        run = write_run(tmp_path / "run", dataset)  # evaluated with "car"
        shown = read_page(write_report([run]))
        assert "has other classes than when it was evaluated" in shown.text
        assert "ground truth" not in shown.attributes("alt")

    def test_a_dataset_whose_description_is_gone_is_reported(self, run, tmp_path):
        config = yaml.safe_load((run / "config.yaml").read_text())
        config["DATASETS"]["FOLDERS"] = [str(tmp_path / "nowhere.yaml")]
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        assert "nowhere.yaml is not available" in read_page(write_report([run])).text


class TestValuesThatAreNoNumbers:
    def test_absent_classes_come_last_without_a_score(self, run, dataset):
        place = run / "inference/sem_seg" / dataset[1]
        rows = [("road", "", "", 0, 5), ("tree", 40, 50, 10, 5), ("car", 80, 90, 10, 15)]
        columns = ("class", "IoU", "ACC", "truth_pixels", "predicted_pixels")
        write_table(place / "classes.csv", columns, rows)
        tables = read_page(write_report([run])).tables
        rows = next(rows for name, rows in tables.items() if name.startswith("single-scale"))
        assert [row[0] for row in rows[1:]] == ["car", "tree", "road"]
        assert rows[3][2] == "–"

    def test_null_is_shown_as_a_dash(self, run, dataset):
        path = run / "inference/sem_seg" / dataset[1] / "results.json"
        results = json.loads(path.read_text())
        results["metrics"]["mIoU"] = None
        path.write_text(json.dumps(results))
        rows = read_page(write_report([run])).tables["table 0"]
        assert rows[1][2] == "–" and rows[2][3] == "–"

    def test_in_curves_are_left_out_and_counted(self, run):
        losses = [3.0, math.nan, 2.0, math.inf]
        write_lines(run, [{"iteration": i, "total_loss": v} for i, v in enumerate(losses)])
        shown = read_page(write_report([run]))
        assert "last 2 (2 values are not finite)" in shown.text
        points = shown.attributes("points")[0]
        assert len(points.split()) == 2 and "nan" not in points

    def test_a_page_of_nothing_but_them_is_a_page(self, run, dataset):
        write_lines(run, [{"iteration": 1, "total_loss": math.nan}])
        place = run / "inference/sem_seg" / dataset[1]
        np.save(place / "confusion_matrix.npy", np.zeros((4, 4), np.int64))
        columns = ("class", "IoU", "ACC", "truth_pixels", "predicted_pixels")
        rows = [(name, "", "", 0, 0) for name in ("road", "tree", "car")]
        write_table(place / "classes.csv", columns, rows)
        write_table(place / "images.csv", ("file_name", "mIoU"), [("a.png", "")])
        shown = read_page(write_report([run]))
        assert "No labelled pixel is wrong." in shown.text
        assert "nan" not in " ".join(shown.attributes("style", "points", "d", "x", "y"))


class TestExamples:
    def add_image_scores(self, run, dataset, number):
        rows = [(f"{i}.png", 50) for i in range(number)]
        place = run / "inference/sem_seg" / dataset[1]
        write_table(place / "images.csv", ("file_name", "mIoU"), rows)

    def test_of_a_large_dataset_are_the_worst_and_the_best(self, run, dataset):
        self.add_image_scores(run, dataset, 3)
        text = read_page(write_report([run])).text
        assert "The worst images" in text and "The best images" in text

    def test_of_a_small_dataset_are_called_what_they_are(self, run):
        text = read_page(write_report([run])).text
        assert "All images, from the worst to the best" in text and "The worst" not in text

    def test_of_a_very_small_dataset_are_all_among_the_worst(self, run, dataset):
        self.add_image_scores(run, dataset, 1)
        path = run / "inference/sem_seg" / dataset[1] / "examples/examples.json"
        path.write_text(
            json.dumps([e for e in json.loads(path.read_text()) if e["kind"] == "worst"])
        )
        text = read_page(write_report([run])).text
        assert "All images, from the worst to the best" in text and "The worst" not in text

    @pytest.mark.parametrize("ignored", [0, 9])
    def test_have_ignored_pixels_in_the_legend(self, tmp_path, ignored):
        dataset = write_dataset(tmp_path / "data")
        run = write_run(tmp_path / "run", dataset)
        for _, path in dataset[2]:
            labels = np.zeros((48, 64), np.uint8)
            labels[:ignored] = 255
            write_image(Path(path), labels)
        shown = read_page(write_report([run]))
        assert shown.attributes("class").count("swatch hatched") == (2 if ignored else 0)


class TestSeveralRuns:
    @pytest.fixture
    def runs(self, tmp_path, dataset):
        return [write_run(tmp_path / f"run{i}", dataset, seed=10 * i) for i in range(3)]

    def test_are_compared_with_the_first(self, runs, dataset):
        tables = read_page(write_report(runs)).tables
        rows = next(r for name, r in tables.items() if name.startswith("IoU of the classes"))
        assert rows[0] == ["class", "run0", "run1", "Δ", "run2", "Δ"]
        scores = [
            json.loads((run / "evaluation.json").read_text())["final.pth"][dataset[1]]["sem_seg"]
            for run in runs
        ]
        assert {row[0] for row in rows[1:]} == {"road", "tree", "car"}
        for row in rows[1:]:
            first, second, third = (score[f"IoU-{row[0]}"] for score in scores)
            assert row[1:4] == [
                f"{first:.2f}",
                f"{second:.2f}",
                format_number(second - first, signed=True),
            ]
            assert row[5] == format_number(third - first, signed=True)

    def test_have_their_curves_in_one_chart(self, runs):
        shown = read_page(write_report(runs))
        classes = " ".join(shown.attributes("class"))
        assert all(f"line series-{i}" in classes for i in range(3))
        assert "run1: best 100.00 at 100" in " ".join(shown.text.split())
        # mIoU, total loss, one loss, learning rate.
        assert classes.count("chart") - classes.count("histogram") == 4

    def test_go_into_the_first_ones_folder_or_where_one_says(self, runs, tmp_path):
        assert write_report(runs) == runs[0] / "report.html"
        wanted = tmp_path / "pages" / "all.html"
        assert write_report(runs, wanted) == wanted and wanted.is_file()
        assert write_report(runs, tmp_path) == tmp_path / "report.html"

    def test_differ_in_the_keys_that_are_listed(self, runs):
        shown = read_page(write_report(runs))
        rows = next(rows for rows in shown.tables.values() if rows[0][0] == "key")
        assert rows[0] == ["key", "run0", "run1", "run2"]
        assert ["SEED", "0", "10", "20"] in rows
        assert "OUTPUT_DIR" not in [row[0] for row in rows]

    def test_of_the_same_name_are_distinguished(self, tmp_path, dataset):
        runs = [write_run(tmp_path / name / "output", dataset) for name in ("linear", "context")]
        assert "linear/output and context/output" in read_page(write_report(runs)).text

    def test_without_a_common_dataset_are_not_compared(self, tmp_path, dataset):
        other = write_dataset(tmp_path / "other")
        runs = [write_run(tmp_path / "a", dataset), write_run(tmp_path / "b", other)]
        shown = read_page(write_report(runs))
        assert "Comparison" not in shown.text
        assert dataset[1] in shown.text and other[1] in shown.text

    def test_without_the_first_ones_task_are_reported(self, tmp_path, dataset):
        runs = [
            write_run(tmp_path / "a", dataset),
            write_run(tmp_path / "b", dataset, tasks=("sem_seg_TTA",)),
        ]
        assert "Without a single-scale evaluation: b." in read_page(write_report(runs)).text


class TestManyClasses:
    def test_are_all_listed_and_the_matrix_has_the_most_confused(self, tmp_path):
        names = [f"class {i}" for i in range(150)]
        dataset = write_dataset(tmp_path / "data", names)
        run = write_run(tmp_path / "run", dataset, names)
        shown = read_page(write_report([run]))
        rows = next(r for name, r in shown.tables.items() if name.startswith("single-scale"))
        assert len(rows) == 151
        assert shown.attributes("class").count("row") == 30
        assert "30 classes with the most wrong pixels; 120 are not" in shown.text

    def test_may_share_a_name(self, tmp_path):
        names = ["crane", "tree", "crane"]
        dataset = write_dataset(tmp_path / "data", ["crane", "tree", "car"])
        run = write_run(tmp_path / "run", dataset, names)
        tables = read_page(write_report([run])).tables
        rows = next(rows for name, rows in tables.items() if name.startswith("single-scale"))
        assert sorted(row[0] for row in rows[1:]) == ["crane", "crane", "tree"]

    def test_and_many_images_keep_the_file_small(self, tmp_path, monkeypatch):
        dataset = write_dataset(tmp_path / "data", num_images=12)
        run = write_run(tmp_path / "run", dataset)
        whole = write_report([run]).stat().st_size
        monkeypatch.setattr(page, "_IMAGES_BYTES", 4 * page._LEAST_BYTES)
        path = write_report([run])
        assert path.stat().st_size < whole
        shown = read_page(path)
        assert shown.attributes("class").count("example") == 2
        assert shown.text.count("10 more are left out") == 1


class TestWrongInput:
    def test_a_folder_that_is_no_run(self, tmp_path):
        (tmp_path / "notes.txt").touch()
        with pytest.raises(UserError, match=r"is not the folder of a run: it has none of config"):
            write_report([tmp_path])

    def test_a_folder_that_is_not_there(self, tmp_path):
        with pytest.raises(MissingFileError, match=r"nothing' is not a folder"):
            write_report([tmp_path / "nothing"])

    def test_the_same_run_twice(self, run):
        with pytest.raises(UserError, match="was given 2 times"):
            write_report([run, run / ".." / run.name])

    def test_no_run(self):
        with pytest.raises(UserError, match="No run was given"):
            write_report([])

    def test_the_command_says_it_in_one_line(self, tmp_path, capsys):
        assert run_script(ROOT / "tools/report.py", tmp_path / "nothing") == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ") and "Traceback" not in error

    def test_the_command_refuses_other_kinds_of_files(self, run, capsys):
        assert run_script(ROOT / "tools/report.py", run, "--output", "report.pdf") == 1
        assert "report.pdf" in capsys.readouterr().err

    def test_the_command_writes_a_report(self, run, tmp_path, capsys):
        target = tmp_path / "new" / "page.html"
        assert run_script(ROOT / "tools/report.py", run, "--output", target) == 0
        assert str(target) in capsys.readouterr().out
        assert read_page(target).text
