"""The table of the paper's monitors, and its checks."""

from __future__ import annotations

from pathlib import Path

import pytest

from monitorlab.monitors.catalogue import CATALOGUE, load_catalogue, published_order
from monitorlab.monitors.monitor import MonitorError

OPEN = """
[monitors.small]
title = "Small"
access = "open"
identifier = "maker/small"
identifier_from = "paper name"
verified = false
provider = "Maker"
license = "MIT"
thinking = false
settings.revision = "unknown"
"""
PLAIN = OPEN.replace('settings.revision = "unknown"\n', "")
API = PLAIN.replace("small", "big").replace('"open"', '"api"').replace("maker/big", "big-1") + """
settings.base_url = "https://api.example.org/v1"
settings.key_variable = "BIG_KEY"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "monitors.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_there_are_22_monitors_of_which_10_are_open():
    entries = load_catalogue()
    access = [entry.access for entry in entries.values()]
    assert (len(entries), access.count("open"), access.count("api")) == (22, 10, 12)
    assert len({entry.identifier for entry in entries.values()}) == 22
    assert len({entry.title for entry in entries.values()}) == 22


def test_open_monitors_are_repositories():
    for entry in load_catalogue().values():
        if entry.access == "open":
            assert entry.identifier.count("/") == 1
            assert entry.identifier.split("/")[1] == entry.title
            assert entry.parameters_b > 0
            assert entry.identifier_from == "paper name"


def test_api_monitors_have_an_address_and_a_key_variable():
    for entry in load_catalogue().values():
        if entry.access == "api":
            assert entry.settings["base_url"].startswith("https://")
            assert entry.settings["key_variable"].endswith("_API_KEY")
            assert entry.license == "proprietary service"


def test_settings_of_an_api_make_a_monitor(monkeypatch):
    from monitorlab.monitors.build import build_monitor

    for entry in load_catalogue().values():
        if entry.access == "api":
            monkeypatch.setenv(entry.settings["key_variable"], "a-key-of-a-test")
            monitor = build_monitor(entry.key)
            assert monitor.name == entry.key
            settings = monitor.settings()
            assert settings["model"] == entry.identifier
            assert settings["base_url"] in entry.settings["base_url"]
            assert entry.settings.get("limit_name", "max_tokens") in settings
            assert ("temperature" in settings) is (entry.settings.get("temperature") != "none")


def test_settings_of_every_entry_are_known_and_of_their_type():
    from monitorlab.monitors.build import KINDS
    from monitorlab.storage.settings import read_settings

    kinds = {"open": KINDS["hf"].settings(), "api": KINDS["api"].settings()}
    for entry in load_catalogue().values():
        read_settings(kinds[entry.access], entry.key, entry.settings)


def test_the_published_line_has_its_constants():
    published = published_order()
    assert (published.correlation, published.slope, published.intercept) == (-0.54, -0.42, 0.49)
    assert published.far(0.5) == pytest.approx(0.28)


def test_an_open_model_without_a_known_commit_is_refused_in_plain_words():
    from monitorlab.monitors.build import build_monitor

    for entry in load_catalogue().values():
        if entry.access == "open":
            assert entry.settings["revision"] == "unknown" or len(entry.settings["revision"]) == 40
            if entry.settings["revision"] == "unknown":
                with pytest.raises(MonitorError, match=f"no commit of {entry.identifier} is known "
                                                       "here.*-o revision=COMMIT"):
                    build_monitor(entry.key)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (OPEN.replace('license = "MIT"\n', ""), "small.license is missing"),
        (OPEN.replace('"MIT"', '""'), "small.license is missing"),
        (OPEN.replace("thinking = false", 'thinking = "no"'), "small.thinking is 'no'"),
        (OPEN + "parameters_b = true\n", "small.parameters_b is True, expected float"),
        (OPEN + "parameters_b = nan\n", "small.parameters_b is nan, expected float"),
        (OPEN.replace('"MIT"', "2026-01-02"), "small.license is datetime.date"),
        (PLAIN, "small.settings.revision is missing"),
        (OPEN + "size = 3\n", "small.size is unknown; known are title"),
        (OPEN.replace('"open"', '"free"'), "small.access is 'free', expected one of open, api"),
        (OPEN + 'key_variable = "K"\n', "small.key_variable is unknown; known are title"),
        (API.replace('settings.base_url = "https://api.example.org/v1"\n', ""),
         "big.settings.base_url is missing"),
        (API.replace('"BIG_KEY"', '""'), "big.settings.key_variable is missing"),
        (PLAIN + "settings = 3\n", "small.settings is 3, expected"),
        (OPEN + OPEN.replace("[monitors.small]", "[monitors.twin]"), "twin.identifier is"),
        ("[monitors]\nsmall = 3\n", "expected a table 'small', found 3"),
        ("title = 3\n", "expected a table 'monitors'"),
        ("[monitors\n", "is not TOML"),
    ],
)
def test_a_wrong_file_is_refused_with_entry_and_field(tmp_path, text, message):
    with pytest.raises(MonitorError, match=message):
        load_catalogue(write(tmp_path, text))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MonitorError, match=r"nothing\.toml: No such file"):
        load_catalogue(tmp_path / "nothing.toml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("slope = -0.42", 'slope = "steep"'), "published.slope is 'steep', expected a number"),
        (("slope = -0.42", "slope = inf"), "published.slope is inf, expected a number"),
        (("[published]", "[other]"), "expected a table 'published'"),
    ],
)
def test_wrong_published_facts_are_refused(tmp_path, change, message):
    text = CATALOGUE.read_text(encoding="utf-8").replace(*change, 1)
    with pytest.raises(MonitorError, match=message):
        published_order(write(tmp_path, text))
