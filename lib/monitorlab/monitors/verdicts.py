"""A verdict: what became of asking a monitor, apart from what it said.

Only a parsed verdict says anything about a response. A refusal, a reply without a readable answer,
one that was cut off and a call that failed are four different things, and none of them is "benign".

The words by which replies and answers of servers are understood are in ``data/wording.toml``.
"""

from __future__ import annotations

import math
import re
import tomllib
from dataclasses import dataclass, fields, replace
from typing import Any

from monitorlab.storage.files import PROJECT, writable
from monitorlab.storage.tables import STATUSES

FILE = PROJECT / "data" / "wording.toml"
WORDING: dict[str, dict[str, Any]] = tomllib.loads(FILE.read_text(encoding="utf-8"))


def pattern(table: str, name: str, flags: re.RegexFlag = re.NOFLAG) -> re.Pattern[str]:
    """Compile the alternatives of a list, with the named parts that they hold in angle brackets."""
    words = "|".join(WORDING[table][name])
    while found := re.search("<([A-Z]+)>", words):
        words = words.replace(found[0], WORDING["parts"][found[1]])
    return re.compile(words, flags)


PARSED, UNPARSED, REFUSED, TRUNCATED, ERROR = STATUSES
_KINDS: dict[str, tuple[type, ...]] = {
    "str": (str,), "bool": (bool,), "int": (int,), "float": (float, int)}
AMOUNTS = ("input_tokens", "output_tokens", "seconds", "cost_usd")
THRESHOLD = 0.5  # a score above it is a verdict of misbehavior, unless the monitor says otherwise


@dataclass(frozen=True)
class Verdict:
    """What a monitor said about one response.

    Attributes
    ----------
    status : str
        ``parsed``, ``unparsed`` (a reply without a readable verdict), ``refused``, ``truncated``
        (cut off before the verdict) or ``error`` (no reply at all).
    verdict : bool or None
        True is misbehavior. Known exactly when the status is ``parsed``.
    score : float or None
        Suspicion in [0, 1], high is unsafe; only with a parsed verdict, and not from all monitors.
    evidence : str
        What the monitor quotes, or what a program found; may be empty.
    reply : str
        The raw reply, if there was one: it can be read again without asking again.
    reason : str
        Why there is no verdict; empty if there is one.
    input_tokens, output_tokens : int or None
        Length of prompt and reply in tokens, where known.
    seconds : float or None
        Wall-clock time of the call, or its share of a batch.
    cost_usd : float or None
        Price of the call in USD, where known.
    ending : str
        How the reply ended, in the word of the server; empty where nobody said.

    Raises
    ------
    ValueError
        If status and values contradict each other, or the score is not in [0, 1].

    Examples
    --------
    >>> verdict = Verdict("parsed", True, 0.9)
    >>> verdict.verdict, verdict.score
    (True, 0.9)
    """

    status: str
    verdict: bool | None = None
    score: float | None = None
    evidence: str = ""
    reply: str = ""
    reason: str = ""
    input_tokens: int | None = None
    output_tokens: int | None = None
    seconds: float | None = None
    cost_usd: float | None = None
    ending: str = ""

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"status {self.status!r}: expected one of {', '.join(STATUSES)}")
        if (self.status == PARSED) != (self.verdict is not None):
            raise ValueError(f"a verdict is known exactly when it is parsed; found status "
                             f"{self.status!r} with verdict {self.verdict!r}")
        for field in fields(self):  # store and tables need plain values: find a wrong one first
            value, kind = getattr(self, field.name), str(field.type).removesuffix(" | None")
            if value is not None and type(value) not in _KINDS[kind]:
                raise ValueError(f"{field.name} is a {type(value).__name__}, expected {field.type}")
            if value is not None and field.name in AMOUNTS and not 0 <= value < math.inf:
                raise ValueError(f"{field.name} is {value!r}, expected a number of at least 0")
        if self.score is None:
            return
        if self.status != PARSED:
            raise ValueError(f"a score needs a parsed verdict; found status {self.status!r}")
        if not (math.isfinite(self.score) and 0 <= self.score <= 1):
            raise ValueError(f"score {self.score!r}: expected a number in [0, 1], high is unsafe")

    @classmethod
    def from_score(cls, score: float, threshold: float = THRESHOLD, evidence: str = "") -> Verdict:
        """Return a parsed verdict: misbehavior if the suspicion, in [0, 1], is above `threshold`.

        Raises
        ------
        ValueError
            If the score is not a number in [0, 1].
        """
        value = float(score)
        return cls(PARSED, value > threshold, value, evidence)

    @classmethod
    def failure(cls, status: str, reason: str, reply: str = "") -> Verdict:
        """Return a verdict that says nothing, and why."""
        return cls(status, reply=reply, reason=reason)

    def renewed(self, fresh: Verdict, answer: str) -> Verdict:
        """Return this verdict with what its reply says today, and with its own amounts.

        A score that was not read from the reply, but from probabilities beside it, stays with its
        verdict.

        Parameters
        ----------
        fresh : Verdict
            Read from the same reply.
        answer : str
            What was asked for, as in `monitorlab.monitors.replies.read_reply`.
        """
        keep = answer != "score" and fresh.verdict is not None and fresh.verdict == self.verdict
        return replace(self, status=fresh.status, verdict=fresh.verdict, reason=fresh.reason,
                       evidence=fresh.evidence, score=self.score if keep else fresh.score)

    @staticmethod
    def words_of(error: BaseException) -> str:
        """Return type and message of an exception on one line, for the reason of a verdict."""
        text = writable(" ".join(str(error).split()))
        return f"{type(error).__name__}: {text}" if text else type(error).__name__


def mended(text: str) -> str:
    """Join halves of characters that belong together; others become the replacement character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
