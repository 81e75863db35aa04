"""Near-duplicates by MinHash over runs of five words."""

from __future__ import annotations

import io
import keyword
import re
import tokenize
from collections.abc import Sequence

import numpy as np
from datasketch import MinHash, MinHashLSH
from xxhash import xxh32_intdigest

WORDS = 5
PERMUTATIONS = 64
# Eight bands of eight rows find 99 % of the pairs with similarity .9, and a third of those with .7.
BANDS = (8, 8)
NEAR = 0.9
ALIKE = 0.8  # after masking
_WORD = re.compile(r"\w+")
_QUOTE = re.compile(r"\"[^\"\n]*\"|'[^'\n]*'|“[^”\n]*”")
_NAME = re.compile(r"\b(?:[A-Z]\w*|\w*[_\d]\w*)")
_EMPTY = MinHash(num_perm=PERMUTATIONS)


def _shingles(text: str) -> set[bytes]:
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
    sets = [_shingles(text) for text in texts]
    hashes = MinHash.bulk(sets, num_perm=PERMUTATIONS, hashfunc=xxh32_intdigest)
    return np.array([h.hashvalues for h in hashes], dtype=np.uint32).reshape(-1, PERMUTATIONS)


def distinct_programs(sources: Sequence[str]) -> int:
    """Count programs that are no copy of an earlier one with other names, numbers and texts.

    Parameters
    ----------
    sources : sequence of str
        Python; every two are compared.

    Returns
    -------
    int
        Programs whose similarity to each one counted before is below `ALIKE`, in runs of five
        tokens of which only keywords and operators are told apart.
    """
    kept = np.empty((len(sources), PERMUTATIONS), np.uint32)
    count = 0
    for signature in signatures([_form(source) for source in sources]):
        if ((kept[:count] == signature).mean(axis=1) < ALIKE).all():
            kept[count] = signature
            count += 1
    return count


def _form(source: str) -> str:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    told = [token for token in tokens if token.type not in (tokenize.COMMENT, tokenize.NL)]
    return " ".join(one.string if keyword.iskeyword(one.string)
                    else tokenize.tok_name[one.exact_type] for one in told)


def share_copied(texts: Sequence[str], groups: Sequence[str]) -> float:
    """Share of texts that are another one with other names, numbers and quotes.

    Parameters
    ----------
    texts : sequence of str
        Request and response of each sample.
    groups : sequence of str
        The pair of each; texts of one pair are not compared.

    Returns
    -------
    float
        In [0, 1]: those with an estimated similarity of `ALIKE` or more to a text of another
        group, after quotes, capitalised words and whatever holds a digit or an underscore were
        masked. Every two texts are compared.
    """
    table = signatures([_NAME.sub("N", _QUOTE.sub("Q", text)) for text in texts])
    pairs = np.asarray(groups)
    copied = [((table == signature).mean(axis=1) >= ALIKE)[pairs != pair].any()
              for signature, pair in zip(table, pairs, strict=True)]
    return float(np.mean(copied)) if copied else 0.0


class Neighbours:
    """Finds texts seen before that nearly equal a new one.

    Parameters
    ----------
    texts : sequence of str
        The first texts; more may be added.
    """

    def __init__(self, texts: Sequence[str] = ()) -> None:
        self._index = MinHashLSH(num_perm=PERMUTATIONS, params=BANDS)
        self._signatures: list[np.ndarray] = []
        for signature in signatures(texts):
            self.add(signature)

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
        return max(self._similarities(signature).values(), default=0.0)

    def largest_similarity(self, others: np.ndarray) -> float:
        """Largest estimated similarity of other texts, (n, PERMUTATIONS), to any; all are compared.

        Returns
        -------
        float
            In [0, 1]; 0 where there is nothing to compare.
        """
        known = np.reshape(self._signatures, (-1, PERMUTATIONS))  # once, since it takes longest
        same = (np.count_nonzero(known == one, axis=1).max(initial=0) for one in others)
        return float(max(same, default=0)) / PERMUTATIONS

    def share_near(self) -> float:
        """Share of the texts that nearly equal another one, in [0, 1]."""
        near = [any(similarity >= NEAR for other, similarity in self._similarities(one).items()
                    if other != number) for number, one in enumerate(self._signatures)]
        return float(np.mean(near)) if near else 0.0

    def _similarities(self, signature: np.ndarray) -> dict[int, float]:
        """Estimated similarity to every text that shares a band, by its number."""
        found = self._index.query(_hash(signature))
        return {i: float(np.mean(self._signatures[i] == signature)) for i in found}

    def add(self, signature: np.ndarray) -> None:
        """Remember a text.

        Parameters
        ----------
        signature : (PERMUTATIONS,) array
            Its signature.
        """
        self._index.insert(len(self._signatures), _hash(signature))
        self._signatures.append(signature)


def _hash(signature: np.ndarray) -> MinHash:
    values = signature.astype(_EMPTY.hashvalues.dtype)
    # Sharing the permutations saves drawing them again for every text.
    return MinHash(num_perm=PERMUTATIONS, hashvalues=values, permutations=_EMPTY.permutations,
                   scheme=_EMPTY.scheme)
