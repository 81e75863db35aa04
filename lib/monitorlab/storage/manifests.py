"""Manifests: what a run wrote and read, and whether its tables may be trusted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from monitorlab.storage.files import DamagedFileError, digest_file, read_sealed
from monitorlab.storage.tables import SCHEMAS, Schema

MANIFEST = "manifest.json"


class ArtifactError(RuntimeError):
    """An input is missing, unfinished, changed or stale; the message says what to do."""


@dataclass(frozen=True)
class Results:
    """What one notebook left in a run.

    Where a method takes a `manifest`, it needs "outputs" and "profile", as `finished` returns them.

    Attributes
    ----------
    folder : Path
        `<runs>/<run_id>/<notebook>`.
    """

    folder: Path

    def manifest(self) -> dict[str, Any] | None:
        """Return the manifest, or None when there is none.

        Raises
        ------
        ArtifactError
            If the file is there and is not the manifest that was written.
        """
        path = self.folder / MANIFEST
        if not path.exists():
            return None
        try:
            return read_sealed(path)
        except DamagedFileError as error:
            raise ArtifactError(f"{path} is not a manifest as it was written ({error}). Run the "
                                f"notebook again: {self.command()}") from error

    def command(self, profile: str = "") -> str:
        """Return the command that makes them again."""
        option = f" --profile {profile}" if profile else ""
        notebook, run_id = self.folder.name, self.folder.parent.name
        return f"python -m monitorlab run {notebook[:2]}{option} --run-id {run_id}"

    def finished(self, profile: str | None = None, seed: int | None = None) -> dict[str, Any]:
        """Return the manifest if the tables may be read, or say why they may not.

        Parameters
        ----------
        profile, seed : str and int, optional
            Of the reader; not compared where not given.

        Raises
        ------
        ArtifactError
            If the notebook has not been run, did not finish, was run with another profile or seed,
            or is stale. The message names the notebook to run.
        """
        notebook, run_id, manifest = self.folder.name, self.folder.parent.name, self.manifest()
        command = self.command(profile or (manifest or {}).get("profile", ""))
        if manifest is None:
            raise ArtifactError(f"notebook {notebook} has not been run in run {run_id!r}. Run it "
                                f"first: {command}")
        if manifest["status"] != "complete":
            raise ArtifactError(f"notebook {notebook} did not finish in run {run_id!r} (status "
                                f"{manifest['status']!r}): its tables cannot be trusted. "
                                f"Run it again: {command}")
        for name, mine in (("profile", profile), ("seed", seed)):
            if mine is not None and manifest[name] != mine:
                seeded = "" if seed is None else f" -p SEED={seed}"
                raise ArtifactError(
                    f"notebook {notebook} was run with {name} {manifest[name]!r}, this one has "
                    f"{mine!r}, in the same run {run_id!r}. Run it again with the same {name} "
                    f"({command}{seeded}) or choose another RUN_ID.")
        if reasons := self.stale():
            raise ArtifactError(f"notebook {notebook} is stale: {'; '.join(reasons)}. "
                                f"Run it again: {command}")
        return manifest

    def stale(self, _seen: frozenset[str] = frozenset()) -> list[str]:
        """Say why they are out of date; an empty list means they are not.

        Returns
        -------
        list of str
            One sentence per input that has changed since, upstream runs included.
        """
        manifest, reader = self.manifest() or {}, self.folder.name
        reasons = []
        for name, recorded in manifest.get("inputs", {}).items():
            notebook, _, table = name.partition("/")
            if notebook in ("source", "file") or notebook in _seen:
                continue
            results = Results(self.folder.parent / notebook)
            upstream = results.manifest()
            if upstream is None or upstream["status"] != "complete":
                state = "is gone" if upstream is None else f"is {upstream['status']}"
                reasons.append(f"{reader} read {table!r} of {notebook}, whose run {state}")
            elif upstream["outputs"].get(table, {}).get("digest") != recorded["digest"]:
                reasons.append(f"{reader} read an older {table!r} of {notebook}")
            else:
                reasons += results.stale(_seen | {reader})
        return list(dict.fromkeys(reasons))

    def table(self, name: str, manifest: Mapping[str, Any]) -> pd.DataFrame:
        """Read one table after comparing it with what was recorded of it.

        Raises
        ------
        ArtifactError
            If the file is gone, changed in any byte, or does not fit the schema of today.
        """
        schema = self.schema(name)
        with self._opened(name, manifest, self._unchanged(name, manifest, parts=False)) as file:
            return schema.check(file.read().to_pandas())

    def parts(self, name: str, manifest: Mapping[str, Any]) -> Iterator[pd.DataFrame]:
        """Read a table as `table` does, part by part; the file is compared at once."""
        path = self._unchanged(name, manifest, parts=True)

        def frames() -> Iterator[pd.DataFrame]:
            with self._opened(name, manifest, path) as file:
                for group in range(file.num_row_groups):
                    yield self.schema(name).check(file.read_row_group(group).to_pandas())

        return frames()

    def check(self, manifest: Mapping[str, Any], names: Iterable[str] | None = None) -> None:
        """Compare tables with what was recorded of them.

        Parameters
        ----------
        manifest : mapping
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
                self._unchanged(name, manifest)

    @classmethod
    def check_file(cls, path: Path) -> None:
        """Refuse a table of a run that the door would refuse; any other file passes.

        For readers of users' files, to whom somebody may give a table of a run.

        Raises
        ------
        ArtifactError
            As `finished` and `table`.
        """
        results = cls(path.absolute().parent)
        is_table = path.suffix == ".parquet" and path.stem in SCHEMAS
        if is_table and (results.folder / MANIFEST).is_file():
            manifest = results.finished()
            if path.stem in manifest["outputs"]:
                results._unchanged(path.stem, manifest)

    @staticmethod
    def schema(name: str) -> Schema:
        """Return the schema of a table; an `ArtifactError` if there is no such table."""
        if name not in SCHEMAS:
            raise ArtifactError(f"unknown table {name!r}: expected one of {', '.join(SCHEMAS)}. "
                                "A new table needs a schema in storage/tables.yaml.")
        return SCHEMAS[name]

    def _unchanged(
        self, name: str, manifest: Mapping[str, Any], parts: bool | None = None
    ) -> Path:
        """Return the path of a table whose bytes are those that were written."""
        notebook, outputs = self.folder.name, manifest["outputs"]
        again = f"again: {self.command(manifest['profile'])}"
        if name not in outputs:
            known = ", ".join(outputs) or "no table"
            raise ArtifactError(f"notebook {notebook} wrote {known} in run "
                                f"{self.folder.parent.name!r}, but not {name!r}. Run it {again}")
        if parts is not None and parts != outputs[name].get("parts", False):
            how = "as a whole: use read_table" if parts else "in parts: use read_parts"
            raise ArtifactError(f"table {name!r} of {notebook} was written {how}.")
        path = self.folder / f"{name}.parquet"
        if not path.exists():
            raise ArtifactError(f"{path} is gone, although its run is complete. Run the notebook "
                                f"{again}")
        try:
            same = digest_file(path) == outputs[name]["file"]
        except OSError as error:
            raise ArtifactError(f"{path} cannot be read ({error}). Run the notebook "
                                f"{again}") from error
        if not same:
            raise ArtifactError(f"table {name!r} of {notebook} was changed after it was written. "
                                f"Run the notebook {again}")
        return path

    @contextmanager
    def _opened(
        self, name: str, manifest: Mapping[str, Any], path: Path
    ) -> Iterator[pq.ParquetFile]:
        """Open a table whose columns are those of its schema."""
        schema = self.schema(name)
        with pq.ParquetFile(path) as file:
            found = file.schema_arrow
            if found.names != schema.columns or found.types != schema.arrow().types:
                raise ArtifactError(
                    f"{path} holds columns {', '.join(found.names)}, the schema now says "
                    f"{', '.join(schema.columns)}. Run the notebook again: "
                    f"{self.command(manifest['profile'])}")
            yield file
