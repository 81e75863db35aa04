"""Tables of verdicts in files: written and read back with nothing lost and nothing guessed."""

from __future__ import annotations

import json
import re
import reprlib
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from monitorlab.storage.schemas import Field, SchemaError, check_frame
from monitorlab.storage.table_files import TableFileError, read_table_file
from monitorlab.storage.tables import VERDICTS

ENDINGS = (".csv", ".jsonl", ".parquet")  # of what is written here
_FLAGS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
_WHOLE = re.compile(r"[+-]?\d{1,18}(?:\.0*)?")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")


class VerdictFileError(TableFileError):
    """A file is no table of verdicts; the message names the row and says what to do."""


def read_verdicts(path: str | Path) -> pd.DataFrame:
    """Read a table of verdicts, as `python -m monitorlab score` writes it.

    The schema says what a column is, not how its values look: a sample called ``NA``, ``007`` or
    ``1e5`` stays the text that it is, so that tables of one set of samples join.

    Parameters
    ----------
    path : str or Path
        ``.csv``, ``.tsv``, ``.jsonl``, ``.json`` or ``.parquet`` with the columns of the schema
        ``verdicts``, in any order. An empty field is a missing value where one may be missing.

    Returns
    -------
    DataFrame
        Schema ``verdicts``, sorted by its key; ``score`` is suspicion in [0, 1], high is unsafe.

    Raises
    ------
    VerdictFileError
        If the file is no table, or a column, value or key is not as the schema says.

    Examples
    --------
    >>> verdicts = read_verdicts("keywords.csv")
    >>> verdicts["score"].between(0, 1).all()
    np.True_
    """
    file = Path(path).expanduser()
    try:
        table = read_table_file(file, ", ".join(VERDICTS.columns), VERDICTS.columns)
        typed = {field.name: field for field in VERDICTS.fields}
        columns = {
            name: [_value(value, typed[name], place) if name in typed else value
                   for value, place in zip(values, table.places, strict=True)]
            for name, values in table.columns.items()
        }
        return check_frame(pd.DataFrame(columns, dtype=object), VERDICTS)
    except (TableFileError, SchemaError) as error:
        raise VerdictFileError(f"{file.name}: {error}") from None


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
    raise VerdictFileError(f"{place}: {field.name} is {reprlib.repr(value)}, expected "
                           f"{field.expected}")
