"""Notebook 09: from a log to an alarm inside a generation loop."""

from __future__ import annotations

from monitorlab.chapters.deployment import counting, figures, replays
from monitorlab.commands.calibrate import Plan, calibrate_log
from monitorlab.commands.watch import watch
from monitorlab.online.live import WatchedStream, WatchedText
from monitorlab.online.policy import PolicyError
from monitorlab.signals.generation import CachedReader, LogProbability, StopAtAlarm
from monitorlab.statistics.intervals import check_level
from monitorlab.storage.files import digest_file

__all__ = [
    "CachedReader", "LogProbability", "Plan", "PolicyError", "StopAtAlarm", "WatchedStream",
    "WatchedText", "calibrate_log", "check_level", "counting", "digest_file", "figures",
    "replays", "watch",
]  # fmt: skip
