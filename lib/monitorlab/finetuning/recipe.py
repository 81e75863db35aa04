"""What a training is given: the recipe, examples to learn from, and the order of their batches.

An example is a chat as a monitor reads it, and the reply that is to be learned. Its prompt is
rendered by the code that `LogitMonitor` uses, so what is trained is what is read later: the token
after `verdict_at` is the one whose probability becomes the score.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase

from monitorlab.models.chat import ChatTemplate
from monitorlab.models.engine import common_prefix
from monitorlab.models.tiny import IGNORED
from monitorlab.monitors.causal import NO, STUB, YES, Chat
from monitorlab.monitors.monitor import MonitorError, Sample
from monitorlab.monitors.prompts import Prompt

CHOICES = {
    "schedule": ("linear", "cosine", "constant", "constant_with_warmup"),  # of transformers
    "dtype": ("bfloat16", "float32"),
    "labelled": ("reply", "verdict"),
}
# Least and most: what lies beyond was mistyped, and would fail deep inside a library, or nowhere.
RANGES = {
    "batch": (1, 2**16), "accumulation": (1, 2**16), "max_tokens": (1, 10**8),
    "lora_rank": (0, 2**16), "max_steps": (0, 10**7), "seed": (0, 2**32 - 1),
    "pair_weight": (0, 1000), "weight_decay": (0, 1), "lora_alpha": (1, 2**20),
    "epochs": (0, 10**4), "learning_rate": (0, 10),
}
ALL_LINEAR = ("all-linear",)  # as targets: every linear layer but the head
CLOSING = "}"
COLUMNS = ("sample_id", "request", "response", "label", "pair_id", "scenario_id")

# "input_ids" and "labels" (`IGNORED` = not asked): lists of int, equally long.
# "label": 1 misbehavior, 0 benign, -1 no verdict. "pair": equal for both answers to one request,
# -1 without. "verdict_at": position whose *next* token tells yes from no; -1 without a verdict.
# "scenario": what the sample comes from, for the leak guard; may be empty.
Example = dict[str, Any]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training besides model and data.

    The defaults are those of arXiv 2601.05752 (`PAPER`).

    Attributes
    ----------
    lora_rank : int
        Width of the adapter's matrices; 0 trains all weights.
    lora_alpha : int
        Their product is scaled by lora_alpha / lora_rank.
    lora_dropout : float
        Share of an adapter's inputs dropped in training, in [0, 1).
    targets : tuple of str
        Names of the layers that get an adapter, or ``("all-linear",)``.
    epochs : float
        Passes through the examples.
    max_steps : int
        Optimizer steps; above 0 it decides instead of `epochs`.
    learning_rate : float
        Peak rate.
    weight_decay : float
        Of AdamW.
    schedule : str
        How the rate falls: linear, cosine, constant or constant_with_warmup. The paper does not
        state it, nor a warm-up; these are the defaults of transformers.
    warmup_share : float
        Share of the steps in which the rate rises to its peak, in [0, 1).
    batch : int
        Examples per process and forward pass.
    accumulation : int
        Forward passes per optimizer step.
    max_tokens : int
        Longest example allowed.
    dtype : str
        "bfloat16": frozen weights and computation in it, trained weights in float32. "float32".
    gradient_checkpointing : bool
        Compute activations twice instead of keeping them: less memory, about a third slower.
    seed : int
        Of the adapter's first weights, of dropout and of the order of the examples.
    pair_weight : float
        Weight of the pairwise loss; above 0 both answers to one request share a batch.
    labelled : str
        What of a reply has labels, "reply" or "verdict"; see `verdict_examples`.

    Raises
    ------
    MonitorError
        A setting is out of its range, or two do not fit together.
    """

    lora_rank: int = 16
    lora_alpha: int = 16
    lora_dropout: float = 0.0
    targets: tuple[str, ...] = (
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    )
    epochs: float = 1.0
    max_steps: int = 0
    learning_rate: float = 2e-4
    weight_decay: float = 0.01
    schedule: str = "linear"
    warmup_share: float = 0.0
    batch: int = 16
    accumulation: int = 4
    max_tokens: int = 32_768
    dtype: str = "bfloat16"
    gradient_checkpointing: bool = True
    seed: int = 2026
    pair_weight: float = 0.0
    labelled: str = "reply"

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", tuple(self.targets))  # JSON knows lists only
        for name, (least, most) in RANGES.items():
            value = getattr(self, name)
            if name in ("epochs", "learning_rate") and not value > 0:
                raise MonitorError(f"{name} {value}: expected a number above 0")
            if not least <= value <= most:
                bound = f"at most {most:,}" if value > most else f"at least {least}"
                raise MonitorError(f"{name} {value}: expected {bound}")
        for name in ("lora_dropout", "warmup_share"):
            if not 0 <= getattr(self, name) < 1:
                raise MonitorError(f"{name} {getattr(self, name)}: expected a share in [0, 1)")
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise MonitorError(f"unknown {name} {getattr(self, name)!r}: expected one of "
                                   f"{', '.join(known)}")
        if self.lora_rank and not self.targets:
            raise MonitorError("no targets for the adapter: name layers, or give all-linear")
        if self.lora_rank and "all-linear" in self.targets and self.targets != ALL_LINEAR:
            raise MonitorError(f"targets {', '.join(self.targets)}: give all-linear alone, or only "
                               "names of layers")
        if self.pair_weight and self.batch < 2:
            raise MonitorError("batch 1 holds no pair: give at least 2, or pair_weight 0")

    def table(self, changes: Mapping[str, Any]) -> pd.DataFrame:
        """Every setting as text, "published", beside what a profile makes of it, "here"."""
        published = {field.name: getattr(self, field.name) for field in fields(self)}
        values = pd.DataFrame({"published": published, "here": {**published, **changes}})
        words = values.map(lambda value: ", ".join(value) if isinstance(value, tuple)
                           else str(value))
        return words.rename_axis("setting").reset_index()

    def plan(self, examples: Sequence[Example], processes: int = 1) -> list[list[int]]:
        """Return the batches of a whole training, all epochs one after the other.

        Examples of similar length share a batch, and so do both answers to one request if there is
        a pairwise loss. The order of the batches is random, but the longest come first, so that
        what does not fit into memory shows at once. Everything follows from the seed: a resumed
        training sees the same batches.

        Parameters
        ----------
        examples : sequence of Example
        processes : int
            They take turns: process r of n gets the batches r, r + n, ... A group of n batches has
            examples of similar length, so that no process waits long.

        Returns
        -------
        list of list of int
            Positions in `examples`; as many batches as the processes need for whole optimizer
            steps in `max_steps`, or for the epochs (then a multiple of the number of processes).
        """
        groups = self._groups(examples)
        lengths = [max(len(examples[i]["input_ids"]) for i in group) for group in groups]
        batches: list[list[int]] = []
        rng = np.random.default_rng(self.seed)
        wanted = self.max_steps * self.accumulation * processes
        while not wanted or len(batches) < wanted:
            batches += _epoch(groups, lengths, self.batch, processes, rng, first=not batches)
            if not wanted:  # known once the first epoch is there
                wanted = max(1, math.ceil(self.epochs * len(batches) / processes)) * processes
        return batches[:wanted]

    def steps_of(self, batches: int, processes: int = 1) -> int:
        """Return the number of optimizer steps in a plan; the last may have fewer batches."""
        return math.ceil(batches / (self.accumulation * processes))

    def _groups(self, examples: Sequence[Example]) -> list[list[int]]:
        """Positions that must share a batch."""
        if not self.pair_weight:
            return [[i] for i in range(len(examples))]
        groups: dict[int, list[int]] = {}
        for i, example in enumerate(examples):
            pair = example["pair"]
            groups.setdefault(pair if pair >= 0 else -1 - i, []).append(i)
        if (largest := max(map(len, groups.values()))) > self.batch:
            raise MonitorError(f"{largest} examples belong to one pair, more than batch "
                               f"{self.batch}: raise batch, or give pair_weight 0")
        return list(groups.values())


PAPER = Recipe()


def _epoch(
    groups: Sequence[list[int]], lengths: Sequence[int], size: int, processes: int,
    rng: np.random.Generator, first: bool,
) -> list[list[int]]:
    """One pass: shuffled, sorted by length, cut into batches, these shuffled."""
    shuffled = rng.permutation(len(groups))
    ranked = shuffled[np.argsort([-lengths[g] for g in shuffled], kind="stable")]
    cut: list[list[int]] = [[]]  # numbers of groups
    filled = 0
    for g in ranked.tolist():
        if filled + len(groups[g]) > size:
            cut.append([])
            filled = 0
        cut[-1].append(g)
        filled += len(groups[g])
    while len(cut) % processes:  # every process needs one: split, or repeat what cannot be
        most = max(range(len(cut)), key=lambda k: len(cut[k]))
        half = len(cut[most]) // 2
        cut[most : most + 1] = [cut[most][:half] or cut[most], cut[most][half:]]
    batches = [[i for g in part for i in groups[g]] for part in cut]
    together = [batches[k : k + processes] for k in range(0, len(batches), processes)]
    kept = 1 if first else 0
    order = [*range(kept), *(kept + rng.permutation(len(together) - kept))]
    return [batch for k in order for batch in together[k]]


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
    template = ChatTemplate(tokenizer)
    stems, heads = template.ids(texts), template.ids([text + STUB for text in texts])
    apart = common_prefix(words[1], words[0])
    rows = zip(stems, heads, samples["label"].astype(int), map(_pair_number, samples["pair_id"]),
               samples["scenario_id"].fillna("").astype(str), strict=True)
    examples = []
    for stem, head, label, pair, scenario in rows:
        ids = [*head, *words[label], *closing, tokenizer.eos_token_id]
        asked, last = common_prefix(stem, head), len(ids)
        if labelled == "verdict":
            asked, last = len(head), len(head) + len(words[label])
        told = [IGNORED] * asked + ids[asked:last] + [IGNORED] * (len(ids) - last)
        examples.append({"input_ids": ids, "labels": told, "label": label, "pair": pair,
                         "verdict_at": len(head) + apart - 1, "scenario": scenario})
    lengths = np.array([len(example["input_ids"]) for example in examples])
    if lengths.max() > max_tokens:
        raise MonitorError(
            f"sample {samples['sample_id'].iloc[lengths.argmax()]!r} has {lengths.max()} tokens "
            f"with its reply, and {(lengths > max_tokens).sum()} of {len(examples)} have more than "
            f"max_tokens={max_tokens}: raise max_tokens, or leave them out")
    return examples


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
            f"{no}, which do not tell yes from no: take a model whose tokenizer knows both words")
    return yes, no


def _chat(tokenizer: PreTrainedTokenizerBase, stub: str, prompt: Any = None) -> Chat:
    """Prompts as `LogitMonitor` makes them; of the checkpoint it needs the tokenizer only."""
    holder: Any = SimpleNamespace(tokenizer=tokenizer)
    return Chat(holder, prompt, thinking=False, stub=stub)


def _check_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    if not tokenizer.chat_template:
        raise MonitorError("the tokenizer has no chat template, so nobody knows where a message "
                           "ends: take an instruct model, or set tokenizer.chat_template")
    for name, what in (("pad", "padding token"), ("eos", "end mark")):
        if getattr(tokenizer, f"{name}_token_id") is None:
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


def _pair_number(name: Any) -> int:
    """One number per name, the same in every table, so that lists of examples can be joined."""
    if pd.isna(name) or name == "":
        return -1
    return int.from_bytes(hashlib.sha256(str(name).encode()).digest()[:7], "big")


def digest_examples(examples: Sequence[Example]) -> str:
    """SHA-256 of examples, order included."""
    digest = hashlib.sha256()
    for example in examples:
        ids = np.asarray([example["input_ids"], example["labels"]], dtype="<i8")
        facts = [ids.shape[1], *(example[name] for name in ("label", "pair", "verdict_at"))]
        digest.update(np.asarray(facts, dtype="<i8").tobytes() + ids.tobytes())
        scenario = str(example["scenario"]).encode()
        digest.update(len(scenario).to_bytes(8, "little") + scenario)
    return digest.hexdigest()


class LeakError(ValueError):
    """A batch holds an example of a scenario that the training must never see."""

    @classmethod
    def check(cls, examples: Sequence[Example], forbidden: Collection[str]) -> None:
        """Raise one if an example is of a forbidden scenario."""
        for example in examples:
            if example["scenario"] and example["scenario"] in forbidden:
                raise cls(f"a training batch holds an example of scenario {example['scenario']!r}, "
                          "which is kept for testing: leave that scenario out of the training "
                          "samples")
