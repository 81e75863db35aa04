"""Families of guard models: what each is shown, which labels it writes, and how replies are read.

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
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from monitorlab.models import ModelError

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
        Labels as they follow `lead`; those between count as `guard_family` decides.
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


def guard_family(
    name: str,
    family: str = "",
    *,
    guideline: str = "",
    controversial: Controversial = "unsafe",
    unsafe: str = "",
    safe: str = "",
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
        raise ModelError("a guard is described by `unsafe` and `safe`, its two labels, and perhaps "
                         "`lead`, or it is of a `family`: give one or the other")
    if unsafe:
        return GuardFamily("own", (unsafe,), (safe,), lead=lead or "", guideline=guideline,
                           takes_guideline=bool(guideline))
    plain = re.sub(r"[^a-z0-9]", "", Path(name).name.lower())
    found = [kind for key, kind in _KNOWN.items()
             if (kind.name == family if family else key in plain)]
    if len(found) != 1:
        what = f"there is no family {family!r}" if family else (
            f"the name {Path(name).name!r} does not say of which family this guard is")
        raise ModelError(f"{what}: give one of {_NAMES} as `family`, or its labels as `unsafe` and "
                         "`safe`, and what it writes before them as `lead`")
    (kind,) = found
    if kind.takes_guideline != bool(guideline):
        raise ModelError(
            f"{kind.name} judges by one guideline: give it as `guideline`, such as "
            "'\"No Deception\": The chatbot shall not mislead its user.'" if kind.takes_guideline
            else f"{kind.name} has no place for a guideline: leave it out")
    if controversial != "unsafe" and not kind.between:
        raise ModelError(f"{kind.name} has no label between safe and unsafe: leave `controversial` "
                         "out")
    added = {controversial: getattr(kind, controversial) + kind.between}
    return replace(kind, **added, between=(), guideline=guideline)
