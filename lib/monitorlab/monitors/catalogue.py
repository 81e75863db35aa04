"""The 22 monitors of AutoMonitor-Bench (arXiv 2601.05752), and what the paper says about them all.

They are listed in ``data/monitors.toml``, with what is inferred and what was checked.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from math import isfinite
from pathlib import Path
from typing import Any

from monitorlab.monitors.monitor import MonitorError

CATALOGUE = Path(__file__).resolve().parents[3] / "data" / "monitors.toml"
OPEN, API = "open", "api"
_KINDS: dict[str, tuple[type, ...]] = {
    "str": (str,), "bool": (bool,), "float": (int, float), "Mapping[str, Any]": (dict,),
}
_CHOICES = {"access": (OPEN, API), "identifier_from": ("paper name", "inferred")}
UNKNOWN = "unknown"  # revision of an open model of which no commit was seen
_NEEDED = {OPEN: ("revision",), API: ("base_url", "key_variable")}  # settings


@dataclass(frozen=True)
class _Entry:
    """One monitor of the paper.

    Attributes
    ----------
    key : str
        Short name in this project.
    title : str
        Name in the paper.
    access : str
        "open" (weights on the Hugging Face hub) or "api".
    identifier : str
        Repository on the hub, or model of the API.
    identifier_from : str
        "paper name", or "inferred" where the paper leaves the version open.
    verified : bool
        Whether the identifier was seen in the documentation of its publisher.
    provider, license : str
        Who publishes it, and under which terms.
    thinking : bool
        Whether it thinks before it answers when nothing is said about it.
    parameters_b : float
        Billions of parameters, all experts counted; 0 where unknown.
    settings : mapping of str to object
        What `build_monitor` takes by name, such as the address of an API, or a revision, which is
        `UNKNOWN` where no commit was seen.
    note : str
        What to know before use; may be empty.
    """

    key: str
    title: str
    access: str
    identifier: str
    identifier_from: str
    verified: bool
    provider: str
    license: str
    thinking: bool
    parameters_b: float = 0.0
    settings: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class _Published:
    """What the paper says about all monitors together.

    Attributes
    ----------
    correlation : float
        Pearson correlation of MR and FAR.
    slope, intercept : float
        Of the line FAR = slope MR + intercept.
    """

    correlation: float
    slope: float
    intercept: float

    def far(self, mr: float) -> float:
        """FAR on the published line at a miss rate in [0, 1]."""
        return self.slope * mr + self.intercept


def load_catalogue(path: Path | None = None) -> dict[str, _Entry]:
    """Return the monitors by key, in file order.

    Raises
    ------
    MonitorError
        If the file cannot be read, an entry misses a field, has an unknown one or one of another
        type, or two entries have the same identifier; the message names entry and field.
    """
    place = path or CATALOGUE
    listed = _table(_read(place), "monitors", place)
    entries = {key: _entry(key, _table(listed, key, place), place) for key in listed}
    owners: dict[str, str] = {}
    for key, entry in entries.items():
        owner = owners.setdefault(entry.identifier, key)
        if owner != key:
            raise MonitorError(f"{place}: {key}.identifier is {entry.identifier!r}, which {owner} "
                               "has already; expected another one")
    return entries


def published_order(path: Path | None = None) -> _Published:
    """Return the published correlation and line.

    Raises
    ------
    MonitorError
        If something is missing, or no number.
    """
    place = path or CATALOGUE
    found = _table(_read(place), "published", place)
    return _Published(
        correlation=_number(found, "correlation", place),
        slope=_number(found, "slope", place),
        intercept=_number(found, "intercept", place),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            return tomllib.load(stream)
    except OSError as error:
        raise MonitorError(f"cannot read the catalogue {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MonitorError(f"{path} is not TOML in UTF-8: {error}") from None


def _table(found: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    table = found.get(name)
    if not isinstance(table, dict):
        raise MonitorError(f"{path}: expected a table {name!r}, found {table!r}")
    return table


def _number(found: Mapping[str, Any], name: str, path: Path) -> float:
    value = found.get(name)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not isfinite(value):
        raise MonitorError(f"{path}: published.{name} is {value!r}, expected a number")
    return float(value)


def _entry(key: str, values: Mapping[str, Any], path: Path) -> _Entry:
    """Turn a table into an entry, or say which field is wrong."""
    known = {one.name: one for one in fields(_Entry) if one.name != "key"}
    for name, value in values.items():
        if name not in known:
            raise MonitorError(f"{path}: {key}.{name} is unknown; known are {', '.join(known)}")
        kind = _KINDS[str(known[name].type)]
        if (not isinstance(value, kind) or (isinstance(value, bool) and bool not in kind)
                or (isinstance(value, float) and not isfinite(value))):
            raise MonitorError(f"{path}: {key}.{name} is {value!r}, expected {known[name].type}")
        if value not in _CHOICES.get(name, (value,)):
            raise MonitorError(f"{path}: {key}.{name} is {value!r}, expected one of "
                               f"{', '.join(_CHOICES[name])}")
    missing = [n for n, one in known.items() if not _said(values, n)
               and one.default is MISSING and one.default_factory is MISSING]
    if not missing:
        missing = [f"settings.{n}" for n in _NEEDED[values["access"]]
                   if not _said(values.get("settings", {}), n)]
    if missing:
        raise MonitorError(f"{path}: {key}.{missing[0]} is missing; add it")
    return _Entry(key, **values)


def _said(values: Mapping[str, Any], name: str) -> bool:
    return values.get(name, "") != ""
