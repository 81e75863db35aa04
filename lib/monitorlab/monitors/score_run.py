"""`python -m monitorlab score`: a monitor over a file of samples, resumable, into a table."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from monitorlab import __version__
from monitorlab.evaluation.rates import FACTS, join, rates
from monitorlab.monitors.monitor import NO_PROMPT, Monitor, MonitorError, request_key, samples_of
from monitorlab.monitors.scoring import PATIENCE, ScoringError, score
from monitorlab.monitors.store import VerdictStore
from monitorlab.monitors.verdict_files import ENDINGS, write_verdicts
from monitorlab.monitors.verdicts import ERROR
from monitorlab.pipeline.digests import digest_file
from monitorlab.pipeline.files import pretty_json, write_file_atomic, write_text_atomic
from monitorlab.pipeline.sources import project_root
from monitorlab.pipeline.tables import STATUSES

AMOUNTS = ("input_tokens", "output_tokens", "cost_usd", "seconds")


@dataclass(frozen=True)
class Request:
    """What to score, and where to put it.

    Attributes
    ----------
    samples : Path
        File of samples, see :func:`monitorlab.monitors.sample_files.read_samples`.
    out : Path or None
        Table of verdicts, ``.csv``, ``.jsonl`` or ``.parquet``; by default
        ``verdicts/SAMPLES-MONITOR.csv``. Its manifest is beside it, with ``.json`` added.
    store : Path or None
        File of stored answers; by default ``data/cache/verdicts/MONITOR.jsonl`` of the project.
    draws : int
        How often to ask about each sample.
    patience : int
        Samples, or batches, that may fail one after another before scoring is given up.
    limit : int
        Only the first samples; 0 is all.

    Raises
    ------
    MonitorError
        If a number is too small, or the table's ending is unknown.
    """

    samples: Path
    out: Path | None = None
    store: Path | None = None
    draws: int = 1
    patience: int = PATIENCE
    limit: int = 0

    def __post_init__(self) -> None:
        for name, least in (("draws", 1), ("patience", 1), ("limit", 0)):
            if getattr(self, name) < least:
                raise MonitorError(f"{name} is {getattr(self, name)}, expected at least {least}")
        if self.out is not None and self.out.suffix.lower() not in ENDINGS:
            raise MonitorError(f"--out {self.out} has an unknown ending, expected one of "
                               f"{', '.join(ENDINGS)}")


@dataclass(frozen=True)
class Summary:
    """What a scoring run came to.

    Attributes
    ----------
    out, manifest, store : Path
        Files that were written.
    samples : int
        Samples judged.
    statuses : dict of str to int
        Verdicts of each status, zeros included.
    known : int
        Verdicts that were in the store before.
    totals : dict of str to float
        Sums over all verdicts where known: ``input_tokens``, ``output_tokens``, ``cost_usd`` (USD)
        and ``seconds`` (of calls, those of earlier runs included).
    rates : dict of str to float
        A row of :func:`monitorlab.evaluation.rates.rates`; empty if the samples have no labels.
    """

    out: Path
    manifest: Path
    store: Path
    samples: int
    statuses: dict[str, int]
    known: int
    totals: dict[str, float]
    rates: dict[str, float]


def score_file(
    monitor: Monitor,
    frame: pd.DataFrame,
    request: Request,
    report: Callable[[str], object] = lambda words: None,
) -> Summary:
    """Score the samples of a file and write the table of verdicts with its manifest.

    The table has the schema ``verdicts``, sorted by sample_id. Its column ``seconds`` is empty, so
    that a second run gives the same bytes; times are in the store and in the manifest.

    Parameters
    ----------
    monitor : Monitor
        Who judges.
    frame : DataFrame
        The samples of `request`, from :func:`monitorlab.monitors.sample_files.read_samples`.
    request : Request
        What, and where to.
    report : callable
        Takes what a reader should know on the way, one sentence at a time.

    Raises
    ------
    MonitorError
        If an output would replace an input or another output.
    ScoringError
        If scoring stopped early; what arrived is in the store.
    """
    out = request.out or Path("verdicts") / f"{request.samples.stem}-{slug(monitor)}.csv"
    store_path = request.store or verdicts_folder() / f"{slug(monitor)}.jsonl"
    manifest = out.with_name(out.name + ".json")
    _check_places(request.samples, out, manifest, store_path)
    frame = frame.head(request.limit) if request.limit else frame
    store = VerdictStore(store_path)
    known = _known(monitor, frame, store, request.draws)
    if known:
        report(f"{known:,} of {len(frame) * request.draws:,} verdicts are known from {store_path}")
    patience = request.patience + _expected_errors(monitor, request, manifest)
    table = _scored(monitor, frame, store, request, patience)
    summary = Summary(
        out=out, manifest=manifest, store=store_path, samples=len(frame), known=known,
        statuses={status: int((table["status"] == status).sum()) for status in STATUSES},
        totals={name: float(table[name].sum()) for name in AMOUNTS if table[name].notna().any()},
        rates=_rates(table, frame),
    )
    with write_file_atomic(out) as temporary:
        write_verdicts(table.assign(seconds=float("nan")), temporary, out.suffix)
    write_text_atomic(manifest, pretty_json(_manifest(monitor, request, summary)))
    return summary


def slug(monitor: Monitor) -> str:
    """Name of a monitor and its prompt, fit for a file name."""
    words = monitor.name if monitor.prompt == NO_PROMPT else f"{monitor.name}-{monitor.prompt}"
    return re.sub(r"[^A-Za-z0-9._]+", "-", words).strip("-.").lower() or "monitor"


def describe(summary: Summary) -> str:
    """Return the summary in a few lines for a terminal."""
    counts = ", ".join(f"{n:,} {status}" for status, n in summary.statuses.items() if n)
    lines = [f"{summary.samples:,} samples, {sum(summary.statuses.values()):,} verdicts: {counts}"]
    if summary.statuses[ERROR]:
        lines.append("  Errors count neither as alarm nor as benign; the column evidence says what "
                     "happened. They are not stored: the same command asks again.")
    lines += _rate_lines(summary.rates)
    totals = summary.totals
    if "input_tokens" in totals:
        lines.append(f"tokens: {totals['input_tokens']:,.0f} in, "
                     f"{totals.get('output_tokens', 0):,.0f} out")
    if "cost_usd" in totals:
        lines.append(f"cost: {totals['cost_usd']:.4f} USD, with what was paid in earlier runs")
    lines += [f"Verdicts, one row each: {summary.out}",
              f"How they were made: {summary.manifest}",
              "Next: another monitor on the same samples, of: python -m monitorlab monitors"]
    return "\n".join(lines)


def _rate_lines(found: dict[str, float]) -> list[str]:
    """MR and FAR with intervals and bounds; of a class that is not there, nothing is said."""
    names = {"mr": ("miss rate", "misbehaving"), "far": ("false alarm rate", "benign")}
    lines = []
    for rate, (words, kind) in names.items():
        if not found or not found[f"n_{kind}"]:
            continue
        bounds = f"between {found[f'{rate}_least']:.3f} and {found[f'{rate}_most']:.3f}"
        if pd.isna(found[rate]):
            lines.append(f"{words} {rate.upper()}: no verdict could be read")
            continue
        line = (f"{words} {rate.upper()}: {found[rate]:.3f}, 95 % interval "
                f"{found[f'{rate}_low']:.3f} to {found[f'{rate}_high']:.3f}, "
                f"of {found[f'n_{kind}']:,.0f} {kind}")
        failed = found[f"parsed_{kind}"] < 1
        lines.append(f"{line}; {bounds} with the failed verdicts" if failed else line)
    return lines


def _check_places(samples: Path, out: Path, manifest: Path, store: Path) -> None:
    """Refuse before anything is asked, and paid for, what could not be written afterwards."""
    seen: dict[Path, str] = {}
    names = {"the samples": samples, "the table": out, "its manifest": manifest, "the store": store}
    for name, path in names.items():
        place = path.resolve()
        if place in seen:
            raise MonitorError(f"{name} and {seen[place]} would be the same file, {path}. Choose "
                               "another --out or --store")
        if place.is_dir():
            raise MonitorError(f"{path} is a folder, expected a file for {name}")
        seen[place] = name


def _known(monitor: Monitor, frame: pd.DataFrame, store: VerdictStore, draws: int) -> int:
    if not len(store):
        return 0
    settings, samples = monitor.settings(), samples_of(frame)
    return sum(request_key(settings, s, draw) in store for s in samples for draw in range(draws))


def _expected_errors(monitor: Monitor, request: Request, manifest: Path) -> int:
    """Errors in the table of an earlier run of the same command.

    Only they are left to ask now, one after another: that is no reason to give up.
    """
    try:
        earlier = json.loads(manifest.read_text(encoding="utf-8"))
        asked = (earlier["settings"], earlier["samples"]["sha256"])
        errors = int(earlier["verdicts"][ERROR])
    except (OSError, ValueError, KeyError, TypeError):
        return 0  # there is none, or it is not ours
    settings = json.loads(pretty_json(dict(monitor.settings())))
    return errors if asked == (settings, digest_file(request.samples)) else 0


def _scored(
    monitor: Monitor, frame: pd.DataFrame, store: VerdictStore, request: Request, patience: int
) -> pd.DataFrame:
    try:
        return score(monitor, samples_of(frame), store, draws=request.draws, title=monitor.name,
                     patience=patience)
    except ScoringError as error:
        kept = _known(monitor, frame, store, request.draws)
        raise ScoringError(
            f"{error}. {kept:,} of {len(frame) * request.draws:,} verdicts are stored in "
            f"{store.path}; the same command goes on from there. --patience "
            "takes a larger number if many samples fail for a reason of their own."
        ) from error


def _rates(table: pd.DataFrame, frame: pd.DataFrame) -> dict[str, float]:
    if "label" not in frame.columns:
        return {}
    facts = {name: frame["sample_id"] for name in FACTS if name != "label"}
    labelled = frame[["sample_id", "label"]].assign(**facts)
    (row,) = rates(join(table, labelled)).to_dict("records")
    return {str(name): value for name, value in row.items() if name not in ("name", *STATUSES)}


def _manifest(monitor: Monitor, request: Request, summary: Summary) -> dict[str, Any]:
    """Everything needed to say how a table was made; settings of a monitor hold no secret."""
    verdicts = sum(summary.statuses.values())
    seconds = summary.totals.get("seconds")
    return {
        "monitorlab": __version__,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "monitor": monitor.name,
        "prompt": monitor.prompt,
        "settings": dict(monitor.settings()),
        "samples": {"file": request.samples.name, "sha256": digest_file(request.samples),
                    "rows": summary.samples, "limit": request.limit, "draws": request.draws},
        "table": {"file": summary.out.name, "sha256": digest_file(summary.out)},
        "verdicts": summary.statuses,
        "known_before": summary.known,
        "totals": summary.totals,
        "seconds_per_verdict": None if seconds is None else seconds / verdicts,
        "rates": {name: None if pd.isna(value) else value
                  for name, value in summary.rates.items()},
    }


def verdicts_folder() -> Path:
    """Return the folder of the stores that outlive runs."""
    return project_root() / "data" / "cache" / "verdicts"
