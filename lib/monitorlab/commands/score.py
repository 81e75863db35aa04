"""`python -m monitorlab score`: a monitor over a file of samples, resumable, into a table."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from monitorlab import __version__
from monitorlab.evaluation.rates import join, rates
from monitorlab.monitors.build import OWN_NAME
from monitorlab.monitors.monitor import NO_PROMPT, Monitor, MonitorError, MonitorStop, Sample
from monitorlab.monitors.scoring import PATIENCE, ScoringError, score
from monitorlab.monitors.store import ENDINGS, VerdictStore, read_verdicts, write_verdicts
from monitorlab.monitors.verdicts import ERROR, PARSED, REFUSED, TRUNCATED, UNPARSED, WORDING
from monitorlab.storage.files import digest_file, pretty_json, write_file_atomic, write_text_atomic
from monitorlab.storage.sources import cache_folder
from monitorlab.storage.tables import STATUSES

AMOUNTS = ("input_tokens", "output_tokens", "cost_usd", "seconds")
LONGEST_NAME = 120  # characters of a file's name
DIFFERENCES = 3  # settings that a message compares


@dataclass(frozen=True)
class Request:
    """What to score, and where to put it.

    Attributes
    ----------
    samples : Path
        File of samples, see :func:`monitorlab.benchmark.sample_files.load_samples`.
    out : Path or None
        Table of verdicts, ``.csv``, ``.jsonl`` or ``.parquet``; by default
        ``verdicts/SAMPLES-MONITOR.csv``. Its manifest is beside it, with ``.json`` added.
    store : Path or None
        File of stored answers; by default ``data/cache/verdicts/MONITOR.jsonl`` of the project,
        whatever name the monitor was given.
    draws : int
        How often to ask about each sample.
    patience : int
        Samples, or batches, that may fail one after another before scoring is given up.
    limit : int
        Only the first samples; 0 is all.
    force : bool
        Replace a table also if it was made otherwise, see :func:`score_file`.
    actors : int
        Processes of Ray that judge; 0 for this process alone.

    Raises
    ------
    MonitorError
        If a number is too small, the table's ending is unknown, or Ray is missing.
    """

    samples: Path
    out: Path | None = None
    store: Path | None = None
    draws: int = 1
    patience: int = PATIENCE
    limit: int = 0
    force: bool = False
    actors: int = 0

    def __post_init__(self) -> None:
        for name, least in (("draws", 1), ("patience", 1), ("limit", 0), ("actors", 0)):
            if getattr(self, name) < least:
                raise MonitorError(f"{name} is {getattr(self, name)}, expected at least {least}")
        if self.out is not None and self.out.suffix.lower() not in ENDINGS:
            raise MonitorError(f"--out {self.out} has an unknown ending, expected one of "
                               f"{', '.join(ENDINGS)}")
        if self.actors and importlib.util.find_spec("ray") is None:
            raise MonitorError("--engine ray needs Ray. Install it: pip install 'monitorlab[ray]'")


@dataclass(frozen=True)
class _Summary:
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
    advice : tuple of str
        A line per status that is no verdict.
    """

    out: Path
    manifest: Path
    store: Path
    samples: int
    statuses: dict[str, int]
    known: int
    totals: dict[str, float]
    rates: dict[str, float]
    advice: tuple[str, ...] = ()

    @property
    def parsed(self) -> int:
        """Verdicts that could be read."""
        return self.statuses[PARSED]


def score_file(
    monitor: Monitor,
    frame: pd.DataFrame,
    request: Request,
    report: Callable[[str], object] = lambda words: None,
    build: Callable[[], Monitor] | None = None,
) -> _Summary:
    """Score the samples of a file and write the table of verdicts with its manifest.

    The table has the schema ``verdicts``, sorted by sample_id. Its column ``seconds`` is empty, so
    that a second run gives the same bytes; times are in the store and in the manifest.

    A table that is there already is replaced if its manifest says that the same settings made it
    from the same samples; from a file that has changed, if no verdict in it would be lost. Anything
    else is kept, unless `request` forces it.

    Parameters
    ----------
    monitor : Monitor
        Who judges.
    frame : DataFrame
        The samples of `request`, from :func:`monitorlab.benchmark.sample_files.load_samples`.
    request : Request
        What, and where to.
    report : callable
        Takes what a reader should know on the way, one sentence at a time.
    build : callable, optional
        Makes a monitor like `monitor`, for the actors of `request`.

    Raises
    ------
    MonitorError
        If an output would replace an input, another output, or a table that was made otherwise, or
        actors are to wait for answers.
    ScoringError
        If scoring stopped early; what arrived is in the store.
    """
    out = request.out or Path("verdicts") / f"{request.samples.stem}-{_slug(monitor)}.csv"
    own_name = getattr(monitor, OWN_NAME, monitor.name)  # the same settings share their answers
    store_path = request.store or verdicts_folder() / f"{_slug(monitor, own_name)}.jsonl"
    manifest = out.with_name(out.name + ".json")
    _check_places(request.samples, out, manifest, store_path)
    if request.actors and monitor.workers > 1:
        raise MonitorError(f"{monitor.name} waits for {monitor.workers} answers at a time, and one "
                           "process can: --engine ray is for monitors that compute. Ask without "
                           "it, with more or fewer by -o workers=NUMBER")
    asked = _plain_settings(monitor)  # a server may make the monitor change them on the way
    _check_replaced(asked, frame, request, out, manifest)
    judged = frame.head(request.limit) if request.limit else frame
    store = VerdictStore(store_path)
    known = _known(monitor, judged, store, request.draws)
    if known:
        report(f"{known:,} of {len(judged) * request.draws:,} verdicts are known from {store_path}")
    patience = request.patience + _expected_errors(asked, request, manifest)
    table = _scored(monitor, judged, store, request, patience, build)
    store = VerdictStore(store_path) if request.actors else store  # which they have filled
    replies = {key: found.reply for key in table["request_hash"] if (found := store.get(key))}
    summary = _Summary(
        out=out, manifest=manifest, store=store_path, samples=len(judged), known=known,
        statuses={status: int((table["status"] == status).sum()) for status in STATUSES},
        totals={name: float(table[name].sum()) for name in AMOUNTS if table[name].notna().any()},
        rates=_rates(table, judged), advice=tuple(_advise(table, monitor.settings(), replies)),
    )
    _check_replaced(asked, frame, request, out, manifest)  # somebody may have been faster
    with write_file_atomic(out) as temporary:
        write_verdicts(table.assign(seconds=float("nan")), temporary, out.suffix)
        facts = _manifest(monitor, asked, request, summary, digest_file(temporary))
        # Before the table: killed in between, the same command finds the table that it replaces.
        write_text_atomic(manifest, pretty_json(facts))
    return summary


def _slug(monitor: Monitor, name: str = "") -> str:
    """Name of a monitor (or another one for it) and its prompt, fit for a file name."""
    name = name or monitor.name
    words = name if monitor.prompt == NO_PROMPT else f"{name}-{monitor.prompt}"
    text = re.sub(r"[^\w.]+", "-", words).strip("-.").lower() or "monitor"
    if len(text) <= LONGEST_NAME:
        return text
    digest = hashlib.sha256(words.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{text[:LONGEST_NAME - 9]}-{digest}"


def describe(summary: _Summary) -> str:
    """Return the summary in a few lines for a terminal."""
    counts = ", ".join(f"{n:,} {status}" for status, n in summary.statuses.items() if n)
    lines = [f"{summary.samples:,} samples, {sum(summary.statuses.values()):,} verdicts: {counts}"]
    lines += [f"  {line}" for line in summary.advice]
    lines += _rate_lines(summary.rates)
    totals = summary.totals
    if "input_tokens" in totals:
        lines.append(f"tokens: {totals['input_tokens']:,.0f} in, "
                     f"{totals.get('output_tokens', 0):,.0f} out")
    if "cost_usd" in totals:
        lines.append(f"cost: {totals['cost_usd']:.4f} USD, with what was paid in earlier runs")
    lines += [f"Verdicts, one row each: {summary.out}",
              f"How they were made: {summary.manifest}",
              "Next: another monitor on the same samples, of: python -m monitorlab monitors; then: "
              "python -m monitorlab compare TABLE TABLE --samples FILE"]
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


def _check_replaced(
    asked: Mapping[str, Any], frame: pd.DataFrame, request: Request, out: Path, manifest: Path
) -> None:
    """Refuse to replace what the same command would not bring back."""
    if request.force or not (out.exists() or manifest.exists()):
        return
    way_out = "--name or --out makes another one, --force replaces it"
    earlier = _read_manifest(manifest)
    if earlier is None:
        kept = out if out.exists() else manifest
        raise MonitorError(f"{kept} is there, and {manifest.name} beside it does not say how it "
                           f"was made: {way_out}")
    other = differing(earlier.get("asked", earlier["settings"]), asked)
    if other:
        raise MonitorError(f"{out} was made by {earlier['monitor']!r} with other settings "
                           f"({'; '.join(other)}): {way_out}")
    if not out.exists():
        return
    if digest_file(out) not in (earlier["table"]["sha256"], earlier["table"].get("replaces")):
        raise MonitorError(f"{out} was changed after it was written: {way_out}")
    if earlier["samples"]["sha256"] != digest_file(request.samples):
        draws = range(max(request.draws, earlier["samples"]["draws"]))
        lost = set(read_verdicts(out)["request_hash"]) - {
            sample.key(earlier["settings"], draw)
            for sample in Sample.rows(frame) for draw in draws
        }
        if lost:
            raise MonitorError(f"{out} holds {len(lost):,} verdicts about samples that are not in "
                               f"{request.samples}: {way_out}")


def _read_manifest(path: Path) -> dict[str, Any] | None:
    """Return the manifest of a table, or None if there is none that this module wrote."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        known = (found["monitor"], found["settings"].items(), found["samples"]["sha256"],
                 int(found["samples"]["draws"]), found["table"]["sha256"],
                 found["verdicts"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return dict(found) if known else None


def _plain_settings(monitor: Monitor) -> dict[str, Any]:
    """Settings as a manifest gives them back."""
    return dict(json.loads(pretty_json(dict(monitor.settings()))))


def differing(there: Mapping[str, Any], here: Mapping[str, Any], above: str = "") -> list[str]:
    """Return in words where two settings differ, at most a few; `above` names what holds them."""
    found: list[str] = []
    for name in sorted({*there, *here}):
        old, new = there.get(name, "none"), here.get(name, "none")
        if isinstance(old, dict) and isinstance(new, dict):
            found += differing(old, new, f"{above}{name}.")
        elif old != new:
            words = (json.dumps(value, ensure_ascii=False) for value in (old, new))
            shown = [text if len(text) <= 40 else f"{text[:16]}..." for text in words]
            found.append(f"{above}{name} {shown[0]} there, {shown[1]} here")
    return found if len(found) <= DIFFERENCES else [*found[:DIFFERENCES - 1], "and more"]


def _known(monitor: Monitor, frame: pd.DataFrame, store: VerdictStore, draws: int) -> int:
    if not len(store):
        return 0
    settings, samples = monitor.settings(), Sample.rows(frame)
    return sum(s.key(settings, draw) in store for s in samples for draw in range(draws))


def _expected_errors(asked: Mapping[str, Any], request: Request, manifest: Path) -> int:
    """Errors in the table of an earlier run of the same command.

    Only they are left to ask now, one after another: that is no reason to give up.
    """
    earlier = _read_manifest(manifest)
    if earlier is None:
        return 0
    before = (earlier.get("asked", earlier["settings"]), earlier["samples"]["sha256"])
    same = before == (asked, digest_file(request.samples))
    return int(earlier["verdicts"].get(ERROR, 0)) if same else 0


def _scored(
    monitor: Monitor, frame: pd.DataFrame, store: VerdictStore, request: Request, patience: int,
    build: Callable[[], Monitor] | None,
) -> pd.DataFrame:
    try:
        return score(monitor, Sample.rows(frame), store, draws=request.draws, title=monitor.name,
                     patience=patience, actors=request.actors, build=build)
    except ScoringError as error:
        kept = _known(monitor, frame, VerdictStore(store.path), request.draws)
        stopped = isinstance(error.__cause__, MonitorStop)  # which says itself what to do
        helps = "" if stopped else _error_advice(str(error))
        raise ScoringError(
            f"{error}{f': {helps}' if helps else ''}. {kept:,} of {len(frame) * request.draws:,} "
            f"verdicts are stored in {store.path}; the same command goes on from there. "
            "--patience takes a larger number if many samples fail for a reason of their own."
        ) from error


def _rates(table: pd.DataFrame, frame: pd.DataFrame) -> dict[str, float]:
    if "label" not in frame.columns:
        return {}
    (row,) = rates(join(table, frame)).to_dict("records")
    return {str(name): value for name, value in row.items() if name not in ("name", *STATUSES)}


def _manifest(
    monitor: Monitor, asked: Mapping[str, Any], request: Request, summary: _Summary, digest: str
) -> dict[str, Any]:
    """Everything needed to say how a table was made; settings of a monitor hold no secret."""
    settings = _plain_settings(monitor)
    replaces = {"replaces": digest_file(summary.out)} if summary.out.exists() else {}
    verdicts = sum(summary.statuses.values())
    seconds = summary.totals.get("seconds")
    return {
        "monitorlab": __version__,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "monitor": monitor.name,
        "prompt": monitor.prompt,
        "settings": settings,
        **({} if settings == asked else {"asked": asked}),
        "samples": {"file": request.samples.name, "sha256": digest_file(request.samples),
                    "rows": summary.samples, "limit": request.limit, "draws": request.draws},
        "table": {"file": summary.out.name, "sha256": digest, **replaces},
        "verdicts": summary.statuses,
        "known_before": summary.known,
        "totals": summary.totals,
        "seconds_per_verdict": None if seconds is None else seconds / verdicts,
        "rates": {name: None if pd.isna(value) else value
                  for name, value in summary.rates.items()},
    }


def verdicts_folder() -> Path:
    """Return the folder of the stores that outlive runs."""
    return cache_folder("verdicts")


LIMITS = ("max_tokens", "max_completion_tokens", "max_new_tokens")  # keys of a monitor's settings
SHOWN = 160  # characters of a reason that a line repeats
THINKING = "thinking"  # the reader says so of a reply that ends inside it


def _advise(
    table: pd.DataFrame, settings: Mapping[str, Any], replies: Mapping[str, str] | None = None
) -> list[str]:
    """Return one line per status that is no verdict: how many, mostly why, and what helps.

    Parameters
    ----------
    table : DataFrame
        Schema ``verdicts``, of one monitor.
    settings : mapping
        Of that monitor.
    replies : mapping of str to str, optional
        Raw replies by ``request_hash``, to see which are empty.
    """
    lines = []
    suffix = "" if (table["prompt"] != NO_PROMPT).any() else "_without_prompt"
    for status in (TRUNCATED, UNPARSED, REFUSED, ERROR):
        rows = table[table["status"] == status]
        if len(rows):
            reason = _commonest(rows["evidence"])
            if status == TRUNCATED:
                words = _truncated(rows, reason, settings, replies or {})
            elif status == ERROR:
                helps = _error_advice(reason) or "the column evidence says more"
                words = f"{reason}: {helps}; the same command asks again"
            else:
                words = f"{reason}: {WORDING['advice'][status + suffix]}"
            lines.append(f"{len(rows):,} {status}: {words}")
    parsed = table[table["status"] == PARSED]
    unscored = int(parsed["score"].isna().sum())
    if settings.get("logprobs") and unscored:
        lines.append(
            f"{unscored:,} of {len(parsed):,} verdicts without a score: --read logits, but the "
            "server sent no log-probabilities of the verdict; take one that does, or hf:MODEL"
        )
    return lines


def _error_advice(reason: str) -> str:
    """Return what helps against an error, from its reason; empty if nothing is known."""
    return next((words for shape, words in WORDING["errors"].items()
                 if re.search(shape, reason)), "")


def _truncated(
    rows: pd.DataFrame, reason: str, settings: Mapping[str, Any], replies: Mapping[str, str]
) -> str:
    """Tell a limit of ours from one of the server, and thinking from an answer."""
    if "prompt" in reason:  # not the reply was cut
        return f"{reason}: serve the model with a longer context, or shorten these samples"
    limit = next((settings[name] for name in LIMITS if settings.get(name)), None)
    if limit is None:
        return f"{reason}: take a model or a server with a longer limit"
    spent = rows["output_tokens"]
    if (spent < limit).sum() > len(rows) / 2:  # missing counts are neither
        return (f"{reason}, after {spent.median():,.0f} tokens and not at --max-tokens {limit}: "
                "the limit is the server's; serve it with a longer context, or shorten the samples")
    known = [replies[key] for key in rows["request_hash"] if key in replies]
    silent = sum(not reply.strip() for reply in known) > len(known) / 2
    if silent or THINKING in reason:
        kind = "hidden thinking" if silent else "thinking"
        return f"{limit} tokens eaten by {kind}: raise --max-tokens, or let it think less"
    return f"{reason}, {limit} tokens: raise --max-tokens"


def _commonest(reasons: pd.Series) -> str:
    """Return the reason that most rows share, numbers aside; the first such one as it stands."""
    texts = reasons.fillna("no reason given").astype(str).str.replace(r"\s+", " ", regex=True)
    shapes = texts.str.replace(r"\d+", "#", regex=True)
    text = str(texts[shapes == shapes.mode()[0]].iloc[0]).strip().rstrip(".:")
    return text if len(text) <= SHOWN else f"{text[:SHOWN - 3]}..."
