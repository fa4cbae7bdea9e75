"""Canonical, versioned JSON of every plain-data type, and reading it back with precise errors.

A document is `{"schema": "autocompress/plan", "version": 1, "data": …}`: keys sorted, so equal
values have equal bytes. Reading names the place of a fault, `$.data.steps[3].args`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from autocompress.core.budget import Budget
from autocompress.core.evaluation import Candidate, Evaluation
from autocompress.core.layer import LayerTable
from autocompress.core.plan import Plan
from autocompress.errors import InputError

VERSION = 1
SCHEMAS: dict[type, str] = {
    Plan: "autocompress/plan", Budget: "autocompress/budget", LayerTable: "autocompress/layers",
    Evaluation: "autocompress/evaluation", Candidate: "autocompress/candidate",
}
T = TypeVar("T")


class _Envelope(msgspec.Struct, forbid_unknown_fields=True):
    schema: str
    version: int
    data: Any


class _Data(msgspec.Struct, Generic[T]):
    """So that the path of a fault begins at the document: `$.data`."""

    data: T


def encode(value: Any) -> str:
    """Canonical JSON text of a plan, budget, layer table, evaluation or candidate."""
    envelope = {"schema": SCHEMAS[type(value)], "version": VERSION, "data": value}
    return msgspec.json.encode(envelope, order="sorted").decode()


def decode(text: str | bytes, kind: type[T], origin: str = "document") -> T:
    """Read a document of `kind`. InputError names `origin`, the path inside it and what was expected."""
    try:
        envelope = msgspec.json.decode(text, type=_Envelope)
        if envelope.schema != SCHEMAS[kind]:
            raise InputError(f"{origin} must hold {SCHEMAS[kind]!r}, but it holds {envelope.schema!r}")
        if envelope.version > VERSION:
            raise InputError(f"{origin} has version {envelope.version}, newer than {VERSION}: update autocompress")
        value: T = msgspec.convert({"data": envelope.data}, _Data[kind], strict=True).data  # type: ignore[valid-type]
    except msgspec.MsgspecError as error:
        raise InputError(f"{origin} is not a valid {SCHEMAS[kind]} document: {error}") from None
    if isinstance(value, Plan):
        try:
            return Plan.of(value.steps)  # type: ignore[return-value]
        except ValueError as error:
            raise InputError(f"{origin}: {error}") from None
    return value


def encode_flat(value: msgspec.Struct, schema: str) -> bytes:
    """A document for people to read, whose fields stand beside `schema`; the struct has a field `version`."""
    return msgspec.json.format(msgspec.json.encode({"schema": schema} | _builtins(value)), indent=1)


def decode_flat(text: bytes, kind: type[T], schema: str, version: int, origin: str,
                upgrade: Callable[[dict[str, Any]], dict[str, Any]] | None = None) -> T:
    """Read what `encode_flat` wrote. `upgrade` makes a document of this version of one of the version before, if there
    was one.

    InputError, which begins with `origin`, for another schema, a newer version, and for fields that this release does
    not know: reading on would drop them.
    """
    try:
        document = msgspec.json.decode(text)
        if not isinstance(document, dict) or document.pop("schema", schema) != schema:
            raise InputError(f"{origin} must be a {schema!r} document, but is something else")
        written = document.get("version", 1)
        if isinstance(written, int) and written > version:
            raise InputError(f"{origin} was written by a newer autocompress (version {written}, known is {version}): "
                             "update autocompress to use it")
        if isinstance(written, int) and written < version and upgrade is not None:
            document = upgrade(document)
        value = msgspec.convert(document, kind, strict=True, str_keys=True, dec_hook=_from_text)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InputError(f"{origin} is damaged: {error}") from None
    unknown = _unknown(document, _builtins(value, str_keys=True), "$")
    if unknown:
        raise InputError(f"{origin} says what this autocompress does not know ({', '.join(unknown[:3])}), and would "
                         "lose it: update autocompress to use it")
    return value


def _builtins(value: Any, str_keys: bool = False) -> dict[str, Any]:
    built: dict[str, Any] = msgspec.to_builtins(value, str_keys=str_keys, enc_hook=str)  # paths as text
    return built


def _from_text(kind: type, text: Any) -> Any:
    """Fields that JSON has no type for: paths."""
    if kind is Path and isinstance(text, str):
        return Path(text)
    raise NotImplementedError(kind)


def _unknown(document: Any, read_back: Any, place: str) -> list[str]:
    """Paths of what is in `document` and in nothing that was made of it."""
    if isinstance(document, dict) and isinstance(read_back, dict):
        return [path for key, value in document.items() for path in
                (_unknown(value, read_back[key], f"{place}.{key}") if key in read_back else [f"{place}.{key}"])]
    if isinstance(document, list) and isinstance(read_back, list | tuple):
        return [path for number, (value, other) in enumerate(zip(document, read_back, strict=False))
                for path in _unknown(value, other, f"{place}[{number}]")]
    return []
