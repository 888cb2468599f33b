"""tools/compare_classifiers.py as a command: trained, interrupted, continued, gathered."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from data_folders import run_script
from study_runs import write_run

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "compare_classifiers.py"


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, str(TOOL), *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(*arguments):
    process = start(*arguments)
    output, _ = process.communicate(timeout=600)
    return process.returncode, output


@pytest.mark.slow
def test_a_study_that_is_interrupted_continues_where_it_was(tiny_run):
    output = tiny_run.parent / "study"
    arguments = ["--config-file", tiny_run, "--classifiers", "linear", "context_aware"]
    arguments += ["--seeds", 1, "--output", output, "--num-resamples", 200]
    settings = ["SOLVER.MAX_ITER", 90, "SOLVER.CHECKPOINT_PERIOD", 90, "TEST.EVAL_PERIOD", 0]
    process = start(*arguments, *settings)
    deadline = time.monotonic() + 300
    while not (output / "linear" / "seed_1" / "metrics.json").is_file():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)  # as Ctrl-C; a shell's background job ignores that
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 130, text
    assert list((output / "linear" / "seed_1").glob("model_0*.pth")), "no checkpoint was left"
    assert not (output / "comparison.json").exists()

    code, text = run(*arguments, "--jobs", min(2, len(os.sched_getaffinity(0))), *settings)
    assert code == 0, text
    assert "of 90 iterations done" in text and "Estimated time" in text
    log = (output / "linear" / "seed_1" / "log.txt").read_text()
    assert "Starting training from iteration 0" in log
    assert log.count("Starting training from iteration") == 2
    content = json.loads((output / "comparison.json").read_text())
    assert list(content["classifiers"]) == ["linear", "context_aware"]
    cost = content["classifiers"]["context_aware"]["cost"]
    assert {"test_parameters", "seconds_per_image", "peak_memory_bytes"} <= set(cost)
    assert (output / "comparison.html").is_file() and (output / "comparison.md").is_file()

    before = (output / "linear" / "seed_1" / "model_final.pth").stat().st_mtime_ns
    code, text = run(*arguments, *settings)
    assert code == 0 and text.count(": finished") == 2, text
    assert (output / "linear" / "seed_1" / "model_final.pth").stat().st_mtime_ns == before


@pytest.fixture
def compare(capsys):
    """Runs the command in this process: its exit code and what it printed."""

    def run(*arguments):
        code = run_script(TOOL, *arguments)
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run


def test_plan_and_commands_train_nothing(tiny_run, compare):
    output = tiny_run.parent / "study"
    arguments = ["--config-file", tiny_run, "--seeds", 1, 2, "--output", output]
    code, text = compare(*arguments, "--print-commands", "SOLVER.MAX_ITER", 3)
    commands = [line for line in text.splitlines() if line.startswith("d2-ctxseg train ")]
    assert code == 0 and len(commands) == 4, text
    assert all("SOLVER.MAX_ITER 3" in line and "--resume" in line for line in commands)
    assert not output.exists()


def test_folders_of_other_machines_are_gathered(tmp_path, compare):
    folders = [
        write_run(tmp_path / f"{name}_{seed}", name, seed, accuracy)
        for name, accuracy in (("linear", 0.5), ("context_aware", 0.7))
        for seed in (1, 2, 3)
    ]
    code, text = compare("--output", tmp_path / "out", "--num-resamples", 300, "--runs", *folders)
    assert code == 0, text
    assert "context_aware: gains" in text
    assert json.loads((tmp_path / "out" / "comparison.json").read_text())["baseline"] == "linear"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--classifiers", "linaer"], "Did you mean 'linear'"),
        (["--baseline", "lin"], "--baseline: 'lin' is not one of linear, context_aware"),
        (["--gather"], "No run of the baseline 'linear' is finished"),
    ],
)
def test_bad_input_is_reported_in_one_message(tiny_run, compare, arguments, message):
    code, text = compare(
        "--config-file", tiny_run, "--output", tiny_run.parent / "study", *arguments
    )
    assert code == 1 and message in text and "Traceback" not in text, text
