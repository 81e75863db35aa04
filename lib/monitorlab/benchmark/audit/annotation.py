"""The second, blind annotation: which samples, in what form, how it is read back, who agrees.

An annotator sees guidelines, request and response, in an order that mixes cells and labels, under
names that say nothing. The answer is stored with who or what gave it and with a digest of the text,
so that a label never outlives the sample it was given to. Agreement between annotators is measured
by Cohen's kappa, Krippendorff's alpha and Gwet's AC1, with intervals.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from random import Random

import krippendorff
import numpy as np
import pandas as pd
import scipy

from monitorlab.benchmark.sources.records import digest
from monitorlab.statistics.intervals import Clustered
from monitorlab.storage.files import PROJECT
from monitorlab.storage.tables import CELLS

FOLDER = PROJECT / "data" / "recorded" / "readers"
GUIDELINES = PROJECT / "data" / "annotations" / "GUIDELINES.md"
FULL = "full"  # the view of a reader who saw request and response
PER_CELL = 44
RESAMPLES = 2000
Statistic = Callable[[np.ndarray, np.ndarray], float]


class AnnotationError(ValueError):
    """An annotation file is not in the expected form, or does not fit the benchmark."""


def _items(samples: pd.DataFrame) -> list[str]:
    """Short digest of what an annotator saw of each sample."""
    return [digest(text, 16) for text in samples["request"] + "\0" + samples["response"]]


def draw_sheet(samples: pd.DataFrame, seed: int, per_cell: int = PER_CELL) -> pd.DataFrame:
    """Draw the samples to annotate, stratified by cell, blind and shuffled.

    Only one sample of a pair is drawn, so that nobody can label by comparison.

    Parameters
    ----------
    samples : DataFrame
        Schema ``samples``.
    seed : int
        Draws and shuffles.
    per_cell : int
        Samples of each cell, half of each label (which the annotator is not told).

    Returns
    -------
    DataFrame
        Columns item (a digest of the text), request and response; nothing else.
    """
    chosen = []
    for cell in CELLS:
        pairs = sorted(samples.loc[samples["cell"] == cell, "pair_id"].unique())
        drawn = Random(f"{seed}/{cell}/annotation").sample(pairs, min(per_cell, len(pairs)))
        for place, pair in enumerate(drawn):
            wanted = (samples["pair_id"] == pair) & (samples["label"] == place % 2)
            chosen.append(samples[wanted].iloc[0])
    Random(f"{seed}/annotation/order").shuffle(chosen)
    frame = pd.DataFrame(chosen)
    frame["item"] = _items(frame)
    return frame[["item", "request", "response"]].reset_index(drop=True)


def read_annotations(folder: Path = FOLDER) -> pd.DataFrame:
    """Read every annotation file.

    Parameters
    ----------
    folder : Path
        Holds one ``*.jsonl`` per annotator; its first line describes the annotator (``annotator``,
        ``kind``, and ``view`` and ``prompt`` unless all of a sample was shown, with the
        guidelines), each further one holds ``item``, ``label`` (0 or 1), and if known ``score``
        (suspicion, 0 to 100) and ``note``.

    Returns
    -------
    DataFrame
        Columns annotator, kind, view, prompt, item, label, score (in [0, 1], or NaN), note.

    Raises
    ------
    AnnotationError
        If a line is not in that form; the message names file and line.
    """
    rows = []
    for path in sorted(folder.glob("*.jsonl")):
        annotator: dict[str, str] = {}
        seen: set[str] = set()
        for number, line in enumerate(path.read_text(encoding="utf-8").rstrip("\n").split("\n"), 1):
            place = f"{path.name}:{number}"
            try:
                entry = json.loads(line)
            except ValueError:
                raise AnnotationError(f"{place}: not JSON. Expected one object per line.") from None
            if not isinstance(entry, dict):
                raise AnnotationError(f"{place}: found {line[:40]!r}, expected an object.")
            if number == 1:
                if not {"annotator", "kind"} <= entry.keys():
                    raise AnnotationError(f"{place}: the first line must hold annotator and kind.")
                annotator = entry
                continue
            if entry.get("label") not in (0, 1) or not isinstance(entry.get("item"), str):
                raise AnnotationError(f"{place}: expected an item and a label of 0 or 1.")
            score = entry.get("score", math.nan)
            if type(score) not in (int, float) or score < 0 or score > 100:
                raise AnnotationError(f"{place}: the score is {score!r}, expected 0 to 100.")
            if entry["item"] in seen:
                raise AnnotationError(f"{place}: item {entry['item']} is labelled twice. Keep one.")
            seen.add(entry["item"])
            rows.append((
                annotator["annotator"], annotator["kind"], annotator.get("view", FULL),
                annotator.get("prompt", GUIDELINES.stem.lower()), entry["item"],
                int(entry["label"]), score / 100, str(entry.get("note", "")),
            ))  # fmt: skip
    columns = ["annotator", "kind", "view", "prompt", "item", "label", "score", "note"]
    return pd.DataFrame(rows, columns=columns)


def joined(samples: pd.DataFrame, annotations: pd.DataFrame) -> pd.DataFrame:
    """Annotations beside the samples they belong to.

    Parameters
    ----------
    samples : DataFrame
        Schema ``samples``.
    annotations : DataFrame
        From `read_annotations`.

    Returns
    -------
    DataFrame
        One row per annotation of a sample of this benchmark: sample columns, those of the
        annotation, and given (the annotator's label). Labels of texts that are not among the
        samples, or not any more, are left out.
    """
    keyed = samples.assign(item=_items(samples))
    return keyed.merge(annotations.rename(columns={"label": "given"}), on="item", how="inner")


def right_by(given: pd.DataFrame, by: str) -> pd.DataFrame:
    """Share of labels that agree with the author's, per annotator and group.

    Parameters
    ----------
    given : DataFrame
        From `joined`.
    by : str
        Column of the groups, such as ``tier``.

    Returns
    -------
    DataFrame
        Columns annotator, `by` (its values, and "all"), n, right, and right_low and right_high of
        a 95 % interval over scenarios.
    """
    whole = pd.concat([given, given.assign(**{by: "all"})])
    keys = ["annotator", by]
    right = (whole["given"] == whole["label"]).groupby(
        [*(whole[key] for key in keys), whole["scenario_id"]], sort=False)
    scenarios = right.agg(["size", "sum"]).reset_index()
    group = scenarios.groupby(keys, sort=False)
    found = group["size"].sum().reset_index(name="n")
    rates = Clustered.of(scenarios["sum"], scenarios["size"], group.ngroup(), len(found))
    low, high = rates.wilson()
    return found.assign(right=rates.rate, right_low=low, right_high=high)


def _observed(first: np.ndarray, second: np.ndarray) -> float:
    """Share of items on which two annotators agree.

    Parameters
    ----------
    first, second : (n,) array of int
        Labels.

    Returns
    -------
    float
        In [0, 1].
    """
    return float(np.mean(first == second))


def kappa(first: np.ndarray, second: np.ndarray) -> float:
    """Cohen's kappa: agreement beyond what the annotators' own label rates give by chance.

    Parameters
    ----------
    first, second : (n,) array of int
        Labels, 0 or 1.

    Returns
    -------
    float
        At most 1; 1 where both use one and the same label throughout.
    """
    rates = np.mean(first), np.mean(second)
    chance = rates[0] * rates[1] + (1 - rates[0]) * (1 - rates[1])
    if chance == 1:
        return 1.0
    return float((_observed(first, second) - chance) / (1 - chance))


def _alpha(first: np.ndarray, second: np.ndarray) -> float:
    """Krippendorff's alpha for nominal labels.

    Parameters
    ----------
    first, second : (n,) array of int
        Labels.

    Returns
    -------
    float
        At most 1; 1 where both use one and the same label throughout.
    """
    if len(np.unique(np.concatenate([first, second]))) == 1:
        return 1.0
    ratings = np.array([first, second], dtype=float)
    return float(krippendorff.alpha(ratings, level_of_measurement="nominal"))


def _ac1(first: np.ndarray, second: np.ndarray) -> float:
    r"""Gwet's AC1 for two annotators and two labels.

    Chance agreement is :math:`2 \pi (1 - \pi)` with :math:`\pi` the mean rate of label 1, so that a
    rare label does not push the coefficient down as it does kappa.

    Parameters
    ----------
    first, second : (n,) array of int
        Labels, 0 or 1.

    Returns
    -------
    float
        At most 1.

    References
    ----------
    K. L. Gwet, *Computing inter-rater reliability and its variance in the presence of high
    agreement*, British Journal of Mathematical and Statistical Psychology 61 (2008), 29-48.
    """
    rate = float(np.mean(np.concatenate([first, second])))
    chance = 2 * rate * (1 - rate)
    return (_observed(first, second) - chance) / (1 - chance)


STATISTICS: dict[str, Statistic] = {
    "observed": _observed, "Cohen's kappa": kappa, "Krippendorff's alpha": _alpha,
    "Gwet's AC1": _ac1,
}  # fmt: skip


def _with_interval(
    statistic: Statistic, first: np.ndarray, second: np.ndarray, random: np.random.Generator
) -> tuple[float, float, float]:
    """Compute a coefficient with a bootstrap interval over samples.

    Parameters
    ----------
    statistic : callable
        One of `STATISTICS`.
    first, second : (n,) array of int
        Labels of the same samples.
    random : Generator
        For the resamples.

    Returns
    -------
    value, low, high : float
        Estimate (1 is perfect agreement) and 95 % percentile bootstrap interval over samples;
        without any disagreement the lower end is the coefficient at the exact binomial bound.
    """
    n = len(first)
    if _observed(first, second) == 1:
        # A bootstrap of perfect agreement is perfect agreement. The exact binomial bound says how
        # many disagreements would still be no surprise.
        unseen = math.ceil(n * (1 - scipy.stats.binomtest(n, n).proportion_ci(0.95, "exact").low))
        doubtful = np.array(second)
        doubtful[np.linspace(0, n - 1, unseen).astype(int)] ^= 1
        return statistic(first, second), statistic(first, doubtful), 1.0
    # Only how often each pair of labels occurs matters, so resamples are multinomial counts.
    cells, counts = np.unique(np.stack([first, second]), axis=1, return_counts=True)
    draws = random.multinomial(len(first), counts / counts.sum(), RESAMPLES)
    different, places = np.unique(draws, axis=0, return_inverse=True)
    values = np.array([statistic(*np.repeat(cells, draw, axis=1)) for draw in different])
    low, high = np.quantile(values[places.ravel()], [0.025, 0.975])
    return statistic(first, second), float(low), float(high)


def agreement_table(
    first: pd.Series, second: pd.Series, random: np.random.Generator
) -> pd.DataFrame:
    """All coefficients between two sets of labels.

    Parameters
    ----------
    first, second : Series of int
        Labels, 0 or 1, in the same order of samples.
    random : Generator
        For the intervals.

    Returns
    -------
    DataFrame
        Columns coefficient, value, low, high.
    """
    labels = first.to_numpy(int), second.to_numpy(int)
    rows = [(name, *_with_interval(statistic, *labels, random))
            for name, statistic in STATISTICS.items()]
    return pd.DataFrame(rows, columns=["coefficient", "value", "low", "high"])
