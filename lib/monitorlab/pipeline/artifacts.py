"""Artifacts of runs: typed tables for the next notebook, and checkpoints of trained models.

A table is a parquet file in the folder of its run; the manifest beside it says what the run read,
wrote and was given. This module is the door for notebooks: it also offers `open_run`.
A checkpoint is built once and reused while nothing that decides it has changed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from monitorlab.pipeline.runs import Run, checked_name, open_run
from monitorlab.storage import sources
from monitorlab.storage.files import (
    canonical_json,
    digest_file,
    digest_folder,
    digest_table,
    made_by,
    pretty_json,
    write_file_atomic,
    write_folder_atomic,
)
from monitorlab.storage.manifests import (
    ArtifactError,
    _same_columns,
    _schema,
    _unchanged,
    finished_manifest,
    load_table,
    run_command,
)
from monitorlab.storage.tables import Schema, SchemaError, check_frame

__all__ = ["ArtifactError", "Run", "check_same_files", "open_run", "read_parts", "read_table",
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


def check_same_files(run: Run, notebook: str) -> None:
    """Raise unless `notebook` recorded the same files of the user's own as this run did.

    Parameters
    ----------
    run : Run
        The reader, which has recorded its files (`Run.record_file`).
    notebook : str
        Stem of the notebook whose tables it reads.

    Raises
    ------
    ArtifactError
        If one of both had another file, or none; or as `read_table`.
    """
    folder = run.folder.parent / checked_name(notebook, "notebook")
    before = _own_files(finished_manifest(folder, run.profile.name, run.seed)["inputs"])
    mine = _own_files(run.inputs)
    if set(before) != set(mine):
        there, here = (", ".join(files.values()) or "no own file" for files in (before, mine))
        same = there == here
        raise ArtifactError(
            f"notebook {notebook} worked on {there}, and this one on "
            f"{'a changed version of it' if same else here}. Run both with the same SAMPLES_FILE: "
            f"python -m monitorlab run {notebook[:2]} {run.notebook[:2]} --profile "
            f"{run.profile.name} --run-id {run.run_id} -p SAMPLES_FILE=..."
        )


def _own_files(inputs: Mapping[str, Any]) -> dict[str, str]:
    """Name of each file of the user's own by its digest."""
    return {entry["digest"]: name.removeprefix("file/") for name, entry in inputs.items()
            if name.startswith("file/")}


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


def _open_schema(run: Run, name: str) -> Schema:
    """Schema of a table that is about to be written."""
    if run.status != "running":
        raise ArtifactError(f"cannot write {name!r}: the run of {run.notebook} is {run.status}. "
                            "Write before run.close(), or run the notebook again.")
    return _schema(name)


def _checkpoints_folder(root: Path | None = None) -> Path:
    """Return the folder of all checkpoints: MONITORLAB_CHECKPOINTS, else in the data cache."""
    override = os.environ.get("MONITORLAB_CHECKPOINTS")
    if override:
        return Path(override).expanduser().absolute()
    return sources.cache_folder("checkpoints", root)


def checkpoint_folder(run: Run, name: str, fingerprint: Mapping[str, Any]) -> Path:
    """Return where `checkpoint` keeps a model, whether it is there or not."""
    digest = hashlib.sha256(_whole(fingerprint).encode()).hexdigest()
    return _checkpoints_folder(run.root) / f"{checked_name(name, 'checkpoint')}-{digest[:12]}"


def _whole(fingerprint: Mapping[str, Any]) -> str:
    """Return the fingerprint with the code that trains, as canonical JSON."""
    return canonical_json({**fingerprint, "made by": made_by()})


def checkpoint(run: Run, name: str, fingerprint: Mapping[str, Any],
               build: Callable[[Path], None]) -> Path:
    """Return a checkpoint folder, building it only when its fingerprint is new.

    Parameters
    ----------
    run : Run
        Records fingerprint and content in its manifest.
    name : str
        Name of the model.
    fingerprint : mapping
        Everything that decides the weights besides the code, which is added (see `made_by`):
        sizes, seed, data digests.
    build : callable
        Gets an empty folder and saves the model there (`save_pretrained`).

    Returns
    -------
    Path
        `<checkpoints>/<name>-<digest>`, shared between runs.

    Raises
    ------
    ArtifactError
        If a stored checkpoint was changed after it was built.
    """
    text = _whole(fingerprint)
    digest = hashlib.sha256(text.encode()).hexdigest()
    folder = checkpoint_folder(run, name, fingerprint)
    reused = folder.exists()
    if not reused:
        with write_folder_atomic(folder, keep_existing=True) as temporary:
            build(temporary)
            stored = {"fingerprint": json.loads(text), "digest": digest,
                      "files": digest_folder(temporary)}
            (temporary / "fingerprint.json").write_text(pretty_json(stored), encoding="utf-8")
    content = _verified_checkpoint(folder, digest)
    run.checkpoints[name] = {"fingerprint": digest, "content": content, "reused": reused}
    return folder


def _verified_checkpoint(folder: Path, digest: str) -> str:
    """Return the digest of a checkpoint's content after comparing it with what was stored."""
    try:
        stored = json.loads((folder / "fingerprint.json").read_text(encoding="utf-8"))
        written = stored["digest"]
        expected = {str(name): str(found) for name, found in dict(stored["files"]).items()}
    except (OSError, ValueError, LookupError, TypeError):
        written, expected = "", {}
    found = digest_folder(folder)
    if written != digest or expected != found:
        changed = sorted(set(found.items()) ^ set(expected.items()))
        files = ", ".join(dict.fromkeys(name for name, _ in changed)) or "fingerprint.json"
        raise ArtifactError(f"checkpoint {folder} was changed after it was built ({files}). "
                            "Delete the folder; it is built again on the next run.")
    return hashlib.sha256(canonical_json(found).encode()).hexdigest()
