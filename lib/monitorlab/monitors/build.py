"""From the words of a command to a monitor: the one place that knows every kind.

The settings of a kind are the parameters of what is built, see `monitorlab.storage.settings`. A
monitor is named after what is asked, and after every setting of it that decides verdicts and is
not the default: tables and stores of two monitors then have two names.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import pkgutil
import re
import shlex
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from monitorlab.monitors.catalogue import API, UNKNOWN, Catalogue
from monitorlab.monitors.monitor import FULL, VIEW, Monitor, MonitorError, Viewed
from monitorlab.storage.files import canonical_json
from monitorlab.storage.settings import REQUIRED, ParameterError, Setting

if TYPE_CHECKING:
    from monitorlab.models.loading import Checkpoint

FUNCTION = "module:function"
RELEASED = "smollm2:all"
CHECKS_FIRST = "checks-first"
RELEASED_FOLDER = Path("data", "released", "finetuning")  # the study of notebook 05
OWN_NAME = "own_name"  # attribute of what `build_monitor` returns: its name if none were given
NAME = Setting("name", (str,), "", "What tables and files call it; made of its settings if empty.")
Reading = Literal["logits", "text"]
# Settings that decide verdicts although Monitor.settings() has no key of that name with a value.
_DECIDING = frozenset({"read", "temperature", "limit_name", "max_tokens", "ranked", "family",
                       "guideline", "controversial", "unsafe", "safe", "lead"})
_LONGEST = 40  # characters of a value that stand in a name
_OPTION = re.compile(r"\s(?:-o|--option)(?=[\s='\"]|\w+=|$)")


@dataclass(frozen=True)
class _Kind:
    """One kind of monitor; `kinds.toml` says what each field means."""

    spec: str
    about: str
    parts: Sequence[str]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    other_names: Mapping[str, str] = field(default_factory=dict)

    def built(self) -> list[Callable[..., Any]]:
        """Import what is built."""
        return [pkgutil.resolve_name(f"monitorlab.{part}") for part in self.parts]

    def settings(self) -> dict[str, Setting]:
        """What can be given by name."""
        shared = {setting.name: setting for setting in (NAME, VIEW)}
        decided = {*shared, *self.fixed}
        return shared | {name: setting for name, setting in Setting.of(*self.built()).items()
                         if name not in decided}


# The table in `kinds.toml`, by what stands before the colon of a spec.
_ALL = [_Kind(**kind) for kind in tomllib.loads(
    Path(__file__).with_name("kinds.toml").read_text(encoding="utf-8"))["kinds"]]
_WHOLE = (FUNCTION, RELEASED)  # specs whose colon is no place for a name
KINDS: Mapping[str, _Kind] = {
    kind.spec if kind.spec in _WHOLE else kind.spec.partition(":")[0]: kind for kind in _ALL}


@dataclass(frozen=True)
class _Named:
    """What a spec names: a kind, the name behind the colon, and what the catalogue says."""

    kind: _Kind
    rest: str
    title: str = ""
    listed: Mapping[str, Any] = field(default_factory=dict)


def build_monitor(spec: str, *settings: Mapping[str, object]) -> Monitor:
    """Make the monitor that `spec` names.

    Parameters
    ----------
    spec : str
        As in `KINDS`, or a key of ``data/monitors.toml``; settings may follow, as on a command
        line: ``api:MODEL -o base_url=http://127.0.0.1:8000/v1 -o timeout_s=30``.
    *settings : mapping of str to object
        Settings of that kind by name. A text is read as the type of its setting. Several may hold
        the same name only with the same value. What ``checks-first:MONITOR`` has no setting for
        goes to the monitor behind the colon.

    Returns
    -------
    Monitor
        Its attribute `OWN_NAME` is the name that its settings make, also if another one was given.

    Raises
    ------
    MonitorError
        For an unknown spec, a setting that means nothing to this kind or has another type, or
        whatever the kind needs and does not find.

    Examples
    --------
    >>> build_monitor("keywords").name
    'keywords'
    """
    spec, said = split_spec(spec)
    named = _find(spec)
    known = named.kind.settings()
    sources: Sequence[Mapping[str, object]] = (said, *settings)
    inner: Monitor | str = named.rest
    if named.kind is KINDS[CHECKS_FIRST]:
        pairs = [(name, value) for source in sources for name, value in source.items()]
        inner = build_monitor(named.rest, *({n: value} for n, value in pairs if n not in known))
        sources = [{name: value} for name, value in pairs if name in known]
    given = _given(named, spec, known, sources)
    listed = _listed_settings(named, known, given)
    if (listed | given).get("revision") == UNKNOWN:
        raise MonitorError(
            f"no commit of {named.rest} is known here, and without one its verdicts could not be "
            "repeated: choose one from the model's page on the hub and pin it with "
            "-o revision=COMMIT")
    wanted = str(given.pop("name", "")).strip()
    view = Viewed.spelled(given.pop(VIEW.name, FULL))
    monitor = _built(named, known, listed | given, inner)
    usual = {name: setting.default for name, setting in known.items()} | listed
    parts = [_title(named, monitor, inner), *_differences(monitor, given, usual, list(known))]
    if view != FULL:
        monitor = Viewed(monitor, view)
        parts.append(f"view {view}")
    object.__setattr__(monitor, OWN_NAME, ", ".join(parts))
    object.__setattr__(monitor, "name", wanted or ", ".join(parts))
    return monitor


def split_spec(text: str) -> tuple[str, dict[str, str]]:
    """Split the words of a monitor into its spec and the settings behind it.

    Raises
    ------
    MonitorError
        If there are settings and something that is none, or a quotation mark without its match.
    """
    if not _OPTION.search(text):
        return text, {}
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise MonitorError(f"the words of the monitor cannot be split ({error}): quote a setting "
                           "with blanks as 'NAME=VALUE'") from None
    spec, assignments, rest = words[0], [], words[1:]
    while rest:
        word = rest.pop(0)
        found = re.fullmatch(r"(?:--option=?|-o)(.*)", word, re.DOTALL)
        if found is None or not (found[1] or rest):
            raise MonitorError(f"{word!r} behind the monitor is no setting: expected "
                               "SPEC -o NAME=VALUE ..., and quotation marks around blanks")
        assignments.append(found[1] or rest.pop(0))
    try:
        return spec, Setting.split(assignments)
    except ParameterError as error:
        raise MonitorError(f"settings of {spec}: {error}") from None


def spelled_settings(words: Sequence[str]) -> list[dict[str, str]]:
    """Read settings that are spelled as options: ``--base-url URL``, ``--seed=3``, ``--thinking``.

    An option without a value is a flag; ``--no-thinking`` switches it off.

    Raises
    ------
    MonitorError
        If a word is neither an option nor the value of one.
    """
    found = []
    left = list(words)
    while left:
        word = left.pop(0)
        if not re.match(r"--[a-zA-Z]", word):
            raise MonitorError(f"{word!r} is no option: expected --NAME VALUE or -o NAME=VALUE")
        name, equals, value = word[2:].partition("=")
        name = name.replace("-", "_")
        if not equals and left and not left[0].startswith("--"):
            value = left.pop(0)
        elif not equals:
            name, value = name.removeprefix("no_"), str(not name.startswith("no_")).lower()
        found.append({name: value})
    return found


def _causal(
    name: str, *, prompt: str = "direct", read: Reading = "logits", **settings: Any
) -> Monitor:
    """Load a causal language model as a monitor.

    Parameters
    ----------
    name : str
        On the hub, or a folder.
    prompt : str
        Monitor prompt, by name or file.
    read : {"logits", "text"}
        The verdict is read from the logits of the next word, or from a generated reply.
    **settings
        Of `Checkpoint.load`, and of `LogitMonitor` or `TextMonitor`.

    Raises
    ------
    MonitorError
        If it cannot be loaded, or a setting belongs to the other way of reading.
    """
    from monitorlab.models.loading import Checkpoint

    def load(**loading: Any) -> Checkpoint:
        files = (Path(name) / file for file in ("training.json", "adapter_config.json"))
        if not all(file.is_file() for file in files):
            return Checkpoint.load(name, **loading)
        # An adapter alone that `finetune` wrote, with the name of the base that it was trained on.
        from monitorlab.finetuning.saved import load_finetuned

        if needless := [key for key in loading if key not in Setting.of(load_finetuned)]:
            raise MonitorError(f"the option {needless[0]} means nothing to hf:{name}, which is an "
                               f"adapter itself: give the base and --adapter {name}")
        try:
            return load_finetuned(Path(name), **loading)
        except MonitorError as error:
            either = f"Or give both: --monitor hf:BASE --adapter {name}"
            raise MonitorError(f"{error}. {either}") from error

    return _read_causally(load, prompt, read, settings)


def _smollm2(
    *, prompt: str = "direct", read: Reading = "logits", dtype: str = "auto", **settings: Any
) -> Monitor:
    """Load SmolLM2-135M-Instruct as a monitor, see `monitorlab.models.smollm2`.

    Parameters
    ----------
    prompt : str
        Monitor prompt, by name or file.
    read : {"logits", "text"}
        The verdict is read from the logits of the next word, or from a generated reply.
    dtype : str
        "float32", "bfloat16", or "auto" for bfloat16 where the device computes in it, else float32.
    **settings
        Of `Checkpoint.load`, and of `LogitMonitor` or `TextMonitor`.

    Raises
    ------
    MonitorError
        If it is not installed, or a setting belongs to the other way of reading.
    """
    from monitorlab.models.smollm2 import load_smollm2

    return _read_causally(load_smollm2, prompt, read, settings | {"dtype": dtype})


def _finetuned_smollm2(
    *, prompt: str = "brief", read: Reading = "logits", folder: str = "", **settings: Any
) -> Monitor:
    """Load SmolLM2 with an adapter of notebook 05, in float32, as it was asked there.

    Parameters
    ----------
    prompt : str
        Monitor prompt, by name or file; the one that it was trained with is "brief".
    read : {"logits", "text"}
        The verdict is read from the logits of the next word, or from a generated reply.
    folder : str
        Of the adapter; empty for the one that is released.
    **settings
        Of `Checkpoint.load`, and of `LogitMonitor` or `TextMonitor`.

    Raises
    ------
    MonitorError
        If SmolLM2 is not installed, there is no adapter, or a setting belongs to the other way of
        reading.
    """
    from monitorlab.models.loading import Checkpoint
    from monitorlab.models.smollm2 import load_smollm2
    from monitorlab.storage.files import read_sealed
    from monitorlab.storage.sources import project_root

    released = project_root() / RELEASED_FOLDER
    place = Path(folder) if folder else released / "all"
    if not place.is_dir():
        raise MonitorError(f"there is no adapter in {place}: take data/released/finetuning from "
                           "the repository again")
    if not folder:  # as its study says that it was
        try:
            digests = read_sealed(released / "study.json")["files"]
            Checkpoint.check_unchanged(released, {file: digest for file, digest in digests.items()
                                       if file.startswith(f"{place.name}/")})
        except ValueError as error:
            words = f"the released adapter is not as it was released: {error}"
            raise MonitorError(words) from error
    given = {name: value for name, value in settings.items() if name not in KINDS[RELEASED].fixed}
    decided = {"dtype": "float32", **given, "adapter": str(place), "name": RELEASED}
    return _read_causally(load_smollm2, prompt, read, decided)


def _read_causally(
    load: Callable[..., Checkpoint], prompt: str, read: Reading, settings: dict[str, Any]
) -> Monitor:
    """Load a causal language model and read it by logits or by text."""
    from monitorlab.models import ModelError
    from monitorlab.models.loading import Checkpoint
    from monitorlab.monitors.causal import LogitMonitor, TextMonitor
    from monitorlab.monitors.prompts import load_prompt

    loading = {key: settings.pop(key) for key in Setting.of(Checkpoint.load) if key in settings}
    reader: type[LogitMonitor | TextMonitor] = LogitMonitor if read == "logits" else TextMonitor
    if needless := [key for key in settings if key not in Setting.of(reader)]:
        needs = ("needs a generated reply: add --read text" if read == "logits" else
                 "is of the logits: add --read logits")
        raise MonitorError(f"the option {needless[0]} {needs}")
    words = load_prompt(prompt)
    try:
        checkpoint = load(**loading)
    except ModelError as error:
        raise MonitorError(str(error)) from error
    return reader(checkpoint, words, **settings)


def _api(model: str, *, prompt: str = "direct", read: Reading = "text", **settings: Any) -> Monitor:
    """Make a monitor of a model behind an API.

    Parameters
    ----------
    model : str
        As the server calls it.
    prompt : str
        Monitor prompt, by name or file.
    read : {"logits", "text"}
        The verdict is read from the reply; with logits, its score from their log-probabilities.
    **settings
        Of `ApiMonitor`.

    Raises
    ------
    MonitorError
        For a missing key and settings that cannot be used.
    """
    from monitorlab.monitors.api.monitor import ApiMonitor
    from monitorlab.monitors.prompts import load_prompt

    if read == "logits" and not settings.setdefault("logprobs", True):
        raise MonitorError("--read logits needs log-probabilities: leave logprobs=false out")
    return ApiMonitor(model, load_prompt(prompt), **settings)


def _find(spec: str) -> _Named:
    """Say what a spec names."""
    if spec == RELEASED:
        return _Named(KINDS[spec], "")
    head, _, rest = spec.partition(":")
    kind = KINDS.get(head)
    if kind is not None and ":" in kind.spec:
        if not rest:
            raise MonitorError(f"{spec!r} lacks a name: expected {kind.spec}")
        return _Named(kind, rest)
    if rest and _names_function(spec):
        return _Named(KINDS[FUNCTION], spec)
    if kind is not None and spec == head:
        return _Named(kind, "")
    catalogue = Catalogue.load().monitors
    entry = catalogue.get(spec)
    if entry is None:
        raise _unknown(spec, list(catalogue))
    listed = dict(entry.settings)
    if entry.access == API:
        return _Named(KINDS["api"], entry.identifier, entry.key, listed)
    return _Named(KINDS["hf"], entry.identifier, entry.key, {"thinking": entry.thinking, **listed})


def _names_function(spec: str) -> bool:
    place, _, name = spec.rpartition(":")
    return name.isidentifier() and (place.endswith(".py") or
                                    all(part.isidentifier() for part in place.split(".")))


def _given(
    named: _Named, spec: str, known: Mapping[str, Setting], sources: Sequence[Mapping[str, object]]
) -> dict[str, Any]:
    """Read what was given; what a function may take besides, it reads itself."""
    other = named.kind.other_names
    pairs = [{other.get(name, name): value} for source in sources for name, value in source.items()]
    if named.kind is KINDS[FUNCTION]:
        untyped = replace(NAME, kinds=(Any,), default=REQUIRED, meaning="")
        own = {name: replace(untyped, name=name) for pair in pairs for name in pair}
        known = own | dict(known)
    try:
        return Setting.read_all(known, spec, *pairs)
    except ParameterError as error:
        raise MonitorError(str(error)) from None


def _listed_settings(
    named: _Named, known: Mapping[str, Setting], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Settings of the catalogue; a model thinks as listed where it writes its reply."""
    listed = dict(named.listed)
    if "text" not in (given.get("read"), listed.get("read")):
        listed.pop("thinking", None)
    try:
        return Setting.read_all(known, named.title, listed)
    except ParameterError as error:
        raise MonitorError(f"data/monitors.toml, {named.title}.settings: {error}") from None


def _built(
    named: _Named, known: Mapping[str, Setting], values: Mapping[str, Any], inner: Monitor | str
) -> Monitor:
    """Build it of the name behind the colon, or of the monitor that this names."""
    kind = named.kind
    first = kind.built()[0]
    if kind is KINDS[FUNCTION]:
        own = {name: value for name, value in values.items() if name not in known}
        values = {name: value for name, value in values.items() if name in known}
        return first(named.rest, **values, arguments=own)
    folder = kind.spec.endswith(":FOLDER")
    behind = [Path(named.rest).expanduser() if folder else inner] if named.rest else []
    return first(*behind, **kind.fixed, **values)


def _title(named: _Named, monitor: Monitor, inner: Monitor | str) -> str:
    """Return what a monitor is called whose settings are the usual ones."""
    head, rest = named.kind.spec.partition(":")[0], named.rest
    if not isinstance(inner, str):
        return f"checks first, {inner.name}"
    if named.title or not rest:
        return named.title or monitor.name
    if head in ("words", "encoder"):
        return f"{monitor.name}, {_place(rest)}"
    if named.kind is KINDS[FUNCTION]:
        file, _, name = rest.rpartition(":")
        return f"{_place(file)}:{name}" if file.endswith(".py") else rest
    return _place(rest) if Path(rest).expanduser().is_dir() else rest


def _differences(
    monitor: Monitor, given: Mapping[str, Any], usual: Mapping[str, Any], order: Sequence[str]
) -> list[str]:
    """Return in words the settings that decide verdicts and are not the usual ones."""
    settings = monitor.settings()
    decided = _nodes(settings.get("arguments", settings))
    ranks = {name: rank for rank, name in enumerate(order)}
    found = []
    for name in sorted(given, key=lambda name: (ranks.get(name, len(ranks)), name)):
        if name == "prompt" and name in usual:
            found += _other_prompt(given[name])
        elif name in decided or (name in usual and name in _DECIDING):
            plain = decided.get(name)  # an address as it is asked, and nothing secret in it
            value = given[name] if plain is None or isinstance(plain, Mapping) else plain
            if name not in usual or usual[name] not in (value, given[name]):
                found.append(f"{name} {_shown(value)}")
    return found


def _nodes(settings: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Every key in nested settings that has a value, also joined to the key above it."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if value is not None:
            inner = _nodes(value, key) if isinstance(value, Mapping) else {}
            found = {f"{above}_{key}": value} | inner | found | {key: value}
    return found


def _other_prompt(given: str) -> list[str]:
    """Name the file of a prompt whose own name does not say which one it is."""
    from monitorlab.monitors.prompts import PROMPT_FOLDER, load_prompt

    if not given.endswith(".toml"):
        return []
    prompt, place = load_prompt(given), _place(given)
    shipped = PROMPT_FOLDER / f"{prompt.name}.toml"
    told = (load_prompt(shipped).digest == prompt.digest if shipped.is_file()
            else place == shipped.name)
    return [] if told else [f"prompt {place}"]


def _place(text: str) -> str:
    """Return a path as seen from here; one elsewhere by its end and a digest of the whole."""
    path = Path(os.path.abspath(Path(text).expanduser()))
    here = Path.cwd()
    if path != here and path.is_relative_to(here):
        return path.relative_to(here).as_posix()
    digest = hashlib.sha256(str(path).encode("utf-8", "surrogateescape")).hexdigest()[:6]
    return f"{path.parent.name}/{path.name}-{digest}"


def _shown(value: Any) -> str:
    """Return a value as part of a name: short, on one line, different for different ones."""
    if isinstance(value, str):
        text = _place(value) if Path(value).is_dir() else value
    else:
        text = "none" if value is None else canonical_json(value)
    if re.fullmatch(r"[0-9a-f]{40}", text):
        return text[:10]
    line = " ".join(text.split())
    if line == text and len(text) <= _LONGEST:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:6]
    return f"{line[:_LONGEST - 8]}~{digest}"


def describe(spec: str = "") -> str:
    """Return every spec and the catalogue as aligned plain text, or the settings of one monitor.

    Parameters
    ----------
    spec : str
        A key of `KINDS`, or what `build_monitor` takes: its settings, with type, default and
        meaning.

    Raises
    ------
    MonitorError
        For an unknown spec.
    """
    if not spec:
        head = ("monitor", "access", "identifier", "licence or terms")
        listed = [(e.key, e.access, e.identifier + ("" if e.verified else " *"), e.license)
                  for e in Catalogue.load().monitors.values()]
        return "\n".join([
            "Monitors of every kind:", *_aligned([(kind.spec, kind.about) for kind in _ALL]), "",
            "The monitors of the paper (data/monitors.toml):", *_aligned([head, *listed]), "",
            "* not seen in the publisher's documentation: check it before you spend on it",
            "Settings of one of them (-o NAME=VALUE): python -m monitorlab monitors NAME, such as "
            "api"])
    kind = KINDS.get(spec)
    named = _Named(kind, "") if kind else _find(spec)
    known, rest = named.kind.settings(), []
    if named.rest and named.kind is KINDS[CHECKS_FIRST]:
        rest = [f"All others are those of {describe(named.rest)}"]
    elif named.rest and named.kind is KINDS[FUNCTION]:
        from monitorlab.monitors.function import FunctionMonitor

        known = FunctionMonitor.parameters(spec) | known
    for name, value in _listed_settings(named, known, {"read": "text"}).items():
        known[name] = replace(known[name], default=value)
    if "monitors.causal:LogitMonitor" in named.kind.parts:
        shared = Setting.of(*named.kind.built()[:2])
        for read, reader in zip(("logits", "text"), named.kind.built()[2:], strict=True):
            for name in Setting.of(reader).keys() - shared.keys() - {NAME.name}:
                meaning = f"{known[name].meaning} Only with read={read}."
                known[name] = replace(known[name], meaning=meaning)
    return "\n".join([f"{spec}: {named.kind.about}. Settings, as -o NAME=VALUE:",
                      *(setting.describe() for setting in known.values()), *rest])


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
            .rstrip() for row in rows]


def _unknown(spec: str, listed: list[str]) -> MonitorError:
    kinds = [name for name in KINDS if name != FUNCTION]
    close = difflib.get_close_matches(spec.partition(":")[0].lower(), [*kinds, *listed], n=1)
    hint = f" Is it {close[0]!r}?" if close else ""
    if os.sep in spec or spec.endswith(".py"):
        hint = " A checkpoint in a folder is hf:FOLDER, a function path/to/file.py:function."
    return MonitorError(f"there is no monitor {spec!r}.{hint} Kinds: "
                        f"{', '.join(kind.spec for kind in _ALL)}. In the "
                        f"catalogue: {', '.join(listed)}. More with: python -m monitorlab monitors")
