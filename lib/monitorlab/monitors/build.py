"""From the words of a command to a monitor: the one place that knows every kind."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monitorlab.monitors.monitor import Monitor, MonitorError

if TYPE_CHECKING:
    from monitorlab.monitors.causal_loading import Checkpoint

PROMPT, READS = "direct", ("logits", "text")
SPECS = {
    "always": "alarms on everything",
    "never": "alarms on nothing",
    "coin": "tosses a coin",
    "keywords": "looks for suspicious words in the response",
    "cue": "compares the chosen option of a multiple-choice question with the cued one",
    "checks": "analyses code and recomputes arithmetic",
    "words:FOLDER": "TF-IDF with logistic regression, saved in a folder",
    "encoder:FOLDER": "sentence encoder with a probe, saved in a folder",
    "classifier:FOLDER": "encoder fine-tuned as a classifier, saved in a folder",
    "hf:NAME_OR_FOLDER": "causal language model of the Hugging Face hub or in a folder",
    "api:MODEL": "model behind an OpenAI-compatible API",
    "module:function": "your own function, also path/to/file.py:function",
}
_LIMITS = ("workers", "requests_per_minute", "tokens_per_minute", "cost_cap_usd", "input_price",
           "output_price")
_ASKING = ("prompt", "read", "max_tokens", "temperature", "seed")
_LOADING = ("dtype", "device", "quantization", "adapter", "adapter_revision")
_USED = {  # options that mean something, by kind; giving another one is a mistake
    "coin": ("seed",),
    "classifier": ("dtype", "device"),
    "hf": (*_ASKING, "revision", *_LOADING, "thinking"),
    "api": (*_ASKING, *_LIMITS, "base_url", "key_variable"),
    "function": ("workers",),
}


@dataclass(frozen=True)
class BuildOptions:
    """Options of the command line; None is "not given", and the monitor's own value holds.

    Attributes
    ----------
    prompt : str
        Name of a monitor prompt, or path of a prompt file.
    read : str
        How a language model is read: "logits" of the answer's first token, or generated "text".
    revision, dtype, device, quantization, adapter, adapter_revision : str
        How a checkpoint is loaded, see :func:`monitorlab.monitors.causal.load_causal`.
    max_tokens : int
        Longest reply, in tokens.
    temperature : float
        Of sampling; 0 is greedy.
    thinking : bool
        Let the model think before it answers.
    base_url, key_variable : str
        Address of an API, and the environment variable that holds its key.
    workers : int
        Calls at once.
    requests_per_minute, tokens_per_minute, cost_cap_usd : float
        Limits of an API.
    input_price, output_price : float
        USD per million tokens.
    seed : int
        Of the coin, and of sampling.
    """

    prompt: str | None = None
    read: str | None = None
    revision: str | None = None
    dtype: str | None = None
    device: str | None = None
    quantization: str | None = None
    adapter: str | None = None
    adapter_revision: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    thinking: bool | None = None
    base_url: str | None = None
    key_variable: str | None = None
    workers: int | None = None
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    cost_cap_usd: float | None = None
    input_price: float | None = None
    output_price: float | None = None
    seed: int | None = None

    def given(self, *names: str) -> dict[str, Any]:
        """Return those of the named options that are given; all options if none is named."""
        chosen = names or tuple(field.name for field in fields(self))
        return {name: value for name in chosen if (value := getattr(self, name)) is not None}


def build_monitor(spec: str, options: BuildOptions | None = None) -> Monitor:
    """Make the monitor that `spec` names.

    Parameters
    ----------
    spec : str
        One of `SPECS`, or a key of ``data/monitors.toml``.
    options : BuildOptions, optional
        What else the command said.

    Raises
    ------
    MonitorError
        For an unknown spec, an option that means nothing to this kind, or whatever the kind needs
        and does not find.
    """
    options = options or BuildOptions()
    kind, _, rest = spec.partition(":")
    if kind in ("hf", "api", "words", "encoder", "classifier") and not rest:
        raise MonitorError(f"{spec!r} lacks a name: expected "
                           f"{next(known for known in SPECS if known.startswith(kind + ':'))}")
    if kind == "hf":
        return _checkpoint(rest, options)
    if kind == "api":
        return _api(rest, options)
    if kind in ("words", "encoder", "classifier"):
        _refuse(options, kind, spec)
        return _learned(kind, Path(rest).expanduser(), options)
    if rest and _names_function(spec):
        return _function(spec, options)
    if spec in SPECS:
        _refuse(options, spec, spec)
        return _simple(spec, options)
    return _listed(spec, options)


def _refuse(options: BuildOptions, kind: str, spec: str) -> None:
    """Raise for an option that this kind would pass over in silence."""
    used = _USED.get(kind, ())
    ignored = [name for name in options.given() if name not in used]
    if ignored:
        raise MonitorError(f"the option {ignored[0]} means nothing to {spec}; it takes "
                           f"{', '.join(used) or 'no options'}")


def _simple(spec: str, options: BuildOptions) -> Monitor:
    if spec == "checks":
        from monitorlab.monitors.checks import ProgramChecks

        return ProgramChecks()
    from monitorlab.monitors.rules import Coin, Constant, CueFollower, Keywords

    if spec == "coin":
        return Coin(options.seed or 0)
    if spec == "keywords":
        return Keywords()
    return CueFollower() if spec == "cue" else Constant(spec == "always")


def _learned(kind: str, folder: Path, options: BuildOptions) -> Monitor:
    if kind == "classifier":
        from monitorlab.monitors.classifier import ClassifierMonitor

        return ClassifierMonitor.load(folder, **options.given("dtype", "device"))
    if kind == "words":
        from monitorlab.monitors.learned import WordMonitor

        return WordMonitor.load(folder)
    from monitorlab.monitors.encoder import EncoderMonitor

    return EncoderMonitor.load(folder)


def _checkpoint(name: str, options: BuildOptions, title: str = "", thinks: bool = False) -> Monitor:
    _refuse(options, "hf", f"hf:{name}")
    logits = _read(options, "logits") == "logits"
    needless = list(options.given("max_tokens", "temperature", "thinking", "seed"))
    if logits and needless:
        raise MonitorError(f"the option {needless[0]} needs a generated reply: add --read text")
    from monitorlab.monitors.causal import LogitMonitor, TextMonitor
    from monitorlab.monitors.causal_loading import load_causal
    from monitorlab.monitors.prompts import load_prompt
    from monitorlab.signals.scorers import ScorerError

    prompt = load_prompt(options.prompt or PROMPT)
    try:
        if _is_finetuned_adapter(name):
            checkpoint = _finetuned(name, options)
        else:
            checkpoint = load_causal(name, options.revision or "", **options.given(*_LOADING))
    except ScorerError as error:
        raise MonitorError(str(error)) from error
    if logits:
        return LogitMonitor(checkpoint, prompt, name=title)
    asked = {"thinking": thinks, **options.given("thinking", "temperature", "seed")}
    if options.max_tokens is not None:
        asked["max_new_tokens"] = options.max_tokens
    return TextMonitor(checkpoint, prompt, name=title, **asked)


def _is_finetuned_adapter(name: str) -> bool:
    """Whether a folder holds an adapter alone that `finetune` wrote, with the name of its base."""
    folder = Path(name)
    return all((folder / file).is_file() for file in ("training.json", "adapter_config.json"))


def _finetuned(name: str, options: BuildOptions) -> Checkpoint:
    """Adapter of `finetune` on the base that it was trained on."""
    from monitorlab.finetuning.saved import load_finetuned

    if needless := list(options.given("revision", "quantization", "adapter", "adapter_revision")):
        raise MonitorError(f"the option {needless[0]} means nothing to hf:{name}, which is an "
                           f"adapter itself: give the base and --adapter {name}")
    try:
        return load_finetuned(Path(name), **options.given("dtype", "device"))
    except MonitorError as error:
        raise MonitorError(f"{error}. Or give both: --monitor hf:BASE --adapter {name}") from error


def _api(model: str, options: BuildOptions, listed: Mapping[str, Any] | None = None) -> Monitor:
    """A model behind an API; what the command says goes before what the catalogue says."""
    _refuse(options, "api", f"api:{model}")
    logprobs = _read(options, "text") == "logits"
    from monitorlab.monitors.api import ApiMonitor
    from monitorlab.monitors.prompts import load_prompt

    given = options.given("base_url", "key_variable", "max_tokens", "temperature", "seed", *_LIMITS)
    prompt = load_prompt(options.prompt or PROMPT)
    return ApiMonitor(model, prompt, logprobs=logprobs, **{**(listed or {}), **given})


def _read(options: BuildOptions, default: str) -> str:
    read = options.read or default
    if read not in READS:
        raise MonitorError(f"read is {read!r}, expected one of {', '.join(READS)}")
    return read


def _names_function(spec: str) -> bool:
    place, _, name = spec.rpartition(":")
    return name.isidentifier() and (place.endswith(".py") or
                                    all(part.isidentifier() for part in place.split(".")))


def _function(spec: str, options: BuildOptions) -> Monitor:
    _refuse(options, "function", spec)
    from monitorlab.monitors.functions import FunctionMonitor

    return FunctionMonitor(spec, **options.given("workers"))


def _listed(spec: str, options: BuildOptions) -> Monitor:
    """A monitor of the catalogue."""
    from monitorlab.monitors.catalogue import API, load_catalogue

    catalogue = load_catalogue()
    entry = catalogue.get(spec)
    if entry is None:
        raise _unknown(spec, list(catalogue))
    if entry.access == API:
        return _api(entry.identifier, options, entry.api_options())
    pinned = replace(options, revision=options.revision or entry.revision)
    return _checkpoint(entry.identifier, pinned, entry.key, entry.thinking)


def list_monitors() -> str:
    """Return every spec and the catalogue as aligned plain text."""
    from monitorlab.monitors.catalogue import load_catalogue

    entries = load_catalogue().values()
    listed = [(e.key, e.access, e.identifier + ("" if e.verified else " *"), e.license)
              for e in entries]
    head = ("monitor", "access", "identifier", "licence or terms")
    return "\n".join([
        "Monitors of every kind:", *_aligned(list(SPECS.items())), "",
        "The monitors of the paper (data/monitors.toml):", *_aligned([head, *listed]), "",
        "* not seen in the publisher's documentation: check it before you spend on it",
    ])


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
            .rstrip() for row in rows]


def _unknown(spec: str, listed: list[str]) -> MonitorError:
    close = difflib.get_close_matches(spec.partition(":")[0].lower(), [*_kinds(), *listed], n=1)
    hint = f" Is it {close[0]!r}?" if close else ""
    if os.sep in spec or spec.endswith(".py"):
        hint = " A checkpoint in a folder is hf:FOLDER, a function path/to/file.py:function."
    return MonitorError(f"there is no monitor {spec!r}.{hint} Kinds: {', '.join(SPECS)}. In the "
                        f"catalogue: {', '.join(listed)}. More with: python -m monitorlab monitors")


def _kinds() -> list[str]:
    return [spec.partition(":")[0] for spec in SPECS if spec != "module:function"]
