"""Showing, checking and flattening results of evaluators."""

import logging
import pprint
import sys
from collections.abc import Mapping

import numpy as np

__all__ = ["flatten_results_dict", "print_csv_format", "verify_results"]

logger = logging.getLogger(__name__)


def print_csv_format(results: Mapping) -> None:
    """Log the main metrics of each task in lines that can be pasted into a spreadsheet.

    Args:
        results: {task: {metric: number}}. Metrics with a "-" in their name are of one class and
            left out.
    """
    assert isinstance(results, Mapping) or not results, f"Not a dict of results: {results}"
    for task, metrics in results.items():
        if not isinstance(metrics, Mapping):
            logger.info(f"copypaste: {task}={metrics}")
            continue
        main = {name: value for name, value in metrics.items() if "-" not in name}
        logger.info(f"copypaste: Task: {task}")
        logger.info("copypaste: " + ",".join(main))
        logger.info("copypaste: " + ",".join(f"{value:.4f}" for value in main.values()))


def verify_results(cfg, results: Mapping) -> bool:
    """Compare results with ``cfg.TEST.EXPECTED_RESULTS``: [task, metric, expected, tolerance] each.

    Returns:
        True. If a metric is missing, not finite or too far off, the process exits with status 1.
    """
    expected_results = cfg.TEST.EXPECTED_RESULTS
    if not expected_results:
        return True
    if all(_is_as_expected(results, *expected) for expected in expected_results):
        logger.info("Results verification passed.")
        return True
    logger.error("Result verification failed!")
    logger.error(f"Expected Results: {expected_results}")
    logger.error(f"Actual Results: {pprint.pformat(results)}")
    sys.exit(1)


def _is_as_expected(results, task: str, metric: str, expected: float, tolerance: float) -> bool:
    actual = results[task].get(metric)
    return actual is not None and np.isfinite(actual) and abs(actual - expected) <= tolerance


def flatten_results_dict(results: Mapping) -> dict:
    """{"a": {"b": 1}} becomes {"a/b": 1}, at any depth."""
    flat = {}
    for key, value in results.items():
        if isinstance(value, Mapping):
            inner = flatten_results_dict(value)
            flat.update({f"{key}/{inner_key}": number for inner_key, number in inner.items()})
        else:
            flat[key] = value
    return flat
