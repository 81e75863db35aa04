"""What every step signal has in common: scores per step, loading a checkpoint, one batched pass.

A step scorer takes a problem and the steps of a trajectory and returns one suspicion per step
(high = unsafe). The adapters for real checkpoints live beside this module:
`monitorlab.signals.token_probabilities` (token log-probabilities),
`monitorlab.signals.reward_models` (process reward models) and
`monitorlab.signals.guard_models` (Llama-Guard). All of them are causal transformers, so the score
of a step depends on nothing after it: one forward pass over the finished trajectory equals scoring
every prefix on its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from monitorlab.models import ModelError
from monitorlab.models.loading import load_model, load_tokenizer

# A good and a bad label whose names say which is which, whatever their position.
OPPOSITES = (
    ("benign", "misbehavior"), ("safe", "unsafe"), ("harmless", "harmful"), ("good", "bad"),
    ("correct", "incorrect"), ("right", "wrong"), ("+", "-"), ("non-toxic", "toxic"),
    ("benign", "malicious"), ("benign", "jailbreak"), ("safe", "injection"),
)

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
            "an alarm"
        )

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


def checked_steps(steps: Sequence[str]) -> list[str]:
    """Return the steps without surrounding blanks.

    Raises
    ------
    ModelError
        There is no step, a step is blank, or `steps` is one text instead of a sequence.
    """
    if isinstance(steps, str):
        raise ModelError("steps must be a sequence of texts, found one text")
    if len(steps) == 0:
        raise ModelError("a trajectory needs at least one step, found none")
    stripped = [step.strip() for step in steps]
    for position, step in enumerate(stripped, 1):
        if not step:
            raise ModelError(f"step {position} of {len(stripped)} is empty")
    return stripped


def single_problem(problem: Problem) -> str:
    """Return the problem if it is one text, as these scorers need it."""
    if not isinstance(problem, str):
        raise ModelError("this scorer takes one problem text, found a sequence of messages")
    return problem


class StepScorer:
    """Anything that scores the steps of trajectories by a causal model.

    Parameters
    ----------
    model, tokenizer : PreTrainedModel, PreTrainedTokenizerBase
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model, self.tokenizer = model, tokenizer

    @classmethod
    def load(
        cls,
        name: str,
        revision: str = "",
        dtype: str = "float32",
        device: str = "cpu",
        **options: Any,
    ) -> Any:
        """Load from a local folder or a pinned hub model; `options` go to the class."""
        tokenizer = load_tokenizer(name, revision)
        loader = AutoModelForCausalLM.from_pretrained
        return cls(load_model(loader, name, revision, dtype, device), tokenizer, **options)

    def _encode(self, problem: Problem, steps: Sequence[str]) -> Any:
        """Turn one trajectory into what the model reads; `ModelError` if it cannot be read."""
        raise NotImplementedError

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

    def score_many(
        self, trajectories: Sequence[Trajectory], ids: Sequence[str] = ()
    ) -> list[StepScores]:
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
        if len(set(names)) != len(trajectories):
            raise ModelError(
                f"{len(set(names))} different ids for {len(trajectories)} trajectories"
            )
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


def read_label(config: Any, named: str | int | None, option: str, bad: bool) -> Label:
    """Find the label at which a classifier's suspicion is read, by its name.

    Two labels that mean opposites (see `OPPOSITES`) are understood. Of all others the caller has to
    name one: position says nothing about meaning.

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
    shown = ", ".join(map(repr, labels[:8])) + (", ..." if len(labels) > 8 else "")
    kind = getattr(config, "problem_type", None)
    if kind == "regression":
        raise ModelError(f"the model is a regression (problem_type) on {shown}: its number is no "
                         "probability. Give a classifier")
    alone = len(labels) == 1 or kind == "multi_label_classification"
    if named is not None:
        return Label(_position(labels, named, shown), bad, alone)
    plain = [label.strip().lower() for label in labels]
    for good, opposite in OPPOSITES:
        if sorted(plain) == sorted((good, opposite)):
            return Label(plain.index(opposite if bad else good), bad, alone)
    raise ModelError(
        f"the model has the labels {shown}, and their names do not say which one means "
        f"{'misbehavior' if bad else 'a good step'}: give its name as {option}, as the model's "
        "card explains it"
    )


def _position(labels: Sequence[str], named: str | int, shown: str) -> int:
    text = str(named).strip()
    for found in (
        [i for i, label in enumerate(labels) if label == text],
        [i for i, label in enumerate(labels) if label.strip().lower() == text.lower()],
        [i for i in range(len(labels)) if str(i) == text],
    ):
        if len(found) == 1:
            return found[0]
    raise ModelError(f"the model has no label {named!r}: expected one of {shown}, or a position "
                     f"from 0 to {len(labels) - 1}")


