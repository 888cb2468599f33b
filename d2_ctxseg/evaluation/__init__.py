"""Evaluation of segmentors."""

from .evaluator import SegmentationEvaluator
from .results import by_dataset, format_class_table, merge_tasks

__all__ = ["SegmentationEvaluator", "by_dataset", "format_class_table", "merge_tasks"]
