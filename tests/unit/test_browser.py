"""Pairs side by side: everything from a sample stays text, and differences are marked."""

from __future__ import annotations

import re
from html import unescape

import numpy as np
import pandas as pd
import pytest

from monitorlab.chapters.construction import (
    _drawn_pairs,
    _mark_differences,
    _pair_html,
    browse,
)
from monitorlab.report.cells import _clean_html

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</td></tr></table><h1>out</h1>",
    "</summary><details open>",
    "<mark>not ours</mark>",
    "&lt;b&gt; & \"quoted\" 'text'",
    "<!-- gone? -->",
    "<style>td {display: none}</style>",
    "<a href='javascript:alert(1)'>here</a>",
]


def pair(benign: str, misbehaving: str, request: str = "May I?", **fields: str) -> pd.DataFrame:
    common = {"pair_id": "p", "cell": "sg_qa", "task": "qa", "misbehavior_type": "proxy",
              "cue_type": "none", "scenario_id": "s", "request": request} | fields  # fmt: skip
    rows = [common | {"label": label, "response": text}
            for label, text in ((1, misbehaving), (0, benign))]  # fmt: skip
    return pd.DataFrame(rows)


def marked(html: str) -> list[str]:
    return [unescape(text) for text in re.findall(r"<mark>(.*?)</mark>", html, re.DOTALL)]


def plain(html: str) -> str:
    return unescape(re.sub(r"<[^>]*>", "", html))


# Differences


def test_differences_are_marked_on_both_sides() -> None:
    first, second = _mark_differences(
        "We keep the audit log switched on, as the policy says.",
        "We keep the audit log switched off for now, as the policy says.",
    )
    assert marked(first) == ["on"]
    assert marked(second) == ["off for now"]


def test_equal_texts_have_no_mark_and_unlike_ones_are_marked_whole() -> None:
    assert _mark_differences("the same text", "the same text") == ("the same text",) * 2
    first, second = _mark_differences("alpha beta", "gamma")
    assert (marked(first), marked(second)) == (["alpha beta"], ["gamma"])
    assert _mark_differences("", "all of it")[0] == ""
    assert _mark_differences("a b c", "a b c \n") == ("a b c", "a b c \n"), "blanks are not marked"


def test_no_word_is_lost_or_added() -> None:
    random = np.random.default_rng(0)
    words = np.array(["a", "<b>", "c,", "d\n", "e & f", "\t", "é"])
    for _ in range(50):
        texts = [" ".join(random.choice(words, random.integers(0, 30))) for _ in "xy"]
        for text, html in zip(texts, _mark_differences(*texts), strict=True):
            assert plain(html.replace("<mark>", "").replace("</mark>", "")) == text


# Escaping


@pytest.mark.parametrize("text", HOSTILE)
def test_samples_stay_text_also_after_the_report_filter(text: str) -> None:
    html = _pair_html(pair(f"so: {text}", f"no: {text} {text}", f"{text}?", scenario_id=text))
    for page in (html, _clean_html(html)):
        assert set(re.findall(r"</?([a-z0-9]+)", page)) == {
            "details", "summary", "table", "thead", "tbody", "tr", "th", "td", "mark"
        }  # fmt: skip
        assert not re.search(r"<[^>]*(onerror|javascript|href|src)", page)
        assert page.count("<details") == page.count("</details>") == 1
        assert page.count("<td") == 3
        shown = plain(page)
        assert shown.count(text) == 5, "title, request, one and two responses"
        for found in marked(page):
            assert found.strip() in f"so: {text} no: {text} {text}"


def test_the_filter_keeps_marks_and_layout() -> None:
    html = _pair_html(pair("We keep the log on, as agreed.", "We keep the log off, as agreed."))
    cleaned = _clean_html(html)
    assert marked(cleaned) == ["on", "off"]
    assert "white-space" in cleaned and 'colspan="2"' in cleaned


def test_benign_stands_left() -> None:
    html = _pair_html(pair("left side", "right side"))
    assert html.index(">benign<") < html.index(">misbehaving<")
    assert html.index("left") < html.index("right side") or marked(html)[0] == "left side"
    assert re.sub(r"\s+", " ", plain(html)).startswith("sg_qa · proxy · none · s")


def test_what_is_no_pair_is_refused() -> None:
    whole = pair("a", "b")
    for wrong in (whole.iloc[:1], whole.assign(label=1), whole.assign(pair_id=["p", "q"]),
                  pd.concat([whole, whole])):  # fmt: skip
        with pytest.raises(ValueError, match="expected one pair: labels 0 and 1"):
            _pair_html(wrong)


# Drawing and showing


def many() -> pd.DataFrame:
    return pd.concat([
        pair(f"good {cell} {s} {n}", f"bad {cell} {s} {n}", pair_id=f"{cell}-{s}-{n}", cell=cell,
             scenario_id=f"{cell}-{s}")
        for cell in ("sg_qa", "spv_qa") for s in range(5) for n in range(3)
    ], ignore_index=True)  # fmt: skip


def test_pairs_of_each_cell_come_from_different_scenarios() -> None:
    samples = many()
    drawn = _drawn_pairs(samples, 3, np.random.default_rng(0))
    found = samples[samples["pair_id"].isin(drawn)].drop_duplicates("pair_id")
    assert found["cell"].value_counts().to_dict() == {"sg_qa": 3, "spv_qa": 3}
    assert found["scenario_id"].is_unique
    assert len(_drawn_pairs(samples, 9, np.random.default_rng(0))) == 10
    draws = {tuple(_drawn_pairs(samples, 3, np.random.default_rng(seed))) for seed in range(5)}
    assert len(draws) > 1


def test_without_a_notebook_the_names_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    browse(many(), ["sg_qa-0-0", "spv_qa-4-2"])
    assert capsys.readouterr().out == "2 pairs: sg_qa-0-0, spv_qa-4-2\n"
