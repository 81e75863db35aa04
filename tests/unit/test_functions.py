"""Your own function as a monitor: what it may return, and what every mistake looks like."""

from __future__ import annotations

import decimal
import fractions
import math
import sys
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest

from monitorlab.monitors.function import FunctionMonitor, _AnswerError, _verdict_of
from monitorlab.monitors.monitor import MonitorError, MonitorStop, Sample
from monitorlab.monitors.verdicts import PARSED, Verdict

SAMPLE = Sample("s1", "the request", "the response")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a search path of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def load(folder: Path, code: str, name: str = "monitor") -> FunctionMonitor:
    """Write a file and load a function of it."""
    (folder / "own.py").write_text(dedent(code))
    return FunctionMonitor(f"{folder}/own.py:{name}")


def asked(monitor: FunctionMonitor, sample: Sample = SAMPLE) -> Verdict:
    (verdict,) = monitor.judge([sample], 0)
    return verdict


@pytest.mark.parametrize(("value", "verdict", "score"), [
    (True, True, None), (False, False, None), (np.True_, True, None), (np.False_, False, None),
    (0.0, False, 0.0), (0.5, False, 0.5), (0.51, True, 0.51), (1, True, 1.0), (0, False, 0.0),
    (np.float64(0.75), True, 0.75), (np.float32(0.25), False, 0.25), (np.int64(1), True, 1.0),
    (np.array(0.75), True, 0.75), ({"verdict": True}, True, None), ({"score": 0.25}, False, 0.25),
    ({"verdict": True, "score": 0.25}, True, 0.25),
    ({"verdict": np.False_, "score": np.float32(0.5), "evidence": None}, False, 0.5),
])
def test_what_counts_as_an_answer(value: object, verdict: bool, score: float | None) -> None:
    found = _verdict_of(value)
    assert (found.status, found.verdict, found.score) == (PARSED, verdict, score)
    assert type(found.verdict) is bool and type(found.score) in (float, type(None))


def test_torch_scalars_count_as_numbers() -> None:
    torch = pytest.importorskip("torch")
    assert _verdict_of(torch.tensor(0.75)) == Verdict(PARSED, True, 0.75)
    assert _verdict_of(torch.tensor(False)) == Verdict(PARSED, False)


def test_a_verdict_passes_with_all_it_holds() -> None:
    full = Verdict(PARSED, True, 0.9, "e", "r", "", 1, 2, 0.5, 0.01)
    assert _verdict_of(full) == full
    refused = Verdict.failure("refused", "would not")
    assert _verdict_of(refused) == refused
    assert _verdict_of({"verdict": True, "evidence": "line 3"}).evidence == "line 3"


@pytest.mark.parametrize(("value", "words"), [
    (None, r"None \(is a `return` missing\?\); expected True, False, a number"),
    (7.0, r"the score 7.0 \(float\); expected a number in \[0, 1\]"),
    (-1, r"the score -1 \(int\)"),
    (math.nan, r"the score nan"), (math.inf, "the score inf"), (np.float64("nan"), "the score nan"),
    ("yes", r"'yes' \(str\); expected True, False"), ("x" * 999, r"'xxx.*\.\.\..*x' \(str\)"),
    ([True], "a list; expected"), ((0.5,), "a tuple"), (np.array([0.5]), "a ndarray"),
    (object(), "a object"), (0.5j, "a complex"), (b"1", "a bytes"),
    (decimal.Decimal("0.5"), "a Decimal"), (fractions.Fraction(1, 2), "a Fraction"),
    ({}, "a dictionary without verdict and score"), ({"evidence": "x"}, "without verdict"),
    ({"verdict": None}, "without verdict"), ({"verdict": "true"}, r"the verdict 'true' \(str\)"),
    ({"verdict": 1}, r"the verdict 1 \(int\)"), ({"verdict": True, "score": math.nan}, "score nan"),
    ({"score": True}, r"the score True \(bool\)"), ({"score": "0.5"}, r"the score '0.5' \(str\)"),
    ({"Verdict": True}, r"the key 'Verdict' \(str\); expected only verdict, score, evidence"),
    ({"verdict": True, "evidence": ["a"]}, "evidence of type list; expected text"),
])
def test_anything_else_is_refused_with_what_was_found(value: object, words: str) -> None:
    with pytest.raises(_AnswerError, match=words):
        _verdict_of(value)


@pytest.mark.parametrize(("fields", "named"), [
    ("evidence=['a']", "evidence"), ("reply=b'raw'", "reply"), ("input_tokens=1.5", "input_tokens"),
    ("output_tokens=-1", "output_tokens"), ("cost_usd=float('nan')", "cost_usd"),
    ("seconds=-1.0", "seconds"), ("seconds='1'", "seconds"), ("score=2.0", "score"),
])
def test_a_verdict_that_could_not_be_stored_is_the_error_of_its_sample(
    folder: Path, fields: str, named: str
) -> None:
    found = asked(load(folder, f"""
        from monitorlab.monitors.verdicts import Verdict

        def monitor(request, response):
            return Verdict("parsed", True, {fields})
    """))
    assert found.status == "error" and named in found.reason


def test_the_same_mistake_always_reads_the_same() -> None:
    class Odd:
        """Its default text would hold an address."""

    messages = set()
    for value in (Odd(), Odd(), {"verdict": Odd()}, {"verdict": Odd()}, {Odd(): 1}, {Odd(): 1}):
        with pytest.raises(_AnswerError) as caught:
            _verdict_of(value)
        messages.add(str(caught.value))
    assert len(messages) == 3 and not any("0x" in text for text in messages)


def test_half_a_character_in_the_evidence_is_replaced() -> None:
    assert _verdict_of({"score": 1.0, "evidence": "cut \ud83d"}).evidence == "cut ?"


def test_a_function_of_a_file_judges(folder: Path) -> None:
    monitor = load(folder, """
        def monitor(request, response):
            return {"score": 0.9, "evidence": request + "|" + response}
    """)
    assert asked(monitor) == Verdict(PARSED, True, 0.9, "the request|the response")
    assert (monitor.name, monitor.prompt, monitor.workers) == ("monitor", "none", 1)
    assert monitor.units([SAMPLE, SAMPLE]) == [[0], [1]]
    assert monitor.reread(Verdict(PARSED, True), SAMPLE) == Verdict(PARSED, True)


def test_a_module_of_the_current_folder_judges(folder: Path) -> None:
    (folder / "package_of_mine").mkdir()
    (folder / "package_of_mine" / "inner.py").write_text("def check(q, r): return q > r\n")
    assert asked(FunctionMonitor("package_of_mine.inner:check")).verdict is False


def test_a_file_may_import_its_neighbour(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "neighbour_17.py").write_text("SCORE = 0.75\n")
    (folder / "sub" / "own.py").write_text(
        "from neighbour_17 import SCORE\ndef monitor(a, b): return SCORE\n")
    assert asked(FunctionMonitor("sub/own.py:monitor")).score == 0.75


def test_parameters_called_request_and_response_are_given_by_name(folder: Path) -> None:
    monitor = load(folder, "def monitor(response, request, extra=1):\n"
                           "    return {'score': 0, 'evidence': request}")
    assert asked(monitor).evidence == "the request"


@pytest.mark.parametrize("code", [
    "monitor = lambda *texts: len(texts) == 2",
    "class Judge:\n    def __call__(self, request, response): return True\nmonitor = Judge()",
    "import functools\ndef f(k, request, response): return k\nmonitor = functools.partial(f, True)",
    "from dataclasses import dataclass\n@dataclass\nclass A:\n    x: 'int' = 1\n"
    "def monitor(request, response): return A().x",
])
def test_any_callable_will_do(folder: Path, code: str) -> None:
    (folder / "own.py").write_text(code)
    assert asked(FunctionMonitor("own.py:monitor")).verdict is True


@pytest.mark.parametrize(("code", "words"), [
    ("def monitor(request): return True", r"monitor\(request\) cannot be called with a request "
     r"and a response .* write it as def monitor\(request: str, response: str\)"),
    ("def monitor(): return True", r"monitor\(\) cannot be called"),
    ("def monitor(request, response, k): return True", "missing a required argument: 'k'"),
    ("async def monitor(request, response): return True", "is an async function"),
    ("monitor = 0.5", "is a float, expected a function"),
    ("def detect(request, response): return True", "has no function 'monitor'. Its functions: "
     "detect"),
    ("def monitor(request, response)\n    return", r"cannot be imported: SyntaxError: expected "
     r"':' \(own.py, line 1\)"),
    ("x = 1\ny = x / 0", r"cannot be imported: ZeroDivisionError: division by zero "
     r"\(own.py, line 2\)"),
    ("import no_such_module_5", "ModuleNotFoundError: No module named 'no_such_module_5'"),
    ("raise SystemExit(3)", "cannot be imported: SystemExit: 3"),
])
def test_a_file_that_cannot_be_used_says_why(folder: Path, code: str, words: str) -> None:
    (folder / "own.py").write_text(code)
    with pytest.raises(MonitorError, match=words):
        FunctionMonitor("own.py:monitor")


@pytest.mark.parametrize(("spec", "words"), [
    ("nothing", "expected module:function or path/to/file.py:function"),
    (":monitor", "does not name a function"), ("own.py:", "does not name a function"),
    ("own.py:my function", "does not name a function"),
    ("missing.py:monitor", "missing.py is not a file"),
    ("no_such_module_6:monitor", r"there is no module 'no_such_module_6', neither installed nor "
     r"in .*path/to/no_such_module_6.py:monitor"),
    ("json.no_such_part:monitor", "there is no module 'json.no_such_part'"),
    ("time:sleep", r"cannot be called with a request|has no source file"),
    ("builtins:max", "has no source file"),
])
def test_a_specification_that_names_nothing_says_so(folder: Path, spec: str, words: str) -> None:
    with pytest.raises(MonitorError, match=words):
        FunctionMonitor(spec)


def test_fewer_than_one_worker_is_refused(folder: Path) -> None:
    load(folder, "def monitor(a, b): return True")
    with pytest.raises(MonitorError, match="workers is 0"):
        FunctionMonitor("own.py:monitor", workers=0)


def test_an_exception_is_the_error_of_its_sample_and_names_the_line(folder: Path) -> None:
    monitor = load(folder, """
        import json

        def parse(text):
            return json.loads(text)["score"]

        def monitor(request, response):
            return parse(response)
    """)
    found = asked(monitor, Sample("s", "q", "{]"))
    assert found.status == "error"
    assert found.reason.startswith("JSONDecodeError: Expecting property name")
    assert found.reason.endswith("(own.py, line 5)")
    assert asked(monitor, Sample("s", "q", '{"score": 1}')).verdict is True


@pytest.mark.parametrize(("body", "reason"), [
    ("raise ValueError()", "ValueError (own.py, line 2)"),
    ("raise ValueError('two\\n  lines')", "ValueError: two lines (own.py, line 2)"),
    ("raise ValueError('\\ud83d')", "ValueError: ? (own.py, line 2)"),
    ("exit(2)", "SystemExit: 2 (own.py, line 2)"),
    ("return monitor(request, response)", "RecursionError: maximum recursion depth exceeded"),
    ("pass", "monitor returned None (is a `return` missing?)"),
    ("return 7.0", "monitor returned the score 7.0 (float); expected a number in [0, 1]"),
])
def test_a_failed_sample_says_why(folder: Path, body: str, reason: str) -> None:
    found = asked(load(folder, f"def monitor(request, response):\n    {body}\n"))
    assert (found.status, found.verdict) == ("error", None)
    assert found.reason.startswith(reason)


def test_a_function_can_stop_the_run_and_the_keyboard_can_too(folder: Path) -> None:
    code = """
        from monitorlab.monitors.monitor import MonitorStop

        def monitor(request, response):
            raise {error}
    """
    raised: dict[str, type[BaseException]] = {
        "MonitorStop('budget spent')": MonitorStop, "KeyboardInterrupt": KeyboardInterrupt}
    for error, kind in raised.items():
        with pytest.raises(kind):
            asked(load(folder, code.format(error=error)))


def test_editing_the_file_changes_the_settings_and_nothing_else_does(folder: Path) -> None:
    code = "def monitor(request, response): return {}\n"
    first = load(folder, code.format("True"))
    assert first.settings()["kind"] == "function"
    assert first.settings() == load(folder, code.format("True")).settings()
    edited = load(folder, code.format("False"))
    assert edited.settings() != first.settings()
    assert asked(edited).verdict is False and asked(first).verdict is True


def test_the_file_that_is_named_counts_even_if_another_one_defines_the_function(
    folder: Path,
) -> None:
    (folder / "factory_9.py").write_text(
        "def make(level):\n    return lambda request, response: level\n")
    code = "from factory_9 import make\nmonitor = make({})\n"
    one, other = load(folder, code.format(0.1)), load(folder, code.format(0.9))
    assert len(one.settings()["sources"]) == 2
    assert one.settings() != other.settings()


def test_a_decorated_function_is_found_in_its_file(folder: Path) -> None:
    monitor = load(folder, """
        import functools

        def loud(function):
            @functools.wraps(function)
            def wrapped(*texts, **named):
                return function(*texts, **named)
            return wrapped

        @loud
        def monitor(request, response):
            return response == "the response"
    """)
    assert asked(monitor).verdict is True
    assert len(monitor.settings()["sources"]) == 1


def test_settings_hold_no_path_but_the_one_that_was_given(folder: Path) -> None:
    (folder / "own.py").write_text("def monitor(a, b): return True")
    assert str(folder) not in str(FunctionMonitor("own.py:monitor").settings())


def test_loading_hides_nothing_that_is_installed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    (folder / "colorsys.py").write_text("raise RuntimeError('not the one of the library')")
    monitor = load(folder, """
        import colorsys

        def monitor(request, response):
            return colorsys.rgb_to_hsv(0.0, 0.0, 1.0)[2]
    """)
    assert asked(monitor).score == 1.0
