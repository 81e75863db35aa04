"""The parameters cell: typed literals with a help comment each.

papermill only warns when it is given a name that the notebook does not have, and passes values
of any type. Here both are errors, found before a kernel starts.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Mapping, Sequence

from monitorlab.storage.settings import (
    _TYPES,
    Parameter,
    ParameterError,
    Value,
    _from_here,
    parse_value,
)


def read_parameters(source: str) -> tuple[Parameter, ...]:
    """Parse the source of a parameters cell.

    Parameters
    ----------
    source : str
        Assignments of literals, annotated or not, each with a comment behind it.

    Raises
    ------
    ParameterError
        If a line is no assignment of a str, int, float or bool literal, or if the annotation
        and the literal disagree.
    """
    comments = _comments(source)
    found = []
    for node in ast.parse(source).body:
        name, annotation = _target(node)
        value = _literal(node, name)
        declared = annotation or type(value).__name__
        if declared not in _TYPES:
            known = ", ".join(_TYPES)
            raise ParameterError(f"{name}: type {declared!r} is not one of {known}")
        default = parse_value(Parameter(name, declared, value, ""), value)
        lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)  # a formatter may wrap
        help = " ".join(comments[line] for line in lines if line in comments)
        found.append(Parameter(name, declared, default, help))
    return tuple(found)


def check_parameters(
    given: Mapping[str, object], known: Mapping[str, Sequence[Parameter]]
) -> dict[str, dict[str, Value]]:
    """Distribute values over notebooks and check every type.

    Parameters
    ----------
    given : mapping of str to object
        Values by parameter name.
    known : mapping of str to sequence of Parameter
        Parameters of each selected notebook, by its stem.

    Returns
    -------
    dict of str to dict
        For each notebook the values that it declares, in their declared types; the path in a
        parameter whose name ends in _FILE is made absolute, from the present working folder.

    Raises
    ------
    ParameterError
        If no selected notebook has a parameter of that name (the message lists the known ones
        with their help), or if a value has the wrong type.
    """
    names = {parameter.name for parameters in known.values() for parameter in parameters}
    unknown = sorted(set(given) - names)
    if unknown:
        raise ParameterError(
            f"unknown parameter {', '.join(unknown)}. Known parameters:\n" + describe_all(known)
        )
    return {
        stem: {p.name: _from_here(p, parse_value(p, given[p.name]))
               for p in parameters if p.name in given}
        for stem, parameters in known.items()
    }


def describe_all(known: Mapping[str, Sequence[Parameter]]) -> str:
    """Return the parameters of several notebooks as indented, aligned text."""
    lines = []
    for stem, parameters in known.items():
        lines.append(f"  {stem}")
        heads = [f"{p.name}: {p.type} = {p.default!r}" for p in parameters]
        width = max((len(head) for head in heads), default=0)
        lines += [
            f"    {head:<{width}}  {p.help}".rstrip()
            for head, p in zip(heads, parameters, strict=True)
        ]
    return "\n".join(lines)


def _comments(source: str) -> dict[int, str]:
    """Return the comment of each line, without the hash."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string.lstrip("# ").strip() for t in tokens if t.type == tokenize.COMMENT}


def _target(node: ast.stmt) -> tuple[str, str]:
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return node.target.id, ast.unparse(node.annotation)
    if isinstance(node, ast.Assign) and len(node.targets) == 1:
        target = node.targets[0]
        if isinstance(target, ast.Name):
            return target.id, ""
    raise ParameterError(f"line {node.lineno} of the parameters cell is not `NAME: type = literal`")


def _literal(node: ast.stmt, name: str) -> Value:
    assert isinstance(node, ast.Assign | ast.AnnAssign)
    try:
        value = ast.literal_eval(node.value) if node.value is not None else None
    except ValueError:
        value = None
    if not isinstance(value, str | int | float | bool):
        raise ParameterError(f"{name}: the default must be a str, int, float or bool literal")
    return value


