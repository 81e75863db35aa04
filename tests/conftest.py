"""One collection of garbage for the whole session: what was imported is never garbage."""

import gc

import pytest


def pytest_collection_finish(session: pytest.Session) -> None:
    """Take the objects of all imported modules out of the garbage collector's sight.

    They are more than a million once torch and transformers are there, and every tiny training
    asks for full collections that would walk through all of them again.
    """
    gc.collect()
    gc.freeze()
