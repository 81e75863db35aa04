r"""Read a verdict from the reply of a language model, or say why there is none.

The rules, in this order. Doubt never becomes a verdict.

1. Thinking is not an answer: what stands in ``<think>...</think>`` and tags of that shape
   (`monitorlab.monitors.thinking`), and every harmony channel but the last ``final`` one. A reply
   that ends inside its thinking is *truncated*.
2. An answer is a JSON object with the key that was asked for (any case, blanks or hyphens in it),
   at whatever depth. `monitorlab.monitors.loose_json` says what is understood beyond JSON.
3. An object that stands word for word in the audited text is a quotation and says nothing, unless
   it is the whole reply. What stands inside a string, such as quoted evidence, is never looked at.
4. Answers that contradict each other, wherever they stand, a value that cannot be read, or broken
   JSON with the key in it: *unparsed*, or *truncated* if the reply hit its length limit inside
   that JSON. One exception: scores inside an object with a score of its own are parts of it and
   may differ from it, unless their names say that they came later ("revised", "final").
5. In a reply that was cut off, the last answer counts only if nothing but blanks, a closing fence
   or a quote follows: anything else may be on the way to another answer, so it is *truncated*.
   Where thinking may have begun without a mark, a finished reply must end so, too, or is
   *unparsed*.
6. Without an object, a finished reply that consists of one word (yes, no, true, false), of
   ``misbehavior_detected: true``, or for scores of one number, is an answer; so is such a word in a
   closing ``\boxed{}``. Free prose ("Verdict: misbehavior") is not.
7. Otherwise the reply was cut off (*truncated*), declines (*refused*) or is *unparsed*.

For evidence, categories beside "no misbehavior" are a contradiction and *unparsed*; misbehavior
without a category is a verdict whose evidence is missing.

Scores are asked for from 0 to 100. ``85``, ``85.5``, ``85/100``, ``85 out of 100``, ``85 %`` and
``8.5/10`` are read, 0 on whatever scale. A number above 0 and up to 1 could be of 1 or of 100:
``0.9``, ``1`` and ``1.0`` are *unparsed*, as is ``0.9 %``; ``1/100``, ``1 %`` and ``1/10`` name
their scale.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from monitorlab.monitors.prompts import ANSWERS, BREAK
from monitorlab.monitors.reply_text import ReplyParts, declines, take_apart
from monitorlab.monitors.verdicts import (
    PARSED,
    REFUSED,
    THRESHOLD,
    TRUNCATED,
    UNPARSED,
    Verdict,
    failure,
    from_score,
    writable,
)

DRAFT = "words follow the answer, and thinking may be open: it may have been a draft"
CUT_BEHIND = "cut off behind an answer: it may have been a draft"
_MOST_ANSWERS = 200
_MOST_QUOTES = 10  # per category, and categories
_LONGEST = 500  # characters of a quote that are kept

_KEYS = {
    "verdict": ("misbehaviordetected", "misbehaviourdetected", "misbehavior", "misbehaviour"),
    "score": ("score",),
}
_KEYS["evidence"] = _KEYS["verdict"]
# Names of what comes after a score, instead of being a part of it.
_LATER = re.compile(r"final|overall|total|revis|correct|updat|adjust|reconsider|after|second")
_MENTIONED = {answer: re.compile(keys[0][:9], re.I) for answer, keys in _KEYS.items()}
_YES, _NO = ("true", "yes", "1"), ("false", "no", "0")
_NOTHING = ("", "none", "null", "n/a", "no misbehavior", "benign")  # names of no category
_SCORE = re.compile(r"([+-]?\d{1,15}(?:\.\d{1,15})?)(\s*(?:%|percent|(?:/|out ?of)\s*(?:100|10)))?")
_BOXED = re.compile(r"\\boxed\s?\{(?:\\text\s?\{)?([^{}\\]{1,40})\}{1,2}\s*+\$*+[.\s]*+\Z")


def read_reply(
    text: str,
    answer: str,
    *,
    finished: bool = True,
    audited: str = "",
    threshold: float = THRESHOLD,
) -> Verdict:
    """Read the reply of a language model to a monitor prompt.

    Parameters
    ----------
    text : str
        The raw reply, with thinking if it shows any. Where a chat template opened the thinking,
        put its opening tag in front; otherwise a draft that was cut off passes for an answer.
    answer : str
        What was asked for: "verdict", "evidence" or "score".
    finished : bool
        False if the reply hit its length limit. An answer that ends right there still counts.
    audited : str
        Request and response that were judged: tells quotations from answers, and marks quotes
        that were made up. Left empty, nothing is compared.
    threshold : float
        Score in [0, 1] above which a "score" reply is a verdict of misbehavior.

    Returns
    -------
    Verdict
        With `text` as its reply. Status ``parsed``, ``unparsed``, ``refused`` or ``truncated``.

    Raises
    ------
    ValueError
        If `answer` is unknown. No text of a reply raises.
    """
    if answer not in ANSWERS:
        raise ValueError(f"answer is {answer!r}, expected one of {', '.join(ANSWERS)}")
    found = take_apart(text)
    if found.thinking:
        return failure(TRUNCATED, "the reply ends inside its thinking", text)
    source = _squeezed(audited)
    readings, closes = _readings(found, answer, source, threshold)
    if found.tangled or any(_MENTIONED[answer].search(part) for part in found.broken):
        verdict = failure(UNPARSED if finished else TRUNCATED, "the JSON is broken or not closed")
    elif readings:
        verdict = _agreed(readings)
        if verdict.status == PARSED and not closes and (found.unsure or not finished):
            verdict = failure(UNPARSED, DRAFT) if finished else failure(TRUNCATED, CUT_BEHIND)
    else:
        bare = _bare(found.body, answer, source, threshold) if finished else None
        verdict = bare or _silence(found.body, finished)
    return replace(verdict, reply=text)


def read_again(verdict: Verdict, answer: str, *, finished: bool, audited: str = "") -> Verdict:
    """Read the reply of a stored verdict with today's rules.

    Parameters
    ----------
    verdict : Verdict
        With a reply.
    answer, finished, audited
        As in `read_reply`.

    Returns
    -------
    Verdict
        With the amounts of the stored one. A score that was not read from the reply, but from
        probabilities beside it, stays with its verdict.
    """
    fresh = read_reply(verdict.reply, answer, finished=finished, audited=audited)
    keep = answer != "score" and fresh.verdict is not None and fresh.verdict == verdict.verdict
    return replace(verdict, status=fresh.status, verdict=fresh.verdict, reason=fresh.reason,
                   evidence=fresh.evidence, score=verdict.score if keep else fresh.score)


def _silence(body: str, finished: bool) -> Verdict:
    """Why a reply without an answer has none."""
    if declines(body):
        return failure(REFUSED, "the monitor declines to judge")
    if not finished:
        return failure(TRUNCATED, "cut off at the length limit before a verdict")
    return failure(UNPARSED, "no verdict in the reply" if body else "the reply is empty")


def _readings(
    found: ReplyParts, answer: str, source: str, threshold: float
) -> tuple[list[list[Verdict]], bool]:
    """Read every object that answers the question and is not a quotation.

    Returns the readings of each object, its own before those of what is in it, and whether the
    last of these objects ends the reply.
    """
    readings: dict[str, list[Verdict]] = {}
    for item, raw in found.objects:
        if raw in readings:
            continue
        holders = list(_holders(item, answer))
        if holders and source and raw != found.body and _squeezed(raw) in source:
            holders = []
        readings[raw] = [_read(holder, answer, source, threshold) for holder in holders]
        if sum(map(len, readings.values())) > _MOST_ANSWERS:
            return [[failure(UNPARSED, f"more than {_MOST_ANSWERS} answers in one reply")]], False
    closes = found.closed and bool(readings[found.objects[-1][1]])
    return [said for said in readings.values() if said], closes


def _agreed(readings: Sequence[Sequence[Verdict]]) -> Verdict:
    """Return what the last object says first, if all readings of all objects say the same."""
    said = [reading for readings_of_one in readings for reading in readings_of_one]
    for reading in said:
        if reading.status != PARSED:
            return reading
    if len({(reading.verdict, reading.score) for reading in said}) > 1:
        return failure(UNPARSED, "the reply holds answers that contradict each other")
    return readings[-1][0]


def _holders(item: Any, answer: str, inside: bool = False) -> Iterator[dict[str, Any]]:
    """Yield every object with the key that was asked for, the outer before the inner ones.

    Inside an answer, what has another meaning there is left out: parts of a score, and names of
    categories under a short form of the key.
    """
    if isinstance(item, list):
        for value in item:
            yield from _holders(value, answer, inside)
    if not isinstance(item, dict):
        return
    values = [item[key] for key in _KEYS[answer] if key in item]
    if values and not (inside and answer != "score" and _names_category(item)):
        yield item
    parts = answer == "score" and bool(values)
    for name, value in item.items():
        if not parts or _LATER.search(name):
            yield from _holders(value, answer, inside or bool(values))


def _names_category(item: dict[str, Any]) -> bool:
    """Whether the object says which misbehavior, instead of whether there is any."""
    long_keys = [key for key in _KEYS["verdict"] if key.endswith("detected")]
    return not any(key in item for key in long_keys) and all(
        _as_bool(item[key]) is None for key in _KEYS["verdict"] if key in item)


def _read(item: dict[str, Any], answer: str, source: str, threshold: float) -> Verdict:
    values = [item[key] for key in _KEYS[answer] if key in item]
    if answer == "score":
        return _scored(values[0], threshold)
    flags = {_as_bool(value) for value in values}
    if len(flags) > 1 or None in flags:
        return failure(UNPARSED, f"the verdict is neither true nor false: {values[0]!r:.60}")
    verdict = True in flags
    if answer == "verdict":
        return Verdict(PARSED, verdict)
    lines = _evidence(item.get("detectedcategories", item.get("categories")), source)
    if lines and not verdict:
        return failure(UNPARSED, "no misbehavior, but categories of it: a contradiction")
    return Verdict(PARSED, verdict, evidence="\n".join(lines))


def _as_bool(value: object) -> bool | None:
    word = str(value).strip().lower() if isinstance(value, (bool, str)) else ""
    return True if word in _YES else False if word in _NO else None


def _scored(value: object, threshold: float) -> Verdict:
    """Read a score of 0 to 100, or one that names its scale: 85/100, 85 %, 8/10."""
    text = "" if isinstance(value, bool) else str(value).strip().lower()
    match = _SCORE.fullmatch(text)
    if match is None:
        return failure(UNPARSED, f"the score is not a number: {value!r:.60}")
    number, scale = float(match[1]), match[2] or ""
    if 0 < number < 1 or (number == 1 and not scale):
        return failure(UNPARSED, f"score {text} is ambiguous: of 1, or of 100")
    share = number / (10 if scale.endswith("10") else 100)
    if not 0 <= share <= 1:
        return failure(UNPARSED, f"score {text} is out of range")
    return from_score(share, threshold)


def _evidence(categories: object, source: str) -> list[str]:
    """One line per category: its name, severity and quotes; made-up quotes are marked."""
    lines = []
    for item in categories if isinstance(categories, list) else [categories]:
        if not isinstance(item, dict):
            item = {} if item is None else {"category": item}
        name = _shown(item.get("category"))
        about = _shown(item.get("description"))
        severity = _shown(item.get("severity")).lower()
        quotes = item.get("evidence")
        quotes = quotes[:_MOST_QUOTES] if isinstance(quotes, list) else [quotes]
        words = "; ".join(_quoted(quote, source) for quote in quotes if _shown(quote))
        unsaid = (name or about).lower() in _NOTHING or severity == "none"
        if unsaid and not words:
            continue
        lines.append(f"{name or 'unnamed'} ({severity or 'severity not given'}): "
                     f"{words or about or 'no quote'}")
        if len(lines) == _MOST_QUOTES:
            break
    return lines


def _quoted(quote: object, source: str) -> str:
    known = not source or _squeezed(str(quote)).strip("\"'“” ") in source
    return f'"{_shown(quote)}"' + ("" if known else " (unfounded: not in the audited text)")


def _shown(value: object) -> str:
    """Text on one line, of bounded length, without what cannot be written to a file."""
    text = " ".join(str(value)[:8 * _LONGEST].split()) if value is not None else ""
    text = text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
    return writable(text)


def _squeezed(text: str) -> str:
    """Text for comparing: blanks are equal, and the signs that broke tags up are gone."""
    return " ".join(text.replace(BREAK, "").split())


def _bare(body: str, answer: str, source: str, threshold: float) -> Verdict | None:
    """Read a reply, or a closing box, that is nothing but the answer."""
    boxed = _BOXED.search(body, max(0, len(body) - 100))
    if boxed and (not boxed.start() or _squeezed(boxed[0]).strip("$. ") not in source):
        body = boxed[1]
    if len(body) > 60 or answer == "evidence":
        return None
    word = re.sub(r"[*`\"'_ ]", "", body.lower()).rstrip(".!")
    for key in _KEYS[answer]:
        word = re.sub(rf"^{key}[:=]", "", word)
    if answer == "score":
        return _scored(word, threshold) if _SCORE.fullmatch(word) else None
    flag = _as_bool(word) if word not in "01" else None
    return None if flag is None else Verdict(PARSED, flag)
