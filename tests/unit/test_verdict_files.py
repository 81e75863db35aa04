"""Tables of verdicts in files: what is written comes back, whatever it looks like."""

from __future__ import annotations

import random
from pathlib import Path

import pandas as pd
import pytest

from monitorlab.monitors.store import read_verdicts, write_verdicts
from monitorlab.storage.table_files import TableFileError
from monitorlab.storage.tables import STATUSES, VERDICTS

NAMES = ["NA", "null", "None", "nan", "1e5", "007", "7", "7.0", "True", "-0", "inf", "2026-01-02",
         " 7", "7 ", '"', "a,b", "a\rb", "a\nb", "a\r\nb", "\t", "é😀\u2028", "=1+1", "'", "x"]
ENDINGS = ["csv", "jsonl", "parquet"]


def table(names: list[str] = NAMES) -> pd.DataFrame:
    rng = random.Random(3)
    rows = []
    for i, name in enumerate(names):
        status = STATUSES[i % len(STATUSES)]
        parsed = status == "parsed"
        rows.append({
            "sample_id": name, "monitor": "1.0", "prompt": "none", "draw": i % 3, "status": status,
            "verdict": rng.random() < 0.5 if parsed else None,
            "score": rng.random() if parsed else None,
            "evidence": rng.choice([None, *names]), "input_tokens": rng.choice([None, i, 10**12]),
            "output_tokens": None, "seconds": rng.choice([None, 1e-7 * i]),
            "cost_usd": rng.choice([None, 0.1 + 0.2]), "request_hash": f"{i:064d}",
        })
    return VERDICTS.check(pd.DataFrame(rows, columns=VERDICTS.columns))


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_written_comes_back_with_its_types(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"verdicts.{ending}"
    write_verdicts(table(), path)
    pd.testing.assert_frame_equal(read_verdicts(path), table(), check_exact=True)
    before = path.read_bytes()
    write_verdicts(read_verdicts(path), path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("ending", ENDINGS)
def test_any_text_comes_back(tmp_path: Path, ending: str) -> None:
    rng = random.Random(8)
    signs = 'aé😀 \t\r\n",;\'\\\x00\x0b\x1c\x85\u2028\ufeff0.'
    names = list({"".join(rng.choices(signs, k=rng.randrange(1, 9))) for _ in range(400)})
    path = tmp_path / f"verdicts.{ending}"
    write_verdicts(table(names), path)
    pd.testing.assert_frame_equal(read_verdicts(path), table(names), check_exact=True)


def test_a_table_that_pandas_wrote_is_the_same(tmp_path: Path) -> None:
    """Numbers with gaps become floats there, and false becomes False."""
    frame = table([name for name in NAMES if name != "a\rb"])
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.astype({"input_tokens": float}).to_csv(tmp_path / "b.tsv", index=False, sep="\t")
    frame.sample(frac=1, random_state=1).to_parquet(tmp_path / "c.parquet")
    frame[frame.columns[::-1]].to_json(tmp_path / "d.json", orient="records", double_precision=15)
    for name in ("a.csv", "b.tsv", "c.parquet", "d.json"):
        pd.testing.assert_frame_equal(read_verdicts(tmp_path / name), frame)


def test_tables_join_by_what_stands_in_the_file_of_samples(tmp_path: Path) -> None:
    from monitorlab.benchmark.sample_files import load_samples

    ids = ["NA", "null", "1e5", "007", "7", "0001", "1"]
    lines = "".join(f"{name},q,r{name},1\n" for name in ids)
    (tmp_path / "own.csv").write_text("sample_id,request,response,label\n" + lines)
    samples = load_samples(tmp_path / "own.csv")
    write_verdicts(table(list(samples["sample_id"])), tmp_path / "v.csv")
    joined = read_verdicts(tmp_path / "v.csv").merge(samples, on="sample_id")
    assert set(joined["sample_id"]) == set(ids) and len(joined) == len(ids)


@pytest.mark.parametrize(("column", "value", "words"), [
    ("verdict", "yes", "v.csv: line 2: verdict is 'yes', expected true or false, may be missing"),
    ("score", "0,5", "line 2: score is '0,5', expected a number, at least 0, at most 1"),
    ("score", "1.5", "column 'score', row 0"), ("score", "nan", "line 2: score is 'nan'"),
    ("draw", "", "line 2: draw is '', expected a whole number"), ("draw", "1.5", "draw is '1.5'"),
    ("status", "benign", "found 'benign', expected text, one of parsed"),
    ("seconds", "inf", "line 2: seconds is 'inf'"), ("input_tokens", "-1", "'input_tokens', row 0"),
])
def test_a_value_that_is_not_as_the_schema_says_is_named(
    tmp_path: Path, column: str, value: str, words: str
) -> None:
    write_verdicts(table(["x"]), tmp_path / "v.csv")
    header, row = (tmp_path / "v.csv").read_text().splitlines()
    fields = row.split(",")
    fields[header.split(",").index(column)] = f'"{value}"'
    (tmp_path / "v.csv").write_text(f"{header}\n{','.join(fields)}\n")
    with pytest.raises(TableFileError) as caught:
        read_verdicts(tmp_path / "v.csv")
    assert words in str(caught.value) and len(str(caught.value)) < 400


def test_other_columns_and_missing_ones_are_named(tmp_path: Path) -> None:
    frame = table(["x"])
    for changed, words in (
        (frame.drop(columns="prompt"), "missing columns prompt"),
        (frame.assign(note="x"), "unknown columns note"),
        (pd.concat([frame, frame]), "already occurs"),
    ):
        changed.to_csv(tmp_path / "v.csv", index=False)
        with pytest.raises(TableFileError, match=words):
            read_verdicts(tmp_path / "v.csv")
    with pytest.raises(TableFileError, match="does not exist"):
        read_verdicts(tmp_path / "none.csv")


FOREIGN = "sample_id:id, verdict:flagged, score:p, evidence:why"


def test_a_table_of_another_tool_is_read_by_the_names_of_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "guard.v2.csv"
    path.write_text("id,flagged,p,why,extra\n007,yes,0.9,quote,1\nb,Unsafe,,,2\nc,,0.2,,3\n"
                    "d,,,,4\ne,false,0.7,,5\n")
    found = read_verdicts(path, FOREIGN).set_index("sample_id")
    assert list(found.index) == ["007", "b", "c", "d", "e"] and set(found["monitor"]) == {"guard"}
    assert found["verdict"].tolist()[:3] == [True, True, False]
    assert found.loc["d", "status"] == "unparsed" and pd.isna(found.loc["d", "verdict"])
    assert found.loc["e", "verdict"] == False  # noqa: E712 - its own verdict, not its score
    assert found.loc["007", "evidence"] == "quote"
    write_verdicts(table(), tmp_path / "ours.csv")  # and ours is read beside it as it is
    assert len(read_verdicts(tmp_path / "ours.csv", FOREIGN)) == len(table())


@pytest.mark.parametrize(("text", "columns", "message"), [
    ("id,flagged\na,perhaps\n", "sample_id:id,verdict:flagged", "line 2: verdict is 'perhaps'"),
    ("id,p\na,70\n", "sample_id:id,score:p", "found 70.0, expected a number"),
    ("id,p\na,.7\na,.8\n", "sample_id:id,score:p", "a"),
    ("id,p\na,.7\n", "sample_id:name,score:p", "sample_id is to be read from 'name', and the file"),
    ("id,p\na,.7\n", "score:p", "sample_id is to be read from None"),
    ("id,p\na,.7\n", "sample_id:id", "name the column that holds the verdict or the score"),
    ("id,p\na,.7\n", "sample_id:id,scoer:p", "COLUMNS holds 'scoer:p', expected pairs"),
])
def test_what_another_tool_says_is_never_guessed(
    tmp_path: Path, text: str, columns: str, message: str
) -> None:
    path = tmp_path / "theirs.csv"
    path.write_text(text)
    with pytest.raises(TableFileError, match=message):
        read_verdicts(path, columns)


def test_decimal_commas_are_read_and_an_unknown_table_is_told_how_to_name_its_columns(
    tmp_path: Path,
) -> None:
    path = tmp_path / "excel.csv"
    path.write_text("Nr;Wert\na;0,75\nb;,5\nc;1,0\n", encoding="utf-8")
    found = read_verdicts(path, "sample_id:Nr,score:Wert")
    assert found["score"].tolist() == [0.75, 0.5, 1.0]
    assert found["verdict"].tolist() == [True, False, True]
    with pytest.raises(TableFileError, match="found Nr, Wert. If another tool wrote it, say which"):
        read_verdicts(path)
