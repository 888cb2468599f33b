"""Evaluation of segmentors."""

from .evaluator import SegmentationEvaluator
from .results import add_to_results_file, by_dataset, format_class_table, merge_tasks

__all__ = [
    "SegmentationEvaluator",
    "add_to_results_file",
    "by_dataset",
    "format_class_table",
    "merge_tasks",
]
