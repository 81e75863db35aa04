"""Samples as prompts of a causal language model, and as units of similar length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from transformers import PreTrainedModel

from monitorlab.models.chat import chat_form, chat_text, control_texts
from monitorlab.models.loading import Checkpoint
from monitorlab.monitors.monitor import MonitorError, Sample
from monitorlab.monitors.prompts import Prompt
from monitorlab.monitors.verdicts import ERROR, Verdict, failure


class Chat:
    """Samples as the prompts that a model reads.

    Parameters
    ----------
    checkpoint : Checkpoint
    prompt : Prompt
    thinking : bool
        Whether the model may think before it answers.
    stub : str
        Beginning of the reply, put behind the prompt.
    """

    def __init__(
        self, checkpoint: Checkpoint, prompt: Prompt, thinking: bool, stub: str = ""
    ) -> None:
        self.checkpoint, self.prompt, self.thinking, self.stub = checkpoint, prompt, thinking, stub
        self.forbidden = control_texts(checkpoint.tokenizer)

    def settings(self) -> dict[str, Any]:
        """What decides the prompts, and the model that reads them."""
        return {**self.checkpoint.identity, **chat_form(self.checkpoint.tokenizer).settings(),
                "prompt": self.prompt.digest, "thinking": self.thinking}

    def texts(self, samples: Sequence[Sample]) -> list[str]:
        """Rendered prompts, with the beginning of the reply."""
        tokenizer, prompt = self.checkpoint.tokenizer, self.prompt
        return [
            chat_text(tokenizer, prompt.messages(sample, self.forbidden), self.thinking) + self.stub
            for sample in samples
        ]

    def words(self, words: Sequence[str]) -> list[list[int]]:
        """Token ids of words as they follow the stub.

        A tokenizer may put a blank before a text of its own, so each word is read behind the stub.
        """
        tokenizer = self.checkpoint.tokenizer
        stub = tokenizer(self.stub, add_special_tokens=False)["input_ids"]
        found = []
        for word in words:
            joined = tokenizer(self.stub + word, add_special_tokens=False)["input_ids"]
            alone = tokenizer(word, add_special_tokens=False)["input_ids"]
            ids = joined[len(stub):] if joined[: len(stub)] == stub else alone
            if not ids:
                raise MonitorError(f"the answer {word!r} has no token of its own")
            if ids not in found:
                found.append(ids)
        if not found:
            raise MonitorError("expected at least one answer word per verdict, found none")
        return found

    def too_long(self, tokens: int, more: int) -> Verdict | None:
        """Return an error if a prompt and `more` tokens exceed the model's positions, else None."""
        return longer_than_model(self.checkpoint.model, tokens, more)


def longer_than_model(model: PreTrainedModel, tokens: int, more: int) -> Verdict | None:
    """Return an error if a prompt and `more` tokens exceed a model's positions, else None."""
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if most is None or tokens + more <= most:
        return None
    reason = (f"the prompt has {tokens} tokens, and {more} more are needed, but the model reads at "
              f"most {most}: shorten the sample, or use a model with a longer context")
    return replace(failure(ERROR, reason), input_tokens=tokens)


def length_units(samples: Sequence[Sample], most: int, characters: int) -> list[list[int]]:
    """Group samples of similar length, those with the same request side by side.

    The longest come first, so that what does not fit into memory shows at once; then shortest and
    longest alternate, so that a model's limit does not fail many units in a row.

    Parameters
    ----------
    samples : sequence of Sample
    most, characters : int
        Samples, and characters of all their texts, per unit. A request with more samples is split.

    Returns
    -------
    list of list of int
        Positions in `samples`.
    """
    requests: dict[str, list[int]] = {}
    for i, sample in enumerate(samples):
        requests.setdefault(sample.request, []).append(i)
    size = [len(sample.request) + len(sample.response) for sample in samples]
    blocks = [
        members[start : start + most]
        for members in requests.values()
        for start in range(0, len(members), most)
    ]
    units: list[list[int]] = []
    filled = 0
    for block in sorted(blocks, key=lambda block: max(size[i] for i in block)):
        total = sum(size[i] for i in block)
        if units and len(units[-1]) + len(block) <= most and filled + total <= characters:
            units[-1].extend(block)
            filled += total
        else:
            units.append(list(block))
            filled = total
    alternating = [units[k // 2] if k % 2 else units[-1 - k // 2] for k in range(len(units))]
    return alternating
