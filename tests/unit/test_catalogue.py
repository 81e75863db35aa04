"""The table of the paper's monitors, and its checks."""

from __future__ import annotations

from dataclasses import fields

import pytest

from monitorlab.monitors.catalogue import Catalogue
from monitorlab.monitors.monitor import MonitorError


def test_there_are_22_monitors_of_which_10_are_open():
    entries = Catalogue.load().monitors
    access = [entry.access for entry in entries.values()]
    assert (len(entries), access.count("open"), access.count("api")) == (22, 10, 12)
    assert len({entry.identifier for entry in entries.values()}) == 22
    assert len({entry.title for entry in entries.values()}) == 22


def test_open_monitors_are_repositories():
    for entry in Catalogue.load().monitors.values():
        if entry.access == "open":
            assert entry.identifier.count("/") == 1
            assert entry.identifier.split("/")[1] == entry.title
            assert entry.parameters_b > 0
            assert entry.identifier_from == "paper name"


def test_api_monitors_have_an_address_and_a_key_variable():
    for entry in Catalogue.load().monitors.values():
        if entry.access == "api":
            assert entry.settings["base_url"].startswith("https://")
            assert entry.settings["key_variable"].endswith("_API_KEY")
            assert entry.license == "proprietary service"


def test_settings_of_an_api_make_a_monitor(monkeypatch):
    from monitorlab.monitors.build import build_monitor

    for entry in Catalogue.load().monitors.values():
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
    from monitorlab.storage.settings import Setting

    kinds = {"open": KINDS["hf"].settings(), "api": KINDS["api"].settings()}
    for entry in Catalogue.load().monitors.values():
        Setting.read_all(kinds[entry.access], entry.key, entry.settings)


def test_the_published_line_has_its_constants():
    published = Catalogue.load().published
    assert (published.correlation, published.slope, published.intercept) == (-0.54, -0.42, 0.49)


def test_an_open_model_without_a_known_commit_is_refused_in_plain_words():
    from monitorlab.monitors.build import build_monitor

    for entry in Catalogue.load().monitors.values():
        if entry.access == "open":
            assert entry.settings["revision"] == "unknown" or len(entry.settings["revision"]) == 40
            if entry.settings["revision"] == "unknown":
                with pytest.raises(MonitorError, match=f"no commit of {entry.identifier} is known "
                                                       "here.*-o revision=COMMIT"):
                    build_monitor(entry.key)


def test_every_entry_is_whole_and_of_the_declared_types():
    kinds = {"str": str, "bool": bool, "float": float, "Mapping[str, Any]": dict}
    for entry in Catalogue.load().monitors.values():
        for one in fields(entry):
            value = getattr(entry, one.name)
            assert isinstance(value, kinds[one.type]), (entry.key, one.name)
            assert value != "" or one.name == "note", (entry.key, one.name)
        assert entry.access in ("open", "api")
        assert entry.identifier_from in ("paper name", "inferred")
