"""Any sequence classifier of transformers as a monitor: no prompt, no reply.

It reads request and response as one pair of texts. Of a pair that is too long each text keeps its
first and last half, as in :mod:`monitorlab.models.sentence_encoder`; a short one leaves its room
to the other. Which of its labels means misbehavior is read from their names, or said by the user.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from monitorlab.models import ModelError
from monitorlab.models.chat import ChatTemplate
from monitorlab.models.engine import pad, pad_right, token_batches
from monitorlab.models.loading import Checkpoint, load_model, load_tokenizer, no_progress_bars
from monitorlab.models.sentence_encoder import both_ends
from monitorlab.models.tiny import suitable_threads
from monitorlab.monitors.monitor import ComputingMonitor, MonitorError, Sample
from monitorlab.monitors.prompts import broken_up
from monitorlab.monitors.verdicts import ERROR, THRESHOLD, Verdict
from monitorlab.signals.step_scores import Label

BATCH_TOKENS = {"cpu": 4_096, "cuda": 65_536}  # padding included
DTYPES = ("float32", "bfloat16")
LEAST_TEXT = 4  # tokens of each text that must fit
MAX_TOKENS = 512  # read of a pair if nothing else is said; what most encoders can read
HEADS = ("lm_head", "cls", "pooler")  # of the model that a classifier started from


@dataclass(frozen=True)
class _PairRow:
    """Token ids of a pair with special tokens, which text each belongs to, and its whole length."""

    ids: list[int]
    kinds: list[int]
    whole: int


class _PairReader:
    """Requests and responses as the pairs of texts that an encoder knows from its pretraining.

    The special tokens around and between two texts are those of the tokenizer; where it puts none
    between them, a blank line does. Special tokens in the texts themselves are broken up.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        Fast, with a padding token.
    config : transformers configuration
        Of the model: positions and kinds of text that it knows.
    max_tokens : int
        Tokens per pair, special ones included.

    Raises
    ------
    MonitorError
        If the model does not read that many, or nothing of the texts would be left.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: Any, max_tokens: int) -> None:
        self.tokenizer, self.max_tokens = tokenizer, max_tokens
        self.forbidden = ChatTemplate(tokenizer).control_texts()
        self.before, self.between, self.after = _frame(tokenizer)
        self.typed = getattr(config, "type_vocab_size", 0) > 1
        self.room = max_tokens - len(self.before) - len(self.between) - len(self.after)
        positions = getattr(config, "max_position_embeddings", None) or max_tokens
        most = min(positions, tokenizer.model_max_length)
        least = max_tokens - self.room + 2 * LEAST_TEXT
        if not least <= max_tokens <= most:
            raise MonitorError(f"max_tokens is {max_tokens}: expected {least} to {most}, which is "
                               "what this model reads of a request and its response")

    def read(self, requests: Sequence[str], responses: Sequence[str]) -> list[_PairRow]:
        """Turn pairs into rows of at most `max_tokens` ids; the middle of what is longer is lost.

        The response gets half of the room and what the request leaves; so does the request.
        """
        clean = [broken_up(text, self.forbidden) for text in (*requests, *responses)]
        with no_progress_bars():  # long texts are expected here and no reason for a warning
            ids = self.tokenizer(clean, add_special_tokens=False)["input_ids"] if clean else []
        rows = []
        for request, response in zip(ids[: len(requests)], ids[len(requests):], strict=True):
            spare = max(self.room // 2 - len(request), 0)
            second = both_ends(response, self.room - self.room // 2 + spare)
            first = both_ends(request, self.room - len(second))
            opening = [*self.before, *first, *self.between]
            closing = [*second, *self.after]
            whole = len(request) + len(response) + self.max_tokens - self.room
            kinds = [0] * len(opening) + [1] * len(closing)
            rows.append(_PairRow([*opening, *closing], kinds, whole))
        return rows

    def batch(self, rows: Sequence[_PairRow]) -> dict[str, torch.Tensor]:
        """Stack rows, each tensor of shape (n_rows, longest): what the model takes."""
        ids, mask = pad_right([row.ids for row in rows], int(self.tokenizer.pad_token_id))
        tensors = {"input_ids": ids, "attention_mask": mask}
        if self.typed:
            tensors["token_type_ids"] = pad([row.kinds for row in rows], 0)
        return tensors


class ClassifierMonitor(ComputingMonitor):
    """Score = probability of the label that means misbehavior.

    It is a softmax over the labels; the logistic function of one logit where the model has one
    label only, or labels that do not exclude each other (``multi_label_classification``).

    Parameters
    ----------
    model, tokenizer : transformers objects
        A sequence classifier in float32, in evaluation mode.
    max_tokens : int
        Tokens per pair.
    digest : str or mapping
        SHA-256 over weights, configuration and tokenizer; or name and revision on the hub.
    name : str
        How the tables call it.
    label : str
        Name, or position from 0, of the label that means misbehavior. May be empty where there are
        two labels that mean opposites, such as "safe" and "unsafe".
    dtype : {"float32", "bfloat16"}
        The second is autocast: faster where the processor has it, other digits from the third on.

    Raises
    ------
    MonitorError
        For another dtype, labels that do not say which means misbehavior, a model that predicts a
        number and no label, or a length that the model does not read.
    """

    unit = 64  # batches, and so the last digits, depend on what is judged together

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_tokens: int,
        digest: str | Mapping[str, str], name: str = "classifier", *, label: str = "",
        dtype: str = "float32",
    ) -> None:
        if dtype not in DTYPES:
            raise MonitorError(f"dtype {dtype!r}: expected {' or '.join(DTYPES)}")
        try:
            self.read_as = Label.read(model.config, label or None, "label", bad=True)
        except ModelError as error:
            raise MonitorError(f"the classifier {name!r} cannot be read: {error}") from error
        self.model, self.name, self.digest, self.label = model, name, digest, label
        self.dtype, self.batch_tokens = dtype, BATCH_TOKENS.get(model.device.type, 16_384)
        self.reader = _PairReader(tokenizer, model.config, max_tokens)
        model.config.pad_token_id = tokenizer.pad_token_id  # some heads look for the last token

    @classmethod
    def load(
        cls, folder: Path | str, *, revision: str = "", label: str = "",
        max_tokens: int = MAX_TOKENS, device: str = "cpu", dtype: str = "float32", name: str = "",
    ) -> ClassifierMonitor:
        """Load a checkpoint; on the same machine, scores are the same.

        Parameters
        ----------
        folder : Path or str
            Local folder, or name on the hub.
        revision : str
            Commit, tag or branch on the hub; must be given for a hub name.
        label : str
            See the class.
        max_tokens : int
            Tokens read of each pair.
        device : str
            Torch device.
        dtype : {"float32", "bfloat16"}
            See the class.
        name : str
            How the tables call it; the folder's name if empty.

        Raises
        ------
        MonitorError
            If there is no such checkpoint, it is no whole classifier, or for what the class says.
        """
        place = str(folder)
        try:
            loader = transformers.AutoModelForSequenceClassification.from_pretrained
            tokenizer = load_tokenizer(place, revision)
            model = load_model(loader, place, revision, device=device, heads=HEADS)
        except ModelError as error:
            raise MonitorError(f"the classifier {place} does not load: {error}") from error
        identity = Checkpoint.identify(place, revision)
        return cls(model, tokenizer, max_tokens, identity.get("sha256", identity),
                   name or identity["name"], label=label, dtype=dtype)

    def settings(self) -> dict[str, Any]:
        """Digest of the checkpoint, and everything else that decides a score."""
        return {"kind": "classifier", "model": self.digest, "max_tokens": self.reader.max_tokens,
                "dtype": self.dtype, "device": self.model.device.type,
                "batch_tokens": self.batch_tokens, "threshold": THRESHOLD,
                **({"label": self.label} if self.label else {})}

    def judge(self, samples: Sequence[Sample], draw: int) -> list[Verdict]:
        """Score one unit; `draw` is ignored. Logits that are not finite are an error."""
        rows = self.reader.read([s.request for s in samples], [s.response for s in samples])
        scores = np.full(len(rows), np.nan)
        with suitable_threads(self.model):
            for chosen in token_batches([len(row.ids) for row in rows], self.batch_tokens):
                scores[chosen] = self._probabilities([rows[i] for i in chosen])
        return [self._verdict(float(score), row) for score, row in zip(scores, rows, strict=True)]

    @torch.inference_mode()
    def _probabilities(self, rows: Sequence[_PairRow]) -> np.ndarray:
        device = self.model.device
        batch = {key: value.to(device) for key, value in self.reader.batch(rows).items()}
        with torch.autocast(device.type, torch.bfloat16, self.dtype == "bfloat16"):
            logits = self.model(**batch).logits
        return self.read_as.suspicion(logits)

    def _verdict(self, score: float, row: _PairRow) -> Verdict:
        if not np.isfinite(score):
            reason = "the classifier's logits are not finite: load it as float32"
            return replace(Verdict.failure(ERROR, reason), input_tokens=len(row.ids))
        lost = row.whole - len(row.ids)
        evidence = f"{lost:,} of {row.whole:,} tokens were not read" if lost else ""
        verdict = Verdict.from_score(min(score, 1.0), evidence=evidence)
        return replace(verdict, input_tokens=len(row.ids), output_tokens=0)


def _frame(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int], list[int]]:
    """Special tokens before, between and after two texts."""
    one, two, blank = tokenizer(["a", "b", "\n\n"], add_special_tokens=False)["input_ids"]
    rest = list(tokenizer("a", "b")["input_ids"])
    parts = []
    for text in (one, two):
        found = (i for i in range(len(rest)) if text and rest[i : i + len(text)] == text)
        place = next(found, None)
        if place is None:
            raise MonitorError("this tokenizer does not put two texts side by side unchanged, so "
                               "that request and response could not be shortened: take another "
                               "base model")
        parts.append(rest[:place])
        rest = rest[place + len(text):]
    before, between = parts
    return before, between or blank, rest
