"""Running a user's Python file: `path/to/file.py:name` names a function without arguments, or an object, in it."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from autocompress.errors import AutocompressError, InputError
from autocompress.tasks.vision import mend_torchvision


def is_factory(spec: str) -> bool:
    """Whether `spec` has the form `file.py:factory` (a bare `file.py` counts too, and is refused later)."""
    return ".py:" in spec or spec.endswith(".py")


def call_factory(spec: str, *, what: str, trust_code: bool) -> Any:
    """Import the file under a module name of its own, call the factory, and return what it made.

    While it runs, the file's folder is importable, so that it can import its neighbours. `what` says in
    errors what the factory is for. InputError when the file or function is missing, or either raises.
    """
    with _named(spec, what, trust_code, "a function") as factory:
        return _reported(factory, f"{what}: {_call(spec)} failed")


def load_object(spec: Any, *, what: str, trust_code: bool, call: bool = True) -> Any:
    """The object that a user named `path/to/file.py:name`; anything that is no text is returned as it is.

    A class or a function of that name is called without arguments, if `call` says so; any other object is taken as it
    is. InputError as of `call_factory`.
    """
    if not isinstance(spec, str):
        return spec
    with _named(spec, what, trust_code, "") as named:
        if call and makes_objects(named):
            return _reported(named, f"{what}: {_call(spec)} failed")
        return named


def makes_objects(named: Any) -> bool:
    """Whether what a user named is a class or a function, rather than the object itself."""
    return isinstance(named, type) or inspect.isroutine(named)


def _call(spec: str) -> str:
    location, _, attribute = spec.rpartition(":")
    return f"{attribute}() of {location}"


@contextmanager
def _named(spec: str, what: str, trust_code: bool, kind: str) -> Iterator[Any]:
    """What `spec` names, and while it is used, the folder of its file importable. `kind`: "a function", or empty for
    any object."""
    location, _, attribute = spec.rpartition(":")
    path = Path(location)
    if not location.endswith(".py") or not attribute.isidentifier():
        raise InputError(f"{what} must be given as path/to/file.py:factory, but got {spec!r}")
    if not path.is_file():
        raise InputError(f"{what}: there is no file {location!r} (looked in {Path.cwd()})")
    if not trust_code:
        raise InputError(f"{what}: {spec} would run code from that file: allow it only if you trust the file")
    mend_torchvision()
    with _importable(path.resolve().parent):
        module = _reported(lambda: _load(path.resolve()), f"{what}: {location} cannot be imported")
        named = getattr(module, attribute, None)
        if named is None or (kind and not callable(named)):
            public = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
            raise InputError(f"{what}: {location} must define {kind} {attribute!r}; it defines "
                             f"{', '.join(public) or 'none'}".replace("  ", " "))
        yield named


def module_name(path: Path) -> str:
    """The name of the module that a user's file becomes; `path` is absolute."""
    return f"autocompress_user_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"


def _load(path: Path) -> Any:
    name = module_name(path)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look classes up by module name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _reported(call: Callable[[], Any], what: str) -> Any:
    try:
        return call()
    except AutocompressError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(f"{what}: {type(error).__name__}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "no message")


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))
