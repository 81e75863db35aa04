"""Words for one builtin conversation: fills the authored sentences with a cast and drawn values.

The composer decides how something is said, never whether the rule is kept: the plan of acts, and
with it every label, comes from `monitorlab.signals.conversations`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from monitorlab.signals.scenarios import Phrases, Scenario, ScenarioObject

# Needs a fact to guess at, so an action has no use for it.
GUESSING_MOVE = "partial_disclosure"

T = TypeVar("T")


def pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    """Return one of the options, each with the same probability."""
    return options[int(rng.integers(len(options)))]


def shuffled(rng: np.random.Generator, items: Sequence[T]) -> list[T]:
    """Return the items in a random order."""
    return [items[int(i)] for i in rng.permutation(len(items))]


def _joined(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


class Composer:
    """Wording of one conversation: which object is reserved, the cast, and the sentences.

    Parameters
    ----------
    rng : numpy.random.Generator
        Decides the cast, the drawn values and every wording.
    scenario, phrases : Scenario, Phrases
        Authored sentences.
    authorised : bool
        Whether the signed-in user is the one the rule names.
    """

    def __init__(
        self, rng: np.random.Generator, scenario: Scenario, phrases: Phrases, authorised: bool
    ) -> None:
        self.rng, self.scenario, self.phrases = rng, scenario, phrases
        self._used: set[str] = set()
        self.reserved, self.opened = shuffled(rng, scenario.objects)[:2]
        self.values = {o.what: pick(rng, o.values) for o in (self.reserved, self.opened)}
        role = scenario.authority if authorised else pick(rng, scenario.roles)
        self.cast = {
            "place": scenario.place,
            "user": self.line("people", "users"),
            "role": role,
            "authority": scenario.authority,
            "what": self.reserved.what,
            "What": _capital(self.reserved.what),
            "open": self.opened.what,
            "Open": _capital(self.opened.what),
            "person": self.line("people", "others"),
        }

    def fresh(self, options: Sequence[str]) -> str:
        """Pick a wording that this conversation has not used yet, as long as there is one."""
        line = pick(self.rng, [o for o in options if o not in self._used] or options)
        if line:
            self._used.add(line)
        return line

    def line(self, table: str, field: str) -> str:
        """Pick one line of the shared wording, slots still open."""
        return self.fresh(self.phrases.lines[table, field])

    def rule(self) -> str:
        """Return the system message: who is signed in, what is reserved and what is open."""
        return self.line("rules", "lines").format(**self.cast)

    def said(self, lines: Sequence[str], about: ScenarioObject) -> str:
        """Fill one of an object's own sentences with its drawn value."""
        slots = {"person": self.cast["person"], "value": self.values[about.what]}
        return _capital(pick(self.rng, lines).format(**slots))

    def move(self) -> str:
        """Pick a persuasion move that fits the scenario."""
        fits = [m for m in self.phrases.moves if self.scenario.kind == "fact" or m != GUESSING_MOVE]
        return self.fresh(fits)

    def guess(self, right: bool) -> str:
        """Return the drawn value of the reserved object, or another one."""
        truth = self.values[self.reserved.what]
        wrong = [value for value in self.reserved.values if value != truth]
        return truth if right else pick(self.rng, wrong)

    def _persuasion(self, move: str, guess: str) -> str:
        return _capital(self.fresh(self.phrases.moves[move]).format(**self.cast, guess=guess))

    def press(self, first: bool, move: str, guess: str) -> str:
        """Word a request for the reserved object, with a persuasion move unless it is empty."""
        ask = self.said(self.reserved.ask, self.reserved)
        if not move:
            return ask
        words = self._persuasion(move, guess)
        if first:
            return _joined(*shuffled(self.rng, [ask, words]))
        again = self.line("asks", "again").format(ask=ask) if self.rng.random() < 0.5 else ""
        return _joined(words, again)

    def refuse(self, guess: str) -> str:
        """Word a refusal: some explain the rule or repeat the guess, some offer another way."""
        reason = self.line("refusals", "reasons").format(**self.cast)
        if guess and self.rng.random() < 0.6:
            reason = _capital(self.line("refusals", "guess_reasons").format(guess=guess))
        opening = self.line("refusals", "openings") if self.rng.random() < 0.7 else ""
        return _joined(opening, reason, self.line("refusals", "alternatives").format(**self.cast))

    def hint(self) -> str:
        """Word a hint: it narrows the reserved fact down without stating it."""
        opening = self.line("hints", "openings") if self.rng.random() < 0.7 else ""
        return _joined(opening, self.said(self.reserved.hint, self.reserved))

    def waver(self) -> str:
        """Word an answer that neither refuses nor gives."""
        return self.line("wavers", "lines")

    def give(self, about: ScenarioObject, reluctant: float) -> str:
        """Give an object; with probability `reluctant` in the tone of somebody who gives in."""
        if self.rng.random() < reluctant:
            opening = self.line("gives", "reluctant")
        elif self.rng.random() < 0.2:  # said of the reserved object it is simply untrue
            opening = self.line("gives", "open_reason").format(object=about.what)
        else:
            opening = self.line("gives", "neutral")
        return _joined(opening, self.said(about.give, about), self.line("gives", "closings"))

    def confirm(self, guess: str) -> str:
        """Confirm a right guess, which gives the reserved fact without stating it anew."""
        return _capital(self.line("gives", "confirms").format(guess=guess))

    def ask_open(self, with_move: bool) -> str:
        """Word a request for the open object; an honest user may be in a hurry too."""
        ask = self.said(self.opened.ask, self.opened)
        if not with_move:
            return ask
        move = pick(self.rng, [m for m in self.phrases.moves if m != GUESSING_MOVE])
        return _joined(*shuffled(self.rng, [ask, self._persuasion(move, "")]))

    def side(self) -> tuple[str, str]:
        """Return a harmless request and its answer."""
        request = self.fresh([user for user, _ in self.phrases.sides])
        return request, pick(self.rng, dict(self.phrases.sides)[request])
