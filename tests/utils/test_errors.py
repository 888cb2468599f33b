"""Which errors are a user's, and how they end a program."""

import logging
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

import d2_ctxseg
from d2_ctxseg.data import DatasetError
from d2_ctxseg.utils.errors import (
    MissingFileError,
    UsageError,
    UserError,
    counted,
    explain,
    run_command,
    shown,
)


def raise_(error):
    raise error


def ending(error, capsys) -> tuple[object, str]:
    """Exit code, and what is printed, of a program that raises ``error``."""
    with pytest.raises(SystemExit) as end:
        run_command(lambda: raise_(error))
    if isinstance(end.value.code, str):  # Python prints it and exits with 1
        return 1, end.value.code
    return end.value.code, capsys.readouterr().err.strip()


class TestExit:
    @pytest.mark.parametrize(
        ("error", "code", "message"),
        [
            (UserError("no such thing"), 1, "error: no such thing"),
            (MissingFileError("no file"), 1, "error: no file"),
            (UsageError("--num-gpus is 0"), 2, "error: --num-gpus is 0"),
            (FileNotFoundError(2, "No such file", "a.png"), 1, "error: 'a.png': No such file."),
            (OSError(28, "No space left", "a", None, "b"), 1, "error: 'a' -> 'b': No space left."),
            (RuntimeError("CUDA out of memory. Tried"), 1, "error: Out of memory: CUDA out of"),
            (FloatingPointError("Loss became infinite or NaN at"), 1, "error: Loss became inf"),
            (KeyboardInterrupt(), 130, ""),
        ],
    )
    def test_of_a_users_errors(self, error, code, message, capsys):
        found, printed = ending(error, capsys)
        assert found == code
        assert printed.startswith(message)

    @pytest.mark.parametrize(
        "error",
        [
            ValueError("x"),
            RuntimeError("x"),
            AttributeError("x"),
            AssertionError(),
            FileNotFoundError(2, "lost", str(Path(d2_ctxseg.__file__).parent / "report" / "x.css")),
        ],
    )
    def test_defects_keep_their_traceback(self, error):
        with pytest.raises(type(error)):
            run_command(lambda: raise_(error))

    def test_a_variable_shows_every_traceback(self, monkeypatch):
        monkeypatch.setenv("D2_CTXSEG_TRACEBACK", "1")
        with pytest.raises(UserError):
            run_command(lambda: raise_(UserError("x")))


class Broken(Dataset):
    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 1

    def __getitem__(self, index):
        try:
            raise OSError("first")
        except OSError as error:
            raise self.error from error


@pytest.mark.parametrize(
    "error",
    [
        DatasetError("The label a.png\n  has two lines: and a colon"),
        UserError("Caught in the act"),
        OSError("image file is truncated"),
    ],
)
def test_of_an_error_in_a_loader_worker_the_workers_message_is_left(error):
    loader = DataLoader(Broken(error), num_workers=1)
    with pytest.raises(type(error)) as caught:
        next(iter(loader))
    assert "Traceback" in str(caught.value)
    assert explain(caught.value) == str(error)


def test_the_log_of_a_training_has_no_traceback_of_a_users_error(caplog):
    logger = logging.getLogger("detectron2.engine.train_loop")

    def train():
        for error in (UserError("bad label"), ZeroDivisionError("defect")):
            try:
                raise error
            except Exception:
                logger.exception("Exception in writing metrics:")

    with caplog.at_level(logging.INFO, logger.name):
        run_command(train)
    users, defect = caplog.records
    assert users.getMessage() == "Exception in writing metrics: bad label"
    assert users.exc_info is None
    assert defect.exc_info is not None


def test_long_values_are_shortened():
    assert len(shown(list(range(10**5)))) < 100
    assert len(shown("x" * 10**5)) < 300
    nested = ["x"] * 9
    for _ in range(12):
        nested = [nested] * 9  # 9 ** 13 items
    assert len(shown(nested)) < 10**5
    assert shown((1, 2.5)) == "(1, 2.5)"


def test_nouns_agree_with_their_number():
    assert [counted(number, "colour") for number in (0, 1, 2)] == [
        "0 colours",
        "1 colour",
        "2 colours",
    ]
    assert [counted(number, "entry", "entries") for number in (1, 3)] == ["1 entry", "3 entries"]
