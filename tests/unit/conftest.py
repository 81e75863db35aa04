"""The scenario library and the benchmark, read and composed once for all tests that need them."""

import pytest

from monitorlab.benchmark.scenarios import files as scenario_files
from monitorlab.benchmark.scenarios.files import Scenario
from monitorlab.benchmark.writing import construction
from monitorlab.benchmark.writing.composition import Pair


@pytest.fixture(scope="session")
def library() -> list[Scenario]:
    return scenario_files.load_library()


@pytest.fixture(scope="session")
def benchmark_pairs(library: list[Scenario]) -> list[Pair]:
    """All pairs of the benchmark with seed 7."""
    return construction.build_pairs(7, library)
