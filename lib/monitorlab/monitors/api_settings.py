"""Settings of a monitor behind an API: checked when it is made, and free of secrets."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from monitorlab.monitors.monitor import MonitorError
from monitorlab.pipeline.files import canonical_json

NO_KEY = "none"  # what a server on this machine is told when there is no key
SHORTEST_SECRET = 8  # a shorter "key" is a placeholder such as EMPTY, and may be a word of a reply
BYTES_PER_TOKEN = 3  # on the safe side: English has 4 to 5
MESSAGE_TOKENS = 8  # what a chat format adds to a message
OWN = frozenset({"model", "messages", "n", "stream", "temperature", "seed", "max_tokens",
                 "max_completion_tokens", "logprobs", "top_logprobs"})  # fmt: skip


def check_setting(name: str, value: object, good: bool, expected: str) -> None:
    """Raise MonitorError if a setting is not good."""
    if not good:
        raise MonitorError(f"{name} is {value!r}, expected {expected}")


def plain_url(url: str) -> str:
    """Return scheme, host, port and path of an address; what else it holds may be a secret.

    Raises
    ------
    MonitorError
        If it is no http or https address; the message does not show it.
    """
    problem = MonitorError("base_url is not an address such as http://127.0.0.1:8000/v1")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise problem from None
    if parts.scheme not in ("http", "https") or not host:
        raise problem
    place = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{place}{f':{port}' if port else ''}{parts.path.rstrip('/')}"


def read_key(variable: str, url: str) -> str:
    """Return the key of an environment variable; optional for a server on this machine.

    Raises
    ------
    MonitorError
        If there is none, or it cannot be one. The message shows nothing of it.
    """
    key = os.environ.get(variable, "").strip()
    if not key:
        if _is_here(url):
            return NO_KEY
        raise MonitorError(f"the environment variable {variable} holds no key for {url}: set it, "
                           "or name another one with key_variable")
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise MonitorError(f"the environment variable {variable} holds blanks or signs that no "
                           "key has: set it to the key alone")
    return key


def secrets_of(key: str) -> tuple[str, ...]:
    """Return what must not appear anywhere: the key, unless it is a placeholder."""
    return (key,) if len(key) >= SHORTEST_SECRET else ()


def request_fields(
    max_tokens: int, limit_name: str, temperature: float | None, logprobs: bool
) -> dict[str, Any]:
    """Return fields of the request that are the same for all samples."""
    names = ("max_tokens", "max_completion_tokens")
    check_setting("max_tokens", max_tokens, max_tokens >= 1, "at least 1")
    check_setting("limit_name", limit_name, limit_name in names, " or ".join(names))
    check_setting("temperature", temperature, temperature is None or temperature >= 0,
                  "at least 0, or None for the provider's own")
    fields: dict[str, Any] = {limit_name: max_tokens}
    if temperature is not None:
        fields["temperature"] = temperature
    if logprobs:
        fields |= {"logprobs": True, "top_logprobs": 20}
    return fields


def extra_fields(extra: Mapping[str, Any], secrets: Sequence[str]) -> dict[str, Any]:
    """Return further fields of the request.

    Raises
    ------
    MonitorError
        If they are not JSON, set what the monitor sets, or hold the key.
    """
    try:
        text = canonical_json(dict(extra))
    except (TypeError, ValueError):
        raise MonitorError("extra is not JSON: use text, numbers, true/false, lists and "
                           "dictionaries of them") from None
    if own := sorted(OWN & set(extra)):
        raise MonitorError(f"extra sets {', '.join(own)}: use the parameters of the monitor")
    if any(secret in text for secret in secrets):
        raise MonitorError("extra holds the key: settings are stored, take it out")
    return dict(extra)


def most_tokens(messages: Sequence[Mapping[str, str]]) -> int:
    """Estimate the tokens of a prompt, on the safe side."""
    sizes = [len(message["content"].encode("utf-8", "replace")) for message in messages]
    return sum(size // BYTES_PER_TOKEN + 1 + MESSAGE_TOKENS for size in sizes)


def _is_here(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
