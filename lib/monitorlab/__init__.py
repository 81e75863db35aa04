"""Reliable monitoring of LLMs: `from monitorlab import ...` offers what most people come for.

A *score* is suspicion: high is unsafe. A *label* of 1 is misbehavior. Every name below has an
example in its documentation, as in ``help(monitorlab.calibrate)``; nothing is imported before it
is used.

Responses, each judged as a whole:

- `load_benchmark`: the 3,010 written samples that come with the library, a table with a row each.
- `load_samples`: your own file of requests, responses and labels as such a table.
- `Sample`: what a monitor sees of a row: its id, request and response.
- `Verdict`: what a monitor says: a status of five, a verdict, a score in [0, 1], a reply.
- `Monitor`: the protocol that every monitor follows, yours too.
- `build_monitor`: a monitor by name, such as ``keywords``, ``hf:NAME`` or ``file.py:function``.
- `score`: ask a monitor about samples; a table of verdicts, a row for each sample.
- `read_reply`: the verdict in a language model's reply, or why there is none.
- `read_verdicts`: a table of verdicts from a file.
- `join`: verdicts beside the labels of their samples.
- `rates`: miss rate and false alarm rate with intervals over scenarios, a row for each monitor.
- `compare`: paired tests between monitors, a row for each kind of error and two monitors.

Streams, watched while they are written:

- `load_scores`: your own file of step scores.
- `peaks`: the highest score of each sequence, shape (n,).
- `calibrate`: the threshold that keeps false alarms (or misses) to a level.
- `Threshold`: a calibrated alarm rule that says what it promises.
- `Policy`: such a rule as a file, with what a running monitor must know.
- `OnlineMonitor`: runs a policy on interleaved streams, one score at a time.

Monitors and data of your own:

- `finetune`: train a language model into a monitor.
- `load_finetuned`: load the result.
- `export`: write the benchmark as a dataset folder with its card.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from monitorlab.benchmark.export import export
    from monitorlab.benchmark.sample_files import load_samples
    from monitorlab.benchmark.written import load_benchmark
    from monitorlab.evaluation.comparisons import compare
    from monitorlab.evaluation.rates import join, rates
    from monitorlab.finetuning.saved import load_finetuned
    from monitorlab.finetuning.train import finetune
    from monitorlab.monitors.build import build_monitor
    from monitorlab.monitors.monitor import Monitor, Sample
    from monitorlab.monitors.replies import read_reply
    from monitorlab.monitors.scoring import score
    from monitorlab.monitors.store import read_verdicts
    from monitorlab.monitors.verdicts import Verdict
    from monitorlab.online.metrics import peaks
    from monitorlab.online.policy import OnlineMonitor, Policy
    from monitorlab.online.score_files import load_scores
    from monitorlab.statistics.thresholds import Threshold, calibrate

__version__ = "1.0.0"

_MODULES = {
    "load_benchmark": "benchmark.written",
    "load_samples": "benchmark.sample_files",
    "Sample": "monitors.monitor",
    "Verdict": "monitors.verdicts",
    "Monitor": "monitors.monitor",
    "build_monitor": "monitors.build",
    "score": "monitors.scoring",
    "read_reply": "monitors.replies",
    "read_verdicts": "monitors.store",
    "join": "evaluation.rates",
    "rates": "evaluation.rates",
    "compare": "evaluation.comparisons",
    "load_scores": "online.score_files",
    "peaks": "online.metrics",
    "calibrate": "statistics.thresholds",
    "Threshold": "statistics.thresholds",
    "Policy": "online.policy",
    "OnlineMonitor": "online.policy",
    "finetune": "finetuning.train",
    "load_finetuned": "finetuning.saved",
    "export": "benchmark.export",
}

__all__ = [
    "Monitor", "OnlineMonitor", "Policy", "Sample", "Threshold", "Verdict", "build_monitor",
    "calibrate", "compare", "export", "finetune", "join", "load_benchmark", "load_finetuned",
    "load_samples", "load_scores", "peaks", "rates", "read_reply", "read_verdicts", "score",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import what a name stands for when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module 'monitorlab' has no attribute {name!r}; it offers "
                             f"{', '.join(__all__)}")
    found = getattr(importlib.import_module(f"monitorlab.{_MODULES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
