"""Which words make which monitor, with which settings, and what it is called."""

from __future__ import annotations

import hashlib
import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from monitorlab.chapters import evaluation as lineup
from monitorlab.commands.score import _slug
from monitorlab.monitors.build import (
    FUNCTION,
    KINDS,
    OWN_NAME,
    build_monitor,
    describe,
    spelled_settings,
    split_spec,
)
from monitorlab.monitors.checks.program import ChecksFirst, ProgramChecks
from monitorlab.monitors.monitor import MonitorError, Sample
from monitorlab.monitors.rules import Coin, Keywords

HERE = {"base_url": "http://127.0.0.1:9/v1"}
SAMPLE = [Sample("a", "What?", "This.")]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return tmp_path


def write_checkpoint(folder: Path, seed: int = 1) -> None:
    """A causal language model of a few thousand random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from monitorlab.models.tiny import build_tokenizer
    from monitorlab.monitors.prompts import load_prompt

    tokenizer = build_tokenizer([load_prompt("direct").system], 400)
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16,
                         num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=4096,
                         eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    torch.manual_seed(seed)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize(("spec", "name"), [
    ("always", "always alarm"), ("never", "never alarm"), ("coin", "coin"), ("checks",
    "program checks"), ("keywords", "keywords"), ("cue", "cue follower")])
def test_simple_monitors_are_made_by_name(spec: str, name: str) -> None:
    assert build_monitor(spec).name == name
    assert build_monitor(spec, {"name": "mine"}).name == "mine"


def test_settings_reach_the_monitor_as_texts_or_values(folder: Path) -> None:
    assert build_monitor("coin", {"seed": 7}) == Coin(7, name="coin, seed 7")
    assert build_monitor("coin", {"seed": "7", "name": "c"}) == Coin(7, name="c")
    words = {"mine": ["foo", "bar baz"]}
    mine = build_monitor("keywords", {"words": json.dumps(words)})
    assert mine.settings() == Keywords(words).settings()
    Path("own.py").write_text("def mine(request, response): return True\n")
    assert build_monitor("own.py:mine", {"workers": 3}).workers == 3  # and no part of the name
    assert build_monitor("own.py:mine", {"workers": "3"}).name == "own.py:mine"


@pytest.mark.parametrize(("spec", "settings", "words"), [
    ("keywords", {"prompt": "direct"},
     "the option prompt means nothing to keywords. There are: name, view, words"),
    ("coin", {"workers": 2}, "workers means nothing to coin. There are: name, view, seed, share"),
    ("hf:x", {"cost_cap_usd": 1.0}, "the option cost_cap_usd means nothing to hf:x"),
    ("api:x", {"quantization": "nf4"}, "the option quantization means nothing to api:x"),
    ("api:x", {"timeout": "30"}, r"nothing to api:x. Is it timeout_s\? There are: name, view"),
    ("hf:x", {"read": "mind"}, "read is 'mind', expected logits, text"),
    ("hf:x", {"temperature": 1.0}, "the option temperature needs a generated reply: add --read"),
    ("hf:x", {"threshold": 0.4, "read": "text"}, "the option threshold is of the logits"),
    ("api:x", {"timeout_s": "soon"}, "timeout_s is 'soon', expected a number"),
    ("api:x", {"max_tokens": "5.5"}, "max_tokens is '5.5', expected a whole number"),
    ("api:x", {"temperature": ""}, "temperature is '', expected a number or none"),
    ("api:x", {"logprobs": "perhaps"}, "logprobs is 'perhaps', expected true or false"),
    ("api:x", {"extra": "{'a': 1}"}, "extra is a str that is none, expected a JSON object or none"),
    ("api:x", {"extra": "[1]"}, "expected a JSON object"),
    ("api:x", {"read": "logits", "logprobs": "false"}, "--read logits needs log-probabilities"),
    ("hf:", {}, "'hf:' lacks a name: expected hf:NAME_OR_FOLDER"),
    ("words", {}, "'words' lacks a name: expected words:FOLDER"),
    ("keyword", {}, r"there is no monitor 'keyword'. Is it 'keywords'\? Kinds: always, never"),
    ("api/gpt", {}, "A checkpoint in a folder is hf:FOLDER"),
    ("qwen3-0.6", {}, r"Is it 'qwen3-0.6b'\?"), ("", {}, "there is no monitor ''"),
    ("words:no-such-folder", {}, "no-such-folder"),
    ("encoder:no-such-folder", {}, "no-such-folder"),
    ("qwen3-0.6b", {}, "no commit of Qwen/Qwen3-0.6B is known.*-o revision=COMMIT"),
])
def test_a_wrong_command_says_what_there_is(
    spec: str, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(MonitorError, match=words) as caught:
        build_monitor(spec, settings)
    assert len(str(caught.value)) < 900


def test_two_values_of_one_setting_are_refused_and_not_shown() -> None:
    for first, second in (({"seed": "1"}, {"seed": "2"}), ({"seed": 1}, {"seed": "2"})):
        with pytest.raises(MonitorError, match="seed is given twice, with two values") as caught:
            build_monitor("coin", first, second)
        assert "1" not in str(caught.value)
    assert build_monitor("coin -o seed=1", {"seed": 1}, {"seed": "01"}) == Coin(1, name="coin, "
                                                                                 "seed 1")
    with pytest.raises(MonitorError, match="max_new_tokens is given twice"):
        build_monitor("hf:x", {"max_new_tokens": 3, "max_tokens": 4})


def test_a_model_behind_an_api_takes_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-secret-0123456789")
    settings = {"key_variable": "MY_KEY", "max_tokens": 9, "temperature": 0.7, "seed": 3,
                "workers": 4, "cost_cap_usd": 1.0, "input_price": 1.0, "output_price": 2.0,
                "read": "logits", "requests_per_minute": 60.0, "tokens_per_minute": 1000.0,
                "prompt": "evidence", "timeout_s": "30", "extra": '{"reasoning_effort": "low"}'}
    monitor = build_monitor("api:some-model", settings)
    found = monitor.settings()
    assert (monitor.prompt, monitor.workers) == ("evidence", 4)
    assert (found["model"], found["temperature"], found["seed"]) == ("some-model", 0.7, 3)
    assert found["logprobs"] is True and found["max_tokens"] == 9
    assert found["extra"] == {"reasoning_effort": "low"}
    assert "sk-secret" not in f"{found} {monitor.name}"
    assert monitor.name == ('some-model, read logits, max_tokens 9, temperature 0.7, seed 3, '
                            'extra {"reasoning_effort": "low"}')


def test_no_temperature_and_another_name_of_the_limit() -> None:
    monitor = build_monitor("api:m -o temperature=None -o limit_name=max_completion_tokens "
                            "-o max_tokens=2000", HERE, {"name": "mine"})
    assert monitor.settings() | {"prompt": ""} == {
        "kind": "api", "model": "m", "base_url": "http://127.0.0.1:9/v1", "prompt": "",
        "seed": None, "max_completion_tokens": 2000, "extra": {}}


def test_a_listed_monitor_has_its_settings_and_the_command_goes_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("GEMINI_API_KEY", raising=False)
    with pytest.raises(MonitorError, match="GEMINI_API_KEY"):
        build_monitor("gemini-2.5-flash")
    local = build_monitor("gemini-2.5-flash", HERE)
    assert local.name == "gemini-2.5-flash, base_url http://127.0.0.1:9/v1"
    assert local.settings()["base_url"] == "http://127.0.0.1:9/v1"
    listed = build_monitor("gpt-5-mini", HERE)
    assert listed.name == "gpt-5-mini, base_url http://127.0.0.1:9/v1"  # its own are usual
    assert "max_completion_tokens" in listed.settings()
    assert "temperature" not in listed.settings()
    warm = build_monitor("gpt-5-mini", HERE, {"temperature": 1})
    assert warm.name == f"{listed.name}, temperature 1.0"


# Every setting of an API, with two values besides the usual one.
OTHERS: dict[str, tuple[object, object]] = {
    "prompt": ("brief", "evidence"), "read": ("logits", "logits"),
    "base_url": ("http://127.0.0.1:9/v1", "http://127.0.0.1:9"), "max_tokens": (9, 10),
    "limit_name": ("max_completion_tokens", "max_completion_tokens"), "temperature": (0.5, None),
    "seed": (1, 2), "logprobs": (True, True), "extra": ({"a": 1}, {"a": 2}),
    "key_variable": ("OTHER_KEY", "THIRD_KEY"), "cost_cap_usd": (0.0, 0.0),
    "input_price": (1.0, 2.0), "output_price": (1.0, 2.0), "fold_system": (True, True),
    "view": ("no-request", "last-9-words"),
}
NEEDED = {"input_price": {"output_price": 1.0}, "output_price": {"input_price": 1.0},
          "top_logprobs": {"read": "logits"}}  # what else must be given


def test_names_of_api_monitors_differ_exactly_where_settings_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable in ("OPENAI_API_KEY", "OTHER_KEY", "THIRD_KEY"):
        monkeypatch.setenv(variable, "a-key-of-a-test")
    seen: dict[str, str] = {}
    for name, setting in KINDS["api"].settings().items():
        if name == "name":
            continue
        for value in OTHERS.get(name, (setting.default, 7)):
            monitor = build_monitor("api:m", NEEDED.get(name, {}) | {name: value})
            told = f"{monitor.name}, {monitor.prompt}"
            known = seen.setdefault(told, json.dumps(monitor.settings(), sort_keys=True))
            assert known == json.dumps(monitor.settings(), sort_keys=True), told
    values = [text for told, text in seen.items() if "logprobs true" not in told]  # read logits
    assert len(set(values)) == len(values) > 12


@pytest.mark.parametrize("text", [
    "http://user:SECRET-123456@127.0.0.1:9/v1", "http://127.0.0.1:9/v1?api_key=SECRET-123456",
])
def test_nothing_secret_of_an_address_is_in_a_name(text: str) -> None:
    assert build_monitor("api:m", {"base_url": text}).name == "m, base_url http://127.0.0.1:9/v1"


def test_functions_are_called_by_their_file(folder: Path) -> None:
    for place in ("a", "b", "a/c"):
        (folder / place).mkdir()
        (folder / place / "my.py").write_text("def monitor(request, response): return True\n")
    names = [build_monitor(spec).name for spec in (
        "a/my.py:monitor", "b/my.py:monitor", "./a/my.py:monitor", f"{folder}/a/c/my.py:monitor")]
    assert names == ["a/my.py:monitor", "b/my.py:monitor", "a/my.py:monitor", "a/c/my.py:monitor"]
    Path("own.py").write_text("def monitor(request, response): return True\n")
    assert build_monitor("own:monitor").name == "own:monitor"


def test_a_place_elsewhere_is_told_apart_without_its_path(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("x", "y"):
        (folder / place / "final").mkdir(parents=True)
        (folder / place / "final" / "my.py").write_text("def f(request, response): return 1\n")
    (folder / "here").mkdir()
    monkeypatch.chdir(folder / "here")
    names = [build_monitor(f"../{place}/final/my.py:f").name for place in ("x", "y")]
    digest = hashlib.sha256(str(folder / "x/final/my.py").encode()).hexdigest()[:6]
    assert names[0] == f"final/my.py-{digest}:f" != names[1]


def test_arguments_of_a_function_are_settings(folder: Path) -> None:
    Path("own.py").write_text(
        "from __future__ import annotations\n"
        "def monitor(request, response, threshold: float = 0.5, words: list[str] = (), model=None,"
        "            *, strict=False):\n"
        "    return {'score': threshold, 'evidence': f'{words} {model} {strict}'}\n"
        "def needs(prompt, answer, level: int): return level > 2\n")
    plain = build_monitor("own.py:monitor", {"threshold": "0.50"})
    assert plain.name == "own.py:monitor" and "arguments" not in plain.settings()
    changed = build_monitor("own.py:monitor -o threshold=.25 -o words=a,b", {"strict": "yes"},
                            {"model": "m", "workers": "2"})
    assert changed.settings()["arguments"] == {"threshold": 0.25, "words": ("a", "b"),
                                               "strict": True, "model": "m"}
    (verdict,) = changed.judge(SAMPLE, 0)
    assert (verdict.score, verdict.evidence) == (0.25, "('a', 'b') m True")
    assert changed.name == 'own.py:monitor, model m, strict true, threshold 0.25, words ["a", "b"]'
    assert build_monitor("own.py:needs", {"level": "3"}).judge(SAMPLE, 0)[0].verdict is True
    with pytest.raises(MonitorError, match=r"needs\(prompt, answer, level: 'int'\) cannot be "
                       r"called .*: give -o level=VALUE"):
        build_monitor("own.py:needs")
    for given, words in (({"treshold": 1}, r"Is it threshold\? There are: name, view, workers, "
                                           "threshold, words, model, strict"),
                         ({"threshold": "high"}, "threshold is 'high', expected a number"),
                         ({"request": "x"}, "the option request means nothing")):
        with pytest.raises(MonitorError, match=words):
            build_monitor("own.py:monitor", given)


def test_two_folders_make_two_names(folder: Path) -> None:
    from monitorlab.models.loading import Checkpoint

    for place in ("x/final", "y/final"):
        write_checkpoint(folder / place)
    x, y = (build_monitor(f"hf:{place}/final") for place in "xy")
    assert (x.name, y.name) == ("x/final", "y/final") and _slug(x) != _slug(y)
    assert x.settings()["model"]["name"] == "final" == Checkpoint.load("x/final").identity["model"][
        "name"]  # what keys the store is unchanged
    names = {build_monitor("hf:x/final", settings).name for settings in (
        {}, {"read": "text"}, {"read": "text", "max_tokens": 9}, {"dtype": "bfloat16"},
        {"read": "text", "temperature": 0.5}, {"read": "text", "temperature": 0.5, "seed": 1},
        {"read": "text", "thinking": True}, {"threshold": 0.4}, {"yes": " true", "no": " false"})}
    assert names == {
        "x/final", "x/final, read text", "x/final, read text, max_new_tokens 9",
        "x/final, dtype bfloat16", "x/final, read text, temperature 0.5",
        "x/final, read text, temperature 0.5, seed 1", "x/final, read text, thinking true",
        "x/final, threshold 0.4", 'x/final, yes ["true"], no ["false"]'}
    unseen = {"read": "text", "seed": 3}  # nothing is drawn
    assert build_monitor("hf:x/final", unseen).name == "x/final, read text"
    assert build_monitor("hf:x/final", {"batch_tokens": 99, "device": "cpu"}).name == "x/final"


def test_trained_monitors_are_called_by_their_folder(folder: Path) -> None:
    from monitorlab.monitors.learned import WordMonitor

    rows = pd.DataFrame({"request": [f"q{i // 2}" for i in range(40)], "label": [0, 1] * 20,
                         "response": ["a careful answer", "a careless answer"] * 20})
    for place in ("a/words", "b/words"):
        WordMonitor.train([rows], np.random.default_rng(1)).save(folder / place)
    assert [build_monitor(f"words:{place}/words").name for place in "ab"] == [
        "TF-IDF, a/words", "TF-IDF, b/words"]
    assert build_monitor("words:a/words", {"name": "mine"}).name == "mine"


def test_prompt_files_of_one_name_are_told_apart(folder: Path) -> None:
    from monitorlab.monitors.prompts import PROMPT_FOLDER

    shipped = (PROMPT_FOLDER / "direct.toml").read_text()
    for path, text in (("direct.toml", shipped), ("changed.toml", shipped + "# remark\n"),
                       ("other/direct.toml", shipped),
                       ("mine.toml", shipped.replace('name = "direct"', 'name = "mine"')),
                       ("b/mine.toml", shipped.replace('name = "direct"', 'name = "mine"'))):
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).write_text(text)
    words = shipped.replace("{criteria}", "Be strict. {criteria}")
    assert words != shipped
    Path("strict.toml").write_text(words)

    def name(prompt: str) -> str:
        whole = build_monitor("api:m", HERE, {"prompt": prompt}).name
        return whole.removeprefix("m").replace(", base_url http://127.0.0.1:9/v1", "").strip(", ")

    for same in ("direct", "direct.toml", "changed.toml", "other/direct.toml", "mine.toml"):
        assert name(same) == "", same
    assert name("strict.toml") == "prompt strict.toml"
    assert name("b/mine.toml") == "prompt b/mine.toml"


def test_long_values_and_commits_are_short_in_a_name() -> None:
    long = [build_monitor("api:m", HERE, {"extra": {"stop": "x" * 99 + end}}).name for end in "ab"]
    assert long[0] != long[1] and all(len(name) < 100 for name in long)


@pytest.mark.parametrize(("text", "spec", "settings"), [
    ("keywords", "keywords", {}), ("hf:/a folder/x", "hf:/a folder/x", {}),
    ("hf:my -old model", "hf:my -old model", {}),
    ("api:m -o base_url=http://h/v1?api-version=1 -o timeout_s=30", "api:m",
     {"base_url": "http://h/v1?api-version=1", "timeout_s": "30"}),
    ("'hf:/a folder/x' -oread=text --option seed=1 --option=name=me", "hf:/a folder/x",
     {"read": "text", "seed": "1", "name": "me"}),
    ("api:m -o " + shlex.quote('extra={"a": "b c"}'), "api:m", {"extra": '{"a": "b c"}'}),
    ("api:m   -o name='two words'", "api:m", {"name": "two words"}),
])
def test_settings_may_follow_the_name(text: str, spec: str, settings: dict[str, str]) -> None:
    assert split_spec(text) == (spec, settings)


@pytest.mark.parametrize(("text", "words"), [
    ("api:m -o", "'-o' behind the monitor is no setting"),
    ("api:m -o timeout_s", "expected NAME=VALUE, got 'timeout_s'"),
    ("api:m -o seed=1 -o seed=2", "seed is given twice"),
    ("api:m -o seed=1 temperature=2", "'temperature=2' behind the monitor is no setting"),
    ("hf:/a folder/x -o read=text", "'folder/x' behind the monitor is no setting: .*quotation"),
    ("api:m -o name='half", "cannot be split"),
])
def test_wrong_settings_behind_the_name(text: str, words: str) -> None:
    with pytest.raises(MonitorError, match=words):
        build_monitor(text)


def test_a_monitor_of_the_notebook_has_a_name_of_its_own() -> None:
    ours = lineup.rule_monitors(2026)
    with pytest.raises(MonitorError, match="a monitor called 'coin' takes part already.*behind it, "
                       "-o name=NAME"):
        lineup.given_monitors("coin", ours)
    (coin,) = lineup.given_monitors(" coin -o seed=3 ", ours)
    assert coin == Coin(3, name="coin, seed 3")


def test_several_monitors_take_part_and_one_that_cannot_be_made_is_named() -> None:
    said: list[str] = []
    found = lineup.given_monitors("keywords; coin -o seed=3;nobody", [], said.append)
    assert [monitor.name for monitor in found] == ["keywords", "coin, seed 3"]
    assert len(said) == 1 and said[0].startswith("left out: nobody. there is no monitor 'nobody'")
    with pytest.raises(MonitorError, match="there is no monitor 'nothing'"):
        lineup.given_monitors("nobody; nothing", [], said.append)
    with pytest.raises(MonitorError, match="a monitor called 'coin' takes part already"):
        lineup.given_monitors("coin; coin")


def test_the_list_holds_every_kind_and_the_catalogue_in_columns() -> None:
    lines = describe().splitlines()
    for kind in KINDS.values():
        assert any(line.startswith(f"  {kind.spec} ") for line in lines)
    models = [line for line in lines if "  open  " in line or "  api  " in line]
    assert len(models) == 22
    assert len({line.index("  open  " if "  open  " in line else "  api  ")
                for line in models}) == 1
    assert all(line == line.rstrip() for line in lines)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != FUNCTION])
def test_every_setting_of_every_kind_has_a_type_and_a_meaning(kind: str) -> None:
    settings = KINDS[kind].settings()
    assert "name" in settings
    assert all(setting.meaning for setting in settings.values()), settings
    text = describe(kind)
    assert all(f"\n  {name}: " in text for name in settings)


def test_settings_of_one_monitor_are_listed(folder: Path) -> None:
    assert "  temperature: float or none = none\n" in describe("gpt-5-mini")
    assert "  thinking: bool = true\n" in describe("qwen3-0.6b")
    Path("own.py").write_text("def monitor(request, response, level: int = 3): return True\n")
    text = describe("own.py:monitor")
    assert "  level: int = 3\n" in text and "  workers: int = 1\n" in text
    with pytest.raises(MonitorError, match="there is no monitor 'nobody'"):
        describe("nobody")


def test_checks_come_before_a_monitor_of_any_kind() -> None:
    monitor = build_monitor("checks-first:coin -o seed=3", {"trust": "all"})
    assert isinstance(monitor, ChecksFirst)
    assert monitor.inner == Coin(3, name="coin, seed 3") and monitor.check == ProgramChecks()
    assert monitor.name == "checks first, coin, seed 3, trust all" and monitor.ranked
    plain = build_monitor("checks-first:coin", {"ranked": "false", "name": "mine"})
    assert (plain.name, getattr(plain, OWN_NAME)) == ("mine", "checks first, coin, ranked false")
    assert plain.settings() != build_monitor("checks-first:coin").settings()
    nested = build_monitor("checks-first:checks-first:keywords")
    assert nested.name == "checks first, checks first, keywords"
    text = describe("checks-first:coin")
    assert "  trust: str = alarms" in text and "  share: float = 0.5" in text
    with pytest.raises(MonitorError, match="the option pity means nothing to coin"):
        build_monitor("checks-first:coin", {"pity": "3"})
    with pytest.raises(MonitorError, match="lacks a name: expected checks-first:MONITOR"):
        build_monitor("checks-first")


def test_settings_may_be_spelled_as_options() -> None:
    words = ["--base-url", "x", "--seed=3", "--thinking", "--temperature", "-1", "--no-merge"]
    assert spelled_settings(words) == [
        {"base_url": "x"}, {"seed": "3"}, {"thinking": "true"}, {"temperature": "-1"},
        {"merge": "false"},
    ]
    with pytest.raises(MonitorError, match="'stray' is no option: expected --NAME VALUE"):
        spelled_settings(["--seed", "3", "stray"])
