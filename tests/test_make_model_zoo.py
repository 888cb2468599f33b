"""tools/make_model_zoo.py makes MODEL_ZOO.md of the configs and the published figures."""

import runpy
import subprocess
import sys

import pytest
import yaml
from train_net_runs import ROOT

from d2_ctxseg.comparison import parse_variant, plan_runs
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

    def publish(self, entries, ablations=None, **sources):
        content = {"configs": entries, "sources": sources, "ablations": ablations or {}}
        self.write("model_zoo.yaml", yaml.safe_dump(content))

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
            learned = f"{dataset}/segformer_mit_b2_learned_prototype.yaml"
            zoo.leaf(learned, "LearnedPrototypeSegmentor", extra)
        zoo.run()
        text = zoo.page.read_text()
        table = text[text.index("numbers in prototypes") :].split("\n\n")[0]
        rows = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
        assert [row[0] for row in rows] == ["150", "847"]
        growth = [float(last) - float(first) for first, last in zip(*(row[1::2] for row in rows))]
        # A weight vector of 32 numbers and a bias; ten vectors; two numbers of the norm.
        expected = [697 * 33 / 1e6, 697 * 320 / 1e6, 697 * 2 / 1e6]
        assert growth[:3] == pytest.approx(expected, abs=0.01)
        assert [row[7] for row in rows] == ["0.05", "0.27"]  # classes x 10 x 32

    def test_know_configs_with_one_prototype_by_their_names(self, zoo):
        one = "shapes/fpn_resnet10t_one_learned_prototype.yaml"
        extra = "  CLASSIFIER: {LEARNED_PROTOTYPE: {NUM_PROTOTYPES: 1}}\n"
        zoo.leaf(one, "LearnedPrototypeSegmentor", extra)
        zoo.publish({LINEAR: {"mIoU": 39.9}})
        rows = zoo.rows()
        assert rows[one]["vanilla"] == "39.9"
        text = zoo.page.read_text()
        assert text.index("### Learned prototypes") < text.index("[fpn_resnet10t_one_learned")
        assert "### Prototypes" not in text


class TestAblations:
    STUDY = {
        "title": "What it takes (Table 5)",
        "source": "paper",
        "config": LINEAR,
        "variants": {"all=context_aware": 46.4, "no_kl=context_aware,LOSS_WEIGHT_KL=0": None},
    }

    def test_have_figures_and_the_command_that_trains_them(self, zoo):
        zoo.publish({}, {"losses": {**self.STUDY, "note": "Not all were published."}}, paper="P")
        zoo.run()
        text = zoo.page.read_text()
        assert text[text.index("## Ablations") :].split("### ")[1] == (
            "What it takes (Table 5)\n\nNot all were published.\n\n"
            "| variant | mIoU (paper) |\n| --- | --- |\n"
            "| `all=context_aware` | 46.4 |\n"
            "| `no_kl=context_aware,LOSS_WEIGHT_KL=0` |  |\n\n"
            "```bash\n"
            f"d2-ctxseg compare --config-file configs/{LINEAR} \\\n"
            "    --seeds 1 --output output/ablations/losses --classifiers \\\n"
            "    all=context_aware \\\n"
            "    no_kl=context_aware,LOSS_WEIGHT_KL=0\n"
            "```\n"
        )

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"variants": {"a=contextaware": 1.0}}, "no classifier 'contextaware'"),
            ({"config": LINEAR.replace("linear", "liner")}, f"nothing is called .*'{LINEAR}'"),
            ({"source": "thesis"}, "losses, source: nothing is called 'thesis'"),
            ({"titel": "x"}, "losses: nothing is called 'titel'. Did you mean 'title'"),
        ],
    )
    def test_that_are_wrong_are_reported(self, zoo, change, message):
        zoo.publish({}, {"losses": self.STUDY | change}, paper="P")
        with pytest.raises(SystemExit, match=message):
            zoo.run()

    def test_that_are_not_whole_too(self, zoo):
        study = {key: value for key, value in self.STUDY.items() if key != "title"}
        zoo.publish({}, {"losses": study}, paper="P")
        with pytest.raises(SystemExit, match="losses: 'title' is missing"):
            zoo.run()

    def test_of_this_project_are_studies_that_can_be_planned(self):
        content = yaml.safe_load((ROOT / "tools" / "model_zoo.yaml").read_text())
        for name, study in content["ablations"].items():
            variants = [parse_variant(text) for text in study["variants"]]
            runs = plan_runs(str(ROOT / "configs" / study["config"]), variants, [1], name)
            assert len(runs) == len(variants) > 1
            settings = [run.config().MODEL.dump() for run in runs]
            assert len(set(settings)) == len(settings), name

    def test_of_this_project_have_the_17_cells_of_table_5(self):
        content = yaml.safe_load((ROOT / "tools" / "model_zoo.yaml").read_text())
        studies = [s for s in content["ablations"].values() if "Table 5" in s["title"]]
        assert [len(study["variants"]) for study in studies] == [4, 5, 5, 3]
        assert [max(study["variants"].values()) for study in studies] == [46.4, 46.5, 46.4, 46.4]


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
    def test_in_the_figures_are_reported(self, zoo, entries, message):
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

    def test_missing_files_are_reported(self, zoo):
        zoo.figures.unlink()
        with pytest.raises(SystemExit, match="model_zoo.yaml': no such file"):
            zoo.run()
        with pytest.raises(SystemExit, match="--configs: there are no configs"):
            zoo.run("--configs", zoo.folder / "nowhere")


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
