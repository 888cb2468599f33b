"""Writes one HTML report about one or several training runs."""

from .page import write_report

__all__ = ["write_report"]
