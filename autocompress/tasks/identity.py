"""Content hashes of a user's functions, so that what depends on one is not reused after it has changed."""

from __future__ import annotations

import functools
import hashlib
import sys
import sysconfig
from collections.abc import Iterator
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size, type(Ellipsis))
_LIBRARIES = {sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"]}


class _Unknown(Exception):
    """A value that has no content to hash, such as an open file or a generator's state."""


def callable_fingerprint(function: Any) -> str | None:
    """Content hash of a callable: its bytecode and constants, defaults, closure, the global values that it names, and
    an object's attributes; functions of installed libraries count by their names. None where some part of it cannot be
    told by its content, so that nobody can know whether it is still the same."""
    digest = hashlib.sha256()
    try:
        for piece in _pieces(function, []):
            digest.update(piece.encode() + b"\0")
    except (_Unknown, RecursionError):
        return None
    return digest.hexdigest()[:16]


def _pieces(value: Any, seen: list[Any]) -> Iterator[str]:
    """Text that settles `value`. `seen` breaks circles; it holds the objects so that their ids stay theirs."""
    if isinstance(value, _PLAIN):
        yield repr(value)
        return
    place = next((i for i, known in enumerate(seen) if known is value), None)
    if place is not None:
        yield f"seen {place}"
        return
    seen.append(value)
    yield type(value).__qualname__
    if isinstance(value, tuple | list):
        parts: list[Any] = list(value)
    elif isinstance(value, set | frozenset):
        parts = sorted(value, key=repr)
    elif isinstance(value, dict):
        parts = [part for item in value.items() for part in item]
    elif isinstance(value, Tensor | np.ndarray):
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
        parts = [str(array.dtype), array.shape, hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()]
    elif isinstance(value, ModuleType):
        parts = [value.__name__]
    elif isinstance(value, functools.partial):
        parts = [value.func, value.args, value.keywords]
    elif isinstance(value, MethodType):
        parts = [value.__func__, value.__self__]
    elif isinstance(value, CodeType):
        parts = [value.co_code, value.co_names, value.co_varnames, *value.co_consts]
    elif isinstance(value, FunctionType | type | BuiltinFunctionType) and _is_installed(value):
        parts = [value.__module__, value.__qualname__]
    elif isinstance(value, FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        named = [value.__globals__[name] for name in _names(value.__code__) if name in value.__globals__]
        parts = [value.__code__, value.__defaults__, value.__kwdefaults__, cells, named]
    elif isinstance(value, type):
        parts = [value.__qualname__, *value.__mro__[1:],
                 *(part for part in vars(value).values() if isinstance(part, (FunctionType, *_PLAIN)))]
    elif hasattr(value, "__dict__") and not hasattr(value, "__next__") and not isinstance(value, torch.Generator):
        parts = [type(value), vars(value)]
    else:
        raise _Unknown
    for part in parts:
        yield from _pieces(part, seen)


def _names(code: CodeType) -> list[str]:
    """The global names that code and the functions inside it may read."""
    inner = [name for constant in code.co_consts if isinstance(constant, CodeType) for name in _names(constant)]
    return [*code.co_names, *inner]


def _is_installed(value: Any) -> bool:
    """Whether something belongs to Python or to an installed package, whose versions a study does not watch."""
    root = (value.__module__ or "builtins").partition(".")[0]
    module = sys.modules.get(root)
    place = getattr(module, "__file__", None) or ""
    return (root in sys.stdlib_module_names and root != "__main__") or any(place.startswith(p) for p in _LIBRARIES)
