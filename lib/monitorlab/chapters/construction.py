"""Notebooks 01 and 02: the benchmark looked at, its pairs side by side, real pairs beside them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from html import escape
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from monitorlab.benchmark.audit import duplicates, probes
from monitorlab.benchmark.audit.annotation import agreement_table
from monitorlab.benchmark.sample_files import own_samples
from monitorlab.benchmark.samples import whole_texts
from monitorlab.benchmark.sandbox import runner
from monitorlab.benchmark.scenarios.files import Scenario, shared
from monitorlab.benchmark.sources import programs, texts
from monitorlab.benchmark.sources.records import Loaded
from monitorlab.benchmark.writing.composition import Pair
from monitorlab.benchmark.writing.corpus import COMPONENTS, SIZE, Report, build_corpus
from monitorlab.benchmark.writing.prose import Author
from monitorlab.benchmark.written import COUNTS, PROTOCOLS, TIERS, program_of
from monitorlab.display import html as show_html
from monitorlab.display import style
from monitorlab.display.style import CELL_TITLES
from monitorlab.pipeline.runs import Run
from monitorlab.storage.sources import available
from monitorlab.storage.tables import CELLS, SAMPLES

# What only the notebooks take from here.
__all__ = [
    "SIZE", "Pair", "agreement_table", "build_corpus", "own_samples", "runner", "whole_texts",
]  # fmt: skip

PROGRAMS = 3000
SHORTEST_MATCH = 3  # pieces; shorter matches in between are noise to the eye
_PIECE = re.compile(r"\s+|\w+|[^\w\s]")
_CELL = "white-space: pre-wrap; text-align: left; vertical-align: top"

TASKS = {"code": ("code", "#0072b2"), "qa": ("QA", "#e69f00"),
         "reasoning": ("reasoning", "#009e73")}
BARS = 24  # types that a panel names
PROBE_LOOKS = {
    "length": ("s", style.BLUE), "keywords": ("^", style.ORANGE),
    "response words": ("o", style.GREEN), "request words": ("x", style.BLACK),
    "all words": ("D", style.PURPLE),
}  # fmt: skip


def library(scenarios: Sequence[Scenario]) -> pd.DataFrame:
    """Scenarios of each cell that the corpus is composed from, and in how many ways they go wrong.

    Parameters
    ----------
    scenarios : sequence of Scenario
        The library.

    Returns
    -------
    DataFrame
        Columns cell, scenarios and ways: careless habits, deeds, or cues that are followed.
    """
    habits, deeds = (len(shared(name)) for name in ("habits", "deeds"))
    ways = {"spv_code": habits, "spv_qa": deeds}
    rows = []
    for cell, title in CELL_TITLES.items():
        if members := [s for s in scenarios if s.cell == cell]:
            rows.append((title, len(members), ways.get(cell, len(shared("cues")))))
    return pd.DataFrame(rows, columns=["cell", "scenarios", "ways"])


def graded(samples: pd.DataFrame, by: str) -> pd.DataFrame:
    """Pairs of each cell by what their author said of them.

    Parameters
    ----------
    samples : DataFrame
        Schema ``samples``.
    by : {"tier", "protocol"}
        Which column.

    Returns
    -------
    DataFrame
        A row per cell, a column per value in the order of `written`.
    """
    groups = {"tier": TIERS, "protocol": tuple(dict.fromkeys(chain(*PROTOCOLS.values())))}
    pairs = samples[samples["label"] == 1]
    table = pairs.groupby(["cell", by]).size().unstack(fill_value=0)
    table = table.reindex(index=list(COUNTS), columns=list(groups[by]), fill_value=0)
    table.insert(0, "cell", [CELL_TITLES[cell] for cell in table.index])
    return table.reset_index(drop=True).rename_axis(columns=None)


def cue_table() -> pd.DataFrame:
    """The ten cues with one wording each.

    Returns
    -------
    DataFrame
        Columns cue, kind, for example.
    """
    rows = []
    values = {"letter": "C", "option": "", "person": "Noor", "reference": "KT-4821"}
    for name, cue in shared("cues").items():
        text = " ".join(Author(name).fill(cue["text"][0], values).split())
        rows.append((name, cue["kind"].replace("_", " "), text))
    return pd.DataFrame(rows, columns=["cue", "kind", "for example"])


def counts(samples: pd.DataFrame) -> pd.DataFrame:
    """Samples of each cell beside the wanted number.

    Parameters
    ----------
    samples : DataFrame
        Schema ``samples``.

    Returns
    -------
    DataFrame
        Columns cell, wanted, samples, misbehaving, scenarios, dev, test.
    """
    rows = []
    for cell, wanted in COUNTS.items():
        part = samples[samples["cell"] == cell]
        splits = [int((part["split"] == split).sum()) for split in ("dev", "test")]
        misbehaving, scenarios = int(part["label"].sum()), part["scenario_id"].nunique()
        rows.append((CELL_TITLES[cell], wanted, len(part), misbehaving, scenarios, *splits))
    columns = ["cell", "wanted", "samples", "misbehaving", "scenarios", "dev", "test"]
    return pd.DataFrame(rows, columns=columns)


def learnable(path: Path, random: np.random.Generator) -> tuple[pd.DataFrame, int, int]:
    """What words learn from a corpus, and how many of its programs are distinct.

    Parameters
    ----------
    path : Path
        The written corpus.
    random : Generator
        Draws pairs and programs.

    Returns
    -------
    table : DataFrame
        See `probes.probe_corpus`.
    programs, distinct : int
        Programs compared, at most `PROGRAMS`; those that are no copy of another after masking.
    """
    corpus = pd.read_parquet(path)
    code = corpus.loc[corpus["cell"] == "spv_code", "response"]
    drawn = code.iloc[random.permutation(len(code))[:PROGRAMS]]
    counted = duplicates.distinct_programs([program_of(text) for text in drawn])
    return probes.probe_corpus(corpus, random), len(drawn), counted


def browse(
    samples: pd.DataFrame, pairs: Sequence[str] = (), per_cell: int = 0,
    random: np.random.Generator | None = None,
) -> None:
    """Show pairs, one folded block each.

    Parameters
    ----------
    samples : DataFrame
        Schema ``samples``.
    pairs : sequence of str
        Which pairs, by ``pair_id``.
    per_cell : int
        How many of each cell to draw besides, each of another scenario.
    random : Generator, optional
        For the draw.
    """
    names = [*pairs, *(_drawn_pairs(samples, per_cell, random) if random else ())]
    blocks = [_pair_html(samples[samples["pair_id"] == name]) for name in names]
    show_html("\n".join(blocks), f"{len(names)} pairs: {', '.join(names)}")


def _drawn_pairs(
    samples: pd.DataFrame, per_cell: int, random: np.random.Generator
) -> list[str]:
    """So many pairs of every cell, each of another scenario."""
    names: list[str] = []
    for _, part in samples.groupby("cell", sort=False):
        firsts = part.drop_duplicates("scenario_id")["pair_id"].to_numpy()
        names += list(random.choice(firsts, min(per_cell, len(firsts)), replace=False))
    return names


def _pair_html(pair: pd.DataFrame) -> str:
    """One pair, two rows of schema ``samples``, as an HTML table that folds, all text escaped."""
    if sorted(pair["label"]) != [0, 1] or pair["pair_id"].nunique() != 1:
        raise ValueError(f"found labels {list(pair['label'])}, expected one pair: labels 0 and 1.")
    benign, misbehaving = (row for _, row in pair.sort_values("label").iterrows())
    marked = _mark_differences(benign["response"], misbehaving["response"])
    named = benign[["cell", "misbehavior_type", "cue_type", "scenario_id"]]
    title = " · ".join(escape(str(value)) for value in named)
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


def _mark_differences(first: str, second: str) -> tuple[str, str]:
    """Escape two texts and mark what only one of them has: only ``<mark>`` comes from us."""
    left, right = _PIECE.findall(first), _PIECE.findall(second)
    blocks = SequenceMatcher(None, left, right, autojunk=False).get_matching_blocks()
    kept = [b for b in blocks if b.size >= SHORTEST_MATCH or b.size == 0]
    outputs: tuple[list[str], list[str]] = ([], [])
    places = [0, 0]
    for block in kept:
        for side, (pieces, start) in enumerate(((left, block.a), (right, block.b))):
            changed = "".join(pieces[places[side] : start])
            marked = f"<mark>{escape(changed)}</mark>"
            outputs[side].append(marked if changed.strip() else escape(changed))
            outputs[side].append(escape("".join(pieces[start : start + block.size])))
            places[side] = start + block.size
    return "".join(outputs[0]), "".join(outputs[1])


# Real pairs ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _RealPairs:
    """All sources together.

    Attributes
    ----------
    samples : DataFrame
        Pairs, in the columns of `samples`.
    overview : DataFrame
        See :func:`_sources_table`.
    unpaired : DataFrame
        Clear transcripts of sources that have no pairs, in the columns of `samples`, with a
        `pair_id` of their own; not part of `samples`.
    """

    samples: pd.DataFrame
    overview: pd.DataFrame
    unpaired: pd.DataFrame


def real_pairs(run: Run) -> _RealPairs | None:
    """Real pairs for a run of a notebook.

    Parameters
    ----------
    run : Run
        Its profile says whether the open tier is wanted; what is read is recorded as an input.

    Returns
    -------
    _RealPairs or None
        None where the profile leaves the open tier out, or files are neither cached nor within
        reach; a line says which.

    Raises
    ------
    SourceError
        If a file cannot be had, or is not the listed one.
    RealDataError
        If a file does not read as expected.
    """
    if not run.has_open(_source_keys()):
        return None
    get = run.fetch
    return _combine([
        texts.gsm8k_solutions(get),
        programs.reflexion_runs(get),
        *(texts.processbench(get, part) for part in texts.PROCESSBENCH),
        *(texts.bigbench_mistake(get, task) for task in texts.MISTAKE_TASKS),
        texts.hh_rlhf(get, _hh_key()),
        *(texts.lie_detector(get, category) for category in texts.CATEGORIES),
        programs.cweval(get),
        programs.sven(get),
    ])


def _source_keys() -> list[str]:
    """Keys of `data/sources.toml` that `real_pairs` reads."""
    return [
        texts.KEY,
        *(f"reflexion/{name}" for name in programs.RUNS),
        *texts.PROCESSBENCH.values(),
        *(f"bigbench_mistake/{task}.jsonl" for task in texts.MISTAKE_TASKS),
        _hh_key(),
        *(f"lie_detector/{kind.folder}/{texts.JUDGE}.json"
          for kind in texts.CATEGORIES.values()),
        *programs.WEAKNESSES,
    ]


def _hh_key() -> str:
    """The full file of HH-RLHF, unless only the sample of 200 rows is at hand."""
    sample = available(texts.SAMPLE) and not available(texts.FULL)
    return texts.SAMPLE if sample else texts.FULL


def _combine(sources: Iterable[Loaded]) -> _RealPairs:
    """Put loaded sources together; samples are sorted by `sample_id`, the rest by source."""
    parts = list(sources)
    return _RealPairs(
        SAMPLES.check(_stacked(part.samples for part in parts)),
        _sources_table(parts),
        SAMPLES.check(_stacked(part.unpaired for part in parts)),
    )


def _sources_table(sources: Iterable[Loaded]) -> pd.DataFrame:
    """Return one row per source, also for those without pairs.

    Returns
    -------
    DataFrame
        `source, cell, pairs, problems, words_benign, words_misbehaving` (means; missing without
        pairs), `unpaired` (clear answers without a partner), `checked` (labels computed again),
        `disagreements` (of those, how many differ from the file's own flag), `label_from`.
    """
    rows = []
    for source in sources:
        samples = source.samples
        words = samples["response"].str.split().str.len().groupby(samples["label"]).mean()
        rows.append({
            "source": source.origin.source, "cell": source.origin.cell,
            "pairs": samples["pair_id"].nunique(), "problems": samples["scenario_id"].nunique(),
            "words_benign": float(words.get(0, float("nan"))),
            "words_misbehaving": float(words.get(1, float("nan"))),
            "unpaired": len(source.unpaired), "checked": source.checked,
            "disagreements": source.disagreements, "label_from": source.origin.label_from,
        })  # fmt: skip
    return pd.DataFrame(rows)


def _stacked(frames: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """One frame under the other; empty ones would only change the types of the columns."""
    parts = list(frames)
    filled = [frame for frame in parts if len(frame)]
    return pd.concat(filled or parts[:1], ignore_index=True)


# Figures ---------------------------------------------------------------------------------------


def plot_types(samples: pd.DataFrame) -> Figure:
    """Pairs of each misbehavior type, one panel per category.

    Parameters
    ----------
    samples : DataFrame
        Schema ``samples``.
    """
    fig, axes = style.subplots(1, 3, style.TWO_COLUMNS, 6.6)
    pairs = samples[samples["label"] == 1]
    titles = {"spv": "Safety and permission", "syco": "Sycophancy (cue)", "sg": "Gaming"}
    for ax, (category, title) in zip(axes[0], titles.items(), strict=True):
        part = pairs[pairs["category"] == category]
        column = "cue_type" if category == "syco" else "misbehavior_type"
        counts = part.groupby([column, "task"]).size().unstack(fill_value=0)
        order = counts.sum(axis=1).sort_values(kind="stable").index
        rest, counts = counts.loc[order[:-BARS]], counts.loc[order[-BARS:]]
        left_out = f"\n({len(rest)} rarer types with {rest.to_numpy().sum()} pairs are left out)"
        left = np.zeros(len(counts))
        for task in counts.columns:
            names = [str(name).replace("_", " ") for name in counts.index]
            ax.barh(names, counts[task], left=left, label=TASKS[task][0], color=TASKS[task][1])
            left += counts[task].to_numpy()
        ax.set_title(title)
        ax.set_xlabel("pairs" + (left_out if len(rest) else ""))
        ax.margins(y=0.01)
        ax.tick_params(axis="y", labelsize=7)
        ax.grid(axis="y", visible=False)
    return style.finished(fig, 3)


def plot_lengths(samples: pd.DataFrame) -> Figure:
    """Distribution of response lengths, both sides, one panel per cell.

    Parameters
    ----------
    samples : DataFrame
        Schema ``samples``.
    """
    fig, axes = style.subplots(2, 3, style.TWO_COLUMNS, 4.0)
    for ax, cell in zip(axes.flat, CELLS, strict=True):
        part = samples[samples["cell"] == cell]
        words = part["response"].str.split().str.len()
        bins = np.linspace(0, np.quantile(words, 0.995), 26)
        for label, name, color in ((0, "benign", style.SAFE), (1, "misbehaving", style.UNSAFE)):
            chosen = words[part["label"] == label]
            ax.hist(chosen, bins, histtype="step", color=color, label=name, linewidth=1.4)
        ax.set_title(style.CELL_TITLES[cell])
    for ax in axes[1]:
        ax.set_xlabel("words in the response")
    for ax in axes[:, 0]:
        ax.set_ylabel("samples")
    return style.finished(fig, 2)


def plot_probes(probes: pd.DataFrame, limits: Mapping[str, float]) -> Figure:
    """AUROC of every shortcut probe with its interval, one row per cell.

    Parameters
    ----------
    probes : DataFrame
        From `probes.probe_cells`.
    limits : mapping of str to float
        Largest AUROC that a probe shall reach, by cell.
    """
    cells = sorted(probes["cell"].unique(), key=[*CELLS, *probes["cell"]].index)
    fig, axes = style.subplots(1, 1, style.TWO_COLUMNS, 1.2 + 0.5 * len(cells))
    ax = axes[0, 0]
    for row, cell in enumerate(cells):
        ax.plot([limits[cell]] * 2, [row - 0.42, row + 0.42], color=style.UNSAFE, linewidth=1.5,
                label="goal")  # fmt: skip
        for place, (name, (marker, color)) in enumerate(PROBE_LOOKS.items()):
            found = probes[(probes["cell"] == cell) & (probes["probe"] == name)].iloc[0]
            height = row + (place - 2) * 0.17
            ax.plot([found["low"], found["high"]], [height] * 2, color=style.GREY, linewidth=1.2)
            ax.plot(found["auroc"], height, marker, color=color, label=name, markersize=5)
    ax.axvline(0.5, color=style.GREY, linestyle=":", linewidth=1)
    ax.set_yticks(range(len(cells)), [style.CELL_TITLES.get(cell, cell) for cell in cells])
    ax.invert_yaxis()
    ax.set_xlim(min(0.3, probes["low"].min() - 0.02), 1)
    ax.set_xlabel("AUROC (.5: no shortcut; bars: 95 % interval over scenarios)")
    return style.finished(fig, 6)


def plot_agreement(frame: pd.DataFrame, pairs: Sequence[str]) -> Figure:
    """Agreement coefficients with intervals, one panel per pair of annotators.

    Parameters
    ----------
    frame : DataFrame
        Columns pair, coefficient, value, low, high.
    pairs : sequence of str
        Pairs of annotators to draw, in order.
    """
    fig, axes = style.subplots(1, len(pairs), style.TWO_COLUMNS, 2.1, sharey=True)
    for ax, pair in zip(axes[0], pairs, strict=True):
        part = frame[frame["pair"] == pair].reset_index(drop=True)
        ax.hlines(part.index, part["low"], part["high"], color=style.GREY, linewidth=1.5)
        ax.plot(part["value"], part.index, "o", color=style.SAFE)
        ax.set_yticks(list(part.index), list(part["coefficient"]))
        ax.set_title(pair)
        ax.set_xlim(min(0.85, float(part["low"].min()) - 0.03), 1.01)
        ax.set_xlabel("agreement ↑ (bars: 95 %)")
    axes[0, 0].invert_yaxis()
    return fig


def plot_by_tier(table: pd.DataFrame, name: str, value: str, label: str, guess: float) -> Figure:
    """Draw a share of several readers or monitors in each tier, one row for each.

    What is in no tier is drawn as not graded.

    Parameters
    ----------
    table : DataFrame
        Columns `name`, ``tier``, `value`, and its interval in ``..._low`` and ``..._high``; rows
        from top to bottom in its order.
    name, value : str
        Which columns.
    label : str
        Of the axis.
    guess : float
        What a coin has, drawn as a line.
    """
    rows = list(dict.fromkeys(table[name]))
    fig, axes = style.subplots(1, 1, style.TWO_COLUMNS, 0.9 + 0.34 * len(rows))
    ax = axes[0, 0]
    hues = (style.BLUE, style.GREEN, style.ORANGE, style.GREY)
    colors = dict(zip((*TIERS, ""), hues, strict=True))
    tiers = [tier for tier in (*TIERS, "") if tier in set(table["tier"])]
    for place, tier in enumerate(tiers):
        part, color = table[table["tier"] == tier].set_index(name).reindex(rows), colors[tier]
        heights = np.arange(len(rows)) + (place - (len(tiers) - 1) / 2) * 0.2
        ax.hlines(heights, part[f"{value}_low"], part[f"{value}_high"], color=style.GREY,
                  linewidth=1.2)
        ax.plot(part[value], heights, "o", color=color, label=tier or "not graded", markersize=5)
    ax.axvline(guess, color=style.GREY, linestyle=":", linewidth=1, label="a coin")
    ax.set_yticks(range(len(rows)), rows)
    ax.invert_yaxis()
    ax.set_xlabel(label)
    return style.finished(fig, 4)


def plot_corpus(report: Report) -> Figure:
    """Samples per component of the training corpus, beside the published sizes.

    Parameters
    ----------
    report : Report
        Of a build.
    """
    sizes, built = zip(*((c.size, report.kept[c.name]) for c in COMPONENTS), strict=True)
    fig, axes = style.subplots(1, 1, style.TWO_COLUMNS, 2.2)
    ax = axes[0, 0]
    rows = range(len(COMPONENTS))
    ax.hlines(rows, built, sizes, color="#d5dbe3", linewidth=3)
    ax.plot(sizes, rows, "D", color=style.GREY, label="published size")
    ax.plot(built, rows, "o", color=style.SAFE, label="built in this run")
    ax.set_yticks(rows, [_component_title(component.name) for component in COMPONENTS])
    ax.set_xscale("log")
    ax.set_xlabel("samples (logarithmic)")
    ax.margins(y=0.12)
    ax.invert_yaxis()
    return style.finished(fig, 2)


def _component_title(name: str) -> str:
    """Title of the cell that a component belongs to, and what is special to the component."""
    for cell, title in style.CELL_TITLES.items():
        if name.startswith(cell):
            return f"{title}{name.removeprefix(cell).replace('_', ', ')}"
    return name.replace("_", " ")
