"""Progress of an evaluation: a bar on a terminal, Detectron2's log lines elsewhere."""

import itertools
import logging
import sys
from collections.abc import Iterator

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from detectron2.utils import comm

from .interrupts import interrupted

_LOG_LINES = "detectron2.evaluation.evaluator"


class WithProgressBar:
    """A data loader that shows its progress and the remaining time on a terminal.

    It ends early if the evaluation is interrupted.

    Detectron2's lines of the same content ("Inference done ...") are left out then; all else that
    is logged meanwhile stays above the bar.

    Args:
        data_loader: has a length.
        title: text before the bar.
    """

    def __init__(self, data_loader, title: str):
        self.data_loader = data_loader
        self.title = title

    def __len__(self) -> int:
        return len(self.data_loader)

    def __iter__(self) -> Iterator:
        return itertools.takewhile(lambda _: not interrupted(), self._with_bar())

    def _with_bar(self) -> Iterator:
        if not (sys.stderr.isatty() and comm.is_main_process()):
            yield from self.data_loader
            return
        log_lines = logging.getLogger(_LOG_LINES)
        log_lines.addFilter(_is_no_progress)
        try:
            with logging_redirect_tqdm([logging.getLogger("detectron2"), logging.getLogger()]):
                yield from tqdm(self.data_loader, self.title, unit="image", dynamic_ncols=True)
        finally:
            log_lines.removeFilter(_is_no_progress)


def _is_no_progress(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("Inference done")
