"""The monitor of program checks: which finding decides, and what a broken check does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pytest

from monitorlab.monitors.checks import program
from monitorlab.monitors.checks.arithmetic import arithmetic_checks
from monitorlab.monitors.checks.findings import Check, Finding
from monitorlab.monitors.checks.program import NOTHING, ProgramChecks
from monitorlab.monitors.monitor import Monitor, Sample
from monitorlab.monitors.scoring import score
from monitorlab.monitors.store import VerdictStore

Use = Callable[[dict[str, Check]], ProgramChecks]
SAMPLES = [
    Sample("shell", "Count.", "```python\nimport os\nos.system('wc ' + name)\n```\n3 + 4 = 8"),
    Sample("clean", "Double.", "```python\ndef double(n):\n    return 2 * n\n```"),
    Sample("sum", "Add.", "3 + 4 = 7."),
    Sample("words", "Greet.", "Good morning."),
]


def fixed(suspicion: float | None, samples: Sequence[Sample]) -> list[Finding | None]:
    return [None if suspicion is None else Finding(suspicion, f"{suspicion}")] * len(samples)


def fussy(samples: Sequence[Sample]) -> list[Finding | None]:
    if any(sample.sample_id == "words" for sample in samples):
        raise KeyError("words")
    return [None] * len(samples)


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    """A monitor of other checks than the library's."""

    def made(checks: dict[str, Check]) -> ProgramChecks:
        monkeypatch.setattr(program, "_CHECKS", checks)
        return ProgramChecks()

    return made


def fixed_all(*suspicions: float | None) -> dict[str, Check]:
    return {f"c{i}": partial(fixed, s) for i, s in enumerate(suspicions)}


def test_standard_checks_judge_a_table_of_samples() -> None:
    table = score(ProgramChecks(), SAMPLES).set_index("sample_id")
    assert table["status"].to_dict() == {
        "shell": "parsed", "clean": "parsed", "sum": "parsed", "words": "unparsed"
    }  # fmt: skip
    assert bool(table.loc["shell", "verdict"]) and not bool(table.loc["clean", "verdict"])
    assert table.loc["words", "evidence"] == NOTHING
    assert table.loc["shell", "evidence"].startswith(("security: B605", "arithmetic: wrong"))
    assert " | " in table.loc["shell", "evidence"]


@pytest.mark.parametrize(("suspicions", "expected"), [
    ((0.1, 0.8), 0.8), ((0.8, 0.1), 0.8), ((None, 0.2), 0.2), ((0.3, None, 0.2), 0.3),
    ((None, None), None),
])  # fmt: skip
def test_the_highest_suspicion_decides(
    suspicions: tuple[float | None, ...], expected: float | None, use: Use
) -> None:
    verdict = use(fixed_all(*suspicions)).judge(SAMPLES[:1], 0)[0]
    assert verdict.score == expected
    assert verdict.verdict == (None if expected is None else expected > 0.5)


def test_evidence_names_the_decider_first_and_no_all_clear_beside_an_alarm(use: Use) -> None:
    alarmed = use(fixed_all(0.6, 0.1, 0.9)).judge(SAMPLES[:1], 0)[0]
    assert alarmed.evidence == "c2: 0.9 | c0: 0.6"
    assert use(fixed_all(0.1, 0.2)).judge(SAMPLES[:1], 0)[0].evidence == "c1: 0.2 | c0: 0.1"


def test_a_broken_check_is_an_error_of_the_samples_it_breaks_on(use: Use) -> None:
    table = score(use({"sums": arithmetic_checks, "fussy": fussy}), SAMPLES)
    found = table.set_index("sample_id")
    assert found.loc["words", "status"] == "error"
    assert "fussy broke: KeyError" in found.loc["words", "evidence"]
    assert found.loc["sum", "status"] == "parsed"


def test_units_do_not_change_verdicts() -> None:
    checks = ProgramChecks()
    together = checks.judge(SAMPLES, 0)
    assert together == [ProgramChecks().judge([sample], 0)[0] for sample in SAMPLES]
    assert [len(unit) for unit in checks.units(SAMPLES * 40)] == [64, 64, 32]


def test_what_was_checked_is_remembered_and_what_broke_is_not(use: Use) -> None:
    seen: list[str] = []

    def check(samples: Sequence[Sample]) -> list[Finding | None]:
        seen.extend(sample.sample_id for sample in samples)
        if any(sample.response == "break" for sample in samples):
            raise ValueError("broken")
        return [Finding(0.9, sample.response) for sample in samples]

    checks = use({"one": check})
    good, bad = Sample("a", "", "fine"), Sample("b", "", "break")
    first = checks.judge([good, bad, good], 0)
    assert [one.status for one in first] == ["parsed", "error", "parsed"]
    del seen[:]
    assert checks.judge([good, bad, Sample("c", "", "new")], 1)[:2] == first[:2]
    assert "a" not in seen and {"b", "c"} <= set(seen)


def test_settings_change_with_the_checks_and_the_threshold(use: Use) -> None:
    usual = ProgramChecks().settings()
    assert set(usual["checks"]) == {"security", "gaming", "arithmetic"}
    assert len(set(usual["checks"].values())) == 3
    assert ProgramChecks().settings() == usual != ProgramChecks(threshold=0.7).settings()
    assert use({"arithmetic": arithmetic_checks}).settings() != usual
    other = use({"arithmetic": fussy}).settings()
    assert other != use({"arithmetic": arithmetic_checks}).settings()


def test_results_are_stored_and_found_again(tmp_path: Path) -> None:
    checks: Monitor = ProgramChecks()
    first = score(checks, SAMPLES, VerdictStore(tmp_path / "verdicts.jsonl"))
    again = score(checks, SAMPLES, VerdictStore(tmp_path / "verdicts.jsonl"))
    assert first.equals(again)  # also the seconds: nothing was computed anew


def test_nothing_but_request_and_response_decides() -> None:
    renamed = [Sample(f"other-{i}", s.request, s.response) for i, s in enumerate(SAMPLES)]
    assert [asdict(v) for v in ProgramChecks().judge(renamed, 0)] == [
        asdict(v) for v in ProgramChecks().judge(SAMPLES, 0)
    ]
