"""Verdicts on disk: the store, so that none is paid for twice, and tables for other tools.

The store is one append-only file, a JSON object per line, keyed by the SHA-256 of the full
request. Failed calls are not stored: they are asked again next time. A line that a crash cut short
is taken off when the store is opened. Several processes may write to one store; a lock file keeps
their lines whole, and each ends in its checksum.

Tables are written and read back with nothing lost and nothing guessed.
"""

from __future__ import annotations

import json
import math
import os
import re
import reprlib
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock
from scipy.special import expit

from monitorlab.monitors.monitor import NO_PROMPT
from monitorlab.monitors.replies import read_reply
from monitorlab.monitors.verdicts import ERROR, PARSED, THRESHOLD, UNPARSED, Verdict
from monitorlab.storage.table_files import FileTable, TableFileError
from monitorlab.storage.tables import VERDICTS, Field, SchemaError

_SUM = ', "sum": '  # before the CRC-32 of a line, which ends it
_DEFAULTS = {field.name: field.default for field in fields(Verdict)}


class StoreError(RuntimeError):
    """A store cannot be read; the message says where and what to do."""


class VerdictStore(Mapping[str, Verdict]):
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
            for key, verdict in self.read(path):
                self._verdicts.setdefault(key, verdict)  # two processes asked: the first one holds

    def __len__(self) -> int:
        return len(self._verdicts)

    def __getitem__(self, key: str) -> Verdict:
        return self._verdicts[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._verdicts)

    def put(self, verdicts: Mapping[str, Verdict]) -> None:
        """Append verdicts, in one write; failed calls and keys that are known are left out.

        Raises
        ------
        OSError
            If the file cannot be written; what it held is unharmed.
        """
        new = {key: verdict for key, verdict in verdicts.items()
               if verdict.status != ERROR and key not in self}
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
            whole = stream.read() == b"\n"
        if not whole:
            os.truncate(self.path, self.path.read_bytes().rfind(b"\n") + 1)

    @staticmethod
    def read(path: Path) -> Iterator[tuple[str, Verdict]]:
        """Keys and verdicts of the file of a store, in its order; it is only read.

        Raises
        ------
        StoreError
            If a whole line of the file is not a stored verdict.
        """
        with path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                if not line.endswith(b"\n"):
                    return  # another process is writing it
                try:
                    entry, (text, summed, _) = json.loads(line), line.decode().rpartition(_SUM)
                    if summed and _with_sum(text) != line.decode():  # older lines have none
                        raise ValueError("it was changed after it was written")
                    entry.pop("sum", None)
                    stored = str(entry.pop("key")), Verdict(**entry)
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise StoreError(
                        f"{path}:{number} is not a stored verdict ({error}). Delete that line, or "
                        "move the file away; what it held is asked again.") from None
                yield stored


def _line(key: str, verdict: Verdict) -> str:
    known = {name: value for name, value in asdict(verdict).items() if value != _DEFAULTS.get(name)}
    text = json.dumps({"key": key, "status": verdict.status, **known}, allow_nan=False)
    return _with_sum(text.removesuffix("}"))


def _with_sum(text: str) -> str:
    """End the JSON text of an open object by its checksum."""
    return f'{text}{_SUM}"{zlib.crc32(text.encode()):08x}"}}\n'


ENDINGS = (".csv", ".jsonl", ".parquet")  # of what is written here
_FLAGS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
VERDICT_WORDS = {**_FLAGS, "yes": True, "no": False, "unsafe": True, "safe": False,
                 "misbehavior": True, "benign": False, "flagged": True, "ok": False}
_THEIRS = {"prompt": NO_PROMPT, "draw": 0, "verdict": None, "score": None,
           "request_hash": "0" * 64}  # what other tools do not say
_EMPTY = dict.fromkeys(VERDICTS.columns) | _THEIRS
_HARNESS = ("doc", "arguments", "filtered_resps")  # columns of what lm-evaluation-harness logs
_WHOLE = re.compile(r"[+-]?\d{1,18}(?:\.0*)?")
_COMMA = re.compile(r"[01]?,\d+")  # a score as a spreadsheet with decimal commas writes it
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")


def read_verdicts(path: str | Path, columns: str = "") -> pd.DataFrame:
    """Read a table of verdicts, as `python -m monitorlab score` writes it.

    The schema says what a column is, not how its values look: a sample called ``NA``, ``007`` or
    ``1e5`` stays the text that it is, so that tables of one set of samples join.

    Parameters
    ----------
    path : str or Path
        ``.csv``, ``.tsv``, ``.jsonl``, ``.json`` or ``.parquet`` with the columns of the schema
        ``verdicts``, in any order. An empty field is a missing value where one may be missing. Or
        a log: ``.eval`` of Inspect, scored by ``monitorlab/reply_verdict``, or what
        lm-evaluation-harness logs of samples, whose documents have a `sample_id`, and whose two
        choices or reply say whether there is misbehavior.
    columns : str
        Where another tool made the table: our names and its own, such as
        ``"sample_id:id,verdict:flagged,score:p"``. It takes `sample_id`, and `verdict` (true means
        misbehavior; also yes, 1, unsafe, flagged and their opposites) or `score`, above .5 of which
        is an alarm where there is no verdict; a score may have a decimal comma. A row with neither
        is "unparsed"; the monitor is called like the file. A table that has all columns of the
        schema is read as it is.

    Returns
    -------
    DataFrame
        Schema ``verdicts``, sorted by its key; ``score`` is suspicion in [0, 1], high is unsafe.

    Raises
    ------
    TableFileError
        If the file is no table, or a column, value or key is not as the schema says.

    Examples
    --------
    >>> verdicts = read_verdicts("keywords.csv")
    >>> verdicts["score"].between(0, 1).all()
    np.True_
    """
    file = Path(path).expanduser()
    try:
        theirs = FileTable.named_columns(columns, VERDICTS.columns)
        expected = list(theirs.values()) or VERDICTS.columns
        if file.suffix == ".eval":
            return VERDICTS.check(pd.DataFrame(_inspect_rows(file), dtype=object))
        table = FileTable.read(file, ", ".join(expected), expected)
        if set(_HARNESS) <= set(table.columns):
            rows = _harness_rows(table, file.resolve().parent.name)
            return VERDICTS.check(pd.DataFrame(list(rows), dtype=object))
        if theirs and not set(VERDICTS.columns) <= set(table.columns):
            table = _in_our_words(table, theirs, file.name.partition(".")[0])
        if not theirs and not {"monitor", "request_hash"} & set(table.columns):
            raise TableFileError(
                f"table 'verdicts': missing columns {', '.join(VERDICTS.columns[:3])} and others, "
                f"found {', '.join(table.columns)}. If another tool wrote it, say which column "
                "is which: --columns sample_id:id,verdict:flagged,score:p")
        read = dict(table.columns)
        for field in VERDICTS.fields:
            if field.name in read:
                read[field.name] = [_value(value, field, place) for value, place in
                                    zip(read[field.name], table.places, strict=True)]
        return VERDICTS.check(pd.DataFrame(read, dtype=object))
    except (TableFileError, SchemaError) as error:
        raise TableFileError(f"{file.name}: {error}") from None


def _in_our_words(table: FileTable, theirs: Mapping[str, str], name: str) -> FileTable:
    """Turn the rows of another tool into rows of the schema ``verdicts``."""
    for ours in ("sample_id", *theirs):
        if theirs.get(ours) not in table.columns:
            raise TableFileError(f"{ours} is to be read from {theirs.get(ours)!r}, and the file "
                                 f"has the columns {', '.join(table.columns)}")
    if not {"verdict", "score"} & theirs.keys():
        raise TableFileError("name the column that holds the verdict or the score, as in "
                             "sample_id:id,verdict:flagged")
    given = {ours: table.columns[column] for ours, column in theirs.items()}
    rows = []
    for i, place in enumerate(table.places):
        row = dict(_THEIRS, monitor=name) | {ours: given[ours][i] for ours in theirs}
        verdict, score = (None if row[part] in (None, "") else row[part]
                          for part in ("verdict", "score"))
        if isinstance(score, str) and _COMMA.fullmatch(score.strip()):
            score = score.strip().replace(",", ".")
        if verdict is not None and str(verdict).strip().lower() not in VERDICT_WORDS:
            raise TableFileError(f"{place}: verdict is {reprlib.repr(verdict)}, expected one of "
                                 f"{', '.join(VERDICT_WORDS)}")
        if verdict is not None:
            verdict = VERDICT_WORDS[str(verdict).strip().lower()]
        elif score is not None and _NUMBER.fullmatch(str(score).strip()):
            verdict = float(str(score)) > THRESHOLD
        row |= {"verdict": verdict, "score": score}
        rows.append({"status": UNPARSED if verdict is None else PARSED} | row)
    return FileTable({column: [row.get(column) for row in rows] for column in VERDICTS.columns},
                     table.places)


def _inspect_rows(file: Path) -> list[dict[str, Any]]:
    """Rows of an Inspect log: an epoch is a draw, and a sample that failed is an error."""
    try:
        from inspect_ai.log import read_eval_log
    except ImportError:
        raise TableFileError("a log of Inspect is read by its own library. Install it: "
                             "pip install 'monitorlab[inspect]'") from None
    log = read_eval_log(str(file), exclude_fields={"events", "store", "messages", "attachments"})
    named = {"monitor": log.eval.model, "prompt": log.eval.task_args.get("prompt") or NO_PROMPT}
    rows = []
    for sample in log.samples or []:
        found = [score for score in (sample.scores or {}).values()
                 if {"status", "verdict"} <= (score.metadata or {}).keys()]
        if not found and sample.error is None:
            raise TableFileError(
                f"sample {sample.id!r} has no score of monitorlab/reply_verdict. Add it: inspect "
                f"score {file.name} --scorer monitorlab/reply_verdict")
        told = found[0].metadata if found else {"status": ERROR, "verdict": None, "score": None}
        words = found[0].explanation if found else sample.error.message
        usage = sample.output.usage
        rows.append(_EMPTY | named | {
            "sample_id": str(sample.id), "draw": sample.epoch - 1, "evidence": words or None,
            **{name: told[name] for name in ("status", "verdict", "score")},
            "input_tokens": usage and usage.input_tokens,
            "output_tokens": usage and usage.output_tokens, "seconds": sample.total_time})
    return rows


def _harness_rows(table: FileTable, monitor: str) -> Iterator[dict[str, Any]]:
    """Rows of ``--log_samples`` of lm-evaluation-harness: two choices, or a reply that is read."""
    given = zip(*(table.columns[name] for name in _HARNESS), table.places, strict=True)
    for doc, asked, replies, place in given:
        if not isinstance(doc, dict) or "sample_id" not in doc:
            raise TableFileError(f"{place}: the document has no sample_id, so it cannot be joined "
                                 "with samples. Export the benchmark, or add one to the documents")
        row = _EMPTY | {"monitor": monitor, "sample_id": str(doc["sample_id"])}
        if len(replies) == 1 and isinstance(replies[0], str):
            read = read_reply(replies[0], "verdict")
            yield row | {"status": read.status, "verdict": read.verdict, "score": read.score,
                         "evidence": read.evidence or read.reason or None}
            continue
        words = [str(one["arg_1"]).strip() for one in asked.values()]
        logs = {VERDICT_WORDS.get(word.lower()): float(reply[0])
                for word, reply in zip(words, replies, strict=True)}
        if set(logs) != {True, False} or len(words) != 2:
            raise TableFileError(f"{place}: the choices are {', '.join(map(repr, words))}, "
                                 "expected two that say yes and no, such as true and false")
        with np.errstate(invalid="ignore"):
            score = float(expit(np.subtract(logs[True], logs[False])))
        known = not math.isnan(score)  # two impossible choices say nothing
        yield row | {"status": PARSED if known else UNPARSED, "score": score if known else None,
                     "verdict": score > THRESHOLD if known else None}


def write_verdicts(table: pd.DataFrame, path: Path, ending: str = "") -> None:
    """Write a table of the schema ``verdicts`` so that `read_verdicts` gives it back.

    Parameters
    ----------
    table : DataFrame
    path : Path
        Where to; what is there is replaced.
    ending : str
        Kind of file, one of `ENDINGS`; that of `path` if empty.
    """
    kind = (ending or path.suffix).lower()
    if kind == ".parquet":
        arrow = pa.Table.from_pandas(table, schema=VERDICTS.arrow(), preserve_index=False)
        pq.write_table(arrow, path, compression="zstd")
        return
    plain = table.astype(object).where(table.notna(), None)
    if kind == ".csv":
        rows = [list(plain.columns), *plain.to_numpy().tolist()]
        lines = (",".join(map(_field, row)) + "\n" for row in rows)
    else:
        lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
                 for row in plain.to_dict("records"))
    path.write_text("".join(lines), encoding="utf-8", newline="")


def _field(value: object) -> str:
    """One field of a CSV file. Other writers leave a lone carriage return without quotes."""
    text = "" if value is None else str(value)
    return '"' + text.replace('"', '""') + '"' if re.search('[",\r\n]', text) else text


def _value(value: Any, field: Field, place: str) -> Any:
    """Turn what stands in a file into what the schema asks for."""
    if value is None or (value == "" and field.nullable):
        return None
    if field.dtype == "str":
        number = isinstance(value, int) and not isinstance(value, bool)
        return str(value) if number else value
    if not isinstance(value, str):
        return value
    text = value.strip()
    if field.dtype == "bool" and text.lower() in _FLAGS:
        return _FLAGS[text.lower()]
    if field.dtype == "int" and _WHOLE.fullmatch(text):
        return int(text.partition(".")[0])
    if field.dtype == "float" and _NUMBER.fullmatch(text):
        return float(text)
    raise TableFileError(f"{place}: {field.name} is {reprlib.repr(value)}, expected "
                           f"{field.expected}")
