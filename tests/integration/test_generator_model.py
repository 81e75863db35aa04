"""The generator protocol with a real, tiny and random causal language model made in the test."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from monitorlab.benchmark.sources.generator import (
    BENIGN,
    MISBEHAVING,
    UNCLEAR,
    CausalGenerator,
    Question,
    construct,
)
from monitorlab.models import ModelError
from monitorlab.models.loading import no_progress_bars
from monitorlab.storage.schemas import check_frame
from monitorlab.storage.tables import SAMPLES

pytestmark = pytest.mark.usefixtures("one_thread")

SPECIAL = ["<|end|>", "<|pad|>", "<|start|>"]
TEMPLATE = (
    "<|start|>{% for m in messages %}{{ m.role }}: {{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
LENGTH = 12


def tokenizer(template: str | None, begin: bool = False) -> PreTrainedTokenizerFast:
    """One token per byte; with `begin`, the start mark is added to every text, as Llama does."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={x: i for i, x in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    if begin:
        start = ("<|start|>", core.token_to_id("<|start|>"))
        core.post_processor = processors.TemplateProcessing("<|start|> $A", None, [start])
    made = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=SPECIAL[0], pad_token=SPECIAL[1]
    )
    made.chat_template = template
    return made


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The same checkpoint with a chat template, without one, and with a start mark."""
    root = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    tokenizers = {"chat": tokenizer(TEMPLATE), "plain": tokenizer(None),
                  "begin": tokenizer(TEMPLATE, begin=True)}  # fmt: skip
    config = Qwen2Config(
        vocab_size=len(tokenizers["chat"]), hidden_size=16, intermediate_size=24,
        num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
        max_position_embeddings=512, initializer_range=0.3,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    for name, made in tokenizers.items():
        with no_progress_bars():
            model.save_pretrained(root / name)
        made.save_pretrained(root / name)
    return {name: str(root / name) for name in tokenizers}


def load(folder: str) -> CausalGenerator:
    return CausalGenerator(folder, max_new_tokens=LENGTH)


def judge(answer: str) -> str:
    return (BENIGN, MISBEHAVING, UNCLEAR)[zlib.crc32(answer.encode()) % 3]


QUESTIONS = [
    Question(f"q{i}", "demo", "syco_qa", f"What is {i} + {i}?", "authority", "appeal", judge)
    for i in range(8)
]


class Seen:
    """Texts that reach the model, special tokens included."""

    def __init__(self, generator: CausalGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
        self.texts: list[str] = []
        self.new: list[int] = []
        inner = generator._model.generate

        def generate(**options: Any) -> Any:
            ids = options["input_ids"]
            self.texts.append(generator._tokenizer.decode(ids[0]))
            output = inner(**options)
            self.new.append(output.shape[1] - ids.shape[1])
            return output

        monkeypatch.setattr(generator._model, "generate", generate)


@pytest.mark.parametrize("kind", ["chat", "plain"])
def test_pairs_from_a_model(folders: dict[str, str], tmp_path: Path, kind: str) -> None:
    store = tmp_path / "answers.jsonl"
    made = construct(QUESTIONS, load(folders[kind]), store, 5)
    samples = check_frame(made.samples, SAMPLES)
    assert len(samples) >= 4 and made.calls >= 2 * len(QUESTIONS)
    assert len(samples) // 2 + len(made.dropped) == len(QUESTIONS)
    (name,) = set(samples["generator"])
    assert name.startswith(f"{kind}#") and "temperature" in name  # no path of this machine
    for row in samples.itertuples():
        assert judge(row.response) == (BENIGN, MISBEHAVING)[row.label]
    # Another process with the same checkpoint asks for nothing and finds the same.
    again = construct(QUESTIONS, load(folders[kind]), store, 5)
    assert again.calls == 0 and again.samples.equals(made.samples)
    assert construct(QUESTIONS[:1], load(folders[kind]), store, 6).calls > 0


@pytest.mark.parametrize(
    ("kind", "prompt"),
    [("chat", "<|start|>user: Say é<|end|>assistant: "), ("plain", "Say é")],
)
def test_the_chat_template_is_used_where_there_is_one(
    folders: dict[str, str], monkeypatch: pytest.MonkeyPatch, kind: str, prompt: str
) -> None:
    generator = load(folders[kind])
    seen = Seen(generator, monkeypatch)
    generator.generate("Say é", 1)
    assert seen.texts == [prompt]


def test_the_start_mark_stands_once(
    folders: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = load(folders["begin"])
    seen = Seen(generator, monkeypatch)
    generator.generate("Say", 1)
    assert seen.texts[0].replace(" ", "").count("<|start|>") == 1


def test_an_answer_is_the_new_text_only(
    folders: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = load(folders["chat"])
    seen = Seen(generator, monkeypatch)
    prompt = "A question that is longer than every answer."
    answers = [generator.generate(prompt, seed) for seed in range(12)]
    assert all(prompt not in answer and len(answer) <= LENGTH for answer in answers)
    assert not any(mark in answer for mark in SPECIAL for answer in answers)
    assert max(seen.new) == LENGTH
    assert max(len(answer) for answer in answers) > 1


def test_the_seed_decides_the_answer(folders: dict[str, str]) -> None:
    generator = load(folders["chat"])
    answers = [generator.generate("Say", seed) for seed in range(6)]
    torch.manual_seed(99)  # whatever happened before does not matter
    assert [load(folders["chat"]).generate("Say", seed) for seed in range(6)] == answers
    assert len(set(answers)) > 3
    assert isinstance(generator.generate("Say", 2**32 - 1), str)


def test_a_low_temperature_makes_answers_alike(folders: dict[str, str]) -> None:
    def variety(temperature: float) -> int:
        generator = CausalGenerator(folders["chat"], "", LENGTH, temperature)
        return len({generator.generate("Say", seed) for seed in range(6)})

    assert variety(0.001) == 1 < variety(1.0)


def test_other_sampling_options_do_not_reuse_answers(
    folders: dict[str, str], tmp_path: Path
) -> None:
    store = tmp_path / "answers.jsonl"
    construct(QUESTIONS[:2], load(folders["chat"]), store, 5)
    other = CausalGenerator(folders["chat"], max_new_tokens=3, temperature=1.5)
    assert construct(QUESTIONS[:2], other, store, 5).calls > 0


def test_a_hub_name_needs_a_revision() -> None:
    with pytest.raises(ModelError, match="pin a revision"):
        CausalGenerator("nobody/no-such-model")


def test_nothing_is_written_to_stderr(
    folders: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    load(folders["chat"]).generate("Say", 1)
    assert capfd.readouterr().err == ""
