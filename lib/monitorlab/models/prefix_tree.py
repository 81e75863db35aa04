"""Token sequences as trees in the rows of a batch: what several begin with is there once.

A causal model gives a token the same states whatever follows it. So sequences that begin alike can
share one row of a batch, if every token sees its ancestors only and knows its depth. With that mask
and those positions the order of the tokens in the row is free; what is read goes to its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Ids = Sequence[int]


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
class Batch:
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


def tree_row(
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


def tree_batch(rows: Sequence[_Row], shared: int, pad_id: int) -> Batch:
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
    return Batch(ids, keep, slots, sum(map(len, rows)), positions, visible)


def plain_batch(
    numbers: Sequence[int], sequences: Sequence[list[int]], tails: Sequence[int], pad_id: int
) -> Batch:
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
    return Batch(ids, keep, slots, sum(map(len, sequences)))


def group(sequences: Sequence[list[int]], offset: int, token_cells: int) -> list[list[int]]:
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
