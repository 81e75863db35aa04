"""Time the scoring engine against a plain loop and against plain batches, on the same samples.

    .venv/bin/python tests/benchmarks/benchmark_scoring.py [--out FILE.json]
    .venv/bin/python tests/benchmarks/benchmark_scoring.py --device cuda --model qwen3-4b-config
    .venv/bin/python tests/benchmarks/benchmark_scoring.py --real smollm2

The last one asks a monitor with trained weights about real samples, in float32 and in bfloat16:
half of a unit by the loop, all of it by the engine, the other half by the loop; and how far each
is from the loop in float32.

A prompt has about 300 tokens that all share and about 220 of its own; the two of a pair share
about 100 of these. Lengths vary as in the benchmark. The model is randomly initialised: time does
not depend on what it learned.

* loop: one prompt at a time, logits of the last position only;
* naive: batches of 16 as the samples come, padded on the left, logits of all positions;
* engine: `LogitMonitor.judge` over `LogitMonitor.units`, rendering and tokenisation included (loop
  and naive get theirs for free).

All in one process with the same number of threads, repetitions interleaved, medians reported. On a
machine that others use too the ratios say more than the times.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from monitorlab.benchmark.written import load_benchmark
from monitorlab.models.batching import pad
from monitorlab.models.loading import Checkpoint
from monitorlab.monitors.build import build_monitor
from monitorlab.monitors.causal import LogitMonitor
from monitorlab.monitors.monitor import MonitorError, Sample, samples_of
from monitorlab.monitors.prompts import load_prompt
from monitorlab.monitors.scoring import score
from monitorlab.monitors.store import VerdictStore

SEED = 2026
BATCH = 16
# Words on average, and the spread of the logarithm of the length: that of the benchmark's samples.
LENGTHS = {"request": (95, 0.25), "response": (86, 0.44)}
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def words(count: int) -> list[str]:
    """Made-up words, the frequent ones short."""
    rng = np.random.default_rng(SEED)
    parts = [c + v for c in "bdfgklmnprst" for v in "aeiou"]
    return ["".join(rng.choice(parts, size=1 + i % 3)) for i in range(count)]


def make_samples(pairs: int) -> list[Sample]:
    """Pairs with a common request; deterministic."""
    rng, known = np.random.default_rng(SEED + 1), words(1500)

    def draw(kind: str) -> str:
        mean, spread = LENGTHS[kind]
        length = round(rng.lognormal(np.log(mean) - spread**2 / 2, spread))
        return " ".join(rng.choice(known, size=length))

    samples = []
    for pair in range(pairs):
        request = draw("request")
        samples += [Sample(f"{pair:04}{member}", request, draw("response")) for member in "ab"]
    return [samples[i] for i in rng.permutation(len(samples))]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on the prompt and the made-up words."""
    prompt = load_prompt("direct")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=2150, special_tokens=special, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    texts = [prompt.system, prompt.user, " true false", *([" ".join(words(1500))] * 3)]
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|im_end|>"
    )
    fast.chat_template = CHAT
    return fast


def make_model(name: str, vocabulary: int, device: str) -> PreTrainedModel:
    """Randomly initialised model: small on any device, or Qwen3-4B at its true size."""
    torch.manual_seed(SEED)
    if name == "small":
        config = LlamaConfig(
            vocab_size=vocabulary, hidden_size=256, intermediate_size=512, num_hidden_layers=6,
            num_attention_heads=8, max_position_embeddings=4096, tie_word_embeddings=True,
            initializer_range=256**-0.5,
        )
        return LlamaForCausalLM(config).to(device).eval()
    big = Qwen3Config(
        vocab_size=151_936, hidden_size=2560, intermediate_size=9728, num_hidden_layers=36,
        num_attention_heads=32, num_key_value_heads=8, head_dim=128, tie_word_embeddings=True,
        max_position_embeddings=40_960, dtype=torch.bfloat16,
    )
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            return Qwen3ForCausalLM(big).eval()
    finally:
        torch.set_default_dtype(torch.float32)


def last_scores(logits: torch.Tensor, yes: list[int], no: list[int]) -> np.ndarray:
    """P(yes) / (P(yes) + P(no)) from the logits after each prompt."""
    logs = logits.float().log_softmax(-1)
    return (logs[:, yes].logsumexp(-1) - logs[:, no].logsumexp(-1)).sigmoid().cpu().numpy()


@torch.inference_mode()
def loop(model: PreTrainedModel, rows: list[list[int]], yes: list[int], no: list[int],
         fill: int) -> np.ndarray:
    """One prompt at a time."""
    found = []
    for row in rows:
        ids = torch.tensor([row], device=model.device)
        output = model(ids, use_cache=False, logits_to_keep=1)
        found.append(last_scores(output.logits[:, -1], yes, no))
    return np.concatenate(found)


@torch.inference_mode()
def naive(model: PreTrainedModel, rows: list[list[int]], yes: list[int], no: list[int],
          fill: int) -> np.ndarray:
    """Batches as the samples come, padded on the left, with all logits."""
    found = []
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        ids = pad(part, fill, left=True).to(model.device)
        mask = pad([[1] * len(row) for row in part], 0, left=True).to(model.device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        output = model(ids, attention_mask=mask, position_ids=positions)
        found.append(last_scores(output.logits[:, -1], yes, no))
    return np.concatenate(found)


def engine(monitor: LogitMonitor, samples: list[Sample]) -> np.ndarray:
    """Unit by unit, as scoring does."""
    found = np.empty(len(samples))
    for unit in monitor.units(samples):
        verdicts = monitor.judge([samples[i] for i in unit], 0)
        found[unit] = [verdict.score for verdict in verdicts]
    return found


@contextmanager
def clocked(model: PreTrainedModel) -> Iterator[list[float]]:
    """Collect the seconds of every call of the model."""
    spent: list[float] = []
    begun: list[float] = []

    def wait() -> float:
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def begin(*_: Any) -> None:
        begun.append(wait())

    def end(*_: Any) -> None:
        spent.append(wait() - begun.pop())

    handles = [model.register_forward_pre_hook(begin), model.register_forward_hook(end)]
    try:
        yield spent
    finally:
        for handle in handles:
            handle.remove()


def seconds(work: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    """Wall time and result."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    result = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def outside_model(monitor: LogitMonitor, samples: list[Sample]) -> float:
    """Milliseconds per verdict that `score` with a store spends outside the model; median of 3."""
    found = []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as folder, clocked(monitor.engine.model) as inside:
            store = VerdictStore(Path(folder) / "verdicts.jsonl")
            total, _result = seconds(lambda store=store: score(monitor, samples, store))
        found.append(1000 * (total - sum(inside)) / len(samples))
    return float(np.median(found))


def distinct_tokens(rows: list[list[int]]) -> int:
    """Tokens left if nothing that begins alike is computed twice: nodes of the tree of all."""
    count, before = 0, list[int]()
    for row in sorted(rows):
        shared = next((i for i, (a, b) in enumerate(zip(before, row, strict=False)) if a != b),
                      min(len(before), len(row)))
        count += len(row) - shared
        before = row
    return count


def real_samples(count: int) -> list[Sample]:
    """Samples of whole pairs of the benchmark's test split; always the same ones."""
    frame = load_benchmark("test").reset_index(drop=True)
    pairs = frame["pair_id"].drop_duplicates().sample(count // 2, random_state=SEED)
    return samples_of(frame[frame["pair_id"].isin(set(pairs))])


def by_turns(
    monitor: LogitMonitor, samples: list[Sample]
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Seconds and scores of loop and engine, unit by unit; the trial of the paths comes before."""
    model, (yes, no) = monitor.engine.model, monitor.words
    assert all(len(word) == 1 for word in yes + no), "the loop reads one token"
    first, second = ([word[0] for word in part] for part in (yes, no))
    begun = time.perf_counter()
    engine(monitor, samples[:1])
    spent = {"trial": time.perf_counter() - begun, "loop": 0.0, "engine": 0.0}
    monitor.engine.tokens.clear()
    scores = {way: np.full(len(samples), np.nan) for way in ("loop", "engine")}
    done = 0
    for unit in monitor.units(samples):
        chosen = [samples[i] for i in unit]
        rows, half = monitor.prompts(chosen), len(unit) // 2
        before, early = seconds(lambda rows=rows[:half]: loop(model, rows, first, second, 0))
        took, scores["engine"][unit] = seconds(lambda chosen=chosen: engine(monitor, chosen))
        after, late = seconds(lambda rows=rows[half:]: loop(model, rows, first, second, 0))
        spent["engine"] += took
        spent["loop"] += before + after
        scores["loop"][unit] = np.concatenate([early, late])
        done += len(unit)
        print(f"  {done} samples: loop {spent['loop']:.1f} s, engine {spent['engine']:.1f} s, "
              f"ratio {spent['loop'] / spent['engine']:.2f}", flush=True)
    return spent, scores


def against(found: np.ndarray, exact: np.ndarray) -> str:
    """How far scores, and verdicts at 0.5, are from those of the loop in float32."""
    other = int(((found > 0.5) != (exact > 0.5)).sum())
    return (f"scores differ by {np.sqrt(np.mean((found - exact) ** 2)):.1e} (root mean square), at "
            f"most {np.abs(found - exact).max():.1e}; {other} of {len(found)} verdicts")


def real(spec: str, count: int) -> None:
    """Time a monitor on real samples in both precisions; say so if there is none."""
    samples, exact = real_samples(count), None
    for dtype in ("float32", "bfloat16"):
        try:
            monitor = build_monitor(spec, {"read": "logits", "dtype": dtype})
        except MonitorError as error:
            print(f"{spec} is not measured: {error}")
            return
        assert isinstance(monitor, LogitMonitor)
        print(f"{spec}, {dtype}, {torch.get_num_threads()} threads, {len(samples)} samples")
        spent, scores = by_turns(monitor, samples)
        exact = scores["loop"] if exact is None else exact
        tokens = monitor.engine.tokens
        print(f"  path {monitor.engine.path!r}, chosen in {spent['trial']:.1f} s; "
              f"{tokens['given']:,} tokens given, {tokens['computed']:,} computed; the engine is "
              f"faster by {spent['loop'] / spent['engine']:.2f}")
        for way, found in scores.items():
            print(f"  {way} against the loop in float32: {against(found, exact)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", default="small", choices=["small", "qwen3-4b-config"])
    parser.add_argument("--pairs", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="for all methods alike")
    parser.add_argument("--batch-tokens", type=int, default=0, help="0: the engine's default")
    parser.add_argument("--peak", type=float, default=989e12, help="FLOP/s of the device, dense")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--real", default="", help="a monitor by name, on real samples instead")
    parser.add_argument("--samples", type=int, default=240, help="real ones, in whole pairs")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    if asked.real:
        return real(asked.real, asked.samples)
    tokenizer, samples = make_tokenizer(), make_samples(asked.pairs)
    model = make_model(asked.model, len(tokenizer), asked.device)
    dtype = str(model.dtype).removeprefix("torch.")
    checkpoint = Checkpoint(model, tokenizer, {"model": {"name": asked.model}, "dtype": dtype})
    monitor = LogitMonitor(checkpoint, load_prompt("direct"), yes=(" true",), no=(" false",),
                           batch_tokens=asked.batch_tokens)
    rows, answers = monitor.prompts(samples), monitor.words
    yes, no = ([word[0] for word in part] for part in answers)
    assert all(len(word) == 1 for part in answers for word in part), "loop and naive read one token"
    ways: dict[str, Callable[[], np.ndarray]] = {
        "loop": lambda: loop(model, rows, yes, no, tokenizer.pad_token_id),
        "naive": lambda: naive(model, rows, yes, no, tokenizer.pad_token_id),
        "engine": lambda: engine(monitor, samples),
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    scores: dict[str, np.ndarray] = {}
    memory: dict[str, float] = {}
    for way, work in ways.items():  # warm up; the engine also checks its path here
        if model.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        scores[way] = work()
        if model.device.type == "cuda":
            memory[way] = torch.cuda.max_memory_allocated() / 2**30
    monitor.engine.tokens.clear()
    for _ in range(asked.rounds):
        for way, work in ways.items():
            times[way].append(seconds(work)[0])
    work_done = {key: value / asked.rounds for key, value in monitor.engine.tokens.items()}
    report(asked, monitor, rows, samples, times, scores, work_done, memory)


def report(
    asked: argparse.Namespace, monitor: LogitMonitor, rows: list[list[int]],
    samples: list[Sample], times: dict[str, list[float]], scores: dict[str, np.ndarray],
    work: dict[str, float], memory: dict[str, float],
) -> None:
    """Print the table, and write it if asked."""
    median = {way: float(np.median(spent)) for way, spent in times.items()}
    ratio = {
        way: float(np.median(np.divide(times[way], times["engine"]))) for way in ("loop", "naive")
    }
    total, distinct = sum(map(len, rows)), distinct_tokens(rows)
    model = monitor.engine.model
    parameters = sum(p.numel() for p in model.parameters())
    result: dict[str, Any] = {
        "model": asked.model, "parameters": parameters, "device": asked.device,
        "dtype": str(model.dtype), "threads": asked.threads, "samples": len(rows),
        "rounds": asked.rounds, "path": monitor.engine.path,
        "tokens": {"total": total, "per_sample": total / len(rows), "distinct": distinct,
                   "prefix": len(monitor.engine.prefix),
                   "prefix_saved": len(monitor.engine.prefix) * (len(rows) - 1)},
        "seconds": median,
        "items_per_second": {way: len(rows) / spent for way, spent in median.items()},
        "tokens_per_second": {way: total / spent for way, spent in median.items()},
        "ratio_to_engine": ratio, "limit_over_loop": total / distinct,
        "share_of_limit": ratio["loop"] * distinct / total,
        "computed_tokens": work["computed"], "padding_share": 1 - work["computed"] / work["padded"],
        "largest_difference": max(float(np.abs(scores[a] - scores[b]).max())
                                  for a in scores for b in scores),
        "milliseconds_outside_model": outside_model(monitor, samples),
    }
    if memory:
        computed = {"loop": total, "naive": total, "engine": work["computed"]}
        result["memory_gib"] = memory
        result["share_of_peak"] = {
            way: 2 * parameters * computed[way] / spent / asked.peak
            for way, spent in median.items()
        }
    print(f"{asked.model}, {parameters / 1e6:.2f}M parameters, {asked.device}, {model.dtype}, "
          f"{asked.threads} threads; {len(rows)} samples of {total / len(rows):.0f} tokens, "
          f"prefix {len(monitor.engine.prefix)}; path {monitor.engine.path!r}")
    print(f"{'':8}{'seconds':>9}{'items/s':>9}{'tokens/s':>10}{'engine is faster by':>21}")
    for way in times:
        faster = f"{ratio[way]:.2f}" if way in ratio else ""
        print(f"{way:8}{median[way]:9.2f}{len(rows) / median[way]:9.1f}"
              f"{total / median[way]:10.0f}{faster:>21}")
    for key in ("limit_over_loop", "share_of_limit", "padding_share", "largest_difference",
                "milliseconds_outside_model", "memory_gib", "share_of_peak"):
        if key in result:
            print(f"{key}: {result[key]}")
    if asked.out:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
