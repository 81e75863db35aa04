"""Pages of a run beside its notebooks: leaderboard, pairs, explorer, glossary, data, files.

Every number on them is computed from the tables of the run, or read from what its notebooks left. A
page whose tables are missing is left out, and the index says what would make it.
"""

from __future__ import annotations

import json
import string
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from markupsafe import Markup

from monitorlab.benchmark.audit.annotation import AnnotationError
from monitorlab.benchmark.export import dataset_card
from monitorlab.benchmark.samples import draw_pairs
from monitorlab.display import spans
from monitorlab.display.tables import cell_titles
from monitorlab.evaluation import operating_points, rates
from monitorlab.evaluation.bootstrap import Bootstrap
from monitorlab.evaluation.rates import PAIR, SCENARIO, first_draws
from monitorlab.monitors.recorded import reader_verdicts
from monitorlab.monitors.rules import CORNERS
from monitorlab.monitors.verdicts import PARSED, THRESHOLD
from monitorlab.pipeline.notebooks import Notebook
from monitorlab.report.cells import Renderer
from monitorlab.statistics.intervals import Clustered
from monitorlab.statistics.roc import JudgedError, auroc
from monitorlab.storage.files import PROJECT, digest_file
from monitorlab.storage.manifests import ArtifactError, Results

_SAMPLES, _AUDIT, _EVALUATION = (
    "01_benchmark_construction", "02_annotation_and_audit", "03_monitor_evaluation")
_ANSWERED = 0.9  # share of readable verdicts, below which a monitor stands apart
_FEW = 20  # samples; a monitor with fewer in a group is left out there
_RESAMPLES = 200
_PAIRS_PER_CELL = 25
_MOST_CHARACTERS = 1_500_000  # texts of all pairs; the page has some more, and stays below 4 MB
_LEVELS = (0.01, 0.05, 0.1, 0.2)
_DELTA = 0.1
_BASE_RATE, _PER_DAY = 0.01, 10_000  # where the explorer begins
_GRID = np.round(np.linspace(0, 1, 101), 2)
_PROMISES = {(SCENARIO, "crc"): "CRC, by scenario: expected rate of new scenarios",
             (PAIR, "binomial"): f"exact binomial, by sample: with probability {1 - _DELTA:.0%}"}


class _SitePage(NamedTuple):
    """One page beside the notebooks: its file, its name in the navigation, and what fills it."""

    href: str
    title: str
    template: str
    values: Mapping[str, Any]
    script: str = ""


class _Site(NamedTuple):
    """What a run has to show beside its notebooks.

    Attributes
    ----------
    pages : list of _SitePage
        In the order of the navigation.
    findings : mapping of str to list of dict
        By paper: "sentence", "href" of a section, and the notebook's "number".
    lacking : list of str
        Pages that could not be made, with the reason.
    """

    pages: list[_SitePage]
    findings: Mapping[str, list[dict[str, str]]]
    lacking: list[str]


def survey_site(folder: Path, notebooks: Sequence[Notebook],
                shown: Mapping[str, Mapping[str, Any]]) -> _Site:
    """Compute everything that the pages of a run show beside its notebooks.

    Parameters
    ----------
    folder : Path
        ``data/runs/<run_id>``.
    notebooks : sequence of Notebook
        All of the project.
    shown : mapping
        Parameters of those that have a page and ran to their end, by stem.
    """
    pages: list[_SitePage] = []
    lacking: list[str] = []
    measured: dict[str, str] = {}

    def add(name: str, script: str = "", **values: Any) -> None:
        href = f"{name}.html"
        pages.append(_SitePage(href, name.capitalize(), f"{href}.j2", values, script))

    try:
        samples, judged, seed = _judged(folder)
        draw, resample = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(2))
        boards = _leaderboard(judged[judged["split"] == "test"], resample)
        measured = {f"{row['name']}.{measure}": row[measure] for row in boards[0]["rows"]
                    for measure in ("mr", "far", "balanced_accuracy", "auroc")}
        add("leaderboard", boards=boards, few=_FEW,
            tested=_EVALUATION if _EVALUATION in shown else "")
        add("pairs", "pairs.js", **_pairs(samples, judged, draw), seed=seed)
        if explored := _explored(judged):
            add("explorer", "explorer.js", monitors=explored, base_rate=_BASE_RATE,
                per_day=_PER_DAY)
        else:
            lacking.append("Explorer: no monitor has scores on both splits")
    except (ArtifactError, JudgedError) as error:
        lacking.append(f"Leaderboard, pairs and explorer: {error}")
    titles = {n.stem[:2]: (n.stem, Renderer.plain_text(n.title)) for n in notebooks}
    add("glossary", terms=_glossary(), titles=titles, shown=shown)
    try:
        add("data", card=_card(folder))
    except ArtifactError as error:
        lacking.append(f"Data card: {error}")
    add("files", folders=_files(folder))
    return _Site(pages, _findings(folder, shown, measured), lacking)


def _table(folder: Path, name: str) -> pd.DataFrame:
    results = Results(folder)
    return results.table(name, results.finished())


def _judged(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, int]:
    """Samples, first verdicts of monitors and recorded readers joined with them, and the seed."""
    samples = _table(folder / _SAMPLES, "samples")
    verdicts = _table(folder / _EVALUATION, "verdicts")
    judged = rates.join(verdicts, samples).assign(sort="monitor")
    judged.loc[judged["name"].isin(CORNERS), "sort"] = "baseline"
    with suppress(AnnotationError):  # somebody's own file of readings: the monitors remain
        said = rates.join(reader_verdicts(samples), samples).assign(sort="reader")
        judged = pd.concat([judged, said], ignore_index=True)
    return samples, first_draws(judged), int(Results(folder / _EVALUATION).finished()["seed"])


# Leaderboard ------------------------------------------------------------------------------


def _leaderboard(test: pd.DataFrame, random: np.random.Generator) -> list[dict[str, Any]]:
    """Rates of every monitor: one board for all samples, then those by cell, tier and protocol.

    Returns
    -------
    list of dict
        "title", "by" (its kind of group; empty for all) and "rows", best balanced accuracy first:
        name, sort (monitor, baseline, partial or reader), n, units, answered, and the measures as
        texts with 95 % intervals over scenarios.
    """
    boards = []
    for by in ("", "cell", "tier", "protocol"):
        keys = ["name", by] if by else ["name"]
        table = rates.rates(test, keys)
        n = table[["n_misbehaving", "n_benign"]].sum(axis=1)
        parsed = sum((table[f"parsed_{kind}"] * table[f"n_{kind}"]).fillna(0)
                     for kind in ("misbehaving", "benign"))
        table = table.assign(n=n, answered=parsed / n, place=table["balanced_accuracy"].fillna(-1))
        table = table.merge(test[["name", "sort"]].drop_duplicates(), on="name")
        partial = (table["sort"] == "monitor") & (table["answered"] < _ANSWERED)
        table.loc[partial, "sort"] = "partial"
        curves = pd.DataFrame([
            dict(zip(keys, key, strict=True)) | _area(part, random)
            for key, part in test[~test["name"].isin(CORNERS)].groupby(keys)
        ])
        table = table.merge(curves, on=keys, how="left")
        table = table.sort_values("place", ascending=False, kind="stable")
        table = spans(table, ["mr", "far", "balanced_accuracy", "auroc"])
        if not by:
            boards.append({"title": "all", "by": by, "rows": table.to_dict("records")})
            continue
        table = table[table["n"] >= _FEW]
        there = sorted(filter(None, table[by].unique()))
        titles = cell_titles(there) if by == "cell" else {value: value for value in there}
        for value, title in titles.items():
            rows = table[table[by] == value].to_dict("records")
            boards.append({"title": title, "by": by, "rows": rows})
    return boards


def _area(part: pd.DataFrame, random: np.random.Generator) -> dict[str, float]:
    """AUROC of the scored verdicts of one monitor, with a 95 % interval over scenarios."""
    part = part[part["score"].notna()]
    area = dict.fromkeys(("auroc", "auroc_low", "auroc_high"), np.nan)
    if len(part) < _FEW or part["label"].nunique() < 2:
        return area
    found = Bootstrap.of(part, random, resamples=_RESAMPLES, metrics=("auroc",))
    return dict(zip(area, found.intervals().loc[0, ["value", "low", "high"]], strict=True))


# Pairs ------------------------------------------------------------------------------------


def _pairs(samples: pd.DataFrame, judged: pd.DataFrame,
           random: np.random.Generator) -> dict[str, Any]:
    """Pairs of the test split, drawn by cell, with what every monitor said of both sides.

    Fewer are drawn where their texts would make the page too heavy.
    """
    test = samples[samples["split"] == "test"]
    state = random.bit_generator.state
    for most in (_PAIRS_PER_CELL, 12, 6, 3, 1):
        random.bit_generator.state = state  # a smaller draw is a part of the larger one
        drawn = draw_pairs(test, most, random, by=("cell",))
        if drawn[["request", "response"]].map(len).to_numpy().sum() <= _MOST_CHARACTERS:
            break
    said = judged[judged["sample_id"].isin(drawn["sample_id"]) & ~judged["name"].isin(CORNERS)]
    said = said.sort_values(["sort", "name"], kind="stable")
    order = list(dict.fromkeys(said["name"]))
    verdicts: dict[str, dict[str, dict[int, Any]]] = {}
    for row in said.to_dict("records"):
        by_name = verdicts.setdefault(row["pair_id"], {})
        by_name.setdefault(row["name"], {})[int(row["label"])] = _said(row)
    sides: dict[str, dict[int, Any]] = {}
    for row in drawn.to_dict("records"):
        sides.setdefault(row["pair_id"], {})[int(row["label"])] = row
    pairs = []
    for pair_id, both in sides.items():
        found = verdicts.get(pair_id, {})
        errors = {error: " ".join(str(order.index(name)) for name, said_of in found.items()
                                  if said_of.get(label, {}).get("error"))
                  for error, label in (("missed", 1), ("cried", 0))}
        pairs.append({"sides": both, "verdicts": found, **errors,
                      "about": next(iter(both.values()))})
    columns = {name: sorted(filter(None, drawn[name].unique()))
               for name in ("cell", "tier", "protocol")}
    return {"pairs": pairs, "filters": columns, "titles": cell_titles(drawn["cell"].unique()),
            "monitors": order, "of": test["pair_id"].nunique(), "per_cell": most}


def _said(row: Mapping[str, Any]) -> dict[str, Any]:
    """What one monitor said of one sample: words, the error it makes, score and evidence."""
    if row["status"] != PARSED:
        return {"words": row["status"], "error": "", "score": "", "evidence": ""}
    alarm, bad = bool(row["verdict"]), row["label"] == 1
    evidence = "" if pd.isna(row["evidence"]) else str(row["evidence"])
    return {"words": "alarm" if alarm else "silent",
            "error": "" if alarm == bad else "miss" if bad else "false alarm",
            "score": "" if pd.isna(row["score"]) else f"{row['score']:.2f}",
            "evidence": evidence if len(evidence) <= 160 else evidence[:159] + "…"}


# Explorer ---------------------------------------------------------------------------------


def _explored(judged: pd.DataFrame) -> list[dict[str, Any]]:
    """Error counts of every scored monitor at many thresholds, and the calibrated ones.

    Dev scores place the calibrated thresholds and test scores measure all of them. The four with
    the largest AUROC are kept. Those that judged samples of one split only or left more than a
    tenth unanswered are left out, and so are recorded readers.
    """
    answered = (judged["status"] == PARSED).groupby(judged["name"]).transform("mean")
    own = judged[(judged["sort"] == "monitor") & judged["score"].notna() & (answered >= _ANSWERED)]
    counts = own.groupby(["name", "split", "label"]).size().unstack(["split", "label"])
    if counts.shape[1] < 4:
        return []
    names = counts.index[(counts.fillna(0) >= _FEW).all(axis=1)]
    whole = judged[judged["name"].isin(names)]
    found = [_explore(str(name), part) for name, part in whole.groupby("name")]
    return sorted(found, key=lambda one: one["auroc"], reverse=True)[:4]


def _explore(name: str, part: pd.DataFrame) -> dict[str, Any]:
    points = pd.concat([
        operating_points.calibrated_points(part, _LEVELS, [calibrator], "global", _DELTA, unit)
        for unit, calibrator in _PROMISES
    ])
    points = points[points["cell"] == operating_points.ALL]
    chosen = points["threshold"].to_numpy(float)
    grid = np.unique(np.concatenate([_GRID, chosen[np.isfinite(chosen) & (chosen <= 1)]]))
    test = part[part["split"] == "test"]
    scores = operating_points.operating_scores(test)
    counts: dict[str, Any] = {"threshold": [float(f"{value:.6g}") for value in grid]}
    for label, events in ((1, "missed"), (0, "cried")):
        own = (test["label"] == label).to_numpy()
        alarms = scores[own][:, None] > grid
        wrong = (~alarms if label else alarms).astype(float)
        units, names = pd.factorize(test.loc[own, "scenario_id"])
        per_unit = np.zeros((len(names), len(grid)))
        np.add.at(per_unit, units, wrong)
        sizes = np.bincount(units).astype(float)
        low, high = Clustered.of(
            per_unit.T.ravel(), np.tile(sizes, len(grid)),
            np.repeat(np.arange(len(grid)), len(names)), len(grid)).wilson(0.95)
        counts |= {events: wrong.sum(axis=0).astype(int).tolist(), f"{events}_of": int(own.sum()),
                   f"{events}_low": np.round(low, 3).tolist(),
                   f"{events}_high": np.round(high, 3).tolist()}
    rows = spans(points, ["far", "mr"]).assign(
        place=[int(np.searchsorted(grid, value)) if value <= 1 else -1 for value in chosen],
        promise=[_PROMISES[key] for key in zip(points["unit"], points["calibrator"], strict=True)])
    scored = test["score"].notna()
    begin = int(np.searchsorted(grid, THRESHOLD))
    return {
        "name": name, "auroc": auroc(test.loc[scored, "score"], test.loc[scored, "label"]),
        "counts": json.dumps(counts), "points": rows.to_dict("records"), "begin": begin,
        "at_begin": _at_base_rate(counts, begin, _BASE_RATE, _PER_DAY),
        "lines": {events: " ".join(
            f"{600 * at:.1f},{200 * (1 - count / counts[f'{events}_of']):.1f}"
            for at, count in zip(grid, counts[events], strict=True))
            for events in ("missed", "cried")},
        "x": 600 * float(grid[begin]), "thresholds": len(grid),
        "dev": int((part["split"] == "dev").sum()), "test": len(test),
    }


def _at_base_rate(counts: Mapping[str, Any], place: int, base_rate: float,
                  per_day: float) -> dict[str, float]:
    """Precision and daily alarms of a threshold where a share of all responses misbehaves.

    Parameters
    ----------
    counts : mapping
        "missed" and "cried", error counts by threshold, and "missed_of", "cried_of".
    place : int
        Which threshold.
    base_rate : float
        Share of misbehaving responses, in (0, 1).
    per_day : float
        Responses a day.

    Returns
    -------
    dict of str to float
        "mr", "far"; "alarms" and "false_alarms" and "missed" a day; "precision", the share of
        alarms that are right, NaN without an alarm. `explorer.js` computes the same.
    """
    mr, far = (counts[name][place] / counts[f"{name}_of"] for name in ("missed", "cried"))
    right, wrong = per_day * base_rate * (1 - mr), per_day * (1 - base_rate) * far
    alarms = right + wrong
    return {"mr": mr, "far": far, "alarms": alarms, "false_alarms": wrong,
            "missed": per_day * base_rate * mr, "precision": right / alarms if alarms else np.nan}


# Findings, data card, files ---------------------------------------------------------------


class _Measured(string.Formatter):
    """Fills names such as ``{mr.rules, else TF-IDF:.2f}`` from a table of numbers."""

    def get_field(self, field_name: str, args: Any, kwargs: Mapping[str, Any]) -> Any:
        return kwargs[field_name], field_name


def _findings(folder: Path, shown: Mapping[str, Mapping[str, Any]],
              measured: Mapping[str, str]) -> dict[str, list[dict[str, str]]]:
    """Sentences of `findings.toml` with the numbers of a run; those that it lacks are left out."""
    path = PROJECT / "reports" / "template" / "findings.toml"
    found: dict[str, list[dict[str, str]]] = {}
    stems = {stem[:2]: stem for stem in shown}
    for entry in tomllib.loads(path.read_text(encoding="utf-8"))["finding"]:
        stem = stems.get(entry["notebook"])
        if stem is None:
            continue
        values: dict[str, Any] = {**measured, **shown[stem]}
        for name in ("headline.json", "metrics.json"):
            if (folder / stem / name).is_file():
                values |= json.loads((folder / stem / name).read_text(encoding="utf-8"))
        try:
            sentence = _Measured().vformat(entry["sentence"], (), values)
        except (LookupError, ValueError):
            continue
        anchor = Renderer().new_anchor(entry["section"])
        found.setdefault(entry["paper"], []).append(
            {"sentence": sentence, "href": f"{stem}.html#{anchor}", "number": stem[:2],
             "section": entry["section"]})
    return found


def _glossary() -> list[dict[str, str]]:
    """Terms of `data/glossary.toml` in the order of the alphabet: term, meaning, notebook."""
    terms = tomllib.loads((PROJECT / "data" / "glossary.toml").read_text(encoding="utf-8"))["term"]
    return sorted(terms, key=lambda entry: entry["term"].lower())


def _card(folder: Path) -> Markup:
    """The dataset card with the figures of a run, without the header that the hub reads."""
    manifest = Results(folder / _SAMPLES).finished()
    audit = Results(folder / _AUDIT).manifest() or {}
    card = dataset_card(_table(folder / _SAMPLES, "samples"), manifest["seed"],
                        audit.get("metrics", {}),
                        manifest["outputs"].get("real_samples", {}).get("rows", 0) > 0)
    body = card.split("---\n", 2)[2].partition("\n\n")[2]  # without header and title
    return Markup(Renderer().markdown_html(body))


def _files(folder: Path) -> list[dict[str, Any]]:
    """Every file that notebooks left in a run, by folder, with size and SHA-256."""
    found = []
    for place in sorted(path for path in folder.iterdir() if path.is_dir()):
        manifest: dict[str, Any] = {}
        with suppress(ArtifactError):
            manifest = Results(place).manifest() or {}
        files = list(_listed(place, manifest.get("outputs", {})))
        found.append({"name": place.name, "manifest": manifest, "files": files})
    return found


def _listed(folder: Path, outputs: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.name.startswith(".") or path.suffix == ".lock":
            continue
        name, digest = path.relative_to(folder).as_posix(), digest_file(path)
        known = outputs.get(path.stem, {}) if path.suffix == ".parquet" else {}
        state = "" if not known else "as recorded" if known["file"] == digest else "changed"
        yield {"name": name, "bytes": path.stat().st_size, "digest": digest, "state": state,
               "rows": known.get("rows", "")}
