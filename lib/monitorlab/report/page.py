"""Executed notebooks to a folder of HTML pages that open from a disk, offline.

`reports/<run_id>/index.html` shows what a run found and one card per notebook; each notebook has a
page of its own, and beside them stand those of `monitorlab.report.site`. A page is one file: styles
and figures are inside, mathematics is MathML. Two pages hold one script each, which changes what is
shown of the page itself; the policy of a page names its hash, and any other script stays dead.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import io
import itertools
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from monitorlab.pipeline import records
from monitorlab.pipeline.notebooks import Notebook
from monitorlab.pipeline.records import State
from monitorlab.pipeline.runs import RunIdError, RunLock
from monitorlab.report.cells import CONTENT_SECURITY_POLICY, Renderer
from monitorlab.storage.files import quick_jsonschema, write_text_atomic
from monitorlab.storage.manifests import ArtifactError
from monitorlab.storage.sources import project_root

_TEMPLATES = project_root() / "reports" / "template"
THUMBNAIL_WIDTH = 720  # pixels; shown at half of that
_STATUS_WORDS = {"stale": "out of date", "missing": "not run", "broken": "unreadable"}


def _make_card(state: State, runs: Path, run_id: str, document: Any) -> dict[str, Any]:
    """Collect what the index and the head of its own page show of one notebook of a run.

    Parameters
    ----------
    state : State
        Of that notebook.
    runs : Path
        Folder of all runs.
    run_id : str
        Which run.
    document : NotebookNode or None
        Its executed copy; without one the card links to no page.

    Returns
    -------
    dict
        ``stem``, ``number``; ``title``, ``claim`` (filtered HTML of one line each),
        ``plain_title``; ``status``, ``status_word`` (for readers), ``reason`` and ``headline`` as
        in `State`; ``thumbnail`` (data address) and ``thumbnail_alt``, ``seconds`` of the last
        execution and ``href`` of the page: texts, empty where there is none.
    """
    notebook, record = state.notebook, state.record
    thumbnail, alt = _thumbnail(runs / run_id / notebook.stem, document)
    failure = record.failure if record else None
    where = f"cell [{failure.cell}] `{failure.line}`: " if failure and failure.cell else ""
    return {"stem": notebook.stem, "number": f"{notebook.number:02d}",
            "title": Markup(Renderer.inline_html(notebook.title)),
            "plain_title": Renderer.plain_text(notebook.title),
            "claim": Markup(Renderer.inline_html(notebook.claim)), "status": state.status,
            "status_word": _STATUS_WORDS.get(state.status, state.status),
            "reason": where + state.reason, "headline": state.headline, "thumbnail": thumbnail,
            "thumbnail_alt": alt,
            "seconds": _duration(record.seconds) if record and record.seconds else "",
            "href": f"{notebook.stem}.html" if document is not None else ""}


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


def _run_facts(run_id: str, states: Sequence[State]) -> dict[str, str]:
    """Return what the header of every page says about the run, by name; unknown facts are left out.

    Notebooks of one run may differ in profile or seed; then all values are named.
    """
    known = [state.record for state in states if state.record]

    def all_of(values: list[str]) -> str:
        return ", ".join(dict.fromkeys(value for value in values if value))

    finished = max((r.finished for r in known if r.finished), default="")
    facts = {
        "run": run_id, "profile": all_of([r.profile for r in known]),
        "seed": all_of([str(r.parameters["SEED"]) for r in known if "SEED" in r.parameters]),
        "commit": all_of([r.commit for r in known]),
        "date": finished and f"{datetime.datetime.fromisoformat(finished):%-d %B %Y, %H:%M UTC}",
        "time": _duration(sum(r.seconds for r in known))}
    return {name: value for name, value in facts.items() if value}


def _duration(seconds: float) -> str:
    """Return a time in words, with no more digits than matter."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{int(seconds + 0.5) // 60} min {int(seconds + 0.5) % 60:02d} s"


_ERROR_TAG = "papermill-error-cell-tag"  # a banner that papermill adds; ours says more
_IMPORT = re.compile(r"(import|from)\s")


@dataclass(frozen=True)
class _RenderedReport:
    """What was written.

    Attributes
    ----------
    index : Path
        The page to open.
    pages : list of Path
        One per executed notebook.
    problems : list of str
        Formulas that are shown as TeX source, with notebook and reason.
    broken : list of str
        Notebooks of which something cannot be read, with the reason; the others are rendered.
    beside : list of Path
        The pages beside the notebooks.
    """

    index: Path
    pages: list[Path]
    problems: list[str]
    broken: list[str]
    beside: list[Path]


def render_report(run_id: str, notebooks: Sequence[Notebook], runs: Path, reports: Path
                  ) -> _RenderedReport:
    """Render every executed notebook of a run, the pages beside them, and the index.

    What a killed runner left is picked up first, unless another one works there. A record, a
    source or an executed copy that cannot be read costs its own page and no other.

    Parameters
    ----------
    run_id : str
        Which run.
    notebooks : sequence of Notebook
        All notebooks of the project, in order, as `Notebook.discover` returns them; those without
        an execution get a card only.
    runs, reports : Path
        Folder of all runs; folder of all reports.

    Raises
    ------
    RunIdError
        If there is no such run.
    """
    from monitorlab.report.site import survey_site  # statistics, which the runner never needs

    if run_id not in records.list_runs(runs):
        known = ", ".join(records.list_runs(runs)) or "none yet"
        raise RunIdError(f"no run {run_id!r} to render. Runs: {known}. "
                         f"Make it with: python -m monitorlab run --run-id {run_id}")
    with suppress(ArtifactError, OSError), RunLock(runs / run_id).hold():
        records.RunRecord.pick_up(runs, run_id)
    documents: dict[str, Any] = {}
    states = [_read_copy(state, runs, run_id, documents)
              for state in records.State.of_run(runs, run_id, notebooks)]
    cards = [_make_card(state, runs, run_id, documents.get(state.notebook.stem))
             for state in states]
    facts = _run_facts(run_id, states)
    readable = [card for card in cards if card["href"]]
    whole = {state.notebook.stem: state.record.parameters for state in states
             if state.record and state.status in ("complete", "stale")
             and state.notebook.stem in documents}
    site = survey_site(runs / run_id, [state.notebook for state in states], whole)
    environment = _environment()
    environment.globals["navigation"] = [(page.href, page.title) for page in site.pages]

    def write(href: str, template: str, **values: Any) -> Path:
        path = reports / run_id / href
        values = {"facts": facts, "current": href} | values
        write_text_atomic(path, environment.get_template(template).render(**values))
        return path

    pages, problems = [], []
    for position, card in enumerate(readable):
        renderer = Renderer()
        page = _page(documents[card["stem"]], renderer)
        previous, _, following = [None, *readable, None][position : position + 3]
        pages.append(write(card["href"], "notebook.html.j2", **page, card=card, previous=previous,
                           following=following, facts=facts | {"time": card["seconds"]}))
        problems += [f"{card['stem']}: {problem}" for problem in renderer.problems]
    beside = [write(page.href, page.template, **page.values, **_script(page.script))
              for page in site.pages]
    index = write("index.html", "index.html.j2", cards=cards, findings=site.findings,
                  lacking=site.lacking)
    broken = [f"{card['stem']}: {card['reason']}" for card in cards if card["status"] == "broken"]
    return _RenderedReport(index, pages, problems, broken, beside)


def _script(name: str) -> dict[str, str]:
    """Return the script of a page and the policy that allows it alone, by its hash."""
    if not name:
        return {}
    text = (_TEMPLATES / name).read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
    return {"script": Markup(text),
            "policy": f"{CONTENT_SECURITY_POLICY}; script-src 'sha256-{digest}'"}


def _read_copy(state: State, runs: Path, run_id: str, documents: dict[str, Any]) -> State:
    """Put the executed copy into `documents`; return the state, "broken" if it cannot be read."""
    quick_jsonschema()
    import nbformat

    path = records.RunRecord.copy_path(runs, run_id, state.notebook.stem)
    if state.record is None or not path.exists():
        return state
    try:
        document = nbformat.read(path, as_version=4)
        nbformat.validate(document)
    except (OSError, ValueError, AttributeError, TypeError, LookupError, RecursionError,
            nbformat.ValidationError) as error:
        words = " ".join(str(error).split())[:200]
        return replace(state, status="broken", reason=f"its executed copy cannot be read: {words}")
    documents[state.notebook.stem] = document
    return state


def render_page(template: str, **values: object) -> str:
    """Return a page made by a template of `reports/template`; in HTML, plain text is escaped."""
    return _environment().get_template(template).render(**values)


def _environment() -> Environment:
    environment = Environment(loader=FileSystemLoader(_TEMPLATES), autoescape=True,
                              undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    style = Markup((_TEMPLATES / "style.css").read_text(encoding="utf-8"))
    environment.globals |= {"policy": CONTENT_SECURITY_POLICY, "navigation": (), "current": "",
                            "script": "", "style": style}
    return environment


def _page(document: Any, renderer: Renderer) -> dict[str, Any]:
    """Render an executed notebook; the first cell becomes the head of the page."""
    shown = [c for c in document.cells if _ERROR_TAG not in c.metadata.get("tags", [])]
    headed = bool(shown) and shown[0].cell_type == "markdown"
    title, claim, about = Notebook.opening(shown.pop(0).source if headed else "# ")
    # As the kernel counted the code cells, executed or not.
    numbers = itertools.accumulate(int(cell.cell_type == "code") for cell in shown)
    return {
        "about": Markup(renderer.markdown_html(about)),
        "page_title": Markup(Renderer.inline_html(title)),
        "page_claim": Markup(Renderer.inline_html(claim)),
        "cells": [_cell_view(cell, number, renderer)
                  for cell, number in zip(shown, numbers, strict=True)],
        "headings": [h for h in renderer.headings if h.level in (2, 3)],
    }


def _cell_view(cell: Any, number: int, renderer: Renderer) -> dict[str, Any]:
    """What a template needs of one cell: kind, HTML, and for code its number and outputs."""
    if cell.cell_type == "markdown":
        return {"kind": "markdown", "html": Markup(renderer.markdown_html(cell.source))}
    if cell.cell_type != "code":
        return {"kind": "markdown", "html": Markup(f"<pre>{Markup.escape(cell.source)}</pre>")}
    tags = cell.metadata.get("tags", [])
    label = _label(cell.source, tags)
    seconds = cell.metadata.get("papermill", {}).get("duration") or 0.0
    return {"kind": "code", "html": Markup(Renderer.code_html(cell.source)), "number": number,
            "label": label, "folded": label == "imports" or "hide-input" in tags,
            "failed": any(output["output_type"] == "error" for output in cell.outputs),
            "seconds": _duration(seconds) if seconds >= 1 else "",
            "outputs": tuple(Markup(html) for html in renderer.outputs_html(cell.outputs))}


def _label(source: str, tags: Sequence[str]) -> str:
    if "injected-parameters" in tags:
        return "parameters of this run"
    if "parameters" in tags:
        return "parameters and their defaults"
    lines = [line for line in source.splitlines() if line.strip() and line[0] not in " #)"]
    return "imports" if lines and all(_IMPORT.match(line) for line in lines) else ""
