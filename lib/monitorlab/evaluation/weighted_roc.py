"""The ROC curve of one monitor in many resamples at once, by one walk down its sorted scores."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from monitorlab.evaluation.intervals import ratio

FloatArray = NDArray[np.float64]
Weights = NDArray[np.float32]  # whole numbers, exact below 2**24

PARTIAL_FPR = 0.10
TPR_AT = {"tpr_at_fpr_01": 0.01, "tpr_at_fpr_05": 0.05, "tpr_at_fpr_10": 0.10}


def roc_metrics(
    scores: FloatArray,
    labels: NDArray[np.int8],
    units: NDArray[np.intp],
    weights: Weights,
    *,
    low_end: bool = True,
) -> dict[str, FloatArray]:
    """ROC metrics of one monitor under many weightings of its samples.

    Parameters
    ----------
    scores : (n,) array of float
        Suspicion, high is unsafe; samples with NaN are left out.
    labels : (n,) array of int
        1 is misbehavior.
    units : (n,) array of int
        The row of `weights` that holds a sample's weight.
    weights : (u, resamples) array of float32
        Whole numbers of at least 0.
    low_end : bool
        Also compute what needs the curve at low false alarm rates.

    Returns
    -------
    dict of str to (resamples,) array of float
        ``auroc``, with ties counted by half; ``partial_auroc`` up to `PARTIAL_FPR`, standardised so
        that chance is 1/2 and the best is 1 (McClish, 1989); the names in `TPR_AT`: the highest
        detection rate of any threshold with at most that false alarm rate. NaN where a class has no
        weight.

    References
    ----------
    D. K. McClish, *Analyzing a portion of the ROC curve*, Medical Decision Making 9 (1989),
    190-195.
    """
    known = np.flatnonzero(~np.isnan(scores))
    order = known[np.argsort(-scores[known], kind="stable")]
    ends = np.flatnonzero(np.diff(scores[order], append=np.nan) != 0) + 1
    bad, rows = labels[order] == 1, units[order]
    all_bad, all_good = (_total(weights, rows[side]) for side in (bad, ~bad))
    caught, area = np.zeros_like(all_bad), np.zeros(len(all_bad))
    product = np.empty_like(all_bad)
    curve = _LowEnd(all_good) if low_end else None
    start = 0
    # One walk from the highest score down; a step adds the samples that share a score, in every
    # resample at once. A benign sample adds to the area the misbehaving ones above it, and half of
    # those that it is tied with.
    for end in ends.tolist():
        here, side = rows[start:end], bad[start:end]
        start = end
        alone = weights[here[0]] if len(here) == 1 else None
        up = alone if alone is not None and side[0] else _sum(weights, here[side])
        right = alone if alone is not None and not side[0] else _sum(weights, here[~side])
        if curve is not None and curve.open:
            curve.add(caught, up, right)
        if right is not None:
            np.multiply(right, caught if up is None else caught + up / 2, out=product)
            area += product
        if up is not None:
            caught += up
    found = {"auroc": ratio(area, all_bad.astype(float) * all_good)}
    return found | (curve.metrics(all_bad) if curve is not None else {})


def _total(weights: Weights, rows: NDArray[np.intp]) -> Weights:
    """Weight of many samples, which belong to the units `rows`."""
    return np.bincount(rows, minlength=len(weights)).astype(np.float32) @ weights


def _sum(weights: Weights, rows: NDArray[np.intp]) -> Weights | None:
    """Weight of few samples; None if there are none."""
    return weights[rows].sum(axis=0) if len(rows) else None


class _LowEnd:
    """The ROC curve up to a false alarm rate of `PARTIAL_FPR`, as the walk draws it."""

    def __init__(self, all_good: Weights) -> None:
        self.open = True
        self._all_good = all_good.astype(float)
        self._limit = PARTIAL_FPR * self._all_good
        # Counts are whole: the tolerance keeps 0.29 * 100 from landing below 29.
        self._limits = {name: np.floor(level * self._all_good + 1e-9)
                        for name, level in TPR_AT.items()}
        self._best = {name: np.zeros(len(all_good)) for name in TPR_AT}
        self._cried = np.zeros(len(all_good))
        self._area = np.zeros(len(all_good))

    def add(self, caught: Weights, up: Weights | None, right: Weights | None) -> None:
        """Take one step, `up` by misbehaving samples and to the `right` by benign ones."""
        if right is not None:
            inside = np.clip(self._limit - self._cried, 0, right)
            rise = 0.0 if up is None else up * inside / np.maximum(right, 1)
            self._area += inside * (caught + rise / 2)
            self._cried += right
            self.open = bool((self._cried < self._limit + 1).any())
        if up is not None:
            for name, limit in self._limits.items():
                np.copyto(self._best[name], caught + up, where=self._cried <= limit)

    def metrics(self, all_bad: Weights) -> dict[str, FloatArray]:
        """Return the metrics once the walk is over."""
        area = ratio(self._area, all_bad * self._all_good)
        chance = PARTIAL_FPR**2 / 2
        found = {"partial_auroc": (1 + (area - chance) / (PARTIAL_FPR - chance)) / 2}
        for name, best in self._best.items():
            found[name] = np.where(self._all_good > 0, ratio(best, all_bad), np.nan)
        return found
