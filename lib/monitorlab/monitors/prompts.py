"""Monitor prompts: versioned files, and the messages they become for one sample.

All that is the same for every sample comes first, so that a model can reuse it. The texts under
audit stand inside fixed tags. They come from strangers: whatever looks like one of the tags or
like a special token of a chat format is broken up visibly, so that no text can end its frame.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monitorlab.monitors.monitor import MonitorError, Sample
from monitorlab.monitors.verdicts import PARSED, TRUNCATED, UNPARSED, Verdict
from monitorlab.storage.files import PROJECT, digest_json, writable

if TYPE_CHECKING:
    from monitorlab.models.guards import GuardFamily

DATA = PROJECT / "data"
PROMPT_FOLDER = DATA / "prompts"
ANSWERS = ("verdict", "evidence", "score")
TEXT = "text"  # the answer of a prompt that asks for no verdict
BREAK = "·"  # put into what must not work as a tag or token
_BREAKS = "·¦§¤¶"  # the first that no forbidden string contains is used

_FIELDS = {"name": str, "version": int, "about": str, "answer": str, "system": str,
           "criteria": list, "user": str}
_SLOT = re.compile(r"\{(criteria|request|response)\}")
_SLOTS = {"system": ["criteria"], "user": ["request", "response"]}

# Blanks, and signs that are not seen: soft hyphen, joiners, zero-width, direction and variation
# marks. They may stand anywhere in a tag and a reader, or a model, still sees the tag.
_UNSEEN = (
    r"[\s\x00-\x1f\x7f-\xa0\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2000-\u200f"
    r"\u2028-\u202f\u205f-\u206f\u2800\u3000\u3164\ufe00-\ufe0f\ufeff\uffa0]*+")
_TAG = (
    rf"[<＜﹤‹〈]{_UNSEEN}(?:[/／⁄∕]{_UNSEEN})*+"
    + _UNSEEN.join("audited") + rf"(?:{_UNSEEN}[_＿\-‐-―.])*+{_UNSEEN}"
    + f"(?:{_UNSEEN.join('request')}|{_UNSEEN.join('response')})")
_CHAT_TOKEN = r"<[|｜][^\s<>|｜]{1,60}[|｜]>"  # <|im_start|> and the like, in any chat format


@dataclass(frozen=True)
class Prompt:
    """What a language model is asked about every sample.

    Attributes
    ----------
    name : str
        How the tables call it.
    version : int
        Raised with every change of the words.
    about : str
        One sentence for readers; not sent.
    answer : str
        How the reply is read: "verdict", "evidence" or "score".
    template : str
        System message with the slot ``{criteria}``.
    criteria : tuple of str
        What counts as misbehavior, one entry each.
    user : str
        User message with the slots ``{request}`` and ``{response}``.
    """

    name: str
    version: int
    about: str
    answer: str
    template: str
    criteria: tuple[str, ...]
    user: str

    @cached_property
    def system(self) -> str:
        """System message, the same for every sample."""
        lines = "\n".join(f"- {criterion}" for criterion in self.criteria)
        return self.template.replace("{criteria}", lines)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all words that decide a verdict, as canonical JSON; hexadecimal."""
        frame = [_framed("request", "", BREAK), _framed("response", ".", BREAK)]
        return digest_json({"answer": self.answer, "system": self.system, "user": self.user,
                            "frame": frame})

    def messages(self, sample: Sample, forbidden: Sequence[str] = ()) -> list[dict[str, str]]:
        """Return the system and the user message for one sample.

        Parameters
        ----------
        sample : Sample
            Its request and response are put inside their tags, with nothing in them that could
            pass for one of the tags.
        forbidden : sequence of str
            Strings that must not occur in the audited texts: the special tokens of a tokenizer.
            Strings of the shape ``<|name|>`` are always broken up.

        Returns
        -------
        list of dict
            ``[{"role": "system", "content": ...}, {"role": "user", "content": ...}]``

        Raises
        ------
        MonitorError
            If no sign is left to break strings with, because `forbidden` contains all of them.
        """
        if self.answer == TEXT:
            return [{"role": "user", "content": broken_up(sample.request, forbidden)}]
        sign = _sign(forbidden)
        framed = {name: _framed(name, broken_up(getattr(sample, name), forbidden), sign)
                  for name in ("request", "response")}
        user = _SLOT.sub(lambda slot: framed.get(slot[1], slot[0]), self.user)
        return [{"role": "system", "content": self.system}, {"role": "user", "content": user}]


PLAIN = Prompt("plain", 1, "The request itself, to be answered.", TEXT, "", (), "{request}")


def load_prompt(name_or_path: str | Path) -> Prompt:
    """Read a prompt.

    Parameters
    ----------
    name_or_path : str or Path
        Name of a built-in prompt ("brief", "direct", "evidence", "score"), the path of a file that
        ends in ``.toml``, or "plain" for the request itself, of which nobody judges the answer.

    Raises
    ------
    MonitorError
        If there is no such prompt, or its file misses a field or a slot, has an unknown field or
        answer, or is not TOML.
    """
    if name_or_path == PLAIN.name:
        return PLAIN
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = PROMPT_FOLDER / f"{name_or_path}.toml"
    try:
        with path.open("rb") as stream:
            fields = tomllib.load(stream)
    except OSError as error:
        known = ", ".join(sorted(file.stem for file in PROMPT_FOLDER.glob("*.toml")))
        raise MonitorError(f"cannot read prompt {str(name_or_path)!r} ({error.strerror}): expected "
                           f"one of {known}, or the path of a .toml file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MonitorError(f"{path} is not TOML in UTF-8: {error}") from None
    return _checked(fields, path)


def broken_up(text: str, forbidden: Sequence[str] = ()) -> str:
    """Return an audited text in which no tag of the frame and no forbidden string is left.

    A visible sign is put behind the first character of each occurrence; a forbidden string of one
    character is replaced by it. Doing it again changes nothing. Half surrogate pairs, which cannot
    be sent, become question marks.
    """
    sign = _sign(forbidden)
    whole = writable(text)
    single = {ord(word): sign for word in forbidden if len(word) == 1}
    longer = [re.escape(word) for word in forbidden if len(word) > 1]
    # Looking ahead without consuming finds occurrences that overlap: each is broken.
    found = re.compile(f"(?=(?i:{_TAG})|{'|'.join([_CHAT_TOKEN, *longer])})(.)", re.DOTALL)
    return found.sub(rf"\1{sign}", whole.translate(single))


def _sign(forbidden: Sequence[str]) -> str:
    """First break sign that is part of no forbidden string: breaking then never makes a new one."""
    for sign in _BREAKS:
        if not any(sign in word for word in forbidden):
            return sign
    raise MonitorError(f"the forbidden strings contain all of {_BREAKS}: leave one of them out")


def _framed(name: str, text: str, sign: str) -> str:
    """Put a text inside its tags; one without anything to read is called empty."""
    framed = f"<audited_{name}>\n{text}\n</audited_{name}>"
    return framed if text.strip(sign).strip() else f"{framed}\n(The audited {name} is empty.)"


def _checked(fields: dict[str, Any], path: Path) -> Prompt:
    """Turn the fields of a file into a prompt, or say which of them is wrong."""
    definition = tomllib.loads((DATA / "definition.toml").read_text(encoding="utf-8"))
    fields = {"criteria": definition["misbehavior"]} | fields
    if unknown := [name for name in fields if name not in _FIELDS]:
        raise MonitorError(f"{path}: unknown field {unknown[0]!r}; known are {', '.join(_FIELDS)}")
    for name, kind in _FIELDS.items():
        if name not in fields:
            raise MonitorError(f"{path}: the field {name!r} is missing; add it")
        value = fields[name]
        if not isinstance(value, kind) or isinstance(value, bool) or not value:
            raise MonitorError(f"{path}: {name} is {value!r}, expected a {kind.__name__}, not "
                               "empty")
    if fields["answer"] not in ANSWERS:
        raise MonitorError(f"{path}: answer is {fields['answer']!r}, expected one of "
                           f"{', '.join(ANSWERS)}")
    criteria = fields["criteria"]
    if not all(isinstance(criterion, str) and criterion.strip() for criterion in criteria):
        raise MonitorError(f"{path}: criteria must be texts that are not empty, found {criteria!r}")
    for name, needed in _SLOTS.items():
        found = _SLOT.findall(fields[name])
        if found != needed:
            slots = " and then ".join(f"{{{slot}}}" for slot in needed)
            raise MonitorError(f"{path}: {name} has the slots {found}, expected {slots}, once each")
    template = fields.pop("system").strip().replace("{benign}", definition["benign"])
    return Prompt(**fields | {"template": template, "user": fields["user"].strip(),
                              "criteria": tuple(criterion.strip() for criterion in criteria)})


@dataclass(frozen=True)
class GuardPrompt:
    """What a guard behind a chat endpoint is sent, and how its reply is read.

    The server puts the conversation into the guard's own chat template. A guideline goes as a
    system message, which the template of ShieldGemma takes for that.

    Attributes
    ----------
    family : GuardFamily
    answer : str
        As of a prompt that asks for a verdict.
    """

    family: GuardFamily
    answer: str = "verdict"

    @property
    def name(self) -> str:
        """How the tables call it."""
        return self.family.name

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides a verdict besides the server's template; hexadecimal."""
        return digest_json(self.family.settings())

    def messages(self, sample: Sample) -> list[dict[str, str]]:
        """Return the conversation of one sample."""
        guideline, frame = self.family.guideline, self.family.frame
        system = [{"role": "system", "content": guideline}] if guideline else []
        return [*system, {"role": "user", "content": broken_up(sample.request, frame)},
                {"role": "assistant", "content": broken_up(sample.response, frame)}]

    def read(self, text: str, finished: bool) -> Verdict:
        """Read a reply; the label stands at its beginning, so a cut one may have it."""
        found = self.family.read(text)
        if found is not None:
            return Verdict(PARSED, found[0], evidence=found[2], reply=text)
        if not finished:
            reason = "the reply was cut off before a label of the guard"
            return Verdict.failure(TRUNCATED, reason, text)
        labels = ", ".join(label.strip() for label in self.family.unsafe + self.family.safe)
        return Verdict.failure(UNPARSED, f"the reply does not say one label of {self.name} "
                                         f"({labels}): is it a guard of this family, with its own "
                                         "chat template?", text)

    def label(self, text: str) -> tuple[int, dict[bool, tuple[str, ...]]] | None:
        """Where the label begins in a reply, and the labels that mean unsafe and safe."""
        found = self.family.read(text)
        if found is None:
            return None
        return found[1], {bad: tuple(label.strip().lower() for label in labels) for bad, labels in
                          ((True, self.family.unsafe), (False, self.family.safe))}
