"""Tables in parts: keys are unique across parts, a bad part leaves nothing, changes are noticed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from monitorlab.pipeline.runs import Run, open_run
from monitorlab.storage.manifests import ArtifactError, Results
from monitorlab.storage.tables import SchemaError

ONE, TWO = "01_construction", "02_audit"
NAME = "label_checks"


@pytest.fixture(autouse=True)
def _no_overrides(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MONITORLAB_RUNS", "MONITORLAB_CHECKPOINTS", "MONITORLAB_ROOT"):
        monkeypatch.delenv(name, raising=False)


def begin(root: Path, notebook: str = ONE) -> Run:
    return open_run(notebook, profile="tiny", seed=1, root=root)


def part(*ids: str, **changes: Any) -> pd.DataFrame:
    rows = {"sample_id": list(ids), "cell": "sg_code", "check": "execution", "confirmed": True,
            "detail": "passed"}  # fmt: skip
    return pd.DataFrame(rows | changes)


def finish(root: Path, *parts: pd.DataFrame) -> Run:
    run = begin(root)
    run.write_parts(NAME, parts)
    run.close()
    return run


def test_parts_come_back_typed_and_in_their_order(tmp_path: Path) -> None:
    run = begin(tmp_path)
    assert run.write_parts(NAME, iter([part("d", "c"), part("b"), part("a", "e")])) == 5
    run.close()
    frames = list(begin(tmp_path, TWO).read_parts(ONE, NAME))
    assert [list(frame["sample_id"]) for frame in frames] == [["c", "d"], ["b"], ["a", "e"]]
    assert all(frame["confirmed"].dtype == bool for frame in frames)


def test_parts_are_written_one_by_one(tmp_path: Path) -> None:
    """No part is asked for before the one before it is on its way to the file."""
    run, asked = begin(tmp_path), []

    def parts() -> Iterator[pd.DataFrame]:
        for name in "abc":
            asked.append([p.suffix for p in run.folder.iterdir() if NAME in p.name])
            yield part(name)

    run.write_parts(NAME, parts())
    assert len(asked) == 3 and all(asked)
    with pq.ParquetFile(run.folder / f"{NAME}.parquet") as file:
        assert file.num_row_groups == 3


def test_a_run_reads_back_its_own_parts(tmp_path: Path) -> None:
    run = begin(tmp_path)
    run.write_parts(NAME, [part("a"), part("b")])
    assert len(list(run.read_parts(ONE, NAME))) == 2
    assert not run.inputs


def test_the_manifests_say_what_was_written_and_read(tmp_path: Path) -> None:
    first = finish(tmp_path, part("a"), part("b", "c"))
    manifest = Results(first.folder).manifest()
    assert manifest is not None
    written = manifest["outputs"][NAME]
    assert written["rows"] == 3 and written["parts"] is True
    second = begin(tmp_path, TWO)
    list(second.read_parts(ONE, NAME))
    second.close()
    assert second.inputs == {f"{ONE}/{NAME}": {"rows": 3, "digest": written["digest"]}}
    assert Results(second.folder).stale() == []


def test_the_digest_depends_on_content_and_cut(tmp_path: Path) -> None:
    def digest(*parts: pd.DataFrame) -> str:
        return finish(tmp_path, *parts).outputs[NAME]["digest"]

    plain = digest(part("a"), part("b"))
    assert digest(part("a"), part("b")) == plain
    assert digest(part("b"), part("a")) != plain
    assert digest(part("a"), part("b", detail="failed")) != plain


def test_a_reader_of_an_older_version_is_stale(tmp_path: Path) -> None:
    finish(tmp_path, part("a"))
    second = begin(tmp_path, TWO)
    list(second.read_parts(ONE, NAME))
    second.close()
    finish(tmp_path, part("a", detail="failed"))
    assert Results(second.folder).stale() == [f"{TWO} read an older {NAME!r} of {ONE}"]


# Bad parts


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([part("a"), part("b"), part("c", "a")], "a key of ('sample_id',) is in two parts"),
        ([part("a"), part("b", "b")], "sample_id"),
        ([part("a"), part("b", cell="sg")], "cell"),
        ([part("a"), part("b").drop(columns="detail")], "missing columns detail"),
        ([part("a"), part("b", detail=None)], "detail"),
        ([part("a", more=1)], "unknown columns more"),
    ],
)
def test_a_bad_part_leaves_nothing(
    tmp_path: Path, parts: list[pd.DataFrame], words: str
) -> None:
    run = begin(tmp_path)
    before = sorted(run.folder.iterdir())
    with pytest.raises(SchemaError) as error:
        run.write_parts(NAME, parts)
    assert words in str(error.value)
    assert sorted(run.folder.iterdir()) == before and NAME not in run.outputs
    with pytest.raises(ArtifactError, match="wrote no table"):
        list(run.read_parts(ONE, NAME))


def test_a_bad_part_leaves_the_table_that_was_there(tmp_path: Path) -> None:
    run = begin(tmp_path)
    run.write_parts(NAME, [part("a", "b")])
    with pytest.raises(SchemaError):
        run.write_parts(NAME, [part("c"), part("c")])
    assert [list(frame["sample_id"]) for frame in run.read_parts(ONE, NAME)] == [["a", "b"]]


def test_a_source_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def parts() -> Iterator[pd.DataFrame]:
        yield part("a")
        raise RuntimeError("no more")

    run = begin(tmp_path)
    with pytest.raises(RuntimeError, match="no more"):
        run.write_parts(NAME, parts())
    assert not list(run.folder.glob("*.parquet*")) and not run.outputs


def test_an_unknown_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="unknown table 'checks'"):
        begin(tmp_path).write_parts("checks", [part("a")])


# Reading what is not as it was


@pytest.mark.parametrize(
    "now", [[part("a"), part("b", detail="failed")], [part("a")], [part("b"), part("a")]]
)
def test_a_changed_file_is_noticed_before_its_first_part(
    tmp_path: Path, now: list[pd.DataFrame]
) -> None:
    run = finish(tmp_path, part("a"), part("b"))
    other = finish(tmp_path / "other", *now)
    name = f"{NAME}.parquet"
    (run.folder / name).write_bytes((other.folder / name).read_bytes())
    reader, seen = begin(tmp_path, TWO), []
    with pytest.raises(ArtifactError, match="was changed after it was written. Run the notebook"):
        for frame in reader.read_parts(ONE, NAME):
            seen.append(len(frame))
    assert seen == [] and reader.inputs == {}


def test_a_flipped_byte_is_always_the_one_error(tmp_path: Path) -> None:
    path = finish(tmp_path, part("a"), part("b")).folder / f"{NAME}.parquet"
    whole, reader = path.read_bytes(), begin(tmp_path, TWO)
    for place in range(0, len(whole), 53):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 2]) + whole[place + 1:])
        with pytest.raises(ArtifactError, match="was changed after it was written"):
            list(reader.read_parts(ONE, NAME))


def test_a_missing_file_names_the_notebook_to_run(tmp_path: Path) -> None:
    run = finish(tmp_path, part("a"))
    (run.folder / f"{NAME}.parquet").unlink()
    with pytest.raises(ArtifactError, match="is gone.*python -m monitorlab run 01 --profile tiny"):
        list(begin(tmp_path, TWO).read_parts(ONE, NAME))


def test_an_unfinished_run_is_not_read(tmp_path: Path) -> None:
    begin(tmp_path).write_parts(NAME, [part("a")])
    with pytest.raises(ArtifactError, match="did not finish"):
        list(begin(tmp_path, TWO).read_parts(ONE, NAME))
