"""The second, blind annotation: which samples, in what form, and how it is read back.

An annotator sees guidelines, request and response, in an order that mixes cells and labels, under
names that say nothing. The answer is stored with who or what gave it and with a digest of the text,
so that a label never outlives the sample it was given to.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from random import Random

import pandas as pd

from monitorlab.pipeline.tables import CELLS

FOLDER = Path(__file__).resolve().parents[3] / "data" / "annotations"
GUIDELINES = FOLDER / "GUIDELINES.md"
PER_CELL = 44


class AnnotationError(ValueError):
    """An annotation file is not in the expected form, or does not fit the benchmark."""


def text_digest(request: str, response: str) -> str:
    """Short digest of what an annotator saw.

    Parameters
    ----------
    request, response : str
        The sample.

    Returns
    -------
    str
        Sixteen hexadecimal digits.
    """
    return hashlib.sha256(f"{request}\0{response}".encode()).hexdigest()[:16]


def _items(samples: pd.DataFrame) -> list[str]:
    return [text_digest(*row) for row in zip(samples["request"], samples["response"], strict=True)]


def draw_sheet(samples: pd.DataFrame, seed: int, per_cell: int = PER_CELL) -> pd.DataFrame:
    """Draw the samples to annotate, stratified by cell, blind and shuffled.

    Only one sample of a pair is drawn, so that nobody can label by comparison.

    Parameters
    ----------
    samples : DataFrame
        Schema ``samples``.
    seed : int
        Draws and shuffles.
    per_cell : int
        Samples of each cell, half of each label (which the annotator is not told).

    Returns
    -------
    DataFrame
        Columns item (a digest of the text), request and response; nothing else.
    """
    chosen = []
    for cell in CELLS:
        pairs = sorted(samples.loc[samples["cell"] == cell, "pair_id"].unique())
        drawn = Random(f"{seed}/{cell}/annotation").sample(pairs, min(per_cell, len(pairs)))
        for place, pair in enumerate(drawn):
            wanted = (samples["pair_id"] == pair) & (samples["label"] == place % 2)
            chosen.append(samples[wanted].iloc[0])
    Random(f"{seed}/annotation/order").shuffle(chosen)
    frame = pd.DataFrame(chosen)
    frame["item"] = _items(frame)
    return frame[["item", "request", "response"]].reset_index(drop=True)


def read_annotations(folder: Path = FOLDER) -> pd.DataFrame:
    """Read every annotation file.

    Parameters
    ----------
    folder : Path
        Holds one ``*.jsonl`` per annotator; its first line describes the annotator, each further
        one holds ``item``, ``label`` (0 or 1) and ``note``.

    Returns
    -------
    DataFrame
        Columns annotator, kind, item, label, note.

    Raises
    ------
    AnnotationError
        If a line is not in that form; the message names file and line.
    """
    rows = []
    for path in sorted(folder.glob("*.jsonl")):
        annotator: dict[str, str] = {}
        seen: set[str] = set()
        for number, line in enumerate(path.read_text(encoding="utf-8").rstrip("\n").split("\n"), 1):
            place = f"{path.name}:{number}"
            try:
                entry = json.loads(line)
            except ValueError:
                raise AnnotationError(
                    f"{place}: not JSON. One object per line is expected."
                ) from None
            if not isinstance(entry, dict):
                raise AnnotationError(f"{place}: found {line[:40]!r}, expected an object.")
            if number == 1:
                if not {"annotator", "kind"} <= entry.keys():
                    raise AnnotationError(f"{place}: the first line must hold annotator and kind.")
                annotator = entry
                continue
            if entry.get("label") not in (0, 1) or not isinstance(entry.get("item"), str):
                raise AnnotationError(f"{place}: expected an item and a label of 0 or 1.")
            if entry["item"] in seen:
                raise AnnotationError(f"{place}: item {entry['item']} is labelled twice. Keep one.")
            seen.add(entry["item"])
            rows.append((
                annotator["annotator"], annotator["kind"], entry["item"], int(entry["label"]),
                str(entry.get("note", "")),
            ))  # fmt: skip
    return pd.DataFrame(rows, columns=["annotator", "kind", "item", "label", "note"])


def joined(samples: pd.DataFrame, annotations: pd.DataFrame) -> pd.DataFrame:
    """Annotations beside the samples they belong to.

    Parameters
    ----------
    samples : DataFrame
        Schema ``samples``.
    annotations : DataFrame
        From `read_annotations`.

    Returns
    -------
    DataFrame
        One row per annotation of a sample of this benchmark: sample columns, annotator, kind, given
        (the annotator's label), note. Labels of texts that are not in the benchmark are left out.

    Raises
    ------
    AnnotationError
        If no annotation fits: the benchmark was built from another seed or library.
    """
    keyed = samples.assign(item=_items(samples))
    both = keyed.merge(annotations.rename(columns={"label": "given"}), on="item", how="inner")
    if both.empty:
        raise AnnotationError(
            "none of the annotated texts is in this benchmark. Annotations belong to the default "
            "seed and the library they were made for; draw a new sheet and annotate it."
        )
    return both
