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
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

BATCH_TOKENS = 16_384  # padding included
LABEL_MASS = 0.5  # least probability of a model's labels together; one asked as trained has about 1
HELP = (
    "Give a local folder, or fill the Hugging Face cache that HF_HOME points at (on a machine "
    "with a network: `hf download {name} --revision {revision}`) and set HF_HUB_OFFLINE=1; a "
    "gated model also needs HF_TOKEN there."
)

ADAPTER = "adapter_config.json"
# What older versions of transformers saved beside the weights, and newer ones compute.
_COMPUTED = re.compile(r"(^|\.)(attn|attention)\.(masked_)?bias$|rotary_emb\.inv_freq$")
_HEAD = re.compile(r"(For[A-Z]\w*|LMHeadModel|Model)$")  # what a model is for, in its class name
_LANGUAGE = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")

# A good and a bad label whose names say which is which, whatever their position.
OPPOSITES = (
    ("benign", "misbehavior"), ("safe", "unsafe"), ("harmless", "harmful"), ("good", "bad"),
    ("correct", "incorrect"), ("right", "wrong"), ("+", "-"),
)

Problem = str | Sequence[str]
Trajectory = tuple[Problem, Sequence[str]]


class ScorerError(ValueError):
    """A checkpoint, its tokenizer or a trajectory does not fit the scorer."""


class LeftOutError(ScorerError):
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
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


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
        No revision for a hub name, or the checkpoint is neither local, nor cached, nor reachable,
        or its files cannot be read; the message says what to set.
    """
    local = Path(name).is_dir()
    if not local and not revision:
        raise ScorerError(f"{name!r} is not a local folder: pin a revision of the hub model")
    places: list[dict[str, Any]] = [{"local_files_only": True}]
    if not local:
        places[0]["revision"] = revision
        if not huggingface_hub.constants.HF_HUB_OFFLINE:
            places.append({"revision": revision})
    for place in places:
        try:
            with no_progress_bars():
                return loader(name, **place, **options)
        except (ScorerError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # a damaged file may make the libraries raise anything
            reason = _first_line(error)
    if local:
        raise ScorerError(f"cannot load {name!r}: {reason}")
    advice = HELP.format(name=name, revision=revision)
    raise ScorerError(f"cannot load {name!r} at revision {revision!r}: {reason} {advice}")


def whole_model(
    loader: Callable[..., Any], name: str, revision: str, *, heads: Sequence[str] = (),
    unread: Sequence[str] = (), new: Sequence[str] = (), **options: Any,
) -> Any:
    """Load a model of whose weights none is missing, left over, or of another shape.

    transformers fills what is missing at random and drops what is left over, with a warning at
    most, and such a model would answer all the same.

    Parameters
    ----------
    loader, name, revision
        As in `from_checkpoint`.
    heads : sequence of str
        Parts of which weights may be left over, such as "lm_head"; "*" is any head on the body.
    unread : sequence of str
        Parts that may be missing, since the caller does not look at them; they are taken out.
    new : sequence of str
        Parts that are to be trained from new; the checkpoint may then be of another kind.

    Raises
    ------
    ScorerError
        The checkpoint cannot be loaded, is of another kind, or its weights do not fit.
    """
    refuse_adapter(name)
    model, info = from_checkpoint(
        loader, name, revision, output_loading_info=True, ignore_mismatched_sizes=True, **options
    )
    refuse_adapter(name, getattr(model, "_hf_peft_config_loaded", False))
    if not new and "*" not in heads:
        _check_kind(model, name)
    _check_weights(model, info, name, heads, {*unread, *new})
    for part in {key.split(".")[0] for key in info["missing_keys"]} & set(unread):
        setattr(model, part, None)
    return model


def refuse_adapter(name: str, is_one: bool = False) -> None:
    """Raise if a folder holds an adapter: transformers would load some base with it, unnamed."""
    if is_one or (Path(name) / ADAPTER).is_file():
        raise ScorerError(f"{name!r} is an adapter and no whole model: give the model that it was "
                          f"trained on, and {name!r} as its adapter")


def _check_kind(model: PreTrainedModel, name: str) -> None:
    """Raise if the checkpoint says that it holds something else than what was made of it."""
    stated, made, config = model.config.architectures or [], type(model).__name__, model.config
    encoder = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if encoder and _kind(made) == _LANGUAGE[0] and not getattr(config, "is_decoder", False):
        raise ScorerError(f"{name!r} is an encoder ({config.model_type}): give a causal language "
                          "model, since an encoder sees the very words that it is to predict")
    if stated and _kind(made) not in [_kind(architecture) for architecture in stated]:
        raise ScorerError(
            f"{name!r} holds {', '.join(stated)}, and was to be read as {made}: its weights were "
            f"trained for something else. Give a checkpoint of {made}"
        )


def _kind(architecture: str) -> str:
    """What a model is for, by the name of its class; all language models are one kind."""
    found = _HEAD.search(architecture)
    head = found[1] if found else architecture
    return _LANGUAGE[0] if head in _LANGUAGE else head


def _check_weights(
    model: PreTrainedModel, info: dict[str, Any], name: str, heads: Collection[str],
    loose: Collection[str],
) -> None:
    """Raise if a weight is missing, left over, or of another shape."""
    buffers = dict(model.named_buffers())
    missing = sorted(
        key for key in info["missing_keys"]
        if key.split(".")[0] not in loose and not _computed(key, buffers.get(key))
    )
    shapes = sorted(
        f"{key} ({_shape(found)}, expected {_shape(wanted)})"
        for key, found, wanted in info["mismatched_keys"]
    )
    over = sorted(
        key for key in info["unexpected_keys"]
        if not set(key.split(".")) & set(heads) and not _computed(key, None)
        and not ("*" in heads and not _in_body(model, key))
    )
    if getattr(getattr(model, "hf_quantizer", None), "pre_quantized", False):
        over = []  # scales lie beside the weights; each method has its own names for them
    for keys, what in ((missing, "are missing"), (shapes, "have another shape"),
                       (over, "have no place in it")):
        if keys:
            shown = ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")
            raise ScorerError(
                f"{name!r} is no whole {type(model).__name__}: {len(keys)} of its weights {what} "
                f"({shown}). Download or save it again, and see that its config.json is its own"
            )


def _computed(key: str, buffer: torch.Tensor | None) -> bool:
    """Whether a tensor is computed and not learned, so that a checkpoint need not hold it."""
    whole = buffer is not None and not buffer.is_floating_point()
    return whole or bool(_COMPUTED.search(key))


def _in_body(model: PreTrainedModel, key: str) -> bool:
    """Whether a left-over weight would lie inside the body, and not in a head on top of it."""
    own = {child for child, _ in model.named_children()} | {model.base_model_prefix}
    return key.split(".")[0] in own


def _shape(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))


def load_tokenizer(name: str, revision: str) -> PreTrainedTokenizerBase:
    """Load a fast tokenizer that can pad (with its end mark, if it has no mark of its own)."""
    tokenizer = from_checkpoint(AutoTokenizer.from_pretrained, name, revision)
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise ScorerError(f"the tokenizer of {name!r} has neither a padding nor an end token")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    loader: Callable[..., Any],
    name: str,
    revision: str,
    dtype: str = "float32",
    device: str = "cpu",
    **options: Any,
) -> Any:
    """Load a whole model for inference, see `whole_model`, which takes the `options`.

    `dtype` is a torch name ("float32", "bfloat16", "float16"), `device` a torch device.
    """
    kind = getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype):
        raise ScorerError(f"unknown dtype {dtype!r}: expected float32, bfloat16 or float16")
    model = whole_model(loader, name, revision, dtype=kind, **options)
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


class CausalModel:
    """A causal language model and its tokenizer; how to load both.

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


class StepScorer(CausalModel):
    """Anything that scores the steps of trajectories by a causal model."""

    def _encode(self, problem: Problem, steps: Sequence[str]) -> Any:
        """Turn one trajectory into what the model reads; `ScorerError` if it cannot be read."""
        raise NotImplementedError

    def _read(self, encoded: list[Any]) -> Sequence[StepScores | ScorerError]:
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
        ScorerError
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
            raise ScorerError(
                f"{len(set(names))} different ids for {len(trajectories)} trajectories"
            )
        encoded: dict[str, Any] = {}
        reasons: dict[str, str] = {}
        for name, trajectory in zip(names, trajectories, strict=True):
            try:
                encoded[name] = self._encode(*trajectory)
            except ScorerError as error:
                reasons[name] = str(error)
        scores: dict[str, StepScores] = {}
        read = self._read(list(encoded.values())) if encoded else []
        for name, found in zip(encoded, read, strict=True):
            if isinstance(found, ScorerError):
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
    ScorerError
        The names do not say which label is meant, there is no label of that name, or the model
        predicts a number and no label.
    """
    labels = [str(config.id2label[i]) for i in sorted(config.id2label)]
    shown = ", ".join(map(repr, labels[:8])) + (", ..." if len(labels) > 8 else "")
    kind = getattr(config, "problem_type", None)
    if kind == "regression":
        raise ScorerError(f"the model is a regression (problem_type) on {shown}: its number is no "
                          "probability. Give a classifier")
    alone = len(labels) == 1 or kind == "multi_label_classification"
    if named is not None:
        return Label(_position(labels, named, shown), bad, alone)
    plain = [label.strip().lower() for label in labels]
    for good, opposite in OPPOSITES:
        if sorted(plain) == sorted((good, opposite)):
            return Label(plain.index(opposite if bad else good), bad, alone)
    raise ScorerError(
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
    raise ScorerError(f"the model has no label {named!r}: expected one of {shown}, or a position "
                      f"from 0 to {len(labels) - 1}")


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
        Outputs to keep, in this order, as log-probabilities among all outputs; all logits as they
        are when left out.

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
            found[i] = logits if columns is None else (
                logits.float().log_softmax(-1)[:, list(columns)])
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
