"""The server behind an API: its address, its key, and what keeps that secret."""

from __future__ import annotations

import ipaddress
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from monitorlab.display.tables import flat
from monitorlab.monitors.monitor import MonitorError
from monitorlab.monitors.verdicts import WORDING, pattern
from monitorlab.storage.files import canonical_json

NO_KEY = "none"  # what a server on this machine is told when there is no key
SHORTEST_SECRET = 8  # a shorter "key" is a placeholder such as EMPTY, and may be a word of a reply
SHOWN = 300  # characters of a server's message that are quoted
_WORDS = WORDING["servers"]
_PLAIN = re.compile(r"[A-Za-z0-9._-]{1,40}")
_SECRET_NAME = pattern("servers", "secret_name")
_SECRET = pattern("servers", "secret", re.I)
_BEARER = re.compile(r"(?i)\bbearer\s+[^\s\"',;}]+")


@dataclass(frozen=True)
class Server:
    """Where calls go, and what must not be seen.

    Attributes
    ----------
    address : str
        Scheme, host, port and path.
    query : mapping of str to str
        What of the given address goes behind its question mark: fields with a plain value.
    dropped : sequence of str
        Names of what else the address said, which may be secret.
    key : str
        For the client alone.
    secrets : tuple of str
        What must not appear anywhere: the key, unless it is a placeholder.
    """

    address: str
    query: Mapping[str, str]
    dropped: Sequence[str]
    key: str
    secrets: tuple[str, ...]

    @classmethod
    def find(cls, url: str, key_variable: str) -> Server:
        """Read an address and its key, and keep the key out of what the client's libraries log.

        Parameters
        ----------
        url : str
            Of http or https.
        key_variable : str
            Environment variable with the key; optional for a server on this machine.

        Raises
        ------
        MonitorError
            If the address is none, or there is no key, or it cannot be one. The message shows
            nothing of either.
        """
        address = _plain_url(url)
        key = _read_key(key_variable, address)
        secrets = (key,) if len(key) >= SHORTEST_SECRET else ()
        _DISCREET.secrets.update(secrets)
        for name in ("openai._base_client", *_LOGGERS):
            logging.getLogger(name).addFilter(_DISCREET)
        return cls(address, *_plain_query(url, secrets), key, secrets)

    @property
    def shown(self) -> str:
        """The address with the fields behind its question mark."""
        return f"{self.address}?{urlencode(sorted(self.query.items()))}" if self.query else (
            self.address)

    def without_key(self, text: str) -> str:
        """Return text without the secrets."""
        return _without(text, self.secrets)

    def quoted(self, text: str) -> str:
        """Return the beginning of what a server says on one line, without key and bearer tokens."""
        line = flat(_BEARER.sub("Bearer [key]", self.without_key(text)))
        return line if len(line) <= SHOWN else line[:SHOWN - 3] + "..."

    @staticmethod
    def bare(name: str) -> str:
        """Return the letters and digits of a name, in small letters."""
        return re.sub(r"[\W_]+", "", name.lower())

    def extra_fields(self, extra: Mapping[str, Any]) -> dict[str, Any]:
        """Return further fields of the request.

        Raises
        ------
        MonitorError
            If they are not JSON, set what the monitor sets, or hold a key.
        """
        try:
            text = canonical_json(dict(extra))
        except (TypeError, ValueError):
            raise MonitorError("extra is not JSON: use text, numbers, true/false, lists and "
                               "dictionaries of them") from None
        own = sorted(set(_WORDS["own_fields"]) & set(extra))
        if own and not (own == ["stream"] and extra["stream"] is False):
            raise MonitorError(f"extra sets {', '.join(own)}: use the parameters of the monitor")
        if self.without_key(text) != text:
            raise MonitorError("extra holds the key: settings are stored, take it out")
        for name, value in _texts(extra):
            if _SECRET_NAME.fullmatch(self.bare(name)) or _SECRET.search(value):
                raise MonitorError(f"extra holds what looks like a key, in {name:.40}: settings "
                                   "are stored, so put it into the environment and name "
                                   "key_variable")
        return dict(extra)


def _plain_url(url: str) -> str:
    """Return scheme, host, port and path of an address; what else it holds may be a secret.

    Raises
    ------
    MonitorError
        If it is no http or https address; the message does not show it.
    """
    problem = MonitorError("base_url is not an address such as http://127.0.0.1:8000/v1")
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname, parts.port
    except ValueError:
        raise problem from None
    if parts.scheme not in ("http", "https") or not host:
        raise problem
    place = f"[{host}]" if ":" in host else host
    path = parts.path.rstrip("/").removesuffix("/chat/completions").rstrip("/")
    return f"{parts.scheme}://{place}{f':{port}' if port else ''}{path}"


def _plain_query(url: str, secrets: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return what an address says behind its question mark, and the names of what may be secret.

    Parameters
    ----------
    url : str
        One that `_plain_url` takes.
    secrets : sequence of str
        Never part of what is returned.

    Returns
    -------
    kept : dict
        Fields such as ``api-version`` with a plain value.
    dropped : list of str
        What else there is: names of fields, "user name" and "password".
    """
    parts = urlsplit(url.strip())
    kept, dropped = {}, []
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        plain = _PLAIN.fullmatch(value) and not any(secret in value for secret in secrets)
        if plain and Server.bare(name) in _WORDS["query"]:
            kept[name] = value
        else:
            told = _PLAIN.fullmatch(name) and not any(secret in name for secret in secrets)
            dropped.append(name if told else "a field")
    dropped += [what for what, there in (("user name", parts.username),
                                         ("password", parts.password)) if there]
    return kept, dropped


def _read_key(variable: str, url: str) -> str:
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


def _without(text: str, secrets: Iterable[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "[key]")
    return text


class _Discreet(logging.Filter):
    """Takes keys out of what the libraries of the client log: a server may send one back."""

    def __init__(self) -> None:
        super().__init__()
        self.secrets: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass, without the keys."""
        text = record.getMessage()
        plain = _without(text, self.secrets)
        if plain != text:
            record.msg, record.args = plain, ()
        return True


_DISCREET = _Discreet()
_LOGGERS = tuple(f"{name}{part}" for name in ("httpx", "httpcore") for version in ("", "2")
                 for part in (version, f"{version}.http11", f"{version}.http2",
                              f"{version}.connection", f"{version}.proxy"))  # fmt: skip


def _is_here(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _texts(value: object, name: str = "") -> Iterator[tuple[str, str]]:
    """Every text in nested JSON, with the name it stands under."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(inner, str(key))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner, name)
