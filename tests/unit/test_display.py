"""What notebooks show: text from data stays text, figures keep their alt text, stderr is empty."""

import io
import json
import struct
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
from markdown_it import MarkdownIt
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import markdown2html_mistune

from monitorlab import display
from monitorlab.pipeline.artifacts import Run, open_run
from monitorlab.pipeline.runner import KERNEL_NAME, _kernel_environment

plt.switch_backend("Agg")

SCRIPT = "<script>alert(1)</script>"
NASTY = [
    SCRIPT, "<img src=x onerror=alert(1)>", "[x](javascript:alert(1))", "**bold**", "`code`",
    "# title", "- item", "1. item", "> quote", "$x^2$", "a | b", "&lt;script&gt;", "\\<b>", "_x_",
    "line\n\n<script>alert(2)</script>", "    indented", "![i](http://a/b.png)", "http://a.b/c",
    "~~gone~~", "---", "<!-- x", "{{ x }}", "{x}", "\x1b[31mred",
]
Shown = list[tuple[dict[str, Any], dict[str, Any]]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    run = open_run("06_x", "tiny", root=tmp_path)
    monkeypatch.setattr(display, "_run", run)
    yield run
    plt.close("all")


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Shown:
    """Collect what goes to the notebook: (data, metadata) per output."""
    outputs: Shown = []
    monkeypatch.setattr(display, "_in_kernel", lambda: True)
    monkeypatch.setattr("IPython.display.display",
                        lambda data, raw, metadata: outputs.append((data, metadata)))
    return outputs


class Page(HTMLParser):
    """Collects the tags and the text that a browser would see."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.images: list[dict[str, str]] = []
        self.text = ""
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "img":
            self.images.append({name: value or "" for name, value in attrs})

    def handle_data(self, data: str) -> None:
        self.text += data


def line(title: str = "") -> Figure:
    fig, ax = plt.subplots(figsize=(3, 2))
    ax.plot([0, 1])
    ax.set_title(title)
    return fig


# Figures


def test_a_figure_is_saved_twice_shown_with_its_alt_text_and_closed(
    run: Run, shown: Shown
) -> None:
    fig = line()
    display.show(fig, "06_accuracy", alt='Accuracy "rises" & <falls>')
    folder = run.folder / "figures"
    names = ["06_accuracy.png", "06_accuracy.svg", "figures.json"]
    assert sorted(path.name for path in folder.iterdir()) == names
    (data, metadata), = shown
    assert data["image/png"] == (folder / "06_accuracy.png").read_bytes()
    assert data["text/plain"] == '[figure 06_accuracy: Accuracy "rises" & <falls>]'
    size = struct.unpack(">II", data["image/png"][16:24])
    assert metadata["image/png"] == {
        "alt": 'Accuracy "rises" & <falls>', "width": size[0] // 2, "height": size[1] // 2}
    assert size[0] > 400, "3 inches must have twice 96 pixels each, for dense screens"
    assert not plt.fignum_exists(fig.number)


def test_text_in_a_figure_cannot_break_out_of_the_svg(run: Run, shown: Shown) -> None:
    display.show(line(f"--> {SCRIPT}"), "06_x", alt="a line")
    tree = ET.parse(run.folder / "figures" / "06_x.svg")
    assert not [node for node in tree.iter() if str(node.tag).endswith("script")]


def test_the_same_figure_gives_the_same_bytes(run: Run, shown: Shown) -> None:
    folder = run.folder / "figures"
    found = []
    for _ in range(2):
        display.show(line("t"), "06_x", alt="a line")
        found.append(((folder / "06_x.svg").read_bytes(), (folder / "06_x.png").read_bytes()))
    assert found[0] == found[1]


def test_figures_are_listed_in_order_with_the_thumbnail_marked(run: Run, shown: Shown) -> None:
    for name, thumbnail in (("06_a", False), ("06_b", True), ("06_a", False)):
        display.show(line(), name, alt=f"figure {name}", thumbnail=thumbnail)
    assert json.loads((run.folder / "figures" / "figures.json").read_text()) == [
        {"name": "06_a", "alt": "figure 06_a", "thumbnail": False},
        {"name": "06_b", "alt": "figure 06_b", "thumbnail": True},
    ]


@pytest.mark.parametrize(("name", "alt", "words"), [
    ("06_x", "", "has no alt text"), ("06_x", "  ", "has no alt text"),
    ("../x", "a line", "figure name '../x'"), ("", "a line", "figure name ''"),
])
def test_a_figure_without_alt_text_or_with_a_bad_name_is_refused(
    run: Run, name: str, alt: str, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        display.show(line(), name, alt=alt)
    assert not (run.folder / "figures").exists()


def test_showing_needs_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "_run", None)
    with pytest.raises(RuntimeError, match=r"call display\.use\(run\)"):
        display.show(line(), "06_x", alt="a line")
    plt.close("all")


def test_use_chooses_the_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "_run", None)
    display.use(run)
    assert display._current_run() is run


def test_the_headline_is_stored_for_the_index_page(run: Run) -> None:
    display.headline("0.91", "step AUROC of the verifier")
    assert json.loads((run.folder / "headline.json").read_text()) == {
        "value": "0.91", "caption": "step AUROC of the verifier"}
    with pytest.raises(ValueError, match="neither part may be empty"):
        display.headline("", "x")


# Tables


def test_a_table_formats_and_aligns(shown: Shown) -> None:
    frame = pd.DataFrame({
        "method": ["CRC", "UCB", "e"], "FAR": [0.0951, 0.0751, np.nan], "n": [5, 60, 7],
        "delay": [np.inf, -0.0001, 1.0], "ok": [True, False, None],
    })
    display.table(frame, decimals={"FAR": 2}, caption="Rates")
    (data, _), = shown
    assert data["text/plain"].splitlines() == [
        "Rates",
        "method   FAR   n  delay  ok",
        "CRC     0.10   5      ∞  yes",
        "UCB     0.08  60  0.000  no",
        "e          –   7  1.000  –",
    ]
    markup = data["text/html"]
    assert '<td class="number" style="text-align: right' in markup
    assert '<td style="text-align: left' in markup
    assert "nan" not in markup.lower() and "caption" in markup


def test_a_small_p_value_is_never_shown_as_zero(shown: Shown) -> None:
    p = [0.2, 0.0345, 0.001, 0.000999, 0.0, np.nan]
    frame = pd.DataFrame({"p": p, "p_holm": p, "parsed": p})
    display.table(frame, decimals=2)
    display.table(frame[["p"]], decimals=4)
    (few, _), (more, _) = shown
    rows = [row.split("  ") for row in few["text/plain"].splitlines()[1:]]
    small = "< .001"
    for column, texts in enumerate((
        ["0.200", "0.035", "0.001", small, small, "–"],
        ["0.200", "0.035", "0.001", small, small, "–"],
        ["0.20", "0.03", "0.00", "0.00", "0.00", "–"],
    )):
        assert [[cell.strip() for cell in row if cell.strip()][column] for row in rows] == texts
    assert more["text/plain"].split()[1:4] == ["0.2000", "0.0345", "0.0010"]
    assert few["text/html"].count("&lt; .001") == 4, "the sign is escaped"


def test_a_named_index_becomes_columns_and_a_plain_one_does_not(shown: Shown) -> None:
    frame = pd.DataFrame({"x": [1.0]}, index=pd.Index(["CRC"], name="method"))
    display.table(frame, decimals=1)
    display.table(frame.reset_index(drop=True), decimals=1)
    assert [data["text/plain"].splitlines()[0].split() for data, _ in shown] == [
        ["method", "x"], ["x"]]


def test_short_cells_stay_on_one_line_and_sentences_may_wrap(shown: Shown) -> None:
    frame = pd.DataFrame({"far": ["0.10 (0.04 to 0.19)"], "why": ["one sentence that is long"]})
    display.table(frame)
    markup = shown[0][0]["text/html"]
    assert markup.count("white-space: nowrap;") == 2  # header and cell of the first column
    assert 'nowrap;">0.10 (0.04 to 0.19)<' in markup


def test_everything_in_a_table_is_escaped(shown: Shown) -> None:
    frame = pd.DataFrame({SCRIPT: NASTY, "b": 1})
    display.table(frame, caption=SCRIPT)
    page = Page(shown[0][0]["text/html"])
    assert set(page.tags) == {"table", "caption", "thead", "tbody", "tr", "th", "td"}
    assert all(text in page.text for text in NASTY)


def test_a_multi_line_value_stays_in_its_row_of_the_plain_table(shown: Shown) -> None:
    display.table(pd.DataFrame({"a": ["one\ntwo\x1b[31m"], "b": [1]}))
    assert shown[0][0]["text/plain"].splitlines()[1] == "one two[31m  1"


def test_decimals_of_an_unknown_column_are_an_error() -> None:
    with pytest.raises(ValueError, match="names column 'y', the table has x"):
        display.table(pd.DataFrame({"x": [1.0]}), decimals={"y": 1})


# Sentences


@pytest.mark.parametrize("value", NASTY)
@pytest.mark.parametrize("template", ["{x}", "Text **bold** {x} end", "- {x}"])
def test_text_from_data_is_neither_html_nor_markdown(
    shown: Shown, template: str, value: str
) -> None:
    display.say(template, x=value)
    source = shown[0][0]["text/markdown"]
    harmless = Page(MarkdownIt("gfm-like", {"linkify": False}).render(template.format(x="word")))
    for markup in (MarkdownIt("commonmark").render(source), markdown2html_mistune(source)):
        page = Page(markup)
        assert page.tags == harmless.tags, markup
        expected = " ".join("".join(s for s in value.replace("\n", " ") if s.isprintable()).split())
        assert expected in " ".join(page.text.split())


def test_the_authors_own_markdown_is_kept(shown: Shown) -> None:
    display.say("**{name}** has $R < \\epsilon$ at {far:.2f}", name="CRC", far=0.0951)
    data = shown[0][0]
    assert data["text/markdown"] == "**CRC** has $R < \\epsilon$ at 0.10"
    assert data["text/plain"] == data["text/markdown"]


@pytest.mark.parametrize(("template", "value", "text"), [
    ("{x:.1%}", 0.123, "12.3%"), ("{x:,}", 12345, "12,345"), ("{x:.2f}", -0.001, "0.00"),
    ("{x:.2f}", float("nan"), "undefined"), ("{x}", None, "undefined"), ("{x}", pd.NA, "undefined"),
    ("{x:.1f}", float("inf"), "∞"), ("{x:.1f}", -np.inf, "-∞"), ("{x:d}", np.int64(3), "3"),
    ("{x}", True, "yes"), ("{x:.1f}", [0.25, 1.0], "0.2, 1.0"), ("{x:.1f}", -1.25, "-1.2"),
    ("{x}", ["a*b", "c"], "a*b, c"),
])
def test_values_are_formatted_by_type(
    shown: Shown, template: str, value: object, text: str
) -> None:
    display.say(template, x=value)
    assert shown[0][0]["text/plain"] == text


def test_items_of_a_list_are_escaped_too(shown: Shown) -> None:
    display.say("{x}", x=[SCRIPT, "*a*"])
    assert "<" not in shown[0][0]["text/markdown"] and "*" not in shown[0][0]["text/markdown"]


def test_a_conversion_cannot_bypass_the_escape() -> None:
    with pytest.raises(ValueError, match="'!r' is not supported"):
        display.say("{x!r}", x=SCRIPT)


def test_outside_a_notebook_the_plain_text_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    display.say("**{x}**", x="a_b")
    display.table(pd.DataFrame({"x": [1.0]}), decimals=1)
    assert capsys.readouterr().out == "**a_b**\n  x\n1.0\n"


# Progress


def test_progress_yields_everything_and_is_silent_without_a_screen(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert list(display.progress(range(3), "counting")) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_progress_draws_a_bar_on_a_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Screen()
    monkeypatch.setattr("sys.stderr", screen)
    assert list(display.progress((i for i in "ab"), "reading", total=2)) == ["a", "b"]
    assert "reading" in screen.getvalue() and "2/2" in screen.getvalue()


# In a real kernel

CELLS = f'''
from pathlib import Path
import matplotlib.pyplot as plt
from monitorlab import display
from monitorlab.pipeline.artifacts import open_run
run = open_run("06_x", "tiny", root=Path("."))
display.use(run)
# cell
for _ in display.progress(range(3), "training"):
    pass
# cell
for _ in display.progress(iter("abc"), "reading"):
    break
# cell
fig, ax = plt.subplots(figsize=(2, 1))
display.show(fig, "06_x", alt='An "empty" {SCRIPT} axis')
# cell
display.say("value {{x}}", x="{SCRIPT}")
'''


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> nbformat.NotebookNode:
    cells = [nbformat.v4.new_code_cell(text.strip()) for text in CELLS.split("# cell")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    folder = tmp_path_factory.mktemp("kernel")
    with _kernel_environment("tiny"):
        client = NotebookClient(notebook, timeout=60, kernel_name=KERNEL_NAME,
                                resources={"metadata": {"path": str(folder)}})
        return client.execute()


def test_a_kernel_writes_nothing_to_stderr_and_shows_the_figure_once(
    executed: nbformat.NotebookNode,
) -> None:
    outputs = [output for cell in executed.cells for output in cell.outputs]
    assert [output.output_type for output in outputs] == ["display_data"] * 4
    assert sum("image/png" in output.data for output in outputs) == 1


def test_a_finished_bar_is_a_line_of_text_without_times(executed: nbformat.NotebookNode) -> None:
    assert executed.cells[1].outputs[0].data == {"text/plain": "training: 3 of 3"}
    assert executed.cells[2].outputs[0].data == {"text/plain": "reading: 1"}


def test_the_rendered_page_keeps_alt_text_and_runs_no_script(
    executed: nbformat.NotebookNode,
) -> None:
    page, _ = HTMLExporter(template_name="classic", exclude_input=True).from_notebook_node(executed)
    image = next(tag for tag in Page(page).images if "alt" in tag)
    assert image["alt"] == f'An "empty" {SCRIPT} axis' and image["src"].startswith("data:image/png")
    assert SCRIPT not in page and "value &lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_spans_join_estimates_and_limits() -> None:
    frame = pd.DataFrame({
        "name": ["a", "b"], "mr": [0.123, np.nan], "mr_low": [0.1, np.nan],
        "mr_high": [0.2, np.nan],
    })
    joined = display.spans(frame, ["mr"])
    assert list(joined.columns) == ["name", "mr"]
    assert list(joined["mr"]) == ["0.12 (0.10 to 0.20)", "–"]
    assert display.spans(frame, ["mr"], decimals=1)["mr"][0] == "0.1 (0.1 to 0.2)"
