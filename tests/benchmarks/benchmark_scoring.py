"""The scoring engine against a plain loop and against plain batches, on the same samples.

A prompt has about 300 tokens that all share and about 220 of its own; the two of a pair share about
100 of these. Lengths vary as in the benchmark. The small model has random weights: time does not
depend on what it learned. The real one, where it is installed, reads samples of the benchmark.

* loop: one prompt at a time, logits of the last position only;
* naive: batches of 16 as the samples come, padded on the left, logits of all positions;
* engine: `LogitMonitor.judge` over `LogitMonitor.units`, rendering and tokenisation included (loop
  and naive get theirs for free).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from table import THREADS, Row, alone, clock, ms, race
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from monitorlab.benchmark.written import load_benchmark
from monitorlab.models.engine import pad
from monitorlab.models.loading import Checkpoint, fast_dtype
from monitorlab.monitors.build import build_monitor
from monitorlab.monitors.causal import LogitMonitor
from monitorlab.monitors.monitor import MonitorError, Sample
from monitorlab.monitors.prompts import load_prompt
from monitorlab.monitors.scoring import score
from monitorlab.monitors.store import VerdictStore
from monitorlab.storage.sources import project_root

SEED = 2026
RELEASED = project_root() / "data" / "released" / "smollm2.jsonl"
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


def make_model(vocabulary: int) -> PreTrainedModel:
    """Llama of 4.5 million random parameters."""
    torch.manual_seed(SEED)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=vocabulary, hidden_size=256, intermediate_size=512, num_hidden_layers=6,
        num_attention_heads=8, max_position_embeddings=4096, tie_word_embeddings=True,
        initializer_range=256**-0.5,
    )).eval()


def last_scores(logits: torch.Tensor, yes: list[int], no: list[int]) -> np.ndarray:
    """P(yes) / (P(yes) + P(no)) from the logits after each prompt."""
    logs = logits.float().log_softmax(-1)
    return (logs[:, yes].logsumexp(-1) - logs[:, no].logsumexp(-1)).sigmoid().cpu().numpy()


@torch.inference_mode()
def loop(model: PreTrainedModel, rows: list[list[int]], yes: list[int], no: list[int]
         ) -> np.ndarray:
    """One prompt at a time."""
    found = []
    for row in rows:
        ids = torch.tensor([row], device=model.device)
        output = model(ids, use_cache=False, logits_to_keep=1)
        found.append(last_scores(output.logits[:, -1], yes, no))
    return np.concatenate(found)


@torch.inference_mode()
def naive(model: PreTrainedModel, rows: list[list[int]], yes: list[int], no: list[int]
          ) -> np.ndarray:
    """Batches as the samples come, padded on the left, with all logits."""
    found = []
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        ids = pad(part, 0, left=True).to(model.device)
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
    return Sample.rows(frame[frame["pair_id"].isin(set(pairs))])


def inside_and_outside(monitor: LogitMonitor, samples: list[Sample]) -> tuple[float, float]:
    """Seconds that `score` with a store spends inside the model, and outside of it."""
    spent: list[float] = []
    begun: list[float] = []
    model = monitor.engine.model
    handles = [model.register_forward_pre_hook(lambda *_: begun.append(clock())),
               model.register_forward_hook(lambda *_: spent.append(clock() - begun.pop()))]
    with tempfile.TemporaryDirectory() as folder:
        store = VerdictStore(Path(folder) / "verdicts.jsonl")
        whole = race({"": lambda: score(monitor, samples, store)}, 1)[""]
    for handle in handles:
        handle.remove()
    return sum(spent), whole - sum(spent)


def compare(
    monitor: LogitMonitor, samples: list[Sample], rounds: int, name: str, required: dict[str, float]
) -> list[Row]:
    """A row for each other way, the scores compared first."""
    model, rows = monitor.engine.model, monitor.prompts(samples)
    yes, no = ([word[0] for word in part] for part in monitor.words)
    ways = {"loop": lambda: loop(model, rows, yes, no),
            "naive": lambda: naive(model, rows, yes, no)}
    scores = engine(monitor, samples)  # the engine tries its paths here
    found = race({"engine": lambda: engine(monitor, samples)}
                 | {way: ways[way] for way in required}, rounds)
    off = float(np.abs(scores - ways["loop"]()).max())
    if off > 1e-4:
        raise SystemExit(f"{name}: engine and loop differ by {off:.1e}, expected at most 1e-4")
    total = sum(map(len, rows))
    bound = total / distinct_tokens(rows)
    return [
        Row(f"scoring engine, {name}, {len(rows)} samples of {total / len(rows):.0f} tokens, "
            f"{THREADS} threads", ms(found["engine"]), f"{kind} {ms(found[way])}",
            found[way] / found["engine"], required[way],
            f"{bound:.2f}: tokens given over distinct ones"
            + ("" if way == "loop" else ", and padding") + f"; scores equal to {off:.0e}")
        for way, kind in (("loop", "plain loop"), ("naive", f"batches of {BATCH}"))
        if way in required
    ]


def half_precision(exact: LogitMonitor) -> Row:
    """Both ways in bfloat16, where the processor has it, and how far from float32 they are.

    Two correct computations differ there by rounding, so the measure is the error of the loop. The
    scores in float32 are the released ones, which `exact` would give.
    """
    samples = real_samples(240)
    released = dict(VerdictStore.read(RELEASED))
    truth = np.array([released[sample.key(exact.settings())].score
                      for sample in samples])
    monitor = build_monitor("smollm2", {"read": "logits", "dtype": "bfloat16"})
    assert isinstance(monitor, LogitMonitor)
    rows = monitor.prompts(samples)
    yes, no = ([word[0] for word in part] for part in monitor.words)
    scores: dict[str, np.ndarray] = {}
    engine(monitor, samples[:2])  # it tries its paths here
    found = race({
        "engine": lambda: scores.update(engine=engine(monitor, samples)),
        "loop": lambda: scores.update(loop=loop(monitor.engine.model, rows, yes, no)),
    }, 1)
    off = {way: float(np.sqrt(np.mean((one - truth) ** 2))) for way, one in scores.items()}
    other = {way: int(((one >= 0.5) != (truth >= 0.5)).sum()) for way, one in scores.items()}
    if off["engine"] > 1.5 * off["loop"]:
        raise SystemExit(f"bfloat16: the engine is {off['engine']:.1e} from float32 by root mean "
                         f"square, the loop {off['loop']:.1e}; expected at most 1.5 times as much")
    total = sum(map(len, rows))
    return Row(
        f"scoring engine in bfloat16, SmolLM2-135M, {len(rows)} samples of "
        f"{total / len(rows):.0f} tokens, {THREADS} threads", ms(found["engine"]),
        f"plain loop {ms(found['loop'])}", found["loop"] / found["engine"], 1.7,
        f"{total / distinct_tokens(rows):.2f}: tokens given over distinct ones; root mean square "
        f"from float32 {off['engine']:.1e}, of the loop {off['loop']:.1e}; other verdicts than in "
        f"float32 {other['engine']}, of the loop {other['loop']}")


def measure(quick: bool) -> list[Row]:
    """A small model on made-up samples, what `score` does around it, and the real one."""
    tokenizer, samples = make_tokenizer(), make_samples(1 if quick else 48)
    checkpoint = Checkpoint(make_model(len(tokenizer)), tokenizer,
                            {"model": {"name": "small"}, "dtype": "float32"})
    monitor = LogitMonitor(checkpoint, load_prompt("direct"), yes=(" true",), no=(" false",))
    rows = compare(monitor, samples, 1 if quick else 5, "4.5M parameters",
                   {"loop": 1.8, "naive": 2.5})
    inside, outside = min((inside_and_outside(monitor, samples) for _ in range(1 if quick else 3)),
                          key=lambda pair: pair[1])
    rows.append(Row(
        "prompts, replies and store of `score`, a verdict", ms(outside / len(samples)),
        f"in the model {ms(inside / len(samples))}", inside / outside, 3,
        "no bound; a larger model takes longer, what is around it does not"))
    if quick:
        return rows
    try:
        real = build_monitor("smollm2", {"read": "logits", "dtype": "float32"})
    except MonitorError:
        return rows  # it is not installed
    assert isinstance(real, LogitMonitor)
    rows += compare(real, real_samples(24), 1, "SmolLM2-135M", {"loop": 1.3})
    return rows + ([half_precision(real)] if fast_dtype("cpu") == "bfloat16" else [])


if __name__ == "__main__":
    alone(measure)
