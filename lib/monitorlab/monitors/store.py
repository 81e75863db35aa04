"""The verdict store: one append-only file, so that no answer is lost and none is paid for twice.

One JSON object per line, keyed by the SHA-256 of the full request. Failed calls are not stored:
they are asked again next time. A line that a crash cut short is taken off when the store is opened.
Several processes may write to one store; a lock file keeps their lines whole.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path

from filelock import FileLock

from monitorlab.monitors.verdicts import ERROR, Verdict

_NAMES = tuple(field.name for field in fields(Verdict))
_DEFAULTS = {field.name: field.default for field in fields(Verdict)}


class StoreError(RuntimeError):
    """A store cannot be read; the message says where and what to do."""


class VerdictStore:
    """Verdicts by the key of their request.

    Parameters
    ----------
    path : Path
        The file; made with its folder on the first `put`.

    Raises
    ------
    StoreError
        If a whole line of the file is not a stored verdict.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(path.with_name(path.name + ".lock"))
        self._verdicts: dict[str, Verdict] = {}
        if path.exists():
            with self._lock:
                self._mend()
            for key, verdict in self._read():
                self._verdicts.setdefault(key, verdict)  # two processes asked: the first one holds

    def __len__(self) -> int:
        return len(self._verdicts)

    def __contains__(self, key: str) -> bool:
        return key in self._verdicts

    def __iter__(self) -> Iterator[str]:
        return iter(self._verdicts)

    def get(self, key: str) -> Verdict | None:
        """Return the stored verdict, or None."""
        return self._verdicts.get(key)

    def put(self, verdicts: Mapping[str, Verdict]) -> None:
        """Append verdicts, in one write; failed calls and keys that are known are left out.

        Raises
        ------
        OSError
            If the file cannot be written; what it held is unharmed.
        """
        new = {
            key: verdict for key, verdict in verdicts.items()
            if verdict.status != ERROR and key not in self._verdicts
        }
        if not new:
            return
        text = "".join(_line(key, verdict) for key, verdict in new.items())
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock:
            self._mend()
            with self.path.open("ab") as stream:
                stream.write(text.encode("ascii"))
        self._verdicts.update(new)

    def text(self, changed: Mapping[str, Verdict]) -> str:
        """Return what a file would hold with other verdicts for some of the keys, in ASCII."""
        return "".join(_line(key, changed.get(key, old)) for key, old in self._verdicts.items())

    def _mend(self) -> None:
        """Take off a last line without its end: a process was killed while it wrote it."""
        if not self.path.exists() or not self.path.stat().st_size:
            return
        with self.path.open("rb") as stream:
            stream.seek(-1, os.SEEK_END)
            if stream.read(1) == b"\n":
                return
        whole = self.path.read_bytes().rfind(b"\n") + 1
        os.truncate(self.path, whole)

    def _read(self) -> Iterator[tuple[str, Verdict]]:
        with self.path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                if not line.endswith(b"\n"):
                    return  # another process is writing it
                try:
                    entry = json.loads(line)
                    stored = str(entry.pop("key")), Verdict(**entry)
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise StoreError(
                        f"{self.path}:{number} is not a stored verdict ({error}). Delete that "
                        "line, or move the file away; what it held is asked again."
                    ) from None
                yield stored


def _line(key: str, verdict: Verdict) -> str:
    known = {name: value for name, value in asdict(verdict).items() if value != _DEFAULTS.get(name)}
    return json.dumps({"key": key, "status": verdict.status, **known}, allow_nan=False) + "\n"
