"""The scoring loop: ask a monitor about samples, store every answer, go on where it stopped."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import math
import os
import secrets
import signal
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from monitorlab.display import progress
from monitorlab.monitors.monitor import Monitor, MonitorStop, Sample, SettingsChanged
from monitorlab.monitors.store import VerdictStore
from monitorlab.monitors.verdicts import ERROR, Verdict
from monitorlab.storage.files import writable
from monitorlab.storage.tables import VERDICTS

PATIENCE = 5  # units in a row that may fail before the monitor is given up
BLOCK = 4  # units that an actor of Ray gets at a time
RESTARTS = 3  # times that actors of Ray may die


class ScoringError(RuntimeError):
    """Scoring stopped early; the message says why, and what is kept."""


def score(
    monitor: Monitor, samples: Sequence[Sample] | pd.DataFrame, store: VerdictStore | None = None,
    *, draws: int = 1, title: str = "", patience: int = PATIENCE, actors: int = 0,
    build: Callable[[], Monitor] | None = None,
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
    actors : int
        Processes of Ray that judge; 0 for this process alone. They fill the file of `store`, which
        has to be opened again to read from it what they said.
    build : callable, optional
        Makes a monitor like `monitor`; each of `actors` calls it once.

    Returns
    -------
    DataFrame
        Schema ``verdicts``, with a row for every sample and draw. A unit that raised has status
        ``error`` and the exception as evidence.

    Raises
    ------
    ScoringError
        If `patience` units failed in a row, the monitor stopped itself, or Ray did. Answers that
        arrived are in the store; the same call goes on from there.

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
        samples = Sample.rows(samples)
    judge: _Judge = functools.partial(_in_threads, monitor, store)
    if actors:
        if build is None or store is None:
            raise ValueError("actors need a store, and build to make their monitors")
        judge = functools.partial(_on_ray, actors, build, store, monitor.settings())
    while True:
        try:
            return _scored(monitor, samples, store, draws, title, patience, judge)
        except SettingsChanged:  # no thread asks any more: begin again, with new keys
            continue


def _scored(
    monitor: Monitor, samples: Sequence[Sample], store: VerdictStore | None, draws: int, title: str,
    patience: int, judge: _Judge,
) -> pd.DataFrame:
    """Score with the settings that the monitor has now."""
    settings = monitor.settings()
    keys = {(d, s.sample_id): s.key(settings, d) for d in range(draws) for s in samples}
    if len(keys) < draws * len(samples):
        raise ValueError("two samples have the same sample_id: give every sample its own")
    work, answers = _open_work(monitor, samples, keys, store, draws)

    done = _patient(judge(work), patience)
    for fresh in progress(done, title, len(work)) if title else done:
        answers.update(fresh)
    rows = []
    for draw, sample in itertools.product(range(draws), samples):
        key = keys[draw, sample.sample_id]
        verdict = monitor.reread(answers[key], sample)
        rows.append(vars(verdict) | {
            "sample_id": sample.sample_id, "monitor": monitor.name, "prompt": monitor.prompt,
            "draw": draw, "request_hash": key,
            "evidence": writable(verdict.evidence or verdict.reason) or None})
    return VERDICTS.check(pd.DataFrame(rows, columns=VERDICTS.columns))


@dataclass(frozen=True)
class _Unit:
    """Samples that are judged together, with the keys of their requests."""

    draw: int
    keys: tuple[str, ...]
    samples: tuple[Sample, ...]


def _open_work(
    monitor: Monitor, samples: Sequence[Sample], keys: Mapping[tuple[int, str], str],
    store: VerdictStore | None, draws: int,
) -> tuple[list[_Unit], dict[str, Verdict]]:
    """Units with a verdict still to get, and the verdicts that are known.

    A unit is stored at once, but for its errors. So what one of them lacks has failed before or is
    new, and is judged without the others: a sample that is too long for a model must not have a
    whole unit asked again. Every other unit stays as it is, because a batch of other samples would
    give floating-point numbers that differ in the last digits.
    """
    answers: dict[str, Verdict] = {}
    asked: set[str] = set()
    work: list[_Unit] = []
    split = monitor.units(samples)

    def unit_of(draw: int, chosen: Sequence[Sample]) -> _Unit:
        return _Unit(draw, tuple(keys[draw, s.sample_id] for s in chosen), tuple(chosen))

    for draw in range(draws):
        rest: list[Sample] = []
        for positions in split:
            unit = unit_of(draw, [samples[i] for i in positions])
            answers.update(_known(store, unit))
            missing = [key not in answers and key not in asked for key in unit.keys]
            if all(missing):
                work.append(unit)
            else:
                rest += itertools.compress(unit.samples, missing)
            asked.update(unit.keys)
        for positions in monitor.units(rest) if rest else ():
            work.append(unit_of(draw, [rest[i] for i in positions]))
    return work, answers


def _known(store: VerdictStore | None, unit: _Unit) -> dict[str, Verdict]:
    return {} if store is None else {key: store[key] for key in unit.keys if key in store}


def judged(monitor: Monitor, samples: Sequence[Sample], draw: int) -> list[Verdict]:
    """Judge one unit, timed; an exception becomes its verdicts, except where all must stop."""
    started = time.perf_counter()
    try:
        verdicts = monitor.judge(samples, draw)
        if len(verdicts) != len(samples):
            raise ValueError(f"{len(verdicts)} verdicts for {len(samples)} samples")
        if strange := [v for v in verdicts if not isinstance(v, Verdict)]:
            raise TypeError(f"judge returned a {type(strange[0]).__name__}, expected a Verdict")
    except MonitorStop:
        raise
    except Exception as error:
        verdicts = [Verdict.failure(ERROR, Verdict.words_of(error))] * len(samples)
    share = (time.perf_counter() - started) / len(samples)
    return [v if v.seconds is not None else replace(v, seconds=share) for v in verdicts]


_Judge = Callable[[Sequence[_Unit]], Generator[dict[str, Verdict]]]


def _patient(done: Generator[dict[str, Verdict]], patience: int) -> Iterator[dict[str, Verdict]]:
    """Pass on the verdicts of each unit until too many fail in a row, or the monitor stops."""
    failed = 0
    try:
        with contextlib.closing(done):  # also when the reader is interrupted
            for fresh in done:
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


def _asked(monitor: Monitor, store: VerdictStore | None, unit: _Unit) -> dict[str, Verdict]:
    fresh = dict(zip(unit.keys, judged(monitor, unit.samples, unit.draw), strict=True))
    if store is not None:
        store.put(fresh)  # where it was asked: an interruption loses no answer
    return fresh


def _in_threads(
    monitor: Monitor, store: VerdictStore | None, work: Sequence[_Unit]
) -> Generator[dict[str, Verdict]]:
    """Yield the verdicts of each unit as they come; several units at a time."""
    with ThreadPoolExecutor(max_workers=monitor.workers) as pool:
        waiting = iter(work)
        running: set[Future[dict[str, Verdict]]] = set()
        while True:
            for unit in itertools.islice(waiting, monitor.workers - len(running)):
                running.add(pool.submit(_asked, monitor, store, unit))
            if not running:
                return
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in finished)


def _on_ray(
    actors: int, build: Callable[[], Monitor], store: VerdictStore, settings: Mapping[str, Any],
    work: Sequence[_Unit],
) -> Generator[dict[str, Verdict]]:
    """Yield the verdicts of each unit as they come, from actors of Ray Data on this machine."""
    if not work:
        return
    # Ray reads them when it is imported: no report of its use, no words of its own, and nobody else
    # on the network may use its ports, which it opens to all.
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal",
                   "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex()}
    import ray
    from ray.data import ActorPoolStrategy, DataContext, from_items

    stop = signal.getsignal(signal.SIGTERM)
    with (tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder,
          open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere)):
        try:
            with _muted():
                ray.init("local", num_cpus=actors, include_dashboard=False, log_to_driver=False,
                         logging_level=logging.CRITICAL, _node_ip_address="127.0.0.1",
                         _temp_dir=folder)
            signal.signal(signal.SIGTERM, stop)  # Ray has put its own in its place
            logging.getLogger("ray.data").setLevel(logging.CRITICAL)
            context = DataContext.get_current()
            context.enable_progress_bars = False
            context.enable_fallback_to_arrow_object_ext_type = True  # units are pickled
            gpus = ray.cluster_resources().get("GPU", 0)
            answers = from_items(
                [{"unit": unit} for unit in work], override_num_blocks=math.ceil(len(work) / BLOCK)
            ).map(
                _Actor, fn_constructor_args=(
                    build, store.path, settings, Path(folder, "starts"), actors + RESTARTS),
                compute=ActorPoolStrategy(size=actors), num_cpus=1,
                num_gpus=1 / math.ceil(actors / gpus) if gpus else None)
            for row in answers.iter_rows():
                if isinstance(row["answer"], str):
                    raise MonitorStop(row["answer"])
                yield row["answer"]
        except MonitorStop:
            raise
        except Exception as error:
            raise MonitorStop(f"Ray ended with {Verdict.words_of(error)}") from error
        finally:
            ray.shutdown()


@contextlib.contextmanager
def _muted() -> Iterator[None]:
    """Keep from the terminal what is not Python's: Ray says there how little it is to say."""
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


class _Actor:
    """A monitor in a process of Ray, which begins again with what is stored if it is killed."""

    def __init__(
        self, build: Callable[[], Monitor], path: Path, settings: Mapping[str, Any],
        starts: Path, most: int,
    ) -> None:
        with starts.open("ab") as stream:
            stream.write(b".")
        self._build, self._path, self._settings = build, path, settings
        self._dying = starts.stat().st_size > most

    @functools.cached_property
    def _parts(self) -> tuple[Monitor, VerdictStore]:
        if self._dying:
            raise MonitorStop("processes of Ray died again and again, as for want of memory: judge "
                              "without --engine ray to see why, or with fewer --workers")
        monitor = self._build()
        if monitor.settings() != self._settings:
            raise MonitorStop("the settings of the monitor have changed: give the command again")
        return monitor, VerdictStore(self._path)

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Judge a unit; in place of its verdicts, say why all must stop."""
        try:
            (monitor, store), unit = self._parts, row["unit"]
            known = _known(store, unit)
            whole = all(key in known for key in unit.keys)
            return {"answer": known if whole else _asked(monitor, store, unit)}
        except MonitorStop as stop:
            return {"answer": str(stop)}
        except Exception as error:
            return {"answer": f"an actor of Ray failed with {Verdict.words_of(error)}"}
