"""The real pairs of a run, from the files that are in the cache."""

from __future__ import annotations

from monitorlab.benchmark.sources.programs import reflexion_runs
from monitorlab.benchmark.sources.real_pairs import RealPairs, combine, source_keys
from monitorlab.benchmark.sources.solutions import (
    MISTAKE_TASKS,
    PROCESSBENCH,
    bigbench_mistake,
    gsm8k_solutions,
    processbench,
)
from monitorlab.benchmark.sources.transcripts import CATEGORIES, hh_rlhf, lie_detector
from monitorlab.pipeline.runs import Run


def load(run: Run) -> RealPairs | None:
    """Real pairs for a run of a notebook.

    Parameters
    ----------
    run : Run
        Its profile says whether the open tier is wanted; what is read is recorded as an input.

    Returns
    -------
    RealPairs or None
        None where the profile leaves the open tier out, or files are neither cached nor within
        reach; a line says which.

    Raises
    ------
    SourceError
        If a file cannot be had, or is not the listed one.
    RealDataError
        If a file does not read as expected.
    """
    if not run.has_open(source_keys()):
        return None
    get = run.fetch
    return combine([
        gsm8k_solutions(get),
        reflexion_runs(get),
        *(processbench(get, part) for part in PROCESSBENCH),
        *(bigbench_mistake(get, task) for task in MISTAKE_TASKS),
        hh_rlhf(get),
        *(lie_detector(get, category) for category in CATEGORIES),
    ])
