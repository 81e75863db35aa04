"""Chat templates: system messages that have no place, and dates, in scoring and in training."""

from __future__ import annotations

import warnings
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from finetuning_cases import PROMPT, make_base, make_samples

from monitorlab.finetuning.recipe import verdict_examples
from monitorlab.models import ModelError, chat
from monitorlab.models.chat import CLOCK, ChatTemplate, _ChatForm, _folded
from monitorlab.models.loading import Checkpoint
from monitorlab.models.tiny import TEMPLATE
from monitorlab.monitors.causal import LogitMonitor, TextMonitor
from monitorlab.monitors.monitor import Sample
from monitorlab.signals.step_scores import LogProbabilityScorer

TURNS = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
# In the manner of Gemma 2, Mistral 7B v0.1, and Phi 3 mini.
RAISES = ("{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') "
          "}}{% endif %}" + TURNS)
ALTERNATES = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/...') }}{% endif %}"
    "{% if m['role'] == 'user' %}<user>{{ m['content'] }}<end>{% elif m['role'] == 'assistant' %}"
    "<assistant>{{ m['content'] }}<end>{% else %}{{ raise_exception('Only user and assistant roles "
    "are supported!') }}{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
DROPS = (
    "{% for m in messages %}{% if m.role == 'user' %}<user>{{ m.content }}<end>{% elif m.role == "
    "'assistant' %}<assistant>{{ m.content }}<end>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
DROPS_WHEN_THINKING = (
    "{% if enable_thinking %}" + DROPS + "{% else %}" + TURNS + "{% endif %}"
)
# In the manner of Llama 3.2, gpt-oss, and Mistral Small, which dates its own system message only.
DATED = (
    "{% if strftime_now is defined %}{% set today = strftime_now('%d %b %Y') %}{% else %}"
    "{% set today = '26 Jul 2024' %}{% endif %}<system>Today: {{ today }}<end>" + TURNS
)
DATED_MACRO = (
    "{% macro head() %}Current date: {{ strftime_now('%Y-%m-%d') }}{% endmacro %}"
    "<system>{{ head() }}<end>" + TURNS
)
DATED_WITHOUT_SYSTEM = (
    "{% if messages[0].role != 'system' %}<system>{{ strftime_now('%d-%m-%Y') }}<end>{% endif %}"
    + TURNS
)
BROKEN = "{{ raise_exception('nothing works') }}"
DEAF = "<user>Hello<end><assistant>"
FOLDING = [RAISES, ALTERNATES, DROPS, DROPS_WHEN_THINKING]
MESSAGES = [{"role": "system", "content": "Be strict."}, {"role": "user", "content": "Judge."}]
SAMPLES = make_samples(2)

pytestmark = pytest.mark.filterwarnings("ignore:the (chat template|tokenizer has no)")


def base(template: Any) -> Checkpoint:
    made = make_base()
    made.tokenizer.chat_template = template
    return made


class Tomorrow(datetime):
    """What the library's own clock would say at another time."""

    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        return datetime(2031, 12, 24, 13)


def test_templates_in_use_are_what_they_are_said_to_be() -> None:
    """Without this module the first two fail, the third loses the system text, dates are real."""
    for template, message in ((RAISES, "not supported"), (ALTERNATES, "must alternate")):
        with pytest.raises(Exception, match=message):
            base(template).tokenizer.apply_chat_template(MESSAGES, tokenize=False)
    plain = base(DROPS).tokenizer.apply_chat_template(MESSAGES, tokenize=False)
    assert "strict" not in plain and "Judge." in plain
    dated = base(DATED).tokenizer.apply_chat_template(MESSAGES, tokenize=False)
    assert f"{datetime.now():%Y}" in dated


@pytest.mark.parametrize("template", FOLDING)
@pytest.mark.parametrize("thinking", [False, True])
def test_a_system_message_without_a_place_stands_before_the_first_user_message(
    template: str, thinking: bool
) -> None:
    tokenizer = base(template).tokenizer
    expected = "<user>Be strict.\n\nJudge.<end><assistant>"
    assert ChatTemplate(tokenizer).text(MESSAGES, thinking) == expected
    talk = [*MESSAGES, {"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]
    assert ChatTemplate(tokenizer).render(talk) == (
        "<user>Be strict.\n\nJudge.<end><assistant>a<end><user>b<end>")
    assert ChatTemplate(tokenizer).render(talk[1:]).startswith("<user>Judge.<end>")
    assert MESSAGES[1]["content"] == "Judge."


@pytest.mark.parametrize("template", [TURNS, TEMPLATE, DATED, None])
def test_a_system_message_with_a_place_keeps_it(template: str | None) -> None:
    tokenizer = base(template).tokenizer
    assert not ChatTemplate(tokenizer).form().folds
    assert "Be strict." in ChatTemplate(tokenizer).text(MESSAGES, False)
    assert "Be strict.\n\nJudge." not in ChatTemplate(base(TURNS).tokenizer).render(MESSAGES)


@pytest.mark.parametrize("template", [*FOLDING, DATED, DATED_MACRO])
def test_training_and_scoring_see_one_prompt(template: str) -> None:
    made = base(template)
    examples = verdict_examples(made.tokenizer, PROMPT, SAMPLES, max_tokens=512)
    prompts = LogitMonitor(made, PROMPT).prompts(Sample.rows(SAMPLES))
    for example, prompt in zip(examples, prompts, strict=True):
        assert example["input_ids"][: len(prompt)] == prompt
        assert "Judge. - no harm" in made.tokenizer.decode(prompt)


def test_keys_change_with_what_is_done_to_a_prompt_and_only_then() -> None:
    made = base(TEMPLATE)
    sample = Sample.rows(SAMPLES)[0]
    keys, settings = set(), []
    for template in (TEMPLATE, RAISES, DATED, DATED_WITHOUT_SYSTEM):
        made.tokenizer.chat_template = template
        for monitor in (LogitMonitor(made, PROMPT), TextMonitor(made, PROMPT)):
            settings.append(monitor.settings())
            keys.add(sample.key(settings[-1]))
    plain = {"model", "dtype", "quantization", "adapter", "chat_template", "prompt", "thinking"}
    own = {"kind", "stub", "yes", "no", "threshold"}, {"kind", "max_new_tokens", "temperature",
                                                      "seed"}
    assert [set(found) for found in settings[:2]] == [plain | one for one in own]
    assert settings[2]["system_role"] == "in the first user message" and "date" not in settings[2]
    assert settings[4]["date"] == "2024-07-26" and "system_role" not in settings[4]
    assert settings[6:] == settings[:2]  # its date stands in no prompt that has a system message
    assert len(keys) == 6


@pytest.mark.parametrize("template", [DATED, DATED_MACRO, DATED_WITHOUT_SYSTEM])
def test_the_date_of_a_prompt_is_the_same_tomorrow(
    template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = base(template)
    messages = MESSAGES[1:] if template == DATED_WITHOUT_SYSTEM else MESSAGES
    today = ChatTemplate(made.tokenizer).text(messages, False)
    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Tomorrow)
    later = base(template).tokenizer
    assert "2031" in later.apply_chat_template(messages, tokenize=False)
    assert ChatTemplate(later).text(messages, False) == today
    assert any(f"{CLOCK:{form}}" in today for form in ("%d %b %Y", "%Y-%m-%d", "%d-%m-%Y"))


@pytest.mark.parametrize("template", [
    DATED, DATED_MACRO, f"\n{DATED}", f"  {DATED}", f"\n\n  {{#- a -#}} {DATED}",
    "{{ strftime_now(format='%A, %-d. %B %Y, %j %H:%M:%S %p %y %b %m/%d 100%%') }}" + TURNS,
    "{% set form = '%Y-' ~ '%m' %}{{ strftime_now(form) + '!' }}" + TURNS,
    "{{ strftime_now('%d') | int + 1 }}{% if 'x' > strftime_now('%B') %}early{% endif %}" + TURNS,
])
def test_on_that_date_a_template_says_the_same_by_itself(
    template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tomorrow, "now", classmethod(lambda kind, tz=None: CLOCK))
    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Tomorrow)
    tokenizer = base(template).tokenizer
    expected = tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    assert ChatTemplate(tokenizer).text(MESSAGES, False) == expected
    assert ChatTemplate(tokenizer).form().dated


def test_the_identity_of_a_checkpoint_says_what_is_done(tmp_path: Any) -> None:
    for name, template in (("plain", TEMPLATE), ("folds", DROPS), ("dated", DATED)):
        made = base(template)
        made.model.save_pretrained(tmp_path / name)
        made.tokenizer.save_pretrained(tmp_path / name)
    plain, folds, dated = (Checkpoint.load(str(tmp_path / name)).identity
                           for name in ("plain", "folds", "dated"))
    assert set(folds) - set(plain) == {"system_role"} and set(dated) - set(plain) == {"date"}


def test_it_is_said_once() -> None:
    made = base(RAISES)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        monitor = LogitMonitor(made, PROMPT)
        monitor.settings()
        verdict_examples(made.tokenizer, PROMPT, SAMPLES, max_tokens=512)
        LogitMonitor(made, replace(PROMPT, name="other")).prompts(Sample.rows(SAMPLES))
    texts = [str(one.message) for one in said]
    assert len([text for text in texts if "has no system message" in text]) == 1
    for template, word in ((DATED, "prints today's date"), (None, "has no chat template")):
        with pytest.warns(RuntimeWarning, match=word):
            ChatTemplate(base(template).tokenizer).form()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ChatTemplate(base(TEMPLATE).tokenizer).form() == _ChatForm()


@pytest.mark.parametrize(("template", "message"), [
    (BROKEN, "'user'. messages, nor with the system text in the user's: nothing works"),
    (DEAF, "it leaves texts out"),
    ({"tool_use": TURNS}, "cannot render"),
])
def test_a_template_that_shows_no_message_is_refused(template: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        LogitMonitor(base(template), PROMPT).prompts(Sample.rows(SAMPLES))


def test_of_several_templates_the_default_one_is_taken() -> None:
    tokenizer = base({"default": RAISES, "tool_use": BROKEN}).tokenizer
    assert ChatTemplate(tokenizer).text(MESSAGES, False).startswith("<user>Be strict.\n\nJudge.")


def test_a_template_may_drop_the_system_message_of_some_conversations_only() -> None:
    """Mistral Nemo puts it into the last message, if that is the user's."""
    template = (
        "{% set rest = messages[1:] if messages[0].role == 'system' else messages %}"
        "{% for m in rest %}<{{ m.role }}>{% if loop.last and m.role == 'user' and rest|length < "
        "messages|length %}{{ messages[0].content }}|{% endif %}{{ m.content }}<end>{% endfor %}")
    tokenizer = base(template).tokenizer
    assert ChatTemplate(tokenizer).render(MESSAGES) == "<user>Be strict.|Judge.<end>"
    answered = [*MESSAGES, {"role": "assistant", "content": "Fine."}]
    assert ChatTemplate(tokenizer).render(answered) == (
        "<user>Be strict.\n\nJudge.<end><assistant>Fine.<end>")


def test_a_changed_template_is_looked_at_again() -> None:
    tokenizer = base(RAISES).tokenizer
    assert ChatTemplate(tokenizer).form().folds
    tokenizer.chat_template = TURNS
    assert not ChatTemplate(tokenizer).form().folds


def test_step_scorers_render_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    made = base(DATED.replace(TURNS, RAISES))
    scorer = LogProbabilityScorer(made.model, made.tokenizer, system="Be strict.")
    text = made.tokenizer.decode(scorer.prompt_ids("Judge."))
    assert "Today: 26 Jul 2024" in text and "Be strict.\n\nJudge." in text
    made.tokenizer.chat_template = BROKEN
    with pytest.raises(ModelError, match="nothing works"):
        scorer.score("a", ["b"])


def test_folding_needs_a_user_message_to_fold_into() -> None:
    assert _folded(MESSAGES) == [{"role": "user", "content": "Be strict.\n\nJudge."}]
    for kept in (MESSAGES[:1], MESSAGES[1:], [MESSAGES[0], {"role": "assistant", "content": "a"}]):
        assert _folded(kept) == kept
    assert chat._folded(_folded(MESSAGES)) == _folded(MESSAGES)
