"""How a kernel is started, for the runner and for the regression tests alike.

Which kernels are installed on a machine, and which IPython start-up files a user has, must not
matter: for as long as a context lasts, the name `python3` means the interpreter that runs this
code, through a private kernel specification and an empty IPython folder. The environment of a
kernel is part of a result (hash seed, offline mode) and of its speed (allocator).
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

KERNEL_NAME = "python3"

# glibc returns large blocks to the system after every tensor; keeping them makes training on a
# CPU 1.3 to 2 times faster, because page faults dominate otherwise. Read before Python starts.
_ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "4000000000",
    "MALLOC_TRIM_THRESHOLD_": "8000000000",
    "MALLOC_TOP_PAD_": "268435456",
}
_FIXED = {"PYTHONHASHSEED": "0", "TOKENIZERS_PARALLELISM": "false"}


def kernel_variables(profile: str, existing: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables to set for a kernel.

    Parameters
    ----------
    profile : str
        In every profile but "gpu" the model hub is switched off, unless the user chose.
    existing : mapping of str to str
        The present environment. Allocator settings that are already there are kept.
    """
    variables = dict(_FIXED)
    variables |= {name: value for name, value in _ALLOCATOR.items() if name not in existing}
    if profile != "gpu" and "HF_HUB_OFFLINE" not in existing:
        variables["HF_HUB_OFFLINE"] = "1"
    return variables


@contextlib.contextmanager
def kernel_environment(profile: str, extra: Mapping[str, str] | None = None) -> Iterator[None]:
    """Set the environment that kernels inherit, and restore it afterwards.

    Parameters
    ----------
    profile : str
        Name of the profile of the run.
    extra : mapping of str to str, optional
        Further variables, for example `MONITORLAB_RUNS`.
    """
    with tempfile.TemporaryDirectory(prefix="monitorlab-kernel-") as folder:
        write_kernelspec(Path(folder))
        search = os.pathsep.join(filter(None, [folder, os.environ.get("JUPYTER_PATH", "")]))
        variables = kernel_variables(profile, os.environ) | dict(extra or {})
        with _environment(variables | {"JUPYTER_PATH": search, "IPYTHONDIR": folder}):
            yield


def write_kernelspec(folder: Path) -> None:
    """Write `kernels/python3/kernel.json` for the running interpreter into `folder`.

    The log level hides what ipykernel itself logs to the terminal, such as a warning about
    unencrypted loopback traffic once per kernel. Errors of a cell are messages and unaffected.
    """
    target = folder / "kernels" / KERNEL_NAME
    target.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}",
            "--log-level=CRITICAL", "--HistoryManager.enabled=False"]
    spec = {"argv": argv, "display_name": "Python 3", "language": "python"}
    (target / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
