"""Inside the generation loop of transformers: every row of a batch stops at its own alarm.

::

    watch = StopAtAlarm(OnlineMonitor(policy), LogProbability(), model, tokenizer, ids)
    output = model.generate(**inputs, **watch.hooks)
    for text in watch.answers(output): ...

The log-probabilities of the written tokens cost nothing: the loop computes them anyway, and one of
the hooks sees them before temperature and other warpers do.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import (
    LogitsProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
)

from monitorlab.models.batching import end_ids
from monitorlab.online.live import LiveScorer, StepRule, WatchedText, scored_by
from monitorlab.online.policy import Alarm, OnlineMonitor, SequenceError

MOST_BYTES = 4  # of a character; a longer wait is for none


@dataclass(frozen=True)
class WatchedAnswer:
    """What became of one row of a batch.

    Attributes
    ----------
    sequence_id : str
    text : str
        Up to the end of the step that alarmed, special tokens left out.
    tokens : tuple of int
        The same as token ids.
    scores : tuple of float
        Suspicion of each step.
    step_tokens : tuple of int
        Tokens of each step.
    alarm : Alarm or None
        Why it was stopped.
    """

    sequence_id: str
    text: str
    tokens: tuple[int, ...]
    scores: tuple[float, ...]
    step_tokens: tuple[int, ...]
    alarm: Alarm | None


class StopAtAlarm(StoppingCriteria):
    """Watches a batch while ``generate`` writes it, and stops each row at its alarm.

    Whatever goes wrong stops the rows that it concerns, with the reason in their alarm: a scorer
    that raises or returns NaN, and rows that change behind its back, as those of a beam search do.
    One object watches one call of ``generate``.

    Parameters
    ----------
    monitor : OnlineMonitor or None
        None only records the scores, which is how a log for calibration is made.
    scorer : LiveScorer
    model, tokenizer : PreTrainedModel, PreTrainedTokenizerBase
        Those that write.
    ids : sequence of str
        How the monitor knows the rows.
    problems : sequence of str
        What each row answers, for scorers that read it; may be empty.
    rule : StepRule
        Where steps end; as it was for the log that calibrated the policy.
    groups : sequence of str
        Groups of the rows, for policies that have them; may be empty.
    ends : collection of int
        Tokens that end an answer; those of model and tokenizer if empty.
    most_steps : int
        Steps after which an answer is over; 0 for no limit.

    Attributes
    ----------
    hooks : dict
        What ``generate`` takes.
    scoring : str
        How rows are cut and scored, for a policy to record.

    Raises
    ------
    ValueError
        The numbers of rows differ, an id comes twice, or the monitor's policy was calibrated on
        texts that were cut or scored in another way.
    """

    def __init__(
        self,
        monitor: OnlineMonitor | None,
        scorer: LiveScorer,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        ids: Sequence[str],
        problems: Sequence[str] = (),
        rule: StepRule | None = None,
        groups: Sequence[str] = (),
        ends: Collection[int] = (),
        most_steps: int = 0,
    ) -> None:
        for name, given in (("problems", problems), ("groups", groups)):
            if given and len(given) != len(ids):
                raise ValueError(f"there are {len(given)} {name} for {len(ids)} rows.")
        if len(set(ids)) != len(ids):
            raise ValueError(f"{len(ids)} rows have {len(set(ids))} different ids, expected one "
                             "for each.")
        rule = rule or StepRule()
        self.ends, self.most_steps = frozenset(ends or end_ids(model, tokenizer)), most_steps
        self._rows = [
            _Row(WatchedText(name, monitor, scorer, problem, rule, group), tokenizer)
            for name, problem, group in zip(
                ids, problems or [""] * len(ids), groups or [""] * len(ids), strict=True)
        ]
        self.scoring = scored_by(rule, scorer)
        self._tokenizer, self._logits, self._before = tokenizer, _Logits(), None
        if self.ends:  # `generate` pads stopped rows only if a criterion has such an attribute
            self.eos_token_id = torch.tensor(sorted(self.ends))
        self.hooks: dict[str, Any] = {
            "stopping_criteria": [self], "logits_processor": [self._logits]}

    def __call__(self, input_ids: torch.Tensor, scores: Any, **more: Any) -> torch.Tensor:
        """Take the latest token of every row; return which rows are over, shape (n_rows,)."""
        try:
            log_probs = self._log_probs(input_ids)
        except SequenceError as error:
            for row in self._rows:
                row.watched.fail(error)
            return torch.ones(len(input_ids), dtype=torch.bool, device=input_ids.device)
        latest = input_ids[:, -1].tolist()
        for row, token, log_prob in zip(self._rows, latest, log_probs, strict=True):
            if not row.over:
                row.take(token, log_prob)
                if token in self.ends or 0 < self.most_steps <= len(row.watched.scores):
                    row.end()
        return torch.tensor([row.over for row in self._rows], device=input_ids.device)

    def answers(self, output: Any) -> list[WatchedAnswer]:
        """End the batch; return what each row may show.

        The last step of a row that ran out of tokens is judged here. No token that was written
        after an alarm is in an answer.

        Parameters
        ----------
        output : torch.Tensor of int, shape (n_rows, n_tokens)
            What ``generate`` returned, or an object with it in ``sequences``.

        Raises
        ------
        ValueError
            If it is not the batch that was watched.
        """
        ids = getattr(output, "sequences", output)
        width = self._logits.width
        if len(ids) != len(self._rows) or width is None:
            raise ValueError(f"{len(ids)} rows came out and {len(self._rows)} were watched: pass "
                             "**hooks to generate, and give its output here.")
        rows = [found[: len(row.tokens)] for row, found in
                zip(self._rows, ids[:, width:].tolist(), strict=True)]
        if any(row.tokens != found for row, found in zip(self._rows, rows, strict=True)):
            raise ValueError("the rows that came out are not those that were watched.")
        for row in self._rows:
            row.watched.finish()
        return [row.answer() for row in self._rows]

    def _log_probs(self, ids: torch.Tensor) -> list[float]:
        """Log-probability of the token that each row just got; NaN where no logits were seen."""
        logits, before = self._logits.latest, self._before
        self._before = ids
        if len(ids) != len(self._rows):
            raise SequenceError(f"generate works on {len(ids)} rows and {len(self._rows)} are "
                                    "watched: beams and several answers to one prompt need a row "
                                    "and an id each")
        if before is not None and not torch.equal(ids[:, :-1], before):
            raise SequenceError("rows changed while they were written, or grew by more than "
                                    "a token: beam search and assisted generation cannot be "
                                    "watched")
        if logits is None:
            self._logits.width = ids.shape[1] - 1 if before is None else self._logits.width
            return [math.nan] * len(ids)
        self._logits.latest = None
        found = logits.gather(1, ids[:, -1:])[:, 0] - logits.logsumexp(1)
        return [float(value) for value in found.tolist()]


class _Logits(LogitsProcessor):
    """Keeps the logits of the next token, before they are warped, and changes nothing."""

    latest: torch.Tensor | None = None
    width: int | None = None  # of the prompts

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if self.width is None:
            self.width = input_ids.shape[1]
        self.latest = scores
        return scores


@dataclass
class _Row:
    """One row: its text, and the tokens that have not become whole characters yet."""

    watched: WatchedText
    tokenizer: PreTrainedTokenizerBase
    tokens: list[int] = field(default_factory=list)
    ended: bool = False
    _shown: int = 0  # tokens whose characters were handed over

    @property
    def over(self) -> bool:
        """Whether nothing more is written."""
        return self.ended or self.watched.alarm is not None

    def end(self) -> None:
        """End the answer; what is left is its last step."""
        self.ended = True
        self.watched.finish()

    def take(self, token: int, log_prob: float) -> None:
        """Hand a token over."""
        self.tokens.append(token)
        try:
            text = self._whole_text()
        except Exception as error:  # a tokenizer may raise anything
            self.watched.fail(error)
            return
        self.watched.token(text, log_prob)

    def _whole_text(self) -> str:
        """Characters that are whole now; a token before them shows where blanks belong."""
        start, waiting = max(self._shown - 1, 0), len(self.tokens) - self._shown
        known = self._decode(self.tokens[start : self._shown])
        text = self._decode(self.tokens[start:])
        if text.endswith("\N{REPLACEMENT CHARACTER}") and waiting < MOST_BYTES:
            return ""  # a character is spread over several tokens
        self._shown = len(self.tokens)
        return text[len(known):]

    def _decode(self, ids: list[int]) -> str:
        options: dict[str, Any] = {"clean_up_tokenization_spaces": False}
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, **options))

    def answer(self) -> WatchedAnswer:
        watched = self.watched
        return WatchedAnswer(
            watched.sequence_id, self._decode(self.tokens), tuple(self.tokens),
            tuple(watched.scores), tuple(watched.tokens), watched.alarm)
