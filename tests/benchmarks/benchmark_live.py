"""What a monitor costs inside a generation loop.

With the real small language model where it is installed, else with a random Llama of 4.5 million
parameters, for which nothing is required: it is so small that Python takes most of the time.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from benchmark_scoring import make_model, make_tokenizer
from table import Row, alone, clock, ms, race

from monitorlab.models import ModelError
from monitorlab.models.smollm2 import load_smollm2
from monitorlab.online.live import StepRule
from monitorlab.online.policy import OnlineMonitor, Policy
from monitorlab.signals.generation import CachedReader, CachedVerifier, LogProbability, StopAtAlarm
from monitorlab.statistics.thresholds import calibrate

BEGUN, ROWS = 32, 16


@torch.inference_mode()
def anew(model: Any, ids: list[int]) -> torch.Tensor:
    """Log-probabilities of what comes next, the whole text read again."""
    logits = model(torch.tensor([ids]), use_cache=False, logits_to_keep=1).logits
    return logits[0, -1].log_softmax(-1)


def time_tokens(model: Any, question: list[int], tokens: int, name: str) -> list[Row]:
    """A token and a question, early and late, cached and anew."""
    text = np.random.default_rng(0).integers(100, 2000, BEGUN + tokens).tolist()
    early, late = CachedReader(model, text[:BEGUN]), CachedReader(model, text)
    asked = [*text, *question]
    off = float((late.ask(question) - anew(model, asked)).abs().max())
    if off > 1e-4:
        raise SystemExit(f"{name}: cached and anew differ by {off:.1e}, expected at most 1e-4")

    # The texts grow by a token per call, by a dozen in all.
    found = race({"early": lambda: early.append([100]), "late": lambda: late.append([100]),
                  "ask": lambda: late.ask(question)}, 12)
    found |= race({"anew": lambda: anew(model, text), "anew ask": lambda: anew(model, asked)}, 3)
    real = name != "random"
    return [
        Row(f"a further token read after {tokens}, {name}", ms(found["late"]),
            f"text read anew {ms(found['anew'])}", found["anew"] / found["late"], 20 * real,
            f"{len(text)} in operations; one token alone needs every weight from memory once"),
        Row(f"the same after {BEGUN} tokens: is the cost flat?", ms(found["late"]),
            f"early token {ms(found['early'])}", found["early"] / found["late"], 0.7 * real,
            "below 1 by the attention to what was read"),
        Row(f"a verifier's question of {len(question)} tokens after {tokens}", ms(found["ask"]),
            f"text and question read anew {ms(found['anew ask'])}",
            found["anew ask"] / found["ask"], 10 * real,
            f"{len(asked) / len(question):.0f} in operations; answers equal to {off:.0e}"),
    ]


def time_hooks(model: Any, tokenizer: Any, new: int) -> Row:
    """The share of `generate` that the hooks leave."""
    tokenizer.padding_side = "left"
    prompts = [f"Counting by {k}:\n{k}\n{2 * k}\n{3 * k}\n" for k in range(1, ROWS + 1)]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
    inputs.pop("token_type_ids", None)
    never = OnlineMonitor(Policy(calibrate([0.1], 0.01)))
    stop = StopAtAlarm(never, LogProbability(), model, tokenizer, list(map(str, range(ROWS))),
                       rule=StepRule("", tokens=4, characters=0), ends=[-1])
    spent = [0.0]
    hooks = {name: [partial(_timed, hook, spent)] for name, (hook,) in stop.hooks.items()}
    whole = race({"": lambda: model.generate(
        **inputs, **hooks, do_sample=True, top_k=0, max_new_tokens=new, min_new_tokens=new,
        pad_token_id=tokenizer.pad_token_id)}, 1)[""]
    return Row(f"`generate`, {ROWS} rows of {new} tokens, watched in steps of 4", ms(whole),
               f"without what the hooks take {ms(whole - spent[0])}", 1 - spent[0] / whole, 0.95,
               "1: what is watched was computed anyway")


def _timed(hook: Any, spent: list[float], *given: Any, **more: Any) -> Any:
    """The hook, which adds up its own time."""
    began = clock()
    try:
        return hook(*given, **more)
    finally:
        spent[0] += clock() - began


def measure(quick: bool) -> list[Row]:
    """Tokens, a question, and the hooks."""
    try:
        if quick:
            raise ModelError("the random model is enough")
        checkpoint = load_smollm2(dtype="float32")
        model, tokenizer, name = checkpoint.model, checkpoint.tokenizer, "SmolLM2-135M"
        question = CachedVerifier(model, tokenizer).question
    except ModelError:
        tokenizer = make_tokenizer()
        model, name = make_model(len(tokenizer)), "random"
        question = list(range(100, 120))
    return [*time_tokens(model, question, 16 if quick else 768, name),
            time_hooks(model, tokenizer, 4 if quick else 24)]


if __name__ == "__main__":
    alone(measure)
