"""tools/make_model_zoo.py makes MODEL_ZOO.md of the configs and the published figures."""

import runpy
import subprocess
import sys

import pytest
import yaml
from train_net_runs import ROOT

from d2_ctxseg.deployment.analysis import config_costs

TOOL = str(ROOT / "tools" / "make_model_zoo.py")
MODEL = f"""
_BASE_: "{ROOT}/configs/Base-Segmentor.yaml"
MODEL:
  ENCODER: {{NAME: "tu-resnet10t"}}
  SEM_SEG_HEAD:
    NUM_CLASSES: 6
    DECODER: {{NAME: "FPN", OPTIONS: ["pyramid_channels", 32, "segmentation_channels", 32]}}
INPUT: {{CROP: {{SIZE: [64, 96]}}}}
"""
LEAF = """
_BASE_: ["../models/fpn_resnet10t.yaml", "Base-Shapes.yaml"]
MODEL:
  META_ARCHITECTURE: "{}"
"""
LINEAR = "shapes/fpn_resnet10t_linear.yaml"
CONTEXT_AWARE = "shapes/fpn_resnet10t_context_aware.yaml"


class Zoo:
    """A folder of configs, the figures, and the tool run on them."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.monkeypatch = folder, monkeypatch
        self.page, self.figures = folder / "MODEL_ZOO.md", folder / "model_zoo.yaml"
        self.write("configs/models/fpn_resnet10t.yaml", MODEL)
        self.write("configs/shapes/Base-Shapes.yaml", "DATASETS: {TRAIN: [], TEST: []}")
        self.leaf(LINEAR, "LinearSegmentor")
        self.leaf(CONTEXT_AWARE, "ContextAwareSegmentor")
        self.publish({})

    def write(self, name, text):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def leaf(self, name, meta_architecture, extra=""):
        self.write(f"configs/{name}", LEAF.format(meta_architecture) + extra)

    def publish(self, entries, **sources):
        self.write("model_zoo.yaml", yaml.safe_dump({"configs": entries, "sources": sources}))

    def parameters(self, name, key="total"):
        return config_costs(str(self.folder / "configs" / name))["parameters"][key] / 1e6

    def run(self, *arguments):
        files = ["--configs", self.folder / "configs", "--figures", self.figures]
        command = ["zoo", *files, "--output", self.page, "--workers", "1", *arguments]
        self.monkeypatch.setattr(sys, "argv", list(map(str, command)))
        runpy.run_path(TOOL, run_name="__main__")

    def rows(self):
        """The tables' rows by config: cells by header, those of the same name numbered."""
        self.run()
        rows, headers = {}, []
        for line in self.page.read_text().splitlines():
            if not line.startswith("|"):
                headers = []
                continue
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if not headers:
                headers = [f"{h}{cells[:i].count(h) or ''}" for i, h in enumerate(cells)]
            elif "[" in cells[0]:
                rows[cells[0].split("](configs/")[1].split(")")[0]] = dict(zip(headers, cells))
        return rows


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    return Zoo(tmp_path, monkeypatch)


class TestTables:
    def test_have_a_row_for_each_leaf_with_our_counts(self, zoo):
        rows = zoo.rows()
        assert list(rows) == [LINEAR, CONTEXT_AWARE]  # neither models nor Base- files
        costs = config_costs(str(zoo.folder / "configs" / CONTEXT_AWARE))
        row = rows[CONTEXT_AWARE]
        assert row["image"] == "64×96"
        assert row["parameters"] == f"{costs['parameters']['total'] / 1e6:.2f}"
        assert row["test"] == f"{costs['parameters']['test_time'] / 1e6:.2f}"
        assert row["multiply-adds"] == f"{costs['flops'] / 1e9:.1f}"

    def test_have_empty_cells_without_figures(self, zoo):
        row = zoo.rows()[CONTEXT_AWARE]
        for header in ("published", "published1", "mIoU", "ms", "vanilla", "here", "source"):
            assert row[header] == ""

    def test_have_the_published_figures_beside_the_vanilla_twins(self, zoo):
        zoo.publish(
            {
                LINEAR: {"source": "paper", "mIoU": 39.9, "mIoU_multi_scale": 40.5},
                CONTEXT_AWARE: {"mIoU": 41.1, "mIoU_multi_scale": 42, "flops": 2.5},
            },
            paper="A paper, Table 1",
        )
        rows = zoo.rows()
        row = rows[CONTEXT_AWARE]
        assert (row["mIoU"], row["ms"], row["published1"]) == ("41.1", "42", "2.5")
        assert (row["vanilla"], row["ms1"]) == ("39.9", "40.5")
        assert rows[LINEAR]["source"] == "paper" and "vanilla" not in rows[LINEAR]
        assert "- paper: A paper, Table 1" in zoo.page.read_text()

    def test_have_what_was_trained_here_with_its_command(self, zoo):
        here = {"mIoU": 12.5, "command": "python train_net.py SEED 1", "log": "docs/log.txt"}
        zoo.publish({LINEAR: {"trained_here": here}})
        assert zoo.rows()[LINEAR]["here"] == "12.5"
        assert "trained here ([log](docs/log.txt)): `python train_net.py SEED 1`" in (
            zoo.page.read_text()
        )

    def test_of_many_classes_show_that_prototypes_are_no_parameters(self, zoo):
        for dataset, classes in (("ade20k", 150), ("ade20k_full", 847)):
            zoo.write(f"configs/{dataset}/Base-Shapes.yaml", "DATASETS: {TRAIN: [], TEST: []}")
            extra = f"  SEM_SEG_HEAD: {{NUM_CLASSES: {classes}}}\n"
            zoo.leaf(f"{dataset}/segformer_mit_b2_linear.yaml", "LinearSegmentor", extra)
            zoo.leaf(f"{dataset}/segformer_mit_b2_prototype.yaml", "PrototypeSegmentor", extra)
        zoo.run()
        text = zoo.page.read_text()
        table = text[text.index("numbers in prototypes") :].split("\n\n")[0]
        rows = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
        (first, vanilla, _, prototypes, *_), (last, more_vanilla, _, more_prototypes, *_) = rows
        assert (first, last) == ("150", "847")
        # A weight vector of 32 numbers and a bias, against two numbers of the norm.
        assert float(more_vanilla) - float(vanilla) == pytest.approx(697 * 33 / 1e6, abs=0.01)
        assert float(more_prototypes) - float(prototypes) <= 0.01
        assert [row[5] for row in rows] == ["0.05", "0.27"]  # classes x 10 x 32


class TestParameterCounts:
    """They agree with the published ones within 1 %, or the difference is explained."""

    def test_that_differ_without_an_explanation_are_an_error(self, zoo):
        zoo.publish({LINEAR: {"parameters": 1.05 * zoo.parameters(LINEAR)}})
        with pytest.raises(SystemExit, match=f"{LINEAR}: .* parameters .*: -4.8 %"):
            zoo.run()
        assert not zoo.page.exists()

    def test_that_agree_need_none(self, zoo):
        zoo.publish({LINEAR: {"parameters": round(1.005 * zoo.parameters(LINEAR), 3)}})
        assert "<sup>" not in zoo.rows()[LINEAR]["config"]

    def test_that_differ_get_a_footnote_with_the_explanation(self, zoo):
        published = 1.05 * zoo.parameters(LINEAR)
        zoo.publish({LINEAR: {"parameters": published, "note": "wider there"}})
        assert zoo.rows()[LINEAR]["config"].endswith("<sup>1</sup>")
        assert "1. Parameters differ by -4.8 %: wider there" in zoo.page.read_text()

    def test_may_be_those_at_test_time(self, zoo):
        extra = "  AUXILIARY_HEAD: {ENABLED: True}\n"
        zoo.leaf(LINEAR, "LinearSegmentor", extra)
        zoo.publish({LINEAR: {"parameters": zoo.parameters(LINEAR, "test_time")}})
        assert zoo.rows()[LINEAR]["config"].endswith("<sup>1</sup>")
        assert "1. The published count is that of the model at test time." in zoo.page.read_text()


class TestCheck:
    def test_passes_on_what_was_written(self, zoo):
        zoo.run()
        written = zoo.page.read_text()
        zoo.run("--check")
        assert zoo.page.read_text() == written

    def test_fails_after_a_change_of_a_config(self, zoo):
        zoo.run()
        written = zoo.page.read_text()
        zoo.leaf(LINEAR, "LinearSegmentor", "INPUT: {CROP: {SIZE: [96, 96]}}\n")
        with pytest.raises(SystemExit, match="is not up to date. Run python tools/make_model_zoo"):
            zoo.run("--check")
        assert zoo.page.read_text() == written

    def test_fails_without_a_page(self, zoo):
        with pytest.raises(SystemExit, match="is not up to date"):
            zoo.run("--check")


class TestMistakes:
    @pytest.mark.parametrize(
        ("entries", "message"),
        [
            ({LINEAR.replace("linear", "liner"): {}}, f"nothing is called .* mean '{LINEAR}'"),
            ({LINEAR: {"mIou": 1}}, "nothing is called 'mIou'. Did you mean 'mIoU'"),
            ({LINEAR: {"mIoU": "39,9"}}, f"{LINEAR}: mIoU is '39,9', expected a number"),
            ({LINEAR: {"source": "paper"}}, "source: nothing is called 'paper'"),
            ({LINEAR: {"trained_here": {"miou": 1}}}, "trained_here: .* Did you mean 'mIoU'"),
            ({LINEAR: 39.9}, "expected a mapping, not '39.9'"),
        ],
    )
    def test_in_the_figures_are_answered(self, zoo, entries, message):
        zoo.publish(entries)
        with pytest.raises(SystemExit, match=message):
            zoo.run()

    def test_in_a_config_name_the_file(self, zoo):
        zoo.leaf(LINEAR, "LinearSegmenter")
        with pytest.raises(SystemExit, match=f"{LINEAR}: .*Did you mean 'LinearSegmentor'"):
            zoo.run()

    def test_a_config_names_its_classifier(self, zoo):
        zoo.leaf("shapes/fpn_resnet10t.yaml", "LinearSegmentor")
        with pytest.raises(SystemExit, match="names no classifier: .* _linear.yaml"):
            zoo.run()

    def test_missing_files_are_named(self, zoo):
        zoo.figures.unlink()
        with pytest.raises(SystemExit, match="--figures: no file"):
            zoo.run()
        with pytest.raises(SystemExit, match="--configs: there are no configs"):
            zoo.run("--configs", zoo.folder / "nowhere")

    def test_no_workers_are_refused(self, zoo):
        with pytest.raises(SystemExit, match="--workers is 0"):
            zoo.run("--workers", "0")


@pytest.mark.slow
def test_several_workers_write_the_same_page(zoo):
    zoo.run()
    written = zoo.page.read_text()
    zoo.run("--check", "--workers", "2")
    assert zoo.page.read_text() == written


@pytest.mark.slow
def test_a_workers_error_is_a_message(zoo):
    zoo.leaf(LINEAR, "LinearSegmenter")
    with pytest.raises(SystemExit, match=f"{LINEAR}: .*Did you mean 'LinearSegmentor'"):
        zoo.run("--workers", "2")


@pytest.mark.slow
@pytest.mark.first
def test_the_page_of_this_project_is_up_to_date():
    # One process traces each encoder once only; the other core has other tests to run.
    command = [sys.executable, TOOL, "--check", "--workers", "1"]
    subprocess.run(command, cwd=ROOT, check=True)
