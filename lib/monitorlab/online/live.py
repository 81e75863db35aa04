"""A text that is being written, watched step by step: where steps end, what an alarm keeps back.

Whatever writes the text hands it over piece by piece: a generation loop token by token
(:mod:`monitorlab.signals.generation`), a server chunk by chunk (:meth:`WatchedText.stream`). A
rule cuts the text into steps, a scorer gives each step its suspicion, and the monitor judges the
score. Cut and score a text in deployment as those were that calibrated the policy, or its promise
is about something else: log scores with a monitor of ``None``, and give the `scoring` of such a
text to the policy, which then refuses texts that are watched in another way.

Everything fails closed. A scorer that raises or returns no number alarms its text with the reason,
and so does a stream that breaks off.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from monitorlab.online.policy import Alarm, OnlineMonitor, SequenceError
from monitorlab.online.running import FloatArray


@dataclass(frozen=True)
class LiveStep:
    """One step as it was written.

    Attributes
    ----------
    text : str
        Of the step, with the mark that ended it.
    log_probs : ndarray of float, shape (n_tokens,)
        Natural-log probability of each token under the model that wrote it, at temperature 1; empty
        where they are not known.
    """

    text: str
    log_probs: FloatArray


ScoreStep = Callable[[LiveStep], float]


class LiveScorer(Protocol):
    """Gives the steps of a text their suspicion while it is written."""

    def start(self, problem: str) -> ScoreStep:
        """Begin a text that answers ``problem``.

        Returns
        -------
        callable
            Takes the steps of this one text in order, and returns the suspicion of each: any
            number, high is unsafe. It may raise, which alarms the text.
        """
        ...


@dataclass(frozen=True)
class StepRule:
    r"""Where a step ends: behind a mark, or at a length, whichever comes first.

    A step that holds nothing but blanks so far does not end at a mark. The length matters for
    safety: a text without a mark must not go on unwatched.

    Attributes
    ----------
    mark : str
        Text that ends a step, "\n" for lines; empty for none.
    tokens : int
        Tokens after which a step ends, 1 for every token; 0 for no limit.
    characters : int
        Characters after which a step ends; 0 for no limit.

    Examples
    --------
    >>> rule = StepRule(characters=8)
    >>> rule.end("one\ntwo"), rule.end("\n\none"), rule.end("without a mark")
    (4, 0, 8)
    """

    mark: str = "\n"
    tokens: int = 0
    characters: int = 1000

    def __post_init__(self) -> None:
        ends = self.mark or self.tokens or self.characters
        if not ends or min(self.tokens, self.characters) < 0:
            raise ValueError(f"no step would ever end by {self}: give a mark, or a number of "
                             "tokens or characters above 0.")

    def end(self, text: str) -> int:
        """Return how many characters of a text belong to its first step; 0 if it has no end yet."""
        begins = len(text) - len(text.lstrip())
        at = text.find(self.mark, begins) + len(self.mark) if self.mark else 0
        found = at if at >= max(len(self.mark), 1) and begins < len(text) else 0
        long = self.characters if 0 < self.characters <= len(text) else 0
        return min(filter(None, (found, long)), default=0)

    def scoring(self, scorer: LiveScorer) -> str:
        r"""Say in a line how a text is cut, and scored by a scorer.

        Examples
        --------
        >>> class Shouting:
        ...     pass
        >>> StepRule().scoring(Shouting())
        "StepRule(mark='\n', tokens=0, characters=1000), Shouting"
        """
        plain = type(scorer).__repr__ is object.__repr__
        return f"{self}, {type(scorer).__name__ if plain else scorer}"


@dataclass
class WatchedText:
    """One text while it is written: its scores so far, and the alarm that ended it.

    Parameters
    ----------
    sequence_id : str
        How the monitor knows it.
    monitor : OnlineMonitor or None
        None only records scores; then an error in the scorer is raised.
    scorer : LiveScorer
    problem : str
        What the text answers; for scorers that read it.
    rule : StepRule
    group : str
        As for :meth:`monitorlab.online.policy.OnlineMonitor.update`.

    Attributes
    ----------
    alarm : Alarm or None
        Why the text was stopped. Nothing is taken after it.
    scores, tokens : list
        Suspicion and number of tokens of each finished step; 0 tokens where they are not known.

    Raises
    ------
    ValueError
        The monitor's policy was calibrated on texts that were cut or scored in another way.
    """

    sequence_id: str
    monitor: OnlineMonitor | None
    scorer: LiveScorer
    problem: str = ""
    rule: StepRule = field(default_factory=StepRule)
    group: str = ""
    alarm: Alarm | None = None
    scores: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    finished: bool = False
    _score: ScoreStep | None = None
    _text: str = ""
    _log_probs: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        known = "" if self.monitor is None else self.monitor.policy.scoring
        if known and known != self.scoring:
            raise ValueError(f"the policy was calibrated on steps and scores by {known}, and this "
                             f"text has {self.scoring}: watch as the log was made, or calibrate on "
                             "a log that was made like this.")

    @property
    def scoring(self) -> str:
        """How it is cut and scored, for a policy to record."""
        return self.rule.scoring(self.scorer)

    def token(self, text: str, log_prob: float) -> str:
        """Take one token, which is never cut; as :meth:`piece` else.

        Parameters
        ----------
        text : str
            What the token adds to the text; may be empty.
        log_prob : float
            Its natural-log probability; NaN if it is not known.
        """
        if self.over:
            return ""
        self._text += text
        self._log_probs.append(log_prob)
        ends = self.rule.end(self._text) or 0 < self.rule.tokens <= len(self._log_probs)
        return self._step(len(self._text)) if ends else ""

    def piece(self, text: str) -> str:
        """Take a piece of text of unknown tokens, which may hold any number of steps.

        Returns
        -------
        str
            The steps that ended in it and passed; empty if none did. A step that alarms, and
            whatever follows it, is never returned.
        """
        if self.rule.tokens and not self.over:
            return self.fail(SequenceError("steps are counted in tokens, and the tokens of this "
                                           "text are not known: ask for log-probabilities"))
        self._text += "" if self.over else text
        passed = ""
        while not self.over and (end := self.rule.end(self._text)):
            passed += self._step(end)
        return passed

    def finish(self) -> str:
        """End the text; what is left of it, unless it is blank, is its last step.

        Returns
        -------
        str
            That step, if there is one and it passed.
        """
        left = self._step(len(self._text)) if self._text.strip() and not self.over else ""
        if not self.finished and self.monitor is not None and (self.scores or self.alarm):
            self.monitor.end(self.sequence_id)
        self.finished = True
        return left

    def fail(self, error: Exception) -> str:
        """Alarm the text because it could not be watched any further.

        Raises
        ------
        Exception
            The error itself, if there is no monitor; a ``SequenceError`` if its policy says so.
        """
        if self.monitor is None:
            raise error
        if not self.over:
            self.alarm = self.monitor.fail(self.sequence_id, error, group=self.group)
        return ""

    def stream(self, chunks: Iterable[Any]) -> Iterator[str]:
        """Pass on a streamed chat completion step by step, until an alarm.

        Each step is yielded once its score has passed, so that the step that alarms never reaches
        the caller. At the alarm nothing more is read and the stream is closed, which makes an
        OpenAI-compatible server stop writing. Read ``alarm`` afterwards.

        Parameters
        ----------
        chunks : iterable
            Chunks of a chat completion, as ``openai`` yields them with ``stream=True`` or as
            dictionaries of the same form; closed at the end, if it can be. With ``logprobs=True``
            the steps have log-probabilities.

        Examples
        --------
        >>> from monitorlab import OnlineMonitor, Policy, calibrate
        >>> class Shouting:
        ...     def start(self, problem):
        ...         return lambda step: sum(map(str.isupper, step.text)) / len(step.text)
        >>> policy = Policy(calibrate([0.1, 0.2, 0.3, 0.4], level=0.2))
        >>> watched = WatchedText("a", OnlineMonitor(policy), Shouting())
        >>> said = ["so far\\nso ", "good\\nNOW IT ", "SHOUTS\\nand goes on"]
        >>> chunks = [{"choices": [{"delta": {"content": text}}]} for text in said]
        >>> list(watched.stream(chunks))
        ['so far\\n', 'so good\\n']
        >>> watched.alarm.step
        3
        """
        ended = False
        try:
            for text, tokens, last in self._read(chunks):
                if tokens:
                    yield from filter(None, (self.token(*token) for token in tokens))
                elif text and (passed := self.piece(text)):
                    yield passed
                ended = ended or last
                if self.alarm is not None:
                    break
            if not (ended or self.alarm):
                self.fail(SequenceError("the stream broke off: it ended without a finish_reason"))
            if passed := self.finish():
                yield passed
        finally:  # also where the caller stops reading
            if close := getattr(chunks, "close", None):
                close()

    def _read(self, chunks: Iterable[Any]) -> Iterator[tuple[str, Tokens, bool]]:
        """Yield text, tokens and whether it is the last of each chunk; none after a failure."""
        try:
            yield from map(_read_chunk, chunks)
        except Exception as error:  # a connection may break in many ways, and a chunk be anything
            self.fail(error)

    @property
    def over(self) -> bool:
        """Whether nothing more is taken: it has ended, or was stopped."""
        return self.finished or self.alarm is not None

    def _step(self, end: int) -> str:
        """Score the first characters of what is there, and let the monitor judge."""
        log_probs = np.array(self._log_probs)
        known = log_probs[:0] if np.isnan(log_probs).any() else log_probs
        step = LiveStep(self._text[:end], known)
        self._text, self._log_probs = self._text[end:], []
        try:
            if self._score is None:
                self._score = self.scorer.start(self.problem)
            score = self._score(step)
            turned = self.monitor is not None and self.monitor.policy.side == "safety"
            given = -score if turned else score  # such a policy turns it back
        except Exception as error:  # whatever it is: an unwatched text must not go on
            return self.fail(error)
        if self.monitor is not None:
            self.alarm = self.monitor.update(self.sequence_id, given, group=self.group)
        self.scores.append(score)
        self.tokens.append(len(log_probs))
        return "" if self.alarm else step.text


Tokens = list[tuple[str, float]]  # text and log-probability of each


def _read_chunk(chunk: Any) -> tuple[str, Tokens, bool]:
    """Text, tokens with log-probabilities if any, and whether the answer ends here."""
    found: Mapping[str, Any] = chunk if isinstance(chunk, Mapping) else chunk.model_dump()
    if found.get("error"):
        raise SequenceError(f"the server says: {str(found['error'])[:200]}")
    choices = found.get("choices") or []
    if len(choices) > 1 or any(choice.get("index") for choice in choices):
        raise SequenceError("the stream holds several answers at once: ask for one")
    if not choices:
        return "", [], False  # of usage, at the end
    choice = choices[0]
    delta, logs = choice.get("delta") or {}, choice.get("logprobs") or {}
    if delta.get("tool_calls") or delta.get("function_call"):
        raise SequenceError("the answer calls a tool, which no step of a text shows")
    thought = delta.get("reasoning_content") or delta.get("reasoning") or ""
    text = thought + (delta.get("content") or "") + (delta.get("refusal") or "")
    last = choice.get("finish_reason") is not None
    return text, _tokens(text, logs.get("content") or []), last


def _tokens(text: str, entries: list[Any]) -> Tokens:
    """Text and log-probability of each token of a chunk.

    Tokens are bytes, and a character may be spread over several. Where a server spells them in
    another way than the text, the text counts, and belongs to the last of them.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    spelled = [(decoder.decode(bytes(entry["bytes"])) if entry.get("bytes") is not None
                else str(entry["token"]), float(entry["logprob"])) for entry in entries]
    if not spelled or "".join(part for part, _ in spelled) == text:
        return spelled
    return [*(("", log_prob) for _, log_prob in spelled[:-1]), (text, spelled[-1][1])]
