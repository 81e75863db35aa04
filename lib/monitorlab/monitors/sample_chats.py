"""A chat as other tools write it, as the request and the response of a sample."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping
from typing import Any

from monitorlab.pipeline.table_files import kind_name

ASSISTANT = "assistant"
ROLES = {
    "system": "system", "developer": "developer", "user": "user", "human": "user",
    "assistant": ASSISTANT, "gpt": ASSISTANT, "model": ASSISTANT, "bot": ASSISTANT,
    "chatgpt": ASSISTANT, "tool": "tool", "function": "tool", "observation": "tool",
    "function_call": ASSISTANT, "ipython": "tool",
}


class ChatError(ValueError):
    """A chat cannot be read; the message goes on behind the name of its column."""


def read_chat(value: object) -> tuple[str, str, int]:
    """Split a chat at its last answer.

    Parameters
    ----------
    value : object
        Messages in order, each with ``role`` and ``content`` (OpenAI) or ``from`` and ``value``
        (ShareGPT); or the same as JSON text, as a CSV file holds it. Content may be text or a list
        of text parts. Thinking that is kept apart comes first, as ``<think>...</think>``, and
        calls of tools last, as JSON.

    Returns
    -------
    request : str
        What comes before the last message of the assistant: the text of the one message, or all of
        them with their roles.
    response : str
        That last message.
    after : int
        How many messages follow it.

    Raises
    ------
    ChatError
        It is no list of messages, a role is unknown, a part is no text, or no message is the
        assistant's.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ChatError("is text, but not a JSON array of messages") from None
    if not isinstance(value, list) or not value:
        raise ChatError(f"is {kind_name(value)}, expected an array of messages such as "
                        '{"role": "user", "content": "..."}')
    turns = [_turn(number, message) for number, message in enumerate(value, 1)]
    answers = [i for i, (role, _) in enumerate(turns) if role == ASSISTANT]
    if not answers:
        raise ChatError("has no message of the assistant: there is nothing to judge")
    before = turns[:answers[-1]]
    request = before[0][1] if len(before) == 1 else "\n\n".join(
        f"{role.capitalize()}: {text}" for role, text in before)
    return request, turns[answers[-1]][1], len(turns) - answers[-1] - 1


def _turn(number: int, message: object) -> tuple[str, str]:
    """Role and text of a message."""
    where = f"holds a message {number}"
    if not isinstance(message, Mapping):
        raise ChatError(f"{where} that is {kind_name(message)}, expected an object")
    role = message.get("role") or message.get("from")
    known = ROLES.get(str(role).strip().lower())
    if known is None:
        raise ChatError(f"{where} of the role {reprlib.repr(role)}, expected one of "
                        f"{', '.join(ROLES)}")
    pieces = [_content(where, message.get("content", message.get("value")))]
    thinking = message.get("reasoning_content") or message.get("reasoning")
    if isinstance(thinking, str):
        pieces.insert(0, f"<think>{thinking}</think>")
    pieces += [json.dumps(message[name], ensure_ascii=False)
               for name in ("tool_calls", "function_call") if message.get(name)]
    if isinstance(message.get("refusal"), str):
        pieces.append(message["refusal"])
    given = [piece for piece in pieces if piece is not None]
    if not given:
        raise ChatError(f"{where} without content")
    return known, "\n".join(piece for piece in given if piece) if len(given) > 1 else given[0]


def _content(where: str, content: Any) -> str | None:
    """Text of a message: a string, or parts that are text; None if there is none."""
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise ChatError(f"{where} whose content is {kind_name(content)}, expected text")
    texts = []
    for part in content:
        text = part.get("text") if isinstance(part, Mapping) else part
        if not isinstance(text, str):
            kind = part.get("type") if isinstance(part, Mapping) else kind_name(part)
            raise ChatError(f"{where} with a part that is no text ({kind!s:.40}): a monitor of "
                            "texts cannot see it; put a description there, or drop the row")
        texts.append(text)
    return "".join(texts)
