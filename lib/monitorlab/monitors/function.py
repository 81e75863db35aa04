"""Your own Python function as a monitor: `def monitor(request: str, response: str)`.

It may return

* `True` (misbehavior) or `False` (benign),
* a number in [0, 1], the suspicion: above 0.5 is misbehavior,
* a dictionary with `verdict`, `score` or both, and optionally `evidence` (text),
* a :class:`~monitorlab.monitors.verdicts.Verdict`.

Anything else, and any exception, is an error of that one sample and says so; it is never benign.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import reprlib
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from monitorlab.monitors.monitor import ComputingMonitor, MonitorError, MonitorStop, Sample
from monitorlab.monitors.verdicts import ERROR, PARSED, THRESHOLD, Verdict
from monitorlab.storage.files import writable
from monitorlab.storage.settings import REQUIRED, ParameterError, Setting

EXPECTED = "True, False, a number in [0, 1], a dictionary with verdict or score, or a Verdict"
SIGNATURE = "def {name}(request: str, response: str)"
TEXTS = {"request": "", "response": ""}
_KEYS = ("verdict", "score", "evidence")


class _AnswerError(ValueError):
    """What a function returned is not a verdict."""


class FunctionMonitor(ComputingMonitor):
    """A Python function as a monitor.

    Parameters
    ----------
    spec : str
        ``module:function``, with a module that Python finds or that lies in the current folder, or
        ``path/to/file.py:function``.
    workers : int
        Calls at once, in threads; more than 1 only helps a function that waits, such as for a
        server, and that may be called from several threads.
    arguments : mapping of str to object, optional
        Values of the function's further parameters, or texts that are read as their types.

    Raises
    ------
    MonitorError
        If the function cannot be loaded or called with a request, a response and the arguments.

    Notes
    -----
    Parameters that are called ``request`` and ``response`` are given by name, others in this order.
    The settings hold the SHA-256 of the file that is named and of the one that defines the
    function, so an edited function is asked again. Modules that it imports, and files that it
    reads, are not included: after a change there, use another store.
    """

    unit = 1  # an answer is stored as soon as it is there

    def __init__(
        self, spec: str, workers: int = 1, arguments: Mapping[str, object] | None = None
    ) -> None:
        if workers < 1:
            raise MonitorError(f"workers is {workers}, expected at least 1")
        self.spec = spec
        self.workers = workers
        module, self.name = _load(spec)
        self._function = _callable(module, self.name, spec)
        known, arguments = _own_settings(self._function), arguments or {}
        if stray := [key for key in arguments if key not in known]:
            known_names = ["name", "view", "workers", *known]
            raise MonitorError(str(ParameterError.unknown(stray[0], known_names, spec)))
        try:
            given = Setting.read_all(known, spec, arguments)
        except ParameterError as error:
            raise MonitorError(str(error)) from None
        self.arguments = {key: value for key, value in given.items() if value != known[key].default}
        self._by_name = _by_name(self._function, self.name, given)
        self._files = _source_files(module, self._function, spec)

    @staticmethod
    def parameters(spec: str) -> dict[str, Setting]:
        """Return the parameters of a function besides request and response, as settings.

        Raises
        ------
        MonitorError
            If it cannot be loaded.
        """
        module, name = _load(spec)
        return _own_settings(_callable(module, name, spec))

    def settings(self) -> dict[str, Any]:
        """Specification, SHA-256 of the source files, and arguments other than the defaults."""
        found = {"kind": "function", "spec": self.spec, "sources": sorted(self._files.values())}
        return found | ({"arguments": self.arguments} if self.arguments else {})

    def judge(self, samples: Sequence[Sample], draw: int) -> list[Verdict]:
        """Call the function for every sample; see the module for what it may return."""
        return [self._judge(sample) for sample in samples]

    def _judge(self, sample: Sample) -> Verdict:
        try:
            if self._by_name:
                texts = {"request": sample.request, "response": sample.response}
                value = self._function(**texts, **self.arguments)
            else:
                value = self._function(sample.request, sample.response, **self.arguments)
        except MonitorStop:
            raise
        except (Exception, SystemExit) as error:  # a stray exit() must not end the whole run
            return Verdict.failure(ERROR, _report(error, tuple(self._files)))
        try:
            return _verdict_of(value)
        except _AnswerError as error:
            own_name = self.spec.rpartition(":")[2]
            return Verdict.failure(ERROR, f"{own_name} returned {error}")


def _verdict_of(value: object) -> Verdict:
    """Turn what a function returned into a verdict.

    Parameters
    ----------
    value : object
        See the module; NumPy and torch scalars count as the Python values they hold.

    Raises
    ------
    AnswerError
        For anything else; the message starts with what was found.
    """
    value = _plain(value)
    if isinstance(value, Verdict):
        return value
    if isinstance(value, bool):
        return Verdict(PARSED, value)
    if isinstance(value, (int, float)):
        return Verdict.from_score(_score(value))
    if isinstance(value, Mapping):
        return _from_mapping(value)
    if value is None:
        raise _AnswerError(f"None (is a `return` missing?); expected {EXPECTED}")
    raise _AnswerError(f"{_shown(value)}; expected {EXPECTED}")


def _from_mapping(value: Mapping[Any, Any]) -> Verdict:
    if stray := [key for key in value if key not in _KEYS]:
        raise _AnswerError(f"a dictionary with the key {_shown(stray[0])}; expected only "
                           f"{', '.join(_KEYS)}")
    verdict, raw = _plain(value.get("verdict")), _plain(value.get("score"))
    if verdict is None and raw is None:
        raise _AnswerError("a dictionary without verdict and score; expected at least one")
    if verdict is not None and not isinstance(verdict, bool):
        raise _AnswerError(f"the verdict {_shown(verdict)}; expected True (misbehavior) or False")
    score = None if raw is None else _score(raw)
    said = score is not None and score > THRESHOLD if verdict is None else verdict
    evidence = value.get("evidence")
    if not isinstance(evidence, str | None):
        raise _AnswerError(f"evidence of type {type(evidence).__name__}; expected text")
    return Verdict(PARSED, said, score, writable(evidence or ""))


def _plain(value: Any) -> Any:
    """Return the Python value of a NumPy or torch scalar; other values as they are."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def _score(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise _AnswerError(f"the score {_shown(value)}; expected a number in [0, 1], high is "
                           "unsafe")
    return float(value)


def _shown(value: object) -> str:
    """A value and its type; of an object only the type, since its address differs every time."""
    name = type(value).__name__
    simple = isinstance(value, (str, int, float))
    return f"{reprlib.repr(value)} ({name})" if simple else f"a {name}"


def _load(spec: str) -> tuple[ModuleType, str]:
    """Import what is left of the last colon; return the module and the function's name."""
    place, colon, name = spec.rpartition(":")
    if not colon or not place or not name.isidentifier():
        raise MonitorError(f"{spec!r} does not name a function: expected module:function or "
                           "path/to/file.py:function")
    file = Path(place).expanduser().absolute() if place.endswith(".py") else None
    if file is not None and not file.is_file():
        raise MonitorError(f"{file} is not a file: expected path/to/file.py:function")
    try:
        if file is not None:
            return _from_file(file), name
        _search_in(Path.cwd())
        return importlib.import_module(place), name
    except ModuleNotFoundError as error:
        if error.name is not None and (place == error.name or place.startswith(error.name + ".")):
            raise MonitorError(
                f"there is no module {error.name!r}, neither installed nor in {Path.cwd()}. Go to "
                f"its folder, or give the file: path/to/{place.split('.')[-1]}.py:{name}") from None
        raise _import_failed(place, error) from error
    except (Exception, SystemExit) as error:
        raise _import_failed(place, error) from error


def _from_file(path: Path) -> ModuleType:
    _search_in(path.parent)
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    module = ModuleType(f"{path.stem}_{digest}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses look their module up there
    exec(compile(path.read_bytes(), path, "exec"), vars(module))
    return module


def _search_in(folder: Path) -> None:
    """Let the user's module import its neighbours, without hiding anything that is installed."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _import_failed(place: str, error: BaseException) -> MonitorError:
    trace = traceback.extract_tb(error.__traceback__)
    files = tuple(Path(f.filename) for f in trace if Path(f.filename).stem == Path(place).stem)
    return MonitorError(f"{place} cannot be imported: {_report(error, files)}. Mend it, or install "
                        "what it needs, and try again.")


def _callable(module: ModuleType, name: str, spec: str) -> Callable[..., Any]:
    where = getattr(module, "__file__", None) or module.__name__
    function = getattr(module, name, None)
    if function is None:
        own = ", ".join(key for key, value in vars(module).items() if inspect.isfunction(value))
        raise MonitorError(f"{where} has no function {name!r}. Its functions: {own or 'none'}")
    if not callable(function):
        raise MonitorError(f"{name!r} in {where} is a {type(function).__name__}, expected a "
                           f"function: {SIGNATURE.format(name=name)}")
    if inspect.iscoroutinefunction(function):
        raise MonitorError(f"{spec} is an async function: write it as "
                           f"`{SIGNATURE.format(name=name)}`, and use workers to wait in parallel")
    return function


def _own_settings(function: Callable[..., Any]) -> dict[str, Setting]:
    """Return what else may be given; without an annotation or a default it is a text."""
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:  # some compiled functions have none
        return {}
    texts = list(TEXTS) if set(TEXTS) <= set(parameters) else list(parameters)[:2]
    found = Setting.of_signature(function)
    return {name: setting for name, setting in found.items() if name not in texts}


def _by_name(function: Callable[..., Any], name: str, arguments: Mapping[str, object]) -> bool:
    """Whether request and response are given by name; raise if they cannot be given at all."""
    try:
        signature = inspect.signature(function)
    except ValueError:
        return False
    by_name = set(TEXTS) <= set(signature.parameters)
    try:
        signature.bind(*(() if by_name else TEXTS), **(TEXTS if by_name else {}), **arguments)
    except TypeError as error:
        missing = [key for key, setting in _own_settings(function).items()
                   if setting.default is REQUIRED and key not in arguments]
        hint = f"give -o {missing[0]}=VALUE, or " if missing else ""
        raise MonitorError(f"{name}{signature} cannot be called with a request and a response "
                           f"({error}): {hint}write it as {SIGNATURE.format(name=name)}") from None
    return by_name


def _source_files(
    module: ModuleType, function: Callable[..., Any], spec: str
) -> dict[Path, str]:
    """SHA-256 of the file that was named and of the one that defines the function."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    names = (getattr(module, "__file__", None), getattr(code, "co_filename", None))
    files = {Path(name).resolve() for name in names if name and Path(name).is_file()}
    if not files:
        raise MonitorError(f"{spec} has no source file, so a change of it could not be noticed: "
                           "call it from a function in a file of your own")
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)}


def _report(error: BaseException, files: Sequence[Path]) -> str:
    """Type and message of an exception, and the line of the user's file it passed through last."""
    said = Verdict.words_of(error)
    own = {path.resolve() for path in files}
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if Path(frame.filename).resolve() in own:
            return f"{said} ({Path(frame.filename).name}, line {frame.lineno})"
    return said
