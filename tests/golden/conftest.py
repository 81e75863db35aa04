"""Let nbval run the golden notebooks as `monitorlab freeze` froze them.

Used by `pytest --nbval --nbval-sanitize-with tests/golden/nbval.cfg tests/golden`. Kernels get the
project root as working folder, the runner's environment, and folders of their own for runs and
checkpoints that all notebooks of one session share, so a later one reads what an earlier wrote.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import nbval.plugin
import pytest

from monitorlab.pipeline.runner import SKIPPED_TYPES, WIDGET, _isolated_runs, _kernel_environment
from monitorlab.storage.sources import project_root

_session = ExitStack()
_variables: dict[str, str] = {}


def golden_variables() -> dict[str, str]:
    """Return the folders of this session, made on first use."""
    if not _variables:
        _variables.update(_session.enter_context(_isolated_runs()))
    return _variables


class ProjectKernel(nbval.plugin.RunningKernel):
    """nbval's kernel, in the project root and with the runner's environment."""

    def __init__(self, kernel_name: str, cwd: str | None = None, startup_timeout: int = 60):
        with _kernel_environment("tiny", golden_variables()):
            super().__init__("python3", cwd=str(project_root()), startup_timeout=startup_timeout)

    def get_message(self, stream: str, timeout: float | None = None) -> Any:
        """Read a progress bar as a saved notebook does: as the text that replaced it."""
        while True:
            message = super().get_message(stream, timeout)
            if message["msg_type"] == "update_display_data":
                message = {**message, "msg_type": "display_data"}
            if message["msg_type"] == "display_data" and WIDGET in message["content"]["data"]:
                continue
            return message


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Compare text only; the goldens hold no pictures and no HTML."""
    if isinstance(collector, nbval.plugin.IPyNbFile):
        nbval.plugin.RunningKernel = ProjectKernel
        collector.skip_compare += SKIPPED_TYPES


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the notebooks by number and the metrics last, whatever the command line said."""
    here = [i for i, item in enumerate(items) if item.path.parent.name == "golden"]
    order = sorted((items[i] for i in here), key=lambda item: item.path.name)
    for i, item in zip(here, order, strict=True):
        items[i] = item


def pytest_unconfigure() -> None:
    """Remove the folders of this session."""
    _session.close()


@pytest.fixture
def golden_runs(request: pytest.FixtureRequest) -> str:
    """Folder of the runs that this session made; skips when notebooks are not executed."""
    if not request.config.getoption("nbval") or not _variables:
        pytest.skip("golden notebooks run with --nbval only")
    return _variables["MONITORLAB_RUNS"]
