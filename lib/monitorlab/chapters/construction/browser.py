"""A pair side by side, with the words that differ marked. Everything from a sample is escaped."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from html import escape

import pandas as pd

from monitorlab.display import html as show_html

_PIECE = re.compile(r"\s+|\w+|[^\w\s]")
_CELL = "white-space: pre-wrap; text-align: left; vertical-align: top"
SHORTEST_MATCH = 3  # pieces; shorter matches in between are noise to the eye


def _mark_differences(first: str, second: str) -> tuple[str, str]:
    """Escape two texts and mark what only one of them has.

    Parameters
    ----------
    first, second : str
        Any text.

    Returns
    -------
    first, second : str
        HTML in which only ``<mark>`` comes from us.
    """
    left, right = _PIECE.findall(first), _PIECE.findall(second)
    blocks = SequenceMatcher(None, left, right, autojunk=False).get_matching_blocks()
    kept = [b for b in blocks if b.size >= SHORTEST_MATCH or b.size == 0]
    outputs: tuple[list[str], list[str]] = ([], [])
    places = [0, 0]
    for block in kept:
        for side, (pieces, start) in enumerate(((left, block.a), (right, block.b))):
            changed = "".join(pieces[places[side] : start])
            if changed.strip():
                outputs[side].append(f"<mark>{escape(changed)}</mark>")
            elif changed:
                outputs[side].append(escape(changed))
            outputs[side].append(escape("".join(pieces[start : start + block.size])))
            places[side] = start + block.size
    return "".join(outputs[0]), "".join(outputs[1])


def _pair_html(pair: pd.DataFrame) -> str:
    """One pair as an HTML table that folds.

    Parameters
    ----------
    pair : DataFrame
        Two rows of schema ``samples`` with one ``pair_id``.

    Returns
    -------
    str
        HTML with every text escaped.
    """
    benign, misbehaving = _sides(pair)
    marked = _mark_differences(benign["response"], misbehaving["response"])
    title = " · ".join(
        escape(str(benign[name]))
        for name in ("cell", "misbehavior_type", "cue_type", "scenario_id")
    )
    kind = "program" if benign["task"] == "code" else "prose"
    return (
        f"<details><summary>{title}</summary>"
        f'<table class="monitorlab pair {kind}"><thead>'
        f'<tr><th colspan="2" style="text-align: left">request</th></tr>'
        f'<tr><td colspan="2" style="{_CELL}">{escape(benign["request"])}</td></tr>'
        '<tr><th style="text-align: left">benign</th>'
        '<th style="text-align: left">misbehaving</th></tr></thead>'
        f'<tbody><tr><td style="{_CELL}">{marked[0]}</td><td style="{_CELL}">{marked[1]}</td></tr>'
        "</tbody></table></details>"
    )


def _sides(pair: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    if sorted(pair["label"]) != [0, 1] or pair["pair_id"].nunique() != 1:
        raise ValueError(f"found labels {list(pair['label'])}, expected one pair: labels 0 and 1.")
    ordered = pair.sort_values("label")
    return ordered.iloc[0], ordered.iloc[1]


def browse(samples: pd.DataFrame, pairs: list[str]) -> None:
    """Show pairs, one folded block each.

    Parameters
    ----------
    samples : DataFrame
        Schema ``samples``.
    pairs : list of str
        Which pairs, by ``pair_id``.
    """
    blocks = [_pair_html(samples[samples["pair_id"] == name]) for name in pairs]
    show_html("\n".join(blocks), f"{len(pairs)} pairs: {', '.join(pairs)}")


def pairs_to_show(samples: pd.DataFrame, per_cell: int, random) -> list[str]:  # type: ignore[no-untyped-def]
    """Draw pairs of every cell, each of another scenario.

    Parameters
    ----------
    samples : DataFrame
        Schema ``samples``.
    per_cell : int
        Pairs of each cell.
    random : Generator
        For the draw.

    Returns
    -------
    list of str
        Pair ids.
    """
    names: list[str] = []
    for _, part in samples.groupby("cell", sort=False):
        firsts = part.drop_duplicates("scenario_id")["pair_id"].to_numpy()
        names += list(random.choice(firsts, min(per_cell, len(firsts)), replace=False))
    return names
