"""Notebook 08: missed detections, and what becomes of a guarantee when things change."""

from __future__ import annotations

from monitorlab.chapters.online.datasets import sizes, stand_ins
from monitorlab.chapters.online.figures import plot_protocol
from monitorlab.chapters.shift import figures, groups, scenes
from monitorlab.monitors import recorded
from monitorlab.online.comparison import ALL_METHODS, VILLE
from monitorlab.online.score_files import load_evaluator
from monitorlab.statistics.intervals import check_level
from monitorlab.storage import sources
from monitorlab.storage.tables import SCHEMAS

__all__ = [
    "ALL_METHODS", "SCHEMAS", "VILLE", "check_level", "figures", "groups", "load_evaluator",
    "plot_protocol", "recorded", "scenes", "sizes", "sources", "stand_ins",
]  # fmt: skip
