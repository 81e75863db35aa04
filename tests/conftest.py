"""One collection of garbage for the whole session, and the check of the golden metrics."""

import gc
import json
from collections.abc import Callable
from pathlib import Path

import pytest


def pytest_collection_finish(session: pytest.Session) -> None:
    """Take the objects of all imported modules out of the garbage collector's sight.

    They are more than a million once torch and transformers are there, and every tiny training
    asks for full collections that would walk through all of them again.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture
def check_metrics() -> Callable[[Path, Path], None]:
    """What compares the metrics of a run with the golden ones, each by its own tolerance."""
    return _check_metrics


def _check_metrics(run_folder: Path, golden: Path) -> None:
    """Compare `metrics.json` of every notebook in a run folder with the references.

    Parameters
    ----------
    run_folder : Path
        `<runs>/<run_id>`, with one folder per notebook.
    golden : Path
        `{"06_step_signals": {"name": {"value": x, "atol": y}}}`.

    Raises
    ------
    AssertionError
        Names every metric that is missing, new or further off than its tolerance.
    """
    expected = json.loads(golden.read_text(encoding="utf-8"))
    problems = []
    for stem, references in expected.items():
        path = run_folder / stem / "metrics.json"
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        problems += [f"{stem}/{name}: no reference" for name in found.keys() - references.keys()]
        for name, reference in references.items():
            value, wanted, atol = found.get(name), reference["value"], reference["atol"]
            if value is None:
                problems.append(f"{stem}/{name}: missing, expected {wanted}")
            elif not abs(value - wanted) <= atol:  # so that NaN counts as a difference
                problems.append(f"{stem}/{name}: {value} instead of {wanted} +- {atol}")
    if problems:
        raise AssertionError("metrics left their tolerance:\n  " + "\n  ".join(sorted(problems)))
