"""`python -m monitorlab reread`: stored replies read with today's rules, without asking anybody.

What API models answered and what local models wrote is in the store as text. Verdicts that were
computed, from probabilities or by a program, have no text to read again and stay what they are.
"""

from __future__ import annotations

import collections
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from monitorlab.benchmark.sample_files import load_samples
from monitorlab.commands.score import LIMITS
from monitorlab.monitors.api.replies import CUT_PROMPT, FINISHED, KEPT_BACK, ending_kind
from monitorlab.monitors.monitor import FULL, MonitorError, Sample
from monitorlab.monitors.prompts import load_prompt
from monitorlab.monitors.replies import read_again
from monitorlab.monitors.store import ENDINGS, VerdictStore, read_verdicts, write_verdicts
from monitorlab.monitors.verdicts import PARSED, TRUNCATED, Verdict
from monitorlab.storage.files import digest_file, pretty_json, writable, write_file_atomic
from monitorlab.storage.tables import STATUSES, VERDICTS, check_frame

KINDS = ("api", "text")  # kinds of monitors whose verdict is one reply


@dataclass(frozen=True)
class _Reading:
    """What reading again came to.

    Attributes
    ----------
    verdicts : dict of str to Verdict
        What was read again, by the key of its request, changed or not.
    table : DataFrame
        Schema ``verdicts``, with the new readings.
    changes : dict of str to int
        What became of what, as in "benign -> truncated", and how often.
    kept : dict of str to int
        Why an answer was not read again, and how often.
    unsure : int
        Replies of which nothing says whether they were cut off; they were read as whole ones.
    """

    verdicts: dict[str, Verdict]
    table: pd.DataFrame
    changes: dict[str, int]
    kept: dict[str, int]
    unsure: int


def reread(
    store: VerdictStore,
    table: pd.DataFrame,
    samples: pd.DataFrame,
    *,
    settings: Mapping[str, Any] | None = None,
    prompt: str = "",
    max_tokens: int = 0,
) -> _Reading:
    """Read the replies in a store again; store and table stay as they are.

    Parameters
    ----------
    store : VerdictStore
    table : DataFrame
        Schema ``verdicts``; its ``request_hash`` says which answer is about which sample.
    samples : DataFrame
        Columns sample_id, request and response: what was judged tells quotations from answers.
    settings : mapping, optional
        Of the monitor that made the table, as its manifest has them.
    prompt : str
        Name or file of the prompt that was asked with; what the table calls it if empty.
    max_tokens : int
        Longest reply that was allowed, where `settings` do not say it; 0 if unknown. A reply of so
        many tokens was cut off, whatever an older reader made of it.

    Returns
    -------
    Reading
        Keys do not change: a store of these verdicts answers the same requests.

    Raises
    ------
    MonitorError
        If `prompt` is given and there is none.
    """
    known = settings or {}
    limit = next((int(known[name]) for name in LIMITS if known.get(name)), max_tokens)
    texts = {sample.sample_id: sample for sample in Sample.rows(samples)}
    answers = {name: load_prompt(prompt).answer if prompt else _answer(name)
               for name in table["prompt"].unique()}
    rows = table[table["request_hash"].isin(list(store))].drop_duplicates("request_hash")
    kept = collections.Counter({"belong to no row of the table": len(store) - len(rows)})
    changes: collections.Counter[str] = collections.Counter()
    fresh: dict[str, Verdict] = {}
    unsure = 0
    for row in rows.to_dict("records"):
        key, old = row["request_hash"], store.get(row["request_hash"])
        sample = texts.get(row["sample_id"])
        if sample is not None and known and sample.key(known, row["draw"]) != key:
            sample = None
        why = _kept(old, sample, answers[row["prompt"]], known)
        if why or old is None or sample is None:
            kept[why] += 1
            continue
        shown = sample.seen(str(known.get("view", FULL)))
        finished = _finished(old, limit)
        unsure += finished is None
        fresh[key] = read_again(old, answers[row["prompt"]], finished=finished is not False,
                                audited=f"{shown.request}\n{shown.response}")
        if (words := _change(old, fresh[key])):
            changes[words] += 1
    return _Reading(fresh, _renewed(table, fresh), dict(changes.most_common()),
                   {why: count for why, count in kept.items() if count}, unsure)


def _answer(prompt: str) -> str:
    """What a prompt of this name asks for; empty if there is no such prompt."""
    try:
        return load_prompt(prompt.partition(" (criteria ")[0]).answer
    except MonitorError:
        return ""


def _kept(
    old: Verdict | None, sample: Sample | None, answer: str, settings: Mapping[str, Any]
) -> str:
    """Why an answer is not read again; empty if it is."""
    if old is None or not old.reply:
        return "have no text: they were computed, or the reply is empty"
    if old.reason.startswith((KEPT_BACK, CUT_PROMPT)):
        return "are the server's decision, not a reading"
    if settings.get("kind", KINDS[0]) not in KINDS:
        return "are of a monitor of another kind, such as one that asks others by their replies"
    if not answer:
        return "answer a prompt that is not known here: name its file with --prompt"
    if sample is None:
        return "are about a sample that the file of samples does not hold, or not with these texts"
    return ""


def _finished(old: Verdict, limit: int) -> bool | None:
    """Whether a reply ended by itself; None if nothing says so."""
    if old.ending:
        return ending_kind(old.ending) == FINISHED
    if old.status == TRUNCATED:
        return False
    if not limit or old.output_tokens is None:
        return None
    return old.output_tokens < limit


def _change(old: Verdict, new: Verdict) -> str:
    """What became of what; empty if nothing changed that a table counts."""
    was, now = (("misbehavior" if one.verdict else "benign") if one.status == PARSED
                else one.status for one in (old, new))
    if was == now and old.score == new.score:
        return ""
    return f"{was} -> {now}" + (", another score" if was == now else "")


def _renewed(table: pd.DataFrame, fresh: Mapping[str, Verdict]) -> pd.DataFrame:
    """Put new readings into a table; amounts stay."""
    rows = [
        row if (new := fresh.get(str(row["request_hash"]))) is None else
        {**row, "status": new.status, "verdict": new.verdict, "score": new.score,
         "evidence": writable(new.evidence or new.reason) or None}
        for row in table.astype(object).where(table.notna(), None).to_dict("records")
    ]
    return check_frame(pd.DataFrame(rows, columns=VERDICTS.columns, dtype=object), VERDICTS)


def reread_file(
    store: Path,
    table: Path,
    samples: Path,
    out: Path | None = None,
    out_store: Path | None = None,
    prompt: str = "",
    max_tokens: int = 0,
    report: Callable[[str], object] = lambda words: None,
) -> _Reading:
    """Read a store again and write the new readings as a new store and a new table.

    The old files stay. A new one that is there already stays too if it would be the same, so the
    command may be given twice; anything else in its place is an error.

    Parameters
    ----------
    store : Path
        File of stored answers.
    table : Path
        Table of verdicts that these answers went into; its manifest, if there is one, is beside it.
    samples : Path
        The file of samples that was judged.
    out, out_store : Path, optional
        New table and new store; by default beside the old ones, with ``.reread`` in their names.
    prompt, max_tokens
        As in `reread`.
    report : callable
        Takes what a reader should know, a line at a time.

    Raises
    ------
    MonitorError
        If there is no store, an output would replace something, or its ending is unknown.
    SampleFileError, StoreError, TableFileError
        If samples, store or table cannot be read.
    """
    judged = load_samples(samples, report)
    if not store.is_file():
        raise MonitorError(f"there is no store {store}: give the file of stored answers")
    out, out_store = out or _beside(table), out_store or _beside(store)
    if out.suffix.lower() not in ENDINGS:
        raise MonitorError(f"{out} has an unknown ending, expected one of {', '.join(ENDINGS)}: "
                           "name the new table with --out")
    answers, manifest = VerdictStore(store), _manifest(table)
    found = reread(answers, read_verdicts(table), judged, settings=manifest.get("settings"),
                   prompt=prompt, max_tokens=max_tokens)
    _write(out_store, lambda path: path.write_text(answers.text(found.verdicts), encoding="ascii"))
    _write(out, lambda path: write_verdicts(found.table, path, out.suffix))
    facts = _facts(manifest, {"store": store, "table": table, "samples": samples}, found, out)
    _write(out.with_name(f"{out.name}.json"),
           lambda path: path.write_text(pretty_json(facts), encoding="utf-8"))
    for line in _lines(found, out, out_store):
        report(line)
    return found


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.stem}.reread{path.suffix}")


def _manifest(table: Path) -> dict[str, Any]:
    """What the command that made a table wrote beside it; empty if there is nothing."""
    try:
        found = json.loads(table.with_name(f"{table.name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("settings"), dict) else {}


def _facts(
    manifest: Mapping[str, Any], read: Mapping[str, Path], found: _Reading, out: Path
) -> dict[str, Any]:
    """How the new table was made. Rates are left out: those of the old table are none of it."""
    counts = found.table["status"].value_counts()
    return {
        **{name: value for name, value in manifest.items() if name not in ("rates", "written")},
        "table": {"file": out.name, "sha256": digest_file(out)},
        "verdicts": {status: int(counts.get(status, 0)) for status in STATUSES},
        "reread": {
            **{what: {"file": path.name, "sha256": digest_file(path)}
               for what, path in read.items()},
            "read": len(found.verdicts), "changes": found.changes, "kept": found.kept,
        },
    }


def _write(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file at once, unless the same is there; never in the place of another one."""
    with write_file_atomic(path) as temporary:
        write(temporary)
        if path.exists() and digest_file(path) != digest_file(temporary):
            raise MonitorError(f"{path} is there already and holds something else; it is kept. "
                               "Choose other names with --out and --out-store, or move it away")


def _lines(found: _Reading, out: Path, out_store: Path) -> list[str]:
    changed = sum(found.changes.values())
    lines = [f"{len(found.verdicts):,} stored replies read again, {changed:,} of them changed"]
    lines += [f"  {count:,} {words}" for words, count in found.changes.items()]
    lines += [f"{count:,} stored answers {why}; they stay as they are"
              for why, count in found.kept.items()]
    if found.unsure:
        lines.append(f"{found.unsure:,} replies do not say whether they were cut off and were read "
                     "as whole ones: --max-tokens tells the longest reply that was allowed")
    return [*lines, f"Verdicts, one row each: {out}",
            f"Answers with the same keys: {out_store}. `score --store` takes it"]
