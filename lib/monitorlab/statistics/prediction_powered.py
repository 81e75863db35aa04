r"""Rates from a few labels and many guesses, as narrow as the guesses deserve and never biased.

Of T units n are labelled at random; for all of them there is a guess. A rate is a quotient of two
means, :math:`\theta = E[e] / E[c]`, such as false alarms among safe sequences. The guesses'
means over the other units correct the labelled ones,

.. math:: \bar e_L + \lambda\,(\bar{\hat e}_U - \bar{\hat e}_L),

and the same for c. Guesses that are wrong cancel on average. With :math:`\rho` the correlation of
:math:`e - \theta c` with its guess, the best weight leaves :math:`r = 1 - \rho^2 (T - n) / T`
of the variance: n labels are worth n / r. The interval is Wilson's for so many, which is
not empty where no event was seen; then there is nothing to correct, and r is 1.

References
----------
A. N. Angelopoulos, S. Bates, C. Fannjiang, M. I. Jordan and T. Zrnic, *Prediction-powered
inference*, Science 382 (2023), 669-674; A. N. Angelopoulos, J. C. Duchi and T. Zrnic, *PPI++*
(arXiv 2311.01453), section 6, for the weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from monitorlab.statistics.intervals import wilson

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class CorrectedRate:
    """A rate from labels and guesses.

    Attributes
    ----------
    value, low, high : float
        Estimate and 95 % interval, in [0, 1]; NaN if no labelled unit counts.
    plain, plain_low, plain_high : float
        The same from labels alone.
    share : float
        Share of units that count (c).
    correlation : float
        How well guesses follow labels where it matters, in [0, 1].
    labelled, units : int
        Labels there are, and units in all.
    """

    value: float
    low: float
    high: float
    plain: float
    plain_low: float
    plain_high: float
    share: float
    correlation: float
    labelled: int
    units: int

    def labels_needed(self, half_width: float) -> int:
        """Return how many labels in all give an interval of at most this half width; 0 if none.

        Supposes that further labels are drawn at random from the same units, and that rate and
        guesses stay what they are.
        """
        if math.isnan(self.value):
            return 0
        n = np.arange(1, self.units + 1, dtype=np.float64)
        worth = n * self.share / (1.0 - self.correlation**2 * (self.units - n) / self.units)
        low, high = wilson(self.value * worth, worth)
        fits = (high - low) / 2.0 <= half_width
        return int(n[np.argmax(fits)]) if fits.any() else 0


def corrected_rate(
    event: FloatArray, among: FloatArray, event_guess: FloatArray, among_guess: FloatArray,
    others: tuple[FloatArray, FloatArray],
) -> CorrectedRate:
    """Estimate a rate from labelled units and guesses about others.

    Parameters
    ----------
    event, among : ndarray of float, shape (n,)
        Of the labelled units: whether the event happened, and whether the unit counts, 0 or 1; an
        event counts.
    event_guess, among_guess : ndarray of float, shape (n,)
        Guesses about both that did not see these labels.
    others : two ndarrays of float, shape (m,)
        The same guesses about units without a label.
    """
    n, m = len(event), len(others[0])
    counted, theta = float(among.sum()), math.nan
    value = low = high = plain_low = plain_high = theta
    correlation = 0.0
    if counted:
        value = theta = float(event.sum()) / counted
        ((plain_low,), (plain_high,)) = wilson([event.sum()], [counted])
        score, guess = event - theta * among, event_guess - theta * among_guess
        spread = float(np.std(score) * np.std(guess))
        if spread > 0 and m:
            correlation = max(0.0, float(np.cov(score, guess, ddof=0)[0, 1]) / spread)
            weight = correlation * float(np.std(score) / np.std(guess)) * m / (n + m)
            top, bottom = (
                float(known.mean() + weight * (far.mean() - near.mean()))
                for known, near, far in ((event, event_guess, others[0]),
                                         (among, among_guess, others[1])))
            value = min(max(top / bottom, 0.0), 1.0) if bottom > 0 else theta
        worth = counted / (1.0 - correlation**2 * m / (n + m))
        ((low,), (high,)) = wilson([value * worth], [worth])
    return CorrectedRate(
        value, float(low), float(high), theta, float(plain_low), float(plain_high),
        counted / n if n else math.nan, correlation, n, n + m)
