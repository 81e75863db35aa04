"""The same arms with a frozen encoder: every text is embedded once, every probe takes a second.

So what costs minutes with a language model, many sizes and many seeds, is nearly free here.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy.special import expit

from monitorlab.chapters.finetuning.arms import Arm, arm_rows
from monitorlab.models.sentence_encoder import Encoder
from monitorlab.monitors.learned import features, fit_probe
from monitorlab.monitors.monitor import NO_PROMPT, MonitorError
from monitorlab.monitors.verdicts import PARSED, THRESHOLD

KIND = "relation"  # of the features: the response, and how it relates to the request


@dataclass(frozen=True)
class _Embedded:
    """Samples with the features of a frozen encoder.

    Attributes
    ----------
    samples : DataFrame
        Schema ``samples`` or ``corpus``.
    table : (n, n_features) array
        One row per sample.
    """

    samples: pd.DataFrame
    table: np.ndarray = field(repr=False)


def embed(encoder: Encoder, samples: pd.DataFrame) -> _Embedded:
    """Embed request and response of every sample."""
    table = features(encoder, list(samples["request"]), list(samples["response"]), KIND)
    return _Embedded(samples.reset_index(drop=True), table)


def _probe_verdicts(
    arm: Arm, corpus: _Embedded, samples: _Embedded, size: int, rng: np.random.Generator,
    share: float = 1.0,
) -> pd.DataFrame:
    """Train the probe of one arm and score samples with it.

    Parameters
    ----------
    arm : Arm
        Its components; another loss does not apply to a probe.
    corpus, samples : _Embedded
        What it learns from, and what it judges.
    size : int
        Samples at share 1; 0 is all of its components.
    rng : Generator
        Draws pairs.
    share : float
        Of the size.

    Returns
    -------
    DataFrame
        ``sample_id, monitor, prompt, draw, status, verdict, score, evidence``, as
        :func:`monitorlab.evaluation.rates.join` takes it; ``monitor`` is the arm.

    Raises
    ------
    MonitorError
        If the arm cannot be trained as a probe.
    """
    if arm.pair_weight:
        raise MonitorError(f"arm {arm.name!r} changes the loss, which a probe on frozen "
                           "embeddings does not have: give an arm of the paper")
    drawn = arm_rows(arm, corpus.samples, size, rng, share)
    places = pd.Index(corpus.samples["sample_id"]).get_indexer(pd.Index(drawn["sample_id"]))
    weights = fit_probe(corpus.table[places], drawn["label"].to_numpy())
    return untrained(arm.name, samples).assign(
        score=(scores := expit(samples.table @ weights["coefficients"] + weights["intercept"][0])),
        verdict=pd.array(scores > THRESHOLD, dtype="boolean"),
    )


def untrained(name: str, samples: _Embedded) -> pd.DataFrame:
    """Verdicts of a probe that knows nothing: score 1/2, no alarm; columns as `_probe_verdicts`."""
    return pd.DataFrame({
        "sample_id": samples.samples["sample_id"], "monitor": name, "prompt": NO_PROMPT, "draw": 0,
        "status": PARSED, "verdict": pd.array([False] * len(samples.samples), dtype="boolean"),
        "score": 0.5, "evidence": "",
    })


def probe_curves(
    arms: Sequence[Arm], corpus: _Embedded, samples: _Embedded, sizes: Sequence[int],
    rngs: Sequence[np.random.Generator],
) -> pd.DataFrame:
    """Verdicts of every arm at every size, with one training per generator.

    Parameters
    ----------
    arms, corpus, samples
        As in `_probe_verdicts`.
    sizes : sequence of int
        Samples.
    rngs : sequence of Generator
        One per seed, each left as it is: all arms and sizes draw from the same state, so that a
        smaller size is a part of a larger one.

    Returns
    -------
    DataFrame
        As `_probe_verdicts`, with ``arm``, ``size`` and ``seed`` (its number).
    """
    return pd.concat([
        _probe_verdicts(arm, corpus, samples, size, deepcopy(rng)).assign(
            arm=arm.name, size=size, seed=number)
        for arm in arms for size in sizes for number, rng in enumerate(rngs)
    ], ignore_index=True)
