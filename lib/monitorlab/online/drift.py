r"""Has the stream changed? A conformal test martingale on the peaks of finished sequences.

A guarantee holds as long as new sequences are exchangeable with those that calibrated it. Each
finished sequence therefore gets a conformal p-value, its randomised rank among the calibrating
sequences and all finished before it, which is uniform and independent of the earlier ones while
nothing has changed (Vovk 2021). A gambler who bets against uniform numbers then owns capital that
grows past :math:`1/r` with probability at most r, however long one watches (Ville's inequality).

The gambler is the Simple Jumper of Vovk et al. (2021): three bets, between which a little capital
moves at every step. Whoever waits long for a change has lost almost everything by then, so a new
gambler starts at every sequence with a share :math:`1/(t(t+1))` of a reserve of 1. The shares sum
to one, hence the total is still a test martingale, and since every update is linear the gamblers
add up to three numbers.

Peaks are counted in bins. Exchangeable peaks fall into exchangeable bins, so the p-values stay
exact, and memory stays constant for any number of sequences. Only where the bins end depends on the
threshold, and so a little on what is counted; the rate was kept in every simulation of that.

References
----------
V. Vovk, *Testing randomness online*, Statistical Science 36 (2021), 595-611.
V. Vovk, I. Petej, I. Nouretdinov, E. Ahlberg, L. Carlsson and A. Gammerman, *Retrain or not
retrain: conformal test martingales for change-point detection*, COPA 2021, algorithm 1.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from monitorlab.online.running import FloatArray

MOST_BINS = 32
JUMP = 0.01  # share of the capital that is spread anew over the bets at every step


@dataclass(frozen=True)
class DriftReference:
    """Where the peaks of calibrating sequences fall.

    Attributes
    ----------
    edges : tuple of float
        Increasing; bin j holds the peaks above edge j - 1 and up to edge j, the last one all above
        the last edge. The edges come from other sequences than the counts, and lie below the
        alarm threshold, so that a sequence stopped at its alarm falls into the bin in which it
        would have ended.
    counts : tuple of int
        Sequences in each bin, one more entry than edges.
    rate : float
        Chance of ever reporting drift where there is none, in (0, 1).
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    rate: float = 0.01

    def __post_init__(self) -> None:
        inside = all(math.isfinite(edge) for edge in self.edges)
        if not inside or any(a >= b for a, b in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError("the edges of the drift reference must be finite and increasing.")
        whole = all(type(count) is int and count >= 0 for count in self.counts)
        if len(self.counts) != len(self.edges) + 1 or not whole:
            raise ValueError(f"the drift reference has {len(self.edges)} edges and the counts "
                             f"{list(self.counts)[:5]}, expected one whole number more than edges.")
        if not 0.0 < self.rate < 1.0:
            raise ValueError(f"the drift rate is {self.rate}, expected a number between 0 and 1.")

    @classmethod
    def of(cls, peaks: FloatArray, others: FloatArray, below: float,
           rate: float = 0.01) -> DriftReference:
        """Count peaks in bins.

        Parameters
        ----------
        peaks : ndarray of float, shape (n,)
            Of sequences that new ones should resemble; high is unsafe.
        others : ndarray of float, shape (m,)
            Of further sequences, whose quantiles are the edges.
        below : float
            Edges lie below this, the lowest alarm threshold.
        rate : float
            Chance of ever reporting drift where there is none.
        """
        finite = others[np.isfinite(others)]
        at = np.linspace(0.0, 1.0, MOST_BINS + 1)[1:-1]
        cuts = np.unique(np.quantile(finite, at, method="lower")) if len(finite) else finite
        edges = cuts[cuts < below]
        counts = np.bincount(np.searchsorted(edges, peaks, side="left"), minlength=len(edges) + 1)
        return cls(tuple(edges.tolist()), tuple(counts.tolist()), rate)

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> DriftReference:
        """Turn the fields, as JSON holds them, back into the reference."""
        return cls(tuple(found["edges"]), tuple(found["counts"]), found["rate"])


@dataclass
class DriftTest:
    """The running test: :meth:`add` each finished sequence, and look whether it has ``fired``.

    Attributes
    ----------
    reference : DriftReference
        What the first sequences are compared with.
    evidence : float
        Capital of the gamblers, 1 at the start; above 1 / rate the test has fired for good.
    seen : int
        Sequences added.
    fired_at : int
        How many sequences had been seen when it fired; 0 if it has not.

    Examples
    --------
    >>> test = DriftTest(DriftReference((0.5,), (90, 10)))
    >>> for draw in np.random.default_rng(0).random(60):
    ...     test.add(0.9, float(draw))
    >>> test.fired_at > 0
    True
    """

    reference: DriftReference
    evidence: float = 1.0
    seen: int = 0
    fired_at: int = 0
    _counts: list[int] = field(default_factory=list)
    _total: int = 0
    _capital: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        self._counts = list(self.reference.counts)
        self._total = sum(self._counts)

    def add(self, peak: float, draw: float) -> None:
        """Bet on one finished sequence.

        Parameters
        ----------
        peak : float
            Its highest statistic; ``inf`` for one that was stopped at its alarm.
        draw : float
            Its own uniform number in (0, 1), which breaks ties between peaks of a bin.
        """
        self.seen += 1
        if self.fired_at:
            return
        at = bisect_left(self.reference.edges, peak)
        self._counts[at] += 1
        self._total += 1
        above = sum(self._counts[at + 1:])
        self._bet((above + draw * self._counts[at]) / self._total)
        if self.evidence >= 1.0 / self.reference.rate:
            self.fired_at = self.seen

    def to_dict(self) -> dict[str, Any]:
        """Return what :meth:`from_dict` goes on from, as strict JSON takes it."""
        return {"reference": asdict(self.reference), "evidence": self.evidence, "seen": self.seen,
                "fired_at": self.fired_at, "counts": self._counts, "capital": self._capital}

    @classmethod
    def from_dict(cls, found: Mapping[str, Any], reference: DriftReference) -> DriftTest:
        """Go on where a test stopped, with equal numbers to the last bit.

        Parameters
        ----------
        found : mapping
            What :meth:`to_dict` returned, also after JSON.
        reference : DriftReference
            What the test must be about.

        Raises
        ------
        ValueError
            It is about another reference, or not what :meth:`to_dict` returns.
        """
        test = cls(reference)
        try:
            if DriftReference.from_dict(found["reference"]) != reference:
                raise ValueError("the evidence is about sequences of another policy")
            test.evidence, test.seen = float(found["evidence"]), int(found["seen"])
            test.fired_at = int(found["fired_at"])
            test._counts = [int(count) for count in found["counts"]]
            none, high, low = map(float, found["capital"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"no evidence that a test could go on from: {error}") from None
        test._capital, test._total = (none, high, low), sum(test._counts)
        return test

    def _bet(self, p: float) -> None:
        """Start a gambler, let capital jump, and multiply by what each bet pays at ``p``."""
        fresh = 1.0 / (self.seen * (self.seen + 1))
        none, high, low = self._capital
        total = none + high + low + fresh
        spread, kept = JUMP * total / 3.0, 1.0 - JUMP
        third = fresh / 3.0
        self._capital = (
            kept * (none + third) + spread,
            (kept * (high + third) + spread) * _pay(p),
            (kept * (low + third) + spread) * _pay(1.0 - p),
        )
        self.evidence = sum(self._capital) + 1.0 / (self.seen + 1)


def _pay(p: float) -> float:
    """What a bet on small p-values pays, a density on (0, 1); a p-value of 0 is a rounded one."""
    return 0.75 * max(p, 1e-16) ** -0.25
