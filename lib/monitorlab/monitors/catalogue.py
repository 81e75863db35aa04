"""The 22 monitors of AutoMonitor-Bench (arXiv 2601.05752), and what the paper says about them all.

They are listed in ``data/monitors.toml``, with what is inferred and what was checked.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from monitorlab.storage.files import PROJECT

CATALOGUE = PROJECT / "data" / "monitors.toml"
OPEN, API = "open", "api"
UNKNOWN = "unknown"  # revision of an open model of which no commit was seen


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


def load_catalogue() -> dict[str, _Entry]:
    """Return the monitors by key, in file order."""
    return {key: _Entry(key, **values) for key, values in _read()["monitors"].items()}


def published_order() -> _Published:
    """Return the published correlation and line."""
    found = _read()["published"]
    return _Published(found["correlation"], found["slope"], found["intercept"])


def _read() -> dict[str, Any]:
    return tomllib.loads(CATALOGUE.read_text(encoding="utf-8"))
