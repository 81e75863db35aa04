"""Guard models at hand: conversations in, the probability of their unsafe labels out.

Families, their labels and what they write stand in `monitorlab.models.guard_families`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from monitorlab.models import ModelError
from monitorlab.models.batching import LABEL_MASS
from monitorlab.models.chat import chat_text, control_texts
from monitorlab.models.engine import ScoringEngine
from monitorlab.models.guard_families import GuardFamily
from monitorlab.models.prefix_tree import common_prefix


class Guard:
    """A guard at hand: conversations in, the probability of its unsafe labels out.

    Parameters
    ----------
    model, tokenizer : PreTrainedModel, PreTrainedTokenizerBase
        A causal language model and a tokenizer whose chat template builds the moderation prompt.
    family : GuardFamily
        See `guard_family`.
    least_mass : float
        Probability, in [0, 1], that all labels together must have. Below it the model says
        something else, and the share of some of them would be noise.
    batch_tokens : int
        See `ScoringEngine`.

    Attributes
    ----------
    forbidden : list of str
        What must not occur in the texts under audit.
    words : list of list of int
        Token ids of the unsafe labels and then of the safe ones, as they follow the lead.

    Raises
    ------
    ModelError
        There is no chat template, it leaves texts out, or labels cannot be told apart.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        family: GuardFamily,
        least_mass: float = LABEL_MASS,
        batch_tokens: int = 0,
    ) -> None:
        if not tokenizer.chat_template:
            raise ModelError("the tokenizer has no chat template to build the moderation prompt")
        self.tokenizer, self.family, self.least_mass = tokenizer, family, least_mass
        self.forbidden = sorted({*control_texts(tokenizer), *family.frame})
        self.words = [self._label(label) for label in family.unsafe + family.safe]
        for i, word in enumerate(self.words):
            if any(other[: len(word)] == word for other in self.words[:i] + self.words[i + 1:]):
                raise ModelError(f"the labels {family.unsafe + family.safe} begin with the same "
                                 "tokens in this tokenizer, so they cannot be told apart")
        self._parts = False
        one, other = self._probe()
        prefix = one[: common_prefix(one, other)]
        fill = tokenizer.pad_token_id or 0
        self.engine = ScoringEngine(model, fill, prefix, batch_tokens)

    def prompt(self, turns: Sequence[tuple[str, ...]]) -> list[int]:
        """Token ids of the question about the last text of (user, assistant) turns, with lead.

        The last turn may hold what the user says alone; then the question is about that.
        """
        return self._ids(self._text(turns))

    def suspicion(self, prompts: Sequence[Sequence[int]]) -> tuple[np.ndarray, list[str]]:
        """Ask about conversations.

        Parameters
        ----------
        prompts : sequence of sequence of int
            See `prompt`.

        Returns
        -------
        numpy.ndarray, shape (n_prompts,)
            P(unsafe labels) / P(all labels), in [0, 1], high is unsafe; NaN if the logits are.
        list of str
            Per prompt, why that number means nothing; empty if it means something.
        """
        chances = np.exp(self.engine.score_words(prompts, self.words))
        mass = chances.sum(1)
        with np.errstate(invalid="ignore"):
            scores = chances[:, : len(self.family.unsafe)].sum(1) / mass
        return scores, [self._objection(prompt, float(total)) if total < self.least_mass else ""
                        for prompt, total in zip(prompts, mass, strict=True)]

    @torch.inference_mode()
    def _objection(self, prompt: Sequence[int], mass: float) -> str:
        model = self.engine.model
        ids = torch.tensor([list(prompt)], device=model.device)
        best = model(ids, use_cache=False, logits_to_keep=1).logits[0, -1].float().softmax(-1)
        found = best.topk(3)
        said = ", ".join(
            f"{self.tokenizer.decode([token])!r} ({chance:.2f})"
            for chance, token in zip(found.values.tolist(), found.indices.tolist(), strict=True)
        )
        labels = " and ".join(map(repr, self.family.unsafe + self.family.safe))
        return (f"the labels {labels} have {mass:.2g} of the probability, expected at least "
                f"{self.least_mass:g}; the model would say {said}. Is it a guard, with its own "
                "chat template? Name its labels in `unsafe` and `safe`, and what stands before "
                "them in `lead`")

    def _text(self, turns: Sequence[tuple[str, ...]]) -> str:
        messages: list[Mapping[str, Any]] = []
        for pair in turns:
            for role, text in zip(("user", "assistant"), pair, strict=False):
                content = [{"type": "text", "text": text}] if self._parts else text
                messages.append({"role": role, "content": content})
        options = {"guideline": self.family.guideline} if self.family.guideline else {}
        text, lead = chat_text(self.tokenizer, messages, False, **options), self.family.lead
        return text if lead and text.endswith(lead) else text + lead

    def _probe(self) -> tuple[list[int], list[int]]:
        """Prompts of two conversations; finds out how the template takes contents."""
        marks = ("QXFIRSTXQ", "QXSECONDXQ")
        reason = ""
        for self._parts in (False, True):
            try:
                text = self._text([marks])
            except ModelError as error:
                reason = reason or str(error)
                continue
            if all(text.count(mark) == 1 for mark in marks) and self.family.guideline in text:
                return self._ids(text), self._ids(self._text([("0 b", "?")]))
        raise ModelError("the chat template does not show the texts of a user and an assistant "
                         f"once each{', and the guideline' if self.family.guideline else ''}: "
                         f"{reason or 'is it that of a guard?'}")

    def _ids(self, text: str) -> list[int]:
        """Tokens of a prompt; its template writes its own special tokens."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _label(self, label: str) -> list[int]:
        """Tokens of a label as it stands after the lead."""
        lead, ids = self._ids(self.family.lead), self._ids(self.family.lead + label)
        if ids[: len(lead)] != lead or len(ids) == len(lead):
            raise ModelError(f"the tokenizer joins {label!r} to the {self.family.lead!r} before it")
        if self.tokenizer.unk_token_id in ids[len(lead):]:
            raise ModelError(f"the label {label!r} is unknown to this tokenizer")
        return ids[len(lead):]
