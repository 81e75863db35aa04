"""Notebook 07: calibrated alarms."""

from __future__ import annotations

from monitorlab.chapters.online import datasets, figures
from monitorlab.chapters.online.summary import Comparison, headline_metrics
from monitorlab.statistics.intervals import check_level
from monitorlab.storage import sources
from monitorlab.storage.tables import SCHEMAS

__all__ = [
    "SCHEMAS", "Comparison", "check_level", "datasets", "figures", "headline_metrics",
    "sources",
]  # fmt: skip
