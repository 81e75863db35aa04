"""Notebook 05: arms of a fine-tuning experiment."""

from __future__ import annotations

from monitorlab.benchmark.written import TIERS
from monitorlab.chapters.finetuning import figures, published, transfer
from monitorlab.chapters.finetuning.arms import BEYOND, CHECKS_ALONE, EVERY_ARM, SEEN_BY
from monitorlab.chapters.finetuning.study import Experiment, Study, own_benchmark
from monitorlab.finetuning.recipe import PAPER, verdict_examples
from monitorlab.finetuning.train import pair_losses, reply_loss
from monitorlab.monitors.build import build_monitor
from monitorlab.monitors.checks.program import CHECKS_FIRST, ChecksFirst
from monitorlab.monitors.scoring import score
from monitorlab.storage.tables import FINETUNED_VERDICTS, FINETUNING

__all__ = [
    "BEYOND", "CHECKS_ALONE", "CHECKS_FIRST", "EVERY_ARM", "FINETUNED_VERDICTS", "FINETUNING",
    "PAPER", "SEEN_BY", "TIERS", "ChecksFirst", "Experiment", "Study", "build_monitor", "figures",
    "own_benchmark", "pair_losses", "published", "reply_loss", "score", "transfer",
    "verdict_examples",
]  # fmt: skip
