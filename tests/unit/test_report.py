"""The rendered pages: inert, complete, offline."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nbformat
import pytest

from monitorlab.pipeline.notebooks import Notebook, NotebookError
from monitorlab.pipeline.records import CellFailure, RunRecord
from monitorlab.pipeline.runs import RunIdError
from monitorlab.report.cells import Renderer, _clean_html, _MathError, _to_mathml
from monitorlab.report.page import _RenderedReport, render_report

ATTACK = "<script>alert(1)</script>"
SHOWN = "&lt;script&gt;alert(1)&lt;/script&gt;"

NOTEBOOK = f'''\
# %% [markdown]
# # 6. Signals {ATTACK}
#
# > A claim with {ATTACK} in it.
#
# Section 3.

# %% [markdown]
# **Reads** nothing. **Writes** `steps`.

# %% tags=["parameters"]
PROFILE: str = "tiny"  # tiny | cpu | gpu
RUN_ID: str = "default"  # folder
SEED: int = 1  # seed

# %% [markdown]
# ## The running maximum
#
# With $M_t = \\max_{{u \\le t}} s_u$ and
#
# $$\\sum_{{i=1}}^n \\mathbf{{1}}\\{{M_i > \\lambda\\}}$$
#
# but $\\unknowncommand{{x}}$ stays. <details><summary>Answer</summary>yes</details>

# %%
print("x")
'''


class Page(HTMLParser):
    """Tags, loaded addresses and event handlers of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loaded: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.handlers: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = dict(attrs)
        self.handlers += [name for name in values if name.startswith("on")]
        self.loaded += [str(values[n]) for n in ("src", "srcset", "data", "poster") if n in values]
        if tag == "link" or tag == "base":
            self.loaded.append(str(values.get("href")))
        if tag == "a" and values.get("href"):
            assert not str(values["href"]).lower().startswith(("javascript:", "data:"))
        if tag == "img":
            self.images.append(values)


def assert_inert(html: str) -> Page:
    """Check that nothing on a page can run and nothing is loaded."""
    page = Page(html)
    forbidden = {"script", "iframe", "object", "embed", "form", "link", "base", "svg"}
    assert not forbidden & set(page.tags)
    assert not page.handlers
    assert all(address.startswith("data:image/") for address in page.loaded), page.loaded
    style = "".join(re.findall(r"<style>(.*?)</style>", html, re.DOTALL))
    assert "url(" not in style
    assert "@import" not in style
    return page


def png(color: str = "white", size: tuple[int, int] = (1600, 800)) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "PNG")
    return buffer.getvalue()


def display_data(data: dict[str, Any], metadata: dict[str, Any] | None = None) -> Any:
    return nbformat.v4.new_output("display_data", data=data, metadata=metadata or {})


HOSTILE_OUTPUTS = [
    nbformat.v4.new_output("stream", name="stdout", text=f"\x1b[31mprinted\x1b[0m {ATTACK}\n"),
    display_data({"text/html": f"<table><tr><td>{ATTACK}</td></tr></table>", "text/plain": "t"}),
    display_data({"text/html": "<div>\n<style scoped>\n td {}\n</style>\n<table class='dataframe'>"
                               f"<tr><td>{SHOWN}</td></tr></table></div>"}),
    display_data({"text/markdown": f"**bold** {ATTACK} [x](javascript:alert(1)) "
                                   "![p](https://evil.example/p.png)"}),
    display_data({"text/html": '<img src="https://evil.example/p.png" onerror="alert(1)">'
                               '<a href="javascript:alert(1)">x</a>'
                               '<a href="data:text/html,x">y</a><svg onload="alert(1)"></svg>'
                               '<iframe src="https://evil.example"></iframe>'
                               '<p style="position:fixed;color:red">z</p>'}),
    display_data({"text/latex": f"$\\text{{{ATTACK}}}$"}),
    display_data({"text/plain": f"value {ATTACK}"}),
    display_data({"image/svg+xml": f"<svg xmlns='http://www.w3.org/2000/svg'>{ATTACK}</svg>"},
                 {"image/svg+xml": {"alt": f'a "quoted" {ATTACK}'}}),
    nbformat.v4.new_output("error", ename="ValueError", evalue=ATTACK,
                           traceback=[f"\x1b[0;31mValueError\x1b[0m: {ATTACK}"]),
]


@pytest.mark.parametrize("output", HOSTILE_OUTPUTS, ids=range(len(HOSTILE_OUTPUTS)))
def test_text_from_data_is_shown_and_never_obeyed(output: Any) -> None:
    (html,) = Renderer().outputs_html([output])
    assert_inert(html)
    if ATTACK in json.dumps(output) or SHOWN in json.dumps(output):
        assert "&lt;script&gt;" in html


def test_widgets_leave_nothing_behind() -> None:
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "x"}, "text/plain": "HBox()"}
    assert Renderer().outputs_html([display_data(widget)]) == []
    (html,) = Renderer().outputs_html([display_data({"text/plain": "training: 20 of 20"})])
    assert "20 of 20" in html


def test_carriage_returns_leave_the_last_state() -> None:
    stream = nbformat.v4.new_output("stream", name="stdout", text="10%\r50%\r100%\nend")
    assert "100%\nend" in Renderer().outputs_html([stream])[0]
    assert "50%" not in Renderer().outputs_html([stream])[0]


def test_figures_are_embedded_with_alt_text_and_size() -> None:
    data = {"image/png": base64.b64encode(png(size=(4, 4))).decode(), "text/plain": "<Figure>"}
    details = {"image/png": {"alt": "Delay against level", "width": 640, "height": 320}}
    (html,) = Renderer().outputs_html([display_data(data, details)])
    (image,) = assert_inert(html).images
    assert image["alt"] == "Delay against level"
    assert (image["width"], image["height"]) == ("640", "320")
    assert str(image["src"]).startswith("data:image/png;base64,")


def test_markdown_keeps_structure() -> None:
    notes = Renderer()
    html = notes.markdown_html("## A *b*\n\n### A b\n\n| a | b |\n|---|--:|\n| 1 | 2 |\n\n"
                               "<details><summary>s</summary>\n\ntext\n</details>\n\n"
                               "```python\nx = 1\n```\n\n<!-- hidden -->")
    assert [(h.level, h.anchor) for h in notes.headings] == [(2, "a-b"), (3, "a-b-2")]
    assert '<h2 id="a-b">' in html
    for part in ("<table>", 'style="text-align:right"', "<details>", "<summary>s</summary>",
                 '<span class="n">x</span>'):
        assert part in html
    assert "hidden" not in html


def test_dollars_in_code_and_prices_are_not_mathematics() -> None:
    html = Renderer().markdown_html("`$x$` costs $5 and $6, `$y$`; but $z^2$ is.")
    assert html.count("<math") == 1
    assert "<code>$x$</code> costs $5 and $6, <code>$y$</code>" in html
    assert "<math" not in Renderer().markdown_html("```\n$x$\n```")


def test_titles_in_plain_words() -> None:
    assert Renderer.plain_text("A `b` *c* <b>") == "A b c <b>"


@pytest.mark.parametrize(
    ("tex", "part"),
    [
        (r"\mathbf{1}", "𝟏"),
        (r"\mathbb{1}", "𝟙"),
        (r"\max_{t \le T} s_t", "<munder><mo>max</mo>"),
        (r"\arg\max_x f", "arg\u202fmax"),
        (r"\mathrm{FAR}", "<mi>FAR</mi>"),
        (r"\widehat{\mathrm{FAR}}", "\u0302"),
        (r"\hat\lambda", "ˆ"),
        (r"\lfloor x \rfloor", '<mo stretchy="false">⌊</mo>'),
        (r"\begin{aligned} a &= b \\ c &= d \end{aligned}", "<mtable"),
        (r"\begin{cases} 1 & x>0 \\ 0 & \text{otherwise} \end{cases}", "otherwise"),
        (r"p \sim q", "∼"),
    ],
)
def test_mathematics_of_the_papers(tex: str, part: str) -> None:
    mathml = _to_mathml(tex, display=True)
    assert part in mathml
    assert _clean_html(mathml).count("<m") == mathml.count("<m")  # survives the filter


PRIME = '<mo stretchy="false">′</mo>'


@pytest.mark.parametrize(
    ("tex", "part"),
    [
        ("x' = x + c", f"<mrow><mi>x</mi>{PRIME}</mrow><mo>=</mo>"),
        (r"x^\prime", f"<mrow><mi>x</mi>{PRIME}</mrow>"),
        ("f''(x)", f"<mrow><mi>f</mi>{PRIME.replace('′', '″')}</mrow>"),
        ("x_i'", f"<msub><mrow><mi>x</mi>{PRIME}</mrow><mi>i</mi></msub>"),
        ("x'_i", f"<msub><mrow><mi>x</mi>{PRIME}</mrow><mi>i</mi></msub>"),
        ("x'^2", f"<msup><mrow><mi>x</mi>{PRIME}</mrow><mrow><mn>2</mn></mrow></msup>"),
        ("x_i'^2", f"<msub><mrow><mi>x</mi>{PRIME}</mrow><mi>i</mi></msub><mn>2</mn></msup>"),
    ],
)
def test_a_prime_sits_at_its_letter(tex: str, part: str) -> None:
    mathml = _to_mathml(tex)
    assert part in mathml
    assert part in _clean_html(mathml)
    assert "′" not in re.sub(re.escape(PRIME), "", mathml)


def test_other_powers_stay_powers() -> None:
    assert "<msup><mi>x</mi><mn>2</mn></msup>" in _to_mathml("x^2")
    assert "<msubsup>" in _to_mathml(r"s_t^{\min}")


@pytest.mark.parametrize(
    "tex", [r"\foo{x}", r"\frac{1", r"\text{" + ATTACK + "}", r"\text{<img src=x onerror=y>}", ""]
)
def test_formulas_that_cannot_be_converted_are_refused(tex: str) -> None:
    with pytest.raises(_MathError):
        _to_mathml(tex)
    assert_inert(Renderer()._math(tex, False))


@pytest.fixture
def project(tmp_path: Path) -> tuple[Path, tuple[Notebook, ...]]:
    """Three notebooks: 06 complete and hostile, 07 failed, 08 never run."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    (folder / "06_signals.py").write_text(NOTEBOOK)
    for stem in ("07_online", "08_shift"):
        text = NOTEBOOK.replace("# # 6. Signals", f"# # {int(stem[:2])}. Chapter")
        (folder / f"{stem}.py").write_text(text)
    return tmp_path, Notebook.discover(folder)


def rendered(project: tuple[Path, tuple[Notebook, ...]]) -> _RenderedReport:
    """Write records, executed copies and artifacts by hand, then render."""
    import jupytext

    root, notebooks = project
    runs = root / "runs"
    for notebook in notebooks[:2]:
        document = jupytext.read(notebook.path, fmt="py:percent")
        document.cells[-1].outputs = HOSTILE_OUTPUTS
        document.cells[-1].metadata["papermill"] = {"duration": 61.2}
        path = RunRecord.copy_path(runs, "test", notebook.stem)
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(document, path)
        record = RunRecord(
            stem=notebook.stem, run_id="test", profile="tiny", status="complete",
            parameters={"SEED": 11}, digest=notebook.digest, commit="abc123def",
            started="2026-01-01T00:00:00.000+00:00", finished="2026-01-01T00:01:05.000+00:00",
            seconds=65.0,
        )
        if notebook.number == 7:
            failure = CellFailure(cell=3, line="check(levels)", error="ValueError", message=ATTACK)
            record = dataclasses.replace(record, status="failed", failure=failure)
        record.save(runs)
    figures = runs / "test" / "06_signals" / "figures"
    figures.mkdir(parents=True)
    entries = [{"name": "a", "alt": "first", "thumbnail": False},
               {"name": "b", "alt": f"marked {ATTACK}", "thumbnail": True}]
    (figures / "figures.json").write_text(json.dumps(entries))
    (figures / "b.png").write_bytes(png())
    headline = {"value": "0.91", "caption": f"AUROC {ATTACK}"}
    (figures.parent / "headline.json").write_text(json.dumps(headline))
    return render_report("test", notebooks, runs, root / "reports")


def test_every_page_is_inert_and_offline(project: tuple[Path, tuple[Notebook, ...]]) -> None:
    report = rendered(project)
    assert [page.name for page in report.pages] == ["06_signals.html", "07_online.html"]
    for path in (report.index, *report.pages):
        html = path.read_text()
        assert_inert(html)
        assert "default-src 'none'" in html.replace("&#39;", "'")
        assert SHOWN in html
        assert not list(path.parent.glob(".*")), "no temporary files are left"


def test_index_has_one_card_per_notebook(project: tuple[Path, tuple[Notebook, ...]]) -> None:
    html = rendered(project).index.read_text()
    assert html.count("<article") == 3
    for part in ("complete", "failed", "not run", "0.91", "1 min 05 s", "abc123def", ">11<",
                 "1 January 2026", 'href="06_signals.html"',
                 "cell [3] `check(levels)`: ValueError"):
        assert part in html, part
    assert 'href="08_shift.html"' not in html
    (image,) = Page(html).images
    assert str(image["alt"]).startswith("marked")
    assert len(str(image["src"])) < 30_000, "the thumbnail is made small"


def test_page_has_contents_mathematics_and_neighbours(
    project: tuple[Path, tuple[Notebook, ...]],
) -> None:
    report = rendered(project)
    html = report.pages[0].read_text()
    assert '<a href="#the-running-maximum">' in html
    assert html.count("<math") == 2
    assert "<summary>Answer</summary>" in html
    assert 'class="next" href="07_online.html"' in html
    assert '<span class="seconds">1 min 01 s</span>' in html
    assert len(report.problems) == 4  # the formula of the cell and the one of an output, twice
    assert r"06_signals: $\unknowncommand{x}$" in report.problems[0]
    failed = report.pages[1].read_text()
    assert "This notebook failed" in failed
    assert 'class="previous" href="06_signals.html"' in failed


def test_a_changed_notebook_is_out_of_date(project: tuple[Path, tuple[Notebook, ...]]) -> None:
    rendered(project)
    root, notebooks = project
    path = notebooks[0].path
    path.write_text(path.read_text() + "# a change\n")
    found = Notebook.discover(path.parent)
    html = render_report("test", found, root / "runs", root / "reports").index.read_text()
    assert "out of date" in html
    assert "the notebook changed after this run" in html


def test_an_unknown_run_names_those_that_exist(project: tuple[Path, tuple[Notebook, ...]]) -> None:
    rendered(project)
    root, notebooks = project
    with pytest.raises(RunIdError, match="Runs: test"):
        render_report("other", notebooks, root / "runs", root / "reports")


# What cannot be read costs its own page and no other.


def render_again(project: tuple[Path, tuple[Notebook, ...]]) -> _RenderedReport:
    root, _ = project
    found = Notebook.discover(root / "notebooks", strict=False)
    return render_report("test", found, root / "runs", root / "reports")


@pytest.mark.parametrize("text", [
    "", "{", "[]", "3", '{"cells": 5, "nbformat": 4, "nbformat_minor": 5, "metadata": {}}',
    '{"cells": [{"cell_type": "code"}], "nbformat": 4, "nbformat_minor": 5, "metadata": {}}',
    "\xff\xfe", "cut",
])
def test_one_executed_copy_that_cannot_be_read_stops_no_other(
    project: tuple[Path, tuple[Notebook, ...]], text: str
) -> None:
    rendered(project)
    path = RunRecord.copy_path(project[0] / "runs", "test", "06_signals")
    path.write_text(path.read_text()[:900] if text == "cut" else text, encoding="latin-1")
    report = render_again(project)
    assert [page.name for page in report.pages] == ["07_online.html"]
    (broken,) = report.broken
    assert broken.startswith("06_signals: its executed copy cannot be read") and len(broken) < 300
    html = report.index.read_text()
    assert_inert(html)
    assert "unreadable" in html and 'href="06_signals.html"' not in html
    assert 'class="previous"' not in report.pages[0].read_text()


def test_one_record_that_cannot_be_read_stops_no_other(
    project: tuple[Path, tuple[Notebook, ...]],
) -> None:
    rendered(project)
    path = RunRecord.copy_path(project[0] / "runs", "test", "06_signals").with_suffix(".json")
    path.write_text(path.read_text().replace("65.0", "66.0"))
    report = render_again(project)
    assert [page.name for page in report.pages] == ["07_online.html"]
    (broken,) = report.broken
    assert "06_signals: the record of its execution, 06_signals.json, is damaged" in broken


@pytest.mark.parametrize("text", [
    "", "x = 1", "# ---\n# a: [\n# ---\n", "\xff",
    NOTEBOOK.replace("SEED: int = 1", "SEED: int = (1"),
    NOTEBOOK.replace("SEED: int = 1", "SEED: int = {[]: 1}"),
])
def test_one_source_that_cannot_be_read_stops_no_other(
    project: tuple[Path, tuple[Notebook, ...]], text: str
) -> None:
    rendered(project)
    project[1][0].path.write_text(text, encoding="latin-1")
    report = render_again(project)
    assert [page.name for page in report.pages] == ["07_online.html", "06_signals.html"]
    (broken,) = report.broken
    assert broken.startswith("06_signals: 06_signals.py") and len(broken) < 300
    assert "cannot be read whole" in report.pages[1].read_text()
    with pytest.raises(NotebookError, match="06_signals.py"):
        Notebook.discover(project[0] / "notebooks")


def test_two_notebooks_with_one_number_stop_no_other(
    project: tuple[Path, tuple[Notebook, ...]],
) -> None:
    rendered(project)
    path = project[1][0].path
    path.with_name("06_copy.py").write_text(path.read_text())
    report = render_again(project)
    assert len(report.pages) == 2 and len(report.broken) == 2
    assert all("two notebooks have the number 06" in line for line in report.broken)


def test_lists_of_figures_that_are_none_cost_the_thumbnail(
    project: tuple[Path, tuple[Notebook, ...]],
) -> None:
    rendered(project)
    folder = project[0] / "runs" / "test" / "06_signals" / "figures"
    for text in ("3", "[3]", "[]", "{}", "null", '[{"name": 3}]'):
        (folder / "figures.json").write_text(text)
        assert not render_again(project).broken
    (folder / "figures.json").write_text('[{"name": "b", "alt": "x"}]')
    whole = (folder / "b.png").read_bytes()
    for picture in (b"", whole[:60], whole[:40] + b"\0\0\0\0" + whole[44:]):
        (folder / "b.png").write_bytes(picture)
        assert not render_again(project).broken


def test_what_a_killed_runner_left_is_rendered(project: tuple[Path, tuple[Notebook, ...]]) -> None:
    rendered(project)
    runs = project[0] / "runs"
    path = RunRecord.copy_path(runs, "test", "07_online")
    record = RunRecord.load(runs, "test", "07_online")
    assert record is not None
    dataclasses.replace(record, status="running", failure=None).save(runs)
    part = path.parent / ".07_online.4194305.part"
    part.mkdir()
    (part / "output.ipynb").write_text(path.read_text().replace("x = 1", "kept"))
    path.unlink()
    report = render_again(project)
    assert [page.name for page in report.pages] == ["06_signals.html", "07_online.html"]
    assert "has not finished" in report.pages[1].read_text()
    assert not part.exists()
