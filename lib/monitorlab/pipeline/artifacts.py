"""Artifacts: how one notebook hands typed tables to the next, and how a stale one is noticed.

A table is a parquet file in the folder of its run; the manifest beside it says what the run read,
wrote and was given. This module is the door for notebooks: it also offers `open_run`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from monitorlab.pipeline.files import digest_file, digest_table, write_file_atomic
from monitorlab.pipeline.runs import (
    MANIFEST,
    ArtifactError,
    Run,
    checked_name,
    open_run,
    read_manifest,
    run_command,
)
from monitorlab.pipeline.schemas import Schema, SchemaError, check_frame
from monitorlab.pipeline.tables import SCHEMAS

__all__ = ["ArtifactError", "Run", "check_file", "finished_manifest", "load_table", "open_run",
           "read_parts", "read_table", "stale_inputs", "unchanged_tables", "write_parts",
           "write_table"]


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
    typed = check_frame(frame, schema)
    table = pa.Table.from_pandas(typed, schema=schema.arrow(), preserve_index=False)
    with write_file_atomic(run.folder / f"{name}.parquet") as temporary:
        pq.write_table(table, temporary, compression="zstd")
        file = digest_file(temporary)
    run.outputs[name] = {"rows": table.num_rows, "digest": digest_table(table), "file": file}


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
    with write_file_atomic(run.folder / f"{name}.parquet") as temporary:
        with pq.ParquetWriter(temporary, schema.arrow(), compression="zstd") as writer:
            for part in parts:
                if part.empty:
                    continue
                typed = check_frame(part, schema)
                keys.update(pd.util.hash_pandas_object(typed[list(schema.key)], index=False))
                rows += len(typed)
                if len(keys) != rows:
                    raise SchemaError(f"table {name!r}: a key of {schema.key} is in two parts.")
                table = pa.Table.from_pandas(typed, schema=schema.arrow(), preserve_index=False)
                writer.write_table(table, row_group_size=len(typed))
                digest.update(digest_table(table).encode())
        file = digest_file(temporary)
    run.outputs[name] = {
        "rows": rows, "digest": digest.hexdigest(), "file": file, "parts": True,
    }  # fmt: skip
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
        As `read_table`, before the first part.
    """
    schema = _schema(name)
    folder, outputs, command = _written(run, notebook, name)
    path = _unchanged(folder, name, outputs, command, parts=True)
    _record_input(run, notebook, name, outputs)
    with pq.ParquetFile(path) as file:
        _same_columns(file.schema_arrow, schema, path, command)
        for group in range(file.num_row_groups):
            yield check_frame(file.read_row_group(group).to_pandas(), schema)


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
    folder, outputs, command = _written(run, notebook, name)
    frame = load_table(folder, name, outputs, command)
    _record_input(run, notebook, name, outputs)
    return frame


def load_table(
    folder: Path, name: str, outputs: Mapping[str, Any], command: str
) -> pd.DataFrame:
    """Read one table of a notebook's folder after comparing it with what was recorded of it.

    Parameters
    ----------
    folder : Path
        `<runs>/<run_id>/<notebook>`.
    name : str
        Table name, one of `outputs`.
    outputs : mapping
        As the manifest has them; see `finished_manifest`.
    command : str
        What makes the table again, for the error.

    Raises
    ------
    ArtifactError
        If the file is gone, changed in any byte, or does not fit the schema of today.
    """
    schema = _schema(name)
    path = _unchanged(folder, name, outputs, command, parts=False)
    with pq.ParquetFile(path) as file:
        _same_columns(file.schema_arrow, schema, path, command)
        return check_frame(file.read().to_pandas(), schema)


def finished_manifest(
    folder: Path, profile: str | None = None, seed: int | None = None
) -> dict[str, Any]:
    """Return the manifest of a notebook whose tables may be read, or say why they may not.

    Parameters
    ----------
    folder : Path
        `<runs>/<run_id>/<notebook>`.
    profile, seed : str and int, optional
        Of the reader; not compared where not given.

    Raises
    ------
    ArtifactError
        If the notebook has not been run, did not finish, was run with another profile or seed, or
        is stale. The message names the notebook to run.
    """
    notebook, run_id, manifest = folder.name, folder.parent.name, read_manifest(folder)
    command = run_command(folder, profile or (manifest or {}).get("profile", ""))
    if manifest is None:
        raise ArtifactError(f"notebook {notebook} has not been run in run {run_id!r}. Run it "
                            f"first: {command}")
    if manifest["status"] != "complete":
        raise ArtifactError(f"notebook {notebook} did not finish in run {run_id!r} (status "
                            f"{manifest['status']!r}): its tables cannot be trusted. "
                            f"Run it again: {command}")
    for name, mine in (("profile", profile), ("seed", seed)):
        if mine is not None and manifest[name] != mine:
            raise ArtifactError(
                f"notebook {notebook} was run with {name} {manifest[name]!r}, this one has "
                f"{mine!r}, in the same run {run_id!r}. Run it again with the same {name} "
                f"({command}{'' if seed is None else f' -p SEED={seed}'}) or choose another RUN_ID."
            )
    reasons = stale_inputs(folder)
    if reasons:
        raise ArtifactError(f"notebook {notebook} is stale: {'; '.join(reasons)}. "
                            f"Run it again: {command}")
    return manifest


def unchanged_tables(
    folder: Path, manifest: Mapping[str, Any], names: Iterable[str] | None = None
) -> None:
    """Compare tables of a finished notebook with what was recorded of them.

    Parameters
    ----------
    folder : Path
        `<runs>/<run_id>/<notebook>`.
    manifest : mapping
        Of that notebook; see `finished_manifest`.
    names : iterable of str, optional
        Which tables, as a notebook names what it reads; all if not given.

    Raises
    ------
    ArtifactError
        If a file is gone or changed in any byte.
    """
    wanted = None if names is None else {name.rpartition("/")[2] for name in names}
    for name in manifest["outputs"]:
        if wanted is None or name in wanted:
            command = run_command(folder, manifest["profile"])
            _unchanged(folder, name, manifest["outputs"], command)


def check_file(path: Path) -> None:
    """Refuse a table of a run that the door would refuse; any other file passes.

    For readers of users' files, to whom somebody may give a table of a run.

    Raises
    ------
    ArtifactError
        As `finished_manifest` and `load_table`.
    """
    folder, name = path.absolute().parent, path.stem
    if path.suffix == ".parquet" and name in SCHEMAS and (folder / MANIFEST).is_file():
        manifest = finished_manifest(folder)
        if name in manifest["outputs"]:
            _unchanged(folder, name, manifest["outputs"], run_command(folder, manifest["profile"]))


def _written(run: Run, notebook: str, name: str) -> tuple[Path, dict[str, Any], str]:
    """Folder, recorded outputs and command of the notebook that wrote a table."""
    _schema(name)
    folder = run.folder.parent / checked_name(notebook, "notebook")
    command = run_command(folder, run.profile.name)
    if notebook == run.notebook:
        outputs = run.outputs
    else:
        outputs = finished_manifest(folder, run.profile.name, run.seed)["outputs"]
    return folder, outputs, command


def _record_input(run: Run, notebook: str, name: str, outputs: Mapping[str, Any]) -> None:
    if notebook != run.notebook:
        run.inputs[f"{notebook}/{name}"] = {key: outputs[name][key] for key in ("rows", "digest")}


def _unchanged(
    folder: Path, name: str, outputs: Mapping[str, Any], command: str, parts: bool | None = None
) -> Path:
    """Return the path of a table whose bytes are those that were written."""
    if name not in outputs:
        known = ", ".join(outputs) or "no table"
        raise ArtifactError(f"notebook {folder.name} wrote {known} in run {folder.parent.name!r}, "
                            f"but not {name!r}. Run it again: {command}")
    if parts is not None and parts != outputs[name].get("parts", False):
        how = "as a whole: use read_table" if parts else "in parts: use read_parts"
        raise ArtifactError(f"table {name!r} of {folder.name} was written {how}.")
    path = folder / f"{name}.parquet"
    if not path.exists():
        raise ArtifactError(f"{path} is gone, although its run is complete. Run the notebook "
                            f"again: {command}")
    try:
        same = digest_file(path) == outputs[name]["file"]
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error}). Run the notebook again: "
                            f"{command}") from error
    if not same:
        raise ArtifactError(f"table {name!r} of {folder.name} was changed after it was written. "
                            f"Run the notebook again: {command}")
    return path


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
