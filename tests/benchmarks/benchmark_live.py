"""What a monitor costs inside a generation loop.

    python tests/benchmarks/benchmark_live.py [--small] [--tokens 768]

With the real small language model where it is installed, else (or with `--small`) with a random
Llama of 4.7 million parameters. In one process, repetitions interleaved, medians:

* one more token of a text of 768, read into the cache, against reading the text anew; and the same
  for the question of a verifier after it;
* a token near the end against one near the beginning, which says whether the cost is flat;
* `generate` on a batch of 16 with the free signal: the share of its time spent in the hooks.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from benchmark_scoring import make_model, make_tokenizer

from monitorlab.models import ModelError
from monitorlab.models.smollm2 import load_smollm2
from monitorlab.online.live import StepRule
from monitorlab.online.policy import OnlineMonitor, Policy
from monitorlab.signals.cached import CachedReader, CachedVerifier, LogProbability
from monitorlab.signals.stopping import StopAtAlarm
from monitorlab.statistics.thresholds import calibrate

ROUNDS, SINGLE = 3, 6
ROWS, NEW = 16, 24


def seconds(work: Callable[[], Any]) -> float:
    """CPU time of one call: a busy machine tells the same."""
    began = time.process_time()
    work()
    return time.process_time() - began


@torch.inference_mode()
def anew(model: Any, ids: list[int]) -> torch.Tensor:
    """Log-probabilities of what comes next, the whole text read again."""
    logits = model(torch.tensor([ids]), use_cache=False, logits_to_keep=1).logits
    return logits[0, -1].log_softmax(-1)


def time_tokens(model: Any, question: list[int], tokens: int) -> None:
    """Print what a token and a question cost, early and late, cached and anew."""
    text = np.random.default_rng(0).integers(100, 2000, tokens + 16).tolist()
    times: dict[str, list[float]] = {name: [] for name in ("early", "late", "asked")}
    reader = CachedReader(model, text[:16])
    reader.append(text[16:48])
    for at in range(48, 48 + SINGLE):
        times["early"].append(seconds(lambda at=at: reader.append(text[at : at + 1])))
    reader.append(text[48 + SINGLE : len(text) - SINGLE])
    for at in range(len(text) - SINGLE, len(text)):
        times["late"].append(seconds(lambda at=at: reader.append(text[at : at + 1])))
        times["asked"].append(seconds(lambda: reader.ask(question)))
    read = [seconds(lambda: anew(model, text)) for _ in range(ROUNDS)]
    reread = [seconds(lambda: anew(model, text + question)) for _ in range(ROUNDS)]
    off = (reader.ask(question) - anew(model, text + question)).abs().max()
    early, late, asked = (float(np.median(times[name])) for name in times)
    print(f"a token after {tokens}: cached {1e3 * late:.1f} ms, anew {1e3 * np.median(read):.0f} "
          f"ms, {np.median(read) / late:.0f} times faster; {late / early:.2f} of one after 32")
    print(f"a question of {len(question)} tokens after it: cached {1e3 * asked:.1f} ms, anew "
          f"{1e3 * np.median(reread):.0f} ms, {np.median(reread) / asked:.0f} times faster; "
          f"log-probabilities differ by at most {off:.0e}")


def time_hooks(model: Any, tokenizer: Any) -> None:
    """Print the share of `generate` that the hooks take."""
    tokenizer.padding_side = "left"
    prompts = [f"Counting by {k}:\n{k}\n{2 * k}\n{3 * k}\n" for k in range(1, ROWS + 1)]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
    inputs.pop("token_type_ids", None)
    shares = []
    for _ in range(ROUNDS):
        never = OnlineMonitor(Policy(calibrate([0.1], 0.01)))
        stop = StopAtAlarm(never, LogProbability(), model, tokenizer, list(map(str, range(ROWS))),
                           rule=StepRule("", tokens=4, characters=0), ends=[-1])
        spent = [0.0]
        stop.hooks = {name: [_timed(hook, spent)] for name, (hook,) in stop.hooks.items()}
        whole = seconds(lambda stop=stop: model.generate(
            **inputs, **stop.hooks, do_sample=True, top_k=0, max_new_tokens=NEW,
            min_new_tokens=NEW, pad_token_id=tokenizer.pad_token_id))
        shares.append(spent[0] / (whole - spent[0]))
    print(f"generate, {ROWS} rows of {NEW} tokens, steps of 4: hooks add {np.median(shares):.1%} "
          f"({min(shares):.1%} to {max(shares):.1%}) to {whole:.1f} s of CPU")


def _timed(hook: Any, spent: list[float]) -> Any:
    """The hook, which adds up its own time."""

    def call(*given: Any, **more: Any) -> Any:
        began = time.process_time()
        try:
            return hook(*given, **more)
        finally:
            spent[0] += time.process_time() - began

    return call


def main() -> None:
    """Print three lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=768)
    parser.add_argument("--small", action="store_true")
    asked = parser.parse_args()
    try:
        if asked.small:
            raise ModelError("")
        checkpoint = load_smollm2(dtype="float32")
        model, tokenizer, name = checkpoint.model, checkpoint.tokenizer, "SmolLM2-135M-Instruct"
        question = CachedVerifier(model, tokenizer).question
    except ModelError as error:
        tokenizer = make_tokenizer()
        model, name = make_model("small", len(tokenizer), "cpu"), f"a small random Llama {error}"
        question = list(range(100, 120))
    print(f"{name}, {torch.get_num_threads()} threads")
    time_tokens(model, question, asked.tokens)
    time_hooks(model, tokenizer)


if __name__ == "__main__":
    main()
