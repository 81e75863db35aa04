"""The benchmark as a Hugging Face dataset folder: parquet files, a card, and Croissant metadata."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
from jinja2 import Template

from monitorlab.benchmark.written import COUNTS
from monitorlab.monitors.monitor import Sample
from monitorlab.monitors.prompts import load_prompt
from monitorlab.storage.files import PROJECT, digest_file, pretty_json, write_folder_atomic
from monitorlab.storage.manifests import Results
from monitorlab.storage.tables import BENCHMARK

CARD, CROISSANT, HARNESS = "README.md", "croissant.json", "lm_eval"
TEXT = PROJECT / "data" / "dataset_card.md"
NEIGHBOURS = TEXT.parent / "neighbours"
TITLE = "# Paired misbehavior benchmark of monitorlab"  # first line of its text
PROBES = ("length", "response words")
_CROISSANT_TYPES = {"string": "sc:Text", "large_string": "sc:Text", "int64": "sc:Integer",
                    "bool": "sc:Boolean"}
SAMPLES_NOTEBOOK, AUDIT_NOTEBOOK = "01_benchmark_construction", "02_annotation_and_audit"


class ExportError(RuntimeError):
    """There is nothing to export, or the folder is taken."""


def export_run(run_folder: Path, to: Path) -> int:
    """Export the benchmark that a run built and audited.

    Parameters
    ----------
    run_folder : Path
        ``data/runs/<run_id>``, with finished notebooks 01 and 02.
    to : Path
        Folder to write; an earlier export there is replaced as a whole.

    Returns
    -------
    int
        Samples written.

    Raises
    ------
    ArtifactError
        If a notebook has not been run, did not finish, is stale, or was run with another profile
        or seed than the other, or a table was changed: as for a notebook that reads them.
    ExportError
        If the audit is of other samples or lacks a figure, or the folder holds something else.
    """
    built, audited = Results(run_folder / SAMPLES_NOTEBOOK), Results(run_folder / AUDIT_NOTEBOOK)
    made = built.finished()
    audit = audited.finished(made["profile"], made["seed"])
    outputs, metrics = made["outputs"], audit["metrics"]
    again = f"Run it again: {audited.command(made['profile'])} -p SEED={made['seed']}"
    if f"{SAMPLES_NOTEBOOK}/samples" not in audit["inputs"]:
        raise ExportError(f"notebook {AUDIT_NOTEBOOK} did not read the samples of this run. "
                          f"{again}")
    lacking = [name for cell in COUNTS for name in _probes(cell) if name not in metrics]
    if lacking:
        raise ExportError(f"notebook {AUDIT_NOTEBOOK} recorded no {lacking[0]}. {again}")
    names = ["samples", *({"real_samples"} & set(outputs))]
    samples, *real = (built.table(name, made) for name in names)
    return export(samples, to, made["seed"], metrics, *real)


def export(
    samples: pd.DataFrame, to: str | Path, seed: int = 2026,
    metrics: Mapping[str, float] | None = None, real: pd.DataFrame | None = None,
) -> int:
    """Write a dataset folder that ``datasets.load_dataset`` and ``mlcroissant`` read.

    Beside the tables it holds a task of lm-evaluation-harness, in ``lm_eval``.

    Parameters
    ----------
    samples : DataFrame
        Schema ``samples``.
    to : str or Path
        The folder.
    seed : int
        Of the build; recorded in the card.
    metrics : mapping of str to float, optional
        Figures of the audit for the card, see `dataset_card`; it says which are missing.
    real : DataFrame, optional
        Real pairs, a configuration of their own.

    Returns
    -------
    int
        Samples written.

    Raises
    ------
    ExportError
        If `to` exists and is not an earlier export.

    Examples
    --------
    >>> from monitorlab import load_benchmark
    >>> export(load_benchmark(), "benchmark")
    3010
    """
    to = Path(to)
    if to.exists() and not _is_export(to):
        raise ExportError(f"{to} exists and is no earlier export. Choose another folder.")
    with write_folder_atomic(to) as folder:
        (folder / "builtin").mkdir()
        for split, part in samples.groupby("split"):
            part.to_parquet(folder / "builtin" / f"{split}.parquet", index=False)
        if real is not None:
            (folder / "real").mkdir()
            real.to_parquet(folder / "real" / "test.parquet", index=False)
        text = dataset_card(samples, seed, metrics or {}, real is not None)
        (folder / CARD).write_text(text, encoding="utf-8")
        described = text.partition(TITLE)[2].partition("| cell |")[0]  # the card's first paragraphs
        _write_harness_task(samples[samples["split"] == "test"], folder / HARNESS)
        metadata = _croissant(folder, " ".join(described.split()))
        (folder / CROISSANT).write_text(pretty_json(metadata), encoding="utf-8")
    return len(samples) + (0 if real is None else len(real))


def _is_export(folder: Path) -> bool:
    """Whether a folder is empty, or holds an earlier export and nothing else."""
    if not folder.is_dir():
        return False
    found = {path.name for path in folder.iterdir()}
    if not found:
        return True
    ours = {CARD, CROISSANT, HARNESS, "builtin", "real"}
    return ({CARD, "builtin"} <= found <= ours
            and TITLE in (folder / CARD).read_text(encoding="utf-8", errors="replace"))


def dataset_card(samples: pd.DataFrame, seed: int, metrics: Mapping[str, float], real: bool) -> str:
    """Dataset card with measured figures.

    Parameters
    ----------
    samples : DataFrame
        Schema ``samples``.
    seed : int
        Of the build.
    metrics : mapping of str to float
        ``agreement.kappa`` and ``probe.<cell>.<probe>`` from the audit.
    real : bool
        Whether the folder holds real pairs.

    Returns
    -------
    str
        Markdown with the header that the hub reads.
    """
    rows = []
    for cell in COUNTS:
        part = samples[samples["cell"] == cell]
        figures = " | ".join(f"{metrics[name]:.2f}" if name in metrics else "not measured"
                              for name in _probes(cell))
        rows.append(f"| {cell} | {len(part)} | {part['scenario_id'].nunique()} | {figures} |")
    kappa = metrics.get("agreement.kappa")
    agreement = "not measured for this build" if kappa is None else f"Cohen's kappa {kappa:.3f}"
    card = Template(TEXT.read_text(encoding="utf-8"), trim_blocks=True, keep_trailing_newline=True)
    return card.render(n=len(samples), seed=seed, rows="\n".join(rows), agreement=agreement,
                       real=real)


def _write_harness_task(samples: pd.DataFrame, folder: Path) -> None:
    """Write the task of lm-evaluation-harness beside its samples, which hold their prompt."""
    shutil.copytree(NEIGHBOURS / HARNESS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    prompt = load_prompt("direct")
    users = [prompt.messages(sample)[1]["content"] for sample in Sample.rows(samples)]
    told = samples.filter(["sample_id", "scenario_id", "cell", "tier", "label"])
    told.assign(prompt=users).to_json(folder / "test.jsonl", orient="records", lines=True)
    (folder / "system.txt").write_text(prompt.system, encoding="utf-8")


def _croissant(folder: Path, description: str) -> dict[str, Any]:
    """Croissant 1.0 metadata: each parquet file with its digest, as a record set with its fields.

    A field says what the schema says of the column. Paths are relative, so that the folder may
    move; whoever publishes it adds the address. Source: https://docs.mlcommons.org/croissant/.
    """
    files = sorted(folder.rglob("*.parquet"))
    ids = {path: path.relative_to(folder).as_posix() for path in files}
    meanings = {field.name: field.meaning for field in BENCHMARK.fields}
    records = [
        {"@type": "cr:RecordSet", "@id": name, "name": name, "key": {"@id": f"{name}/sample_id"},
         "field": [{"@type": "cr:Field", "@id": f"{name}/{column.name}", "name": column.name,
                    "description": meanings.get(column.name, column.name),
                    "dataType": _CROISSANT_TYPES[str(column.type)],
                    "source": {"fileObject": {"@id": ids[path]},
                               "extract": {"column": column.name}}}
                   for column in pq.read_schema(path)]}
        for path in files for name in [f"{path.parent.name}_{path.stem}"]
    ]
    head = json.loads((NEIGHBOURS / CROISSANT).read_text(encoding="utf-8"))
    return head | {
        "description": description,
        "distribution": [
            {"@type": "cr:FileObject", "@id": ids[path], "name": ids[path],
             "contentUrl": ids[path], "encodingFormat": "application/x-parquet",
             "contentSize": f"{path.stat().st_size} B", "sha256": digest_file(path)}
            for path in files
        ],
        "recordSet": records,
    }


def _probes(cell: str) -> list[str]:
    return [f"probe.{cell}.{name}" for name in PROBES]
