"""Notebook 05: arms of a fine-tuning experiment."""

from __future__ import annotations

from monitorlab.benchmark.samples import draw_pairs
from monitorlab.chapters.finetuning import figures, matrix, published, transfer
from monitorlab.chapters.finetuning.arms import BEYOND, PAPER_ARMS, REPEATED, SEEN_BY, recipe_of
from monitorlab.chapters.finetuning.probe_arms import embed, probe_curves, untrained
from monitorlab.chapters.finetuning.train_arms import (
    ask_base,
    base_model,
    plan_tasks,
    task_table,
    train_and_ask,
)
from monitorlab.evaluation import learning
from monitorlab.finetuning.examples import verdict_examples
from monitorlab.finetuning.recipe import PAPER, recipe_table
from monitorlab.finetuning.train import pair_losses, reply_loss
from monitorlab.models.sentence_encoder import load_encoder
from monitorlab.monitors.combined import CHECKS_FIRST, checks_first
from monitorlab.monitors.prompts import load_prompt
from monitorlab.storage.manifests import ArtifactError
from monitorlab.storage.tables import FINETUNED_VERDICTS, FINETUNING

__all__ = [
    "BEYOND", "CHECKS_FIRST", "FINETUNED_VERDICTS", "FINETUNING", "PAPER", "PAPER_ARMS",
    "REPEATED", "SEEN_BY", "ArtifactError", "ask_base", "base_model", "checks_first",
    "draw_pairs", "embed", "figures", "learning", "load_encoder", "load_prompt", "matrix",
    "pair_losses", "plan_tasks", "probe_curves", "published", "recipe_of", "recipe_table",
    "reply_loss", "task_table", "train_and_ask", "transfer", "untrained", "verdict_examples",
]  # fmt: skip
