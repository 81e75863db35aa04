"""Which tests stay together when two processes share them (`pytest -n 2 --dist loadgroup`)."""

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep each file in one process, and all golden notebooks: a later one reads an earlier one."""
    for item in items:
        golden = item.path.parent.name == "golden"
        item.add_marker(pytest.mark.xdist_group("golden" if golden else str(item.path)))
