"""The API monitor without a network: settings, replies, retries, money and secrets."""

from __future__ import annotations

import json
import math
import re
import time
from email.utils import formatdate

import pytest

from monitorlab.monitors.api import replies
from monitorlab.monitors.api.monitor import ApiMonitor, _fewest_tokens
from monitorlab.monitors.api.replies import NoReply, Reply
from monitorlab.monitors.monitor import MonitorError, MonitorStop, Sample, SettingsChanged
from monitorlab.monitors.scoring import score
from monitorlab.monitors.store import VerdictStore
from monitorlab.monitors.verdicts import PARSED, REFUSED, TRUNCATED, UNPARSED

KEY = "sk-very-secret-0123456789"
HERE = "http://127.0.0.1:9/v1"
SAMPLE = Sample("s1", "How do I reset it?", "Press the button.")
YES, NO = '{"misbehavior_detected": true}', '{"misbehavior_detected": false}'


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def monitor(*results: Reply | NoReply, prompt: str = "direct", **options) -> ApiMonitor:
    """A monitor whose calls return `results`, and which notes requests and waits."""
    options = {"base_url": HERE, "report": lambda words: made.told.append(words), **options}
    made = ApiMonitor("m", prompt, sleep=lambda s: made.waits.append(s), **options)
    made.waits, made.bodies, made.told = [], [], []
    scripted = iter(results)

    def call(body):
        made.bodies.append(body)
        return next(scripted)

    made._call = call
    made._limiter.pause = lambda s: made.waits.append(("all", s))
    return made


def judge(made: ApiMonitor, draw: int = 0):
    return made.judge([SAMPLE], draw)[0]


def body(content: object = YES, finish: object = "stop", **more) -> str:
    choice = {"finish_reason": finish, "message": {"content": content, **more.pop("message", {})},
              **more.pop("choice", {})}  # fmt: skip
    return json.dumps({"choices": [choice], **more})


# --- settings -------------------------------------------------------------------------------


def test_settings_hold_all_that_decides_a_reply_and_no_secret():
    made = monitor(seed=5, extra={"reasoning_effort": "low"}, logprobs=True)
    settings = dict(made.settings())
    assert len(settings.pop("prompt")) == 64
    assert settings == {
        "kind": "api", "model": "m", "base_url": HERE, "seed": 5, "max_tokens": 512,
        "temperature": 0.0, "logprobs": True, "top_logprobs": 20,
        "extra": {"reasoning_effort": "low"},
    }  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1}, {"max_tokens": 9}, {"temperature": 0.5}, {"temperature": None},
        {"logprobs": True}, {"extra": {"a": 1}}, {"prompt": "evidence"},
        {"limit_name": "max_completion_tokens"}, {"fold_system": True},
        {"logprobs": True, "top_logprobs": 5}, {"base_url": f"{HERE}?api-version=2024-10-21"},
    ],
)  # fmt: skip
def test_every_setting_that_changes_the_request_changes_the_key(change):
    plain = SAMPLE.key(monitor().settings())
    made = monitor(**{"base_url": HERE, **change})
    assert SAMPLE.key(made.settings()) != plain


def test_keys_of_stored_answers_stay_what_they_were():
    """Another key would ask, and pay, for every stored answer again."""
    assert SAMPLE.key(monitor().settings()) == (
        "25c31ee27c0fde70106f8684c26dd52ca1e452f14dddb95fc503aaa139992f0c")
    others = monitor(logprobs=True, seed=5, temperature=None, extra={"a": 1},
                     limit_name="max_completion_tokens", base_url="")
    assert SAMPLE.key(others.settings()) == (
        "974dde6249acd184e03a581ae42390892154628c5521c8a6c12bd9fd22b3e8de")


def test_settings_that_do_not_change_the_reply_do_not_change_the_key():
    plain = SAMPLE.key(monitor().settings())
    other = monitor(workers=2, max_retries=1, requests_per_minute=5, input_price=1, output_price=1,
                    cost_cap_usd=9, timeout_s=1, name="n")  # fmt: skip
    assert SAMPLE.key(other.settings()) == plain


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("", ""),
        ("https://api.openai.com/v1/", ""),
        ("https://user:pass@Host.example:8443/v1/?key=abc#x", "https://host.example:8443/v1"),
        ("https://h.example/v1/chat/completions", "https://h.example/v1"),
        ("https://h.example/openai/deployments/d?api-version=2024-10-21",
         "https://h.example/openai/deployments/d?api-version=2024-10-21"),
        ("https://h.example/v1?code=abc&api-version=2024-10-21&sig=x&v=1",
         "https://h.example/v1?api-version=2024-10-21"),
        ("https://h.example/v1?api-version=two%20words", "https://h.example/v1"),
        (f"https://h.example/v1?api-version={KEY}", "https://h.example/v1"),
        ("http://[::1]:80/v1", "http://[::1]:80/v1"),
    ],
)
def test_the_address_is_kept_without_what_may_be_secret(given, kept):
    assert ApiMonitor("m", "direct", base_url=given).settings()["base_url"] == kept


def test_what_is_left_out_of_an_address_is_said_without_its_value():
    told: list[str] = []
    ApiMonitor("m", "direct", base_url=f"http://u:p4ss@127.0.0.1:9/v1?token=s3cret&{KEY}=1",
               report=told.append)
    (words,) = told
    assert "token, a field, user name, password" in words and "key_variable" in words
    assert not any(secret in words for secret in ("p4ss", "s3cret", KEY))


@pytest.mark.parametrize("url", ["ftp://x/v1", "localhost:8000", "http://", "http://h:port/secret"])
def test_what_is_no_address_is_refused_without_showing_it(url):
    with pytest.raises(MonitorError, match="base_url is not an address") as caught:
        ApiMonitor("m", "direct", base_url=url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "workers is 0, expected at least 1"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"max_retries": -1}, "max_retries is -1"),
        ({"timeout_s": 0}, "timeout_s is 0"),
        ({"temperature": -1}, "temperature is -1"),
        ({"limit_name": "limit"}, "limit_name is 'limit', expected max_tokens or"),
        ({"cost_cap_usd": 1}, "cost_cap_usd needs prices"),
        ({"extra": {"seed": 1, "n": 2}}, "extra sets n, seed: use the parameters"),
        ({"extra": {"x": {1, 2}}}, "extra is not JSON"),
        ({"extra": {"x": f"a{KEY}b"}}, "extra holds the key"),
        ({"extra": {"api_key": "another"}}, "extra holds what looks like a key, in api_key"),
        ({"extra": {"provider": [{"Authorization": "x"}]}}, "looks like a key, in Authorization"),
        ({"extra": {"x": {"y": "sk-proj-0123456789abcdef0123"}}}, "looks like a key, in y"),
        ({"extra": {"stream": True}}, "extra sets stream"),
        ({"top_logprobs": 5}, "top_logprobs is 5, expected nothing, since logprobs is off"),
        ({"top_logprobs": 0, "logprobs": True}, "top_logprobs is 0, expected at least 1"),
        ({"prompt": "no such"}, "cannot read prompt"),
    ],
)
def test_unusable_settings_are_refused(options, message):
    with pytest.raises(MonitorError, match=message) as caught:
        monitor(**options)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("extra", [
    {"stream": False}, {"prompt_cache_key": "run-1"}, {"stop": ["</s>"], "eos_token": "<end>"},
    {"response_format": {"json_schema": {"properties": {"token": {"type": "string"}}}}},
])
def test_fields_that_only_sound_like_secrets_are_taken(extra):
    assert monitor(extra=extra).settings()["extra"] == extra


def test_a_missing_key_names_the_variable(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(MonitorError, match="OPENAI_API_KEY holds no key for https://api.openai"):
        ApiMonitor("m", "direct")
    with pytest.raises(MonitorError, match="variable OTHER holds no key"):
        ApiMonitor("m", "direct", base_url="https://localhost.example/v1", key_variable="OTHER")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "127.1.2.3"])
def test_a_server_on_this_machine_needs_no_key(monkeypatch, host):
    monkeypatch.delenv("OPENAI_API_KEY")
    ApiMonitor("m", "direct", base_url=f"http://{host}:8000/v1")


@pytest.mark.parametrize("key", ["two words", "sk-“quoted”", "line\nbreak"])
def test_a_key_that_cannot_be_one_is_refused_without_showing_it(monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(MonitorError, match="set it to the key alone") as caught:
        ApiMonitor("m", "direct")
    assert key not in str(caught.value)


# --- requests -------------------------------------------------------------------------------


def test_the_request_holds_the_prompt_and_the_parameters():
    made = monitor(Reply(YES), Reply(YES), seed=40, max_tokens=7, temperature=0.5)
    assert judge(made, draw=0).verdict is True
    judge(made, draw=2)
    first, second = made.bodies
    assert [message["role"] for message in first["messages"]] == ["system", "user"]
    assert SAMPLE.response in first["messages"][1]["content"]
    assert (first["seed"], second["seed"]) == (40, 42)
    assert (first["max_tokens"], first["temperature"]) == (7, 0.5)


def test_what_is_not_given_is_not_sent():
    made = monitor(Reply(YES), temperature=None, limit_name="max_completion_tokens")
    judge(made)
    assert set(made.bodies[0]) == {"messages", "max_completion_tokens"}


# --- reading bodies -------------------------------------------------------------------------


def test_a_body_is_read():
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    assert Reply.read(body(usage=usage)) == Reply(YES, "stop", "", 7, 3)


def test_thinking_that_only_the_total_counts_is_output():
    usage = {"prompt_tokens": 32, "completion_tokens": 9, "total_tokens": 135}
    assert Reply.read(body(usage=usage)).output_tokens == 103


def test_thinking_that_the_server_keeps_apart_is_not_in_the_reply():
    answer = Reply.read(body(message={"reasoning_content": "true, true, true"}))
    assert (answer.text, answer.thinking) == (YES, "true, true, true")


@pytest.mark.parametrize(
    ("message", "thinking"),
    [
        ({"reasoning_content": "a"}, "a"),
        ({"reasoning": "a"}, "a"),
        ({"reasoning_details": [{"type": "reasoning.text", "text": "a"}, {"summary": "b"}]}, "ab"),
        ({"thinking": "a"}, "a"),
        ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "a"}]},
                      {"type": "text", "text": "b"}]}, "a"),
        ({"reasoning_content": None, "reasoning": 3}, ""),
    ],
)
def test_thinking_has_many_names(message, thinking):
    answer = Reply.read(body(None, message=message))
    assert answer.thinking == thinking
    assert answer.text == ("b" if isinstance(message.get("content"), list) else "")


@pytest.mark.parametrize(
    "message",
    [
        {"tool_calls": [{"function": {"name": "f", "arguments": YES}}]},
        {"tool_calls": [{"function": {"name": "f", "arguments": json.loads(YES)}}]},
        {"function_call": {"name": "f", "arguments": YES}},
        {"tool_calls": [{"type": "tool_use", "input": json.loads(YES)}]},
    ],
)
def test_arguments_of_tools_are_part_of_the_reply(message):
    assert Reply.read(body(None, "tool_calls", message=message)).text == YES
    both = Reply.read(body(NO, "tool_calls", message=message))
    assert both.text == f"{NO}\n{YES}"
    assert judge(monitor(both)).status == UNPARSED  # they contradict each other


@pytest.mark.parametrize(
    ("choice", "finish"),
    [
        ({"finish_reason": None}, "null"),
        ({"finish_reason": ""}, "null"),
        ({"finish_reason": {"type": "length", "length": 9}}, "length"),
        ({"finish_reason": "stop", "native_finish_reason": "MAX_TOKENS"}, "MAX_TOKENS"),
        ({"finish_reason": "stop", "native_finish_reason": "SAFETY"}, "SAFETY"),
        ({"finish_reason": "stop", "native_finish_reason": "STOP"}, "stop"),
        ({"finish_reason": "length", "native_finish_reason": "STOP"}, "length"),
        ({"finish_reason": "stop", "stop_reason": 128009}, "stop"),
        ({"finish_reason": None, "stop_reason": "end_turn"}, "end_turn"),
        ({"finish_reason": "stop", "provider_specific_fields":
          {"native_finish_reason": "RECITATION"}}, "RECITATION"),
    ],
)
def test_the_ending_is_what_says_most(choice, finish):
    assert Reply.read(body(choice=choice)).finish == finish


def test_a_filter_that_hit_the_reply_is_a_refusal_whatever_the_ending_says():
    hit = {"content_filter_results": {"hate": {"filtered": False}, "violence": {"filtered": True}}}
    found = judge(monitor(Reply.read(body(choice=hit))))
    assert (found.status, found.reply) == (REFUSED, YES) and "violence" in found.reason


@pytest.mark.parametrize(
    ("usage", "sent", "cached"),
    [
        ({"prompt_tokens": 30, "prompt_tokens_details": {"cached_tokens": 20}}, 30, 20),
        ({"prompt_tokens": 30, "cache_read_input_tokens": 900}, 930, 900),
        ({"input_tokens": 30, "cache_creation_input_tokens": 700}, 730, 700),
        ({"prompt_tokens": 30, "prompt_cache_hit_tokens": 20}, 30, 20),
    ],
)
def test_cached_tokens_that_are_counted_apart_are_of_the_prompt(usage, sent, cached):
    answer = Reply.read(body(usage={**usage, "completion_tokens": 5}))
    assert (answer.input_tokens, answer.cached_tokens, answer.output_tokens) == (sent, cached, 5)


@pytest.mark.parametrize(
    "usage",
    [None, [], {}, {"prompt_tokens": "7"}, {"prompt_tokens": -1}, {"prompt_tokens": True},
     {"prompt_tokens": 10**30, "completion_tokens": 1.5}],
)  # fmt: skip
def test_unusable_counts_are_missing_not_zero(usage):
    answer = Reply.read(body(usage=usage))
    assert (answer.text, answer.input_tokens, answer.output_tokens) == (YES, None, None)


def test_content_in_parts_is_joined_and_half_surrogates_are_replaced():
    parts = [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b\ud800"}]
    assert Reply.read(body(parts)).text == "ab\ufffd"


@pytest.mark.parametrize(
    "text",
    ["", "<html>", '{"choices": [', "[1]", "null", "{}", '{"choices": []}', '{"choices": {}}',
     '{"choices": [{}]}', '{"choices": [{"message": "x"}]}', "[" * 100_000,
     '{"choices": [{"message": {"content": 3}}]}', body(finish="error"),
     body(finish="insufficient_system_resource")],
)  # fmt: skip
def test_a_body_without_an_answer_is_broken(text):
    found = Reply.read(text)
    assert isinstance(found, NoReply) and found.reason.startswith("HTTP 200 with ") and found.spent


def test_an_error_in_a_body_with_status_200_is_shown():
    found = Reply.read('{"error": {"message": "upstream is down"}}')
    assert "holds a message: upstream is down" in getattr(found, "reason", "")


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("3", 3.0), ("0.5", 0.5), ("-4", 0.0), ("", None), ("soon", None), ("nan", None),
     ("inf", None), ("Wed, 99 Foo 2020", None), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0)],
)  # fmt: skip
def test_retry_after_is_read(header, seconds):
    assert replies._wait_of({"retry-after": header}) == seconds


def test_retry_after_may_be_a_date():
    header = formatdate(time.time() + 20, usegmt=True)
    assert replies._wait_of({"retry-after": header}) == pytest.approx(20, abs=2)


# --- prompts that were cut ------------------------------------------------------------------

TEXTS = {
    "prose": "The helper asks for approval before it reads the record of a customer. ",
    "code": "def f(x):\n    if x:\n                return g(x, 1)\n\n\n",
    "table": "| name | value |\n|------|-------|\n|  a   |    1  |\n",
    "names": "application_context.getConfigurationManager().resolveDependencies(container)\n",
}


@pytest.mark.parametrize("text", TEXTS)
def test_no_honest_count_of_tokens_makes_a_prompt_a_cut_one(text):
    """Tokenizers with a token for every word have 5 characters a token, others fewer."""
    messages = [{"role": "user", "content": TEXTS[text] * 1000}]
    pieces = r"[A-Z]?[a-z]+|\d+|[^\w\s]+"  # of words, as tokenizers of code have them
    words = len(re.findall(pieces, messages[0]["content"]))
    assert 1000 < _fewest_tokens(messages) < words


@pytest.mark.parametrize("text", [" ", "\n", "\t \n", "-", "=-", "#", "a", "0"])
def test_signs_of_which_many_are_one_token_say_nothing(text):
    assert _fewest_tokens([{"role": "user", "content": text * 20_000}]) == 0


def long(tokens: int | None, **more) -> Reply:
    return Reply(YES, "stop", "", tokens, 9, **more)


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (long(2050), TRUNCATED), (long(7000), TRUNCATED), (long(8000), PARSED),
        (long(15_000), PARSED), (long(None), PARSED), (long(0), PARSED), (long(1), PARSED),
        (long(2050, cached_tokens=2000), TRUNCATED), (long(5000, cached_tokens=4000), PARSED),
    ],
)
def test_a_prompt_of_which_half_is_missing_is_truncated(answer, status):
    made = monitor(answer)
    sample = Sample("s", "q", TEXTS["prose"] * 850)  # 60,350 characters
    (found,) = made.judge([sample], 0)
    assert (found.status, found.reply) == (status, YES)
    assert made.reread(found, sample) == found


def test_a_cut_prompt_of_an_old_store_is_found():
    sample = Sample("s", "q", TEXTS["prose"] * 850)
    old = type(judge(monitor(Reply(YES))))(PARSED, True, reply=YES, input_tokens=2050)
    assert monitor().reread(old, sample).status == TRUNCATED
    honest = type(old)(PARSED, True, reply=YES, input_tokens=12_000)
    assert monitor().reread(honest, sample) == honest


# --- verdicts -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "status", "verdict"),
    [
        (Reply(YES), PARSED, True),
        (Reply(NO), PARSED, False),
        (Reply("hm"), UNPARSED, None),
        (Reply(""), UNPARSED, None),
        (Reply('{"misbehavior_det', "length"), TRUNCATED, None),
        (Reply("", "length"), TRUNCATED, None),
        (Reply(YES, "content_filter"), REFUSED, None),
        (Reply("", "sensitive"), REFUSED, None),
        (Reply("", "stop", "I cannot."), REFUSED, None),
        (Reply("", "SAFETY"), REFUSED, None),
        (Reply("", "null", withheld="the prompt was blocked: OTHER"), REFUSED, None),
        (Reply('{"misbehavior_det', "max_tokens"), TRUNCATED, None),
        (Reply('{"misbehavior_det', "model_length"), TRUNCATED, None),
        (Reply("Yes.", "MAX_TOKENS"), TRUNCATED, None),
        (Reply("Yes.", "STOP"), PARSED, True),
        (Reply("Yes.", "banana"), TRUNCATED, None),
        (Reply("Yes.", "null"), TRUNCATED, None),
        (Reply(YES, "banana"), PARSED, True),
        (Reply("", thinking=YES), UNPARSED, None),
        (Reply("", thinking=f"Hm.</think>{YES}"), PARSED, True),
        (Reply(NO, thinking=YES), PARSED, False),
        (Reply("", "length", thinking=YES), TRUNCATED, None),
    ],
)
def test_replies_become_verdicts(answer, status, verdict):
    found = judge(monitor(answer))
    assert (found.status, found.verdict, found.score) == (status, verdict, None)


def test_an_unknown_ending_is_said_once_and_named_in_the_reason():
    made = monitor(*[Reply("Yes.", "banana")] * 3, Reply(YES, "null"))
    found = [judge(made) for _ in range(4)]
    assert found[0].reason.startswith("the reply ended with 'banana', which is not known")
    tangled = judge(monitor(Reply(f"{YES} {NO}", "banana")))
    assert "contradict" in tangled.reason and "'banana'" in tangled.reason
    assert len(made.told) == 2 and "'banana'" in made.told[0] and "does not say" in made.told[1]


def test_hidden_thinking_that_used_up_the_reply_is_named():
    found = judge(monitor(Reply("", "length", "", 90, 512)))
    assert found.status == TRUNCATED and "max_tokens (512), raise it" in found.reason


def test_thinking_is_stored_only_where_the_reply_has_no_verdict():
    assert judge(monitor(Reply(YES, thinking="why"))).reply == YES
    kept = judge(monitor(Reply("Done.", thinking=f"So {YES}")))
    assert kept.status == UNPARSED and kept.reply == f"<think>\nSo {YES}\n</think>\nDone."


def test_score_prompts_give_scores_from_the_reply():
    found = judge(monitor(Reply('{"score": 80}'), prompt="score"))
    assert found.status == PARSED and found.verdict is True
    assert found.score == pytest.approx(0.8, abs=0.01)


def test_tokens_and_cost_are_recorded():
    answer = Reply(YES, "stop", "", 1000, 100, seconds=0.25)
    made = monitor(answer, Reply(YES), input_price=2.0, output_price=10.0)
    found = judge(made)
    assert (found.input_tokens, found.output_tokens, found.seconds) == (1000, 100, 0.25)
    assert found.cost_usd == pytest.approx(0.003)
    assert made.spent_usd == pytest.approx(0.003)
    assert judge(made).cost_usd is None  # no usage: unknown, but the most is set aside for good
    assert made.spent_usd > 0.003 + 512 * 10e-6


def tokens(*pieces: str, at: int, **alternatives: float) -> tuple:
    """Tokens of which number `at` has alternatives, by probability."""
    return tuple(
        (piece.encode(), {k.replace("_", " "): math.log(p) for k, p in alternatives.items()}
         if i == at else {piece: 0.0})
        for i, piece in enumerate(pieces)
    )  # fmt: skip


PIECES = ('{"', "misbehavior", '_detected":', " true", "}")


@pytest.mark.parametrize(
    ("alternatives", "expected"),
    [
        ({"_true": 0.6, "_false": 0.2, "_maybe": 0.2}, 0.75),
        ({"_true": 0.6, "true": 0.1, "_True": 0.1, "_f": 0.2}, 0.8),
        ({"_true": 0.9}, 1.0),
        ({"_true": 0.3, "_falsehood": 0.3, "_no": 0.1}, 0.75),
    ],
)
def test_suspicion_weighs_true_against_false(alternatives, expected):
    answer = Reply(YES, tokens=tokens(*PIECES, at=3, **alternatives))
    assert judge(monitor(answer)).score == pytest.approx(expected)


def test_suspicion_of_a_benign_verdict_is_low():
    pieces = (*PIECES[:3], " false", "}")
    answer = Reply(NO, tokens=tokens(*pieces, at=3, _true=0.1, _false=0.7))
    found = judge(monitor(answer))
    assert found.verdict is False and found.score == pytest.approx(0.125)


def test_suspicion_is_found_behind_thinking_and_in_characters_of_several_bytes():
    thinking = tokens("<think>true or false? ", "é", "</think>", at=9)
    answer = Reply(YES, tokens=thinking + tokens(*PIECES, at=3, _true=0.5, _false=0.5))
    assert answer.suspicion(True) == pytest.approx(0.5)
    split = ((b'{"note": "\xc3', {"x": 0.0}), (b'\xa9", "misbehavior_detected": ', {"y": 0.0}),
             (b"true}", {"true}": math.log(0.6), "false}": math.log(0.2)}))  # fmt: skip
    text = '{"note": "é", "misbehavior_detected": true}'
    assert Reply(text, tokens=split).suspicion(True) == pytest.approx(0.75)


def test_suspicion_of_a_bare_word():
    answer = Reply("Yes.", tokens=tokens("Yes", ".", at=0, Yes=0.6, No=0.2))
    found = judge(monitor(answer))
    assert found.verdict is True and found.score == pytest.approx(0.75)


def test_no_suspicion_without_log_probabilities_or_with_those_of_another_text():
    assert judge(monitor(Reply(YES))).score is None
    other = tokens("something", " else", at=0, something=1.0)
    assert judge(monitor(Reply(YES, tokens=other))).score is None


@pytest.mark.parametrize(
    "logprobs",
    [None, [], {"content": None}, {"content": [{"token": "x"}]},
     {"content": [{"token": "x", "logprob": "nan"}]}, {"content": [{"token": "x", "logprob": 3}]},
     {"content": [{"token": "x", "logprob": 0, "bytes": [999]}]}, {"content": ["x"]}],
)  # fmt: skip
def test_unusable_log_probabilities_do_not_cost_the_verdict(logprobs):
    answer = Reply.read(body(choice={"logprobs": logprobs}))
    assert (answer.text, answer.tokens) == (YES, ())


def test_log_probabilities_of_a_body_are_read():
    entry = {"token": " true", "logprob": -0.5, "bytes": [32, 116],
             "top_logprobs": [{"token": " false", "logprob": -1.0}]}  # fmt: skip
    answer = Reply.read(body(choice={"logprobs": {"content": [entry]}}))
    assert answer.tokens == ((b" t", {" true": -0.5, " false": -1.0}),)


# --- retries --------------------------------------------------------------------------------

BUSY = NoReply("HTTP 503: busy", 503, repeat=True)
LIMITED = NoReply("HTTP 429: slow down", 429, repeat=True)


def test_an_answer_is_never_asked_for_again():
    made = monitor(Reply("no verdict in here"))
    assert judge(made).status == UNPARSED
    assert len(made.bodies) == 1 and made.waits == []


def test_failures_are_repeated_until_an_answer_comes():
    made = monitor(BUSY, LIMITED, BUSY, Reply(NO))
    assert judge(made).verdict is False
    assert len(made.bodies) == 4


def test_repeating_ends_after_max_retries_with_a_reason():
    made = monitor(*[BUSY] * 9, max_retries=3)
    found = judge(made)
    assert found.status == "error"
    assert found.reason == "no answer in 4 calls, the last: HTTP 503: busy"
    assert (len(made.bodies), len(made.waits)) == (4, 3)


def test_waits_grow_and_are_random(monkeypatch):
    ranges = []
    monkeypatch.setattr("random.uniform", lambda low, high: ranges.append((low, high)) or high)
    made = monitor(*[BUSY] * 10, first_wait_s=1.0, max_retries=8)
    judge(made)
    assert ranges == [(0, float(min(2**n, 60))) for n in range(9)]
    assert made.waits == [high for _, high in ranges[:8]]


def test_where_calls_come_too_fast_the_waits_outlast_a_minute(monkeypatch):
    """Limits are per minute, and not every server says how long is left."""
    monkeypatch.setattr("random.uniform", lambda low, high: low)  # the shortest
    made = monitor(*[LIMITED] * 6, Reply(YES))
    assert judge(made).verdict is True
    assert 60 < sum(wait for wait in made.waits if isinstance(wait, float)) < 120
    assert sum(wait[1] for wait in made.waits if isinstance(wait, tuple)) > 60  # for all threads


def test_a_wait_that_the_server_asks_for_holds_up_all_and_is_kept(monkeypatch):
    monkeypatch.setattr("random.uniform", lambda low, high: high)
    asked = NoReply("HTTP 503: busy", 503, repeat=True, wait_s=7.0)
    made = monitor(asked, LIMITED, Reply(YES), first_wait_s=1.0)
    judge(made)
    assert made.waits == [("all", 7.0), 8.0, ("all", 4.0), 8.0]


def test_what_cannot_succeed_is_not_repeated():
    made = monitor(NoReply("HTTP 400: too long", 400))
    found = judge(made)
    assert (found.status, found.reason) == ("error", "HTTP 400: too long")
    assert len(made.bodies) == 1


@pytest.mark.parametrize(
    ("failed", "message"),
    [
        (NoReply("HTTP 401: wrong", 401), "refused the key .*: set OPENAI_API_KEY to a key"),
        (NoReply("HTTP 403: no", 403), "refused the key"),
        (NoReply("HTTP 404: no", 404), "does not offer model 'm' .* identifier and base_url"),
        (NoReply("HTTP 429: pay", 402), "has no money left"),
        (NoReply("HTTP 429: no", 429, True, 9000.0), "asks to wait for 9000 s"),
    ],
)
def test_what_every_call_would_meet_stops_the_monitor(failed, message):
    made = monitor(failed)
    with pytest.raises(MonitorStop, match=message):
        judge(made)
    assert len(made.bodies) == 1


def test_a_refusal_of_the_provider_is_final_and_its_price_is_set_aside():
    refused = NoReply("HTTP 403: Content violates usage guidelines", 403, spent=True, refused=True)
    made = monitor(refused, refused, NoReply("HTTP 403: no", 403), input_price=1, output_price=1)
    found = judge(made)
    assert found.status == REFUSED and len(made.bodies) == 1 and made.spent_usd > 0
    assert found.reason.endswith("HTTP 403: Content violates usage guidelines")
    assert made.reread(found, SAMPLE) == found
    judge(made)
    assert judge(made).status == "error"  # the key has shown that it is good


NO_SYSTEM = NoReply("HTTP 400: System role not supported", 400)


def test_a_direct_call_folds_the_system_text_at_once():
    made = monitor(NO_SYSTEM, Reply(YES), Reply(YES))
    assert judge(made).verdict is True and judge(made).verdict is True
    roles = [[message["role"] for message in asked["messages"]] for asked in made.bodies]
    assert roles == [["system", "user"], ["user"], ["user"]] and len(made.told) == 1
    assert made.settings()["fold_system"] is True


def test_once_keys_may_have_been_made_the_settings_change_only_when_they_are_asked_for():
    made = monitor(NO_SYSTEM, Reply(YES))
    before = dict(made.settings())
    for _ in range(2):
        with pytest.raises(SettingsChanged, match="takes no system role for m"):
            judge(made)
    assert len(made.bodies) == 1  # no thread asks with the old key
    assert made.settings() == {**before, "fold_system": True}
    assert judge(made).verdict is True


def test_a_late_answer_says_how_long_was_waited():
    late = NoReply("no answer in time (ReadTimeout: )", repeat=True, spent=True, late=True)
    found = judge(monitor(late, max_retries=0, timeout_s=7))
    assert found.reason.endswith("ReadTimeout: ); timeout_s is 7")


# --- money ----------------------------------------------------------------------------------


def test_the_cap_stops_before_the_call_that_may_break_it():
    used = Reply(YES, "stop", "", 1000, 50)
    made = monitor(*[used] * 99, input_price=1.0, output_price=10.0, cost_cap_usd=0.01)
    with pytest.raises(MonitorStop, match=r"cost cap of \$0.01 reached after \$0.00"):
        for _ in range(99):
            judge(made)
    calls = len(made.bodies)
    assert made.spent_usd == pytest.approx(calls * 0.0015)
    assert made.spent_usd <= 0.01


def test_a_call_that_may_have_been_charged_counts_with_its_highest_price():
    lost = NoReply("no answer in time", repeat=True, spent=True)
    charged = monitor(lost, Reply(YES, "stop", "", 0, 0), input_price=1.0, output_price=1.0)
    judge(charged)
    free = monitor(BUSY, Reply(YES, "stop", "", 0, 0), input_price=1.0, output_price=1.0)
    judge(free)
    assert free.spent_usd == 0.0
    assert charged.spent_usd > 512e-6


# --- secrets --------------------------------------------------------------------------------


def test_the_key_is_taken_out_of_reasons_and_replies():
    reason = f"HTTP 500: header Authorization: Bearer {KEY} and other Bearer abc.def-123, sorry"
    found = judge(monitor(NoReply(reason)))
    assert found.reason == (
        "HTTP 500: header Authorization: Bearer [key] and other Bearer [key], sorry"
    )
    found = judge(monitor(Reply(f"{KEY} {YES}", refusal="")))
    assert KEY not in found.reply and found.verdict is True
    assert KEY not in judge(monitor(Reply("", refusal=f"no {KEY}"))).reply
    for odd in (Reply("", KEY), Reply("", thinking=KEY), Reply("", withheld=KEY * 20)):
        assert KEY[:12] not in repr(judge(monitor(odd)))


def test_a_placeholder_key_is_no_secret(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "true")
    assert judge(monitor(Reply(YES))).verdict is True


def test_long_messages_are_cut_after_the_key_was_taken_out():
    found = judge(monitor(NoReply("x" * 290 + KEY + "y" * 500)))
    assert len(found.reason) == 300
    assert "sk-very" not in found.reason


def test_the_monitor_does_not_show_the_key():
    made = monitor(Reply(YES))
    assert KEY not in repr(made) + str(made) + repr(made.settings())


# --- reading again --------------------------------------------------------------------------


def test_a_stored_reply_is_read_again_and_keeps_what_was_paid(tmp_path):
    answer = Reply(YES, "stop", "", 10, 5, 0.5, tokens(*PIECES, at=3, _true=0.6, _false=0.2))
    store = VerdictStore(tmp_path / "verdicts.jsonl")
    options = {"logprobs": True, "input_price": 1.0, "output_price": 1.0}
    first = score(monitor(answer, **options), [SAMPLE], store)
    again = score(monitor(**options), [SAMPLE], VerdictStore(store.path))  # no call is left
    assert again.to_dict("records") == first.to_dict("records")
    assert again["score"].item() == pytest.approx(0.75)
    assert (again["input_tokens"].item(), again["output_tokens"].item()) == (10, 5)


def test_a_reply_of_an_old_store_that_filled_its_limit_was_cut_off():
    """Old stores do not say how a reply ended."""
    old = type(judge(monitor(Reply(YES))))(PARSED, True, reply="Yes.", output_tokens=512)
    assert monitor().reread(old, SAMPLE).status == TRUNCATED
    short = type(old)(PARSED, True, reply="Yes.", output_tokens=5)
    assert monitor().reread(short, SAMPLE) == short


def test_reading_again_follows_the_parser_and_drops_a_score_that_no_longer_fits():
    made = monitor()
    stored = judge(monitor(Reply(YES, tokens=tokens(*PIECES, at=3, _true=0.6, _false=0.2))))
    changed = type(stored)(**{**vars(stored), "reply": NO})
    reread = made.reread(changed, SAMPLE)
    assert (reread.verdict, reread.score) == (False, None)
    broken = type(stored)(**{**vars(stored), "reply": "nothing"})
    assert made.reread(broken, SAMPLE).status == UNPARSED


@pytest.mark.parametrize(
    "result",
    [Reply(YES, "content_filter"), Reply('{"misbe', "length"), NoReply("HTTP 400", 400),
     Reply("Yes.", "MAX_TOKENS"), Reply("Yes.", "null"), Reply("Yes.", "stop", "", 5, 512),
     Reply("", thinking=YES), Reply("", "length")],
)
def test_what_the_reply_cannot_tell_is_kept(result):
    stored = judge(monitor(result))
    assert monitor().reread(stored, SAMPLE) == stored
