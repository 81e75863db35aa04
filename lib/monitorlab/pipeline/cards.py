"""The cards of the index page: title, claim, state, headline number and thumbnail of a notebook."""

from __future__ import annotations

import base64
import datetime
import io
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from monitorlab.pipeline import cells
from monitorlab.pipeline.records import State

THUMBNAIL_WIDTH = 720  # pixels; shown at half of that
_STATUS_WORDS = {
    "complete": "complete", "failed": "failed", "interrupted": "interrupted",
    "running": "running", "stale": "out of date", "missing": "not run", "broken": "unreadable",
}


@dataclass(frozen=True)
class Card:
    """One notebook on the index page, and the head of its own page.

    Attributes
    ----------
    stem, number : str
        "06_step_signals", "06".
    title, claim : Markup
        Filtered HTML of one line each; `plain_title` is the title in plain words.
    status, status_word, reason : str
        As in `State`; the word is for readers.
    headline : mapping
        "value" and "caption", or empty.
    thumbnail, thumbnail_alt : str
        Data address of a picture and its description, or empty.
    seconds : str
        Time of the last execution, formatted.
    href : str
        Name of the page, empty if nothing was executed.
    """

    stem: str
    number: str
    title: Markup
    plain_title: str
    claim: Markup
    status: str
    status_word: str
    reason: str
    headline: Mapping[str, str]
    thumbnail: str
    thumbnail_alt: str
    seconds: str
    href: str


def make_card(state: State, runs: Path, run_id: str, document: Any = None) -> Card:
    """Collect what the index shows of one notebook of a run.

    Parameters
    ----------
    state : State
        Of that notebook.
    runs : Path
        Folder of all runs.
    run_id : str
        Which run.
    document : NotebookNode, optional
        Its executed copy; without one the card links to no page.
    """
    notebook, record = state.notebook, state.record
    thumbnail, alt = _thumbnail(runs / run_id / notebook.stem, document)
    return Card(
        stem=notebook.stem,
        number=f"{notebook.number:02d}",
        title=Markup(cells.inline_html(notebook.title)),
        plain_title=cells.plain_text(notebook.title),
        claim=Markup(cells.inline_html(notebook.claim)),
        status=state.status,
        status_word=_STATUS_WORDS[state.status],
        reason=_where(state) + state.reason,
        headline=state.headline,
        thumbnail=thumbnail,
        thumbnail_alt=alt,
        seconds=duration(record.seconds) if record and record.seconds else "",
        href=f"{notebook.stem}.html" if document is not None else "",
    )


def _where(state: State) -> str:
    failure = state.record.failure if state.record else None
    return f"cell [{failure.cell}] `{failure.line}`: " if failure and failure.cell else ""


def _thumbnail(folder: Path, document: Any) -> tuple[str, str]:
    """Return a small picture as a data address with its alt text, or two empty texts.

    The notebook's list of figures says which one stands for it; without a list that can be read
    the first image among its outputs does.
    """
    unreadable = (OSError, ValueError, LookupError, TypeError, AttributeError, SyntaxError)
    with suppress(*unreadable):  # the last is how Pillow reports a broken PNG
        figures = json.loads((folder / "figures" / "figures.json").read_text(encoding="utf-8"))
        chosen = next((f for f in figures if f.get("thumbnail")), figures[0])
        picture = (folder / "figures" / f"{Path(str(chosen['name'])).name}.png").read_bytes()
        return _shrunk(picture), str(chosen.get("alt", ""))
    with suppress(*unreadable):
        return _first_image(document)
    return "", ""


def _first_image(document: Any) -> tuple[str, str]:
    for cell in document.cells if document is not None else ():
        for output in cell.get("outputs", []):
            data = output.get("data", {}).get("image/png")
            if data:
                details = output.get("metadata", {}).get("image/png", {})
                picture = base64.b64decode("".join(data))
                return _shrunk(picture), str(details.get("alt", ""))
    return "", ""


def _shrunk(picture: bytes) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    with Image.open(io.BytesIO(picture)) as image:
        small = image.convert("RGB")
        small.thumbnail((THUMBNAIL_WIDTH, THUMBNAIL_WIDTH))
        small.quantize(128).save(buffer, "PNG", optimize=True)  # figures have few colours
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def run_facts(run_id: str, states: Sequence[State]) -> dict[str, str]:
    """Return what the header of every page says about the run, by name; unknown facts are left out.

    Notebooks of one run may differ in profile or seed; then all values are named.
    """
    records = [state.record for state in states if state.record]

    def all_of(values: list[str]) -> str:
        return ", ".join(dict.fromkeys(value for value in values if value))

    finished = max((r.finished for r in records if r.finished), default="")
    facts = {
        "run": run_id,
        "profile": all_of([r.profile for r in records]),
        "seed": all_of([str(r.parameters["SEED"]) for r in records if "SEED" in r.parameters]),
        "commit": all_of([r.commit for r in records]),
        "date": _date(finished),
        "time": duration(sum(r.seconds for r in records)),
    }
    return {name: value for name, value in facts.items() if value}


def _date(moment: str) -> str:
    if not moment:
        return ""
    return datetime.datetime.fromisoformat(moment).strftime("%-d %B %Y, %H:%M UTC")


def duration(seconds: float) -> str:
    """Return a time in words, with no more digits than matter."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{int(seconds + 0.5) // 60} min {int(seconds + 0.5) % 60:02d} s"
