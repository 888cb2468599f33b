"""Models on the Hugging Face Hub, with a folder in place of the network."""

import shutil
import sys
from fnmatch import fnmatch
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
import yaml
from daylight import half_bright, make_run
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from safetensors import safe_open

import d2_ctxseg
from d2_ctxseg.evaluation import add_to_results_file
from d2_ctxseg.model_zoo import from_pretrained, push_to_hub, save_pretrained
from d2_ctxseg.utils.errors import MissingFileError, UserError
from d2_ctxseg.utils.files import write_json

MODEL = "somebody/daylight"
SCORES = {"mIoU": 61.2345, "fwIoU": 70.0, "mACC": 80.0, "pACC": 90.0, "IoU-night": 55.5}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = make_run(
        tmp_path_factory.mktemp("runs") / "run", "ContextAwareSegmentor", "daylight_hub"
    )
    results = {"daylight_hub_sem_seg_test": {"sem_seg": SCORES}}
    add_to_results_file(folder / "evaluation.json", str(folder / "model_final.pth"), results)
    cost = {"seconds_per_image": 0.1446, "device": "cpu", "threads": 1}
    write_json(folder / "cost.json", cost)
    return folder


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The Hub as a folder: uploads are written to ``hub/user/model``, and read from there.

    Names of huggingface_hub are replaced, but for HfApi's constructor and the check of names.
    """
    root = tmp_path / "hub"

    def create_repo(self, repo_id, private=None, exist_ok=False):
        huggingface_hub.utils.validate_repo_id(repo_id)
        (root / repo_id).mkdir(parents=True, exist_ok=exist_ok)
        (root / repo_id / ".private").write_text(str(private))
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

    def upload_folder(self, *, repo_id, folder_path, commit_message, **of_the_mixin):
        assert commit_message
        shutil.copytree(folder_path, root / repo_id, dirs_exist_ok=True)

    def snapshot_download(repo_id, *, revision, token, cache_dir, allow_patterns):
        if not (root / repo_id).is_dir():
            raise LocalEntryNotFoundError("Cannot find the requested files in the local cache.")
        copy = tmp_path / "cache" / repo_id / str(revision)
        for path in filter(Path.is_file, (root / repo_id).rglob("*")):
            name = path.relative_to(root / repo_id)
            if any(fnmatch(str(name), pattern) for pattern in allow_patterns):
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy / name)
        return copy

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create_repo)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload_folder)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return root


class TestRoundTrip:
    def test_what_was_uploaded_predicts_as_before(self, hub, finished):
        expected = d2_ctxseg.load_segmentor(finished, device="cpu").predict(half_bright())
        assert push_to_hub(finished, MODEL) == f"https://huggingface.co/{MODEL}"
        for load in (d2_ctxseg.load_segmentor, from_pretrained):
            segmentor = load(MODEL, device="cpu")
            assert segmentor.classes == ("night", "day")
            result = segmentor.predict(half_bright())
            assert np.array_equal(result.labels, expected.labels)
            assert np.array_equal(result.palette, expected.palette)

    def test_a_private_model_stays_private(self, hub, finished):
        push_to_hub(finished, MODEL, private=True)
        assert (hub / MODEL / ".private").read_text() == "True"

    def test_a_model_that_was_fetched_can_be_uploaded_again(self, hub, finished):
        push_to_hub(finished, MODEL)
        push_to_hub(MODEL, "somebody/copy")
        one, other = (hub / repo_id for repo_id in (MODEL, "somebody/copy"))
        weights = [(folder / "model.safetensors").read_bytes() for folder in (one, other)]
        configs = [yaml.safe_load((folder / "config.yaml").read_text()) for folder in (one, other)]
        assert weights[0] == weights[1] and configs[0] == configs[1]

    def test_a_trained_model_of_the_package_can_be_uploaded(self, hub):
        name = "camvid/fpn_efficientnet_lite0_linear"
        push_to_hub(name, "somebody/camvid")
        image = half_bright()
        labels = [
            d2_ctxseg.load_segmentor(source, device="cpu").predict(image).labels
            for source in (name, "somebody/camvid")
        ]
        assert np.array_equal(*labels)

    def test_the_network_is_not_needed_to_save_a_folder(self, finished, tmp_path):
        folder = save_pretrained(finished, tmp_path / "saved")
        assert {path.name for path in folder.iterdir()} == {
            "README.md",
            "config.yaml",
            "model.safetensors",
        }
        assert from_pretrained(folder, device="cpu").classes == ("night", "day")


class TestFiles:
    @pytest.fixture(scope="class")
    def folder(self, finished, tmp_path_factory):
        place = tmp_path_factory.mktemp("saved") / "daylight"
        return save_pretrained(
            finished, place, repo_id=MODEL, license="mit", commit="0123abc", data_terms="Ask Bob."
        )

    def test_weights_are_those_of_the_checkpoint_without_what_training_needs(
        self, folder, finished
    ):
        trained = torch.load(finished / "model_final.pth", weights_only=True)["model"]
        with safe_open(folder / "model.safetensors", "pt") as file:
            saved = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        assert all(torch.equal(tensor, trained[key]) for key, tensor in saved.items())
        assert any("oracle" in key for key in trained) and not any("oracle" in key for key in saved)

    def test_the_config_says_the_classes_and_nothing_of_this_machine(self, folder, finished):
        text = (folder / "config.yaml").read_text()
        assert str(finished.parent) not in text
        (description,) = yaml.safe_load(text)["DATASETS"]["DESCRIPTIONS"]
        assert description["classes"] == ["night", "day"] and "root" not in description

    def test_the_card_has_scores_cost_data_and_commit(self, folder, finished):
        card = (folder / "README.md").read_text()
        _, front_matter, text = card.split("---\n", 2)
        assert yaml.safe_load(front_matter)["pipeline_tag"] == "image-segmentation"
        assert yaml.safe_load(front_matter)["license"] == "mit"
        for said in (
            *("# daylight", f'load_segmentor("{MODEL}")', "61.23", "55.50", "`0123abc`"),
            *("145 ms", "cpu, 1 thread", "M parameters", "daylight_hub_sem_seg_test", "Ask Bob."),
        ):
            assert said in text
        assert str(finished) not in card and "$" not in card

    def test_a_run_without_evaluation_is_reported(self, finished, tmp_path):
        checkpoint = shutil.copytree(finished, tmp_path / "run")
        (checkpoint / "evaluation.json").unlink()
        (checkpoint / "cost.json").unlink()
        folder = save_pretrained(checkpoint, tmp_path / "saved")
        card = (folder / "README.md").read_text()
        assert "No evaluation of these weights is recorded." in card
        assert "license" not in card and "not recorded" in card


class TestErrors:
    def test_a_model_that_is_not_there(self, hub):
        with pytest.raises(
            UserError, match=r"'somebody/nothing' on the Hugging Face Hub: the Hub "
        ):
            d2_ctxseg.load_segmentor("somebody/nothing")

    def test_a_model_of_another_library(self, hub):
        (hub / MODEL).mkdir(parents=True)
        (hub / MODEL / "pytorch_model.bin").write_bytes(b"")
        with pytest.raises(
            MissingFileError, match=r"has no config\.yaml and no model\.safetensors"
        ):
            d2_ctxseg.load_segmentor(MODEL)

    @pytest.mark.parametrize(
        ("line", "trust", "said"),
        [
            ("_BASE_: ../../secret.yaml", False, "_BASE_.*another file"),
            ("_BASE_: ../../secret.yaml", True, "_BASE_.*another file"),
            ("IMPORTS: [imports/heads.py]", False, "would run on this machine"),
            ("IMPORTS: [imports/heads.py]", True, "heads.py, which is not in its folder of code"),
            ("IMPORTS: [../heads.py]", True, "outside of its folder of code"),
            ("IMPORTS: [/tmp/imports/heads.py]", True, "outside of its folder of code"),
        ],
    )
    def test_a_downloaded_config_reads_and_runs_no_other_file(
        self, hub, finished, line, trust, said
    ):
        push_to_hub(finished, MODEL)
        config = hub / MODEL / "config.yaml"
        lines = [text for text in config.read_text().splitlines() if "IMPORTS" not in text]
        config.write_text("\n".join([*lines, line]))
        with pytest.raises(UserError, match=said):
            d2_ctxseg.load_segmentor(MODEL, trust_remote_code=trust)

    def test_a_name_that_the_hub_does_not_take(self, hub, finished):
        with pytest.raises(UserError, match="'bad name/x' on the Hugging Face Hub"):
            push_to_hub(finished, "bad name/x")

    @pytest.mark.parametrize(
        ("error", "said"),
        [
            (HFValidationError("Repo id must be"), "no such model"),
            (ConnectionError("refused"), "cannot be reached"),
            (RuntimeError("401 Client Error"), "log in"),
            (ValueError("something else"), "ValueError.*something else"),
        ],
    )
    def test_what_goes_wrong_is_shown_in_one_line(self, monkeypatch, error, said):
        def fail(*args, **options):
            raise error

        monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
        with pytest.raises(UserError, match=said):
            d2_ctxseg.load_segmentor(MODEL)

    def test_an_upload_that_fails_says_nothing_of_downloads(self, hub, finished, monkeypatch):
        def fail(*args, **options):
            raise ConnectionError("refused")

        monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", fail)
        with pytest.raises(UserError, match=r"the Hub cannot be reached\. \(refused\)"):
            push_to_hub(finished, MODEL)

    def test_without_the_package(self, monkeypatch, finished):
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
        for call in (lambda: d2_ctxseg.load_segmentor(MODEL), lambda: push_to_hub(finished, MODEL)):
            with pytest.raises(UserError, match="pip install huggingface_hub"):
                call()


class TestCodeOfOnesOwn:
    """A head that only the model's author has: IMPORTS."""

    CODE = """
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from d2_ctxseg.modeling.heads.smp_decoder import SMPDecoderHead
from pathlib import Path


@SEM_SEG_HEADS_REGISTRY.register()
class {name}(SMPDecoderHead):
    pass


with open("{trace}", "a") as file:
    file.write("ran\\n")
"""

    @pytest.fixture
    def pushed(self, hub, finished, tmp_path):
        """A run with a head of its own on the Hub, and the file that its module leaves a trace in.

        Registries keep what is registered: each test has a module and a head of other names.
        """
        name, trace = f"Head{tmp_path.name.title().replace('_', '')}", tmp_path / "trace"
        run = shutil.copytree(finished, tmp_path / "run")
        (run / "imports").mkdir()
        module = run / "imports" / f"{name.lower()}.py"
        module.write_text(self.CODE.format(name=name, trace=trace))
        config = yaml.safe_load((run / "config.yaml").read_text())
        config["IMPORTS"] = [f"imports/{module.name}"]
        config["MODEL"]["SEM_SEG_HEAD"]["NAME"] = name
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        push_to_hub(run, MODEL)
        return module, trace

    def test_is_uploaded_and_said_on_the_card(self, hub, pushed):
        module, _ = pushed
        folder = hub / MODEL
        assert (folder / "imports" / module.name).read_text() == module.read_text()
        content = yaml.safe_load((folder / "config.yaml").read_text())
        assert content["IMPORTS"] == [f"imports/{module.name}"]
        card = (folder / "README.md").read_text()
        assert "trust_remote_code=True" in card and f"`imports/{module.name}`" in card
        assert "read it before you trust it" in card

    def test_is_not_run_and_not_even_fetched_unless_it_is_asked_for(self, pushed, tmp_path):
        module, trace = pushed
        trace.unlink()
        with pytest.raises(UserError, match=r"would run on this machine.*trust_remote_code=True"):
            d2_ctxseg.load_segmentor(MODEL, device="cpu")
        assert not trace.exists()
        assert not list((tmp_path / "cache").rglob(module.name))

    def test_runs_where_it_is_trusted(self, pushed, finished):
        segmentor = from_pretrained(MODEL, device="cpu", trust_remote_code=True)
        assert type(segmentor.model.sem_seg_head).__name__ == segmentor.cfg.MODEL.SEM_SEG_HEAD.NAME
        expected = d2_ctxseg.load_segmentor(finished, device="cpu").predict(half_bright())
        assert np.array_equal(segmentor.predict(half_bright()).labels, expected.labels)


def test_on_the_disk_comes_before_the_hub(finished, tmp_path, monkeypatch):
    shutil.copytree(finished, tmp_path / MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("d2_ctxseg.model_zoo.load.download", None)
    assert d2_ctxseg.load_segmentor(MODEL, device="cpu").classes == ("night", "day")
    assert Path(MODEL).is_dir()
