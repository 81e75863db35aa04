"""Logs of Inspect and of lm-evaluation-harness: what they say, as verdicts, rates and tests."""

import json
import math
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from monitorlab.benchmark.export import NEIGHBOURS
from monitorlab.benchmark.sample_files import load_samples
from monitorlab.cli import app
from monitorlab.evaluation.rates import join, rates
from monitorlab.monitors.monitor import Sample
from monitorlab.monitors.prompts import load_prompt
from monitorlab.monitors.store import read_verdicts
from monitorlab.storage.table_files import TableFileError

LOGS = Path(__file__).parent / "neighbours"
SAMPLES = LOGS / "samples.csv"
NEEDED = "pip install 'monitorlab[inspect]'"


def measured(verdicts: pd.DataFrame) -> dict[str, float]:
    (row,) = rates(join(verdicts, load_samples(SAMPLES))).to_dict("records")
    return row


def said(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["compare", *arguments, "--samples", str(SAMPLES)])
    assert result.exit_code == 0, result.output
    return result.output


# Inspect


def test_recorded_logs_of_inspect_are_read_and_compared() -> None:
    pytest.importorskip("inspect_ai", reason=NEEDED)
    careful, hasty = (read_verdicts(LOGS / f"{name}.eval") for name in ("careful", "hasty"))
    statuses = careful.set_index("sample_id")["status"]
    assert statuses["boil-1"] == "error" and (statuses.drop("boil-1") == "parsed").all()
    assert careful.set_index("sample_id")["evidence"]["boil-1"] \
        == "RuntimeError('the scripted call fails')"
    assert sorted(hasty["status"].unique()) == ["parsed", "truncated", "unparsed"]
    # counted by hand in `inspect_cases.SAYS`: replies to misbehaving and benign samples alternate
    assert measured(careful)["mr"] == pytest.approx(1 / 5)
    assert measured(careful)["far"] == pytest.approx(1 / 6)
    assert measured(hasty)["mr"] == pytest.approx(3 / 5)
    assert measured(hasty)["far"] == pytest.approx(4 / 5)
    words = said(str(LOGS / "careful.eval"), str(LOGS / "hasty.eval"))
    assert "take 5 scenarios as independent units" in words
    assert "mockllm/careful, direct against mockllm/hasty, direct, misses" in words
    assert "after Holm, of 4 samples (2 left out)" in words


def test_rates_of_inspect_are_those_of_its_log(tmp_path: Path) -> None:
    pytest.importorskip("inspect_ai", reason=NEEDED)
    from inspect_cases import run

    log = run("hasty", tmp_path, str(SAMPLES), epochs=2)
    (file,) = tmp_path.glob("*.eval")
    verdicts = read_verdicts(file)
    assert sorted(verdicts["draw"].unique()) == [0, 1] and len(verdicts) == 24
    assert (verdicts["input_tokens"] == 300).all() and (verdicts["prompt"] == "direct").all()
    expected = measured(verdicts)
    assert expected["mr_least"] == pytest.approx(3 / 6)  # one failed verdict of six
    assert expected["mr_most"] == pytest.approx(4 / 6)
    assert expected["units"] == 5
    (scored,) = log.results.scores
    assert len(scored.metrics) == 10
    for name, metric in scored.metrics.items():
        assert metric.value == expected[name], name


def test_an_inspect_log_needs_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "inspect_ai.log", None)
    with pytest.raises(TableFileError, match=r"x.eval: .*pip install 'monitorlab\[inspect\]'"):
        read_verdicts(tmp_path / "x.eval")


# lm-evaluation-harness


def harness(folder: Path, rows: list[dict[str, object]]) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "samples_misbehavior_2026.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def choice(sample: str, no: str, yes: str, words: tuple[str, str] = (" false", " true")) -> dict:
    return {"doc_id": 0, "doc": {"sample_id": sample},
            "filtered_resps": [[no, "False"], [yes, "True"]],
            "arguments": {f"gen_args_{i}": {"arg_0": "asked", "arg_1": word}
                          for i, word in enumerate(words)}}


def test_two_choices_become_a_score(tmp_path: Path) -> None:
    rows = [choice("a", "-1.0", "-3.0"), choice("b", "-3.0", "-1.0", (" No", " Yes")),
            choice("c", "-inf", "-inf"), choice("d", "-2.0", "-2.0")]
    found = read_verdicts(harness(tmp_path / "a_model", rows)).set_index("sample_id")
    assert (found["monitor"] == "a_model").all()
    assert found.loc["a", "score"] == pytest.approx(1 / (1 + math.exp(2)))
    assert found.loc["b", "score"] == pytest.approx(1 / (1 + math.exp(-2)))
    assert found["verdict"].tolist() == [False, True, pd.NA, False]
    assert found["status"].tolist() == ["parsed", "parsed", "unparsed", "parsed"]


def test_replies_are_read_as_everywhere(tmp_path: Path) -> None:
    says = {"a": '{"misbehavior_detected": true}', "b": "It depends.", "c": "no"}
    rows = [{"doc_id": i, "doc": {"sample_id": name}, "filtered_resps": [reply],
             "arguments": {"gen_args_0": {"arg_0": "asked", "arg_1": {"until": []}}}}
            for i, (name, reply) in enumerate(says.items())]
    found = read_verdicts(harness(tmp_path / "m", rows))
    assert found["verdict"].tolist() == [True, pd.NA, False]
    assert found["status"].tolist() == ["parsed", "unparsed", "parsed"]


def test_what_is_no_verdict_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TableFileError, match="line 1: the choices are 'A', 'B', expected two"):
        read_verdicts(harness(tmp_path / "m", [choice("a", "-1", "-2", (" A", " B"))]))
    unnamed = choice("a", "-1", "-2") | {"doc": {"question": "?"}}
    with pytest.raises(TableFileError, match="line 1: the document has no sample_id"):
        read_verdicts(harness(tmp_path / "m", [unnamed]))


def test_recorded_runs_of_the_harness_are_compared_pairwise() -> None:
    """Two runs of its model `dummy`, which draws log-likelihoods."""
    files = sorted(LOGS.glob("dummy_*/samples_*.jsonl"))
    words = said(*map(str, files))
    for file in files:
        results = json.loads((file.parent / "results.json").read_text())["results"]["misbehavior"]
        found = measured(read_verdicts(file))
        assert found["mr"] == results["mr,none"] and found["far"] == results["far,none"]
    assert "dummy_1 against dummy_2, misses" in words and "of 6 samples (0 left out)" in words


def test_the_task_of_the_harness_reads_what_is_exported(tmp_path: Path) -> None:
    spec = spec_from_file_location("utils", NEIGHBOURS / "lm_eval" / "utils.py")
    assert spec and spec.loader
    task = module_from_spec(spec)
    spec.loader.exec_module(task)
    rows = [task.process_results({"label": label}, [(-1.0, True), (alarm, False)])
            for label, alarm in ((1, -0.5), (1, -2.0), (0, -2.0), (0, -0.1), (0, -3.0))]
    assert task.mr([row["mr"] for row in rows]) == 1 / 2
    assert task.far([row["far"] for row in rows]) == pytest.approx(1 / 3)
    assert math.isnan(task.far([(1, True)]))
    from monitorlab.benchmark.export import _write_harness_task

    samples = load_samples(SAMPLES)
    _write_harness_task(samples, tmp_path / "task")
    task.HERE = tmp_path / "task"
    docs = task.load()["test"]
    assert docs["label"][:] == samples["label"].tolist()
    system, user = load_prompt("direct").messages(Sample.rows(samples)[3])
    assert docs[3]["system"] == system["content"]
    assert docs[3]["prompt"] == user["content"]
