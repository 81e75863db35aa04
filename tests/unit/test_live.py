"""Texts watched while they are written: cached scores, rows that stop, streams that close."""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from test_causal_scoring import GROUPED, MODELS
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from monitorlab.models import ModelError
from monitorlab.models.tiny import build_tokenizer
from monitorlab.online.drift import DriftReference
from monitorlab.online.live import LiveStep, StepRule, WatchedText
from monitorlab.online.policy import OnlineMonitor, Policy, SequenceError
from monitorlab.signals.generation import CachedReader, CachedVerifier, LogProbability, StopAtAlarm
from monitorlab.statistics.thresholds import calibrate

ASKED = "Is the answer right so far? Reply with Yes or No."
WORDS = f"one two three four five six seven\nYes No {ASKED}"
HALF = Policy(calibrate(np.arange(1, 10) / 10, level=0.5))  # alarms above 0.5
NEVER = Policy(calibrate([0.1], level=0.01))


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer([WORDS, *WORDS.split("\n")] * 8, 320)


@pytest.fixture(scope="module")
def llama(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    torch.manual_seed(5)
    return LlamaForCausalLM(LlamaConfig(**{
        **GROUPED, "vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id})).eval()


class Scored:
    """A scorer that gives the scores it is told to; an exception is raised."""

    def __init__(self, scores: Callable[[str, int], Any] | Sequence[Any]) -> None:
        self.scores = scores if callable(scores) else lambda problem, i: scores[i]
        self.seen: list[str] = []

    def start(self, problem: str) -> Callable[[LiveStep], float]:
        numbers = iter(range(10**9))

        def score(step: LiveStep) -> float:
            self.seen.append(step.text)
            found = self.scores(problem, next(numbers))
            if isinstance(found, Exception):
                raise found
            return found

        return score


# --- cached scores ---------------------------------------------------------------------------


@torch.inference_mode()
def anew(model: Any, ids: Sequence[int]) -> torch.Tensor:
    return model(torch.tensor([list(ids)]), use_cache=False).logits[0].float().log_softmax(-1)


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2", "bloom"])
def test_what_is_kept_scores_as_reading_anew(name: str) -> None:
    """Tokens one by one, blocks, and questions between them, against whole passes."""
    torch.manual_seed(3)
    model = MODELS[name]().eval()
    rng = np.random.default_rng(1)
    text: list[int] = rng.integers(120, size=5).tolist()
    reader = CachedReader(model, text)
    for size in (1, 1, 7, 1, 3, 0, 1):
        block, question = rng.integers(120, size=size).tolist(), rng.integers(120, size=4).tolist()
        asked = reader.ask(question)
        np.testing.assert_allclose(asked, anew(model, text + question)[-1], atol=1e-4)
        found, whole = reader.append(block), anew(model, text + block)
        expected = [whole[len(text) - 1 + i, token] for i, token in enumerate(block)]
        np.testing.assert_allclose(found, np.array(expected), atol=1e-4)
        text += block
        both = rng.integers(120, size=2).tolist()
        asked = reader.ask(question, both)
        text += both
        np.testing.assert_allclose(asked, anew(model, text + question)[-1], atol=1e-4)
        assert reader.length == len(text)


def test_models_whose_states_cannot_be_cut_and_texts_that_are_too_long_are_refused() -> None:
    with pytest.raises(ModelError, match="sliding_attention"):
        CachedReader(MODELS["mistral"](), [1])
    short = LlamaForCausalLM(LlamaConfig(**GROUPED, max_position_embeddings=6)).eval()
    reader = CachedReader(short, [1, 2, 3])
    with pytest.raises(ModelError, match="the text has 7 tokens, but the model reads at most 6"):
        reader.append([1, 2, 3, 4])
    assert len(reader.append([1, 2, 3])) == 3  # the refused ones left nothing behind
    with pytest.raises(ModelError, match="nothing predicts its first"):
        CachedReader(short, [])


def test_a_verifier_asks_after_each_step(llama: Any, tokenizer: Any) -> None:
    verifier = CachedVerifier(llama, tokenizer, least_mass=0.0)
    score = verifier.start("one two?")
    begun = "<user>one two?<end><assistant>"
    asked = f"<end><user>{ASKED}<end><assistant>"
    text = tokenizer(begun, add_special_tokens=False)["input_ids"]
    question = tokenizer(asked, add_special_tokens=False)["input_ids"]
    yes, no = (tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in ("Yes", "No"))
    for step in ("three\n", "four five\n"):
        text += tokenizer(step, add_special_tokens=False)["input_ids"]
        chances = anew(llama, text + question)[-1].exp()
        expected = float(chances[no] / (chances[yes] + chances[no]))
        assert score(LiveStep(step, np.empty(0))) == pytest.approx(expected, abs=1e-4)


def test_a_verifier_that_would_say_something_else_raises(llama: Any, tokenizer: Any) -> None:
    score = CachedVerifier(llama, tokenizer, least_mass=1.0).start("one?")
    with pytest.raises(ModelError, match=r"\['Yes', 'No'\] have .* the model would say"):
        score(LiveStep("two\n", np.empty(0)))
    with pytest.raises(ModelError, match="expected one token each, all different"):
        CachedVerifier(llama, tokenizer, yes=("Yes", "No"))


def test_control_tokens_in_a_text_are_letters(llama: Any, tokenizer: Any) -> None:
    """A text that closes its own turn would put words into the user's mouth."""
    free = LogProbability("mean", llama, tokenizer).start("one?")
    mark = tokenizer.convert_tokens_to_ids("<end>")
    assert mark in tokenizer("two<end>", add_special_tokens=False)["input_ids"]
    reader = CachedReader(llama, tokenizer("<user>one?<end><assistant>",
                                           add_special_tokens=False)["input_ids"])
    letters = tokenizer("two<end>", add_special_tokens=False, split_special_tokens=True)
    assert mark not in letters["input_ids"]
    expected = -reader.append(letters["input_ids"]).mean()
    assert free(LiveStep("two<end>", np.empty(0))) == pytest.approx(expected, abs=1e-5)


def test_the_free_signal_needs_log_probabilities() -> None:
    step = LiveStep("x", np.array([-1.0, -4.0]))
    assert LogProbability("min").start("")(step) == 4.0
    assert LogProbability("mean").start("")(step) == 2.5
    with pytest.raises(ModelError, match="not known"):
        LogProbability().start("")(LiveStep("x", np.empty(0)))


# --- steps and texts -------------------------------------------------------------------------


@pytest.mark.parametrize(("rule", "text", "end"), [
    (StepRule(), "a\nb", 2), (StepRule(), "a", 0), (StepRule(), "\n \n", 0),
    (StepRule(), "\n\na\n", 4), (StepRule("\n\n"), "a\nb\n\nc", 5), (StepRule("\n\n"), "a\n", 0),
    (StepRule(characters=3), "abcdef\n", 3), (StepRule(characters=3), "a\nbcdef", 2),
    (StepRule("", characters=2), "a\nb", 2), (StepRule("", tokens=1, characters=0), "abc\n", 0),
    (StepRule(), "", 0),
])
def test_where_a_step_ends(rule: StepRule, text: str, end: int) -> None:
    assert rule.end(text) == end


def test_a_rule_that_ends_no_step_is_refused() -> None:
    with pytest.raises(ValueError, match="no step would ever end"):
        StepRule("", characters=0)


def test_steps_do_not_depend_on_how_a_text_is_cut_into_pieces() -> None:
    """Two hundred random texts in random pieces: the same steps, alarm and passed text."""
    rng = np.random.default_rng(8)
    for trial in range(200):
        text = "".join(rng.choice(list("ab \n"), size=40))
        scores = rng.random(60)
        outcomes = []
        for cuts in (0, 12):
            at = sorted(rng.integers(0, 41, cuts).tolist())
            scorer = Scored(scores)
            watched = WatchedText(str(trial), OnlineMonitor(HALF), scorer, rule=StepRule(
                characters=9))
            passed = "".join(watched.piece(text[a:b])
                             for a, b in zip([0, *at], [*at, 40], strict=True))
            outcomes.append((passed + watched.finish(), scorer.seen, watched.alarm))
        assert outcomes[0] == outcomes[1]
        passed, seen, alarm = outcomes[0]
        kept = seen[:-1] if alarm else seen
        assert passed == "".join(kept) and text.startswith(passed)
        if not alarm:
            assert not text[len(passed):].strip()


def test_alarms_of_texts_are_those_of_their_scores() -> None:
    """A thousand texts, interleaved piece by piece, alarm where the scores alone would."""
    rng = np.random.default_rng(2)
    monitor, alone = OnlineMonitor(HALF), OnlineMonitor(HALF)
    lengths = rng.integers(1, 9, 1000)
    scores = [rng.random(n) ** 3 for n in lengths]
    texts = [WatchedText(str(i), monitor, Scored(one)) for i, one in enumerate(scores)]
    for i in rng.permutation(np.repeat(np.arange(1000), lengths)):
        texts[i].piece("line\n")
    expected = [next((alarm for score in one if (alarm := alone.update(str(i), score))), None)
                for i, one in enumerate(scores)]
    assert [text.alarm for text in texts] == expected
    assert 100 < sum(alarm is not None for alarm in expected) < 900


@pytest.mark.parametrize(("bad", "reason"), [
    (math.nan, "the score is nan"), (None, "the score is null"),
    (ZeroDivisionError("no model"), "internal error: ZeroDivisionError: no model"),
])
def test_a_scorer_that_fails_alarms_its_text(bad: Any, reason: str) -> None:
    reference = DriftReference((0.5,), (10, 10))
    monitor = OnlineMonitor(Policy(HALF.threshold, drift=reference))
    watched = WatchedText("a", monitor, Scored([0.1, bad, 0.1]))
    assert watched.piece("one\ntwo\nthree\n") == "one\n"
    assert watched.alarm and watched.alarm.is_error and watched.alarm.step == 2
    assert reason in watched.alarm.reason
    assert watched.piece("four\n") == "" == watched.finish()
    assert (monitor.errors, monitor.open, monitor.finished) == (1, 0, 1)
    assert monitor.drift_evidence == 1.0  # the peak of a broken text is not known
    strict = WatchedText("a", OnlineMonitor(Policy(HALF.threshold, on_error="raise")),
                         Scored([bad]))
    with pytest.raises(SequenceError):
        strict.piece("one\n")


def test_a_policy_calibrated_on_safety_is_given_what_it_expects() -> None:
    """Scorers speak of suspicion, whatever the log of the policy did."""
    policy = Policy(calibrate([-0.9, -0.8, -0.5], 0.25), side="safety")  # alarms above -0.5
    watched = WatchedText("a", OnlineMonitor(policy), Scored([-0.7, -0.4]))
    assert watched.piece("one\ntwo\n") == "one\n"
    assert watched.alarm and watched.alarm.value == -0.4
    wrong = WatchedText("b", OnlineMonitor(policy), Scored([None]))
    assert wrong.piece("one\n") == "" and wrong.alarm and wrong.alarm.is_error


def test_a_policy_knows_how_its_texts_were_cut_and_scored(llama: Any, tokenizer: Any) -> None:
    log = WatchedText("log", None, LogProbability())
    policy = replace(HALF, scoring=log.scoring)
    assert "LogProbability(min, of the writing model)" in policy.scoring
    WatchedText("same", OnlineMonitor(policy), LogProbability(), rule=StepRule())
    for other in ({"scorer": LogProbability("mean")},
                  {"scorer": LogProbability("min", llama, tokenizer)},
                  {"scorer": LogProbability(), "rule": StepRule("", 16)}):
        with pytest.raises(ValueError, match="was calibrated on steps and scores by StepRule"):
            WatchedText("other", OnlineMonitor(policy), **other)
    with pytest.raises(ValueError, match="watch as the log was made"):
        StopAtAlarm(OnlineMonitor(policy), LogProbability("mean"), llama, tokenizer, ["a"])


def test_empty_texts_are_no_sequences_and_endless_ones_are_watched() -> None:
    monitor = OnlineMonitor(HALF)
    for text in ("", " \n\n "):
        watched = WatchedText("empty", monitor, Scored([]))
        assert watched.piece(text) == watched.finish() == ""
    assert (monitor.steps, monitor.open, monitor.finished) == (0, 0, 0)
    watched = WatchedText("endless", monitor, Scored(lambda problem, i: 0.9 if i == 500 else 0.1))
    taken = 0
    while watched.alarm is None:  # without a line break
        watched.piece("x" * 100)
        taken += 100
    assert taken == 501_000 and watched.alarm.step == 501


# --- rows of a batch -------------------------------------------------------------------------


def rows_of(llama: Any, tokenizer: Any, stop: StopAtAlarm, n: int, new: int = 40, **more: Any
            ) -> torch.Tensor:
    prompts = [f"one {'two ' * (i % 3)}three" for i in range(n)]
    tokenizer.padding_side = "left"
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
    inputs.pop("token_type_ids", None)
    torch.manual_seed(0)
    return llama.generate(**inputs, max_new_tokens=new, do_sample=True, top_k=0,
                          pad_token_id=tokenizer.pad_token_id, **stop.hooks, **more)


def test_each_row_of_sixteen_stops_at_its_own_step(llama: Any, tokenizer: Any) -> None:
    """Row i alarms at step i + 1; steps have two tokens."""
    never_ends = {"eos_token_id": tokenizer.convert_tokens_to_ids("<system>")}
    monitor = OnlineMonitor(HALF)
    scorer = Scored(lambda problem, i: 0.9 if i == int(problem) else 0.1)
    stop = StopAtAlarm(monitor, scorer, llama, tokenizer, [f"r{i}" for i in range(16)],
                       [str(i) for i in range(16)], StepRule("", tokens=2, characters=0),
                       ends=[never_ends["eos_token_id"]])
    output = rows_of(llama, tokenizer, stop, 16, suppress_tokens=list(never_ends.values()),
                     **never_ends)
    answers = stop.answers(output)
    assert [answer.alarm.step for answer in answers] == list(range(1, 17))
    assert [len(answer.tokens) for answer in answers] == [2 * i for i in range(1, 17)]
    new = output[:, -32:]
    for i, row in enumerate(new.tolist()):  # generate itself returns padding after an alarm
        assert set(row[2 * (i + 1):]) <= {tokenizer.pad_token_id}
        assert tuple(row[: 2 * (i + 1)]) == answers[i].tokens
    assert monitor.alarms == monitor.finished == 16 and monitor.open == 0


def test_a_batch_without_alarms_is_as_without_a_monitor(llama: Any, tokenizer: Any) -> None:
    stop = StopAtAlarm(OnlineMonitor(NEVER), LogProbability(), llama, tokenizer, list("abcd"))
    watched = rows_of(llama, tokenizer, stop, 4)
    plain = StopAtAlarm(None, LogProbability(), llama, tokenizer, list("abcd"))
    plain.hooks = {}
    torch.testing.assert_close(watched, rows_of(llama, tokenizer, plain, 4))
    ends = {tokenizer.eos_token_id}
    for answer, row in zip(stop.answers(watched), watched[:, -40:].tolist(), strict=True):
        own = row[: next((i for i, token in enumerate(row, 1) if token in ends), len(row))]
        assert list(answer.tokens) == own
        assert answer.alarm is None and len(answer.scores) == len(answer.step_tokens)


def test_log_probabilities_are_those_before_temperature(llama: Any, tokenizer: Any) -> None:
    rule = StepRule("", tokens=1, characters=0)
    stop = StopAtAlarm(None, LogProbability(), llama, tokenizer, ["a"], rule=rule)
    output = rows_of(llama, tokenizer, stop, 1, new=12, temperature=0.5)
    (answer,) = stop.answers(output)
    logs = anew(llama, output[0].tolist())
    width = output.shape[1] - len(answer.tokens)
    expected = [-float(logs[width - 1 + i, token]) for i, token in enumerate(answer.tokens)]
    np.testing.assert_allclose(answer.scores, expected, atol=1e-4)


def test_a_failing_scorer_stops_its_own_row_only(llama: Any, tokenizer: Any) -> None:
    bad = {"1": RuntimeError("out of memory"), "2": math.nan}
    stop = StopAtAlarm(OnlineMonitor(HALF), Scored(lambda problem, i: bad.get(problem, 0.1)),
                       llama, tokenizer, list("abc"), list("012"),
                       StepRule("", tokens=3, characters=0))
    fine, raised, nan = stop.answers(rows_of(llama, tokenizer, stop, 3))
    assert fine.alarm is None and len(fine.tokens) > 3
    assert "RuntimeError: out of memory" in raised.alarm.reason and len(raised.tokens) == 3
    assert "the score is nan" in nan.alarm.reason and len(nan.tokens) == 3


def test_beams_and_several_answers_stop_at_once(llama: Any, tokenizer: Any) -> None:
    for more in ({"num_return_sequences": 2}, {"num_beams": 2, "do_sample": False}):
        stop = StopAtAlarm(OnlineMonitor(NEVER), LogProbability(), llama, tokenizer, ["a"])
        inputs = tokenizer("one two", return_tensors="pt", add_special_tokens=False)
        output = llama.generate(inputs["input_ids"], max_new_tokens=9, **{
            "do_sample": True, **stop.hooks, **more})
        assert output.shape[1] <= inputs["input_ids"].shape[1] + 1
        (row,) = stop._rows
        assert "rows and 1 are watched" in row.watched.alarm.reason


def test_without_its_logits_hook_the_free_signal_alarms(llama: Any, tokenizer: Any) -> None:
    stop = StopAtAlarm(OnlineMonitor(NEVER), LogProbability(), llama, tokenizer, ["a"],
                       rule=StepRule("", tokens=2, characters=0))
    del stop.hooks["logits_processor"]
    (answer,) = stop.answers(rows_of(llama, tokenizer, stop, 1))
    assert "log-probabilities of this step are not known" in answer.alarm.reason


def test_bytes_that_never_become_a_character_are_watched(llama: Any, tokenizer: Any) -> None:
    """A model that writes half characters must not escape."""
    (half,) = tokenizer.convert_tokens_to_ids(["Ã"])
    stop = StopAtAlarm(OnlineMonitor(HALF), Scored(lambda problem, i: 0.9), llama, tokenizer, "a",
                       rule=StepRule(characters=4))
    ids = torch.tensor([[5]])
    taken = 0
    while taken < 40:
        taken += 1
        ids = torch.cat([ids, torch.tensor([[half]])], 1)
        stop._logits(ids[:, :-1], torch.zeros(1, len(tokenizer)))
        if stop(ids, None).all():
            break
    assert 4 <= taken <= 20 and stop._rows[0].watched.alarm


def test_rows_and_names_must_fit(llama: Any, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="1 problems for 2 rows"):
        StopAtAlarm(None, LogProbability(), llama, tokenizer, ["a", "b"], ["x"])
    with pytest.raises(ValueError, match="2 rows have 1 different ids"):
        StopAtAlarm(None, LogProbability(), llama, tokenizer, ["a", "a"])
    stop = StopAtAlarm(None, LogProbability(), llama, tokenizer, ["a"])
    with pytest.raises(ValueError, match=r"pass \*\*hooks to generate"):
        stop.answers(torch.zeros(1, 3, dtype=torch.long))


# --- streams ---------------------------------------------------------------------------------


def chunk(text: str, finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish, **more}]}


def logged(*tokens: tuple[str, float]) -> dict[str, Any]:
    content = [{"token": text, "logprob": log_prob, "bytes": list(text.encode())}
               for text, log_prob in tokens]
    return {"logprobs": {"content": content}}


class Source:
    """Chunks that remember how many were read, and whether they were closed."""

    def __init__(self, chunks: Sequence[Any]) -> None:
        self.chunks, self.read, self.closed = chunks, 0, False

    def __iter__(self) -> Iterator[Any]:
        for one in self.chunks:
            self.read += 1
            if isinstance(one, Exception):
                raise one
            yield one

    def close(self) -> None:
        self.closed = True


def watch(chunks: Sequence[Any], scorer: Any, **more: Any) -> tuple[list[str], Source, WatchedText]:
    source = Source(chunks)
    watched = WatchedText("a", OnlineMonitor(HALF), scorer, **more)
    return list(watched.stream(source)), source, watched


def test_a_stream_is_closed_at_the_alarm_and_keeps_its_step_back() -> None:
    chunks = [chunk("one\ntw"), chunk("o\nthree"), chunk("\nfour\n"), chunk("", "stop")]
    passed, source, watched = watch(chunks, Scored([0.1, 0.9]))
    assert (passed, source.read, source.closed) == (["one\n"], 2, True)
    assert watched.alarm.step == 2
    passed, source, watched = watch(chunks, Scored([0.1] * 9))
    assert "".join(passed) == "one\ntwo\nthree\nfour\n" and source.closed
    assert watched.alarm is None and watched.monitor.finished == 1


def test_tokens_of_a_stream_carry_their_log_probabilities() -> None:
    chunks = [chunk("one", **logged(("one", -0.2))), chunk("\ntwo", **logged(("\n", -0.1),
                                                                            ("two", -0.9))),
              chunk("", "stop", **logged())]
    passed, _, watched = watch(chunks, LogProbability())
    assert watched.scores == [0.2, 0.9] and watched.tokens == [2, 1]
    assert passed == ["one\n"] and watched.alarm.step == 2


@pytest.mark.parametrize(("entries", "expected"), [
    ([{"token": "Ġtwo", "logprob": -0.1, "bytes": None}], " two"),
    ([{"token": "\\xc3", "logprob": -0.1, "bytes": [0xC3]},
      {"token": "\\xa9", "logprob": -0.2, "bytes": [0xA9]}], "é"),
])
def test_tokens_spelled_in_another_way_keep_the_text(entries: list[Any], expected: str) -> None:
    chunks = [chunk(expected, **{"logprobs": {"content": entries}}), chunk("", "stop")]
    passed, _, watched = watch(chunks, LogProbability())
    assert passed == [expected] and watched.tokens == [len(entries)]


@pytest.mark.parametrize(("last", "reason"), [
    (OSError("connection reset"), "OSError: connection reset"),
    ({"error": {"message": "overloaded"}}, "the server says: {'message': 'overloaded'}"),
    (chunk("x", index=1), "several answers at once"),
    ({"choices": [{"delta": {"tool_calls": [{"id": "c"}]}}]}, "calls a tool"),
    (chunk("", logprobs={"content": [{"token": "x"}]}), "KeyError"),
    ("data: x", "AttributeError"),
    (None, "broke off: it ended without a finish_reason"),
])
def test_streams_that_cannot_be_watched_alarm(last: Any, reason: str) -> None:
    chunks = [chunk("one\ntw"), *([] if last is None else [last])]
    passed, source, watched = watch(chunks, Scored([0.1] * 9))
    assert passed == ["one\n"] and source.closed
    assert watched.alarm.is_error and reason in watched.alarm.reason


def test_a_stream_of_unknown_tokens_cannot_be_counted_in_tokens() -> None:
    _, source, watched = watch([chunk("one two")] * 3, Scored([0.1]), rule=StepRule(tokens=4))
    assert "ask for log-probabilities" in watched.alarm.reason and source.read == 1


def test_thoughts_are_watched_and_empty_streams_pass_nothing() -> None:
    thought = {"choices": [{"delta": {"reasoning_content": "hm\n"}}]}
    scorer = Scored([0.1] * 3)
    passed, _, _ = watch([thought, chunk("one\n", "stop"), {"choices": []}], scorer)
    assert scorer.seen == ["hm\n", "one\n"] and "".join(passed) == "hm\none\n"
    passed, source, watched = watch([chunk("", "stop")], scorer)
    assert passed == [] and source.closed and watched.alarm is None
    passed, _, watched = watch([], scorer)
    assert passed == [] and watched.alarm.is_error


def test_who_stops_reading_closes_the_stream() -> None:
    source = Source([chunk("one\n")] * 99)
    for _ in WatchedText("a", OnlineMonitor(HALF), Scored([0.1] * 99)).stream(source):
        break
    assert source.read == 1
    gc.collect()
    assert source.closed


def test_alarms_go_into_json() -> None:
    _, _, watched = watch([chunk("one\n", "stop")], Scored([ValueError("x")]))
    json.dumps(watched.alarm.to_dict(), allow_nan=False)
