"""The real pairs of a run, from the files that are in the cache."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from monitorlab.benchmark.sources import programs, texts
from monitorlab.benchmark.sources.records import Loaded
from monitorlab.pipeline.runs import Run
from monitorlab.storage.tables import SAMPLES, check_frame


@dataclass(frozen=True)
class _RealPairs:
    """All sources together.

    Attributes
    ----------
    samples : DataFrame
        Pairs, in the columns of `samples`.
    flaws : DataFrame
        `sample_id, step, n_steps, start, end`: the first wrong step (from 0) of flawed chains,
        which is ``response[start:end]``.
    dropped : DataFrame
        `source, unit, reason, count`; the unit is "problem" or "answer". Problems that are kept
        and problems that are dropped add up to those of the files.
    overview : DataFrame
        See :func:`_sources_table`.
    unpaired : DataFrame
        Clear transcripts of sources that have no pairs, in the columns of `samples`, with a
        `pair_id` of their own; not part of `samples`.
    """

    samples: pd.DataFrame
    flaws: pd.DataFrame
    dropped: pd.DataFrame
    overview: pd.DataFrame
    unpaired: pd.DataFrame


def _source_keys() -> list[str]:
    """Keys of `data/sources.toml` that `load` reads."""
    return [
        texts.KEY,
        *(f"reflexion/{name}" for name in programs.RUNS),
        *texts.PROCESSBENCH.values(),
        *(f"bigbench_mistake/{task}.jsonl" for task in texts.MISTAKE_TASKS),
        texts.hh_key(),
        *(f"lie_detector/{kind.folder}/{texts.JUDGE}.json"
          for kind in texts.CATEGORIES.values()),
        *programs.WEAKNESSES,
    ]


def _combine(sources: Iterable[Loaded]) -> _RealPairs:
    """Put loaded sources together; samples are sorted by `sample_id`, the rest by source."""
    parts = list(sources)
    return _RealPairs(
        check_frame(_stacked(part.samples for part in parts), SAMPLES),
        _stacked(part.flaws for part in parts),
        _stacked(part.dropped for part in parts),
        _sources_table(parts),
        check_frame(_stacked(part.unpaired for part in parts), SAMPLES),
    )


def _sources_table(sources: Iterable[Loaded]) -> pd.DataFrame:
    """Return one row per source, also for those without pairs.

    Returns
    -------
    DataFrame
        `source, cell, pairs, problems, words_benign, words_misbehaving` (means; missing without
        pairs), `unpaired` (clear answers without a partner), `checked` (labels computed again),
        `disagreements` (of those, how many differ from the file's own flag), `label_from`.
    """
    rows = []
    for source in sources:
        samples = source.samples
        words = samples["response"].str.split().str.len().groupby(samples["label"]).mean()
        rows.append({
            "source": source.origin.source, "cell": source.origin.cell,
            "pairs": samples["pair_id"].nunique(), "problems": samples["scenario_id"].nunique(),
            "words_benign": float(words.get(0, float("nan"))),
            "words_misbehaving": float(words.get(1, float("nan"))),
            "unpaired": len(source.unpaired), "checked": source.checked,
            "disagreements": source.disagreements, "label_from": source.origin.label_from,
        })  # fmt: skip
    return pd.DataFrame(rows)


def _stacked(frames: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """One frame under the other; empty ones would only change the types of the columns."""
    parts = list(frames)
    filled = [frame for frame in parts if len(frame)]
    return pd.concat(filled or parts[:1], ignore_index=True)


def load(run: Run) -> _RealPairs | None:
    """Real pairs for a run of a notebook.

    Parameters
    ----------
    run : Run
        Its profile says whether the open tier is wanted; what is read is recorded as an input.

    Returns
    -------
    _RealPairs or None
        None where the profile leaves the open tier out, or files are neither cached nor within
        reach; a line says which.

    Raises
    ------
    SourceError
        If a file cannot be had, or is not the listed one.
    RealDataError
        If a file does not read as expected.
    """
    if not run.has_open(_source_keys()):
        return None
    get = run.fetch
    return _combine([
        texts.gsm8k_solutions(get),
        programs.reflexion_runs(get),
        *(texts.processbench(get, part) for part in texts.PROCESSBENCH),
        *(texts.bigbench_mistake(get, task) for task in texts.MISTAKE_TASKS),
        texts.hh_rlhf(get, texts.hh_key()),
        *(texts.lie_detector(get, category) for category in texts.CATEGORIES),
        programs.cweval(get),
        programs.sven(get),
    ])
