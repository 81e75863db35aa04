"""The benchmark as a Hugging Face dataset folder: parquet files and a card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from monitorlab.benchmark.written import COUNTS
from monitorlab.storage.files import write_folder_atomic
from monitorlab.storage.manifests import finished_manifest, load_table, run_command

CARD = "README.md"
TEXT = Path(__file__).resolve().parents[3] / "data" / "dataset_card.md"
TITLE = "# Paired misbehavior benchmark of monitorlab"  # first line of it
PROBES = ("length", "response words")
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
    built, audited = run_folder / SAMPLES_NOTEBOOK, run_folder / AUDIT_NOTEBOOK
    made = finished_manifest(built)
    audit = finished_manifest(audited, made["profile"], made["seed"])
    outputs, metrics = made["outputs"], audit["metrics"]
    again = f"Run it again: {run_command(audited, made['profile'])} -p SEED={made['seed']}"
    if f"{SAMPLES_NOTEBOOK}/samples" not in audit["inputs"]:
        raise ExportError(f"notebook {AUDIT_NOTEBOOK} did not read the samples of this run. "
                          f"{again}")
    lacking = [name for cell in COUNTS for name in _probes(cell) if name not in metrics]
    if lacking:
        raise ExportError(f"notebook {AUDIT_NOTEBOOK} recorded no {lacking[0]}. {again}")
    tables = {
        name: load_table(built, name, outputs, run_command(built, made["profile"]))
        for name in ("samples", "real_samples") if name == "samples" or name in outputs
    }
    return export(
        tables["samples"], to, seed=made["seed"], metrics=metrics, real=tables.get("real_samples"),
    )


def export(
    samples: pd.DataFrame,
    to: str | Path,
    seed: int = 2026,
    metrics: Mapping[str, float] | None = None,
    real: pd.DataFrame | None = None,
) -> int:
    """Write a dataset folder that ``datasets.load_dataset`` reads.

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
    return len(samples) + (0 if real is None else len(real))


def _is_export(folder: Path) -> bool:
    """Whether a folder is empty, or holds an earlier export and nothing else."""
    if not folder.is_dir():
        return False
    found = {path.name for path in folder.iterdir()}
    if not found:
        return True
    readme = folder / CARD
    text = readme.read_text(encoding="utf-8", errors="replace") if readme.is_file() else ""
    return found <= {CARD, "builtin", "real"} and "builtin" in found and TITLE in text


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
    configs = [
        "- config_name: builtin",
        "  default: true",
        "  data_files:",
        "  - {split: dev, path: builtin/dev.parquet}",
        "  - {split: test, path: builtin/test.parquet}",
    ]
    if real:
        configs += [
            "- config_name: real",
            "  data_files:",
            "  - {split: test, path: real/test.parquet}",
        ]
    rows = []
    for cell in COUNTS:
        part = samples[samples["cell"] == cell]
        figures = " | ".join(f"{metrics[name]:.2f}" if name in metrics else "not measured"
                              for name in _probes(cell))
        rows.append(f"| {cell} | {len(part)} | {part['scenario_id'].nunique()} | {figures} |")
    text, about_real = TEXT.read_text(encoding="utf-8").split("<!-- real -->")
    kappa = metrics.get("agreement.kappa")
    agreement = "not measured for this build" if kappa is None else f"Cohen's kappa {kappa:.3f}"
    header = ["---", "license: mit", "language: [en]", "configs:", *configs, "---", ""]
    return (
        "\n".join(header)
        + text.format(n=len(samples), seed=seed, rows="\n".join(rows), agreement=agreement)
        + (about_real if real else "")
    )


def _probes(cell: str) -> list[str]:
    return [f"probe.{cell}.{name}" for name in PROBES]
