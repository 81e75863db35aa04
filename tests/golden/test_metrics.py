"""The numbers that matter, each with its own tolerance, after the golden notebooks have run."""

from pathlib import Path

import pytest

from monitorlab.pipeline.runner import check_metrics

GOLDEN = Path(__file__).parent / "metrics.json"


def test_metrics_stay_within_their_tolerance(golden_runs: str) -> None:
    if not GOLDEN.is_file():
        pytest.skip("no golden metrics frozen yet")
    check_metrics(Path(golden_runs) / "default", GOLDEN)
