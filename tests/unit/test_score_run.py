"""A file of samples in, a table and its manifest out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from monitorlab.benchmark.sample_files import load_samples
from monitorlab.commands.score import _Request, _Scoring, _slug
from monitorlab.monitors.monitor import MonitorError, Sample
from monitorlab.monitors.rules import Constant
from monitorlab.monitors.scoring import ScoringError
from monitorlab.monitors.verdicts import PARSED, Verdict
from monitorlab.storage.tables import VERDICTS

PAIRS = [{"sample_id": f"s{i}", "request": f"q{i // 2}", "response": f"r{i}", "label": i % 2}
         for i in range(8)]


@dataclass
class Spy:
    """Answers as it is told."""

    answer: Callable[[Sample], Verdict]
    name: str = "Spy / one"
    prompt: str = "direct"
    workers: int = 1
    extra: dict[str, Any] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        return {"kind": "spy", **self.extra}

    def units(self, samples: Sequence[Sample]) -> list[list[int]]:
        return [[i] for i in range(len(samples))]

    def judge(self, samples: Sequence[Sample], draw: int) -> list[Verdict]:
        return [self.answer(sample) for sample in samples]

    def reread(self, verdict: Verdict, sample: Sample) -> Verdict:
        return verdict


def number(sample: Sample) -> int:
    return int(sample.response[1:])


def mixed(sample: Sample) -> Verdict:
    """0 and 1 are right, 2 a false alarm, 3 a miss, 4 and 5 failed, 6 and 7 right."""
    kinds = {2: Verdict.from_score(0.9), 3: Verdict.from_score(0.2),
             4: Verdict.failure("refused", "would not"), 5: Verdict.failure("error", "timeout")}
    right = Verdict(PARSED, number(sample) % 2 == 1, number(sample) % 2, 'a "quote",\r\nand more',
                    "", "", 100, 10, None, 0.001)
    return kinds.get(number(sample), right)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MONITORLAB_ROOT", str(tmp_path / "project"))
    pd.DataFrame(PAIRS).to_csv("own.csv", index=False)
    return tmp_path


def run(monitor: Any, **options: Any) -> _Scoring:
    request = _Request(Path("own.csv"), **options)
    return _Scoring(monitor, load_samples(request.samples), request).carried_out()


def test_the_table_fits_its_schema_and_says_what_the_monitor_said(folder: Path) -> None:
    summary = run(Spy(mixed))
    table = pd.read_csv(summary.out, dtype={"prompt": str})
    assert list(table.columns) == VERDICTS.columns
    checked = VERDICTS.check(table.astype({"evidence": object}))
    assert list(checked["status"]) == [*["parsed"] * 4, "refused", "error", *["parsed"] * 2]
    assert checked["seconds"].isna().all()
    assert checked.loc[4, "evidence"] == "would not"
    assert list(checked["verdict"].dropna()) == [False, True, True, False, False, True]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_second_run_gives_the_same_bytes_and_asks_only_what_failed(
    folder: Path, ending: str
) -> None:
    asked: list[int] = []

    def answer(sample: Sample) -> Verdict:
        asked.append(number(sample))
        return mixed(sample)

    out = Path(f"deep/table.{ending}")
    first = run(Spy(answer), out=out)
    before = out.read_bytes()
    second = run(Spy(answer), out=out)
    assert out.read_bytes() == before
    assert asked == [*range(8), 5]
    assert (first.known, second.known) == (0, 7)
    assert first.totals | {"seconds": 0} == second.totals | {"seconds": 0}


def test_json_lines_and_parquet_hold_what_the_csv_holds(folder: Path) -> None:
    frames = []
    for ending in ("jsonl", "parquet"):
        run(Spy(mixed), out=Path(f"table.{ending}"))
        path = folder / f"table.{ending}"
        frame = (pd.read_parquet(path) if ending == "parquet" else
                 pd.DataFrame([json.loads(line) for line in path.read_text().splitlines()]))
        frames.append(VERDICTS.check(frame))
    pd.testing.assert_frame_equal(*frames)
    assert frames[0].loc[0, "evidence"] == 'a "quote",\r\nand more'


def test_the_manifest_says_how_the_table_was_made(folder: Path) -> None:
    summary = run(Spy(mixed), draws=2, limit=6)
    assert summary.manifest == Path("verdicts/own-spy-one-direct.csv.json")
    found = json.loads(summary.manifest.read_text())
    assert (found["monitor"], found["prompt"]) == ("Spy / one", "direct")
    assert found["settings"] == {"kind": "spy"}
    assert found["samples"] | {"sha256": ""} == {"file": "own.csv", "sha256": "", "rows": 6,
                                                 "limit": 6, "draws": 2}
    assert found["verdicts"] == {"parsed": 8, "unparsed": 0, "refused": 2, "truncated": 0,
                                 "error": 2}
    assert found["totals"]["input_tokens"] == 400 and found["totals"]["cost_usd"] == 0.004
    assert 0 < found["seconds_per_verdict"] < 1
    assert found["rates"]["n_benign"] == 3 and found["rates"]["mr"] == 0.5


def test_without_labels_there_are_no_rates(folder: Path) -> None:
    pd.DataFrame(PAIRS).drop(columns="label").to_csv("own.csv", index=False)
    summary = run(Spy(mixed))
    assert summary.rates == {}
    assert "miss rate" not in summary.describe()


def test_the_summary_gives_rates_with_intervals_and_the_bounds_of_failures(folder: Path) -> None:
    text = run(Spy(mixed)).describe()
    assert "8 samples, 8 verdicts: 6 parsed, 1 refused, 1 error" in text
    # 1 miss among 3 parsed of 4 misbehaving samples, the Wilson interval of 1/3
    assert ("miss rate MR: 0.333, 95 % interval 0.061 to 0.792, of 4 misbehaving; between 0.250 "
            "and 0.500 with the failed verdicts") in text
    assert "false alarm rate FAR: 0.333" in text
    assert "  1 error: timeout" in text and "the same command asks again" in text
    assert "  1 refused: would not" in text
    assert "tokens: 400 in, 40 out" in text and "cost: 0.0040 USD" in text


def test_a_perfect_monitor_on_one_class_only(folder: Path) -> None:
    pd.DataFrame(PAIRS[::2]).to_csv("own.csv", index=False)
    text = run(Constant(False)).describe()
    assert "miss rate" not in text
    assert "FAR: 0.000, 95 % interval 0.000 to 0.490, of 4 benign" in text


def test_a_class_without_a_readable_verdict_has_no_rate(folder: Path) -> None:
    summary = run(Spy(lambda sample: Verdict.failure("unparsed", "?")))
    assert "miss rate MR: no verdict could be read" in summary.describe()
    assert json.loads(summary.manifest.read_text())["rates"]["mr"] is None


def test_known_verdicts_are_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(Constant(True), limit=3)
    run(Constant(True))
    assert capsys.readouterr().out.startswith("3 of 8 verdicts are known from ")


def test_giving_up_says_what_is_kept_and_leaves_the_old_table(folder: Path) -> None:
    run(Spy(mixed), limit=2, out=Path("table.csv"))
    before = Path("table.csv").read_bytes()

    def broken(sample: Sample) -> Verdict:
        server = number(sample) < 3
        return Verdict.from_score(0.5) if server else Verdict.failure("error", "no server")

    with pytest.raises(ScoringError, match=r"5 units failed in a row, the last with: no server\. "
                                           r"3 of 8 verdicts are stored in .*\.jsonl; the same "
                                           r"command goes on from there"):
        run(Spy(broken), out=Path("table.csv"))
    assert Path("table.csv").read_bytes() == before
    assert run(Spy(broken), out=Path("table.csv"), patience=6).statuses["error"] == 5


def test_samples_that_failed_before_may_fail_again_without_giving_up(folder: Path) -> None:
    def every_other(sample: Sample) -> Verdict:
        long = number(sample) % 2
        return Verdict.failure("error", "too long") if long else Verdict.from_score(0.5)

    out = Path("table.csv")
    first = run(Spy(every_other), out=out, patience=2)
    before = out.read_bytes()
    assert first.statuses["error"] == 4
    assert run(Spy(every_other), out=out, patience=2).statuses["error"] == 4  # 4 in a row
    assert out.read_bytes() == before
    for manifest in ("[]", "{}", "broken"):
        first.manifest.write_text(manifest)
        with pytest.raises(ScoringError, match="2 units failed in a row"):
            run(Spy(every_other), out=out, patience=2, force=True)


def test_errors_of_another_file_are_not_expected(folder: Path) -> None:
    def later(sample: Sample) -> Verdict:
        long = number(sample) % 2
        return Verdict.failure("error", "too long") if long else Verdict.from_score(0.5)

    out = Path("table.csv")
    run(Spy(later), out=out, patience=2)
    pd.DataFrame(PAIRS).assign(response=[f"r{2 * i + 1}" for i in range(8)]).to_csv("own.csv")
    with pytest.raises(ScoringError, match="2 units failed in a row"):
        run(Spy(later), out=out, patience=2, force=True)


@pytest.mark.parametrize(("options", "words"), [
    ({"out": Path("own.csv")}, "the table and the samples would be the same file"),
    ({"out": Path("x.csv"), "store": Path("x.csv")}, "the store and the table would be"),
    ({"out": Path("x.csv"), "store": Path("x.csv.json")}, "the store and its manifest would be"),
    ({"store": Path("own.csv")}, "the store and the samples would be"),
    ({"out": Path("x.xlsx")}, "unknown ending, expected one of .csv, .jsonl, .parquet"),
    ({"store": Path(".")}, "is a folder, expected a file for the store"),
    ({"draws": 0}, "draws is 0, expected at least 1"), ({"limit": -1}, "limit is -1"),
    ({"patience": 0}, "patience is 0"),
])
def test_what_cannot_be_written_is_refused_before_anything_is_asked(
    folder: Path, options: dict[str, Any], words: str
) -> None:
    asked: list[Sample] = []
    with pytest.raises(MonitorError, match=words):
        run(Spy(lambda sample: asked.append(sample) or Verdict.from_score(0.5)), **options)
    assert asked == []
    assert pd.read_csv("own.csv").shape == (8, 4)


@pytest.mark.parametrize(("name", "expected"), [
    ("always alarm", "always-alarm"), ("meta-llama/Llama-3.1", "meta-llama-llama-3.1"),
    ("../../etc", "etc"), ("日本", "日本"),
    ("?!", "monitor")])
def test_a_name_becomes_a_file_name(name: str, expected: str) -> None:
    assert _slug(Spy(mixed, name=name, prompt="none")) == expected


def test_a_long_name_is_cut_and_stays_apart() -> None:
    one, other = (_slug(Spy(mixed, name="long" * 60 + end, prompt="none")) for end in "ab")
    assert len(one) == len(other) == 120 and one != other


def test_a_table_made_with_other_settings_is_kept(folder: Path) -> None:
    out, asked = Path("table.csv"), []

    def answer(sample: Sample) -> Verdict:
        asked.append(sample)
        return Verdict.from_score(0.9)

    run(Spy(mixed, extra={"temperature": 0.0, "words": {"a": 1}}), out=out)
    before = {path: path.read_bytes() for path in folder.glob("table.csv*")}
    words = (r"table.csv was made by 'Spy / one' with other settings \(temperature 0.0 there, 0.7 "
             r'here; words.a 1 there, "none" here\): --name or --out makes another one, --force ')
    with pytest.raises(MonitorError, match=words):
        run(Spy(answer, extra={"temperature": 0.7, "words": {}}), out=out)
    assert asked == [] and before == {path: path.read_bytes() for path in before}
    run(Spy(answer, extra={"temperature": 0.7}), out=out, force=True)
    assert out.read_bytes() != before[folder / out]
    assert run(Spy(answer, extra={"temperature": 0.7}), out=out).known == 8


@pytest.mark.parametrize(("content", "manifest"), [
    ("sample_id,verdict\nmine,True\n", None), ("x", "{}"), ("x", "not JSON"), (None, "[1]"),
    ("x", '{"settings": {"kind": "spy"}, "monitor": "Spy / one"}')])
def test_what_this_command_did_not_write_is_kept(
    folder: Path, content: str | None, manifest: str | None
) -> None:
    files = {"table.csv": content, "table.csv.json": manifest}
    for name, text in files.items():
        if text is not None:
            Path(name).write_text(text)
    with pytest.raises(MonitorError, match="beside it does not say how it was made: --name or"):
        run(Spy(mixed), out=Path("table.csv"))
    assert {name: Path(name).read_text() if Path(name).exists() else None
            for name in files} == files
    run(Spy(mixed), out=Path("table.csv"), force=True)
    assert len(pd.read_csv("table.csv")) == 8


def test_a_table_that_was_edited_by_hand_is_kept(folder: Path) -> None:
    summary = run(Spy(mixed))
    text = summary.out.read_text().replace("would not", "my own remark")
    summary.out.write_text(text)
    with pytest.raises(MonitorError, match="was changed after it was written"):
        run(Spy(mixed))
    assert summary.out.read_text() == text


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_file_that_has_grown_is_scored_on_and_another_one_loses_nothing(
    folder: Path, ending: str
) -> None:
    out = Path(f"table.{ending}")
    pd.DataFrame(PAIRS[:4]).to_csv("own.csv", index=False)
    run(Spy(mixed), out=out)
    pd.DataFrame(PAIRS).to_csv("own.csv", index=False)
    assert run(Spy(mixed), out=out, limit=6).known == 4
    pd.DataFrame(PAIRS[2:]).to_csv("own.csv", index=False)
    with pytest.raises(MonitorError, match="holds 2 verdicts about samples that are not in own"):
        run(Spy(mixed), out=out)


def test_killed_between_manifest_and_table_the_same_command_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from monitorlab.commands import score

    def killed(path: Path, text: str) -> None:
        write(path, text)
        raise KeyboardInterrupt

    write = score.write_text_atomic
    for limit in (4, 8):  # the first table, and one that takes its place
        monkeypatch.setattr(score, "write_text_atomic", killed)
        with pytest.raises(KeyboardInterrupt):
            run(Spy(mixed), limit=limit)
        monkeypatch.setattr(score, "write_text_atomic", write)
        assert run(Spy(mixed), limit=limit).judged.shape[0] == limit


def test_a_table_that_appears_while_samples_are_judged_is_kept(folder: Path) -> None:
    def slow(sample: Sample) -> Verdict:
        if number(sample) == 7:
            run(Spy(mixed, extra={"seed": 1}), out=Path("table.csv"))
        return Verdict.from_score(0.5)

    with pytest.raises(MonitorError, match="seed 1 there"):
        run(Spy(slow, extra={"seed": 2}), out=Path("table.csv"))
    assert json.loads(Path("table.csv.json").read_text())["settings"]["seed"] == 1


def test_settings_that_change_on_the_way_are_no_other_settings(folder: Path) -> None:
    """A server that takes no system role makes a monitor fold it, with keys of their own."""
    asked: list[Sample] = []

    def spy() -> Spy:
        def answer(sample: Sample) -> Verdict:
            asked.append(sample)
            made.extra["fold_system"] = True
            return Verdict.from_score(0.9)

        made = Spy(answer)
        return made

    pd.DataFrame(PAIRS[:4]).to_csv("own.csv", index=False)
    summary = run(spy())
    found = json.loads(summary.manifest.read_text())
    assert found["settings"] == {"kind": "spy", "fold_system": True}
    assert found["asked"] == {"kind": "spy"}
    run(spy())
    pd.DataFrame(PAIRS).to_csv("own.csv", index=False)
    run(spy())
    with pytest.raises(MonitorError, match='fold_system "none" there, true here'):
        run(Spy(mixed, extra={"fold_system": True}))
