"""tools/summarize_results.py makes one table of several runs."""

import json
import runpy
import sys

import pytest
import yaml
from train_net_runs import ROOT


def write_run(folder, seed, miou, max_iter=100):
    folder.mkdir()
    config = {"SEED": seed, "OUTPUT_DIR": str(folder), "SOLVER": {"MAX_ITER": max_iter}}
    config["MODEL"] = {"META_ARCHITECTURE": "LinearSegmentor"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    results = {"model_final.pth": {"val": {"sem_seg": {"mIoU": miou}}}}
    (folder / "evaluation.json").write_text(json.dumps(results))
    (folder / "log.txt").write_text("[..]: Total training time: 0:12:34 (0:00:10 on hooks)\n")
    return folder


def summarize(monkeypatch, capsys, *folders):
    monkeypatch.setattr(sys, "argv", ["summarize_results.py", *map(str, folders)])
    runpy.run_path(str(ROOT / "tools" / "summarize_results.py"), run_name="__main__")
    return capsys.readouterr().out.splitlines()


def test_runs_of_one_config_are_averaged(tmp_path, monkeypatch, capsys):
    folders = [write_run(tmp_path / str(s), s, 40.0 + 2 * s) for s in (1, 2)]
    folders.append(write_run(tmp_path / "longer", 1, 50.0, max_iter=200))
    lines = summarize(monkeypatch, capsys, *folders)
    assert "val sem_seg" in lines[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert cells == [
        ["LinearSegmentor", "1", "0:12:34", "42.00"],
        ["LinearSegmentor", "2", "0:12:34", "44.00"],
        ["LinearSegmentor", "mean", "", "**43.00** ± 1.41"],
        ["LinearSegmentor", "1", "0:12:34", "50.00"],
    ]


def test_a_folder_that_is_no_run_is_named(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit, match="has no evaluation.json: it is not a finished run"):
        summarize(monkeypatch, capsys, tmp_path)
