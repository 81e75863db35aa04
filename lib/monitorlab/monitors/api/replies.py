"""What comes back from an OpenAI-compatible server: an answer, or a failure to deal with.

Servers differ and break; nothing about a body is taken for granted. Every provider has words of
its own, and layers between translate only some of them. What is not known is not guessed: an
ending that is on no list does not count as finished.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

import openai

from monitorlab.display.tables import flat
from monitorlab.monitors.api.server import Server
from monitorlab.monitors.verdicts import WORDING, mended, pattern

NO_MONEY = 402
REPEATABLE = frozenset({408, 409, 425, 429})  # and everything from 500 up
NOT_SENT = frozenset({"ConnectError", "ConnectTimeout", "PoolTimeout"})  # of httpx
UNSAID = "null"  # the ending of a reply about which the server says nothing
READ = 20_000  # characters of a body that are searched for a message
LARGEST = 10**9  # tokens; more is a broken count
THOUGHT, OUT_OF_THOUGHT = "<think>\n", "\n</think>\n"
_SERVERS = WORDING["servers"]
_THOUGHTS, _CACHED = _SERVERS["thoughts"], _SERVERS["cached"]
_WRITTEN = pattern("replies", "written", re.I)
_WORDS = {True: ("true", "yes"), False: ("false", "no")}
_BROKE = re.compile(r"[\"'](?:code|type)[\"']\s*:\s*[\"']insufficient_quota[\"']")


@dataclass(frozen=True)
class Reply:
    """A completed answer.

    Attributes
    ----------
    text : str
        The reply, with the arguments of tool calls, without what the model thought where the
        server keeps that apart.
    finish : str
        How it ended, in the word of the server; `UNSAID` if it said nothing.
    refusal : str
        The refusal, where the server marks it as one.
    input_tokens, output_tokens : int or None
        As counted by the server; thinking is output.
    seconds : float or None
        Wall-clock time of the call that brought it.
    tokens : tuple of (bytes, dict)
        Tokens of the reply, each with the log-probability of its alternatives and of itself;
        empty if the server does not offer them.
    thinking : str
        What the model thought, where the server keeps it apart.
    withheld : str
        Which filter of the provider kept the prompt or the reply back, in words.
    cached_tokens : int
        Tokens of the prompt that came from a cache; whether the server counts them in
        `input_tokens`, too, may be unknown.
    """

    text: str
    finish: str = "stop"
    refusal: str = ""
    input_tokens: int | None = None
    output_tokens: int | None = None
    seconds: float | None = None
    tokens: tuple[tuple[bytes, Mapping[str, float]], ...] = ()
    thinking: str = ""
    withheld: str = ""
    cached_tokens: int = 0

    @classmethod
    def read(cls, body: str) -> Reply | NoReply:
        """Read the body of a chat completion.

        Returns
        -------
        Reply or NoReply
            The latter if it is no JSON object with a choice that holds a message, or the server
            broke it off.
        """
        try:
            return _read_body(body)
        except _BrokenReplyError as error:
            wait = _wait_of({}, str(error)) if error.status else None
            return NoReply(f"HTTP 200 with {error}", error.status, error.repeat, wait, spent=True)

    @staticmethod
    def kind_of(ending: str) -> str:
        """Say what the word with which a reply ended means.

        Parameters
        ----------
        ending : str
            As the server spells it: ``stop``, ``MAX_TOKENS``, ``FinishReason.SAFETY``, ``endTurn``.

        Returns
        -------
        str
            `FINISHED`, `CUT` (a limit of tokens), `WITHHELD` (by the provider), `BROKEN` (the
            server broke off, and asking again may help) or `UNKNOWN`.
        """
        word = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", ending.strip().rpartition(".")[2])
        word = re.sub(r"\W+|_+", "_", word.lower()).strip("_")
        return _KIND_OF.get(re.sub(r"^(?:finish|stop)_reason_", "", word), UNKNOWN)

    def suspicion(self, verdict: bool) -> float | None:
        """P(true) / (P(true) + P(false)), or of yes and no, where the verdict is written.

        Parameters
        ----------
        verdict : bool
            What was read from the reply; of several places, the last one that says so counts.

        Returns
        -------
        float or None
            In [0, 1], high is unsafe. None without log-probabilities, or if they do not belong to
            the text of the reply.
        """
        written = _WRITTEN.finditer(self.text)
        places = [found.start(1) for found in written if found[1].lower() in _WORDS[verdict]]
        return self.share_of_true(places[-1], _WORDS) if places else None

    def share_of_true(self, place: int, words: Mapping[bool, Sequence[str]]) -> float | None:
        """Weigh what the reply might have said at a place of its text.

        Parameters
        ----------
        place : int
            Where a word begins in `text`.
        words : mapping of bool to sequence of str
            Words, in small letters, that mean misbehavior (True) and benign (False).

        Returns
        -------
        float or None
            P(words of True) / P(words of both), in [0, 1]. None without log-probabilities, or if
            they do not belong to the text of the reply.
        """
        joined = b"".join(token for token, _ in self.tokens)
        start = joined.rfind(self.text.encode("utf-8", "replace"))  # thinking may come before
        if not self.tokens or start < 0:
            return None
        position = start + len(self.text[:place].encode("utf-8", "replace"))
        for token, alternatives in self.tokens:
            if position < len(token):
                before = token[:position].decode("utf-8", "replace")
                return _weighed(alternatives, before, words)
            position -= len(token)
        return None


@dataclass(frozen=True)
class NoReply:
    """A call without an answer.

    Attributes
    ----------
    reason : str
        What went wrong.
    status : int or None
        HTTP status; None if there was no response, or it could not be read.
    repeat : bool
        Whether asking again may help.
    wait_s : float or None
        How long the server asks to wait, in seconds.
    spent : bool
        Whether the server may have worked, and charged, for it.
    refused : bool
        Whether the provider will not answer about this sample.
    late : bool
        Whether the time was up before an answer.
    """

    reason: str
    status: int | None = None
    repeat: bool = False
    wait_s: float | None = None
    spent: bool = False
    refused: bool = False
    late: bool = False

    @classmethod
    def of(cls, error: openai.OpenAIError) -> NoReply:
        """Say what a failed call means."""
        if isinstance(error, openai.APIStatusError):
            return _refused_call(error.status_code, error.response.text, error.response.headers)
        if isinstance(error, openai.APIConnectionError):
            cause = error.__cause__ or error
            late = isinstance(error, openai.APITimeoutError)
            words = "no answer in time" if late else "the connection failed"
            spent = type(cause).__name__ not in NOT_SENT
            why = f"{words} ({type(cause).__name__}: {cause})"
            return cls(why, repeat=True, spent=spent, late=late)
        return cls(f"{type(error).__name__}: {error}")

    @property
    def rejects_system(self) -> bool:
        """Whether a server says that it takes no message with the role ``system``."""
        return self.status in _ROLE_STATUSES and _NO_SYSTEM.search(self.reason) is not None

    def rejected_field(self, fields: Iterable[str]) -> str:
        """Return which of the fields that were sent a server does not take as it is, or "".

        A prompt that is too long is no such case, although its message may name ``max_tokens``.
        """
        words = self.reason
        if self.status not in (400, 422) or _TOO_LONG.search(words) or not _NOT_SO.search(words):
            return ""
        for name in sorted(fields, key=len, reverse=True):
            plain = "_" in name or name in ("temperature", "seed", "logprobs")  # no word for else
            before = r"(?<!\w)" if plain else r"['\"`.]"
            if re.search(rf"{before}{re.escape(name)}(?!\w)", words):
                return name
        return ""


class _BrokenReplyError(ValueError):
    """A body with status 200 that holds no answer.

    Parameters
    ----------
    words : str
        What it is.
    status : int or None
        HTTP status that the body itself names, if any.
    repeat : bool
        Whether asking again may help.
    """

    def __init__(self, words: str, status: int | None = None, *, repeat: bool = True) -> None:
        super().__init__(words)
        self.status, self.repeat = status, repeat


def _read_body(body: str) -> Reply:
    try:
        found = json.loads(body.removeprefix("\ufeff"))
    except (ValueError, RecursionError):
        raise _BrokenReplyError(_described(body), repeat=not _is_stream(body)) from None
    if not isinstance(found, dict):
        raise _BrokenReplyError(f"a body that is a JSON {type(found).__name__}, not an object")
    choices = found.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    usage = found.get("usage")
    counts = _usage(usage if isinstance(usage, dict) else {}, found.get("timings"))
    if not isinstance(choice, dict):
        return _without_choice(found, body, counts)
    finish = _finish(choice)
    withheld = _blocked_by(choice)
    message = choice.get("message")
    if message is None and (withheld or Reply.kind_of(finish) in (CUT, WITHHELD)):
        message = {}  # there is nothing that could be in it
    if not isinstance(message, dict):
        return _without_choice(found, body, counts)
    if Reply.kind_of(finish) == BROKEN:
        raise _BrokenReplyError(f"a reply that the server broke off ({finish})")
    text, thinking = _content(message.get("content"))
    apart = filter(None, (_thought(message.get(name)) for name in _THOUGHTS))
    refusal = message.get("refusal")
    return Reply("\n".join(filter(None, (text, *_arguments(message)))), finish,
                 mended(refusal) if isinstance(refusal, str) else "", **counts, withheld=withheld,
                 tokens=_tokens(choice.get("logprobs")), thinking=thinking or next(apart, ""))


def _refused_call(status: int, text: str, headers: Mapping[str, str]) -> NoReply:
    """Read a response with an error status."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        body = text
    words = _message_of(body)[:READ] or "no message"
    if _is_page(words) or _is_stream(words):
        words = _described(words)
    reason = f"HTTP {status}: {words}"
    if _refuses(status, body):
        return NoReply(reason, status, spent=True, refused=True)
    status = NO_MONEY if _BROKE.search(text[:READ]) else status
    return NoReply(reason, status, _repeatable(status), _wait_of(headers, text[:READ]))


def _repeatable(status: int) -> bool:
    return status in REPEATABLE or status >= 500


def _without_choice(found: Mapping[str, Any], body: str, counts: Mapping[str, Any]) -> Reply:
    """Read a body of which no choice holds a message: a prompt that was blocked, or an error."""
    if withheld := _blocked_by(found):
        return Reply("", UNSAID, withheld=withheld, **counts)
    error = found.get("error")
    if not error:
        raise _BrokenReplyError("a body without a choice that holds a message. It begins: "
                               f"{flat(body[:READ])}")
    words = _message_of(error)[:READ]
    code = error.get("code") if isinstance(error, dict) else None
    status = code if type(code) is int and 400 <= code < 600 else None
    if _refuses(status or 400, found):
        return Reply("", UNSAID, withheld=words, **counts)
    raise _BrokenReplyError(f"a body without a choice that holds a message: {words}", status,
                           repeat=status is None or _repeatable(status))


def _finish(choice: Mapping[str, Any]) -> str:
    """How a reply ended, in the word of the server, or of the provider behind it if that says more.

    A layer between may turn an ending that it does not know into "stop".
    """
    behind = choice.get("provider_specific_fields")
    behind = behind if isinstance(behind, dict) else {}
    native = [choice.get("native_finish_reason"), behind.get("native_finish_reason")]
    word, *others = (_word(value) for value in (choice.get("finish_reason"), *native,
                                                choice.get("stop_reason")))
    kinds = {Reply.kind_of(other): other for other in others[::-1] if other}
    if not word:
        return kinds.get(CUT) or kinds.get(WITHHELD) or kinds.get(FINISHED) or UNSAID
    if Reply.kind_of(word) in (FINISHED, UNKNOWN) and not {CUT, WITHHELD}.isdisjoint(kinds):
        return kinds.get(CUT) or kinds[WITHHELD]
    return word


def _word(value: object) -> str:
    """Return a word that may stand alone or in an object."""
    if isinstance(value, dict):
        value = value.get("type") or value.get("reason")
    return flat(mended(str(value)))[:60] if value else ""


def _weighed(
    alternatives: Mapping[str, float], before: str, words: Mapping[bool, Sequence[str]]
) -> float | None:
    """Weigh alternatives that go on with one of the words; `before` is what else the token has."""
    mass = {True: 0.0, False: 0.0}
    for text, logprob in alternatives.items():
        rest = text.removeprefix(before).lstrip(" \t\n\"'`*").lower()
        letters = "".join(itertools.takewhile(str.isalpha, rest))
        for value, known in words.items():
            if letters and any(word.startswith(letters) for word in known):
                mass[value] += math.exp(logprob)
    total = sum(mass.values())
    return min(mass[True] / total, 1.0) if total > 0 else None


def _content(content: object) -> tuple[str, str]:
    """Text and thinking of a message: a string, nothing, or parts of which some are text."""
    if content is None:
        return "", ""
    if isinstance(content, str):
        return mended(content), ""
    if not isinstance(content, list):
        raise _BrokenReplyError(f"content that is a JSON {type(content).__name__}, not text")
    text = thinking = ""
    for part in content:
        if isinstance(part, dict) and part.get("type") in ("thinking", "reasoning"):
            thinking += _thought(part)
        elif isinstance(part, dict) and isinstance(part.get("text"), str):
            text += part["text"]
    return mended(text), thinking


def _thought(value: object) -> str:
    """Text of what a model thought: a string, or objects that hold it under one of many names."""
    if isinstance(value, str):
        return mended(value)
    if isinstance(value, list):
        return "".join(map(_thought, value))
    if isinstance(value, dict):
        names = ("thinking", "text", "reasoning", "summary", "content")
        return next(filter(None, (_thought(value.get(name)) for name in names)), "")
    return ""


def _arguments(message: Mapping[str, Any]) -> Iterator[str]:
    """Arguments of the tools that a reply calls: a verdict may stand there instead of a text."""
    calls = message.get("tool_calls")
    for call in [*(calls if isinstance(calls, list) else []), message.get("function_call")]:
        if isinstance(call, dict):
            inner = call["function"] if isinstance(call.get("function"), dict) else call
            given = inner.get("arguments", inner.get("input"))
            if isinstance(given, str):
                yield mended(given)
            elif given:
                yield json.dumps(given)


def _usage(usage: Mapping[str, Any], timings: object) -> dict[str, Any]:
    """Tokens in and out, and cached.

    Some servers count thinking in the total only; it is output and paid. Some count cached tokens
    apart: those that are more than all of the prompt must be.
    """
    sent = _count(usage.get("prompt_tokens", usage.get("input_tokens")))
    said = _count(usage.get("completion_tokens", usage.get("output_tokens")))
    total = _count(usage.get("total_tokens"))
    details = usage.get("prompt_tokens_details")
    places = [place for place in (usage, details, timings) if isinstance(place, dict)]
    cached = max((_count(place.get(name)) or 0 for place in places for name in _CACHED), default=0)
    cached += _count(usage.get("cache_creation_input_tokens")) or 0
    if sent is not None and cached > sent:
        sent += cached
    if sent is not None and said is not None and total is not None:
        said = max(said, total - sent)
    return {"input_tokens": sent, "output_tokens": said, "cached_tokens": cached}


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value <= LARGEST else None


def _tokens(logprobs: object) -> tuple[tuple[bytes, dict[str, float]], ...]:
    """Read log-probabilities; anything unexpected means that there are none."""
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not isinstance(content, list):
        return ()
    try:
        return tuple((_bytes(entry), {str(item["token"]): _logprob(item["logprob"])
                                      for item in [entry, *(entry.get("top_logprobs") or [])]})
                     for entry in content)
    except (KeyError, TypeError, ValueError, AttributeError):
        return ()


def _bytes(entry: Mapping[str, Any]) -> bytes:
    """Bytes of a token; a character may be spread over several tokens."""
    given = entry.get("bytes")
    return bytes(given) if given is not None else str(entry["token"]).encode("utf-8", "replace")


def _logprob(value: object) -> float:
    number = float(value)  # type: ignore[arg-type]
    if math.isnan(number) or number > 0.01:
        raise ValueError(f"log-probability {number}")
    return number


# How reasons begin that are the server's decision: the reply behind them is not read again.
KEPT_BACK = "the provider withheld the answer"
CUT_PROMPT = "the server cut the prompt"

FINISHED, CUT, WITHHELD, BROKEN, UNKNOWN = "finished", "cut", "withheld", "broken", "unknown"
_KIND_OF = {word: kind for kind, words in WORDING["endings"].items() for word in words}

_REFUSAL_CODES = frozenset(_SERVERS["refusal_codes"])
_CODE_FIELDS = frozenset({"code", "type", "status", "reason", "errorcode", "errortype"})
_REFUSAL = pattern("servers", "refusal", re.I | re.S)
_ACCOUNT = pattern("servers", "account", re.I | re.S)
_FAULTY = pattern("servers", "faulty_field", re.I | re.S)
_NEVER_OF_A_SAMPLE = frozenset({401, 402, 404, 405, 408, 425, 429})

_NO_SYSTEM = pattern("servers", "no_system", re.I | re.S)
_ROLE_STATUSES = frozenset({400, 422, 424, 500, 501})

_TOO_LONG = pattern("servers", "too_long", re.I)
_NOT_SO = pattern("servers", "not_so", re.I | re.S)
_SPAN = re.compile(WORDING["parts"]["SPAN"], re.I)
_SPANS, _SAID = pattern("servers", "spans", re.I), pattern("servers", "said", re.I)
_FIELD = pattern("servers", "wait_field", re.I)
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_RESET = re.compile(r"(?:x-|anthropic-)?rate-?limit-(?:reset(?:-.+)?|.+-reset)")
LONGEST_GUESS_S = 600.0  # a longer wait counts only if the server says that it is this one


def _blocked_by(found: Mapping[str, Any]) -> str:
    """Say which filter of the provider blocked a prompt or a reply; empty if none did.

    Reads ``promptFeedback`` (Gemini) and the results of content filters (Azure).
    """
    feedback = found.get("promptFeedback") or found.get("prompt_feedback")
    feedback = feedback if isinstance(feedback, Mapping) else {}
    if word := feedback.get("blockReason") or feedback.get("block_reason"):
        return f"the prompt was blocked: {word}"
    hit = sorted({name for name, value in _fields(found) if isinstance(value, Mapping)
                  and value.get("filtered") is True})
    return f"the content filter found {', '.join(hit)}" if hit else ""


def _refuses(status: int, body: object) -> bool:
    """Whether a failed call means that the provider will not answer about this one sample.

    Parameters
    ----------
    status : int
        Of HTTP.
    body : object
        JSON or text of the response.

    Returns
    -------
    bool
        True if a code or the message speaks of its content. False if it speaks of the account or
        of a field of the request, and for statuses of keys, money, addresses and rates.
    """
    if status in _NEVER_OF_A_SAMPLE:
        return False
    words = _message_of(body)
    if _ACCOUNT.search(words):
        return False
    if isinstance(body, Mapping):
        fields = list(_fields(body))
        if _blocked_by(body) or any(name == "flagged_input" for name, _ in fields):
            return True
        if any(name == "metadata" and isinstance(value, Mapping) and value.get("reasons")
               for name, value in fields):
            return True
        codes = [str(value) for name, value in fields if Server.bare(name) in _CODE_FIELDS]
        if any(Server.bare(code) in _REFUSAL_CODES for code in codes):
            return True
    elif _is_page(words):
        return False
    return _REFUSAL.search(words) is not None and not _FAULTY.search(words)


def _message_of(body: object) -> str:
    """What a server says went wrong: the message of its error object, or all it says."""
    while isinstance(body, Mapping):
        inner = next((body[name] for name in ("message", "error", "detail", "msg", "errors")
                      if body.get(name)), None)
        if inner is None:
            return json.dumps(body, default=str)
        body = inner
    if isinstance(body, list):  # of a validator: what is wrong, and where
        places = [item.get("loc") if isinstance(item, Mapping) else None for item in body[:5]]
        return "; ".join(
            f"{'.'.join(map(str, place))}: {_message_of(item)}" if isinstance(place, list)
            else _message_of(item) for item, place in zip(body, places, strict=False))
    return "" if body is None else str(body)


def _is_page(text: str) -> bool:
    """Whether a body is HTML or XML."""
    return text.lstrip("\ufeff \t\r\n").startswith("<")


def _is_stream(text: str) -> bool:
    """Whether a body is an event stream."""
    return re.match(r"\ufeff?\s*(?:data|event|id|retry)?:", text) is not None


def _described(text: str) -> str:
    """Say what kind of text a body is that should be JSON, and how it begins."""
    begins = f"It begins: {flat(text)}"
    if not text.strip():
        return "an empty body where JSON was expected"
    if _is_page(text):
        return ("an HTML page where JSON was expected: check base_url, which mostly ends in /v1. "
                + begins)
    if _is_stream(text):
        return ("an event stream where one JSON object was expected: if the server streams "
                f'unasked, extra={{"stream": false}} may help. {begins}')
    return f"a body that is not JSON ({len(text)} characters). {begins}"


def _wait_of(headers: Mapping[str, str], words: str = "") -> float | None:
    """Seconds that a server asks to wait, or None if it does not say.

    Parameters
    ----------
    headers : mapping
        Of the response, names in small letters: ``retry-after-ms``, ``retry-after`` (seconds or a
        date), then the limits that are used up or, if none says so, the one that is reset first:
        ``x-ratelimit-reset-requests`` and its relatives, as a time span, a date or a time.
    words : str
        The body: "try again in 6m0s", "retry after 20 seconds", ``"retryDelay": "34s"``.
    """
    text = headers.get("retry-after", "").strip()
    ways = (_number(headers.get("retry-after-ms", ""), 0.001), _number(text, 1.0), _span(text),
            _until(text))
    for seconds in ways:
        if seconds is not None:
            return max(seconds, 0.0)
    if found := _SAID.search(words):
        return _span(words[found.end():])
    if found := _FIELD.search(words):
        return float(found[2]) * (0.001 if "ms" in (found[1], found[3]) else 1.0)
    return _reset(headers)


def _reset(headers: Mapping[str, str]) -> float | None:
    """Seconds until a limit is reset: the last that is used up, else the first of all."""
    used: list[float] = []
    others: list[float] = []
    for name, text in headers.items():
        found = _RESET.fullmatch(name.lower())
        if found is None:
            continue
        seconds = _number(text, 1.0)
        if seconds is None:
            seconds = _span(text) or _until(text)
        elif seconds > 1e8:  # a point in time, in seconds or milliseconds
            seconds = (seconds / 1000 if seconds > 1e11 else seconds) - time.time()
        if seconds is None or seconds <= 0:
            continue
        left = headers.get(re.sub(r"reset(?:-after)?", "remaining", name.lower()), "")
        (used if _number(left, 1.0) == 0 else others).append(seconds)
    if used:
        return max(used)
    return min((seconds for seconds in others if seconds <= LONGEST_GUESS_S), default=None)


def _number(text: str, unit: float) -> float | None:
    try:
        number = float(text) * unit
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _span(text: str) -> float | None:
    """Seconds of a time span at the beginning of a text, such as 6m0s or 1.5 seconds."""
    whole = _SPANS.match(text.strip())
    if whole is None:
        return None
    return sum(float(number) * (0.001 if re.match("ms|milli", unit, re.I) else
                                _UNITS[unit[0].lower()])
               for number, unit in _SPAN.findall(whole[0]))


def _until(text: str) -> float | None:
    """Seconds until a date, as HTTP writes it or in ISO format."""
    for read in (parsedate_to_datetime, lambda date: datetime.fromisoformat(str(date))):
        try:
            return read(text.strip()).timestamp() - time.time()
        except (ValueError, TypeError, IndexError, OverflowError):
            continue
    return None


def _fields(value: object, depth: int = 0) -> Iterator[tuple[str, object]]:
    """Every name and value of nested JSON."""
    if depth > 8:
        return
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield str(name), inner
            yield from _fields(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value[:50]:
            yield from _fields(inner, depth + 1)
