"""Tokens in batches, and the scoring engine: probabilities of answers, nothing computed twice.

Many prompts begin alike (system message, instructions), the two of a pair also share their request,
and of all positions only those before and inside the answer are read. So

* the common beginning runs once and its keys and values serve every batch;
* prompts that share more form one row as a tree, in which what several begin with is there
  once, and so do the answers of several tokens;
* the tokens at which logits are read stand at the end of a row, so that `logits_to_keep` computes
  no others;
* rows of similar size share a batch, up to a budget of tokens and of attention.

A causal model gives a token the same states whatever follows it. So sequences that begin alike can
share one row of a batch, if every token sees its ancestors only and knows its depth. With that mask
and those positions the order of the tokens in the row is free; what is read goes to its end.

Not every architecture allows that. What a model allows is tried out at first use, on short made-up
sequences; see `ScoringEngine.path`. In float32 a path must give what one plain row at a time gives.
In half precision two correct computations differ by rounding, so there the measure is the truth: a
path may be as far from the same model computed in float32 as plain batches in half precision are.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from monitorlab.models import ModelError

Ids = Sequence[int]
BATCH_TOKENS = 16_384  # padding included
LABEL_MASS = 0.5  # least probability of a model's labels together; one asked as trained has about 1


@dataclass(frozen=True)
class Encoded:
    """Token ids of one trajectory and, per step, where its score is read and its own length."""

    ids: list[int]
    positions: list[int]
    tokens: list[int]

    @staticmethod
    @torch.inference_mode()
    def logits(
        model: PreTrainedModel, encoded: Sequence[Encoded], pad_id: int,
        columns: Sequence[int] | None = None,
    ) -> list[torch.Tensor]:
        """Read the logits at every step's position with one causal pass per trajectory.

        Trajectories of similar length share a batch, padded on the right, where a causal model does
        not look; so the batch does not change a score beyond rounding.

        Parameters
        ----------
        columns : sequence of int, optional
            Outputs to keep, in this order, as log-probabilities among all outputs; all logits as
            they are when left out.

        Returns
        -------
        list of torch.Tensor, shape (n_steps, n_columns)
        """
        for position, item in enumerate(encoded, 1):
            check_length(len(item.ids), model.config, f"trajectory {position}")
        found: dict[int, torch.Tensor] = {}
        for chosen in token_batches([len(item.ids) for item in encoded], BATCH_TOKENS):
            ids, mask = pad_right([encoded[i].ids for i in chosen], pad_id)
            output = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device),
                           use_cache=False)
            for row, i in enumerate(chosen):
                read = output.logits[row, encoded[i].positions]
                found[i] = read if columns is None else (
                    read.float().log_softmax(-1)[:, list(columns)])
        return [found[i] for i in range(len(encoded))]


def check_length(n_tokens: int, config: Any, what: str) -> None:
    """Raise if a sequence is longer than the model's positions."""
    most = getattr(config, "max_position_embeddings", None)
    if most is not None and n_tokens > most:
        raise ModelError(
            f"{what} has {n_tokens} tokens, but the model reads at most {most} "
            f"(max_position_embeddings): shorten it or use a model with a longer context")


def token_batches(
    lengths: Sequence[int], batch_tokens: int, before: int = 0, cells: float = math.inf
) -> Iterator[list[int]]:
    """Group indices by length so that a padded batch holds at most `batch_tokens` tokens.

    A sequence longer than that forms a batch of its own. With `before` tokens in front of each,
    attention has at most `cells` pairs of tokens, too.
    """
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        tokens = lengths[i] * (len(batch) + 1)
        if batch and (tokens > batch_tokens or tokens * (before + lengths[i]) > cells):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def pad(rows: Sequence[Sequence[int]], value: int, left: bool = False) -> torch.Tensor:
    """Stack rows of different lengths: (n_rows, longest), filled up with `value`."""
    width = max(map(len, rows))
    fill = [[value] * (width - len(row)) for row in rows]
    joined = [[*f, *r] if left else [*r, *f] for f, r in zip(fill, rows, strict=True)]
    return torch.tensor(joined)


def pad_right(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Stack rows of ids: padded ids and attention mask, each of shape (n_rows, longest)."""
    return pad(rows, pad_id), pad([[1] * len(row) for row in rows], 0)


def end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Tokens that end an answer, by the model's generation settings and by its tokenizer."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    ends = configured if isinstance(configured, list) else [configured]
    return {end for end in (*ends, tokenizer.eos_token_id) if isinstance(end, int)}


@dataclass(frozen=True)
class _Tree:
    """Sequences merged where they begin alike.

    Attributes
    ----------
    tokens : numpy.ndarray, shape (n_nodes,)
        Token id of every node.
    depth : numpy.ndarray, shape (n_nodes,)
        Tokens before it in its sequence, from 0.
    paths : tuple of numpy.ndarray
        Per sequence, in the order given: the nodes of its tokens.
    """

    tokens: np.ndarray
    depth: np.ndarray
    paths: tuple[np.ndarray, ...]

    def __len__(self) -> int:
        return len(self.tokens)


def common_prefix(first: Ids, second: Ids) -> int:
    """Return how many tokens two sequences share from their beginning."""
    for i, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return i
    return min(len(first), len(second))


def _merged_tree(sequences: Sequence[list[int]]) -> _Tree:
    """Merge sequences into a tree without any repetition.

    In lexicographic order the part that a sequence shares with all before it is what it shares
    with the one just before.
    """
    paths: list[np.ndarray] = [np.empty(0, int)] * len(sequences)
    tokens: list[int] = []
    depth: list[np.ndarray] = []
    before: list[int] = []
    path = np.empty(0, int)
    for i in sorted(range(len(sequences)), key=sequences.__getitem__):
        shared = common_prefix(before, sequences[i])
        before = sequences[i]
        new = np.arange(len(tokens), len(tokens) + len(before) - shared)
        paths[i] = path = np.concatenate([path[:shared], new])
        tokens.extend(before[shared:])
        depth.append(np.arange(shared, len(before)))
    return _Tree(np.array(tokens, int), np.concatenate(depth), tuple(paths))


@dataclass(frozen=True)
class _Row:
    """A tree as a row of a batch.

    Attributes
    ----------
    tree : _Tree
        Its last nodes are those that are read.
    n_read : int
        How many these are.
    numbers, tails : sequence of int
        Per sequence of the tree: its number, and how many tokens at its end are read.
    """

    tree: _Tree
    n_read: int
    numbers: Sequence[int]
    tails: Sequence[int]

    def __len__(self) -> int:
        return len(self.tree)


@dataclass(frozen=True)
class _Batch:
    """One call of a model.

    Attributes
    ----------
    ids : numpy.ndarray, shape (n_rows, width)
    keep : int or list of int
        Positions with logits: the last ones, or these.
    slots : list of (int, int, numpy.ndarray)
        Row, number of the sequence, and which of the kept positions its tail is.
    n_tokens : int
        Tokens that are not padding.
    positions : numpy.ndarray, shape (n_rows, width), optional
        Depth of each token; counted from the left where there is none.
    visible : numpy.ndarray, shape (n_rows, width, shared + width), bool, optional
        Who asks by who is seen; everything before where there is none.
    """

    ids: np.ndarray
    keep: int | list[int]
    slots: list[tuple[int, int, np.ndarray]]
    n_tokens: int
    positions: np.ndarray | None = None
    visible: np.ndarray | None = None


def _tree_row(
    numbers: Sequence[int], sequences: Sequence[list[int]], tails: Sequence[int]
) -> _Row:
    """Make a row of sequences, of which the last `tails` tokens each are read."""
    tree = _merged_tree(sequences)
    ends = [path[-n:] for path, n in zip(tree.paths, tails, strict=True)]
    last = np.unique(np.concatenate(ends))
    order = np.concatenate([np.setdiff1d(np.arange(len(tree)), last), last])
    place = np.empty(len(tree), int)
    place[order] = np.arange(len(tree))
    paths = tuple(place[path] for path in tree.paths)
    return _Row(_Tree(tree.tokens[order], tree.depth[order], paths), len(last), numbers, tails)


def _tree_batch(rows: Sequence[_Row], shared: int, pad_id: int) -> _Batch:
    """Lay rows out: what is read on the right, padding before it, the rest on the left.

    `shared` tokens come before each row and are seen by all of it.
    """
    keep = max(row.n_read for row in rows)
    width = max(len(row) - row.n_read for row in rows) + keep
    ids = np.full((len(rows), width), pad_id)
    positions = np.full((len(rows), width), shared)
    visible = np.zeros((len(rows), width, shared + width), bool)
    visible[:, :, :shared] = True
    visible[:, range(width), range(shared, shared + width)] = True  # padding, lest softmax be NaN
    slots = []
    for r, row in enumerate(rows):
        tree, front = row.tree, len(row) - row.n_read
        columns = np.r_[:front, width - row.n_read : width]
        ids[r, columns], positions[r, columns] = tree.tokens, shared + tree.depth
        for path, number, n in zip(tree.paths, row.numbers, row.tails, strict=True):
            at = columns[path]
            visible[r][np.ix_(at, shared + at)] = np.tri(len(at), dtype=bool)
            slots.append((r, number, at[-n:] - (width - keep)))
    return _Batch(ids, keep, slots, sum(map(len, rows)), positions, visible)


def _plain_batch(
    numbers: Sequence[int], sequences: Sequence[list[int]], tails: Sequence[int], pad_id: int
) -> _Batch:
    """Lay sequences out one per row, padded on the right, where a causal model never looks.

    That needs neither mask nor positions, so any causal model takes it.
    """
    ids = np.full((len(sequences), max(map(len, sequences))), pad_id)
    spans = []
    for r, (sequence, n) in enumerate(zip(sequences, tails, strict=True)):
        ids[r, : len(sequence)] = sequence
        spans.append(range(len(sequence) - n, len(sequence)))
    keep = sorted({position for span in spans for position in span})
    slots = [(r, number, np.searchsorted(keep, span))
             for r, (number, span) in enumerate(zip(numbers, spans, strict=True))]
    return _Batch(ids, keep, slots, sum(map(len, sequences)))


def _cheap_groups(sequences: Sequence[list[int]], offset: int, token_cells: int) -> list[list[int]]:
    """Group sequences that are cheaper as one tree than apart.

    A tree saves the shared tokens, but attention is computed between all its tokens, also where
    the mask hides one from the other.

    Parameters
    ----------
    sequences : sequence of list of int
    offset : int
        Tokens that come before every sequence and are seen by all.
    token_cells : int
        Pairs of tokens whose attention costs as much as everything else for one token.

    Returns
    -------
    list of list of int
        Indices of `sequences`; alike sequences are in the same group.
    """
    groups: list[list[int]] = []
    nodes, before = 0, list[int]()
    for i in sorted(range(len(sequences)), key=sequences.__getitem__):
        length, shared = len(sequences[i]), common_prefix(before, sequences[i])
        joined = nodes + length - shared
        extra_cells = joined**2 - nodes**2 - length**2
        if groups and shared * (token_cells + offset) > extra_cells:
            groups[-1].append(i)
            nodes = joined
        else:
            groups.append([i])
            nodes = length
        before = sequences[i]
    return groups


PACKED, PREFIX, PLAIN = "packed", "prefix", "plain"
DEVICE_TOKENS = {"cpu": 1024, "cuda": 16_384}  # padding included; on two cores more was slower
BATCH_CELLS = 2**24  # token pairs of one attention: bounds the mask, 32 MiB in half precision
LONG_CELLS = 2**27  # a row above it runs alone, where attention needs no mask in memory
TOKEN_CELLS = 4  # attention to so many tokens, times the width, costs as much as a token's rest
TOLERANCE = 1e-3  # of single precision, as a share of the spread of log-probabilities
NOISE = 2.0  # of half precision: root mean square error, in that of plain batches
HALF = (torch.bfloat16, torch.float16)
STRETCHED = ("dynamic", "longrope")  # rotary positions that change with the length of the batch


class ScoringEngine:
    """Log-probabilities of answer words after prompts.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model in evaluation mode.
    pad_id : int
        Any token; it fills up rows and is never read.
    prefix : sequence of int
        What most prompts begin with. A prompt that shares only a part of it is scored all the same.
    batch_tokens : int
        Tokens per batch, padding included; 0 takes the device's default.

    Attributes
    ----------
    path : str
        Empty before first use, then "packed" (prefix states and trees), "prefix" (prefix states and
        plain rows) or "plain" (plain rows).
    reason : str
        Why a faster path was not taken; empty for "packed".
    tokens : Counter
        Work so far: tokens "given" in prompts, "computed", and "padded", the same with padding.
    """

    def __init__(
        self, model: PreTrainedModel, pad_id: int, prefix: Ids = (), batch_tokens: int = 0
    ) -> None:
        self.model, self.pad_id, self.prefix = model, pad_id, list(prefix)
        self.batch_tokens = batch_tokens or DEVICE_TOKENS.get(model.device.type, 16_384)
        self.path = self.reason = ""
        self.tokens: Counter[str] = Counter()
        self._states: list[tuple[torch.Tensor, torch.Tensor]] = []

    @staticmethod
    def hindrance(config: Any) -> str:
        """Say why states cannot be reused, where short sequences would not show it; else empty."""
        text = config.get_text_config()
        kinds = set(getattr(text, "layer_types", None) or [])
        if not kinds and getattr(text, "sliding_window", None) is not None:
            kinds = {"sliding_attention"}
        if other := sorted(kinds - {"full_attention"}):
            return f"the model has {', '.join(other)} layers"
        rotary = getattr(text, "rope_parameters", None) or {}
        if (kind := rotary.get("rope_type")) in STRETCHED:
            return f"its rotary positions ({kind}) depend on the length of the batch"
        return ""

    @torch.inference_mode()
    def score_words(self, prompts: Sequence[Ids], words: Sequence[Ids]) -> np.ndarray:
        """Log-probability of each word right after each prompt.

        Parameters
        ----------
        prompts, words : sequence of sequence of int
            Token ids, none empty. The same words follow every prompt.

        Returns
        -------
        numpy.ndarray, shape (n_prompts, n_words)
            Natural logarithms, at most 0; the sum over the tokens of a word.
        """
        if not words or not all(map(len, words)) or not all(map(len, prompts)):
            raise ValueError("expected at least one word, and at least one token in every prompt "
                             "and word; found an empty one")
        if not self.path:
            self._choose_path()
        rows, answers = [list(prompt) for prompt in prompts], [list(word) for word in words]
        found = np.empty((len(rows), len(answers)))
        long = [i for i, row in enumerate(rows) if len(row) ** 2 > LONG_CELLS]
        short = sorted(set(range(len(rows))) - set(long))
        for chosen, path in ((short, self.path), (long, PLAIN)):
            if chosen:
                found[chosen] = self._score([rows[i] for i in chosen], answers, path)
        return found

    def _score(self, prompts: list[list[int]], words: list[list[int]], path: str) -> np.ndarray:
        """Score by one path."""
        shared = 0 if path == PLAIN else min(
            min(common_prefix(self.prefix, prompt), len(prompt) - 1) for prompt in prompts
        )
        branches, homes = _branches(words)
        columns = sorted({token for word in words for token in word})
        place = {token: column for column, token in enumerate(columns)}
        lay_out = self._packed if path == PACKED else self._plain
        read: dict[int, np.ndarray] = {}  # by number of prompt * number of branches + branch
        for batch in lay_out([prompt[shared:] for prompt in prompts], branches, shared):
            logs = self._forward(batch, shared, columns)
            read |= {number: logs[row, slots] for row, number, slots in batch.slots}
        self.tokens["given"] += sum(map(len, prompts))
        return np.array([
            [
                sum(read[i * len(branches) + home][t, place[token]] for t, token in enumerate(word))
                for word, home in zip(words, homes, strict=True)
            ]
            for i in range(len(prompts))
        ])

    def _packed(
        self, rests: list[list[int]], branches: list[list[int]], shared: int
    ) -> Iterator[_Batch]:
        """Batches of trees."""
        rows = []
        token_cells = TOKEN_CELLS * int(self.model.config.get_text_config().hidden_size)
        for chosen in _cheap_groups(rests, shared, token_cells):
            numbers = [i * len(branches) + b for i in chosen for b in range(len(branches))]
            sequences = [rests[i] + branch for i in chosen for branch in branches]
            tails = [len(branch) + 1 for branch in branches] * len(chosen)
            rows.append(_tree_row(numbers, sequences, tails))
        sizes = [len(row) for row in rows]
        for batch in token_batches(sizes, self.batch_tokens, shared, BATCH_CELLS):
            yield _tree_batch([rows[r] for r in batch], shared, self.pad_id)

    def _plain(
        self, rests: list[list[int]], branches: list[list[int]], shared: int
    ) -> Iterator[_Batch]:
        """Batches of one sequence per row."""
        sequences = [rest + branch for rest in rests for branch in branches]
        lengths = [len(sequence) for sequence in sequences]
        tails = [len(branch) + 1 for branch in branches] * len(rests)
        for batch in token_batches(lengths, self.batch_tokens, shared, BATCH_CELLS):
            chosen = [sequences[s] for s in batch], [tails[s] for s in batch]
            yield _plain_batch(batch, *chosen, self.pad_id)

    def _forward(self, batch: _Batch, shared: int, columns: Sequence[int]) -> np.ndarray:
        """Log-probabilities (n_rows, n_kept, n_columns) of the next tokens in `columns`."""
        device = self.model.device
        ids = torch.from_numpy(batch.ids).to(device)
        options: dict[str, Any] = {"use_cache": False, "logits_to_keep": batch.keep}
        if not isinstance(batch.keep, int):
            options["logits_to_keep"] = torch.tensor(batch.keep, device=device)
        if shared:
            options["past_key_values"] = self._cache(shared, len(ids))
        if batch.positions is not None and batch.visible is not None:
            options["position_ids"] = torch.from_numpy(batch.positions).to(device)
            hidden = torch.from_numpy(~batch.visible).to(device)[:, None]
            mask = torch.zeros(hidden.shape, dtype=self.model.dtype, device=device)
            options["attention_mask"] = mask.masked_fill_(hidden, torch.finfo(mask.dtype).min)
        logits = self.model(ids, **options).logits.float()
        self.tokens.update(computed=batch.n_tokens, padded=batch.ids.size)
        logs = logits[..., list(columns)] - logits.logsumexp(-1, keepdim=True)
        return logs.cpu().numpy().astype(float)

    def _cache(self, length: int, rows: int) -> DynamicCache:
        """Return the states of the first `length` tokens of the prefix, as often as there are rows.

        A cache grows in place, so every batch gets a new one; its first tensors are views.
        """
        if not self._states:
            ids = torch.tensor([self.prefix], device=self.model.device)
            cache = DynamicCache()
            self.model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            self._states = [(keys, values) for keys, values, *_ in cache]
            self.tokens.update(computed=len(self.prefix), padded=len(self.prefix))
        cache = DynamicCache()
        for layer, states in enumerate(self._states):
            keys, values = (state[:, :, :length].expand(rows, -1, -1, -1) for state in states)
            cache.update(keys, values, layer)
        return cache

    def _choose_path(self) -> None:
        """Take the fastest path that the trial accepts."""
        self.reason = self.hindrance(self.model.config)
        self.path = PLAIN
        if not self.reason:
            trial = _Trial(self.model, self.pad_id)
            for path in (PACKED, PREFIX):
                failed = trial.objection(path)
                if not failed:
                    self.path = path
                    break
                self.reason = "; ".join(filter(None, [self.reason, failed]))
        if self.reason:
            warnings.warn(f"scoring takes the slower path {self.path!r}: {self.reason}",
                          RuntimeWarning, stacklevel=4)


class _Trial:
    """Made-up sequences, and what a model says about them by the plain path.

    Eight prompts begin alike and share requests by twos; twelve words of one token and two of three
    follow each. The error of a path is a root mean square over all of them, so that two paths that
    round as much have about the same.

    In float32, `expected` comes from one plain row at a time, and a path may differ from it by
    `TOLERANCE` of the spread of the log-probabilities. In half precision, `expected` comes from
    plain batches computed in float32 (see `_in_float32`). The measure is the error of the same in
    half precision, which is what would be used otherwise, and a path may have `NOISE` times their
    error. A wrong mask or wrong positions make an error of the size of the spread, and that is far
    more in any model that is of use in half precision.
    """

    def __init__(self, model: PreTrainedModel, pad_id: int) -> None:
        self.model, self.pad_id = model, pad_id
        self.half = model.dtype in HALF
        size = int(model.config.get_text_config().vocab_size)
        rng = np.random.default_rng(0)

        def draw(length: int) -> list[int]:
            return [int(token) for token in rng.integers(size, size=length)]

        self.start, tail = draw(9), draw(2)
        requests = [self.start + draw(length) for length in (6, 2, 8, 4)]
        self.prompts = [request + draw(length)
                        for request in requests for length in rng.integers(3, 9, size=2)]
        self.words = [draw(1) for _ in range(12)] + [tail + draw(1), tail + draw(1)]
        plain = ScoringEngine(model, pad_id, batch_tokens=0 if self.half else 1)
        self.expected = plain._score(self.prompts, self.words, PLAIN)
        self.allowed = TOLERANCE * (float(self.expected[:, :12].std()) + 1e-12)
        if self.half:
            found = self.expected
            with _in_float32(model):
                self.expected = plain._score(self.prompts, self.words, PLAIN)
            self.allowed = NOISE * self._error(found)

    def objection(self, path: str) -> str:
        """Say how the results of a path are worse than the plain ones; empty if they are not."""
        tried = ScoringEngine(self.model, self.pad_id, self.start)
        try:
            found = tried._score(self.prompts, self.words, path)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever an architecture says to a mask that it does not know
            return f"{path}: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        off = self._error(found)
        if off <= self.allowed:
            return ""
        measure = "float32 by root mean square" if self.half else "plain rows"
        return (f"{path}: log-probabilities differ from {measure} by {off:.1e}, where "
                f"{self.allowed:.1e} is allowed")

    def _error(self, found: np.ndarray) -> float:
        off = found - self.expected
        return float(np.sqrt(np.mean(off**2)) if self.half else np.abs(off).max())


@contextmanager
def _in_float32(model: PreTrainedModel) -> Iterator[None]:
    """Compute what a model in half precision would say if nothing were rounded.

    Weights become float32 while the module that owns them runs, one module at a time: the largest
    of them, and not the model, needs twice its memory. Buffers stay, and so do weights that are
    quantized: then their own rounding is part of both sides of a comparison.
    """
    kept: dict[torch.nn.Module, list[dict[str, torch.nn.Parameter | None]]] = {}

    def widen(module: torch.nn.Module, _inputs: object) -> None:
        own = dict(module._parameters)
        kept.setdefault(module, []).append(own)
        module._parameters.update({
            name: torch.nn.Parameter(weight.float(), requires_grad=False)
            for name, weight in own.items() if weight is not None and weight.dtype in HALF
        })

    def restore(module: torch.nn.Module, _inputs: object, _output: object) -> None:
        module._parameters.update(kept[module].pop())

    owners = [module for module in model.modules() if module._parameters]
    handles = [owner.register_forward_pre_hook(widen) for owner in owners]
    handles += [owner.register_forward_hook(restore, always_call=True) for owner in owners]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _branches(words: Sequence[list[int]]) -> tuple[list[list[int]], list[int]]:
    """What must follow a prompt to read all words, and the one to read each word on.

    The last token of a word is only predicted; a word that lies on the way of another needs no
    branch of its own.
    """
    inner = sorted({tuple(word[:-1]) for word in words}, key=len, reverse=True)
    kept: list[tuple[int, ...]] = []
    for branch in inner:
        if not any(longer[: len(branch)] == branch for longer in kept):
            kept.append(branch)
    homes = [
        next(b for b, branch in enumerate(kept) if list(branch[: len(word) - 1]) == word[:-1])
        for word in words
    ]
    return [list(branch) for branch in kept], homes
