"""Studies that train classifiers on one base config with several seeds, and compare them."""

from .plan import PlannedRun, Variant, parse_variant, plan_runs
from .results import Study, StudyRun, compare, markdown_table, read_planned, read_study

__all__ = [
    "PlannedRun",
    "Study",
    "StudyRun",
    "Variant",
    "compare",
    "markdown_table",
    "parse_variant",
    "plan_runs",
    "read_planned",
    "read_study",
]
