"""`finetune` as a whole: what it leaves behind, resumes, refuses and says when something fails."""

import errno
import gc
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from finetuning_cases import make_base, make_examples, make_tokenizer, recipe
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel, Qwen3Config, Qwen3ForCausalLM

from monitorlab.finetuning import train
from monitorlab.finetuning.recipe import PAPER, RANGES, Example, LeakError, Recipe
from monitorlab.finetuning.saved import Workplace
from monitorlab.finetuning.train import (
    _Collator,
    _minutes,
    _out_of_memory,
    _VerdictTrainer,
    finetune,
)
from monitorlab.models.loading import Checkpoint
from monitorlab.monitors.monitor import MonitorError


@pytest.fixture(scope="module", autouse=True)
def quick_collection() -> Iterator[None]:
    """The library collects garbage before each training; what was imported needs no look."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def base() -> Checkpoint:
    return make_base()


@pytest.fixture(scope="module")
def examples(base: Checkpoint) -> list[Example]:
    return make_examples(base)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value for file in sorted(folder.glob("*.safetensors"))
            for name, value in load_file(file).items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def other_checkpoint(kind: str) -> Checkpoint:
    tokenizer = make_tokenizer()
    if kind == "gpt2":
        model: Any = GPT2LMHeadModel(GPT2Config(
            vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4, n_positions=512,
            bos_token_id=None, eos_token_id=2, attn_pdrop=0, embd_pdrop=0, resid_pdrop=0,
            initializer_range=0.2))
    else:
        model = Qwen3ForCausalLM(Qwen3Config(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, head_dim=8, tie_word_embeddings=True,
            max_position_embeddings=512, bos_token_id=None, eos_token_id=2, initializer_range=0.2))
    return Checkpoint(model.eval(), tokenizer, {"model": {"name": kind, "sha256": "1"}})


# ------------------------------------------------------------------------------ results


@pytest.mark.parametrize("kind", ["gpt2", pytest.param("qwen3", marks=pytest.mark.long)])
@pytest.mark.parametrize("settings", [
    recipe(targets=("all-linear",), batch=8, epochs=6.0, learning_rate=1e-2),
    recipe(lora_rank=0, dtype="bfloat16", batch=8, epochs=6.0, gradient_checkpointing=True),
    recipe(targets=("all-linear",), dtype="bfloat16", batch=4, epochs=6.0, lora_dropout=0.1,
           gradient_checkpointing=True, accumulation=2, learning_rate=1e-2),
], ids=["lora", "full-bfloat16", "lora-bfloat16"])
def test_other_architectures_learn_in_every_mode(
    tmp_path: Path, kind: str, settings: Recipe
) -> None:
    other = other_checkpoint(kind)
    before = {name: value.clone() for name, value in other.model.state_dict().items()}
    done = finetune(other, make_examples(other), settings, tmp_path / "out")
    assert done.history["loss"].iloc[-1] < 0.8 * done.history["loss"].iloc[0]
    assert same(before, dict(other.model.state_dict()))
    assert all(weight.requires_grad for weight in other.model.parameters())


def test_the_folder_holds_an_adapter_and_says_where_it_comes_from(
    base: Checkpoint, examples: list[Example], tmp_path: Path, capfd: pytest.CaptureFixture[str],
) -> None:
    done = finetune(base, examples, recipe(epochs=2.0), tmp_path / "out", held_out=examples[:6],
                    eval_steps=4, save_steps=5, title="tiny", provenance={"corpus": "abc"})
    assert capfd.readouterr() == ("", "")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert sorted(path.name for path in done.folder.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja",
        "tokenizer.json", "tokenizer_config.json", "training.json"]
    for file in done.folder.iterdir():
        assert str(tmp_path).encode() not in file.read_bytes()

    assert (done.steps, done.tokens) == (12, 2 * sum(len(e["input_ids"]) for e in examples))
    assert list(done.history.columns) == ["step", "loss", "eval_loss", "eval_accuracy"]
    evaluated = done.history.dropna(subset=["eval_loss"])
    assert evaluated["step"].tolist() == [4, 8, 12]
    assert evaluated["eval_accuracy"].between(0, 1).all()
    assert evaluated["eval_loss"].iloc[-1] < evaluated["eval_loss"].iloc[0]

    stored = json.loads((done.folder / "training.json").read_text())
    assert stored["recipe"]["batch"] == 4 and stored["base"] == base.identity
    assert stored["examples"]["labels"] == {"misbehavior": 12, "benign": 12, "no verdict": 0}
    assert len(stored["examples"]["sha256"]) == 64 and stored["provenance"] == {"corpus": "abc"}
    assert set(stored["versions"]) == {"torch", "transformers", "tokenizers", "peft", "trl",
                                       "accelerate"}
    assert (stored["device"], stored["processes"], stored["steps"]) == ("cpu", 1, 12)
    assert stored["seconds"] == pytest.approx(done.seconds, abs=1e-3)
    assert len(stored["history"]) == len(done.history)


def test_lines_say_how_far_it_is_where_no_bar_shows(
    base: Checkpoint, examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    said: list[str] = []
    finetune(base, examples, recipe(max_steps=4), tmp_path / "out", title="tiny",
             report=said.append, save_steps=3)
    assert said[0] == "tiny: 4 steps of up to 4 samples, a checkpoint every 1"
    assert re.fullmatch(r"tiny: step 1 of 4 after \d+ s, about \d+ s left", said[1])
    assert re.fullmatch(r"tiny: step 4 of 4 after \d+ s", said[-1])

    monkeypatch.setattr("monitorlab.finetuning.train.PAUSE", 0.0)
    said.clear()
    finetune(base, examples, recipe(max_steps=4), tmp_path / "each", title="tiny",
             report=said.append)
    assert said[0].endswith("no checkpoint before the end") and len(said) == 5
    assert capfd.readouterr() == ("", "")
    assert [_minutes(t) for t in (0.4, 89, 90, 3599, 12_000)] == [
        "0 s", "89 s", "2 min", "1 h 0 min", "3 h 20 min"]


def test_random_states_outside_are_left_alone(
    base: Checkpoint, examples: list[Example], tmp_path: Path
) -> None:
    torch.manual_seed(11)
    expected = torch.rand(1)
    torch.manual_seed(11)
    finetune(base, examples, recipe(max_steps=1), tmp_path / "out")
    assert torch.equal(torch.rand(1), expected)


# ------------------------------------------------------------------------------ repetition


@pytest.mark.parametrize("rank", [4, 0])
def test_same_seed_same_weights(
    base: Checkpoint, examples: list[Example], tmp_path: Path, rank: int
) -> None:
    settings = recipe(lora_rank=rank, lora_dropout=0.1 if rank else 0.0)
    found = [weights(finetune(base, examples, settings, tmp_path / name).folder)
             for name in ("first", "second")]
    assert same(*found)
    other = finetune(base, examples, recipe(lora_rank=rank, seed=1), tmp_path / "third")
    assert not same(found[0], weights(other.folder))


@pytest.mark.parametrize("settings", [
    recipe(lora_dropout=0.1, epochs=2.0, accumulation=2, pair_weight=0.5, schedule="cosine"),
    recipe(lora_rank=0, epochs=2.0, learning_rate=1e-2),
], ids=["lora", "all weights"])
def test_an_interrupted_training_ends_with_the_same_weights(
    base: Checkpoint, examples: list[Example], tmp_path: Path, settings: Recipe,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options: dict[str, Any] = {"held_out": examples[:4], "eval_steps": 2, "save_steps": 3}
    whole = finetune(base, examples, settings, tmp_path / "whole", **options)
    calls = 0
    step = _VerdictTrainer.training_step

    def interrupted(self: Any, *given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == settings.accumulation * 4 + 1:
            raise KeyboardInterrupt
        return step(self, *given)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(_VerdictTrainer, "training_step", interrupted)
        finetune(base, examples, settings, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
    work = Workplace(tmp_path / "out")
    partial = work.folder
    assert work.last_checkpoint(1) == partial / "checkpoint-4"
    half = shutil.copytree(partial / "checkpoint-4", partial / "checkpoint-5")
    (half / "trainer_state.json").write_text("{")  # killed while it was written
    assert work.last_checkpoint(1) == partial / "checkpoint-4"

    seen: list[Any] = []
    collate = _Collator.__call__
    monkeypatch.setattr(_Collator, "__call__",
                        lambda self, rows: (seen.append(rows), collate(self, rows))[1])
    resumed = finetune(base, examples, settings, tmp_path / "out", **options)
    assert same(weights(whole.folder), weights(resumed.folder))
    assert resumed.history.equals(whole.history)
    assert (resumed.steps, resumed.tokens, resumed.train_loss) == (
        whole.steps, whole.tokens, whole.train_loss)
    assert not partial.exists()


def test_a_partial_of_other_inputs_is_discarded(
    base: Checkpoint, examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train, "_write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        finetune(base, examples, recipe(), tmp_path / "out", save_steps=2)
    assert Workplace(tmp_path / "out").last_checkpoint(1) is not None
    other = recipe(learning_rate=1e-3)
    found = finetune(base, examples, other, tmp_path / "out")
    fresh = finetune(base, examples, other, tmp_path / "fresh")
    assert same(weights(found.folder), weights(fresh.folder))


def test_a_second_training_in_one_folder_is_refused(
    base: Checkpoint, examples: list[Example], tmp_path: Path
) -> None:
    work = Workplace(tmp_path / "out")
    partial = work.folder
    with work.held("other"):
        (partial / "checkpoint-2").mkdir()
        with pytest.raises(MonitorError, match=r"another process trains in .*give another folder"):
            finetune(base, examples, recipe(), tmp_path / "out")
        assert (partial / "checkpoint-2").is_dir()
    assert finetune(base, examples, recipe(max_steps=1), tmp_path / "out").steps == 1


def test_a_finished_folder_is_returned_and_another_one_is_left_alone(
    base: Checkpoint, examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = finetune(base, examples, recipe(), tmp_path / "out")
    monkeypatch.setattr(_VerdictTrainer, "train", lambda *_, **__: pytest.fail("trained again"))
    again = finetune(base, examples, recipe(), tmp_path / "out")
    assert again.history.equals(first.history) and again.steps == first.steps
    content = {path: path.read_bytes() for path in first.folder.iterdir()}
    with pytest.raises(MonitorError, match="result of a training with other inputs"):
        finetune(base, examples, recipe(seed=1), tmp_path / "out")
    with pytest.raises(LeakError):
        finetune(base, examples, recipe(), tmp_path / "out", forbidden_scenarios={"scenario 0"})
    assert content == {path: path.read_bytes() for path in first.folder.iterdir()}
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    with pytest.raises(MonitorError, match="holds something else, and is left as it is"):
        finetune(base, examples, recipe(), tmp_path / "notes")


def test_the_result_of_other_versions_of_the_code_is_not_taken_for_this_one(
    base: Checkpoint, examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finetune(base, examples, recipe(max_steps=1), tmp_path / "out")
    monkeypatch.setattr("monitorlab.finetuning.train.made_by", lambda: {"code": "changed"})
    with pytest.raises(MonitorError, match="by other versions of the code"):
        finetune(base, examples, recipe(max_steps=1), tmp_path / "out")


def test_an_empty_folder_is_filled(
    base: Checkpoint, examples: list[Example], tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    assert (finetune(base, examples, recipe(max_steps=1), tmp_path / "out").folder
            / "training.json").is_file()


# ------------------------------------------------------------------------------ refusals


def test_a_planted_forbidden_scenario_stops_the_training_before_its_step(
    base: Checkpoint, examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = recipe(batch=2, accumulation=2)
    order = [i for batch in settings.plan(examples) for i in batch]
    planted = [dict(example, scenario="ok") for example in examples]
    planted[order[9]]["scenario"] = "kept for testing"  # in the third step
    steps = 0
    step = _VerdictTrainer.training_step

    def counted(self: Any, *given: Any) -> Any:
        nonlocal steps
        steps += 1
        return step(self, *given)

    monkeypatch.setattr(_VerdictTrainer, "training_step", counted)
    with pytest.raises(LeakError, match=r"'kept for testing'.*leave that scenario out"):
        finetune(base, planted, settings, tmp_path / "out",
                 forbidden_scenarios={"kept for testing"})
    assert steps <= 4  # those of two optimizer steps
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": recipe(max_tokens=10)}, r"longest example has \d+ tokens, more than max_tok"),
        ({"recipe": recipe(targets=("qkv",))}, r"'qkv' is not there.*q_proj.*all-linear"),
        ({"recipe": recipe(targets=("q_proj", "typo"))}, r"the target 'typo' is not there"),
        ({"recipe": recipe(targets=("lm_head",))}, r"the target 'lm_head' is the output layer"),
        ({"recipe": recipe(targets=("q_proj", "lm_head"))}, r"'lm_head' is the output layer"),
        ({"recipe": recipe(targets=("self_attn",))}, r"'self_attn' is no layer that an adapter"),
        ({"recipe": recipe(targets=("norm",))}, r"'norm' is no layer that an adapter fits"),
        ({"examples": []}, "no examples to learn from"),
        ({"provenance": {"when": object()}}, "provenance is not JSON"),
        ({"recipe": recipe(pair_weight=1.0), "pairs": False}, "no two examples of both labels"),
        ({"token": 10_000}, "token 10000, the model knows"),
        ({"identity": {"quantization": "nf4"}}, "load it without quantization"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    base: Checkpoint, examples: list[Example], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    given = [dict(example) for example in change.get("examples", examples)]
    if not change.get("pairs", True):
        given = [dict(example, pair=-1) for example in given]
    if "token" in change:
        given[0]["input_ids"] = [change["token"], *given[0]["input_ids"][1:]]
    base = Checkpoint(base.model, base.tokenizer, {**base.identity, **change.get("identity", {})})
    with pytest.raises(MonitorError, match=message):
        finetune(base, given, change.get("recipe", recipe()), tmp_path / "out",
                 provenance=change.get("provenance"))
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_without_padding_is_refused(
    examples: list[Example], tmp_path: Path
) -> None:
    other = make_base()
    other.tokenizer.pad_token = None
    with pytest.raises(MonitorError, match="no padding token: set tokenizer.pad_token"):
        finetune(other, examples, recipe(), tmp_path / "out")


def test_a_folder_that_cannot_be_written_is_named(
    base: Checkpoint, examples: list[Example], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in place of the parent folder")
    with pytest.raises(MonitorError, match=r"cannot write to .*give a folder that may be written"):
        finetune(base, examples, recipe(), tmp_path / "file" / "out")
    assert (tmp_path / "file").read_text() == "in place of the parent folder"


@pytest.mark.parametrize(("where", "error"), [
    ("result", OSError(errno.ENOSPC, "No space left on device")),
    ("checkpoint", RuntimeError("PytorchStreamWriter failed writing file data/0: file write")),
    ("checkpoint", OSError(errno.EDQUOT, "Disk quota exceeded")),
])
def test_a_full_disk_leaves_what_was_there_and_the_training_goes_on_later(
    base: Checkpoint, examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    where: str, error: Exception,
) -> None:
    finetune(base, examples, recipe(max_steps=1), tmp_path / "earlier")
    content = {path: path.read_bytes() for path in (tmp_path / "earlier").iterdir()}

    def full(*_: Any, **__: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        if where == "checkpoint":
            patch.setattr(_VerdictTrainer, "_save_rng_state", full)
        else:
            patch.setattr(train, "sealed_json", full)
        with pytest.raises(MonitorError, match=r"disk is full: 'out' was not written.*Free some"):
            finetune(base, examples, recipe(), tmp_path / "out", save_steps=2)
    assert not (tmp_path / "out").exists()
    assert content == {path: path.read_bytes() for path in (tmp_path / "earlier").iterdir()}
    assert finetune(base, examples, recipe(), tmp_path / "out", save_steps=2).steps == 6


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
])
def test_out_of_memory_names_the_settings_and_their_next_values(
    examples: list[Example], tmp_path: Path, error: Exception
) -> None:
    other = make_base()

    def forward(*_: Any, **__: Any) -> None:
        raise error

    other.model.model.forward = forward
    with pytest.raises(MonitorError, match="does not fit into memory") as caught:
        finetune(other, examples, recipe(batch=16, accumulation=4), tmp_path / "out")
    longest = max(len(example["input_ids"]) for example in examples)
    for proposal in ("batch 16 -> 8 with accumulation 4 -> 8", "gradient_checkpointing=True",
                     f"max_tokens 32768 -> {longest // 2}", 'dtype="bfloat16"'):
        assert proposal in str(caught.value)
    assert "lora_rank" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_memory_advice_names_only_what_helps() -> None:
    tight = Recipe(batch=1, lora_rank=0)
    text = _out_of_memory(tight, 30_000)
    assert "batch" not in text and "gradient_checkpointing" not in text
    assert "lora_rank 0 -> 16" in text and "max_tokens 32768 -> 15000" in text
    assert "batch 3 -> 1 with accumulation 4 -> 12" in _out_of_memory(Recipe(batch=3), 10)
    assert "batch" not in _out_of_memory(Recipe(batch=2, pair_weight=1.0), 10)
    assert PAPER.gradient_checkpointing


def test_other_errors_are_not_explained_away(
    examples: list[Example], tmp_path: Path
) -> None:
    other = make_base()
    other.model.model.forward = lambda **_: (_ for _ in ()).throw(RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        finetune(other, examples, recipe(), tmp_path / "out")


def test_a_loss_that_is_not_finite_stops_the_training(
    base: Checkpoint, examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RANGES, "learning_rate", (0, 1e30))
    with pytest.raises(MonitorError, match=r"the loss is \w+ at step \d+: lower learning_rate"):
        finetune(base, examples, recipe(lora_rank=0, learning_rate=1e30, epochs=3.0),
                 tmp_path / "out")
