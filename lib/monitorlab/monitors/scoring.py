"""The scoring loop: ask a monitor about samples, store every answer, go on where it stopped."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace

import pandas as pd

from monitorlab.display.progress import progress
from monitorlab.monitors.monitor import (
    Monitor,
    MonitorStop,
    Sample,
    SettingsChanged,
    request_key,
    samples_of,
)
from monitorlab.monitors.store import VerdictStore
from monitorlab.monitors.verdicts import ERROR, Verdict, failure, words_of
from monitorlab.storage.files import writable
from monitorlab.storage.tables import VERDICTS, check_frame

PATIENCE = 5  # units in a row that may fail before the monitor is given up


class ScoringError(RuntimeError):
    """Scoring stopped early; the message says why, and what is kept."""


def score(
    monitor: Monitor,
    samples: Sequence[Sample] | pd.DataFrame,
    store: VerdictStore | None = None,
    *,
    draws: int = 1,
    title: str = "",
    patience: int = PATIENCE,
) -> pd.DataFrame:
    """Judge samples, one after another unit, and return the table of verdicts.

    Parameters
    ----------
    monitor : Monitor
        See :mod:`monitorlab.monitors.monitor`.
    samples : sequence of Sample, or DataFrame
        With different ids; a table with ``sample_id``, ``request`` and ``response``. Samples with
        the same texts are asked about once.
    store : VerdictStore, optional
        Where answers are kept as they arrive; what it holds is not asked again.
    draws : int
        How often to ask about each sample, at least 1.
    title : str
        Caption of the progress bar; none is shown if empty.
    patience : int
        Units that may fail one after another before scoring is given up.

    Returns
    -------
    DataFrame
        Schema ``verdicts``, with a row for every sample and draw. A unit that raised has status
        ``error`` and the exception as evidence.

    Raises
    ------
    ScoringError
        If `patience` units failed in a row, or the monitor stopped itself. Answers that arrived
        are in the store; the same call goes on from there.

    Examples
    --------
    >>> from monitorlab import build_monitor, load_samples
    >>> verdicts = score(build_monitor("keywords"), load_samples("samples.jsonl"))
    >>> verdicts[["sample_id", "monitor", "status"]].head(1).to_string(header=False, index=False)
    's0 keywords parsed'
    """
    if draws < 1:
        raise ValueError(f"draws is {draws}, expected at least 1")
    if isinstance(samples, pd.DataFrame):
        samples = samples_of(samples)
    while True:
        try:
            return _scored(monitor, samples, store, draws, title, patience)
        except SettingsChanged:  # no thread asks any more: begin again, with new keys
            continue


def _scored(
    monitor: Monitor,
    samples: Sequence[Sample],
    store: VerdictStore | None,
    draws: int,
    title: str,
    patience: int,
) -> pd.DataFrame:
    """Score with the settings that the monitor has now."""
    settings = monitor.settings()
    keys = {(d, s.sample_id): request_key(settings, s, d) for d in range(draws) for s in samples}
    if len(keys) < draws * len(samples):
        raise ValueError("two samples have the same sample_id: give every sample its own")
    work, answers = _open_work(monitor, samples, keys, store, draws)

    def ask(unit: _Unit) -> dict[str, Verdict]:
        verdicts = judged(monitor, unit.samples, unit.draw)
        fresh = dict(zip(unit.keys, verdicts, strict=True))
        if store is not None:
            store.put(fresh)  # in the thread that asked: an interruption loses no answer
        return fresh

    done = _results(ask, work, monitor.workers, patience)
    for fresh in progress(done, title, len(work)) if title else done:
        # An answer takes the place of an error, never of another answer.
        answers.update({key: v for key, v in fresh.items()
                        if key not in answers or answers[key].status == ERROR})
    verdicts = {
        (draw, sample.sample_id): monitor.reread(answers[keys[draw, sample.sample_id]], sample)
        for draw in range(draws)
        for sample in samples
    }
    return _table(monitor, verdicts, keys)


@dataclass(frozen=True)
class _Unit:
    """Samples that are judged together, with the keys of their requests."""

    draw: int
    keys: tuple[str, ...]
    samples: tuple[Sample, ...]


def _open_work(
    monitor: Monitor,
    samples: Sequence[Sample],
    keys: Mapping[tuple[int, str], str],
    store: VerdictStore | None,
    draws: int,
) -> tuple[list[_Unit], dict[str, Verdict]]:
    """Units with a verdict still to get, and the verdicts that are known.

    A unit is judged as a whole if anything of it is missing: a batch of other samples would give
    floating-point numbers that differ in the last digits.
    """
    answers: dict[str, Verdict] = {}
    asked: set[str] = set()
    work = []
    split = monitor.units(samples)
    for draw in range(draws):
        for positions in split:
            chosen = tuple(samples[i] for i in positions)
            unit = _Unit(draw, tuple(keys[draw, s.sample_id] for s in chosen), chosen)
            if store is not None:
                answers.update({k: v for k in unit.keys if (v := store.get(k)) is not None})
            if not all(key in answers or key in asked for key in unit.keys):
                asked.update(unit.keys)
                work.append(unit)
    return work, answers


def judged(monitor: Monitor, samples: Sequence[Sample], draw: int) -> list[Verdict]:
    """Judge one unit, timed; an exception becomes its verdicts, except where all must stop."""
    started = time.perf_counter()
    try:
        verdicts = monitor.judge(samples, draw)
        if len(verdicts) != len(samples):
            raise ValueError(f"{len(verdicts)} verdicts for {len(samples)} samples")
        strange = [v for v in verdicts if not isinstance(v, Verdict)]
        if strange:
            raise TypeError(f"judge returned a {type(strange[0]).__name__}, expected a Verdict")
    except MonitorStop:
        raise
    except Exception as error:
        verdicts = [failure(ERROR, words_of(error))] * len(samples)
    share = (time.perf_counter() - started) / len(samples)
    return [v if v.seconds is not None else replace(v, seconds=share) for v in verdicts]


def _results(
    ask: Callable[[_Unit], dict[str, Verdict]], work: Sequence[_Unit], workers: int, patience: int
) -> Iterator[dict[str, Verdict]]:
    """Yield the verdicts of each unit as they come; several units at a time in threads."""
    failed = 0
    with ThreadPoolExecutor(max_workers=workers) as pool:
        waiting = iter(work)
        running: set[Future[dict[str, Verdict]]] = set()
        try:
            while True:
                for unit in itertools.islice(waiting, workers - len(running)):
                    running.add(pool.submit(ask, unit))
                if not running:
                    return
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    fresh = future.result()
                    yield fresh
                    broken = all(verdict.status == ERROR for verdict in fresh.values())
                    failed = failed + 1 if broken else 0
                    if failed >= patience:
                        last = next(iter(fresh.values())).reason
                        raise ScoringError(f"{failed} units failed in a row, the last with: {last}")
        except SettingsChanged:
            raise
        except MonitorStop as stop:
            raise ScoringError(str(stop)) from stop


def _table(
    monitor: Monitor,
    verdicts: Mapping[tuple[int, str], Verdict],
    keys: Mapping[tuple[int, str], str],
) -> pd.DataFrame:
    rows = [
        {
            "sample_id": sample_id,
            "monitor": monitor.name,
            "prompt": monitor.prompt,
            "draw": draw,
            "status": verdict.status,
            "verdict": verdict.verdict,
            "score": verdict.score,
            "evidence": writable(verdict.evidence or verdict.reason) or None,
            "input_tokens": verdict.input_tokens,
            "output_tokens": verdict.output_tokens,
            "seconds": verdict.seconds,
            "cost_usd": verdict.cost_usd,
            "request_hash": keys[draw, sample_id],
        }
        for (draw, sample_id), verdict in verdicts.items()
    ]
    return check_frame(pd.DataFrame(rows, columns=VERDICTS.columns), VERDICTS)
