"""Fixtures of the tests that use tiny models or published files."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from monitorlab.storage.sources import SourceError, fetch


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Tiny tensors on several threads mostly wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def get() -> Callable[[str], Path]:
    """Key of `data/sources.toml` to a verified file; the test is skipped where it cannot be had."""

    def fetched(key: str) -> Path:
        try:
            return fetch(key)
        except SourceError as error:
            pytest.skip(f"open tier not available: {error}")

    return fetched
