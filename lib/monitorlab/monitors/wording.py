"""Words by which replies and answers of servers are understood, kept in ``data/wording.toml``."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

FILE = Path(__file__).resolve().parents[3] / "data" / "wording.toml"
WORDING: dict[str, dict[str, Any]] = tomllib.loads(FILE.read_text(encoding="utf-8"))


def pattern(table: str, name: str, flags: re.RegexFlag = re.NOFLAG) -> re.Pattern[str]:
    """Compile the alternatives of a list, with the named parts that they hold in angle brackets."""
    joined = "|".join(WORDING[table][name])
    return re.compile(re.sub(r"<([A-Z]+)>", lambda part: WORDING["parts"][part[1]], joined), flags)
