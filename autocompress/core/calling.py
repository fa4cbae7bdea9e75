"""Calling what a user wrote with those arguments that it names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from autocompress.errors import InputError


def parameters_of(factory: Callable[..., Any]) -> list[str]:
    """Return the names of the parameters that a function or class takes; none where Python cannot tell."""
    return list(_signature(factory))


def call_with(factory: Callable[..., Any], available: Mapping[str, Any], what: str) -> Any:
    """Call `factory` with those of the `available` arguments that its parameters name, and return what it returns.

    Args:
        factory: a function or a class.
        available: values by name.
        what: what it makes, for the error.

    Raises:
        InputError: where it requires an argument of another name.
    """
    arguments = {}
    for name, parameter in _signature(factory).items():
        if name in available and parameter.kind is not inspect.Parameter.POSITIONAL_ONLY:
            arguments[name] = available[name]
        elif parameter.default is inspect.Parameter.empty and parameter.kind not in (
                inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            raise InputError(f"{what} may require arguments named {', '.join(available)}, but "
                             f"{getattr(factory, '__name__', factory)!r} requires {name!r}: give it a default, or "
                             "another name")
    return factory(**arguments)


def _signature(factory: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(factory).parameters
    except (TypeError, ValueError):  # a built-in
        return {}
