"""Guard models: their families, and at hand, the probability of their unsafe labels.

The chat template of a guard wraps a conversation into a moderation prompt: instructions, categories
and conversation, then the question about the *last* message. What the model writes then begins with
a label:

* Llama-Guard (arXiv 2312.06674): a blank line, "safe" or "unsafe", and the categories below;
* Qwen3Guard-Gen (arXiv 2510.14276): "Safety: Safe", "Unsafe" or "Controversial", and the categories
  below;
* ShieldGemma (arXiv 2407.21772): "Yes" or "No", to the question whether one guideline is violated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from monitorlab.models import ModelError
from monitorlab.models.chat import ChatTemplate
from monitorlab.models.engine import LABEL_MASS, ScoringEngine, common_prefix

Controversial = Literal["unsafe", "safe"]
_FRAME = ("<BEGIN CONVERSATION>", "<END CONVERSATION>", "<BEGIN UNSAFE CONTENT CATEGORIES>",
          "<END UNSAFE CONTENT CATEGORIES>")  # fmt: skip
_CATEGORIES = re.compile(r"^(?:Categories:[ ]*(.+)|([SO]\d+(?:, *[SO]\d+)*))[ ]*$", re.MULTILINE)


@dataclass(frozen=True)
class GuardFamily:
    """How the guards of one family are asked, and what they say.

    Attributes
    ----------
    name : str
        Of the family.
    unsafe, safe, between : tuple of str
        Labels as they follow `lead`; those between count as `of` decides.
    lead : str
        What the model writes before its label.
    place : str
        Regular expression of what comes before the label in a reply.
    frame : tuple of str
        Marks of its prompt: none may come from the texts under audit.
    takes_guideline : bool
        Whether its prompt has a place for a guideline.
    guideline : str
        What goes there.
    """

    name: str
    unsafe: tuple[str, ...]
    safe: tuple[str, ...]
    between: tuple[str, ...] = ()
    lead: str = ""
    place: str = r"\A[\W_]*"
    frame: tuple[str, ...] = _FRAME
    takes_guideline: bool = False
    guideline: str = ""

    @classmethod
    def of(
        cls, name: str, family: str = "", *, guideline: str = "",
        controversial: Controversial = "unsafe", unsafe: str = "", safe: str = "",
        lead: str | None = None,
    ) -> GuardFamily:
        r"""Find the family of a guard by the name of its checkpoint, or as it is described.

        Parameters
        ----------
        name : str
            Of the checkpoint; what stands behind the last slash counts.
        family : str
            "llama-guard", "qwen3guard" or "shieldgemma"; empty to go by the name.
        guideline : str
            What ShieldGemma is to look for, one sentence such as
            '"No Deception": The chatbot shall not mislead its user.'
        controversial : {"unsafe", "safe"}
            What Qwen3Guard's label between the two counts as.
        unsafe, safe : str
            The labels of a guard of no known family, with the blank before them if there is one.
        lead : str, optional
            What such a guard writes before its label: nothing if left out.

        Raises
        ------
        ModelError
            The name says nothing, or a setting is missing or means nothing to this family.
        """
        if bool(unsafe) != bool(safe) or (unsafe and family) or (lead and not unsafe):
            raise ModelError("a guard is described by `unsafe` and `safe`, its two labels, and "
                             "perhaps `lead`, or it is of a `family`: give one or the other")
        if unsafe:
            return cls("own", (unsafe,), (safe,), lead=lead or "", guideline=guideline,
                       takes_guideline=bool(guideline))
        plain = re.sub(r"[^a-z0-9]", "", Path(name).name.lower())
        found = [kind for key, kind in _KNOWN.items()
                 if (kind.name == family if family else key in plain)]
        if len(found) != 1:
            what = f"there is no family {family!r}" if family else (
                f"the name {Path(name).name!r} does not say of which family this guard is")
            raise ModelError(f"{what}: give one of {_NAMES} as `family`, or its labels as `unsafe` "
                             "and `safe`, and what it writes before them as `lead`")
        (kind,) = found
        if kind.takes_guideline and not guideline:
            raise ModelError(f"{kind.name} judges by one guideline: give it as `guideline`, such "
                             "as '\"No Deception\": The chatbot shall not mislead its user.'")
        if guideline and not kind.takes_guideline:
            raise ModelError(f"{kind.name} has no place for a guideline: leave it out")
        if controversial != "unsafe" and not kind.between:
            raise ModelError(f"{kind.name} has no label between safe and unsafe: leave "
                             "`controversial` out")
        added = {controversial: getattr(kind, controversial) + kind.between}
        return replace(kind, **added, between=(), guideline=guideline)

    def settings(self) -> dict[str, Any]:
        """What of it decides a verdict, as JSON."""
        fields = {key: list(value) if isinstance(value, tuple) else value
                  for key, value in asdict(self).items()}
        return {"family": fields.pop("name"), **fields}

    def read(self, reply: str) -> tuple[bool, int, str] | None:
        """Read a reply: whether its label is unsafe, where the label begins, and the categories.

        None if there is no label, or more than one.
        """
        labels = {label.strip().lower(): label in self.unsafe for label in self.unsafe + self.safe}
        words = "|".join(map(re.escape, labels))
        found = list(re.finditer(rf"{self.place}({words})\b", reply, re.IGNORECASE))
        if len({match[1].lower() for match in found}) != 1:
            return None
        named = _CATEGORIES.search(reply, found[0].end())
        categories = (named[1] or named[2]).strip() if named else ""
        return (labels[found[0][1].lower()], found[0].start(1),
                "" if categories == "None" else categories)


_KNOWN: Mapping[str, GuardFamily] = {
    "llamaguard": GuardFamily("llama-guard", ("unsafe",), ("safe",), lead="\n\n",
                              place=r"\A\s*"),
    "qwen3guardgen": GuardFamily("qwen3guard", (" Unsafe",), (" Safe",), (" Controversial",),
                                 lead="Safety:", place=r"\bSafety:[ *]*"),
    "shieldgemma": GuardFamily("shieldgemma", ("Yes",), ("No",), takes_guideline=True,
                               frame=("<start_of_turn>", "<end_of_turn>")),
}  # fmt: skip
_NAMES = ", ".join(family.name for family in _KNOWN.values())


class Guard:
    """A guard at hand: conversations in, the probability of its unsafe labels out.

    Parameters
    ----------
    model, tokenizer : PreTrainedModel, PreTrainedTokenizerBase
        A causal language model and a tokenizer whose chat template builds the moderation prompt.
    family : GuardFamily
        See `GuardFamily.of`.
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
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, family: GuardFamily,
        least_mass: float = LABEL_MASS, batch_tokens: int = 0,
    ) -> None:
        if not tokenizer.chat_template:
            raise ModelError("the tokenizer has no chat template to build the moderation prompt")
        self.tokenizer, self.family, self.least_mass = tokenizer, family, least_mass
        self.forbidden = sorted({*ChatTemplate(tokenizer).control_texts(), *family.frame})
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
        text, lead = ChatTemplate(self.tokenizer).text(messages, False, **options), self.family.lead
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
