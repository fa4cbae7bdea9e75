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
    place = next((i for i, earlier in enumerate(seen) if earlier is value), None)
    if place is not None:
        yield f"seen {place}"
        return
    seen.append(value)
    yield type(value).__qualname__
    parts = _parts_of_data(value)
    if parts is None:
        parts = _parts_of_code(value)
    if parts is None:
        if not hasattr(value, "__dict__") or hasattr(value, "__next__") or isinstance(value, torch.Generator):
            raise _Unknown
        parts = [type(value), vars(value)]
    for part in parts:
        yield from _pieces(part, seen)


def _parts_of_data(value: Any) -> list[Any] | None:
    """What settles a container or an array; None for anything else."""
    if isinstance(value, tuple | list):
        return list(value)
    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)
    if isinstance(value, dict):
        return [part for item in value.items() for part in item]
    if isinstance(value, Tensor | np.ndarray):
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
        return [str(array.dtype), array.shape, hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()]
    return None


def _parts_of_code(value: Any) -> list[Any] | None:
    """What settles a module, a function or a class; None for anything else."""
    if isinstance(value, ModuleType):
        return [value.__name__]
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, CodeType):
        return [value.co_code, value.co_names, value.co_varnames, *value.co_consts]
    if isinstance(value, FunctionType | type | BuiltinFunctionType) and _is_installed(value):
        return [value.__module__, value.__qualname__]
    if isinstance(value, FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        read = [value.__globals__[name] for name in _names(value.__code__) if name in value.__globals__]
        return [value.__code__, value.__defaults__, value.__kwdefaults__, cells, read]
    if isinstance(value, type):
        return [value.__qualname__, *value.__mro__[1:],
                *(part for part in vars(value).values() if isinstance(part, (FunctionType, *_PLAIN)))]
    return None


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
