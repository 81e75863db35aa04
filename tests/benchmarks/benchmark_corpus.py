"""The training corpus: near-duplicates found, and the cost of a sample as the corpus grows."""

from __future__ import annotations

import resource
from collections.abc import Sequence

from table import Row, alone, ms, race

from monitorlab.benchmark.audit.duplicates import Neighbours, signatures
from monitorlab.benchmark.samples import whole_texts
from monitorlab.benchmark.scenarios.files import Scenario
from monitorlab.benchmark.writing.corpus import SIZE, build_corpus


def every_pair(texts: Sequence[str]) -> float:
    """Largest share of common five-word runs (Jaccard) between any two texts."""
    runs = []
    for text in texts:
        words = text.lower().split()
        runs.append({tuple(words[i : i + 5]) for i in range(len(words) - 4)})
    return max(len(one & two) / max(1, len(one | two))
               for i, one in enumerate(runs) for two in runs[:i])


def neighbours(texts: Sequence[str]) -> None:
    """The same question, asked of the corpus' own index."""
    known = Neighbours()
    for signature in signatures(list(texts)):
        known.similarity(signature)
        known.add(signature)


def measure(quick: bool) -> list[Row]:
    """The index against every pair, and a small corpus against one eight times as large."""
    small, compared, rounds = (0.0002, 40, 1) if quick else (0.01, 1000, 3)
    library = Scenario.load_library()
    sizes: dict[float, int] = {}
    texts: list[str] = []

    def build(share: float) -> None:
        sizes[share] = 0
        for part in build_corpus(2026, share, scenarios=library):
            sizes[share] += len(part)
            texts.extend(whole_texts(part)[: max(0, compared - len(texts))])

    large = min(1, 8 * small) if not quick else small
    built = race({"small": lambda: build(small), "large": lambda: build(large)}, 1)
    looked = race({"ours": lambda: neighbours(texts), "naive": lambda: every_pair(texts)}, rounds)
    each = built["large"] / sizes[large]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return [
        Row(f"near-duplicates among {len(texts):,} samples", ms(looked["ours"]),
            f"every pair compared {ms(looked['naive'])}", looked["naive"] / looked["ours"], 2,
            f"no bound: the ratio grows with the number, {SIZE:,} in the whole corpus"),
        Row(f"a sample composed, validated, checked, of {sizes[large]:,}", ms(each),
            f"of {sizes[small]:,}, {ms(built['small'] / sizes[small])}",
            built["small"] / sizes[small] / each, 0.8,
            f"1 where cost is linear; the {SIZE:,} would take {SIZE * each / 60:.1f} minutes of a "
            f"core; peak memory so far {peak:.2f} GiB"),
    ]


if __name__ == "__main__":
    alone(measure)
