"""Notebook 04: thresholds."""

from __future__ import annotations

from monitorlab.benchmark.sample_files import own_samples
from monitorlab.benchmark.samples import halved
from monitorlab.chapters.operating_points import figures
from monitorlab.evaluation import tradeoff
from monitorlab.monitors import recorded
from monitorlab.monitors.rules import CORNERS
from monitorlab.storage.tables import OPERATING_POINTS

__all__ = [
    "CORNERS", "OPERATING_POINTS", "figures", "halved", "own_samples",
    "recorded", "tradeoff",
]  # fmt: skip
