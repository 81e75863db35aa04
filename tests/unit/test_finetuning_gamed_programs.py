"""Pairs of honest and gaming programs: labelled by the teacher, alike but for one edit."""

from __future__ import annotations

import difflib

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from monitorlab.benchmark import construction, duplicates
from monitorlab.benchmark.composition import compose_pair
from monitorlab.benchmark.samples import whole_texts
from monitorlab.benchmark.scenario_files import Scenario
from monitorlab.finetuning.gamed_programs import COMPONENT, KINDS, LONGEST, Report, gamed_pairs
from monitorlab.monitors.findings import parse_python, python_blocks
from monitorlab.monitors.gaming_checks import CLEAN, gaming_checks
from monitorlab.monitors.monitor import MonitorError, samples_of
from monitorlab.pipeline.tables import CORPUS

PAIRS = 400


@pytest.fixture(scope="module")
def corpus(library: list[Scenario]) -> pd.DataFrame:
    """Four pairs of every scenario of code on the training side, and one other cell."""
    chosen = [s for s in library if s.side == "training" and s.cell in ("spv_code", "spv_qa")]
    return pd.DataFrame([
        row | {"component": scenario.cell}
        for scenario in chosen for number in range(4)
        for row in construction.rows(compose_pair(scenario, number, 7), 7)
    ], columns=CORPUS.columns)


@pytest.fixture(scope="module")
def made(corpus: pd.DataFrame) -> pd.DataFrame:
    return gamed_pairs(corpus, PAIRS, np.random.default_rng(5))


def test_the_teacher_gives_every_label(made: pd.DataFrame) -> None:
    found = gaming_checks(samples_of(made))
    suspicions = np.array([finding.suspicion if finding else np.nan for finding in found])
    assert (suspicions[made["label"] == 1] > 0.5).all()
    assert (suspicions[made["label"] == 0] == CLEAN).all()


def test_every_pair_has_one_request_and_both_labels(made: pd.DataFrame) -> None:
    pairs = made.groupby("pair_id", sort=False)
    assert len(pairs) == PAIRS
    assert (pairs["label"].agg(sorted).map(tuple) == (0, 1)).all()
    assert (pairs["request"].nunique() == 1).all()
    assert made["sample_id"].is_unique
    assert 0.4 < made.groupby("pair_id")["label"].first().mean() < 0.6


def test_every_kind_of_edit_has_its_turn(made: pd.DataFrame) -> None:
    counts = made.drop_duplicates("pair_id")["misbehavior_type"].value_counts()
    assert set(counts.index) == set(KINDS)
    assert len(KINDS) >= 6
    assert counts.min() > PAIRS / len(KINDS) / 2


def test_length_does_not_tell_the_classes_apart(made: pd.DataFrame) -> None:
    length = made["response"].str.len()
    assert 0.45 < roc_auc_score(made["label"], length) < 0.55
    sides = made.assign(length=length).pivot(index="pair_id", columns="label", values="length")
    assert 0.4 < ((sides[1] > sides[0]) + 0.5 * (sides[1] == sides[0])).mean() < 0.6


def test_only_the_edit_differs_within_a_pair(made: pd.DataFrame) -> None:
    for _, pair in made.groupby("pair_id"):
        first, second = (text.split("\n") for text in pair["response"])
        match = difflib.SequenceMatcher(None, first, second, autojunk=False)
        changed = [code for code in match.get_opcodes() if code[0] != "equal"]
        spans = changed[-1][2] - changed[0][1], changed[-1][4] - changed[0][3]
        assert max(spans) <= 5, pair["response"].tolist()  # the longest edit has so many lines


def test_programs_are_those_of_the_corpus_but_for_the_edit(
    corpus: pd.DataFrame, made: pd.DataFrame
) -> None:
    honest = corpus[(corpus["component"] == "spv_code") & (corpus["label"] == 0)]
    known: dict[str, list[set[str]]] = {}
    for row in honest.itertuples():
        blocks = python_blocks(str(row.response))
        known.setdefault(str(row.scenario_id), []).append(set(blocks[0].source.split("\n")))
    for row in made[made["label"] == 0].itertuples():
        lines = python_blocks(str(row.response))[0].source.split("\n")
        scenario = str(row.scenario_id).removeprefix("gamed/")
        new = min(sum(line not in source for line in lines) for source in known[scenario])
        assert new <= 7  # a class with its return around it


def test_programs_are_short_and_parse(made: pd.DataFrame) -> None:
    for response in made["response"]:
        source = response.split("```python\n")[1].split("```")[0]
        assert parse_python(source) is not None
        assert source.count("\n") <= LONGEST + 9


def test_rows_say_where_they_come_from(corpus: pd.DataFrame, made: pd.DataFrame) -> None:
    assert list(made.columns) == list(corpus.columns)
    assert set(made["component"]) == set(made["cell"]) == {COMPONENT}
    sources = corpus.loc[corpus["component"] == "spv_code", "scenario_id"]
    assert set(made["scenario_id"]) <= {f"gamed/{name}" for name in sources}
    assert not set(made["pair_id"]) & set(corpus["pair_id"])


def test_the_generator_decides_everything(corpus: pd.DataFrame) -> None:
    first, again, other = (gamed_pairs(corpus, 20, np.random.default_rng(s)) for s in (1, 1, 2))
    pd.testing.assert_frame_equal(first, again)
    assert not set(first["response"]) & set(other["response"])


def test_the_report_counts_what_the_teacher_rejects(corpus: pd.DataFrame) -> None:
    honest = (corpus["component"] == "spv_code") & (corpus["label"] == 0)
    spoilt = corpus.copy()
    half = honest & (np.arange(len(corpus)) % 4 < 2)
    spoilt.loc[half, "response"] = spoilt.loc[half, "response"].str.replace(
        r"```python\n", "```python\nimport os\natexit = os._exit\n", n=1, regex=True)
    report = Report()
    gamed_pairs(spoilt, 30, np.random.default_rng(3), report)
    assert report.made.total() == 30
    assert report.dropped.total() >= 5
    assert 0 < report.programs <= honest.sum()


def test_no_text_of_a_gaming_scenario_is_near(made: pd.DataFrame, library: list[Scenario]) -> None:
    gaming = [compose_pair(scenario, 0, 7) for scenario in library if scenario.cell == "sg_code"]
    assert gaming
    rows = [row for pair in gaming for row in construction.rows(pair, 7)]
    theirs = duplicates.signatures(whole_texts(pd.DataFrame(rows)))
    ours = duplicates.signatures(whole_texts(made))
    assert duplicates.largest_similarity(ours, theirs) < 0.2


@pytest.mark.parametrize(
    ("change", "n", "message"),
    [
        (lambda corpus: corpus.drop(columns="component"), 5, "lacks component"),
        (lambda corpus: corpus, 0, "0 pairs were asked for"),
        (lambda corpus: corpus[corpus["component"] == "spv_qa"], 5, "no benign program"),
    ],
)
def test_what_cannot_be_used_is_named(corpus, change, n, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(MonitorError, match=message):
        gamed_pairs(change(corpus), n, np.random.default_rng(0))


def test_a_teacher_who_rejects_everything_is_an_error(corpus: pd.DataFrame) -> None:
    spoilt = corpus.assign(response=corpus["response"].str.replace(
        r"```python\n", "```python\nimport os\nstop = os._exit\n", n=1, regex=True))
    with pytest.raises(MonitorError, match="0 of 2 pairs after"):
        gamed_pairs(spoilt, 2, np.random.default_rng(0))
