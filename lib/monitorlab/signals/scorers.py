"""What every step signal has in common: scores per step, loading a checkpoint, one batched pass.

A step scorer takes a problem and the steps of a trajectory and returns one suspicion per step
(high = unsafe). The adapters for real checkpoints live beside this module:
`monitorlab.signals.causal_models` (token log-probabilities, generation),
`monitorlab.signals.reward_models` (process reward models) and
`monitorlab.signals.guard_models` (Llama-Guard). All of them are causal transformers, so the score
of a step depends on nothing after it: one forward pass over the finished trajectory equals scoring
every prefix on its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import huggingface_hub.constants
import numpy as np
import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

BATCH_TOKENS = 16_384  # padding included
HELP = (
    "Give a local folder, or fill the Hugging Face cache that HF_HOME points at (on a machine "
    "with a network: `hf download {name} --revision {revision}`) and set HF_HUB_OFFLINE=1; a "
    "gated model also needs HF_TOKEN there."
)

Problem = str | Sequence[str]


class ScorerError(ValueError):
    """A checkpoint, its tokenizer or a trajectory does not fit the scorer."""


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


class StepScorer(Protocol):
    """Anything that scores the steps of trajectories."""

    def score(self, problem: Problem, steps: Sequence[str]) -> StepScores:
        """Score one trajectory.

        `problem` is the task as one text or, for conversations, one user message per step;
        `steps` are the model's texts in order.
        """

    def score_many(self, trajectories: Sequence[tuple[Problem, Sequence[str]]]) -> list[StepScores]:
        """Score many trajectories; the result is in the same order."""


@dataclass(frozen=True)
class Encoded:
    """Token ids of one trajectory and, per step, where its score is read and its own length."""

    ids: list[int]
    positions: list[int]
    tokens: list[int]


@contextlib.contextmanager
def no_progress_bars() -> Iterator[None]:
    """Silence bars and load reports of transformers; they would land in a notebook's stderr."""
    shown = transformers_logging.is_progress_bar_enabled()
    level = transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if shown:
            transformers_logging.enable_progress_bar()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def from_checkpoint(loader: Callable[..., Any], name: str, revision: str, **options: Any) -> Any:
    """Call a `from_pretrained` on a local folder or a pinned hub model, the cache first.

    Parameters
    ----------
    loader : callable
        Such as `AutoTokenizer.from_pretrained`.
    name : str
        Local folder or hub name.
    revision : str
        Commit, tag or branch on the hub. Must be given for a hub name, so that a score can be
        reproduced; ignored for a folder.

    Raises
    ------
    ScorerError
        No revision for a hub name, or the checkpoint is neither local, nor cached, nor reachable;
        the message says what to set.
    """
    with no_progress_bars():
        if Path(name).is_dir():
            return loader(name, local_files_only=True, **options)
        if not revision:
            raise ScorerError(f"{name!r} is not a local folder: pin a revision of the hub model")
        try:
            return loader(name, revision=revision, local_files_only=True, **options)
        except (OSError, ValueError) as error:
            missing = _first_line(error)
        if not huggingface_hub.constants.HF_HUB_OFFLINE:
            try:
                return loader(name, revision=revision, **options)
            except (OSError, ValueError) as error:
                missing = _first_line(error)
    advice = HELP.format(name=name, revision=revision)
    raise ScorerError(f"cannot load {name!r} at revision {revision!r}: {missing} {advice}")


def load_tokenizer(name: str, revision: str) -> PreTrainedTokenizerBase:
    """Load a fast tokenizer that can pad (with its end mark, if it has no mark of its own)."""
    tokenizer = from_checkpoint(AutoTokenizer.from_pretrained, name, revision)
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise ScorerError(f"the tokenizer of {name!r} has neither a padding nor an end token")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    loader: Callable[..., PreTrainedModel],
    name: str,
    revision: str,
    dtype: str = "float32",
    device: str = "cpu",
    **options: Any,
) -> PreTrainedModel:
    """Load a model for inference.

    `dtype` is a torch name ("float32", "bfloat16", "float16"), `device` a torch device.
    """
    kind = getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype):
        raise ScorerError(f"unknown dtype {dtype!r}: expected float32, bfloat16 or float16")
    model = from_checkpoint(loader, name, revision, dtype=kind, **options)
    return model.to(device).eval()


def checked_steps(steps: Sequence[str]) -> list[str]:
    """Return the steps without surrounding blanks.

    Raises
    ------
    ScorerError
        There is no step, a step is blank, or `steps` is one text instead of a sequence.
    """
    if isinstance(steps, str):
        raise ScorerError("steps must be a sequence of texts, found one text")
    if len(steps) == 0:
        raise ScorerError("a trajectory needs at least one step, found none")
    stripped = [step.strip() for step in steps]
    for position, step in enumerate(stripped, 1):
        if not step:
            raise ScorerError(f"step {position} of {len(stripped)} is empty")
    return stripped


def single_problem(problem: Problem) -> str:
    """Return the problem if it is one text, as these scorers need it."""
    if not isinstance(problem, str):
        raise ScorerError("this scorer takes one problem text, found a sequence of messages")
    return problem


def count_tokens(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[int]:
    """Return the number of tokens of each text on its own, at least 1."""
    rows = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return [max(len(row), 1) for row in rows]


def check_length(n_tokens: int, config: Any, what: str) -> None:
    """Raise if a sequence is longer than the model's positions."""
    most = getattr(config, "max_position_embeddings", None)
    if most is not None and n_tokens > most:
        raise ScorerError(
            f"{what} has {n_tokens} tokens, but the model reads at most {most} "
            f"(max_position_embeddings): shorten it or use a model with a longer context"
        )


def label_probability(logits: torch.Tensor, index: int) -> np.ndarray:
    """Softmax over the last axis, read at one label: shape (n_steps,), in [0, 1]."""
    return logits.float().softmax(-1)[:, index].cpu().numpy().astype(float)


@torch.inference_mode()
def logits_at_steps(
    model: PreTrainedModel,
    encoded: Sequence[Encoded],
    pad_id: int,
    columns: Sequence[int] | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> list[torch.Tensor]:
    """Read the logits at every step's position with one causal pass per trajectory.

    Trajectories of similar length share a batch, padded on the right, where a causal model does
    not look; so the batch does not change a score beyond rounding.

    Parameters
    ----------
    columns : sequence of int, optional
        Logits to keep, in this order; all of them when left out.

    Returns
    -------
    list of torch.Tensor, shape (n_steps, n_columns)
    """
    for position, item in enumerate(encoded, 1):
        check_length(len(item.ids), model.config, f"trajectory {position}")
    found: dict[int, torch.Tensor] = {}
    for chosen in token_batches([len(item.ids) for item in encoded], batch_tokens):
        ids, mask = pad_right([encoded[i].ids for i in chosen], pad_id)
        output = model(
            input_ids=ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False
        )
        for row, i in enumerate(chosen):
            logits = output.logits[row, encoded[i].positions]
            found[i] = logits if columns is None else logits[:, list(columns)]
    return [found[i] for i in range(len(encoded))]


def token_batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Group indices by length so that a padded batch holds at most `batch_tokens` tokens.

    A sequence longer than that forms a batch of its own.
    """
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and lengths[i] * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def pad(rows: Sequence[Sequence[int]], value: int, left: bool = False) -> torch.Tensor:
    """Stack rows of different lengths: (n_rows, longest), filled up with `value`."""
    width = max(map(len, rows))
    fill = [[value] * (width - len(row)) for row in rows]
    joined = [[*f, *r] if left else [*r, *f] for f, r in zip(fill, rows, strict=True)]
    return torch.tensor(joined)


def pad_right(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Stack rows of ids: padded ids and attention mask, each of shape (n_rows, longest)."""
    return pad(rows, pad_id), pad([[1] * len(row) for row in rows], 0)
