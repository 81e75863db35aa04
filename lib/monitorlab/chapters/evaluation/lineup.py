"""The monitors that notebook 03 compares, put together from the kinds that exist.

To compare monitors of your own, build them with :func:`monitorlab.monitors.build.build_monitor`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from monitorlab.models.prefix_tree import common_prefix
from monitorlab.models.sentence_encoder import load_encoder
from monitorlab.monitors.build import build_monitor
from monitorlab.monitors.causal import LogitMonitor, TextMonitor, load_causal
from monitorlab.monitors.checks.program import ProgramChecks
from monitorlab.monitors.combined import ChecksFirst
from monitorlab.monitors.encoder import EncoderMonitor
from monitorlab.monitors.monitor import Monitor, MonitorError, Sample
from monitorlab.monitors.prompts import Prompt
from monitorlab.monitors.rules import Coin, Constant, CueFollower, Keywords
from monitorlab.monitors.words import WordMonitor

SMALL = "small stand-in LM"
REPLY_TOKENS = 24  # room for the JSON that the small model has learned to write


def rule_monitors(seed: int) -> list[Monitor]:
    """Monitors that learn nothing: constants, coin, keywords, the cue follower, program checks."""
    return [Constant(True), Constant(False), Coin(seed), Keywords(), CueFollower(), ProgramChecks()]


def learned_monitors(
    corpus: Iterable[pd.DataFrame],
    rng: np.random.Generator,
    words: int,
    embedded: int,
    dtype: str = "float32",
) -> list[Monitor]:
    """Train TF-IDF and a probe on sentence embeddings, on parts of the training corpus.

    Parameters
    ----------
    corpus : iterable of DataFrame
        Parts with columns request, response, label; read once.
    rng : Generator
        Chooses the samples.
    words, embedded : int
        Most samples that either monitor sees; 0 is all of them.
    dtype : str
        Of the encoder, "float32", "bfloat16" or "auto".
    """
    parts = list(corpus)
    return [
        WordMonitor.train(parts, rng, cap=words or None),
        EncoderMonitor.train(load_encoder(dtype=dtype), parts, rng, cap=embedded or None),
    ]


def combined_monitors(rules: Sequence[Monitor], learned: Sequence[Monitor]) -> list[Monitor]:
    """Return all together: an alarm of cue follower or program checks, else TF-IDF."""
    named = {monitor.name: monitor for monitor in (*rules, *learned)}
    checks = ChecksFirst(named["TF-IDF"], named["program checks"], ranked=False)
    return [ChecksFirst(checks, named["cue follower"], ranked=False, name="rules, else TF-IDF")]


def given_monitors(spec: str, others: Sequence[Monitor] = ()) -> list[Monitor]:
    """Return the reader's own monitor, or nothing for an empty `spec`.

    Parameters
    ----------
    spec : str
        As in :func:`monitorlab.monitors.build.build_monitor`, with its settings.
    others : sequence of Monitor
        Who takes part already.

    Raises
    ------
    MonitorError
        If it cannot be made, or is called like one of the others.
    """
    if not spec.strip():
        return []
    monitor = build_monitor(spec.strip())
    if monitor.name in {other.name for other in others}:
        raise MonitorError(f"a monitor called {monitor.name!r} takes part already, and tables tell "
                           "monitors apart by name: give another one behind it, -o name=NAME")
    return [monitor]


@dataclass(frozen=True)
class SmallModel:
    """One small causal language model, read in several ways.

    Attributes
    ----------
    by_logits : tuple of LogitMonitor
        By the probabilities of the verdict words, with the prompts that ask for a verdict.
    by_text : tuple of TextMonitor
        By the reply that it writes out, with every prompt.
    """

    by_logits: tuple[LogitMonitor, ...]
    by_text: tuple[TextMonitor, ...]

    @property
    def name(self) -> str:
        """How the tables call it."""
        return self.by_logits[0].name

    @property
    def parameters(self) -> int:
        """How many weights it has."""
        return sum(weight.numel() for weight in self.by_logits[0].engine.model.parameters())

    def sharing(self, samples: Sequence[Sample]) -> dict[str, float]:
        """How many prompt tokens there are, and how many are distinct.

        Returns
        -------
        dict
            ``total``, ``distinct`` (nodes of the prefix tree of all prompts) and ``limit``, their
            ratio: how much faster than one by one a reader of every distinct token would be.
        """
        rows = sorted(self.by_logits[0].prompts(samples))
        total = sum(map(len, rows))
        shared = sum(common_prefix(*pair) for pair in itertools.pairwise(rows))
        return {"total": total, "distinct": total - shared, "limit": total / (total - shared)}


def small_model(folder: Path, prompts: Mapping[str, Prompt]) -> SmallModel:
    """Read the checkpoint in `folder` by logits and by text, with all `prompts`."""
    checkpoint = load_causal(str(folder))
    verdicts = [prompt for prompt in prompts.values() if prompt.answer != "score"]
    return SmallModel(
        tuple(LogitMonitor(checkpoint, prompt, name=SMALL) for prompt in verdicts),
        tuple(
            TextMonitor(checkpoint, prompt, name=f"{SMALL}, as text", max_new_tokens=REPLY_TOKENS)
            for prompt in prompts.values()
        ),
    )
