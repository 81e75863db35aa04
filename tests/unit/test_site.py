"""The pages beside the notebooks: computed from a run, inert, and usable in a real browser."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
import time
import tomllib
import urllib.request
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from monitorlab.commands.calibrate import Calibrated, Plan
from monitorlab.evaluation import operating_points, rates
from monitorlab.online.score_files import load_scores
from monitorlab.pipeline.notebooks import Notebook
from monitorlab.pipeline.records import RunRecord
from monitorlab.pipeline.runs import open_run
from monitorlab.report import site
from monitorlab.report.page import _RenderedReport, render_report
from monitorlab.storage.sources import project_root
from monitorlab.storage.tables import SCHEMAS

HOSTILE = ("</script><script>alert(1)</script><!-- </pre><img src=x onerror=alert(1)> "
           "\u2028 {{ 7 * 7 }} ' \" & &lt;b&gt;")
SCORED, PARTIAL = f"scored {HOSTILE}", "partial"
HEADINGS = {
    "01_benchmark_construction": "Every label, checked",
    "03_monitor_evaluation": "How often does each monitor miss, and how often is its alarm false?\n"
                             "#\n# ## Which differences between monitors are real?",
}


def samples_table(pairs: int = 24) -> pd.DataFrame:
    """Pairs in two cells and both splits; two pairs share a scenario, one is hostile."""
    rows = []
    for cell, split in ((c, s) for c in ("sg_qa", "spv_code") for s in ("dev", "test")):
        for number in range(pairs):
            name = f"{cell}/{split}-{number}"
            common = {
                "pair_id": name, "scenario_id": f"{cell}/{split}-{number // 2}", "cell": cell,
                "category": cell.split("_")[0], "task": cell.split("_")[1],
                "misbehavior_type": "proxy", "cue_type": "none", "source": "written",
                "generator": "test", "request": f"request of {name}", "has_thinking": False,
                "split": split, "tier": ("open", "hidden")[number % 2], "protocol": "plain",
                "rule": "the rule", "evidence": "",
            }
            words = HOSTILE if name == "sg_qa/test-3" else "plain words"
            rows += [common | {"sample_id": f"{name}-{label}", "label": label,
                               "response": f"{words} {label}"} for label in (0, 1)]
    return pd.DataFrame(rows)[list(SCHEMAS["samples"].columns)]


def verdicts_table(samples: pd.DataFrame) -> pd.DataFrame:
    """A scored monitor that is better than chance, one that mostly fails, and a constant."""
    random = np.random.default_rng(0)
    scores = np.round(np.clip(random.normal(0.4 + 0.2 * samples["label"], 0.2), 0, 1), 3)
    failed = np.arange(len(samples)) % 3 > 0
    said = {
        SCORED: (scores, scores > 0.5, np.zeros(len(samples), bool)),
        PARTIAL: (np.full(len(samples), np.nan), np.ones(len(samples), bool), failed),
        "always alarm": (np.ones(len(samples)), np.ones(len(samples), bool), failed & False),
    }
    tables = []
    for name, (score, verdict, fails) in said.items():
        table = pd.DataFrame({
            "sample_id": samples["sample_id"], "monitor": name, "prompt": "none", "draw": 0,
            "status": np.where(fails, "refused", "parsed"),
            "verdict": pd.Series(verdict).astype("boolean").mask(fails),
            "score": score, "evidence": HOSTILE, "seconds": 0.1,
            "request_hash": [hashlib.sha256(f"{name}{i}".encode()).hexdigest()
                             for i in samples["sample_id"]],
        })
        tables.append(table.reindex(columns=list(SCHEMAS["verdicts"].columns)))
    return pd.concat(tables, ignore_index=True)


def render(root: Path, samples: pd.DataFrame) -> _RenderedReport:
    """Write a run of two notebooks by hand, and render it."""
    (root / "notebooks").mkdir()
    for stem, heading in HEADINGS.items():
        (root / "notebooks" / f"{stem}.py").write_text(
            f"# %% [markdown]\n# # {int(stem[:2])}. Chapter\n#\n# > A claim.\n\n"
            "# %% [markdown]\n# **Reads** nothing. **Writes** nothing.\n\n"
            '# %% tags=["parameters"]\nPROFILE: str = "tiny"  # tiny\nRUN_ID: str = "x"  # folder\n'
            f"SEED: int = 1  # seed\n\n# %% [markdown]\n# ## {heading}\n")
    notebooks = Notebook.discover(root / "notebooks")
    tables = {"01_benchmark_construction": {"samples": samples},
              "03_monitor_evaluation": {"verdicts": verdicts_table(samples)}}
    for notebook in notebooks:
        with open_run(notebook.stem, "tiny", "small", 7, root=root) as run:
            for name, table in tables[notebook.stem].items():
                run.write_table(name, table)
            run.write_metrics({"confirmed": 1.0, "checked": 96, "scenarios": 48})
        path = RunRecord.copy_path(root / "data" / "runs", "small", notebook.stem)
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(jupytext.read(notebook.path, fmt="py:percent"), path)
        RunRecord(
            notebook.stem, "small", "tiny", "complete", {"SEED": 7}, notebook.digest,
            "2026-01-01T00:00:00.000+00:00", "2026-01-01T00:00:01.000+00:00", 1.0,
        ).save(root / "data" / "runs")
    return render_report("small", notebooks, root / "data" / "runs", root / "reports")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> _RenderedReport:
    return render(tmp_path_factory.mktemp("project"), samples_table())


@pytest.fixture(scope="module")
def judged() -> pd.DataFrame:
    samples = samples_table()
    return rates.join(verdicts_table(samples), samples).assign(
        sort=lambda rows: np.where(rows["name"] == "always alarm", "baseline", "monitor"))


class Texts(HTMLParser):
    """Tags of a page, and the text of every element with a class or of a script."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append((self.tags[-1][0] if self.tags else "", data))


def page(report: _RenderedReport, name: str) -> str:
    return (report.index.parent / name).read_text(encoding="utf-8")


# What is computed


def test_all_pages_stand_in_one_navigation(report: _RenderedReport) -> None:
    names = [path.name for path in report.beside]
    assert names == ["leaderboard.html", "pairs.html", "explorer.html", "glossary.html",
                     "data.html", "files.html"]
    for path in (report.index, *report.pages, *report.beside):
        tags = Texts(path.read_text()).tags
        links = [attributes.get("href") for tag, attributes in tags if tag == "a"]
        assert links[0] == "#main" and links[2:8] == names
        assert next(a for tag, a in tags if tag == "main")["id"] == "main"


def test_the_leaderboard_counts_as_by_hand(judged: pd.DataFrame) -> None:
    test = judged[judged["split"] == "test"]
    boards = site._leaderboard(test, np.random.default_rng(0))
    assert [(b["by"], b["title"]) for b in boards] == [
        ("", "all"), ("cell", "S&PV code"), ("cell", "SG QA"), ("tier", "hidden"),
        ("tier", "open"), ("protocol", "plain")]
    for board, part in ((boards[0], test), (boards[2], test[test["cell"] == "sg_qa"])):
        own = part[part["name"] == SCORED]
        row = next(r for r in board["rows"] if r["name"] == SCORED)
        missed = float((own["score"] <= 0.5)[own["label"] == 1].mean())
        cried = float((own["score"] > 0.5)[own["label"] == 0].mean())
        area = roc_auc_score(own["label"], own["score"])
        assert row["n"] == len(own) and row["answered"] == 1
        for name, value in (("mr", missed), ("far", cried), ("auroc", area),
                            ("balanced_accuracy", 1 - (missed + cried) / 2)):
            said, low, high = (float(number) for number in re.findall(r"\d\.\d\d", row[name]))
            assert abs(said - value) < 0.0051 and low < said < high
    sorts = {row["name"]: row["sort"] for row in boards[0]["rows"]}
    assert sorts == {SCORED: "monitor", PARTIAL: "partial", "always alarm": "baseline"}


def test_few_samples_of_a_group_make_no_row(judged: pd.DataFrame) -> None:
    rare = judged["sample_id"].isin(judged["sample_id"].unique()[-6:])
    test = judged[judged["split"] == "test"].assign(
        tier=lambda rows: rows["tier"].mask(rare, "veiled"))
    boards = site._leaderboard(test, np.random.default_rng(0))
    assert "veiled" not in {board["title"] for board in boards}


def test_the_explorer_counts_on_test_and_calibrates_on_dev(judged: pd.DataFrame) -> None:
    (found,) = site._explored(judged)  # the partial one and the constant are no choice
    assert found["name"] == SCORED
    counts = json.loads(found["counts"])
    own = judged[judged["name"] == SCORED]
    test, dev = own[own["split"] == "test"], own[own["split"] == "dev"]
    bad = test["label"] == 1
    for place in (0, 37, len(counts["threshold"]) - 1):
        threshold = counts["threshold"][place]
        assert counts["missed"][place] == (test["score"] <= threshold)[bad].sum()
        assert counts["cried"][place] == (test["score"] > threshold)[~bad].sum()
    assert counts["missed_of"] == bad.sum() and counts["cried_of"] == (~bad).sum()
    benign = dev[dev["label"] == 0]
    for point in found["points"]:
        rule = operating_points.choose_rule(
            operating_points.operating_scores(benign), benign["scenario_id"], point["level"],
            point["calibrator"], 0.1, point["unit"])
        assert point["threshold"] == rule.value
        if point["place"] >= 0:
            assert counts["threshold"][point["place"]] == pytest.approx(rule.value, abs=1e-6)
    moved = judged.assign(score=judged["score"].mask(judged["split"] == "test", 0.9))
    again = site._explored(moved)[0]["points"]
    assert [p["threshold"] for p in again] == [p["threshold"] for p in found["points"]]
    assert not site._explored(judged[judged["split"] == "test"])


def test_precision_and_alarms_follow_from_the_base_rate() -> None:
    counts = {"missed": [5, 10], "missed_of": 10, "cried": [25, 0], "cried_of": 100}
    found = site._at_base_rate(counts, 0, 0.01, 10_000)
    # 100 misbehave and 50 are caught; of 9,900 others every fourth alarms
    assert found == pytest.approx({"mr": 0.5, "far": 0.25, "alarms": 2525, "false_alarms": 2475,
                                   "missed": 50, "precision": 50 / 2525})
    assert np.isnan(site._at_base_rate(counts, 1, 0.01, 10_000)["precision"])


def test_pairs_show_who_erred_on_which_side(judged: pd.DataFrame) -> None:
    samples = samples_table()
    values = site._pairs(samples, judged, np.random.default_rng(1))
    assert len(values["pairs"]) == 48 and values["of"] == 48
    assert values["monitors"] == [PARTIAL, SCORED], "constants have nothing to show"
    own = judged[judged["name"] == SCORED].set_index("sample_id")
    wrong = (own["score"] > 0.5) != (own["label"] == 1)
    place = str(values["monitors"].index(SCORED))
    for pair in values["pairs"]:
        for label, kind in ((1, "missed"), (0, "cried")):
            assert (place in pair[kind].split()) == wrong[f"{pair['about']['pair_id']}-{label}"]


def test_fewer_pairs_are_drawn_where_texts_are_long(judged: pd.DataFrame) -> None:
    samples = samples_table()
    samples["response"] = "x" * 40_000
    values = site._pairs(samples, judged, np.random.default_rng(1))
    assert values["per_cell"] == 6 and len(values["pairs"]) == 12
    small = site._pairs(samples_table(), judged, np.random.default_rng(1))["pairs"]
    names = {pair["about"]["pair_id"] for pair in small}
    assert {pair["about"]["pair_id"] for pair in values["pairs"]} <= names


# What is shown


@pytest.mark.parametrize("name", ["leaderboard", "pairs", "explorer"])
def test_hostile_text_stays_text(report: _RenderedReport, name: str) -> None:
    html = page(report, f"{name}.html")
    found = Texts(html)
    assert not {"img", "iframe", "link", "object"} & {tag for tag, _ in found.tags}
    assert not [a for _, attributes in found.tags for a in attributes if a.startswith("on")]
    scripts = [text for tag, text in found.texts if tag == "script" and text.strip()]
    script = project_root() / "reports" / "template" / f"{name}.js"
    assert scripts == ([script.read_text()] if script.exists() else [])
    shown = "".join(text for tag, text in found.texts if tag in ("pre", "th", "option", "h2"))
    assert HOSTILE in shown


def test_the_policy_allows_the_own_script_alone(report: _RenderedReport) -> None:
    for path in (report.index, *report.pages, *report.beside):
        html = path.read_text(encoding="utf-8")
        policy = next(str(attributes["content"]) for tag, attributes in Texts(html).tags
                      if attributes.get("http-equiv") == "Content-Security-Policy")
        assert policy.startswith("default-src 'none'; img-src data:")
        scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
        hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
                  for text in scripts]
        assert re.findall(r"script-src '(.*)'\Z", policy) == [f"sha256-{h}" for h in hashes]
        assert len(scripts) == (path.name in ("pairs.html", "explorer.html"))
        assert path.stat().st_size < 4_000_000


def test_a_changed_table_is_marked(tmp_path: Path) -> None:
    render(tmp_path, samples_table(2))
    folder = tmp_path / "data" / "runs" / "small"
    path = folder / "03_monitor_evaluation" / "verdicts.parquet"
    path.write_bytes(path.read_bytes() + b"x")
    states = {file["name"]: file["state"] for found in site._files(folder)
              for file in found["files"]}
    assert states["samples.parquet"] == "as recorded" and states["verdicts.parquet"] == "changed"
    found = site.survey_site(folder, (), {})
    assert [page.href for page in found.pages] == ["glossary.html", "data.html", "files.html"]
    (reason,) = found.lacking
    assert "was changed after it was written" in reason and "python -m monitorlab run 03" in reason


def test_findings_are_filled_or_left_out(report: _RenderedReport) -> None:
    html = page(report, "index.html")
    assert "100.0% of 96 labels were confirmed" in html
    assert 'href="01_benchmark_construction.html#every-label-checked"' in html
    assert "TF-IDF misses" not in html, "there is no such monitor in this run"


def test_findings_type_no_number_and_link_to_headings_that_exist() -> None:
    path = project_root() / "reports" / "template" / "findings.toml"
    sources = {p.name[:2]: p.read_text() for p in (project_root() / "notebooks").glob("*.py")}
    for entry in tomllib.loads(path.read_text())["finding"]:
        assert f"## {entry['section']}\n" in sources[entry["notebook"]], entry["section"]
        words = re.sub(r"\{[^}]*\}", "", entry["sentence"]).replace(".50: chance", "")
        assert not re.search(r"\d", words), entry["sentence"]


def test_terms_are_plain_and_stand_in_their_notebook() -> None:
    terms = site._glossary()
    assert len(terms) >= 40 and len({entry["term"].lower() for entry in terms}) == len(terms)
    sources = {p.name[:2]: re.sub(r"\s*\n# ?", " ", p.read_text()).lower()
               for p in (project_root() / "notebooks").glob("*.py")}
    for entry in terms:
        assert 1 <= len(re.findall(r"[a-z0-9)]\.(?= |\Z)", entry["meaning"])) <= 2, entry
        wanted = entry.get("find", entry["term"]).lower()
        assert wanted in sources[entry["notebook"]], entry["term"]


# In a browser


class Browser:
    """A headless Chromium, driven through its debugging port."""

    def __init__(self, program: str, folder: Path) -> None:
        websocket = pytest.importorskip("websocket", reason="websocket-client is not installed")
        self._process = subprocess.Popen(
            [program, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
             "--remote-debugging-port=0", "--remote-allow-origins=*", f"--user-data-dir={folder}",
             "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.events: list[dict[str, Any]] = []
        self._number = 0
        try:
            port = self._port(folder / "DevToolsActivePort")
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=20) as answer:
                tab = next(one for one in json.load(answer) if one["type"] == "page")
            self._socket = websocket.create_connection(tab["webSocketDebuggerUrl"], timeout=20)
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.call(f"{domain}.enable")
        except BaseException:
            self.close()
            raise

    def _port(self, path: Path) -> str:
        for _ in range(400):
            if path.exists() and path.read_text().strip():
                return path.read_text().split()[0]
            time.sleep(0.05)
        raise TimeoutError("Chromium opened no debugging port within 20 s")

    def call(self, method: str, **values: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": values}
        self._socket.send(json.dumps(message))
        while True:
            answer = json.loads(self._socket.recv())
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return dict(answer["result"])
            self.events.append(answer)

    def load(self, path: Path) -> None:
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(json.loads(self._socket.recv()))

    def value(self, expression: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def complaints(self) -> list[Any]:
        """Console messages, errors, and everything that was asked of a network."""
        said = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
        found = [event["params"] for event in self.events if event["method"] in said]
        asked = [event["params"]["request"]["url"] for event in self.events
                 if event["method"] == "Network.requestWillBeSent"]
        return found + [url for url in asked if not url.startswith(("file:", "data:"))]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which(
        "google-chrome")
    if program is None:
        pytest.skip("no Chromium to look at the pages: apt-get install chromium")
    opened = Browser(program, tmp_path_factory.mktemp("chromium"))
    yield opened
    opened.close()


def test_the_page_of_a_policy_is_no_wider_than_the_window(
    browser: Browser, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    rows = [(i, step, score, i % 2) for i in range(120)
            for step, score in enumerate(rng.normal(0.5 + 0.2 * (i % 2), 0.2, 4), start=1)]
    frame = pd.DataFrame(rows, columns=["trajectory_id", "step", "score", "label"])
    frame.to_csv(tmp_path / "log.csv", index=False)
    data = load_scores(tmp_path / "log.csv", orientation="safety", positive="safe")
    Calibrated.of(data, Plan(level=0.1, side="safety")).save(tmp_path / "policy")
    for width in (1280, 375):
        browser.call("Emulation.setDeviceMetricsOverride", width=width, height=800,
                     deviceScaleFactor=1, mobile=False)
        browser.load(tmp_path / "policy" / "page.html")
        assert browser.value("document.documentElement.scrollWidth") <= width
    assert "of minus the score" in (tmp_path / "policy" / "page.html").read_text(encoding="utf-8")


def test_every_page_loads_without_complaint_and_every_link_leads_somewhere(
    report: _RenderedReport, browser: Browser, tmp_path: Path
) -> None:
    links, anchors = set(), set()
    for path in (report.index, *report.pages, *report.beside):
        for width, scheme in ((1280, "light"), (375, "dark")):
            browser.call("Emulation.setDeviceMetricsOverride", width=width, height=800,
                         deviceScaleFactor=1, mobile=False)
            browser.call("Emulation.setEmulatedMedia",
                         features=[{"name": "prefers-color-scheme", "value": scheme}])
            browser.load(path)
            browser.value("document.querySelectorAll('details').forEach(d => { d.open = true; })")
            assert browser.value("document.documentElement.scrollWidth") <= width, path.name
            picture = browser.call("Page.captureScreenshot")["data"]
            (tmp_path / f"{path.stem}-{width}.png").write_bytes(base64.b64decode(picture))
            assert browser.complaints() == [], path.name
        links |= set(browser.value("[...document.links].map(a => a.href)"))
        anchors |= {path.as_uri()} | {f"{path.as_uri()}#{name}" for name in browser.value(
            "[...document.querySelectorAll('[id]')].map(e => encodeURIComponent(e.id))")}
    assert {link for link in links if link.startswith("file:")} <= anchors
    assert len(list(tmp_path.glob("*.png"))) == 18


def test_the_first_key_skips_to_the_content(report: _RenderedReport, browser: Browser) -> None:
    browser.load(report.beside[0])
    for kind in ("keyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab",
                     windowsVirtualKeyCode=9)
    assert browser.value("document.activeElement.className") == "skip"
    assert browser.value("document.activeElement.getBoundingClientRect().left") >= 0


SET = """(name, value) => {
  const field = document.forms[0].elements[name];
  field.value = value;
  field.dispatchEvent(new Event("input", {bubbles: true}));
}"""


def test_pairs_are_filtered(report: _RenderedReport, browser: Browser) -> None:
    shown = "[...document.querySelectorAll('.pair-card')].filter(p => p.checkVisibility())"
    browser.load(report.beside[1])
    assert browser.value(f"{shown}.length") == 48
    browser.value(f"({SET})('cell', 'sg_qa')")
    assert browser.value(f"{shown}.map(p => p.dataset.cell)") == ["sg_qa"] * 24
    browser.value(f"({SET})('side', 'misbehaving'); ({SET})('monitor', '1')")
    errors = browser.value(f"{shown}.map(p => p.dataset.missed)")
    assert 0 < len(errors) < 24 and all("1" in said.split() for said in errors)
    assert browser.value("document.getElementById('count').value") == f"{len(errors)} of 48 pairs"
    browser.value(f"({SET})('words', 'no such words')")
    assert browser.value(f"{shown}.length") == 0
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    browser.load(report.beside[1])
    assert browser.value(f"{shown}.length") == 48, "without a script all are listed"
    assert not browser.value("document.forms[0].checkVisibility()")
    browser.call("Emulation.setScriptExecutionDisabled", value=False)


def test_sliders_move_what_python_computes(report: _RenderedReport, browser: Browser) -> None:
    browser.load(report.beside[2])
    counts = json.loads(browser.value(
        "document.querySelector('section.explored').dataset.counts"))
    for place, base_rate in ((20, 0.1), (60, 0.001)):
        browser.value(f"({SET})('threshold', {place}); ({SET})('per_day', 5000);"
                      f"({SET})('base_rate', {np.log10(base_rate)})")
        said = browser.value("Object.fromEntries([...document.querySelectorAll("
                             "'[data-out]')].map(e => [e.dataset.out, e.textContent]))")
        wanted = site._at_base_rate(counts, place, base_rate, 5000)
        assert said["threshold"] == f"{counts['threshold'][place]:g}"
        for name in ("mr", "far", "precision"):
            assert float(said[name].rstrip("%")) == pytest.approx(100 * wanted[name], abs=0.051)
        for name in ("alarms", "false_alarms", "missed"):
            assert float(said[name].replace(",", "")) == pytest.approx(wanted[name], abs=0.51)
    places = [place for place in browser.value(
        "[...document.querySelectorAll('tr[data-place]')].map(r => r.dataset.place)")
        if place != "-1"]
    browser.value(f"({SET})('promise', '{places[-1]}')")
    assert browser.value("document.forms[0].elements.threshold.value") == places[-1]
