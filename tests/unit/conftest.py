"""The scenario library and the benchmark, read and composed once for all tests that need them."""

import pytest

from monitorlab.benchmark import construction, scenario_files
from monitorlab.benchmark.composition import Pair
from monitorlab.benchmark.scenario_files import Scenario


@pytest.fixture(scope="session")
def library() -> list[Scenario]:
    return scenario_files.load_library()


@pytest.fixture(scope="session")
def benchmark_pairs(library: list[Scenario]) -> list[Pair]:
    """All pairs of the benchmark with seed 7."""
    return construction.build_pairs(7, library)
