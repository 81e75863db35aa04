"""Notebooks 01 and 02: the benchmark, looked at."""

from __future__ import annotations

from monitorlab.benchmark.audit.annotation import agreement_table
from monitorlab.benchmark.sample_files import own_samples
from monitorlab.benchmark.samples import whole_texts
from monitorlab.benchmark.sandbox import runner
from monitorlab.benchmark.writing.composition import compose_pair
from monitorlab.benchmark.writing.corpus import SIZE, Report, build_corpus
from monitorlab.chapters.construction import browser, figures, overview, real_pairs
from monitorlab.chapters.construction.browser import browse

__all__ = [
    "SIZE", "Report", "agreement_table", "browse", "browser", "build_corpus", "compose_pair",
    "figures", "overview", "own_samples", "real_pairs", "runner", "whole_texts",
]  # fmt: skip
