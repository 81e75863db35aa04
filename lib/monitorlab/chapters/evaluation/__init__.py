"""Notebook 03: monitors on the benchmark."""

from __future__ import annotations

from monitorlab.benchmark.sample_files import own_samples
from monitorlab.benchmark.samples import draw_pairs
from monitorlab.chapters.construction.figures import plot_by_tier
from monitorlab.chapters.evaluation import figures, instrument, lineup
from monitorlab.monitors import recorded
from monitorlab.monitors.catalogue import published_order
from monitorlab.monitors.monitor import VIEWS, Viewed
from monitorlab.monitors.prompts import load_prompt
from monitorlab.monitors.rules import CORNERS
from monitorlab.monitors.store import VerdictStore
from monitorlab.storage.manifests import ArtifactError
from monitorlab.storage.sources import cache_folder
from monitorlab.storage.tables import RATES

__all__ = [
    "CORNERS", "RATES", "VIEWS", "ArtifactError", "VerdictStore", "Viewed", "cache_folder",
    "draw_pairs", "figures", "instrument", "lineup", "load_prompt", "own_samples", "plot_by_tier",
    "published_order", "recorded",
]  # fmt: skip
