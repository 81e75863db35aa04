"""`python -m monitorlab score` and `reread`: a monitor over a file of samples, into a table.

Answers are stored as they arrive, so scoring goes on where it stopped. `reread` reads what is
stored with today's rules, without asking anybody: what API models answered and local models wrote
is there as text. Verdicts that were computed, from probabilities or by a program, have no text to
read again and stay what they are.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import hashlib
import importlib.util
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
import typer
from typer import Option, echo

from monitorlab import __version__
from monitorlab.benchmark.sample_files import load_samples
from monitorlab.commands import Settings
from monitorlab.evaluation.rates import join, rates
from monitorlab.monitors import verdicts
from monitorlab.monitors.build import OWN_NAME, build_monitor, spelled_settings
from monitorlab.monitors.monitor import FULL, NO_PROMPT, Monitor, MonitorError, MonitorStop, Sample
from monitorlab.monitors.prompts import load_prompt
from monitorlab.monitors.replies import read_reply
from monitorlab.monitors.scoring import PATIENCE, ScoringError, score
from monitorlab.monitors.store import ENDINGS, VerdictStore, read_verdicts, write_verdicts
from monitorlab.monitors.verdicts import WORDING, Verdict
from monitorlab.storage import files
from monitorlab.storage.files import digest_file, pretty_json, write_text_atomic
from monitorlab.storage.settings import ParameterError, Setting
from monitorlab.storage.sources import cache_folder
from monitorlab.storage.tables import STATUSES, VERDICTS

AMOUNTS = ("input_tokens", "output_tokens", "cost_usd", "seconds")
LONGEST_NAME = 120  # characters of a file's name
DIFFERENCES = 3  # settings that a message compares
NO_VERDICT = 3  # exit code
READ_AGAIN = ("api", "text")  # kinds of monitors whose verdict is one reply


@dataclass(frozen=True)
class _Request:
    """What to score, and where to put it.

    A table that is there already is replaced if its manifest says that the same settings made it
    from the same samples; from a file that has changed, if no verdict in it would be lost. Anything
    else is kept, unless `force` is given.

    Attributes
    ----------
    samples : Path
        CSV, JSON lines, JSON or parquet with request, response and, if known, sample_id and
        label.
    out : Path, optional
        Table of verdicts: .csv, .jsonl or .parquet. [default: verdicts/SAMPLES-MONITOR.csv]
    force : bool
        Replace a table that was made otherwise.
    store : Path, optional
        Answers, kept as they arrive. [default: data/cache/verdicts/MONITOR.jsonl]
    draws : int
        How often to ask about each sample.
    limit : int
        Only the first samples; 0 is all.
    patience : int
        Samples or batches that may fail in a row before giving up.
    engine : {"process", "ray"}
        ray: --workers processes on this machine, each with the monitor. Ray opens ports to the
        network; read lib/SCALE.md first.
    workers : int, optional
        Processes of --engine ray; else the monitor's setting of that name.

    Raises
    ------
    MonitorError
        If a number is too small, the table's ending is unknown, or Ray is missing.
    """

    samples: Path
    out: Path | None = None
    force: bool = False
    store: Path | None = None
    draws: int = 1
    limit: int = 0
    patience: int = PATIENCE
    engine: Literal["process", "ray"] = "process"
    workers: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "samples", self.samples.expanduser())
        if self.engine == "ray" and not self.workers:
            raise typer.BadParameter("say how many processes, as in --workers 4",
                                     param_hint="--engine")
        for name, least in (("draws", 1), ("patience", 1), ("limit", 0), ("actors", 0)):
            if getattr(self, name) < least:
                raise MonitorError(f"{name} is {getattr(self, name)}, expected at least {least}")
        if self.out is not None and self.out.suffix.lower() not in ENDINGS:
            raise MonitorError(f"--out {self.out} has an unknown ending, expected one of "
                               f"{', '.join(ENDINGS)}")
        if self.actors and importlib.util.find_spec("ray") is None:
            raise MonitorError("--engine ray needs Ray. Install it: pip install 'monitorlab[ray]'")

    @property
    def actors(self) -> int:
        """Processes of Ray that judge; 0 for this process alone."""
        return (self.workers or 0) if self.engine == "ray" else 0


def score_samples(context: typer.Context, *, monitor: str, option: Settings = None,
                  request: _Request) -> None:
    """Score a file with a monitor by name, and say what came out.

    Parameters
    ----------
    monitor : str
        keywords, hf:NAME, api:MODEL, file.py:function, ...; see `monitors`.
    option : list of str, optional
        A setting of the monitor, repeatable, also spelled --NAME VALUE; `monitors NAME` lists
        them.
    """
    given = [Setting.split(option or []), *spelled_settings(context.args)]
    if request.workers is not None and not request.actors:
        given.append({"workers": str(request.workers)})
    build = functools.partial(build_monitor, monitor, *given)
    frame = load_samples(request.samples, echo)  # first: it is quick, a model is not
    done = _Scoring(build(), frame, request).carried_out(build)
    echo(done.describe())
    if not done.statuses[verdicts.PARSED]:
        raise typer.Exit(NO_VERDICT)


class _Scoring:
    """A request to one monitor: checked, carried out, written.

    Attributes
    ----------
    out, manifest, store : Path
        Files that are written.
    judged : DataFrame
        Samples that are judged.
    asked : dict
        Settings of the monitor before it asked anything; a server may make it change them.
    known : int
        Verdicts that were in the store before.
    statuses : dict of str to int
        Verdicts of each status, zeros included.
    totals : dict of str to float
        Sums over all verdicts where known: ``input_tokens``, ``output_tokens``, ``cost_usd`` (USD)
        and ``seconds`` (of calls, those of earlier runs included).
    rates : dict of str to float
        A row of :func:`monitorlab.evaluation.rates.rates`; empty if the samples have no labels.
    advice : list of str
        A line per status that is no verdict.
    """

    def __init__(self, monitor: Monitor, frame: pd.DataFrame, request: _Request) -> None:
        self.monitor, self.frame, self.request = monitor, frame, request
        stem = f"{request.samples.stem}-{_slug(monitor)}"
        self.out = request.out or Path("verdicts") / f"{stem}.csv"
        self.manifest = self.out.with_name(self.out.name + ".json")
        own_name = getattr(monitor, OWN_NAME, monitor.name)  # same settings share their answers
        self.store = (request.store or
                      cache_folder("verdicts") / f"{_slug(monitor, own_name)}.jsonl")
        self.judged = frame.head(request.limit) if request.limit else frame
        self.asked = self.settings()
        self.rates: dict[str, float] = {}

    def settings(self) -> dict[str, Any]:
        """Settings of the monitor as a manifest gives them back."""
        return dict(json.loads(pretty_json(dict(self.monitor.settings()))))

    def carried_out(self, build: Callable[[], Monitor] | None = None) -> _Scoring:
        """Ask, and write the table of verdicts with its manifest.

        The table has the schema ``verdicts``, sorted by sample_id. Its column ``seconds`` is empty,
        so that a second run gives the same bytes; times are in the store and in the manifest.

        Parameters
        ----------
        build : callable, optional
            Makes a monitor like this one, for the actors of the request.

        Raises
        ------
        MonitorError
            If an output would replace an input, another output, or a table that was made otherwise,
            or actors are to wait for answers.
        ScoringError
            If scoring stopped early; what arrived is in the store.
        """
        self.check_places()
        monitor, request = self.monitor, self.request
        if request.actors and monitor.workers > 1:
            raise MonitorError(f"{monitor.name} waits for {monitor.workers} answers at a time, and "
                               "one process can: --engine ray is for monitors that compute. Ask "
                               "without it, with more or fewer by -o workers=NUMBER")
        self.check_replaced()
        store = VerdictStore(self.store)
        self.known = self.count_known(store)
        if self.known:
            echo(f"{self.known:,} of {len(self.judged) * request.draws:,} verdicts are known from "
                 f"{self.store}")
        table = self.scored(store, build)
        store = VerdictStore(self.store) if request.actors else store  # which they have filled
        replies = {key: found.reply for key in table["request_hash"] if (found := store.get(key))}
        self.advice = _advise(table, monitor.settings(), replies)
        self.statuses = {one: int((table["status"] == one).sum()) for one in STATUSES}
        self.totals = {name: float(table[name].sum())
                       for name in AMOUNTS if table[name].notna().any()}
        if "label" in self.judged:
            (row,) = rates(join(table, self.judged)).to_dict("records")
            self.rates = {str(name): value for name, value in row.items()
                          if name not in ("name", *STATUSES)}
        self.check_replaced()  # somebody may have been faster
        with files.write_file_atomic(self.out) as temporary:
            write_verdicts(table.assign(seconds=float("nan")), temporary, self.out.suffix)
            facts = self.facts(digest_file(temporary))
            # Before the table: killed in between, the same command finds the one that it replaces.
            write_text_atomic(self.manifest, pretty_json(facts))
        return self

    def describe(self) -> str:
        """Return the summary in a few lines for a terminal."""
        counts = ", ".join(f"{n:,} {status}" for status, n in self.statuses.items() if n)
        lines = [f"{len(self.judged):,} samples, {sum(self.statuses.values()):,} verdicts: "
                 f"{counts}"]
        lines += [f"  {line}" for line in self.advice]
        lines += _rate_lines(self.rates)
        totals = self.totals
        if "input_tokens" in totals:
            lines.append(f"tokens: {totals['input_tokens']:,.0f} in, "
                         f"{totals.get('output_tokens', 0):,.0f} out")
        if "cost_usd" in totals:
            lines.append(f"cost: {totals['cost_usd']:.4f} USD, with what was paid in earlier runs")
        lines += [f"Verdicts, one row each: {self.out}",
                  f"How they were made: {self.manifest}",
                  "Next: another monitor on the same samples, of: python -m monitorlab monitors; "
                  "then: python -m monitorlab compare TABLE TABLE --samples FILE"]
        return "\n".join(lines)

    def check_places(self) -> None:
        """Refuse before anything is asked, and paid for, what could not be written afterwards."""
        seen_before: dict[Path, str] = {}
        for name, path in (("the samples", self.request.samples), ("the table", self.out),
                           ("its manifest", self.manifest), ("the store", self.store)):
            place = path.resolve()
            if place in seen_before:
                raise MonitorError(f"{name} and {seen_before[place]} would be the same file, "
                                   f"{path}. Choose another --out or --store")
            if place.is_dir():
                raise MonitorError(f"{path} is a folder, expected a file for {name}")
            seen_before[place] = name

    def check_replaced(self) -> None:
        """Refuse to replace what the same command would not bring back."""
        out, samples = self.out, self.request.samples
        if self.request.force or not (out.exists() or self.manifest.exists()):
            return
        way_out = "--name or --out makes another one, --force replaces it"
        earlier = _read_manifest(self.manifest)
        if earlier is None:
            kept = out if out.exists() else self.manifest
            raise MonitorError(f"{kept} is there, and {self.manifest.name} beside it does not say "
                               f"how it was made: {way_out}")
        other = _differing(earlier.get("asked", earlier["settings"]), self.asked)
        if other:
            raise MonitorError(f"{out} was made by {earlier['monitor']!r} with other settings "
                               f"({'; '.join(other)}): {way_out}")
        if not out.exists():
            return
        if digest_file(out) not in (earlier["table"]["sha256"], earlier["table"].get("replaces")):
            raise MonitorError(f"{out} was changed after it was written: {way_out}")
        if earlier["samples"]["sha256"] != digest_file(samples):
            draws = range(max(self.request.draws, earlier["samples"]["draws"]))
            lost = set(read_verdicts(out)["request_hash"]) - {
                sample.key(earlier["settings"], draw)
                for sample in Sample.rows(self.frame) for draw in draws}
            if lost:
                raise MonitorError(f"{out} holds {len(lost):,} verdicts about samples that are not "
                                   f"in {samples}: {way_out}")

    def count_known(self, store: VerdictStore) -> int:
        """Count what the store holds already."""
        if not len(store):
            return 0
        settings = self.monitor.settings()
        return sum(sample.key(settings, draw) in store
                   for sample in Sample.rows(self.judged) for draw in range(self.request.draws))

    def expected_errors(self) -> int:
        """Errors in the table of an earlier run of the same command.

        Only they are left to ask now, one after another: that is no reason to give up.
        """
        earlier = _read_manifest(self.manifest)
        if earlier is None:
            return 0
        before = (earlier.get("asked", earlier["settings"]), earlier["samples"]["sha256"])
        same = before == (self.asked, digest_file(self.request.samples))
        return int(earlier["verdicts"].get(verdicts.ERROR, 0)) if same else 0

    def scored(self, store: VerdictStore, build: Callable[[], Monitor] | None) -> pd.DataFrame:
        """Ask about every sample; where that ends early, say what is kept and what helps."""
        request = self.request
        try:
            return score(self.monitor, Sample.rows(self.judged), store, draws=request.draws,
                         title=self.monitor.name, actors=request.actors, build=build,
                         patience=request.patience + self.expected_errors())
        except ScoringError as error:
            kept = self.count_known(VerdictStore(store.path))
            stopped = isinstance(error.__cause__, MonitorStop)  # which says itself what to do
            helps = "" if stopped else _error_advice(str(error))
            raise ScoringError(
                f"{error}{f': {helps}' if helps else ''}. {kept:,} of "
                f"{len(self.judged) * request.draws:,} verdicts are stored in {store.path}; the "
                "same command goes on from there. --patience takes a larger number if many "
                "samples fail for a reason of their own.") from error

    def facts(self, digest: str) -> dict[str, Any]:
        """Everything needed to say how a table was made; settings hold no secret."""
        settings, samples = self.settings(), self.request.samples
        replaces = {"replaces": digest_file(self.out)} if self.out.exists() else {}
        seconds = self.totals.get("seconds")
        if seconds is not None:
            seconds /= sum(self.statuses.values())
        return {
            "monitorlab": __version__, "written": datetime.now(UTC).isoformat(timespec="seconds"),
            "monitor": self.monitor.name, "prompt": self.monitor.prompt, "settings": settings,
            **({} if settings == self.asked else {"asked": self.asked}),
            "samples": {"file": samples.name, "sha256": digest_file(samples),
                        "rows": len(self.judged), "limit": self.request.limit,
                        "draws": self.request.draws},
            "table": {"file": self.out.name, "sha256": digest, **replaces},
            "verdicts": self.statuses, "known_before": self.known, "totals": self.totals,
            "seconds_per_verdict": seconds,
            "rates": {name: None if pd.isna(rate) else rate for name, rate in self.rates.items()}}


def _slug(monitor: Monitor, name: str = "") -> str:
    """Name of a monitor (or another one for it) and its prompt, fit for a file name."""
    name = name or monitor.name
    words = name if monitor.prompt == NO_PROMPT else f"{name}-{monitor.prompt}"
    text = re.sub(r"[^\w.]+", "-", words).strip("-.").lower() or "monitor"
    if len(text) <= LONGEST_NAME:
        return text
    digest = hashlib.sha256(words.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{text[:LONGEST_NAME - 9]}-{digest}"


def _rate_lines(found: dict[str, float]) -> list[str]:
    """MR and FAR with intervals and bounds; of a class that is not there, nothing is said."""
    lines = []
    for rate, words, kind in (("mr", "miss rate MR", "misbehaving"),
                              ("far", "false alarm rate FAR", "benign")):
        if not found or not found[f"n_{kind}"]:
            continue
        if pd.isna(found[rate]):
            lines.append(f"{words}: no verdict could be read")
            continue
        lines.append(f"{words}: {found[rate]:.3f}, 95 % interval {found[f'{rate}_low']:.3f} to "
                     f"{found[f'{rate}_high']:.3f}, of {found[f'n_{kind}']:,.0f} {kind}")
        if found[f"parsed_{kind}"] < 1:
            lines[-1] += (f"; between {found[f'{rate}_least']:.3f} and "
                          f"{found[f'{rate}_most']:.3f} with the failed verdicts")
    return lines


def _read_json(path: Path) -> dict[str, Any]:
    """Return what a manifest says; empty if there is none, or something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("settings"), dict) else {}


def _read_manifest(path: Path) -> dict[str, Any] | None:
    """Return the manifest of a table, or None if there is none that `score` wrote."""
    found = _read_json(path)
    try:
        _ = (found["monitor"], found["samples"]["sha256"], int(found["samples"]["draws"]),
             found["table"]["sha256"], found["verdicts"].items())
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return found


def check_alike(out: Path, manifest: Path, settings: Mapping[str, Any], way_out: str = "") -> None:
    """Raise ParameterError if what lies at `out` was made with other settings, or nobody knows."""
    earlier = _read_json(manifest)
    other = (_differing(earlier["settings"], settings) if earlier else
             ["it does not say how it was made"])
    if other:
        raise ParameterError(f"{out} was made otherwise ({'; '.join(other)}): give another --out"
                             f"{way_out}")


def _differing(there: Mapping[str, Any], here: Mapping[str, Any], above: str = "") -> list[str]:
    """Return in words where two settings differ, at most a few; `above` names what holds them."""
    found: list[str] = []
    for name in sorted({*there, *here}):
        old, new = there.get(name, "none"), here.get(name, "none")
        if isinstance(old, dict) and isinstance(new, dict):
            found += _differing(old, new, f"{above}{name}.")
        elif old != new:
            words = (json.dumps(value, ensure_ascii=False) for value in (old, new))
            shown = [text if len(text) <= 40 else f"{text[:16]}..." for text in words]
            found.append(f"{above}{name} {shown[0]} there, {shown[1]} here")
    return found if len(found) <= DIFFERENCES else [*found[:DIFFERENCES - 1], "and more"]


LIMITS = ("max_tokens", "max_completion_tokens", "max_new_tokens")  # keys of a monitor's settings
SHOWN = 160  # characters of a reason that a line repeats
THINKING = "thinking"  # the reader says so of a reply that ends inside it


def _advise(table: pd.DataFrame, settings: Mapping[str, Any],
            replies: Mapping[str, str] | None = None) -> list[str]:
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
    for status in (verdicts.TRUNCATED, verdicts.UNPARSED, verdicts.REFUSED, verdicts.ERROR):
        rows = table[table["status"] == status]
        if len(rows):
            reason = _commonest(rows["evidence"])
            if status == verdicts.TRUNCATED:
                words = _truncated(rows, reason, settings, replies or {})
            elif status == verdicts.ERROR:
                helps = _error_advice(reason) or "the column evidence says more"
                words = f"{reason}: {helps}; the same command asks again"
            else:
                words = f"{reason}: {WORDING['advice'][status + suffix]}"
            lines.append(f"{len(rows):,} {status}: {words}")
    parsed = table[table["status"] == verdicts.PARSED]
    unscored = int(parsed["score"].isna().sum())
    if settings.get("logprobs") and unscored:
        lines.append(f"{unscored:,} of {len(parsed):,} verdicts without a score: --read logits, "
                     "but the server sent no log-probabilities of the verdict; take one that does, "
                     "or hf:MODEL")
    return lines


def _error_advice(reason: str) -> str:
    """Return what helps against an error, from its reason; empty if nothing is known."""
    return next((words for shape, words in WORDING["errors"].items()
                 if re.search(shape, reason)), "")


def _truncated(rows: pd.DataFrame, reason: str, settings: Mapping[str, Any],
               replies: Mapping[str, str]) -> str:
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


def _reread(store: VerdictStore, table: pd.DataFrame, samples: pd.DataFrame, *,
           settings: Mapping[str, Any] | None = None, prompt: str = "",
           max_tokens: int = 0) -> _Reading:
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
    answers = dict.fromkeys(table["prompt"].unique(), load_prompt(prompt).answer if prompt else "")
    for name in answers if not prompt else ():
        with contextlib.suppress(MonitorError):  # no prompt of this name is known here
            answers[name] = load_prompt(name.partition(" (criteria ")[0]).answer
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
        answer = answers[row["prompt"]]
        fresh[key] = old.renewed(read_reply(old.reply, answer, finished=finished is not False,
                                            audited=f"{shown.request}\n{shown.response}"), answer)
        if (words := _change(old, fresh[key])):
            changes[words] += 1
    renewed = [
        row if (new := fresh.get(str(row["request_hash"]))) is None else
        {**row, "status": new.status, "verdict": new.verdict, "score": new.score,
         "evidence": files.writable(new.evidence or new.reason) or None}
        for row in table.astype(object).where(table.notna(), None).to_dict("records")]
    frame = pd.DataFrame(renewed, columns=VERDICTS.columns, dtype=object)
    return _Reading(fresh, VERDICTS.check(frame), dict(changes.most_common()),
                    {why: count for why, count in kept.items() if count}, unsure)


def _kept(old: Verdict | None, sample: Sample | None, answer: str,
          settings: Mapping[str, Any]) -> str:
    """Why an answer is not read again; empty if it is."""
    from monitorlab.monitors.api.replies import CUT_PROMPT, KEPT_BACK  # these bring openai along

    if old is None or not old.reply:
        return "have no text: they were computed, or the reply is empty"
    if old.reason.startswith((KEPT_BACK, CUT_PROMPT)):
        return "are the server's decision, not a reading"
    if settings.get("kind", READ_AGAIN[0]) not in READ_AGAIN:
        return "are of a monitor of another kind, such as one that asks others by their replies"
    if not answer:
        return "answer a prompt that is not known here: name its file with --prompt"
    if sample is None:
        return "are about a sample that the file of samples does not hold, or not with these texts"
    return ""


def _finished(old: Verdict, limit: int) -> bool | None:
    """Whether a reply ended by itself; None if nothing says so."""
    from monitorlab.monitors.api.replies import FINISHED, Reply

    if old.ending:
        return Reply.kind_of(old.ending) == FINISHED
    if old.status == verdicts.TRUNCATED:
        return False
    if not limit or old.output_tokens is None:
        return None
    return old.output_tokens < limit


def _change(old: Verdict, new: Verdict) -> str:
    """What became of what; empty if nothing changed that a table counts."""
    was, now = (("misbehavior" if one.verdict else "benign") if one.status == verdicts.PARSED
                else one.status for one in (old, new))
    if was == now and old.score == new.score:
        return ""
    return f"{was} -> {now}" + (", another score" if was == now else "")


def reread_file(store: Path, *, table: Path, samples: Path, out: Path | None = None,
                out_store: Path | None = None, prompt: str = "",
                max_tokens: Annotated[int, Option(show_default=False)] = 0) -> None:
    """Read a store again and write the new readings as a new store and a new table.

    The old files stay. A new one that is there already stays too if it would be the same, so the
    command may be given twice; anything else in its place is an error.

    Parameters
    ----------
    store : Path
        Stored answers, such as data/cache/verdicts/MONITOR.jsonl.
    table : Path
        Table of verdicts that they went into.
    samples : Path
        The file of samples that was judged.
    out : Path, optional
        New table. [default: TABLE with .reread in its name]
    out_store : Path, optional
        New store. [default: STORE with .reread in its name]
    prompt : str
        Monitor prompt, by name or file. [default: the table's]
    max_tokens : int
        Longest reply that was allowed. [default: the manifest's]

    Raises
    ------
    MonitorError
        If there is no store, an output would replace something, or its ending is unknown.
    SampleFileError, StoreError, TableFileError
        If samples, store or table cannot be read.
    """
    store, table, samples = (path.expanduser() for path in (store, table, samples))
    judged = load_samples(samples, echo)
    if not store.is_file():
        raise MonitorError(f"there is no store {store}: give the file of stored answers")
    out, out_store = (new or old.with_name(f"{old.stem}.reread{old.suffix}")
                      for new, old in ((out, table), (out_store, store)))
    if out.suffix.lower() not in ENDINGS:
        raise MonitorError(f"{out} has an unknown ending, expected one of {', '.join(ENDINGS)}: "
                           "name the new table with --out")
    answers, manifest = VerdictStore(store), _read_json(table.with_name(f"{table.name}.json"))
    found = _reread(answers, read_verdicts(table), judged, settings=manifest.get("settings"),
                   prompt=prompt, max_tokens=max_tokens)
    _write_new(out_store, lambda path: path.write_text(answers.text(found.verdicts), "ascii"))
    _write_new(out, lambda path: write_verdicts(found.table, path, out.suffix))
    counts = found.table["status"].value_counts()
    # Rates are left out: those of the old table are none of the new one.
    facts = {name: value for name, value in manifest.items() if name not in ("rates", "written")}
    facts |= {
        "table": {"file": out.name, "sha256": digest_file(out)},
        "verdicts": {status: int(counts.get(status, 0)) for status in STATUSES},
        "reread": {
            **{what: {"file": path.name, "sha256": digest_file(path)} for what, path in
               (("store", store), ("table", table), ("samples", samples))},
            "read": len(found.verdicts), "changes": found.changes, "kept": found.kept,
        },
    }
    _write_new(out.with_name(f"{out.name}.json"),
               lambda path: path.write_text(pretty_json(facts), "utf-8"))
    echo(f"{len(found.verdicts):,} stored replies read again, {sum(found.changes.values()):,} of "
         "them changed")
    for words, count in found.changes.items():
        echo(f"  {count:,} {words}")
    for why, count in found.kept.items():
        echo(f"{count:,} stored answers {why}; they stay as they are")
    if found.unsure:
        echo(f"{found.unsure:,} replies do not say whether they were cut off and were read as "
             "whole ones: --max-tokens tells the longest reply that was allowed")
    echo(f"Verdicts, one row each: {out}\nAnswers with the same keys: {out_store}. `score --store` "
         "takes it")


def _write_new(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file at once, unless the same is there; never in the place of another one."""
    with files.write_file_atomic(path) as temporary:
        write(temporary)
        if path.exists() and digest_file(path) != digest_file(temporary):
            raise MonitorError(f"{path} is there already and holds something else; it is kept. "
                               "Choose other names with --out and --out-store, or move it away")
