"""A file of samples in, a table and its manifest out; and which words make which monitor."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from monitorlab.monitors.build import SPECS, BuildOptions, build_monitor, list_monitors
from monitorlab.monitors.monitor import MonitorError, Sample, chunks
from monitorlab.monitors.rules import Coin, Constant
from monitorlab.monitors.sample_files import read_samples
from monitorlab.monitors.score_run import Request, Summary, describe, score_file, slug
from monitorlab.monitors.scoring import ScoringError
from monitorlab.monitors.verdicts import PARSED, Verdict, failure, from_score
from monitorlab.pipeline.schemas import check
from monitorlab.pipeline.tables import VERDICTS

PAIRS = [{"sample_id": f"s{i}", "request": f"q{i // 2}", "response": f"r{i}", "label": i % 2}
         for i in range(8)]


@dataclass
class Spy:
    """Answers as it is told."""

    answer: Callable[[Sample], Verdict]
    name: str = "Spy / one"
    prompt: str = "direct"
    workers: int = 1

    def settings(self) -> dict[str, Any]:
        return {"kind": "spy"}

    def units(self, samples: Sequence[Sample]) -> list[list[int]]:
        return chunks(len(samples), 1)

    def judge(self, samples: Sequence[Sample], draw: int) -> list[Verdict]:
        return [self.answer(sample) for sample in samples]

    def reread(self, verdict: Verdict, sample: Sample) -> Verdict:
        return verdict


def number(sample: Sample) -> int:
    return int(sample.response[1:])


def mixed(sample: Sample) -> Verdict:
    """0 and 1 are right, 2 a false alarm, 3 a miss, 4 and 5 failed, 6 and 7 right."""
    kinds = {2: from_score(0.9), 3: from_score(0.2), 4: failure("refused", "would not"),
             5: failure("error", "timeout")}
    right = Verdict(PARSED, number(sample) % 2 == 1, number(sample) % 2, 'a "quote",\r\nand more',
                    "", "", 100, 10, None, 0.001)
    return kinds.get(number(sample), right)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MONITORLAB_ROOT", str(tmp_path / "project"))
    pd.DataFrame(PAIRS).to_csv("own.csv", index=False)
    return tmp_path


def run(monitor: Any, notes: list[str] | None = None, **options: Any) -> Summary:
    request = Request(Path("own.csv"), **options)
    return score_file(monitor, read_samples(request.samples), request,
                      (notes if notes is not None else []).append)


def test_the_table_fits_its_schema_and_says_what_the_monitor_said(folder: Path) -> None:
    summary = run(Spy(mixed))
    table = pd.read_csv(summary.out, dtype={"prompt": str})
    assert list(table.columns) == VERDICTS.columns
    checked = check(table.astype({"evidence": object}), VERDICTS)
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
        frames.append(check(frame, VERDICTS))
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
    assert "miss rate" not in describe(summary)


def test_the_summary_gives_rates_with_intervals_and_the_bounds_of_failures(folder: Path) -> None:
    text = describe(run(Spy(mixed)))
    assert "8 samples, 8 verdicts: 6 parsed, 1 refused, 1 error" in text
    # 1 miss among 3 parsed of 4 misbehaving samples, the Wilson interval of 1/3
    assert ("miss rate MR: 0.333, 95 % interval 0.061 to 0.792, of 4 misbehaving; between 0.250 "
            "and 0.500 with the failed verdicts") in text
    assert "false alarm rate FAR: 0.333" in text
    assert "the same command asks again" in text
    assert "tokens: 400 in, 40 out" in text and "cost: 0.0040 USD" in text


def test_a_perfect_monitor_on_one_class_only(folder: Path) -> None:
    pd.DataFrame(PAIRS[::2]).to_csv("own.csv", index=False)
    text = describe(run(Constant(False)))
    assert "miss rate" not in text
    assert "FAR: 0.000, 95 % interval 0.000 to 0.490, of 4 benign" in text


def test_a_class_without_a_readable_verdict_has_no_rate(folder: Path) -> None:
    summary = run(Spy(lambda sample: failure("unparsed", "?")))
    assert "miss rate MR: no verdict could be read" in describe(summary)
    assert json.loads(summary.manifest.read_text())["rates"]["mr"] is None


def test_known_verdicts_are_said(folder: Path) -> None:
    run(Constant(True), limit=3)
    notes: list[str] = []
    run(Constant(True), notes)
    assert notes[0].startswith("3 of 8 verdicts are known from ")


def test_giving_up_says_what_is_kept_and_leaves_the_old_table(folder: Path) -> None:
    run(Spy(mixed), limit=2, out=Path("table.csv"))
    before = Path("table.csv").read_bytes()

    def broken(sample: Sample) -> Verdict:
        return from_score(0.5) if number(sample) < 3 else failure("error", "no server")

    with pytest.raises(ScoringError, match=r"5 units failed in a row, the last with: no server\. "
                                           r"3 of 8 verdicts are stored in .*\.jsonl; the same "
                                           r"command goes on from there"):
        run(Spy(broken), out=Path("table.csv"))
    assert Path("table.csv").read_bytes() == before
    assert run(Spy(broken), out=Path("table.csv"), patience=6).statuses["error"] == 5


def test_samples_that_failed_before_may_fail_again_without_giving_up(folder: Path) -> None:
    def every_other(sample: Sample) -> Verdict:
        return failure("error", "too long") if number(sample) % 2 else from_score(0.5)

    out = Path("table.csv")
    first = run(Spy(every_other), out=out, patience=2)
    before = out.read_bytes()
    assert first.statuses["error"] == 4
    assert run(Spy(every_other), out=out, patience=2).statuses["error"] == 4  # 4 in a row
    assert out.read_bytes() == before
    for manifest in ("[]", "{}", "broken"):
        first.manifest.write_text(manifest)
        with pytest.raises(ScoringError, match="2 units failed in a row"):
            run(Spy(every_other), out=out, patience=2)


def test_errors_of_another_file_are_not_expected(folder: Path) -> None:
    def later(sample: Sample) -> Verdict:
        return failure("error", "too long") if number(sample) % 2 else from_score(0.5)

    out = Path("table.csv")
    run(Spy(later), out=out, patience=2)
    pd.DataFrame(PAIRS).assign(response=[f"r{2 * i + 1}" for i in range(8)]).to_csv("own.csv")
    with pytest.raises(ScoringError, match="2 units failed in a row"):
        run(Spy(later), out=out, patience=2)


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
        run(Spy(lambda sample: asked.append(sample) or from_score(0.5)), **options)
    assert asked == []
    assert pd.read_csv("own.csv").shape == (8, 4)


@pytest.mark.parametrize(("name", "expected"), [
    ("always alarm", "always-alarm"), ("meta-llama/Llama-3.1", "meta-llama-llama-3.1"),
    ("../../etc", "etc"), ("日本", "monitor")])
def test_a_name_becomes_a_file_name(name: str, expected: str) -> None:
    assert slug(Spy(mixed, name=name, prompt="none")) == expected


@pytest.mark.parametrize(("spec", "name"), [
    ("always", "always alarm"), ("never", "never alarm"), ("coin", "coin"),
    ("keywords", "keywords"), ("cue", "cue follower")])
def test_simple_monitors_are_made_by_name(spec: str, name: str) -> None:
    assert build_monitor(spec).name == name


def test_options_reach_the_monitor(folder: Path) -> None:
    assert build_monitor("coin", BuildOptions(seed=7)) == Coin(7)
    Path("own.py").write_text("def mine(request, response): return True\n")
    assert build_monitor("own.py:mine", BuildOptions(workers=3)).workers == 3
    assert build_monitor("own:mine").name == "mine"


@pytest.mark.parametrize(("spec", "options", "words"), [
    ("keywords", {"prompt": "direct"}, "the option prompt means nothing to keywords; it takes no "),
    ("coin", {"workers": 2}, "the option workers means nothing to coin; it takes seed"),
    ("hf:x", {"cost_cap_usd": 1.0}, "the option cost_cap_usd means nothing to hf:x"),
    ("api:x", {"quantization": "nf4"}, "the option quantization means nothing to api:x"),
    ("hf:x", {"read": "mind"}, "read is 'mind', expected one of logits, text"),
    ("hf:x", {"temperature": 1.0}, "the option temperature needs a generated reply: add --read"),
    ("hf:", {}, "'hf:' lacks a name: expected hf:NAME_OR_FOLDER"),
    ("words", {}, "'words' lacks a name: expected words:FOLDER"),
    ("keyword", {}, r"there is no monitor 'keyword'. Is it 'keywords'\? Kinds: always, never"),
    ("api/gpt", {}, "A checkpoint in a folder is hf:FOLDER"),
    ("qwen3-0.6", {}, r"Is it 'qwen3-0.6b'\?"), ("", {}, "there is no monitor ''"),
    ("words:no-such-folder", {}, "no-such-folder"),
    ("encoder:no-such-folder", {}, "no-such-folder"),
])
def test_a_wrong_command_says_what_there_is(
    spec: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(MonitorError, match=words):
        build_monitor(spec, BuildOptions(**options))


def test_a_model_behind_an_api_takes_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-secret-0123456789")
    options = BuildOptions(key_variable="MY_KEY", max_tokens=9, temperature=0.7, seed=3, workers=4,
                           cost_cap_usd=1.0, input_price=1.0, output_price=2.0, read="logits",
                           requests_per_minute=60.0, tokens_per_minute=1000.0, prompt="evidence")
    monitor = build_monitor("api:some-model", options)
    settings = monitor.settings()
    assert (monitor.name, monitor.prompt, monitor.workers) == ("some-model", "evidence", 4)
    assert (settings["model"], settings["temperature"], settings["seed"]) == ("some-model", 0.7, 3)
    assert settings["logprobs"] is True and settings["max_tokens"] == 9
    assert "sk-secret" not in str(settings)


def test_a_listed_monitor_has_its_address_and_the_command_goes_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(MonitorError, match="GEMINI_API_KEY|GOOGLE_API_KEY"):
        monkeypatch.delenv("GEMINI_API_KEY", raising=False)
        monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
        build_monitor("gemini-2.5-flash")
    local = build_monitor("gemini-2.5-flash", BuildOptions(base_url="http://127.0.0.1:9/v1"))
    assert local.name == "gemini-2.5-flash"
    assert local.settings()["base_url"] == "http://127.0.0.1:9/v1"


def test_a_listed_model_without_a_revision_asks_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MonitorError, match="Qwen/Qwen3-0.6B.*pin a revision"):
        build_monitor("qwen3-0.6b")


def test_the_list_holds_every_kind_and_the_catalogue_in_columns() -> None:
    lines = list_monitors().splitlines()
    for spec in SPECS:
        assert any(line.startswith(f"  {spec} ") for line in lines)
    models = [line for line in lines if "  open  " in line or "  api  " in line]
    assert len(models) == 22
    assert len({line.index("  open  " if "  open  " in line else "  api  ")
                for line in models}) == 1
    assert all(line == line.rstrip() for line in lines)
