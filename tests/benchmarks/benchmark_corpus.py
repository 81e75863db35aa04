"""Build the whole training corpus and print time, memory and what was left out.

    python tests/benchmarks/benchmark_corpus.py [--share 1.0] [--processes 2]

Everything counts: reading the library, composing the benchmark it is checked against, composing,
validating, removing near-duplicates, and writing parquet to a temporary folder.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

from monitorlab.benchmark.samples import whole_texts
from monitorlab.benchmark.scenarios.files import load_library
from monitorlab.benchmark.writing.corpus import Report, build_corpus
from monitorlab.benchmark.written import load_benchmark
from monitorlab.pipeline.artifacts import open_run, write_parts


def main() -> None:
    """Build, write, and print one line per figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    start, report = time.perf_counter(), Report()
    library = load_library()
    samples = load_benchmark()
    with tempfile.TemporaryDirectory() as folder:
        run = open_run("01_benchmark_construction", profile="cpu", seed=2026, root=Path(folder))
        parts = build_corpus(
            2026,
            arguments.share,
            arguments.processes,
            whole_texts(samples),
            library,
            report,
        )
        rows = write_parts(run, "corpus", parts)
        size = (run.folder / "corpus.parquet").stat().st_size
    own, largest_child = (
        resource.getrusage(who).ru_maxrss / 2**20
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    print(f"samples               {rows:,}")
    print(f"seconds               {time.perf_counter() - start:.0f}")
    print(f"peak memory, parent   {own:.2f} GiB")
    print(f"peak memory, children {largest_child:.2f} GiB each, {arguments.processes} of them")
    print(f"file                  {size / 2**20:.0f} MiB")
    print(f"no near-duplicate     {report.distinct_share:.2%} of {report.composed:,} composed")
    print(f"near a test sample    {report.near_test}")
    print(f"largest similarity    {report.largest_test_similarity:.2f} (test samples in one band)")


if __name__ == "__main__":
    main()
