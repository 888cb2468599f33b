"""Studies: classifiers trained on one base config with several seeds, and what one can conclude."""

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
