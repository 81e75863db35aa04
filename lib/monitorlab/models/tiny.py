"""Training the miniatures: one tokenizer builder and one fit for all.

Two choices make a small transformer learn in seconds what it otherwise learns in many minutes:
initial weights of the size that suits a narrow model, and the Muon optimizer for its matrices.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.utils.data import DataLoader
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerFast,
    get_cosine_schedule_with_warmup,
)

from monitorlab.display import progress
from monitorlab.models import Training
from monitorlab.models.engine import pad

IGNORED = -100  # label that the loss skips
NARROW = 128  # up to this width, one thread is the fastest
PAD, UNKNOWN = "<pad>", "<unk>"
MOMENTUM = 0.8  # 0.95 is usual; here 0.8 reached the same accuracy in three quarters of the steps
BETAS = (0.9, 0.98)
EPSILON = 1e-8
WEIGHT_DECAY = 0.01
ADAM_SHARE = 0.4  # Adam's rate for embeddings, norms and heads, as a share of Muon's
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration, as published
ITERATIONS = 5

Row = dict[str, list[int]]  # "input_ids" and "labels" of one training example, equally long
POSITIONS = 2_048
SPECIAL = ("<pad>", "<unk>", "<end>", "<system>", "<user>", "<assistant>")
TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch inside the block and leave its random state outside as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def suitable_threads(model: PreTrainedModel) -> Iterator[None]:
    """Compute on one thread inside the block if the model is narrow.

    A second thread then gains a tenth at best, on an idle machine; beside another busy process two
    threads wait for each other and are ten times slower. One thread also adds up in the same order
    on machines of every size.
    """
    threads = torch.get_num_threads()
    if model.config.hidden_size <= NARROW:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _orthogonalize(matrices: torch.Tensor) -> torch.Tensor:
    """Push all singular values towards 1 by a Newton-Schulz iteration.

    Parameters
    ----------
    matrices : torch.Tensor, shape (n, rows, columns)

    Returns
    -------
    torch.Tensor, shape (n, rows, columns)
        Same singular vectors, singular values roughly between 0.7 and 1.2.
    """
    a, b, c = COEFFICIENTS
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)  # the iteration needs norms of at most 1
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.mT


class _Muon(torch.optim.Optimizer):
    """Muon for the matrices inside a transformer's blocks, Adam for everything else.

    Every update is replaced by a nearly orthogonal matrix with the same row and column spaces, so
    that directions with small gradients are learned as fast as those with large ones (Jordan et
    al., 2024). A tiny transformer then finds out how to copy an operand from the problem in a few
    hundred steps, where AdamW alone took some thousands. `torch.optim.Muon` does the same in
    bfloat16, one matrix after the other, which on a processor takes seven times as long.

    Parameters
    ----------
    model : torch.nn.Module
        Its blocks are the parameters with ``.layers.`` in their names.
    rate : float
        Muon's learning rate; Adam's is `ADAM_SHARE` times that.
    """

    def __init__(self, model: torch.nn.Module, rate: float) -> None:
        inner = [p for name, p in model.named_parameters() if ".layers." in name and p.ndim == 2]
        known = {id(p) for p in inner}
        outer = [p for p in model.parameters() if id(p) not in known]
        groups = [{"params": inner, "lr": rate},
                  {"params": outer, "lr": ADAM_SHARE * rate}]
        super().__init__(groups, {"lr": rate})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        """Update all parameters; every one has a gradient, and `closure` is not supported."""
        inner, outer = self.param_groups
        for shape in sorted({p.shape for p in inner["params"]}):
            self._muon([p for p in inner["params"] if p.shape == shape], inner["lr"])
        for p in outer["params"]:
            self._adam(p, outer["lr"])

    def _muon(self, alike: list[torch.Tensor], rate: float) -> None:
        gradient = torch.stack([p.grad for p in alike])
        state = self.state[alike[0]]
        if "average" not in state:
            state["average"] = torch.zeros_like(gradient)
        average = state["average"].lerp_(gradient, 1 - MOMENTUM)
        updates = _orthogonalize(gradient.lerp(average, MOMENTUM))
        rows, columns = alike[0].shape
        length = rate * max(1.0, rows / columns) ** 0.5
        for p, update in zip(alike, updates, strict=True):
            p.mul_(1 - rate * WEIGHT_DECAY).sub_(update, alpha=length)

    def _adam(self, p: torch.Tensor, rate: float) -> None:
        state = self.state[p]
        if not state:
            state |= {"step": 0, "mean": torch.zeros_like(p), "square": torch.zeros_like(p)}
        assert p.grad is not None
        state["step"] += 1
        mean = state["mean"].lerp_(p.grad, 1 - BETAS[0])
        square = state["square"].lerp_(p.grad * p.grad, 1 - BETAS[1])
        corrections = [1 - beta ** state["step"] for beta in BETAS]
        root = (square / corrections[1]).sqrt_().add_(EPSILON)
        p.addcdiv_(mean, root, value=-rate / corrections[0])


def fit(
    model: PreTrainedModel, rows: Sequence[Row], pad_id: int, settings: Training, seed: int,
    title: str = "", enough: Callable[[int], bool] | None = None,
) -> None:
    """Train `model` in place, in float32, and leave torch's own random state as it was.

    `_Muon` trains it, on batches in the order of `_batch_order`, gradients clipped to norm 1.

    Parameters
    ----------
    model : PreTrainedModel
        Takes `input_ids` and `labels` and returns a loss. Trained on a GPU if there is one.
    rows : sequence of dict
        `input_ids` and `labels` (`IGNORED` where nothing is asked), not yet padded. Attention
        needs no mask: the padding is on the right, where a causal model does not look.
    pad_id : int
        Token that fills up.
    settings : Training
        Optimizer steps, mean tokens per step, peak rate (warm-up 5 %, then cosine to zero).
    seed : int
        Order of the examples.
    title : str
        Caption of the progress bar; none is shown if empty.
    enough : callable, optional
        Given the number of finished steps after each one; training ends once it returns True.
    """
    lengths = [len(row["input_ids"]) for row in rows]
    batch = min(len(rows), max(1, round(settings.batch_tokens / float(np.mean(lengths)))))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def collate(chosen: Sequence[Row]) -> dict[str, torch.Tensor]:
        return {"input_ids": pad([row["input_ids"] for row in chosen], pad_id).to(device),
                "labels": pad([row["labels"] for row in chosen], IGNORED).to(device)}

    shown = [rows[i] for i in _batch_order(lengths, batch, settings.steps, seed)]
    batches: Any = DataLoader(shown, batch, collate_fn=collate)
    with seeded(seed), suitable_threads(model):
        model.to(device).train()
        optimizer = _Muon(model, settings.learning_rate)
        warm_up = max(1, settings.steps // 20)
        schedule = get_cosine_schedule_with_warmup(optimizer, warm_up, settings.steps)
        for step, given in enumerate(progress(batches, title) if title else batches, start=1):
            model(**given).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            if enough is not None and enough(step):
                break
    model.eval()


def _batch_order(lengths: Sequence[int], batch: int, steps: int, seed: int) -> list[int]:
    """Order of examples for `steps` batches of `batch`: alike in length within, random among them.

    The Trainer's own grouping by length goes from long to short every fifty batches, which makes
    a short training unstable.
    """
    rng = np.random.default_rng(seed)
    order: list[int] = []
    while len(order) < steps * batch:
        shuffled = rng.permutation(len(lengths))[: len(lengths) // batch * batch]
        ranked = shuffled[np.argsort([lengths[i] for i in shuffled], kind="stable")]
        batches = rng.permutation(ranked.reshape(-1, batch))
        order.extend(batches.ravel().tolist())
    return order[: steps * batch]


def build_tokenizer(texts: Sequence[str], size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer of `size` pieces on `texts`, with a chat template."""
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(SPECIAL), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, unk_token=UNKNOWN, eos_token="<end>",
        additional_special_tokens=[mark for mark in SPECIAL[2:] if mark != "<end>"],
        clean_up_tokenization_spaces=False, chat_template=TEMPLATE,
    )
