"""Near-duplicates by MinHash over runs of five words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
from datasketch import MinHash, MinHashLSH
from xxhash import xxh32_intdigest

WORDS = 5
PERMUTATIONS = 64
# Eight bands of eight rows find 99 % of the pairs with similarity .9, and a third of those with .7.
BANDS = (8, 8)
NEAR = 0.9
_WORD = re.compile(r"\w+")
_EMPTY = MinHash(num_perm=PERMUTATIONS)


def shingles(text: str) -> set[bytes]:
    """Runs of five words of a text.

    Parameters
    ----------
    text : str
        Request and response.

    Returns
    -------
    set of bytes
        The runs; a shorter text is one run.
    """
    words = _WORD.findall(text.lower())
    last = max(1, len(words) - WORDS + 1)
    return {" ".join(words[i : i + WORDS]).encode() for i in range(last)}


def signatures(texts: Sequence[str]) -> np.ndarray:
    """MinHash signatures.

    Parameters
    ----------
    texts : sequence of str
        Request and response of each sample.

    Returns
    -------
    (n, PERMUTATIONS) array of uint32
        The share of equal entries of two rows estimates the Jaccard similarity of the texts.
    """
    sets = [shingles(text) for text in texts]
    hashes = MinHash.bulk(sets, num_perm=PERMUTATIONS, hashfunc=xxh32_intdigest)
    return np.array([h.hashvalues for h in hashes], dtype=np.uint32).reshape(-1, PERMUTATIONS)


class Neighbours:
    """Finds texts seen before that nearly equal a new one."""

    def __init__(self) -> None:
        self._index = MinHashLSH(num_perm=PERMUTATIONS, params=BANDS)
        self._signatures: list[np.ndarray] = []

    def __len__(self) -> int:
        """Count the texts that were added."""
        return len(self._signatures)

    def similarity(self, signature: np.ndarray) -> float:
        """Largest estimated similarity to any text added so far.

        Parameters
        ----------
        signature : (PERMUTATIONS,) array
            Of the new text.

        Returns
        -------
        float
            In [0, 1]; 0 where no candidate shares a band.
        """
        found = self._index.query(_hash(signature))
        return max((float(np.mean(self._signatures[i] == signature)) for i in found), default=0.0)

    def add(self, signature: np.ndarray) -> None:
        """Remember a text.

        Parameters
        ----------
        signature : (PERMUTATIONS,) array
            Its signature.
        """
        self._index.insert(len(self._signatures), _hash(signature))
        self._signatures.append(signature)


def largest_similarity(first: np.ndarray, second: np.ndarray) -> float:
    """Largest estimated similarity between texts of two groups, every pair compared.

    Parameters
    ----------
    first, second : (n, PERMUTATIONS) array
        Signatures.

    Returns
    -------
    float
        In [0, 1].
    """
    largest = 0
    for signature in first:
        largest = max(largest, int((second == signature).sum(axis=1).max(initial=0)))
    return largest / PERMUTATIONS


def _hash(signature: np.ndarray) -> MinHash:
    values = signature.astype(_EMPTY.hashvalues.dtype)
    # Sharing the permutations saves drawing them again for every text.
    return MinHash(
        num_perm=PERMUTATIONS,
        hashvalues=values,
        permutations=_EMPTY.permutations,
        scheme=_EMPTY.scheme,
    )


def share_near(texts: Iterable[str]) -> float:
    """Share of texts that nearly equal another one.

    Parameters
    ----------
    texts : iterable of str
        Request and response of each sample.

    Returns
    -------
    float
        In [0, 1].
    """
    table = signatures(list(texts))
    index = MinHashLSH(num_perm=PERMUTATIONS, params=BANDS)
    near = np.zeros(len(table), dtype=bool)
    for i, signature in enumerate(table):
        hashed = _hash(signature)
        for j in index.query(hashed):
            if np.mean(table[j] == signature) >= NEAR:
                near[[i, j]] = True
        index.insert(i, hashed)
    return float(near.mean()) if len(near) else 0.0
