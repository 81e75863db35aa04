"""Golden notebooks: frozen executions that `pytest --nbval` compares with fresh ones.

Only the text of outputs is kept, in files that do not change unless a result does: cell ids come
from the position, metadata is stripped, pictures and HTML are dropped, and outputs of cells tagged
`nbval-ignore-output` are cleared. The same kernel environment serves freezing and testing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import platform
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from monitorlab.pipeline.notebooks import Notebook
from monitorlab.pipeline.records import executed_path
from monitorlab.pipeline.runner import Options, execute
from monitorlab.storage.files import write_text_atomic

IGNORE_TAG = "nbval-ignore-output"
# Mime types that are compared. conftest.py tells nbval to skip all others.
COMPARED_TYPES = ("text/plain", "text/markdown")
SKIPPED_TYPES = ("text/html", "text/latex", "image/svg+xml", "image/png", "image/jpeg",
                 "application/json", "application/javascript")
WIDGET = "application/vnd.jupyter.widget-view+json"
# A training of some hundred steps turns a last digit into other weights, and processors round
# differently with wider registers. So goldens compute with the registers that all x86 machines of
# the last ten years have. Elsewhere what is trained may leave its tolerances.
_PROCESSOR = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2",
              "ONEDNN_MAX_CPU_ISA": "AVX2"}

_UNSTABLE = {
    "an absolute path": re.compile(r"(?<![\w.:/<])/(?:[\w.@+-]+/)+[\w.@+-]+|\b[A-Za-z]:\\\w"),
    "a time": re.compile(
        r"\b\d+(?:\.\d+)? ?(?:s|ms|sec|secs|seconds|minutes|it/s)\b|\b\d\d:\d\d\b"
    ),
    "a date": re.compile(r"\b20\d\d-\d\d-\d\d\b"),
    "a memory address": re.compile(r"\b0x[0-9a-f]{6,}\b"),
}


class RegressionError(AssertionError):
    """A golden notebook that cannot be frozen, or a metric that left its tolerance."""


def freeze(
    notebooks: Sequence[Notebook],
    golden: Path,
    options: Options | None = None,
    report: Callable[[str], None] = print,
) -> tuple[Path, ...]:
    """Execute notebooks with their own defaults and write golden copies.

    Parameters
    ----------
    notebooks : sequence of Notebook
        All of them, in order: a later one reads tables of an earlier one.
    golden : Path
        Folder of the golden notebooks and of `metrics.json`.
    options : Options, optional
        Working folder and time limit; runs and checkpoints go to a temporary folder.
    report : callable
        Receives one line per file.

    Returns
    -------
    tuple of Path
        The golden notebooks. Nothing is written unless all of them succeed.

    Raises
    ------
    RunError
        If a cell fails.
    RegressionError
        If a cell wrote to stderr, or a compared output holds a path, a time, a date or an
        address; the message lists all such cells of the notebook.
    """
    import nbformat

    texts, metrics = {}, {}
    with _isolated_runs() as variables:
        runs = Path(variables["MONITORLAB_RUNS"])
        options = dataclasses.replace(options or Options(), runs=runs, variables=variables)
        for notebook in notebooks:
            record = execute(notebook, {}, options, notebook.stem)
            path = executed_path(runs, record.run_id, notebook.stem)
            document = _normalize(nbformat.read(path, as_version=4))
            _refuse_unstable(notebook.stem, document)
            texts[notebook.stem] = nbformat.writes(document) + "\n"
            measured = runs / record.run_id / notebook.stem / "metrics.json"
            if measured.is_file():
                metrics[notebook.stem] = json.loads(measured.read_text(encoding="utf-8"))
    for stem, text in texts.items():
        write_text_atomic(golden / f"{stem}.ipynb", text)
        report(f"froze {stem}.ipynb")
    _freeze_metrics(metrics, golden / "metrics.json", report)
    return tuple(golden / f"{stem}.ipynb" for stem in texts)


@contextlib.contextmanager
def _isolated_runs() -> Iterator[dict[str, str]]:
    """Yield environment variables: empty folders for runs and checkpoints, and the processor."""
    with tempfile.TemporaryDirectory(prefix="monitorlab-golden-") as folder:
        variables = {name: str(Path(folder) / part) for name, part in
                     (("MONITORLAB_RUNS", "runs"), ("MONITORLAB_CHECKPOINTS", "checkpoints"))}
        for path in variables.values():
            Path(path).mkdir()
        x86 = platform.machine().lower() in ("x86_64", "amd64")
        yield variables | (_PROCESSOR if x86 else {})


def _normalize(document: Any) -> Any:
    """Return an executed notebook without anything that may differ between two equal runs.

    Raises
    ------
    RegressionError
        If a cell wrote to stderr.
    """
    import nbformat

    cells = []
    for position, cell in enumerate(document.cells):
        kept = nbformat.from_dict({
            "id": f"cell-{position:03d}",
            "cell_type": cell.cell_type,
            "metadata": {"tags": list(tags)} if (tags := cell.metadata.get("tags")) else {},
            "source": cell.source,
        })
        if cell.cell_type == "code":
            _refuse_stderr(position, cell)
            ignored = IGNORE_TAG in cell.metadata.get("tags", [])
            kept["execution_count"] = cell.execution_count
            kept["outputs"] = [] if ignored else _plain_outputs(cell.outputs)
        cells.append(kept)
    return nbformat.from_dict({
        "cells": cells,
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    })


def _unstable_outputs(document: Any) -> list[str]:
    """Say which compared outputs hold a path, a time, a date or an address."""
    found = []
    for number, cell in enumerate(c for c in document.cells if c.cell_type == "code"):
        for text in _texts(cell.outputs):
            for what, pattern in _UNSTABLE.items():
                match = pattern.search(text)
                if match:
                    found.append(f"code cell {number + 1} shows {what}: {match.group(0)!r}")
    return found


def _freeze_metrics(
    measured: Mapping[str, Mapping[str, float]], path: Path, report: Callable[[str], None] = print
) -> None:
    """Write measured values as references, keeping the tolerances that a person has set.

    A new metric gets a tolerance of 5 %, at least 0.01, and a line that asks for a better one.
    """
    old = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    new: dict[str, dict[str, dict[str, float]]] = {}
    for stem, values in sorted(measured.items()):
        new[stem] = {}
        for name, value in sorted(values.items()):
            known = old.get(stem, {}).get(name, {}).get("atol")
            if known is None:
                report(f"new metric {stem}/{name}: check its tolerance in {path.name}")
            atol = known if known is not None else round(max(0.05 * abs(value), 0.01), 4)
            new[stem][name] = {"value": value, "atol": atol}
    write_text_atomic(path, json.dumps(new, indent=2) + "\n")


def check_metrics(run_folder: Path, golden: Path) -> None:
    """Compare `metrics.json` of every notebook in a run folder with the references.

    Parameters
    ----------
    run_folder : Path
        `<runs>/<run_id>`, with one folder per notebook.
    golden : Path
        `{"06_step_signals": {"name": {"value": x, "atol": y}}}`.

    Raises
    ------
    RegressionError
        Names every metric that is missing, new or further off than its tolerance.
    """
    expected = json.loads(golden.read_text(encoding="utf-8"))
    problems = []
    for stem, references in expected.items():
        path = run_folder / stem / "metrics.json"
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        problems += [f"{stem}/{name}: no reference" for name in found.keys() - references.keys()]
        for name, reference in references.items():
            value, wanted, atol = found.get(name), reference["value"], reference["atol"]
            if value is None:
                problems.append(f"{stem}/{name}: missing, expected {wanted}")
            elif not abs(value - wanted) <= atol:  # so that NaN counts as a difference
                problems.append(f"{stem}/{name}: {value} instead of {wanted} +- {atol}")
    if problems:
        raise RegressionError("metrics left their tolerance:\n  " + "\n  ".join(sorted(problems)))


def _plain_outputs(outputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Keep streams and the compared texts; a progress bar keeps its last line of text."""
    kept = []
    for output in outputs:
        data = output.get("data", {})
        if WIDGET in data:
            continue
        plain = {key: output[key] for key in ("name", "text", "execution_count") if key in output}
        if data:
            plain["data"] = {kind: data[kind] for kind in COMPARED_TYPES if kind in data}
            plain["metadata"] = {}
            if not plain["data"]:
                continue
        kept.append({"output_type": output["output_type"]} | plain)
    return kept


def _refuse_stderr(position: int, cell: Any) -> None:
    said = "".join(o.text for o in cell.outputs if o.get("name") == "stderr")
    if said:
        first = said.strip().splitlines()[0]
        raise RegressionError(
            f"cell {position + 1} wrote to stderr: {first!r}. Fix the warning at its source; "
            "golden notebooks must be silent there."
        )


def _refuse_unstable(stem: str, document: Any) -> None:
    found = _unstable_outputs(document)
    if found:
        raise RegressionError(
            f"{stem} cannot be frozen:\n  " + "\n  ".join(found)
            + f"\nLeave it out of the output, or tag the cell {IGNORE_TAG}."
        )


def _texts(outputs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for output in outputs:
        if "text" in output:
            yield str(output["text"])
        for kind in COMPARED_TYPES:
            if kind in output.get("data", {}):
                yield str(output["data"][kind])
