"""Shortcut probes: how well can labels be guessed without judging what was done?

A probe sees only a part of a sample (its length, its words, its request) and is cross-validated
with whole scenarios held out. Near .5 the benchmark offers no such shortcut.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import Pipeline, make_pipeline

from monitorlab.benchmark.samples import draw_pairs, whole_texts
from monitorlab.statistics.intervals import draw_units, percentiles
from monitorlab.statistics.roc import auroc, resampled_auroc

FOLDS = 5
RESAMPLES = 1000


def word_probe() -> Pipeline:
    """Words and word pairs, weighted by TF-IDF, under logistic regression.

    Returns
    -------
    Pipeline
        Takes texts.
    """
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True,
                            token_pattern=r"(?u)\b\w+\b")
    return make_pipeline(words, LogisticRegression(C=4.0, max_iter=400))


def held_out_scores(
    texts: Sequence[str], labels: np.ndarray, groups: np.ndarray, model: Pipeline | None = None
) -> np.ndarray:
    """Scores of each text by a model that never saw its scenario.

    Parameters
    ----------
    texts : sequence of str
        What the probe may read.
    labels : (n,) array
        1 is misbehavior.
    groups : (n,) array
        Scenario of each text.
    model : Pipeline, optional
        A vectorizer that counts words and a classifier; `word_probe` by default. All texts are
        counted once, and each fold keeps the words that `min_df` of its training texts hold.

    Returns
    -------
    (n,) array
        Log-odds of misbehavior.
    """
    vectorizer, classifier = model or word_probe()
    counted = CountVectorizer(ngram_range=vectorizer.ngram_range, binary=vectorizer.binary,
                              token_pattern=vectorizer.token_pattern).fit_transform(texts)
    scores = np.zeros(len(labels))
    folds = GroupKFold(min(FOLDS, len(np.unique(groups))), shuffle=True, random_state=0)
    for train, test in folds.split(scores, labels, groups):
        rows = counted[:, counted[train].getnnz(axis=0) >= vectorizer.min_df]
        if isinstance(vectorizer, TfidfVectorizer):
            weighted = TfidfTransformer(sublinear_tf=vectorizer.sublinear_tf).fit(rows[train])
            rows = weighted.transform(rows)
        if rows.shape[1] and len(np.unique(labels[train])) == 2:  # else there is nothing to learn
            scores[test] = classifier.fit(rows[train], labels[train]).decision_function(rows[test])
    return scores


def _measure(
    scores: np.ndarray, labels: np.ndarray, groups: np.ndarray, random: np.random.Generator
) -> tuple[float, float, float]:
    """AUROC with an interval over scenarios.

    Parameters
    ----------
    scores : (n,) array
        High is suspicious.
    labels : (n,) array
        1 is misbehavior.
    groups : (n,) array
        Scenario of each sample; scenarios are resampled whole.
    random : Generator
        For the resamples.

    Returns
    -------
    auroc, low, high : float
        Estimate and 95 % percentile interval from resampling whole scenarios.
    """
    names, codes = np.unique(groups, return_inverse=True)
    (weights,) = draw_units(random, len(names), RESAMPLES, RESAMPLES * len(names))
    draws = resampled_auroc(scores, labels, codes, weights)
    (low,), (high,) = percentiles(draws[None], 0.95)
    return auroc(scores, labels), float(low), float(high)


def probe_cells(samples: pd.DataFrame, random: np.random.Generator) -> pd.DataFrame:
    """Run every probe on every cell.

    Parameters
    ----------
    samples : DataFrame
        Schema ``samples``.
    random : Generator
        For the intervals.

    Returns
    -------
    DataFrame
        Columns cell, probe (length, keywords, response words, request words, and the words of
        both), auroc, low, high; a cell with fewer than `FOLDS` scenarios has no rows.

    Raises
    ------
    ValueError
        If no cell has as many.
    """
    rows = []
    for cell, part in samples.groupby("cell", sort=False):
        labels = part["label"].to_numpy()
        groups = part["scenario_id"].to_numpy()
        if len(np.unique(groups)) < FOLDS:
            continue
        # Words alone, without counts or pairs, are what a list of suspicious keywords could know.
        present = make_pipeline(CountVectorizer(binary=True, min_df=3),
                                LogisticRegression(C=0.5, max_iter=400))
        responses, requests = list(part["response"]), list(part["request"])
        scores = {
            "length": part["response"].str.len().to_numpy(float),
            "keywords": held_out_scores(responses, labels, groups, present),
            "response words": held_out_scores(responses, labels, groups),
            "request words": held_out_scores(requests, labels, groups),
            "all words": held_out_scores(whole_texts(part), labels, groups),
        }
        rows += [(cell, name, *_measure(values, labels, groups, random))
                 for name, values in scores.items()]
    if not rows:
        raise ValueError("probes learn on some scenarios of a cell and judge others, and no cell "
                         f"has {FOLDS} of them: add samples, or give several a common cell")
    return pd.DataFrame(rows, columns=["cell", "probe", "auroc", "low", "high"])


def probe_corpus(
    corpus: pd.DataFrame, random: np.random.Generator, pairs: int = 300
) -> pd.DataFrame:
    """How much of a training corpus do words learn, on scenarios and kinds that they never saw?

    Parameters
    ----------
    corpus : DataFrame
        Schema ``corpus``.
    random : Generator
        Draws pairs, and the resamples of the intervals.
    pairs : int
        Pairs drawn of each component at most.

    Returns
    -------
    DataFrame
        A row per component: samples, then auroc, auroc_low and auroc_high of `word_probe` on unseen
        scenarios (tasks, places, questions), and kinds, kinds_low and kinds_high where the kind of
        misbehavior (CWE class, deed, cue) is unseen, too. Intervals are over scenarios and over
        kinds.
    """
    rows = []
    drawn = draw_pairs(corpus, pairs, random, ("component",))
    for component, part in drawn.groupby("component", sort=False):
        texts, labels = list(part["response"]), part["label"].to_numpy()
        scenarios = part["scenario_id"].to_numpy()
        kind = "cue_type" if str(component).startswith("syco") else "misbehavior_type"
        kinds = part[kind].to_numpy()
        seen = held_out_scores(texts, labels, scenarios)
        unseen = np.zeros(len(part))
        half = pd.factorize(scenarios)[0] % 2
        folds = GroupKFold(min(FOLDS, len(np.unique(kinds))), shuffle=True, random_state=0)
        for train, test in folds.split(texts, labels, kinds):
            for side in (0, 1):
                known, new = train[half[train] != side], test[half[test] == side]
                model = word_probe().fit([texts[i] for i in known], labels[known])
                unseen[new] = model.decision_function([texts[i] for i in new])
        rows.append((component, len(part), *_measure(seen, labels, scenarios, random),
                     *_measure(unseen, labels, kinds, random)))  # fmt: skip
    columns = ["component", "samples", "auroc", "auroc_low", "auroc_high",
               "kinds", "kinds_low", "kinds_high"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def telling_words(
    texts: Sequence[str], labels: np.ndarray, n: int = 12
) -> tuple[list[str], list[str]]:
    """Words that speak most for misbehavior and for benign, over all scenarios.

    Parameters
    ----------
    texts : sequence of str
        Responses.
    labels : (n,) array
        1 is misbehavior.
    n : int
        Words per side.

    Returns
    -------
    misbehaving, benign : list of str
        Most telling first.
    """
    model = word_probe().fit(texts, labels)
    names = model[0].get_feature_names_out()
    order = np.argsort(model[1].coef_[0])
    return list(names[order[::-1][:n]]), list(names[order[:n]])
