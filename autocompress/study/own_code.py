"""What the code of a user's own object says, by content: a study is of that code as it is of a network and its data."""

from __future__ import annotations

import ast
import hashlib
import inspect
import sys
from collections.abc import Iterable, Iterator

import autocompress
from autocompress.study.request import Request
from autocompress.techniques.table import TECHNIQUES

# Name of the fingerprint in identities of studies, their descriptions and manifests.
TECHNIQUE_CODE = "technique_code"
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def technique_code(request: Request) -> str:
    """Hash of the code of a user's own techniques; empty where there are none, or no source of them can be read."""
    return code_fingerprint(row for name, row in request.techniques.items() if name not in TECHNIQUES)


def code_fingerprint(objects: Iterable[object]) -> str:
    """Hash of the source of the classes of a user's own objects.

    Of each class and of its bases outside this package it covers what the file at its top defines for them: the class,
    and functions, classes and constants of the same file that it uses. Comments, docstrings and layout do not count;
    neither does what is imported.

    Returns:
        16 hexadecimal digits, or an empty text where no source can be read, as of a class typed at a prompt.
    """
    kinds = [kind for each in objects for kind in type(each).__mro__ if _is_own(kind)]
    try:
        sources = [text for kind in kinds for text in _definitions(kind)]
    except (OSError, TypeError, KeyError, SyntaxError):
        return ""
    return hashlib.sha256("\n".join(sources).encode()).hexdigest()[:16] if sources else ""


def _is_own(kind: type) -> bool:
    """Whether a class is neither of this package nor of Python's own library."""
    room = kind.__module__.partition(".")[0]
    return room not in (autocompress.__name__, *sys.stdlib_module_names)


def _definitions(kind: type) -> Iterator[str]:
    """Sources of what a class's file defines under its name, and of all in that file which this uses, by name."""
    tree = ast.parse(inspect.getsource(sys.modules[kind.__module__]))
    defined: dict[str, list[ast.stmt]] = {}
    for statement in tree.body:
        for name in _names(statement):
            defined.setdefault(name, []).append(statement)
    pending, seen = [kind.__qualname__.partition(".")[0]], set[str]()
    while pending:
        name = pending.pop()
        if name in seen or name not in defined:
            continue
        seen.add(name)
        pending += [node.id for each in defined[name] for node in ast.walk(each) if isinstance(node, ast.Name)]
    yield from (_plain(each) for name in sorted(seen) for each in defined[name])


def _names(statement: ast.stmt) -> list[str]:
    """The names that a statement at the top of a file defines."""
    if isinstance(statement, DEFINITIONS):
        return [statement.name]
    if isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        return [node.id for node in ast.walk(statement)
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
    return []


def _plain(statement: ast.stmt) -> str:
    """The source of a statement without docstrings; a tree holds no comments."""
    for node in ast.walk(statement):
        if isinstance(node, DEFINITIONS) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(statement)
