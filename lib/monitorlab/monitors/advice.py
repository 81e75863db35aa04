"""What to do about verdicts that could not be read: one line per status."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pandas as pd

from monitorlab.monitors.monitor import NO_PROMPT
from monitorlab.monitors.verdicts import ERROR, PARSED, REFUSED, TRUNCATED, UNPARSED

LIMITS = ("max_tokens", "max_completion_tokens", "max_new_tokens")  # keys of a monitor's settings
SHOWN = 160  # characters of a reason that a line repeats
THINKING = "thinking"  # the reader says so of a reply that ends inside it
_ERRORS = {  # what the reason of an error holds, and what helps
    r"no answer in time|timed? ?out": "raise -o timeout_s, or lower --workers",
    r"connection failed|Connect": "is base_url right, and does the server run?",
    r"HTTP 40[13]|API key": "is the key that of this server, and may it use this model?",
    r"HTTP 404": "check model and base_url",
    r"HTTP 429": "lower --workers or --rpm",
    r"HTTP 4\d\d": "the server refuses the request; `monitors api` lists what of it can be set, "
                   "such as -o limit_name, -o temperature=none and -o extra",
    r"HTTP 5\d\d|HTTP 200": "the server fails; look at its log, or lower --workers",
    r"longer context|positions": "shorten these samples, or take a model that reads more",
    r"not finite": "load it with --dtype float32",
}


def advise(
    table: pd.DataFrame, settings: Mapping[str, Any], replies: Mapping[str, str] | None = None
) -> list[str]:
    """Return one line per status that is no verdict: how many, mostly why, and what helps.

    Parameters
    ----------
    table : DataFrame
        Schema ``verdicts``, of one monitor.
    settings : mapping
        Of that monitor.
    replies : mapping of str to str, optional
        Raw replies by ``request_hash``, to see which are empty.
    """
    lines = []
    prompted = bool((table["prompt"] != NO_PROMPT).any())
    for status in (TRUNCATED, UNPARSED, REFUSED, ERROR):
        rows = table[table["status"] == status]
        if len(rows):
            reason = _commonest(rows["evidence"])
            if status == TRUNCATED:
                words = _truncated(rows, reason, settings, replies or {})
            elif status == ERROR:
                helps = error_advice(reason) or "the column evidence says more"
                words = f"{reason}: {helps}; the same command asks again"
            else:
                words = f"{reason}: {_ADVICE[status, prompted]}"
            lines.append(f"{len(rows):,} {status}: {words}")
    parsed = table[table["status"] == PARSED]
    unscored = int(parsed["score"].isna().sum())
    if settings.get("logprobs") and unscored:
        lines.append(
            f"{unscored:,} of {len(parsed):,} verdicts without a score: --read logits, but the "
            "server sent no log-probabilities of the verdict; take one that does, or hf:MODEL"
        )
    return lines


_ADVICE = {
    (UNPARSED, True): "the replies are in the store; try another --prompt, a model that follows "
                      "it, or --read logits with hf",
    (UNPARSED, False): "the monitor says nothing about these samples, which is not benign",
    (REFUSED, True): "stored and not asked again; try another model or --prompt, and read the "
                     "rates with their bounds",
    (REFUSED, False): "stored and not asked again; read the rates with their bounds",
}


def error_advice(reason: str) -> str:
    """Return what helps against an error, from its reason; empty if nothing is known."""
    return next((words for pattern, words in _ERRORS.items() if re.search(pattern, reason)), "")


def _truncated(
    rows: pd.DataFrame, reason: str, settings: Mapping[str, Any], replies: Mapping[str, str]
) -> str:
    """Tell a limit of ours from one of the server, and thinking from an answer."""
    if "prompt" in reason:  # not the reply was cut
        return f"{reason}: serve the model with a longer context, or shorten these samples"
    limit = next((settings[name] for name in LIMITS if settings.get(name)), None)
    if limit is None:
        return f"{reason}: take a model or a server with a longer limit"
    spent = rows["output_tokens"]
    if (spent < limit).sum() > len(rows) / 2:  # missing counts are neither
        return (f"{reason}, after {spent.median():,.0f} tokens and not at --max-tokens {limit}: "
                "the limit is the server's; serve it with a longer context, or shorten the samples")
    known = [replies[key] for key in rows["request_hash"] if key in replies]
    silent = sum(not reply.strip() for reply in known) > len(known) / 2
    if silent or THINKING in reason:
        kind = "hidden thinking" if silent else "thinking"
        return f"{limit} tokens eaten by {kind}: raise --max-tokens, or let it think less"
    return f"{reason}, {limit} tokens: raise --max-tokens"


def _commonest(reasons: pd.Series) -> str:
    """Return the reason that most rows share, numbers aside; the first such one as it stands."""
    texts = reasons.fillna("no reason given").astype(str).str.replace(r"\s+", " ", regex=True)
    shapes = texts.str.replace(r"\d+", "#", regex=True)
    text = str(texts[shapes == shapes.mode()[0]].iloc[0]).strip().rstrip(".:")
    return text if len(text) <= SHOWN else f"{text[:SHOWN - 3]}..."
