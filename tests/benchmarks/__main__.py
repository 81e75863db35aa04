"""Measure every speed that the project claims, each script in its own process.

    python tests/benchmarks [--quick] [NAME ...]

With all scripts at full size, the table goes to tests/BENCHMARKS.md and .json. Exit code 1 says
that a ratio is below what is required, or that a script failed.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from table import Row, markdown, missed

from monitorlab.pipeline.runner import _kernel_variables

HERE = Path(__file__).resolve().parent
NAMES = sorted(path.stem.removeprefix("benchmark_") for path in HERE.glob("benchmark_*.py"))
THREADS = {"live": 2, "scoring": 2}  # one everywhere else
PACKAGES = ("numpy", "pandas", "torch", "transformers", "trl", "e-valuator")


def rows_of(name: str, quick: bool) -> list[Row]:
    """Rows of one script, run with the threads it is meant for and a kernel's memory settings."""
    threads = str(min(THREADS.get(name, 1), os.cpu_count() or 1))
    settings = {**_kernel_variables("cpu", os.environ), "OMP_NUM_THREADS": threads}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.json"
        subprocess.run([sys.executable, HERE / f"benchmark_{name}.py", "--out", out,
                        *["--quick"] * quick], env={**os.environ, **settings}, check=True)
        return [Row(**row) for row in json.loads(out.read_text())]


def machine() -> dict[str, str]:
    """Where and when this was measured."""
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines()
             if line.startswith("model name")] if info.exists() else []
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return {
        "date": datetime.date.today().isoformat(), "processor": (names or [platform.machine()])[0],
        "cores": str(os.cpu_count()), "load at the end": load,
        "python": platform.python_version(), **{name: version(name) for name in PACKAGES},
    }


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python tests/benchmarks")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--quick", action="store_true", help="small sizes, nothing required")
    asked = parser.parse_args()
    if unknown := set(asked.names) - set(NAMES):
        parser.error(f"there is no {', '.join(sorted(unknown))}: expected some of {NAMES}")
    rows: list[Row] = []
    broken = []
    for name in asked.names or NAMES:
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            rows += rows_of(name, asked.quick)
        except subprocess.CalledProcessError:  # it has said why; the others go on
            broken.append(name)
    where = machine()
    text = ("# Speeds\n\nEach is a ratio measured in one process, by turns (`make benchmark`); "
            "times hold for this machine alone:\n"
            + ", ".join(f"{key} {value}" for key, value in where.items())
            + ".\nCPU time of one thread; two threads and wall time for the scoring engine and the "
            f"cached reader.\n\n{markdown(rows)}\n")
    print(text)
    if not asked.names and not asked.quick and not broken:
        (HERE.parent / "BENCHMARKS.md").write_text(text)
        content = {"machine": where, "rows": [asdict(row) for row in rows]}
        (HERE.parent / "BENCHMARKS.json").write_text(json.dumps(content, indent=1) + "\n")
    late = [] if asked.quick else missed(rows)
    for row in late:
        print(f"{row.claim}: {row.ratio:.3g}, required {row.required:g}", file=sys.stderr)
    if broken:
        print(f"not measured: {', '.join(broken)}, for the reasons above", file=sys.stderr)
    sys.exit(bool(late or broken))


if __name__ == "__main__":
    main()
