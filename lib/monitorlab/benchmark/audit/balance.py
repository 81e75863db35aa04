"""Do the two sides of a cell look alike? Lengths, and the words they use."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from scipy.spatial.distance import jensenshannon
from sklearn.feature_extraction.text import CountVectorizer

SWAPS = 200
_WORDS = re.compile(r"\b\w+\b")


def length_balance(samples: pd.DataFrame) -> pd.DataFrame:
    """Words per response, by cell and side.

    Parameters
    ----------
    samples : DataFrame
        Schema ``samples``.

    Returns
    -------
    DataFrame
        Columns cell, benign and misbehaving (mean words), and the share of pairs in which the
        misbehaving response is longer (ties counted half). Samples without a partner do not count.
    """
    words = samples.assign(words=samples["response"].str.split().str.len())
    wide = words.pivot(index=["cell", "pair_id"], columns="label", values="words").dropna()
    wide["longer"] = (wide[1] > wide[0]) + 0.5 * (wide[1] == wide[0])
    found = wide.groupby("cell", sort=False)[[0, 1, "longer"]].mean()
    names = {0: "benign", 1: "misbehaving", "longer": "misbehaving longer"}
    return found.rename(columns=names).reset_index().rename_axis(columns=None)


def shared_words(samples: pd.DataFrame) -> pd.DataFrame:
    """How much of their words the two responses of a pair share: how near they are to minimal.

    Parameters
    ----------
    samples : DataFrame
        Schema ``samples``.

    Returns
    -------
    DataFrame
        Columns cell, and over its pairs ``mean``, ``least`` and ``most`` of the Jaccard similarity
        of the sets of words: those that both responses use, as a share of those that either does;
        in [0, 1], where 1 is a pair that differs in no word; samples without a partner do not
        count.
    """
    words = samples.assign(words=[frozenset(_WORDS.findall(text.lower()))
                                  for text in samples["response"]])
    wide = words.pivot(index=["cell", "pair_id"], columns="label", values="words").dropna()
    wide["shared"] = [len(a & b) / max(len(a | b), 1)
                      for a, b in zip(wide[0], wide[1], strict=True)]
    found = wide["shared"].groupby("cell", sort=False).agg(["mean", "min", "max"])
    return found.set_axis(["mean", "least", "most"], axis=1).reset_index()


def vocabulary_balance(samples: pd.DataFrame, random: np.random.Generator) -> pd.DataFrame:
    """Distance between the word distributions of both sides, beside what chance gives.

    The Jensen-Shannon distance is 0 for equal distributions and 1 for disjoint ones. Swapping the
    labels within randomly chosen *scenarios* shows how large it is when a label has no words of its
    own: the pairs of one scenario share wording, so they are swapped together.

    Parameters
    ----------
    samples : DataFrame
        Schema ``samples``.
    random : Generator
        For the swaps.

    Returns
    -------
    DataFrame
        Columns cell, distance, chance (mean over swaps) and chance_high (its 97.5 % quantile).
    """
    rows = []
    for cell, part in samples.groupby("cell", sort=False):
        counts = CountVectorizer(token_pattern=r"(?u)\b\w+\b").fit_transform(part["response"])
        labels = part["label"].to_numpy()
        scenarios, codes = np.unique(part["scenario_id"], return_inverse=True)
        # Counts per scenario and side are enough for every swap.
        belongs = csr_array((np.ones(len(codes)), (codes, np.arange(len(codes)))))
        sides = [belongs @ counts.multiply((labels == label)[:, None]).tocsr() for label in (0, 1)]
        found = jensenshannon(sides[0].sum(axis=0), sides[1].sum(axis=0), base=2)
        swapped = []
        for _ in range(SWAPS):
            swap = (random.random(len(scenarios)) < 0.5).astype(float)
            first = sides[1].T @ swap + sides[0].T @ (1 - swap)
            second = sides[0].T @ swap + sides[1].T @ (1 - swap)
            swapped.append(jensenshannon(first, second, base=2))
        rows.append((cell, found, np.mean(swapped), np.quantile(swapped, 0.975)))
    return pd.DataFrame(rows, columns=["cell", "distance", "chance", "chance_high"])
