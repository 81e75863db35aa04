"""The scenario library and the benchmark, read once for all tests that need them."""

import pytest

from monitorlab.benchmark.scenarios.files import Scenario
from monitorlab.benchmark.writing.composition import Pair
from monitorlab.benchmark.written import WrittenPair


@pytest.fixture(scope="session")
def library() -> list[Scenario]:
    return Scenario.load_library()


@pytest.fixture(scope="session")
def composed_pairs(library: list[Scenario]) -> list[Pair]:
    """Two pairs of every scenario."""
    return [Pair.compose(scenario, number, 7) for scenario in library for number in range(2)]


@pytest.fixture(scope="session")
def benchmark_pairs() -> list[WrittenPair]:
    """All pairs of the benchmark."""
    return WrittenPair.load()
