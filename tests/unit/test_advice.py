"""One line for each status that is no verdict."""

from __future__ import annotations

import pandas as pd
import pytest

from monitorlab.commands.score import _advise, _error_advice


def rows(*statuses: str, **columns: object) -> pd.DataFrame:
    facts = {"prompt": "direct", "evidence": "why", "output_tokens": None, "score": None,
             "request_hash": [f"k{i}" for i in range(len(statuses))]}
    table = pd.DataFrame({"status": list(statuses), **(facts | columns)})
    return table.astype({"output_tokens": "Int64", "score": "Float64"})


def test_verdicts_need_no_advice_and_every_other_status_has_one_line() -> None:
    assert _advise(rows("parsed", "parsed"), {}) == []
    lines = _advise(rows("error", "refused", "parsed", "unparsed", "truncated", "error"),
                   {"max_tokens": 5})
    assert [line.partition(":")[0] for line in lines] == [
        "1 truncated", "1 unparsed", "1 refused", "2 error"]
    assert all("why" in line for line in lines)


@pytest.mark.parametrize(("spent", "reply", "reason", "words"), [
    (512, "", "cut off", "512 tokens eaten by hidden thinking: raise --max-tokens"),
    (512, " \n", "cut off", "hidden thinking"),
    (600, "<think>so", "the reply ends inside its thinking", "512 tokens eaten by thinking: raise"),
    (512, '{"mis', "cut off", "cut off, 512 tokens: raise --max-tokens"),
    (None, '{"mis', "cut off", "cut off, 512 tokens: raise --max-tokens"),
    (40, "", "cut off", "cut off, after 40 tokens and not at --max-tokens 512: the limit is the "),
])
def test_thinking_our_limit_and_that_of_the_server_are_told_apart(
    spent: int | None, reply: str, reason: str, words: str
) -> None:
    table = rows("truncated", "truncated", evidence=reason, output_tokens=spent)
    for limit in ("max_tokens", "max_completion_tokens", "max_new_tokens"):
        (line,) = _advise(table, {limit: 512}, {"k0": reply, "k1": reply})
        assert words in line


def test_a_prompt_that_was_cut_needs_no_longer_reply() -> None:
    table = rows("truncated", evidence="the server cut the prompt: 9 tokens", output_tokens=512)
    (line,) = _advise(table, {"max_tokens": 512}, {"k0": ""})
    assert "longer context" in line and "--max-tokens" not in line


def test_the_commonest_reason_is_shown_numbers_aside_and_short() -> None:
    table = rows("error", "error", "error", evidence=["other", "x (line 3)", "x (line 14)"])
    assert _advise(table, {})[0].startswith("3 error: x (line 3): ")
    (line,) = _advise(rows("unparsed", evidence="a\nb " * 500), {})
    assert "\n" not in line and len(line) < 400
    assert "no reason given" in _advise(rows("refused", evidence=None), {})[0]


def test_a_monitor_without_a_prompt_is_not_told_to_change_it() -> None:
    assert "--prompt" not in _advise(rows("unparsed", "refused", prompt="none"), {})[0]
    assert "--prompt" in _advise(rows("unparsed"), {})[0]


@pytest.mark.parametrize(("reason", "words"), [
    ("no answer in 7 calls, the last: no answer in time (ReadTimeout)", "raise -o timeout_s"),
    ("the connection failed (ConnectError: refused)", "does the server run?"),
    ("HTTP 400: Unsupported value: temperature", "-o temperature=none"),
    ("HTTP 429: slow down", "lower --workers or --rpm"), ("HTTP 503: overloaded", "server fails"),
    ("HTTP 200 with a body that is not JSON", "server fails"),
    ("the prompt has 9 tokens ... use a model with a longer context", "shorten these samples"),
    ("the model's logits are not finite", "--dtype float32"), ("ZeroDivisionError", ""),
])
def test_what_helps_against_an_error_follows_from_its_reason(reason: str, words: str) -> None:
    assert words in _error_advice(reason) and bool(words) == bool(_error_advice(reason))


def test_scores_that_logits_should_have_brought_are_missed() -> None:
    table = rows("parsed", "parsed", "refused", score=[0.5, None, None])
    told = _advise(table, {"logprobs": True})
    assert told[-1].startswith("1 of 2 verdicts without a score: --read logits, but the server")
    assert "logits" not in " ".join(_advise(table, {}))
