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


@dataclass(frozen=True)
class Catalogue:
    """What ``data/monitors.toml`` says.

    Attributes
    ----------
    monitors : mapping of str to _Entry
        By key, in file order.
    published : _Published
        Correlation and line of the paper.
    """

    monitors: Mapping[str, _Entry]
    published: _Published

    @classmethod
    def load(cls) -> Catalogue:
        """Read the file."""
        found = tomllib.loads(CATALOGUE.read_text(encoding="utf-8"))
        entries = {key: _Entry(key, **values) for key, values in found["monitors"].items()}
        return cls(entries, _Published(**found["published"]))
