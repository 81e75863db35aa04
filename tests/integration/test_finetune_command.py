"""`python -m monitorlab finetune` as people use it: trained, killed, resumed, misused."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertLMHeadModel, LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from monitorlab.cli import app
from monitorlab.commands import finetune as command
from monitorlab.finetuning.saved import Workplace
from monitorlab.models import smollm2
from monitorlab.models.loading import Checkpoint
from monitorlab.models.tiny import build_tokenizer
from monitorlab.monitors.monitor import Sample
from monitorlab.monitors.prompts import load_prompt

pytestmark = pytest.mark.usefixtures("one_thread")
COMPONENTS = ("spv_code", "syco_qa")
CAUSAL = ("-o", "batch=8", "-o", "accumulation=1", "-o", "max_tokens=2048", "-o", "lora_rank=4",
          "--dtype", "float32", "--device", "cpu")
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"}


def rows(count: int = 40) -> pd.DataFrame:
    """Pairs; the misbehaving side says a word of its own."""
    random = np.random.default_rng(0)
    return pd.DataFrame([
        {"sample_id": f"{number}-{label}", "request": f"count to {number}", "label": label,
         "response": " ".join([*map(str, random.integers(0, 9, 4)), "xy"[label] * 3]),
         "pair_id": f"p{number}", "scenario_id": f"s{number // 2}",
         "component": COMPONENTS[number % 2]}
        for number in range(count) for label in (0, 1)])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random `causal` model and a random `encoder`."""
    place, samples = tmp_path_factory.mktemp("models"), rows()
    messages = load_prompt("direct").messages(Sample.rows(samples)[0])
    texts = [message["content"] for message in messages] * 9 + list(samples["response"])
    tokenizer = build_tokenizer(texts, 700)
    torch.manual_seed(0)
    size = {"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 32,
            "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 2048}
    LlamaForCausalLM(LlamaConfig(**size)).save_pretrained(place / "causal")
    BertLMHeadModel(BertConfig(**size)).save_pretrained(place / "encoder")
    for name in ("causal", "encoder"):
        tokenizer.save_pretrained(place / name)
    return place


@pytest.fixture
def folder(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with models, a corpus and samples that are tested."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MONITORLAB_ROOT", str(tmp_path / "project"))
    (tmp_path / "project").mkdir()
    for name in ("causal", "encoder"):
        (tmp_path / name).symlink_to(models / name)
    rows().to_csv("corpus.csv", index=False)
    rows().assign(scenario_id="tested").to_csv("tested.csv", index=False)
    return tmp_path


def call(*arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of one command."""
    result = CliRunner().invoke(app, list(arguments))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def finetune(base: str, *options: str, out: str = "out") -> tuple[int, str, str]:
    return call("finetune", base, "--corpus", "corpus.csv", "--out", out, *options)


def use(out: str) -> tuple[int, str, str]:
    """Run the command that the last line names."""
    words = shlex.split(out.splitlines()[-1].removeprefix("Use it: python -m monitorlab "))
    return call(*[word if word != "FILE" else "tested.csv" for word in words])


def test_rows_that_contradict_or_repeat_each_other_are_reported(folder: Path) -> None:
    """Before the training, which an unknown layer ends here."""
    corpus = rows(6)
    turned = corpus.assign(label=1 - corpus["label"], sample_id="t" + corpus["sample_id"])
    again = corpus[:4].assign(sample_id="a" + corpus["sample_id"])
    pd.concat([corpus, turned, again]).to_csv("corpus.csv", index=False)
    code, out, err = finetune("causal", *CAUSAL, "-o", "targets=lm_head")
    assert ("corpus.csv: 12 of 28 rows have the request and response of an earlier row and another "
            "label, so one of them is wrong: line 14 (line 2), line 15 (line 3), ") in out
    assert "corpus.csv: 4 of 28 rows repeat the request and response of an earlier row" in out
    assert code == 2 and err.startswith("error: no adapter fits the model: the target 'lm_head' is")
    assert len(err) < 400 and not Path("out").exists()


def test_a_corpus_whose_labels_have_another_name_is_refused_with_a_hint(folder: Path) -> None:
    rows(6).rename(columns={"label": "is_unsafe"}).to_csv("corpus.csv", index=False)
    code, out, err = finetune("causal", *CAUSAL)
    assert code == 2 and "there is no column 'label', expected 1 (misbehavior)" in err
    assert "'is_unsafe' looks like one: call it label" in out


def test_an_adapter_is_trained_merged_and_used(folder: Path) -> None:
    code, out, err = finetune("causal", *CAUSAL, "-o", "max_steps=2", "--held-out", "0.2",
                              "--forbid", "tested.csv")
    assert (code, err) == (0, "")
    assert "training on 64 rows: 32 misbehavior, 32 benign, of corpus.csv" in out
    assert "  spv_code  32 rows: 16 misbehavior, 16 benign" in out
    assert "held out: 16 rows: 8 misbehavior, 8 benign" in out
    assert "\nout: 2 steps, " in out and " tokens/s, loss " in out and " of 16\n" in out
    assert out.splitlines()[-1] == ("Use it: python -m monitorlab score --monitor hf:causal "
                                    "--adapter out --samples FILE")
    record = json.loads((folder / "out" / "training.json").read_text())
    assert record["recipe"]["lora_rank"] == 4 and record["recipe"]["max_steps"] == 2
    assert record["provenance"]["corpus"]["file"] == "corpus.csv"
    assert record["provenance"]["forbid"]["file"] == "tested.csv"
    assert str(folder) not in json.dumps(record)
    code, said, _ = use(out)
    assert code == 0 and "80 verdicts: 80 parsed" in said
    code, _, err = call("score", "--monitor", "hf:out", "--samples", "tested.csv")
    assert code == 2 and "--monitor hf:BASE --adapter out" in err


def test_the_installed_model_is_a_base_by_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here a random model stands for it, which learns in seconds."""
    loaded: list[str] = []

    def small(**options: str) -> Checkpoint:
        loaded.append(options["dtype"])
        return Checkpoint.load("causal", **options)

    monkeypatch.setattr(smollm2, "load_smollm2", small)
    code, out, err = finetune("smollm2", *CAUSAL, "-o", "max_steps=1")
    assert (code, err, loaded) == (0, "", ["float32"])
    assert out.splitlines()[-1] == ("Use it: python -m monitorlab score --monitor smollm2 "
                                    "--adapter out --samples FILE")


def test_with_merge_the_result_is_one_checkpoint(folder: Path) -> None:
    code, out, _ = finetune("causal", *CAUSAL, "-o", "max_steps=1", "--merge", "whole",
                            "--prompt", "evidence", "--samples", "20", "--components", "syco_qa")
    assert code == 0
    assert "training on 20 rows: 10 misbehavior, 10 benign" in out and "spv_code" not in out
    assert out.splitlines()[-1] == ("Use it: python -m monitorlab score --monitor hf:whole "
                                    "--prompt evidence --samples FILE")
    assert use(out)[0] == 0


@pytest.mark.parametrize(("base", "options", "status", "words"), [
    ("causal", ["-o", "lora_rnk=8"], 2, "the option lora_rnk means nothing to a recipe. Is it "
     "lora_rank? There are: lora_rank, lora_alpha"),
    ("causal", ["-o", "batch=many"], 2, "batch is 'many', expected a whole number"),
    ("causal", ["-o", "batch"], 2, "expected NAME=VALUE"),
    ("causal", ["-o", "dtype=bfloat16", "--dtype", "float32"], 2, "dtype is given twice"),
    ("causal", ["-o", "batch=0"], 2, "batch 0: expected at least 1"),
    ("causal", ["--merge", "causal"], 2, "causal exists and is left as it is"),
    ("causal", ["--merge", "x", "-o", "lora_rank=0"], 2, "ordinary checkpoint already"),
    ("causal", ["--components", "spv_cod"], 2, "no component 'spv_cod'; it has spv_code (40 rows)"),
    ("causal", ["--held-out", "1.5"], 2, "expected a share between 0 and 1"),
    ("causal", ["--held-out", "0.01"], 2, "0 of 20 scenarios would be held out"),
    ("causal", ["--held-out", "nowhere.csv"], 2, "nowhere.csv does not exist"),
    ("causal", ["--samples", "1"], 2, "the first pair drawn has 2 rows"),
    ("causal", ["--forbid", "corpus.csv"], 2, "80 rows to train on are of 20 scenarios that "
     "corpus.csv tests, such as 's0'"),
    ("causal", ["--prompt", "no-such-prompt"], 2, "no-such-prompt"),
    ("causal", ["-o", "max_tokens=16"], 2, "have more than max_tokens=16"),
    ("someone/model", [], 2, "pin a revision"),
    ("encoder", [], 2, "'encoder' is an encoder (bert): give a causal"),
    ("project", [], 2, "cannot load the base 'project'"),
    ("causal", ["--save-steps", "-1"], 2, "--save-steps -1: expected at least 0"),
])
def test_a_wrong_command_gets_one_message_and_an_exit_code(
    folder: Path, base: str, options: list[str], status: int, words: str
) -> None:
    code, _, err = finetune(base, *options)
    assert (code, err.count("error: ")) == (status, 1)
    assert words in err and "Traceback" not in err
    assert not (folder / "out").exists()


@pytest.mark.parametrize(("change", "words"), [
    ({"label": None}, "there is no column 'label'"),
    ({"label": 1}, r"labels"),
    ({"request": None}, "there is no column 'request'"),
])
def test_a_corpus_that_cannot_be_used(
    folder: Path, change: dict[str, object], words: str
) -> None:
    frame = rows()
    for name, value in change.items():
        frame = frame.drop(columns=name) if value is None else frame.assign(**{name: value})
    frame.to_csv("corpus.csv", index=False)
    code, _, err = finetune("causal", *CAUSAL)
    assert code == 2 and words in err


def test_a_bare_corpus_is_enough(folder: Path) -> None:
    rows()[["request", "response", "label"]].to_parquet("corpus.csv".replace("csv", "parquet"))
    code, out, _ = call("finetune", "causal", "--corpus", "corpus.parquet", "--out", "out",
                        *CAUSAL, "-o", "max_steps=1", "--held-out", "0.25")
    assert code == 0 and "training on 60 rows: 30 misbehavior, 30 benign" in out
    code, _, err = call("finetune", "causal", "--corpus", "corpus.parquet", "--out", "other",
                        *CAUSAL, "--forbid", "tested.csv")
    assert code == 2 and "corpus.parquet does not give a scenario_id for every row" in err


def test_an_output_folder_in_the_way_is_left_alone(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "mine.txt").write_text("kept")
    code, _, err = finetune("causal", *CAUSAL)
    assert code == 2 and "is left as it is" in err
    assert [path.name for path in (folder / "out").iterdir()] == ["mine.txt"]


@pytest.mark.long
def test_killed_it_goes_on_says_so_and_ends_with_the_same_adapter(folder: Path) -> None:
    options = [*CAUSAL, "-o", "max_steps=20", "--save-steps", "2", "-o", "lora_dropout=0.1"]
    words = [sys.executable, "-m", "monitorlab", "finetune", "causal", "--corpus", "corpus.csv",
             "--out", "out", *options]
    process = subprocess.Popen(words, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    work, deadline = Workplace(folder / "out"), time.monotonic() + 60
    while work.last_checkpoint(processes=1) is None:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    assert not (folder / "out").exists()
    code, out, err = finetune("causal", *options)
    assert (code, err) == (0, "")
    assert "with the same inputs it goes on after step " in out and "\nout: 20 steps, " in out
    assert (folder / "out" / "training.json").is_file() and not work.folder.exists()
    assert finetune("causal", *options, out="whole")[0] == 0
    whole, resumed = (load_file(folder / name / "adapter_model.safetensors")
                      for name in ("whole", "out"))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(resumed[name], weight) for name, weight in whole.items())


@pytest.mark.long
@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_the_command_lines_of_the_page_on_scale_train_in_two_processes(
    folder: Path, launcher: str
) -> None:
    page = (Path(__file__).parents[2] / "lib" / "SCALE.md").read_text(encoding="utf-8")
    line, = re.findall(rf"^{launcher} .*$", page, re.MULTILINE)
    names = {"BASE": "causal", "CORPUS": "corpus.csv", "OUT": "out"}
    words = [names.get(word, word) for word in line.split()]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run([*words, *CAUSAL, "-o", "max_steps=2"], env=ENVIRONMENT | {"PATH": path},
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("out: 2 steps, ") == 1  # the first process speaks
    record = json.loads((folder / "out" / "training.json").read_text())
    assert (record["processes"], record["steps"]) == (2, 2)


def test_the_other_processes_leave_the_word_to_the_first(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[int] = []
    monkeypatch.setattr(command.time, "sleep", waited.append)
    for rank, seconds in (("0", []), ("1", [command.PATIENCE])):
        monkeypatch.setenv("RANK", rank)
        assert finetune("causal", "-o", "bach=2")[0] == 2
        assert waited == seconds
    code, out, _ = finetune("causal", *CAUSAL, "-o", "max_steps=1")
    assert (code, out) == (0, "")
