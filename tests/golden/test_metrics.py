"""The numbers that matter, each with its own tolerance, after the golden notebooks have run."""

from collections.abc import Callable
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "metrics.json"


def test_metrics_stay_within_their_tolerance(
    golden_runs: str, check_metrics: Callable[[Path, Path], None]
) -> None:
    if not GOLDEN.is_file():
        pytest.skip("no golden metrics frozen yet")
    check_metrics(Path(golden_runs) / "default", GOLDEN)
