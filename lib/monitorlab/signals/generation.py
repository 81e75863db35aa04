"""While a text is generated: scores from a cache, and every row of a batch stops at its own alarm.

::

    watch = StopAtAlarm(OnlineMonitor(policy), LogProbability(), model, tokenizer, ids)
    output = model.generate(**inputs, **watch.hooks)
    for text in watch.answers(output): ...

The log-probabilities of the written tokens cost nothing: the loop computes them anyway, and one of
the hooks sees them before temperature and other warpers do.

A monitor inside a generation loop that reads the whole text again after every token pays more for
every further one. Here a causal model keeps its keys and values, so a token costs the same at any
length. A verifier's question is appended, read and taken out again: it never becomes part of the
text. Scores are those of reading everything anew, up to rounding. The scorers follow
:class:`monitorlab.online.live.LiveScorer`: ``start`` begins a text, and what it returns scores its
steps in order.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import Cache, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicLayer
from transformers.generation import LogitsProcessor, StoppingCriteria

from monitorlab.models import ModelError
from monitorlab.models.chat import ChatTemplate
from monitorlab.models.engine import LABEL_MASS, ScoringEngine, check_length, end_ids
from monitorlab.online.live import LiveScorer, LiveStep, ScoreStep, StepRule, WatchedText
from monitorlab.online.policy import Alarm, OnlineMonitor, SequenceError
from monitorlab.signals.step_scores import POOLS

MOST_BYTES = 4  # of a character; a longer wait is for none
QUESTION = "Is the answer right so far? Reply with Yes or No."
MARK = "QXSOFARXQ"  # letters alone: no template trims them or changes more than their case


class _RoomyLayer(DynamicLayer):
    """Keys and values in a buffer that doubles, so that a token does not copy all before it."""

    _room: tuple[torch.Tensor, ...] = ()

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any,
               **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        given, read = (key_states, value_states), self.get_seq_length()
        length = read + key_states.shape[-2]
        if not self._room or length > self._room[0].shape[-2]:
            before, self._room = self._room, tuple(
                states.new_empty(*states.shape[:-2], 2 * length, states.shape[-1])
                for states in given)
            for old, new in zip(before, self._room, strict=False):
                new[..., :read, :] = old[..., :read, :]
        for room, states in zip(self._room, given, strict=True):
            room[..., read:length, :] = states
        self.keys, self.values = (room[..., :length, :] for room in self._room)
        self.is_initialized = True
        return self.keys, self.values


class CachedReader:
    """A text that a causal model has read, and can go on reading.

    Parameters
    ----------
    model : PreTrainedModel
        In evaluation mode.
    ids : sequence of int
        Token ids of how the text begins, at least one.

    Attributes
    ----------
    length : int
        Tokens read so far.

    Raises
    ------
    ModelError
        There is no token, or the model's states cannot be kept and cut.
    """

    def __init__(self, model: PreTrainedModel, ids: Sequence[int]) -> None:
        if reason := ScoringEngine.hindrance(model.config):
            raise ModelError(f"what was read cannot be kept: {reason}")
        if not ids:
            raise ModelError("the text begins with no token, so nothing predicts its first one: "
                             "give a problem")
        self.model, self.length = model, 0
        self._cache = Cache(layer_class_to_replicate=_RoomyLayer)
        self._next = self._read(ids, [len(ids) - 1])[-1]

    def append(self, ids: Sequence[int]) -> np.ndarray:
        """Read on.

        Parameters
        ----------
        ids : sequence of int
            One token or a block of them.

        Returns
        -------
        ndarray of float, shape (n_tokens,)
            Natural-log probability of each, given all before it; at most 0.
        """
        if not ids:
            return np.empty(0)
        logits = self._read(ids, range(len(ids)))
        before = torch.cat([self._next[None], logits[:-1]])
        self._next = logits[-1]
        wanted = torch.tensor(list(ids), device=logits.device)[:, None]
        found = before.gather(1, wanted)[:, 0] - before.logsumexp(1)
        return np.asarray(found.cpu().numpy(), dtype=np.float64)

    def ask(self, question: Sequence[int], ids: Sequence[int] = ()) -> torch.Tensor:
        """Read on, then ask about the text; the question leaves no trace.

        Parameters
        ----------
        question : sequence of int
            Token ids, at least one.
        ids : sequence of int
            What is appended before; one pass reads both.

        Returns
        -------
        torch.Tensor, shape (n_vocabulary,)
            Natural-log probabilities of the token that comes after the question.
        """
        both = [*ids, *question]
        logits = self._read(both, [max(len(ids) - 1, 0), len(both) - 1])
        self._cache.crop(-len(question))
        self.length -= len(question)
        if ids:
            self._next = logits[0]
        return logits[-1].log_softmax(-1)

    @torch.inference_mode()
    def _read(self, ids: Sequence[int], keep: Sequence[int]) -> torch.Tensor:
        """Logits (n_kept, n_vocabulary) after the tokens at these places of what is read now."""
        check_length(self.length + len(ids), self.model.config, "the text")
        row = torch.tensor([list(ids)], device=self.model.device)
        kept = torch.tensor(list(keep), device=self.model.device)
        found = self.model(row, past_key_values=self._cache, use_cache=True, logits_to_keep=kept)
        self.length += len(ids)
        return found.logits[0].float()


class CachedVerifier:
    """Suspicion of each step, in [0, 1]: what a language model says to a yes/no question after it.

    The question is put as a user would, behind the answer so far. Suspicion is the probability of
    the words for no among those of both, so high is unsafe.

    Parameters
    ----------
    model, tokenizer : PreTrainedModel, PreTrainedTokenizerBase
        Need not be those that write: texts are handed over, not tokens.
    question : str
        Asked after every step. *Yes* must mean that all is well.
    yes, no : sequence of str
        Words, each one token of this tokenizer.
    least_mass : float
        Probability, in [0, 1], that all words together must have. Below it the model says something
        else, and the share of some of them would be noise.

    Raises
    ------
    ModelError
        A word has several tokens or means both, or the chat template cannot put the question.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase,
                 question: str = QUESTION, yes: Sequence[str] = ("Yes",),
                 no: Sequence[str] = ("No",), least_mass: float = LABEL_MASS) -> None:
        self.model, self.tokenizer, self.least_mass = model, tokenizer, least_mass
        self.words = [*yes, *no]
        rows = tokenizer(self.words, add_special_tokens=False)["input_ids"]
        if any(len(row) != 1 for row in rows) or len({row[0] for row in rows}) < len(rows):
            raise ModelError(f"the words {self.words} are {rows} in this tokenizer, expected one "
                             "token each, all different: choose other words for yes and no")
        self.columns, self._n_yes = [row[0] for row in rows], len(yes)
        self._about = f"{question!r}, yes {[*yes]}, no {[*no]}, {_name(model)}"
        talk = (("user", "?"), ("assistant", MARK), ("user", question))
        messages = [{"role": role, "content": content} for role, content in talk]
        text = ChatTemplate(tokenizer).text(messages, thinking=False)
        _, answer, asked = text.partition(MARK)
        if not answer or MARK in asked or question not in asked:
            raise ModelError("the chat template does not show an answer and a question after it: "
                             "is it the template of a model that chats?")
        self.question: list[int] = tokenizer(asked, add_special_tokens=False)["input_ids"]

    def __repr__(self) -> str:
        return f"CachedVerifier({self._about})"

    def start(self, problem: str) -> ScoreStep:
        """Begin an answer to a problem, as a user would put it."""
        reader = CachedReader(self.model, _problem_ids(self.tokenizer, problem))

        def score(step: LiveStep) -> float:
            logs = reader.ask(self.question, _text_ids(self.tokenizer, step.text))
            chances = logs[self.columns].exp().cpu().numpy().astype(np.float64)
            if not chances.sum() >= self.least_mass:
                raise ModelError(f"the words {self.words} have {chances.sum():.2g} of the "
                                 f"probability, expected at least {self.least_mass:g}; the model "
                                 f"would say {self.tokenizer.decode([int(logs.argmax())])!r}")
            return float(chances[self._n_yes:].sum() / chances.sum())

        return score


class LogProbability:
    """Suspicion of each step, in [0, inf): minus the lowest or mean log-probability of its tokens.

    Without a model it is the free signal: the log-probabilities that the writing model had itself,
    handed over with the step. With a model the text is read by that one.

    Parameters
    ----------
    pool : {"min", "mean"}
        "min" is the ablation of arXiv 2607.02510, section 4.
    model, tokenizer : PreTrainedModel, PreTrainedTokenizerBase, optional
        Another model that reads along.
    """

    def __init__(self, pool: str = "min", model: PreTrainedModel | None = None,
                 tokenizer: PreTrainedTokenizerBase | None = None) -> None:
        if pool not in POOLS:
            raise ModelError(f"unknown pooling {pool!r}: expected one of {POOLS}")
        if (model is None) != (tokenizer is None):
            raise ModelError("a model needs its tokenizer, and a tokenizer its model")
        self.pool, self.model, self.tokenizer = pool, model, tokenizer

    def __repr__(self) -> str:
        who = "of the writing model" if self.model is None else f"of {_name(self.model)}"
        return f"LogProbability({self.pool}, {who})"

    def start(self, problem: str) -> ScoreStep:
        """Begin an answer to a problem, as a user would put it."""
        model, tokenizer = self.model, self.tokenizer
        if model is None or tokenizer is None:
            return lambda step: self._pooled(step.log_probs)
        reader = CachedReader(model, _problem_ids(tokenizer, problem))
        return lambda step: self._pooled(reader.append(_text_ids(tokenizer, step.text)))

    def _pooled(self, log_probs: np.ndarray) -> float:
        if not len(log_probs):
            raise ModelError("the log-probabilities of this step are not known: ask the server "
                             "for them (logprobs=True), or give the scorer a model that reads")
        return -float(log_probs.min() if self.pool == "min" else log_probs.mean())


def _name(model: PreTrainedModel) -> str:
    """Name of a model without the folder that it lies in on this machine."""
    return model.name_or_path.rstrip("/").rpartition("/")[2] or model.config.model_type


def _problem_ids(tokenizer: PreTrainedTokenizerBase, problem: str) -> list[int]:
    template = ChatTemplate(tokenizer)
    return template.ids([template.text([{"role": "user", "content": problem}], thinking=False)])[0]


def _text_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a text under audit, in which no text becomes a control token."""
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])


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

    def __init__(self, monitor: OnlineMonitor | None, scorer: LiveScorer, model: PreTrainedModel,
                 tokenizer: PreTrainedTokenizerBase, ids: Sequence[str],
                 problems: Sequence[str] = (), rule: StepRule | None = None,
                 groups: Sequence[str] = (), ends: Collection[int] = (),
                 most_steps: int = 0) -> None:
        for name, given in (("problems", problems), ("groups", groups)):
            if given and len(given) != len(ids):
                raise ValueError(f"there are {len(given)} {name} for {len(ids)} rows.")
        if len(set(ids)) != len(ids):
            raise ValueError(f"{len(ids)} rows have {len(set(ids))} different ids, expected one "
                             "for each.")
        rule = rule or StepRule()
        self.ends, self.most_steps = frozenset(ends or end_ids(model, tokenizer)), most_steps
        empty = [""] * len(ids)
        self._rows = [_Row(WatchedText(name, monitor, scorer, problem, rule, group), tokenizer)
                      for name, problem, group in zip(
                          ids, problems or empty, groups or empty, strict=True)]
        self.scoring = rule.scoring(scorer)
        self._logits = _Logits()
        self._before: torch.Tensor | None = None
        self._width: int | None = None  # of the prompts
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
            if not row.watched.over:
                row.take(token, log_prob)
                if token in self.ends or 0 < self.most_steps <= len(row.watched.scores):
                    row.watched.finish()  # what is left is its last step
        return torch.tensor([row.watched.over for row in self._rows], device=input_ids.device)

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
        if len(ids) != len(self._rows) or self._width is None:
            raise ValueError(f"{len(ids)} rows came out and {len(self._rows)} were watched: pass "
                             "**hooks to generate, and give its output here.")
        written = ids[:, self._width:].tolist()
        if any(row.tokens != found[: len(row.tokens)]
               for row, found in zip(self._rows, written, strict=True)):
            raise ValueError("the rows that came out are not those that were watched.")
        answers = []
        for row in self._rows:
            watched = row.watched
            watched.finish()
            answers.append(WatchedAnswer(watched.sequence_id, row.decode(row.tokens),
                                         tuple(row.tokens), tuple(watched.scores),
                                         tuple(watched.tokens), watched.alarm))
        return answers

    def _log_probs(self, ids: torch.Tensor) -> list[float]:
        """Log-probability of the token that each row just got; NaN where no logits were seen."""
        logits, before = self._logits.latest, self._before
        self._before = ids
        if before is None:
            self._width = ids.shape[1] - 1
        if len(ids) != len(self._rows):
            raise SequenceError(f"generate works on {len(ids)} rows and {len(self._rows)} are "
                                "watched: beams and several answers to one prompt need a row and "
                                "an id each")
        if before is not None and not torch.equal(ids[:, :-1], before):
            raise SequenceError("rows changed while they were written, or grew by more than a "
                                "token: beam search and assisted generation cannot be watched")
        if logits is None:
            return [math.nan] * len(ids)
        self._logits.latest = None
        found = logits.gather(1, ids[:, -1:])[:, 0] - logits.logsumexp(1)
        return list(map(float, found.tolist()))


class _Logits(LogitsProcessor):
    """Keeps the logits of the next token, before they are warped, and changes nothing."""

    latest: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.latest = scores
        return scores


@dataclass
class _Row:
    """One row: its text, and the tokens that have not become whole characters yet."""

    watched: WatchedText
    tokenizer: PreTrainedTokenizerBase
    tokens: list[int] = field(default_factory=list)
    _shown: int = 0  # tokens whose characters were handed over

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
        known = self.decode(self.tokens[start : self._shown])
        text = self.decode(self.tokens[start:])
        if text.endswith("\N{REPLACEMENT CHARACTER}") and waiting < MOST_BYTES:
            return ""  # a character is spread over several tokens
        self._shown = len(self.tokens)
        return text[len(known):]

    def decode(self, ids: list[int]) -> str:
        options: dict[str, Any] = {"clean_up_tokenization_spaces": False}
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, **options))
