"""The numbers that matter, each with its own tolerance, after the golden notebooks have run."""

import json
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "metrics.json"


def test_metrics_stay_within_their_tolerance(golden_runs: str) -> None:
    if not GOLDEN.is_file():
        pytest.skip("no golden metrics frozen yet")
    check_metrics(Path(golden_runs) / "default", GOLDEN)


def check_metrics(run_folder: Path, golden: Path) -> None:
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
