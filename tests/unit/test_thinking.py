"""Where a reply thinks: what is a tag, which tags belong together, and what only looks alike."""

from __future__ import annotations

import pytest

from monitorlab.monitors.thinking import ANNOUNCED, Tag, split_thinking, without_channels


@pytest.mark.parametrize(("opener", "closer"), [
    ("<think>", "</think>"), ("<Thinking>", "</think>"), ("< THOUGHT >", "< / thought >"),
    ("<thoughts>", "</thought>"), ("<reasoning a='b'>", "</reasoning>"), ("◁think▷", "◁/think▷"),
    ("<seed:think>", "</seed:think>"), ("[THINK]", "[/THINK]"), ("[think a=b c=d]", "[/think]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"), ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<｜begin▁of▁think｜>", "<｜end▁of▁think｜>"), ("<|think|>", "<|/think|>"),
    ("<scratch_pad>", "</scratch-pad>"), ("<think\u200b>", "<\ufeff/think>"), ("<cot>", "</cot>"),
    ("<thinking_start>", "<thinking_end>"), ("<|inner_prefix|>", "<|inner_suffix|>"),
])
def test_two_tags_of_a_pair(opener: str, closer: str) -> None:
    found = Tag.find(f"{opener} x {closer}")
    assert found is not None and len(found) == 2
    assert found[0].key == found[1].key != ""
    assert [tag.closes for tag in found] == [False, True]
    assert (found[0].end, found[1].start) == (len(opener), len(opener) + 3)


@pytest.mark.parametrize("text", [
    "<b>", "<winner>", "<mascot>", "<nothink>", "<think/>", "<answer>", "think", "<th ink>",
    "[thinking about it]", "{think}", "< >", "a < think", "<|im_start|>",
])
def test_what_only_looks_like_a_tag(text: str) -> None:
    assert Tag.find(text) == []


def test_names_of_different_tags_differ() -> None:
    found = Tag.find("<think><reasoning></reflection></seed:think>")
    assert found is not None and len({tag.key for tag in found}) == 4


@pytest.mark.parametrize(("text", "mention"), [
    ("<think>", False), ("\n <think>", False), ("Sure. <think>", False), ("Sure:\n<think>", False),
    ("assistant <think>", False), ("<s>Model: <think>", False), ("好的。<think>", False),
    ("</think><think>", False), ("its <think>", True), ("Well, <think>", True),
    ("its `<think>", True), ('"<think>', True), ("tag (<think>", True), ("B/<think>", True),
])
def test_a_tag_within_a_sentence_is_a_mention(text: str, mention: bool) -> None:
    found = Tag.find(text)
    assert found and found[-1].is_mention(text) is mention


@pytest.mark.parametrize(("text", "answer"), [
    ("plain", "plain"), ("analysisx assistantfinal y", " y"), ("assistantanalysis x", None),
    ("thought\nx<unused95>y", "y"), ("<|channel>thought\nx<channel|>y", "y"),
    ("Thought\nx", None), ("Thoughtful", "Thoughtful"), ("Analysis: x", "Analysis: x"),
    ("Thinking...\nx\n...done thinking.\ny", "\ny"), ("Sure.\nthought\nx", None),
    ("<|channel|>analysis<|message|>x<|end|>", None), ("thought\nx</think>y</think>z", "z"),
    ("<|channel|>analysis<|message|>x<|channel|>final<|message|>y<|return|>", "y"),
    ('{"a": "\nthought\n"}', '{"a": "\nthought\n"}'),
])
def test_thinking_without_tags_is_taken_off(text: str, answer: str | None) -> None:
    assert without_channels(text) == answer


@pytest.mark.parametrize(("prompt", "tag"), [
    ("assistant\n<think>\n", "<think>"), ("x[THINK]", "[THINK]"), ("x <seed:think>  ",
     "<seed:think>"), ("<think>\n\n</think>\n\n", ""), ("<think> about it", ""), ("", ""),
    ("x" * 500 + "<|START_THINKING|>", "<|START_THINKING|>"),
])
def test_a_prompt_that_opens_thinking(prompt: str, tag: str) -> None:
    assert Tag.opened_by(prompt) == tag


@pytest.mark.parametrize(("text", "announced"), [
    ("Thought: x", True), ("assistant\nThinking.\nx", True), ("**Thinking:** x", True),
    ("## Thought process\nx", True), ("```thinking\nx", True), ("Draft: x", True),
    ("Here's my reasoning: x", True), ("Here is my thought process:\nx", True),
    ("Let me think. x", True), ("Let's think step by step.\nx", True), ("Reasoning\nx", True),
    ("Thoughtful. x", False), ("## Analysis\nx", False), ("Here is my audit: x", False),
    ("Let me know. x", False), ("My draft: x", False), ("", False),
])
def test_words_that_announce_thinking(text: str, announced: bool) -> None:
    assert (ANNOUNCED.match(text) is not None) is announced


@pytest.mark.parametrize(("text", "thinking", "answer"), [
    ("<think>\nso it is 4\n</think>\n\nIt is 4.", "so it is 4", "It is 4."),
    ("It is 4.", "", "It is 4."), ("<think>so it is 4", "so it is 4", ""),
    ("so it is 4.</think>It is 4.", "so it is 4.", "It is 4."),
    ("[THINK]a[/THINK]b.\n<reasoning>c</reasoning>\nd", "a\n\nc", "b.\n\nd"),
    ("<think>a <reasoning> b </reasoning></think>c", "a <reasoning> b </reasoning>", "c"),
    ("The tag <think> opens, </think> closes.", "", "The tag <think> opens, </think> closes."),
    ("[Analysis]\nIt is 4.", "", "[Analysis]\nIt is 4."), ("", "", ""),
    ("[Analysis]\nso\n[/Analysis]\nIt is 4.", "so", "It is 4."),
    ("<|channel|>analysis<|message|>so<|end|>", "<|channel|>analysis<|message|>so<|end|>", ""),
    ("Thinking...\nso\n...done thinking.\nIt is 4.", "Thinking...\nso\n...done thinking.",
     "It is 4."),
    ("if x:\n    return {'a': [1]}", "", "if x:\n    return {'a': [1]}"),
])
def test_a_text_is_split_into_thinking_and_answer(text: str, thinking: str, answer: str) -> None:
    assert split_thinking(text) == (thinking, answer)
