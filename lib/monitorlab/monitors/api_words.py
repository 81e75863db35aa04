"""What servers mean by their words: how replies end, why calls are refused, how long to wait.

Every provider has words of its own, and layers between translate only some of them. What is not
known here is not guessed: an ending that is on no list does not count as finished.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

from monitorlab.grids import flat

# How reasons begin that are the server's decision: the reply behind them is not read again.
KEPT_BACK = "the provider withheld the answer"
CUT_PROMPT = "the server cut the prompt"

FINISHED, CUT, WITHHELD, BROKEN, UNKNOWN = "finished", "cut", "withheld", "broken", "unknown"
_ENDINGS = {
    FINISHED: "stop end_turn eos eos_token eos_found stop_sequence stop_string stop_string_found "
              "stop_word stop_criteria_met end_of_text end_of_turn endoftext complete completed "
              "finish normal tool_call tool_calls tool_use function_call",
    CUT: "length max_tokens max_length max_output max_output_tokens max_completion_tokens "
         "max_new_tokens maximum_tokens max_predicted_tokens_reached model_length token_limit "
         "error_limit context context_full context_length context_length_reached "
         "context_length_exceeded context_window_exceeded model_context_window_exceeded",
    WITHHELD: "content_filter content_filtered content_filtering content_blocked "
              "content_moderation content_policy_violation safety image_safety prohibited_content "
              "image_prohibited_content blocklist spii recitation image_recitation language "
              "refusal refused guardrail guardrail_intervened guardrail_blocked error_toxic "
              "sensitive moderation model_armor jailbreak policy_violation blocked",
    BROKEN: "error network_error server_error insufficient_system_resource abort aborted cancel "
            "cancelled canceled user_cancel user_stopped load unload model_unloaded failed",
}  # fmt: skip
_KIND_OF = {word: kind for kind, words in _ENDINGS.items() for word in words.split()}

# Codes of a refusal, in small letters without signs between; they stand in many fields.
_CODES = """
    contentfilter contentfiltered contentfiltererror responsibleaipolicyviolation
    contentpolicyviolation contentpolicyviolationerror contentpolicy contentmoderation
    contentblocked contentviolation moderationblocked moderationerror moderation invalidprompt
    promptblocked datainspectionfailed sensitivecontentdetected inputtextsensitivecontentdetected
    outputtextsensitivecontentdetected safety safetyviolation safetyviolations safetyblock
    usagepolicyviolation guardrailintervened guardrailviolation prohibitedcontent blocklist
    cyberpolicy cyberpolicyviolation
"""
_REFUSAL_CODES = frozenset(_CODES.split())
_CODE_FIELDS = frozenset({"code", "type", "status", "reason", "errorcode", "errortype"})
_RULES = r"(?:polic(?:y|ies)|guidelines?|terms|rules|standards|practices)"
_WHOSE = r"(?:usage|use|content|safety|acceptable|community|moderation|service|our|responsible)"
_BAD = r"(?:inappropriate|prohibited|sensitive|unsafe|harmful|disallowed|high[- ]risk)"
_REFUSAL = re.compile(
    rf"violat\w*\W.{{0,40}}\b{_WHOSE}\b.{{0,25}}\b{_RULES}\b|"
    rf"\b(?:content|prompt|inputs?|text|messages?)\b.{{0,40}}\bviolat\w*\W.{{0,40}}\b{_RULES}\b|"
    rf"\b{_WHOSE} {_RULES} violation|"
    r"\b(?:flagged|blocked|rejected|refused|filtered)\b.{0,80}\b(?:safety|moderat|guardrail|"
    rf"content (?:filter|polic|moderat|safety|management)|usage polic|{_BAD})|"
    r"\b(?:content|prompt|inputs?|output|text|messages?)\b.{0,30}\b(?:flagged|blocked|filtered)\b|"
    r"guardrails? (?:\w+ )?(?:intervened|blocked|triggered|violat)|requires? moderation|"
    r"moderation block|content (?:management|filter(?:ing)?|moderation|safety) polic|"
    r"safety_check_type|content_?policy_?violation|content exists risk|"
    r"considered high risk|responsible ai polic|"
    rf"\b{_BAD} (?:\w+ or \w+ )?(?:content|words?|material|text)\b|"
    r"不安全|敏感内容|违规|内容审核|内容安全",
    re.I | re.S,
)
# The account, the network or a rule about either is meant, not the sample.
_WHO = (r"(?:account|organi[sz]ation|api[ _-]?key|access|subscription|resource|project|workspace|"
        r"ip|ip address|region|country|network)")
_GONE = r"(?:deactivated|terminated|suspended|banned|disabled|revoked|restricted|blocked|denied)"
_ACCOUNT = re.compile(
    rf"\b{_WHO}\b[^.:;]{{0,40}}\b{_GONE}\b|\b{_GONE}\b[^.:;]{{0,20}}\b{_WHO}\b|"
    r"\borgani[sz]ation(?:'s|al)? polic|\borg polic|\bvpc\b|\bconstraint", re.I | re.S
)
_FAULTY = re.compile(  # a field of the request is wrong, whatever it is called
    r"(?:unknown|unsupported|unrecogni[sz]ed|unexpected|missing|extra|invalid) (?:\w+ ){0,2}?"
    r"(?:parameter|field|argument|property|identifier)|extra inputs", re.I | re.S
)
_NEVER_OF_A_SAMPLE = frozenset({401, 402, 404, 405, 408, 425, 429})

_NO_SYSTEM = re.compile(
    r"system['\"`]? ?(?:role|message|prompt|instruction)s?\b.{0,40}(?:\bnot\b|n't|\bun)[ -]?"
    r"(?:supported|allowed|enabled|permitted|accepted|available|valid)|"
    r"(?:not|n't) (?:support|accept|allow|have)\b.{0,40}\bsystem\b|"
    r"(?:unexpected|unsupported|unknown|invalid|unrecogni[sz]ed|illegal)\b.{0,30}\brole\b.{0,30}"
    r"\bsystem\b|\brole\b.{0,20}\bsystem\b.{0,30}(?:\bnot\b|n't|\bun|\bin)[ -]?"
    r"(?:supported|allowed|permitted|accepted|valid)|"
    r"\bonly\b.{0,60}\broles?\b|roles? must alternate|must alternate between|"
    r"developer instruction is not enabled|\brole\b.{0,20}(?:input should|must) be\b",
    re.I | re.S,
)
_ROLE_STATUSES = frozenset({400, 422, 424, 500, 501})

_TOO_LONG = re.compile(r"context|prompt is too long|reduce the length", re.I)
_NOT_SO = re.compile(
    r"support|not allowed|not permitted|unknown|unrecogni[sz]ed|unexpected|extra|invalid|"
    r"deprecated|too large|too high|at most|less than|maximum|exceed|must be", re.I | re.S
)
_SPAN = (r"(\d+(?:\.\d+)?)\s*"
         r"(ms|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hours?|d|days?)(?![a-z])")
_SPANS = re.compile(rf"(?:{_SPAN}[\s,]*)+", re.I)
_SAID = re.compile(
    rf"\b(?:try again|retry|retrying|wait|available|resets?)\b[^\d]{{0,30}}?(?=(?:{_SPAN}))", re.I
)
_FIELD = re.compile(
    r"['\"]retry[_-]?(?:after|delay)[_-]?(ms|s|secs?|seconds?)?['\"]\s*:\s*['\"]?"
    r"(\d+(?:\.\d+)?)\s*(ms|s)?\b", re.I
)
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_RESET = re.compile(r"(?:x-|anthropic-)?rate-?limit-(?:reset(?:-.+)?|.+-reset)")
LONGEST_GUESS_S = 600.0  # a longer wait counts only if the server says that it is this one


def kind_of(ending: str) -> str:
    """Say what the word with which a reply ended means.

    Parameters
    ----------
    ending : str
        As the server spells it: ``stop``, ``MAX_TOKENS``, ``FinishReason.SAFETY``, ``endTurn``.

    Returns
    -------
    str
        `FINISHED`, `CUT` (a limit of tokens), `WITHHELD` (by the provider), `BROKEN` (the server
        broke off, and asking again may help) or `UNKNOWN`.
    """
    word = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", ending.strip().rpartition(".")[2])
    word = re.sub(r"\W+|_+", "_", word.lower()).strip("_")
    return _KIND_OF.get(re.sub(r"^(?:finish|stop)_reason_", "", word), UNKNOWN)


def blocked_by(found: Mapping[str, Any]) -> str:
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


def refuses(status: int, body: object) -> bool:
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
    words = message_of(body)
    if _ACCOUNT.search(words):
        return False
    if isinstance(body, Mapping):
        fields = list(_fields(body))
        if blocked_by(body) or any(name == "flagged_input" for name, _ in fields):
            return True
        if any(name == "metadata" and isinstance(value, Mapping) and value.get("reasons")
               for name, value in fields):
            return True
        codes = [str(value) for name, value in fields if _bare(name) in _CODE_FIELDS]
        if any(_bare(code) in _REFUSAL_CODES for code in codes):
            return True
    elif is_page(words):
        return False
    return _REFUSAL.search(words) is not None and not _FAULTY.search(words)


def rejects_system(status: int | None, words: str) -> bool:
    """Whether a server says that it takes no message with the role ``system``."""
    return status in _ROLE_STATUSES and _NO_SYSTEM.search(words) is not None


def rejected_field(status: int | None, words: str, fields: Mapping[str, Any]) -> str:
    """Return which of the fields that were sent a server does not take as it is, or an empty text.

    A prompt that is too long is no such case, although its message may name ``max_tokens``.
    """
    if status not in (400, 422) or _TOO_LONG.search(words) or not _NOT_SO.search(words):
        return ""
    for name in sorted(fields, key=len, reverse=True):
        plain = "_" in name or name in ("temperature", "seed", "logprobs")  # no word for much else
        before = r"(?<!\w)" if plain else r"['\"`.]"
        if re.search(rf"{before}{re.escape(name)}(?!\w)", words):
            return name
    return ""


def message_of(body: object) -> str:
    """What a server says went wrong: the message of its error object, or all it says."""
    while isinstance(body, Mapping):
        inner = next((body[name] for name in ("message", "error", "detail", "msg", "errors")
                      if body.get(name)), None)
        if inner is None:
            return json.dumps(body, default=str)
        body = inner
    if isinstance(body, list):  # of a validator: what is wrong, and where
        return "; ".join(
            ".".join(map(str, item.get("loc") or [])) + f": {message_of(item)}"
            if isinstance(item, Mapping) and isinstance(item.get("loc"), list) else message_of(item)
            for item in body[:5]
        )
    return "" if body is None else str(body)


def is_page(text: str) -> bool:
    """Whether a body is HTML or XML."""
    return text.lstrip("\ufeff \t\r\n").startswith("<")


def is_stream(text: str) -> bool:
    """Whether a body is an event stream."""
    return re.match(r"\ufeff?\s*(?:data|event|id|retry)?:", text) is not None


def described(text: str) -> str:
    """Say what kind of text a body is that should be JSON, and how it begins."""
    begins = f"It begins: {flat(text)}"
    if not text.strip():
        return "an empty body where JSON was expected"
    if is_page(text):
        return ("an HTML page where JSON was expected: check base_url, which mostly ends in /v1. "
                + begins)
    if is_stream(text):
        return ("an event stream where one JSON object was expected: if the server streams "
                f'unasked, extra={{"stream": false}} may help. {begins}')
    return f"a body that is not JSON ({len(text)} characters). {begins}"


def wait_of(headers: Mapping[str, str], words: str = "") -> float | None:
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
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = headers.get(name, "").strip()
        seconds = _number(text, unit)
        if seconds is None and unit == 1.0 and text:
            seconds = _span(text) if _span(text) is not None else _until(text)
        if seconds is not None:
            return max(seconds, 0.0)
    if (said := _said(words)) is not None:
        return said
    return _reset(headers)


def _said(words: str) -> float | None:
    """Seconds that a message names."""
    if found := _SAID.search(words):
        return _span(words[found.end():])
    if found := _FIELD.search(words):
        return float(found[2]) * (0.001 if "ms" in (found[1], found[3]) else 1.0)
    return None


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
    return sum(
        float(number) * (0.001 if re.match("ms|milli", unit, re.I) else _UNITS[unit[0].lower()])
        for number, unit in re.findall(_SPAN, whole[0], re.I)
    )


def _until(text: str) -> float | None:
    """Seconds until a date, as HTTP writes it or in ISO format."""
    for read in (parsedate_to_datetime, lambda date: datetime.fromisoformat(str(date))):
        try:
            return read(text.strip()).timestamp() - time.time()
        except (ValueError, TypeError, IndexError, OverflowError):
            continue
    return None


def _bare(text: str) -> str:
    return re.sub(r"[\W_]+", "", text.lower())


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
