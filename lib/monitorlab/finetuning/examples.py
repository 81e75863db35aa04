"""Training examples: chats as a monitor reads them, and the reply that is to be learned.

The prompt of a sample is rendered by the code that `LogitMonitor` uses, so what is trained is what
is read later: the token after `verdict_at` is the one whose probability becomes the score.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pandas as pd
from transformers import PreTrainedTokenizerBase

from monitorlab.finetuning.recipe import Recipe
from monitorlab.models.chat import text_ids
from monitorlab.models.engine import common_prefix
from monitorlab.models.loading import Checkpoint
from monitorlab.models.tiny import IGNORED
from monitorlab.monitors.causal import NO, STUB, YES, Chat
from monitorlab.monitors.monitor import MonitorError, Sample
from monitorlab.monitors.prompts import Prompt
from monitorlab.storage.files import canonical_json

CLOSING = "}"
COLUMNS = ("sample_id", "request", "response", "label", "pair_id", "scenario_id")

# "input_ids" and "labels" (`IGNORED` = not asked): lists of int, equally long.
# "label": 1 misbehavior, 0 benign, -1 no verdict. "pair": equal for both answers to one request,
# -1 without. "verdict_at": position whose *next* token tells yes from no; -1 without a verdict.
# "scenario": what the sample comes from, for the leak guard; may be empty.
Example = dict[str, Any]


def verdict_examples(
    tokenizer: PreTrainedTokenizerBase, prompt: Prompt, samples: pd.DataFrame, *, max_tokens: int,
    both_classes: bool = True, labelled: str = "reply",
) -> list[Example]:
    """Turn labelled samples into monitor prompts with the JSON verdict as the reply.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        With a chat template, a padding token and an end mark.
    prompt : Prompt
        One that asks for a verdict.
    samples : DataFrame
        Columns sample_id, request, response, label (1 = misbehavior), pair_id, scenario_id.
    max_tokens : int
        Longest example allowed, reply included.
    both_classes : bool
        Whether samples of one class are refused; False where they are a part of a larger set.
    labelled : {"reply", "verdict"}
        What has labels: the whole reply and the end mark, as the model is to write it, or only the
        word that tells yes from no, as `LogitMonitor` reads it. A small model learns sooner from
        the second, since nothing else asks for its attention.

    Returns
    -------
    list of Example
        In the order of `samples`. Nothing but the reply, ``{"misbehavior_detected": true}``, has
        labels.

    Raises
    ------
    MonitorError
        The tokenizer misses something, a column or a class is missing, there are no rows, or a
        sample is too long.
    """
    _check_tokenizer(tokenizer)
    _check_samples(samples, both_classes)
    if prompt.answer == "score":
        raise MonitorError(f"prompt {prompt.name!r} asks for a score: give one that asks for a "
                           "verdict, such as 'direct'")
    words = dict(zip((1, 0), _words(tokenizer), strict=True))
    closing = _chat(tokenizer, STUB + YES[0]).words([CLOSING])[0]
    texts = _chat(tokenizer, "", prompt).texts(Sample.rows(samples))
    stems, heads = text_ids(tokenizer, texts), text_ids(tokenizer, [text + STUB for text in texts])
    apart = common_prefix(words[1], words[0])
    examples = []
    pairs = _pair_numbers(samples["pair_id"])
    labels = samples["label"].astype(int)
    for stem, head, label, pair, scenario in zip(
        stems, heads, labels, pairs, samples["scenario_id"].fillna("").astype(str), strict=True
    ):
        ids = [*head, *words[label], *closing, tokenizer.eos_token_id]
        asked, last = common_prefix(stem, head), len(ids)
        if labelled == "verdict":
            asked, last = len(head), len(head) + len(words[label])
        told = [IGNORED] * asked + ids[asked:last] + [IGNORED] * (len(ids) - last)
        examples.append({
            "input_ids": ids, "labels": told, "label": label, "pair": pair,
            "verdict_at": len(head) + apart - 1, "scenario": scenario,
        })
    names = [f"sample {name!r}" for name in samples["sample_id"]]
    return _fitting(examples, names, max_tokens)


def verdict_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """Return the first tokens in which the reply for yes and the reply for no differ.

    Raises
    ------
    MonitorError
        There are none: no logit could tell the verdicts apart.
    """
    yes, no = _words(tokenizer)
    first = common_prefix(yes, no)
    return yes[first], no[first]


def _words(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Token ids of the verdicts behind the stub, the first spelling that `LogitMonitor` reads."""
    chat = _chat(tokenizer, STUB)
    yes, no = chat.words(YES[:1])[0], chat.words(NO[:1])[0]
    if common_prefix(yes, no) == min(len(yes), len(no)) or tokenizer.unk_token_id in {*yes, *no}:
        raise MonitorError(
            f"the tokenizer turns {STUB + YES[0]!r} and {STUB + NO[0]!r} into tokens {yes} and "
            f"{no}, which do not tell yes from no: take a model whose tokenizer knows both words"
        )
    return yes, no


def _chat(tokenizer: PreTrainedTokenizerBase, stub: str, prompt: Any = None) -> Chat:
    """Prompts as `LogitMonitor` makes them; of the checkpoint it needs the tokenizer only."""
    holder: Any = SimpleNamespace(tokenizer=tokenizer)
    return Chat(holder, prompt, thinking=False, stub=stub)


def _check_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    if not tokenizer.chat_template:
        raise MonitorError("the tokenizer has no chat template, so nobody knows where a message "
                           "ends: take an instruct model, or set tokenizer.chat_template")
    for name in ("pad", "eos"):
        if getattr(tokenizer, f"{name}_token_id") is None:
            what = "padding token" if name == "pad" else "end mark"
            raise MonitorError(f"the tokenizer has no {what}: set tokenizer.{name}_token to one "
                               "of its special tokens")


def _check_samples(samples: pd.DataFrame, both_classes: bool) -> None:
    if missing := [name for name in COLUMNS if name not in samples.columns]:
        raise MonitorError(f"the samples miss the columns {', '.join(missing)}; expected "
                           f"{', '.join(COLUMNS)}")
    if samples.empty:
        raise MonitorError("no samples to learn from: found an empty table")
    found = set(samples["label"].tolist())
    if not found <= {0, 1} or (both_classes and found != {0, 1}):
        raise MonitorError(f"the samples have the labels {sorted(map(str, found))}: expected both "
                           "1 (misbehavior) and 0 (benign), or a monitor learns to say one thing")


def _pair_numbers(pairs: pd.Series) -> list[int]:
    """One number per name, the same in every table, so that lists of examples can be joined."""
    return [
        -1 if pd.isna(name) or name == "" else
        int.from_bytes(hashlib.sha256(str(name).encode()).digest()[:7], "big")
        for name in pairs
    ]


def _fitting(
    examples: list[Example], names: Sequence[str], max_tokens: int
) -> list[Example]:
    lengths = [len(example["input_ids"]) for example in examples]
    long = [i for i, length in enumerate(lengths) if length > max_tokens]
    if long:
        worst = max(long, key=lengths.__getitem__)
        raise MonitorError(
            f"{names[worst]} has {lengths[worst]} tokens with its reply, and {len(long)} of "
            f"{len(examples)} have more than max_tokens={max_tokens}: raise max_tokens, or leave "
            "them out"
        )
    return examples


def check_examples(base: Checkpoint, examples: Sequence[Example], recipe: Recipe) -> int:
    """Return the length of the longest example, in tokens.

    Raises
    ------
    MonitorError
        There are none, they do not fit the model or the recipe, or the tokenizer cannot pad.
    """
    if not examples:
        raise MonitorError("no examples to learn from: expected at least one")
    if base.tokenizer.pad_token_id is None:
        raise MonitorError("the tokenizer has no padding token: set tokenizer.pad_token to one of "
                           "its special tokens")
    longest = max(len(example["input_ids"]) for example in examples)
    positions = getattr(base.model.config.get_text_config(), "max_position_embeddings", None)
    for name, most in (("max_tokens", recipe.max_tokens), ("the model's positions", positions)):
        if most is not None and longest > most:
            raise MonitorError(f"the longest example has {longest} tokens, more than {name} "
                               f"({most}): leave out what is longer")
    embeddings: Any = base.model.get_input_embeddings()
    size = embeddings.weight.shape[0]
    if (highest := max(max(example["input_ids"]) for example in examples)) >= size:
        raise MonitorError(f"the examples have the token {highest}, the model knows {size}: make "
                           "the examples with the tokenizer of the base")
    if recipe.pair_weight:
        sides = [{example["pair"] for example in examples if example["label"] == label} - {-1}
                 for label in (1, 0)]
        if not sides[0] & sides[1]:
            raise MonitorError("pair_weight is above 0, but no two examples of both labels have "
                               "the same pair: give pair_id to the samples, or pair_weight 0")
    return longest


def checked_provenance(provenance: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the provenance; that it is no JSON is found before the training, not after it."""
    facts = dict(provenance or {})
    try:
        canonical_json(facts)
    except (TypeError, ValueError) as error:
        raise MonitorError(f"the provenance is not JSON: {error}") from None
    return facts
