"""Scores per step: what every step signal has in common, and the free one, of any language model.

A step scorer takes a problem and the steps of a trajectory and returns one suspicion per step
(high = unsafe). Process reward models and guard models are in `monitorlab.signals.verifiers`. All
of them are causal transformers, so the score of a step depends on nothing after it: one forward
pass over the finished trajectory equals scoring every prefix on its own.

The free signal is the log-probability that a model gives to the tokens of a step: its minimum is
the ablation of arXiv 2607.02510 (section 4), its mean the usual alternative. Suspicion is minus
that value, so an unlikely step is a suspicious one.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from monitorlab.models import ModelError
from monitorlab.models.chat import ChatTemplate
from monitorlab.models.engine import BATCH_TOKENS, check_length, pad_right, token_batches
from monitorlab.models.loading import load_model, load_tokenizer

STEP_BREAK = "\n\n"
POOLS = ("min", "mean")
# A good and a bad label whose names say which is which, whatever their position.
OPPOSITES = (("benign", "misbehavior"), ("safe", "unsafe"), ("harmless", "harmful"),
             ("good", "bad"), ("correct", "incorrect"), ("right", "wrong"), ("+", "-"),
             ("non-toxic", "toxic"), ("benign", "malicious"), ("benign", "jailbreak"),
             ("safe", "injection"))

Problem = str | Sequence[str]
Trajectory = tuple[Problem, Sequence[str]]


class LeftOutError(ModelError):
    """Some trajectories could not be scored. The others were, and are in `scores`.

    Attributes
    ----------
    scores : list of StepScores or None
        In the order of the trajectories; None for one that was left out.
    reasons : dict of str to str
        Why, by the id of each trajectory that was left out.
    """

    def __init__(self, scores: list[StepScores | None], reasons: dict[str, str]) -> None:
        self.scores, self.reasons = scores, reasons
        if len(scores) == 1:
            super().__init__(next(iter(reasons.values())))
            return
        some = "; ".join(f"{name!r}: {reason[:100]}" for name, reason in list(reasons.items())[:2])
        more = "; ..." if len(reasons) > 2 else ""
        super().__init__(
            f"{len(reasons)} of {len(scores)} trajectories could not be scored ({some}{more}). The "
            "others are in `scores` of this error. A threshold calibrated on them alone keeps its "
            "level only among trajectories that can be scored: shorten the rest, or count each as "
            "an alarm")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.scores, self.reasons)  # it may come from another process


@dataclass(frozen=True)
class StepScores:
    """Suspicion and length of the steps of one trajectory.

    Attributes
    ----------
    scores : numpy.ndarray, shape (n_steps,)
        Suspicion, finite, high = unsafe. Probabilities lie in [0, 1], log-probability signals in
        [0, inf).
    tokens : numpy.ndarray, shape (n_steps,)
        Tokens of each step's own text, at least 1.
    """

    scores: np.ndarray
    tokens: np.ndarray

    @classmethod
    def pooled(cls, log_probs: np.ndarray, step_of_token: np.ndarray, n_steps: int,
               pool: str) -> StepScores:
        """Turn token log-probabilities into suspicion: minus their minimum or mean per step."""
        parts = [log_probs[step_of_token == step] for step in range(n_steps)]
        for step, part in enumerate(parts, 1):
            if len(part) == 0:
                raise ModelError(f"step {step} of {n_steps} has no token of its own")
        pooled = [part.min() if pool == "min" else part.mean() for part in parts]
        return cls(-np.array(pooled), np.array([len(part) for part in parts]))


class StepScorer:
    """Anything that scores the steps of trajectories by a causal model.

    Parameters
    ----------
    model, tokenizer : PreTrainedModel, PreTrainedTokenizerBase
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model, self.tokenizer = model, tokenizer

    @classmethod
    def load(cls, name: str, revision: str = "", dtype: str = "float32", device: str = "cpu",
             **options: Any) -> Any:
        """Load from a local folder or a pinned hub model; `options` go to the class."""
        tokenizer = load_tokenizer(name, revision)
        return cls(cls._load_model(name, revision, dtype, device), tokenizer, **options)

    @classmethod
    def _load_model(cls, name: str, revision: str, dtype: str, device: str) -> PreTrainedModel:
        loader = AutoModelForCausalLM.from_pretrained
        return load_model(loader, name, revision, dtype, device)

    def _encode(self, problem: Problem, steps: Sequence[str]) -> Any:
        """Turn one trajectory into what the model reads; `ModelError` if it cannot be read."""
        raise NotImplementedError

    @staticmethod
    def _checked(steps: Sequence[str]) -> list[str]:
        """Return the steps without surrounding blanks; `ModelError` if one or all are missing."""
        if isinstance(steps, str):
            raise ModelError("steps must be a sequence of texts, found one text")
        if len(steps) == 0:
            raise ModelError("a trajectory needs at least one step, found none")
        stripped = [step.strip() for step in steps]
        if not all(stripped):
            raise ModelError(f"step {stripped.index('') + 1} of {len(stripped)} is empty")
        return stripped

    def _read(self, encoded: list[Any]) -> Sequence[StepScores | ModelError]:
        """Score all that could be encoded, in order, or say why one has no score."""
        raise NotImplementedError

    def score(self, problem: Problem, steps: Sequence[str]) -> StepScores:
        """Score one trajectory.

        Parameters
        ----------
        problem : str or sequence of str
            The task as one text or, for conversations, one user message per step.
        steps : sequence of str
            The model's texts, in order.

        Returns
        -------
        StepScores
            Suspicion per step, in the range that the class states, and the tokens of each step.

        Raises
        ------
        ModelError
            It cannot be scored; the message says why.
        """
        return self.score_many([(problem, steps)])[0]

    def score_many(self, trajectories: Sequence[Trajectory],
                   ids: Sequence[str] = ()) -> list[StepScores]:
        """Score every trajectory that can be scored, in batches, and say which could not.

        Parameters
        ----------
        trajectories : sequence of (problem, steps)
        ids : sequence of str, optional
            How to call the trajectories; their positions from 1 when left out.

        Returns
        -------
        list of StepScores
            In the same order.

        Raises
        ------
        LeftOutError
            Some could not be scored, or their scores are no numbers. It holds the scores of the
            others.
        """
        names = list(ids) or [str(k) for k in range(1, len(trajectories) + 1)]
        if (unlike := len(set(names))) != len(trajectories):
            raise ModelError(f"{unlike} different ids for {len(trajectories)} trajectories")
        encoded: dict[str, Any] = {}
        reasons: dict[str, str] = {}
        for name, trajectory in zip(names, trajectories, strict=True):
            try:
                encoded[name] = self._encode(*trajectory)
            except ModelError as error:
                reasons[name] = str(error)
        scores: dict[str, StepScores] = {}
        read = self._read(list(encoded.values())) if encoded else []
        for name, found in zip(encoded, read, strict=True):
            if isinstance(found, ModelError):
                reasons[name] = str(found)
            elif np.isnan(found.scores).any():
                reasons[name] = "the model's logits are no numbers: load it as bfloat16 or float32"
            else:
                scores[name] = found
        if reasons:
            raise LeftOutError([scores.get(name) for name in names],
                               {name: reasons[name] for name in names if name in reasons})
        return [scores[name] for name in names]


@dataclass(frozen=True)
class Label:
    """The label of a classifier at which suspicion is read.

    Attributes
    ----------
    position : int
        Column of its logit.
    bad : bool
        Whether its probability is the suspicion; else 1 minus it is.
    alone : bool
        Whether the logit is read alone, through the logistic function, and not by softmax.
    """

    position: int
    bad: bool
    alone: bool

    def suspicion(self, logits: torch.Tensor) -> np.ndarray:
        """Suspicion in [0, 1] from logits (n, n_labels): shape (n,)."""
        values = logits.double()
        if self.alone:
            own = values[:, self.position]
            return (own if self.bad else -own).sigmoid().cpu().numpy()
        chances = values.softmax(-1)
        if not self.bad:  # summed over the other labels: 1 - p would tie what is below 1e-16
            chances[:, self.position] = 0
            return chances.sum(-1).cpu().numpy()
        return chances[:, self.position].cpu().numpy()

    @classmethod
    def read(cls, config: Any, named: str | int | None, option: str, bad: bool) -> Label:
        """Find the label at which a classifier's suspicion is read, by its name.

        Two labels that mean opposites (see `OPPOSITES`) are understood. Of all others the caller
        has to name one: position says nothing about meaning.

        Parameters
        ----------
        config : transformers configuration
            With ``id2label`` and, perhaps, ``problem_type``.
        named : str or int or None
            Name of the label, or its position from 0; None to go by the names.
        option : str
            How the caller passes `named`; for messages.
        bad : bool
            Whether `named` is the bad label.

        Raises
        ------
        ModelError
            The names do not say which label is meant, there is no label of that name, or the model
            predicts a number and no label.
        """
        labels = [str(config.id2label[i]) for i in sorted(config.id2label)]
        plain = [label.strip().lower() for label in labels]
        shown = ", ".join(map(repr, labels[:8])) + (", ..." if len(labels) > 8 else "")
        kind = getattr(config, "problem_type", None)
        if kind == "regression":
            raise ModelError(f"the model is a regression (problem_type) on {shown}: its number is "
                             "no probability. Give a classifier")
        alone = len(labels) == 1 or kind == "multi_label_classification"
        if named is None:
            for good, opposite in OPPOSITES:
                if sorted(plain) == sorted((good, opposite)):
                    return cls(plain.index(opposite if bad else good), bad, alone)
            raise ModelError(
                f"the model has the labels {shown}, and their names do not say which one means "
                f"{'misbehavior' if bad else 'a good step'}: give its name as {option}, as the "
                "model's card explains it")
        text = str(named).strip()
        for names, wanted in ((labels, text), (plain, text.lower()),
                              (list(map(str, range(len(labels)))), text)):
            if names.count(wanted) == 1:
                return cls(names.index(wanted), bad, alone)
        raise ModelError(f"the model has no label {named!r}: expected one of {shown}, or a "
                         f"position from 0 to {len(labels) - 1}")


class LogProbabilityScorer(StepScorer):
    """Suspicion per step, in [0, inf), from its tokens' log-probability under a language model.

    The steps are read as one text with a break after each, the last one included, as a model writes
    them; so the score of a step does not depend on whether another follows. The break is this
    scorer's and says nothing about a step: a token belongs to the step that holds its last
    character, and a token that ends in a break, even one that begins with the step's full stop,
    belongs to none. (A step that is made of such a token alone is scored by it.) The blank that
    many tokenizers put into a word belongs to the word. The first token of the first step is
    predicted from the prompt alone.

    Of a conversation (a problem of one message per step) every turn of the assistant is scored
    after all that was said before it, in a pass of its own.

    Parameters
    ----------
    model, tokenizer : PreTrainedModel, PreTrainedTokenizerBase
        The tokenizer must be a fast one, which knows where each token begins and ends.
    system : str
        System message of the chat; none when empty.
    pool : str
        "min" (the paper's ablation) or "mean" over the tokens of a step.
    step_break : str
        Text after every step.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, system: str = "",
                 pool: str = "min", step_break: str = STEP_BREAK) -> None:
        super().__init__(model, tokenizer)
        if not tokenizer.is_fast:
            raise ModelError("log-probabilities per step need a fast tokenizer (token offsets)")
        if pool not in POOLS:
            raise ModelError(f"unknown pooling {pool!r}: expected one of {POOLS}")
        self.system, self.pool, self.step_break = system, pool, step_break
        self._with_blanks = _untrimmed(tokenizer)

    def prompt_ids(self, problem: str, before: Sequence[tuple[str, str]] = ()) -> list[int]:
        """Encode a problem, and turns before it, by the chat template, or as lines without one."""
        if not self.tokenizer.chat_template:
            lines = [*(text for turn in before for text in turn), problem]
            return self.tokenizer(self.system + "".join(f"{line}\n" for line in lines))["input_ids"]
        messages = [{"role": role, "content": text} for turn in before
                    for role, text in zip(("user", "assistant"), turn, strict=True)]
        messages.append({"role": "user", "content": problem})
        if self.system:
            messages.insert(0, {"role": "system", "content": self.system})
        chat = ChatTemplate(self.tokenizer).render(messages, add_generation_prompt=True)
        return self.tokenizer(chat, add_special_tokens=False)["input_ids"]

    def _answer(self, steps: Sequence[str]) -> tuple[list[int], np.ndarray]:
        """Token ids of all steps, and the step that each token belongs to; -1 for none."""
        texts = self._checked(steps)
        encoded = self._with_blanks("".join(text + self.step_break for text in texts),
                                    add_special_tokens=False, return_offsets_mapping=True)
        starts, ends = np.array(encoded["offset_mapping"]).reshape(-1, 2).T
        last = np.maximum(ends - 1, starts)  # a mark without a character stands where it stands
        lengths = np.array([len(text) for text in texts])
        firsts = np.cumsum([0, *lengths[:-1] + len(self.step_break)])
        step = np.searchsorted(firsts, last, side="right") - 1
        step_of_token = np.where(last < (firsts + lengths)[step], step, -1)
        for bare in set(range(len(texts))) - set(step_of_token.tolist()):
            within = (starts < firsts[bare] + lengths[bare]) & (ends > firsts[bare])
            step_of_token[within & (step_of_token < 0)] = bare
        return encoded["input_ids"], step_of_token

    def _encode(self, problem: Problem, steps: Sequence[str]) -> list[_Answer]:
        if isinstance(problem, str):
            parts: list[tuple[list[int], Sequence[str]]] = [(self.prompt_ids(problem), steps)]
        else:
            turns = list(zip(problem, steps, strict=True))
            parts = [(self.prompt_ids(asked, turns[:k]), [step])
                     for k, (asked, step) in enumerate(turns)]
        answers = [_Answer(prompt, *self._answer(part), len(part)) for prompt, part in parts]
        for answer in answers:
            if not answer.prompt:
                raise ModelError("the prompt of the trajectory has no token, so that nothing "
                                 "predicts the first token of the answer: give a problem, or a "
                                 "system message")
            check_length(len(answer.prompt) + len(answer.ids), self.model.config, "the trajectory")
        return answers

    @torch.inference_mode()
    def _read(self, encoded: Sequence[list[_Answer]]) -> list[StepScores]:
        """Score by the tokens' log-probabilities at temperature 1, given all before them."""
        answers = [answer for one in encoded for answer in one]
        rows = [[*answer.prompt, *answer.ids] for answer in answers]
        scores: dict[int, StepScores] = {}
        for chosen in token_batches([len(row) for row in rows], BATCH_TOKENS):
            ids, mask = pad_right([rows[i] for i in chosen], self.tokenizer.pad_token_id)
            ids, mask = ids.to(self.model.device), mask.to(self.model.device)
            output = self.model(input_ids=ids, attention_mask=mask, use_cache=False)
            for k, i in enumerate(chosen):
                start, end = len(answers[i].prompt), len(rows[i])
                logs = output.logits[k, start - 1 : end - 1].float().log_softmax(-1)
                found = logs.gather(-1, ids[k, start:end, None]).squeeze(-1)
                scores[i] = StepScores.pooled(found.cpu().numpy().astype(float),
                                              answers[i].step_of_token, answers[i].n_steps,
                                              self.pool)
        parts = iter(scores[i] for i in range(len(rows)))
        joined = []
        for one in encoded:
            own = [next(parts) for _ in one]
            joined.append(StepScores(np.concatenate([part.scores for part in own]),
                                     np.concatenate([part.tokens for part in own])))
        return joined


@dataclass(frozen=True)
class _Answer:
    """Token ids of a prompt and of its steps, and the step of each of these tokens."""

    prompt: list[int]
    ids: list[int]
    step_of_token: np.ndarray
    n_steps: int


def _untrimmed(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Return a tokenizer whose offsets hold blanks too, which some leave out of theirs."""
    if "trim_offsets=True" not in repr(tokenizer.backend_tokenizer.post_processor):
        return tokenizer
    copied = copy.deepcopy(tokenizer)
    copied.backend_tokenizer.post_processor = None
    return copied
