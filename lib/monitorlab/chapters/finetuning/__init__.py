"""Notebook 05: arms of a fine-tuning experiment."""

from __future__ import annotations

from monitorlab.chapters.finetuning import figures, matrix, published, transfer
from monitorlab.chapters.finetuning.arms import BEYOND, CHECKS_ALONE, EVERY_ARM, SEEN_BY, recipe_of
from monitorlab.chapters.finetuning.released import TIERS, ask_again, own_benchmark, study
from monitorlab.chapters.finetuning.train_arms import (
    base_model,
    losses,
    plan_tasks,
    task_table,
    train,
)
from monitorlab.finetuning.recipe import PAPER, verdict_examples
from monitorlab.finetuning.train import pair_losses, reply_loss
from monitorlab.monitors.build import build_monitor
from monitorlab.monitors.checks.program import CHECKS_FIRST, ChecksFirst
from monitorlab.monitors.prompts import load_prompt
from monitorlab.monitors.scoring import score
from monitorlab.storage.tables import FINETUNED_VERDICTS, FINETUNING

__all__ = [
    "BEYOND", "CHECKS_ALONE", "CHECKS_FIRST", "EVERY_ARM", "FINETUNED_VERDICTS", "FINETUNING",
    "PAPER", "SEEN_BY", "TIERS", "ChecksFirst", "ask_again", "base_model", "build_monitor",
    "figures", "load_prompt", "losses", "matrix", "own_benchmark", "pair_losses", "plan_tasks",
    "published", "recipe_of", "reply_loss", "score", "study", "task_table",
    "train", "transfer", "verdict_examples",
]  # fmt: skip
