"""Token batches: sequences of similar length, padded, and what a model says at each step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from monitorlab.models import ModelError

BATCH_TOKENS = 16_384  # padding included
LABEL_MASS = 0.5  # least probability of a model's labels together; one asked as trained has about 1


@dataclass(frozen=True)
class Encoded:
    """Token ids of one trajectory and, per step, where its score is read and its own length."""

    ids: list[int]
    positions: list[int]
    tokens: list[int]


def count_tokens(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[int]:
    """Return the number of tokens of each text on its own, at least 1."""
    rows = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return [max(len(row), 1) for row in rows]


def check_length(n_tokens: int, config: Any, what: str) -> None:
    """Raise if a sequence is longer than the model's positions."""
    most = getattr(config, "max_position_embeddings", None)
    if most is not None and n_tokens > most:
        raise ModelError(
            f"{what} has {n_tokens} tokens, but the model reads at most {most} "
            f"(max_position_embeddings): shorten it or use a model with a longer context"
        )


@torch.inference_mode()
def logits_at_steps(
    model: PreTrainedModel,
    encoded: Sequence[Encoded],
    pad_id: int,
    columns: Sequence[int] | None = None,
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
    for chosen in token_batches([len(item.ids) for item in encoded], BATCH_TOKENS):
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


def end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Tokens that end an answer, by the model's generation settings and by its tokenizer."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    ends = configured if isinstance(configured, list) else [configured]
    return {end for end in (*ends, tokenizer.eos_token_id) if isinstance(end, int)}
