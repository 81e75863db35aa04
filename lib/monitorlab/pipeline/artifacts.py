"""Artifacts: how one notebook hands typed tables to the next, and how a stale one is noticed.

A table is a parquet file in the folder of its run; the manifest beside it says what the run read,
wrote and was given. This module is the door for notebooks: it also offers `open_run`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from monitorlab.pipeline.digests import digest_table
from monitorlab.pipeline.files import write_file_atomic
from monitorlab.pipeline.runs import ArtifactError, Run, checked_name, open_run, read_manifest
from monitorlab.pipeline.schemas import Schema, SchemaError, check
from monitorlab.pipeline.tables import SCHEMAS

__all__ = ["ArtifactError", "Run", "open_run", "read_parts", "read_table", "stale_inputs",
           "write_parts", "write_table"]


def write_table(run: Run, name: str, frame: pd.DataFrame) -> None:
    """Check `frame` against its schema and write it as parquet, sorted by key.

    Raises
    ------
    SchemaError
        If the frame does not fit; nothing is written.
    ArtifactError
        If there is no such table, or the run is closed.
    """
    schema = _open_schema(run, name)
    typed = check(frame, schema)
    table = pa.Table.from_pandas(typed, schema=schema.arrow(), preserve_index=False)
    with write_file_atomic(run.folder / f"{name}.parquet") as temporary:
        pq.write_table(table, temporary, compression="zstd")
    run.outputs[name] = {"rows": table.num_rows, "digest": digest_table(table)}


def write_parts(run: Run, name: str, parts: Iterable[pd.DataFrame]) -> int:
    """Write a table that is too large for memory, part by part.

    Parameters
    ----------
    run : Run
        The open run.
    name : str
        Table name.
    parts : iterable of DataFrame
        Checked against the schema one by one; the order is kept, keys are unique across parts.

    Returns
    -------
    int
        Rows written.

    Raises
    ------
    SchemaError
        If a part does not fit, or repeats a key; nothing is written.
    """
    schema = _open_schema(run, name)
    digest, rows = hashlib.sha256(), 0
    keys: set[int] = set()
    with (
        write_file_atomic(run.folder / f"{name}.parquet") as temporary,
        pq.ParquetWriter(temporary, schema.arrow(), compression="zstd") as writer,
    ):
        for part in parts:
            if part.empty:
                continue
            typed = check(part, schema)
            keys.update(pd.util.hash_pandas_object(typed[list(schema.key)], index=False))
            rows += len(typed)
            if len(keys) != rows:
                raise SchemaError(f"table {name!r}: a key of {schema.key} is in two parts.")
            table = pa.Table.from_pandas(typed, schema=schema.arrow(), preserve_index=False)
            writer.write_table(table, row_group_size=len(typed))
            digest.update(digest_table(table).encode())
    run.outputs[name] = {"rows": rows, "digest": digest.hexdigest(), "parts": True}
    return rows


def read_parts(run: Run, notebook: str, name: str) -> Iterator[pd.DataFrame]:
    """Read a table that `write_parts` wrote, part by part, and record it as an input.

    Parameters
    ----------
    run : Run
        The reader.
    notebook : str
        Stem of the notebook that wrote the table; the reader's own to read back.
    name : str
        Table name.

    Yields
    ------
    DataFrame
        Typed by the schema.

    Raises
    ------
    ArtifactError
        As `read_table`; a file that was changed is noticed after its last part.
    """
    schema = _schema(name)
    folder, outputs, command = _written(run, notebook, name)
    path = folder / f"{name}.parquet"
    if not path.exists():
        raise ArtifactError(f"{path} is gone, although its run is complete. Run the notebook "
                            f"again: {command}")
    if not outputs[name].get("parts"):
        raise ArtifactError(f"table {name!r} of {notebook} was written as a whole: use read_table.")
    if notebook != run.notebook:
        run.inputs[f"{notebook}/{name}"] = {
            "rows": outputs[name]["rows"], "digest": outputs[name]["digest"],
        }  # fmt: skip
    digest = hashlib.sha256()
    try:
        with pq.ParquetFile(path) as file:
            _same_columns(file.schema_arrow, schema, path, command)
            for group in range(file.num_row_groups):
                table = file.read_row_group(group)
                digest.update(digest_table(table).encode())
                yield check(table.to_pandas(), schema)
    except pa.ArrowException as error:
        raise ArtifactError(f"{path} is not readable as parquet ({error}). Run the notebook "
                            f"again: {command}") from error
    if digest.hexdigest() != outputs[name]["digest"]:
        raise ArtifactError(f"table {name!r} of {notebook} was changed after it was written. "
                            f"Run the notebook again: {command}")


def read_table(run: Run, notebook: str, name: str) -> pd.DataFrame:
    """Read a table that `notebook` wrote in the same run, and record it as an input.

    Parameters
    ----------
    run : Run
        The reader.
    notebook : str
        Stem of the notebook that wrote the table; the reader's own to read back.
    name : str
        Table name.

    Returns
    -------
    DataFrame
        Typed by the schema, sorted by key.

    Raises
    ------
    ArtifactError
        If the table is missing, its run unfinished, of another profile or seed, or stale, or
        the file was changed after it was written. The message names the notebook to run.
    """
    schema = _schema(name)
    folder, outputs, command = _written(run, notebook, name)
    if outputs[name].get("parts"):
        raise ArtifactError(f"table {name!r} of {notebook} was written in parts: use read_parts.")
    table = _read_parquet(folder / f"{name}.parquet", schema, command)
    digest = digest_table(table)
    if digest != outputs[name]["digest"]:
        raise ArtifactError(f"table {name!r} of {notebook} was changed after it was written: found "
                            f"content {digest[:12]}, expected {outputs[name]['digest'][:12]}. "
                            f"Run the notebook again: {command}")
    if notebook != run.notebook:
        run.inputs[f"{notebook}/{name}"] = {"rows": table.num_rows, "digest": digest}
    return check(table.to_pandas(), schema)


def _written(run: Run, notebook: str, name: str) -> tuple[Path, dict[str, Any], str]:
    """Folder, recorded outputs and command of the notebook that wrote a table."""
    folder = run.folder.parent / checked_name(notebook, "notebook")
    command = f"python -m monitorlab run {notebook[:2]} --profile {run.profile.name} " \
              f"--run-id {run.run_id}"
    if notebook == run.notebook:
        outputs = run.outputs
    else:
        outputs = _finished_manifest(run, folder, name, command)["outputs"]
    if name not in outputs:
        known = ", ".join(outputs) or "no table"
        raise ArtifactError(f"notebook {notebook} wrote {known} in run {run.run_id!r}, but not "
                            f"{name!r}. Run it again: {command}")
    return folder, outputs, command


def stale_inputs(folder: Path, _seen: frozenset[str] = frozenset()) -> list[str]:
    """Say why the results in a run folder are out of date; an empty list means they are not.

    Parameters
    ----------
    folder : Path
        `data/runs/<run_id>/<notebook>`, with a manifest.

    Returns
    -------
    list of str
        One sentence per input that has changed since, upstream runs included.
    """
    manifest = read_manifest(folder) or {}
    reasons = []
    for name, recorded in manifest.get("inputs", {}).items():
        notebook, _, table = name.partition("/")
        if notebook in ("source", "file") or notebook in _seen:
            continue
        upstream = read_manifest(folder.parent / notebook)
        if upstream is None or upstream["status"] != "complete":
            state = "is gone" if upstream is None else f"is {upstream['status']}"
            reasons.append(f"{folder.name} read {table!r} of {notebook}, whose run {state}")
        elif upstream["outputs"].get(table, {}).get("digest") != recorded["digest"]:
            reasons.append(f"{folder.name} read an older {table!r} of {notebook}")
        else:
            reasons += stale_inputs(folder.parent / notebook, _seen | {folder.name})
    return list(dict.fromkeys(reasons))


def _finished_manifest(run: Run, folder: Path, table: str, command: str) -> dict[str, Any]:
    """Return the producer's manifest, or say why its tables must not be read."""
    notebook, manifest = folder.name, read_manifest(folder)
    if manifest is None:
        raise ArtifactError(f"table {table!r} is missing: notebook {notebook} has not been run in "
                            f"run {run.run_id!r}. Run it first: {command}")
    if manifest["status"] != "complete":
        raise ArtifactError(f"notebook {notebook} did not finish in run {run.run_id!r} (status "
                            f"{manifest['status']!r}): its {table!r} cannot be trusted. "
                            f"Run it again: {command}")
    for name, mine in (("profile", run.profile.name), ("seed", run.seed)):
        if manifest[name] != mine:
            raise ArtifactError(
                f"notebook {notebook} was run with {name} {manifest[name]!r}, this one has "
                f"{mine!r}, in the same run {run.run_id!r}. Run it again with the same {name}"
                f" ({command} -p SEED={run.seed}) or choose another RUN_ID."
            )
    reasons = stale_inputs(folder)
    if reasons:
        raise ArtifactError(f"table {table!r} of {notebook} is stale: {'; '.join(reasons)}. "
                            f"Run {notebook} again: {command}")
    return manifest


def _read_parquet(path: Path, schema: Schema, command: str) -> pa.Table:
    if not path.exists():
        raise ArtifactError(f"{path} is gone, although its run is complete. Run the notebook "
                            f"again: {command}")
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise ArtifactError(f"{path} is not readable as parquet ({error}). Run the notebook "
                            f"again: {command}") from error
    _same_columns(table.schema, schema, path, command)
    return table


def _same_columns(found: pa.Schema, schema: Schema, path: Path, command: str) -> None:
    if found.names != schema.columns or found.types != schema.arrow().types:
        raise ArtifactError(f"{path} holds columns {', '.join(found.names)}, the schema now "
                            f"says {', '.join(schema.columns)}. Run the notebook again: {command}")


def _open_schema(run: Run, name: str) -> Schema:
    """Schema of a table that is about to be written."""
    if run.status != "running":
        raise ArtifactError(f"cannot write {name!r}: the run of {run.notebook} is {run.status}. "
                            "Write before run.close(), or run the notebook again.")
    return _schema(name)


def _schema(name: str) -> Schema:
    if name not in SCHEMAS:
        raise ArtifactError(f"unknown table {name!r}: expected one of {', '.join(SCHEMAS)}. "
                            "A new table needs a schema in pipeline/schemas.py.")
    return SCHEMAS[name]
