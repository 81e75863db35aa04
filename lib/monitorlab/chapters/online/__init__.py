"""Notebook 07: calibrated alarms."""

from __future__ import annotations

from monitorlab.chapters.online import datasets, figures, summary
from monitorlab.online.comparison import ALL_METHODS, PAPER_METHODS, TRIVIAL_METHODS
from monitorlab.online.score_files import load_evaluator
from monitorlab.statistics.intervals import check_level
from monitorlab.storage import sources
from monitorlab.storage.tables import SCHEMAS

__all__ = [
    "ALL_METHODS", "PAPER_METHODS", "SCHEMAS", "TRIVIAL_METHODS", "check_level", "datasets",
    "figures", "load_evaluator", "sources", "summary",
]  # fmt: skip
