"""From folders of runs to comparison.json and the table."""

import json

import pytest
from study_runs import CLASSES, write_run

from d2_ctxseg.comparison import compare, markdown_table, read_study


def write_study(tmp_path, gain=0.1, seeds=(1, 2, 3), **options):
    return [
        write_run(tmp_path / f"{name}_{seed}", name, seed, accuracy, **options)
        for name, accuracy in (("linear", 0.6), ("context_aware", 0.6 + gain))
        for seed in seeds
    ]


class TestComparison:
    def test_scores_of_each_seed_their_mean_and_spread(self, tmp_path):
        content = compare(read_study(write_study(tmp_path)), num_resamples=200)
        assert (content["dataset"], content["baseline"], content["num_images"]) == (
            *("val", "linear"),
            6,
        )
        scores = content["classifiers"]["context_aware"]
        assert [row["seed"] for row in scores["seeds"]] == [1, 2, 3]
        values = [row["mIoU"] for row in scores["seeds"]]
        assert scores["mean"]["mIoU"] == pytest.approx(sum(values) / 3)
        assert set(scores["seeds"][0]["IoU"]) == set(CLASSES)

    def test_differences_of_means_and_classes_with_intervals(self, tmp_path):
        content = compare(read_study(write_study(tmp_path)), num_resamples=200)
        differences = content["differences"]["context_aware"]
        assert set(differences) == {"mIoU", "mACC", "pACC", *(f"IoU-{name}" for name in CLASSES)}
        low, high = differences["mIoU"]["ci95"]
        assert low < differences["mIoU"]["mean"] < high
        assert differences["mACC"]["mean"] == pytest.approx(10, abs=0.1)
        assert differences["mACC"]["seeds_that_gain"] == 1
        assert content["sentences"]["context_aware"].startswith("gains ")

    def test_only_common_seeds_are_paired(self, tmp_path):
        folders = write_study(tmp_path, seeds=(1, 2))
        folders.append(write_run(tmp_path / "more", "context_aware", 5, 0.1))
        content = compare(read_study(folders), num_resamples=200)
        assert list(content["differences"]["context_aware"]["mIoU"]["per_seed"]) == ["1", "2"]
        assert len(content["classifiers"]["context_aware"]["seeds"]) == 3

    def test_one_seed_is_reported_as_one(self, tmp_path):
        content = compare(read_study(write_study(tmp_path, seeds=(1,))), num_resamples=200)
        assert "with one seed" in content["sentences"]["context_aware"]

    def test_other_datasets_are_compared_too(self, tmp_path):
        study = read_study(write_study(tmp_path, datasets=("val", "test")))
        assert list(compare(study, num_resamples=200)["other_datasets"]) == ["test"]
        content = compare(study, "test", num_resamples=200)
        assert (content["dataset"], list(content["other_datasets"])) == ("test", ["val"])

    def test_iterations_to_the_score_that_the_baseline_ends_with(self, tmp_path):
        slow, fast = ((25, 30.0), (50, 50.0)), ((25, 40.0), (50, 60.0))
        folders = [
            write_run(tmp_path / "a", "linear", curve=slow),
            write_run(tmp_path / "b", "context_aware", curve=fast),
            write_run(tmp_path / "c", "MySegmentor", curve=((25, 1.0), (50, 2.0))),
        ]
        content = compare(read_study(folders), num_resamples=200)
        needed = content["iterations_to_baseline"]
        assert needed["linear"]["mean"] == pytest.approx(50)
        assert needed["context_aware"]["mean"] == pytest.approx(37.5)
        assert needed["MySegmentor"]["mean"] is None
        assert content["classifiers"]["linear"]["curve"]["iterations"] == [25, 50]

    def test_costs_are_means_over_the_runs_that_measured_them(self, tmp_path):
        folders = [
            write_run(tmp_path / str(seed), seed=seed, cost={"seconds_per_image": seed})
            for seed in (1, 3)
        ]
        folders.append(write_run(tmp_path / "other", "context_aware", 1))
        content = compare(read_study(folders), num_resamples=200)
        assert content["classifiers"]["linear"]["cost"] == {"seconds_per_image": 2}
        assert content["classifiers"]["context_aware"]["cost"] == {}

    def test_it_is_json(self, tmp_path):
        content = compare(read_study(write_study(tmp_path)), num_resamples=200)
        assert json.loads(json.dumps(content)) == content


class TestLabels:
    def test_runs_that_differ_in_another_key_than_the_seed_are_distinguished(self, tmp_path):
        folders = [
            write_run(tmp_path / f"{lr}_{seed}", "linear", seed, solver={"BASE_LR": lr})
            for lr in (0.1, 0.2)
            for seed in (1, 2)
        ]
        study = read_study(folders)
        assert list(study.runs) == ["linear BASE_LR=0.1", "linear BASE_LR=0.2"]
        assert [run.seed for run in study.runs["linear BASE_LR=0.2"]] == [1, 2]
        assert study.baseline == "linear BASE_LR=0.1"

    def test_the_baseline_is_chosen_by_its_label(self, tmp_path):
        folders = write_study(tmp_path)
        assert read_study(folders, "context_aware").baseline == "context_aware"
        with pytest.raises(ValueError, match="no run is 'contextaware'.*'context_aware'"):
            read_study(folders, "contextaware")


class TestTable:
    def test_a_row_for_each_classifier(self, tmp_path):
        cost = {"test_parameters": 5.5e6, "seconds_per_iteration": 0.5, "seconds_per_image": 0.02}
        study = read_study(write_study(tmp_path, cost=cost))
        lines = markdown_table(compare(study, num_resamples=200)).splitlines()
        assert lines[0] == "val (6 images):"
        cells = [cell.strip() for cell in lines[4].strip("|").split("|")]
        assert cells[:2] == ["linear", "3"] and cells[3] == "baseline"
        assert cells[-4:] == ["5.50 M", "0.500", "20.0", "–"]


class TestRunsThatDoNotPair:
    def message(self, *folders):
        with pytest.raises(ValueError) as error:
            read_study(folders)
        return str(error.value)

    def test_other_dataset(self, tmp_path):
        one = write_run(tmp_path / "a", datasets=("val",))
        other = write_run(tmp_path / "b", "context_aware", datasets=("test",))
        assert "was evaluated on val" in self.message(one, other)

    def test_other_images(self, tmp_path):
        one = write_run(tmp_path / "a")
        other = write_run(tmp_path / "b", "context_aware", images=7)
        assert "other images of 'val' (6 and 7; one of them alone has 006.png)" in self.message(
            one, other
        )

    def test_the_same_images_in_another_place_are_the_same(self, tmp_path):
        one = write_run(tmp_path / "a")
        other = write_run(tmp_path / "b", "context_aware", root="/mnt/elsewhere")
        assert len(read_study([one, other]).runs) == 2

    def test_other_classes(self, tmp_path):
        one = write_run(tmp_path / "a")
        other = write_run(tmp_path / "b", "context_aware", classes=("road", "sky", "bus"))
        assert "other classes of 'val'" in self.message(one, other)

    def test_no_common_seed(self, tmp_path):
        one, other = write_run(tmp_path / "a"), write_run(tmp_path / "b", "context_aware", 2)
        assert "no seed in common" in self.message(one, other)

    def test_the_same_run_twice(self, tmp_path):
        one, other = write_run(tmp_path / "a"), write_run(tmp_path / "b")
        assert "both 'linear' with seed 1" in self.message(one, other)

    def test_a_folder_that_is_no_finished_run(self, tmp_path):
        run = write_run(tmp_path / "a")
        (run / "inference" / "sem_seg" / "val" / "image_counts.npz").unlink()
        assert "Evaluate the run again" in self.message(run)
        interrupted = write_run(tmp_path / "b")
        (interrupted / "evaluation.json").unlink()
        assert "not a finished run: it has no evaluation.json" in self.message(interrupted)
        assert "is not a folder" in self.message(tmp_path / "none")
        assert "is not the folder of a run" in self.message(tmp_path)
