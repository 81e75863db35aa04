"""Scores of a text while it is written: what was read stays in the cache, and is read once.

A monitor inside a generation loop that reads the whole text again after every token pays more for
every further one. Here a causal model keeps its keys and values, so a token costs the same at any
length. A verifier's question is appended, read and taken out again: it never becomes part of the
text. Scores are those of reading everything anew, up to rounding.

Both scorers follow :class:`monitorlab.online.live.LiveScorer`: ``start`` begins a text, and what it
returns scores its steps in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import Cache, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicLayer

from monitorlab.models import ModelError
from monitorlab.models.batching import LABEL_MASS, check_length
from monitorlab.models.chat import chat_text, text_ids
from monitorlab.models.engine import hindrance
from monitorlab.online.live import FloatArray, LiveStep, ScoreStep
from monitorlab.signals.token_probabilities import POOLS

QUESTION = "Is the answer right so far? Reply with Yes or No."
MARK = "QXSOFARXQ"  # letters alone: no template trims them or changes more than their case


class _RoomyLayer(DynamicLayer):
    """Keys and values in a buffer that doubles, so that a token does not copy all before it."""

    _room: tuple[torch.Tensor, ...] = ()

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
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
        if reason := hindrance(model.config):
            raise ModelError(f"what was read cannot be kept: {reason}")
        if not ids:
            raise ModelError("the text begins with no token, so nothing predicts its first one: "
                             "give a problem")
        self.model, self.length = model, 0
        self._cache = Cache(layer_class_to_replicate=_RoomyLayer)
        self._next = self._read(ids, [len(ids) - 1])[-1]

    def append(self, ids: Sequence[int]) -> FloatArray:
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

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, question: str = QUESTION,
        yes: Sequence[str] = ("Yes",), no: Sequence[str] = ("No",), least_mass: float = LABEL_MASS,
    ) -> None:
        self.model, self.tokenizer, self.least_mass = model, tokenizer, least_mass
        self.words = [*yes, *no]
        rows = tokenizer(self.words, add_special_tokens=False)["input_ids"]
        if any(len(row) != 1 for row in rows) or len({row[0] for row in rows}) < len(rows):
            raise ModelError(f"the words {self.words} are {rows} in this tokenizer, expected one "
                             "token each, all different: choose other words for yes and no")
        self.columns, self._n_yes = [row[0] for row in rows], len(yes)
        self._about = f"{question!r}, yes {[*yes]}, no {[*no]}, {_name(model)}"
        talk = [("user", "?"), ("assistant", MARK), ("user", question)]
        text = chat_text(tokenizer, [{"role": role, "content": content} for role, content in talk],
                         thinking=False)
        if text.count(MARK) != 1 or question not in text.partition(MARK)[2]:
            raise ModelError("the chat template does not show an answer and a question after it: "
                             "is it the template of a model that chats?")
        self.question: list[int] = tokenizer(
            text.partition(MARK)[2], add_special_tokens=False)["input_ids"]

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

    def __init__(
        self, pool: str = "min", model: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
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

    def _pooled(self, log_probs: FloatArray) -> float:
        if not len(log_probs):
            raise ModelError("the log-probabilities of this step are not known: ask the server "
                             "for them (logprobs=True), or give the scorer a model that reads")
        return -float(log_probs.min() if self.pool == "min" else log_probs.mean())


def _name(model: PreTrainedModel) -> str:
    """Name of a model without the folder that it lies in on this machine."""
    return model.name_or_path.rstrip("/").rpartition("/")[2] or model.config.model_type


def _problem_ids(tokenizer: PreTrainedTokenizerBase, problem: str) -> list[int]:
    text = chat_text(tokenizer, [{"role": "user", "content": problem}], thinking=False)
    return text_ids(tokenizer, [text])[0]


def _text_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a text under audit, in which no text becomes a control token."""
    ids: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=True)[
        "input_ids"]
    return ids
