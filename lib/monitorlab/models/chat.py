"""Chat templates: one rendering for scoring, for training and for step signals.

A template comes with a checkpoint and may do two things that change a prompt in silence. Some know
no system message: they raise, or leave it out. Then it is put in front of the first user message.
Others print today's date. Then the date is always `CLOCK`, so that a prompt is the same tomorrow,
and the same in training and in scoring. `ChatTemplate.form` says what a template needs; it belongs
into the settings of whatever reads its prompts.
"""

from __future__ import annotations

import functools
import re
import string
import warnings
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from transformers import PreTrainedTokenizerBase

from monitorlab.models import ModelError

CLOCK = datetime(2024, 7, 26)  # what Llama's templates print where there is no clock
_OTHER = datetime(1999, 11, 30, 21, 58, 57)  # a date that differs in everything
ROLES = ("system", "user")  # of what monitors ask

Messages = Sequence[Mapping[str, Any]]
THINK, UNTHINK = "<think>", "</think>"
PLAIN = ("the tokenizer has no chat template: prompts are plain text, with a blank line between "
         "messages, as suits a base model")


@dataclass(frozen=True)
class _ChatForm:
    """What a chat template makes of a system and a user message.

    Attributes
    ----------
    folds : bool
        Whether the system message has to stand in the user message.
    dated : bool
        Whether the prompt shows a date.
    """

    folds: bool = False
    dated: bool = False

    def settings(self) -> dict[str, str]:
        """What of it decides a prompt, as JSON; nothing for a template with a system message."""
        return {**({"system_role": "in the first user message"} if self.folds else {}),
                **({"date": f"{CLOCK:%Y-%m-%d}"} if self.dated else {})}

    def changes(self) -> list[str]:
        """Say what is done to prompts, in sentences."""
        said = []
        if self.folds:
            said.append("the chat template has no system message: its text stands before the first "
                        "user message")
        if self.dated:
            said.append(f"the chat template prints today's date: it is always {CLOCK:%Y-%m-%d} "
                        "here, so that a prompt is the same tomorrow")
        return said


@dataclass
class _Known:
    """What was found out about one template: its forms by roles, and what was said of them."""

    template: Any
    forms: dict[tuple[str, ...], _ChatForm] = field(default_factory=dict)
    said: set[str] = field(default_factory=set)


_KNOWN: weakref.WeakKeyDictionary[Any, _Known] = weakref.WeakKeyDictionary()


class ChatTemplate:
    """The chat template of a tokenizer, and the prompts that it makes."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer

    def form(self, roles: Sequence[str] = ROLES) -> _ChatForm:
        """Find out what it does with a system message and with the date.

        Warns once per tokenizer if its prompts are not what the template alone would make of them.

        Parameters
        ----------
        roles : sequence of str
            Of the messages; a template may keep a system message of one conversation and not of
            another.

        Raises
        ------
        ModelError
            The template leaves the texts out, with the system message in its place or not.
        """
        template = self.tokenizer.chat_template
        known = _KNOWN.get(self.tokenizer)
        if known is None or known.template != template:
            known = _KNOWN[self.tokenizer] = _Known(template)
        key = tuple(roles)
        if key not in known.forms:
            known.forms[key] = self._found_form(key) if template else _ChatForm()
            for text in known.forms[key].changes() if template else [PLAIN]:
                if text not in known.said:
                    known.said.add(text)
                    warnings.warn(text, RuntimeWarning, stacklevel=3)
        return known.forms[key]

    def _found_form(self, roles: tuple[str, ...]) -> _ChatForm:
        # Letters alone: no template trims them or changes more than their case.
        marks = [f"QX{role.upper()}{'I' * place}XQ" for place, role in enumerate(roles)]
        plain = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]
        reason = ""
        for messages in (plain, _folded(plain)):
            try:
                texts, others = (
                    [self._rendered(messages, date, enable_thinking=thinking,
                                    add_generation_prompt=roles[-1] == "user")
                     for thinking in (False, True)]
                    for date in (CLOCK, _OTHER)
                )
            except Exception as error:  # a template may raise anything
                reason = reason or " ".join(str(error).split())[:200]
                continue
            if all(mark in text.upper() for text in texts for mark in marks):
                return _ChatForm(messages is not plain, texts != others)
        raise ModelError(f"the chat template cannot render {list(roles)} messages, nor with the "
                         f"system text in the user's: {reason or 'it leaves texts out'}. Is it the "
                         "template of a model that chats?")

    def render(self, messages: Messages, **options: Any) -> str:
        """Render messages by the template, which must be there.

        Parameters
        ----------
        messages : sequence of mapping
            With "role" and "content".
        **options
            As `apply_chat_template` takes them, such as ``add_generation_prompt=True``.

        Raises
        ------
        ModelError
            The template cannot render them.
        """
        roles = [message["role"] for message in messages]
        if roles[0] == "system" and self.form(roles).folds:
            messages = _folded(messages)
        try:
            return self._rendered(messages, CLOCK, **options)
        except Exception as error:  # a template may raise anything
            reason = " ".join(str(error).split())[:200]
            raise ModelError(f"the chat template cannot render {roles} messages: {reason}"
                             ) from error

    def _rendered(self, messages: Messages, date: datetime, **options: Any) -> str:
        template = self.tokenizer.get_chat_template()
        if "strftime_now" in template:
            template = _clock(date) + template
        return str(self.tokenizer.apply_chat_template(
            [dict(message) for message in messages], chat_template=template, tokenize=False,
            **options))

    def text(self, messages: Messages, thinking: bool, **options: Any) -> str:
        """Render messages up to where the answer begins.

        Without thinking, a think block that the template opens is closed again, so that the next
        token belongs to the answer. Without a template the messages are separated by blank lines.

        Raises
        ------
        ModelError
            If the template cannot render the messages.
        """
        if not self.tokenizer.chat_template:
            return "".join(f"{message['content']}\n\n" for message in messages)
        text = self.render(messages, add_generation_prompt=True, enable_thinking=thinking,
                           **options)
        if thinking or not text.rstrip().endswith(THINK):
            return text
        return f"{text.rstrip()}\n\n{UNTHINK}\n\n"

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of rendered prompts.

        A template writes the begin mark itself; a plain prompt gets the tokenizer's, if any.
        """
        rows: list[list[int]] = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        begin = self.tokenizer("")["input_ids"][:1]
        if self.tokenizer.chat_template or begin != [self.tokenizer.bos_token_id]:
            return rows
        return [begin + row for row in rows]

    def control_texts(self) -> list[str]:
        """Texts that are read as control tokens: none may come from text under audit.

        These are the tokenizer's special tokens, and added tokens in brackets, such as
        ``</think>`` in many models.
        """
        added = (token.content for token in self.tokenizer.added_tokens_decoder.values())
        bracketed = (text for text in added if re.fullmatch(r"<.+>|\[.+\]", text.strip()))
        return sorted({*self.tokenizer.all_special_tokens, *bracketed})


def _folded(messages: Messages) -> list[dict[str, str]]:
    """Put a system message that comes first in front of the user message after it."""
    rest = [dict(message) for message in messages]
    if len(rest) > 1 and rest[0]["role"] == "system" and rest[1]["role"] == "user":
        system = rest.pop(0)["content"]
        rest[0]["content"] = f"{system}\n\n{rest[0]['content']}"
    return rest


@functools.cache
def _clock(date: datetime) -> str:
    """Return the clock that transformers gives to templates, as a macro that always says `date`."""
    signs = [f"%{minus}{letter}" for letter in string.ascii_letters for minus in ("", "-")]
    said = [(sign, date.strftime(sign)) for sign in signs if sign[-1] != "s"]  # s has a time zone
    replaced = "".join(f"|replace({sign!r}, {text!r})" for sign, text in said if text != sign)
    # The break behind a block is dropped, so that the template begins where it would alone.
    return (f"{{%- macro strftime_now(format) -%}}{{{{- format{replaced}|replace('%%', '%') -}}}}"
            "{%- endmacro %}\n")
