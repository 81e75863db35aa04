"""Manifests: what a run wrote and read, and whether its tables may be trusted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from monitorlab.storage.files import DamagedFileError, digest_file, read_sealed
from monitorlab.storage.tables import SCHEMAS, Schema

MANIFEST = "manifest.json"


class ArtifactError(RuntimeError):
    """An input is missing, unfinished, changed or stale; the message says what to do."""


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of a run folder, or None when there is none.

    Raises
    ------
    ArtifactError
        If the file is there and is not the manifest that was written.
    """
    path = folder / MANIFEST
    if not path.exists():
        return None
    try:
        return read_sealed(path)
    except DamagedFileError as error:
        raise ArtifactError(f"{path} is not a manifest as it was written ({error}). Run the "
                            f"notebook again: {run_command(folder)}") from error


def run_command(folder: Path, profile: str = "") -> str:
    """Return the command that makes the results of `<runs>/<run_id>/<notebook>` again."""
    option = f" --profile {profile}" if profile else ""
    return f"python -m monitorlab run {folder.name[:2]}{option} --run-id {folder.parent.name}"


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
        return schema.check(file.read().to_pandas())


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


def _schema(name: str) -> Schema:
    if name not in SCHEMAS:
        raise ArtifactError(f"unknown table {name!r}: expected one of {', '.join(SCHEMAS)}. "
                            "A new table needs a schema in storage/tables.yaml.")
    return SCHEMAS[name]
