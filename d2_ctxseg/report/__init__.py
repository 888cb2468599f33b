"""One HTML file about a training run, or about several beside each other."""

from .page import write_report

__all__ = ["write_report"]
