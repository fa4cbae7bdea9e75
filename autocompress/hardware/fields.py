"""The number fields of a profile file: how each is written, what it may be, and where it comes from."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

from autocompress.errors import InputError
from autocompress.quantities import parse_bytes, parse_count, parse_milliseconds

WEIGHT_BITS = (*range(1, 9), 16, 32)
ACTIVATION_BITS = (8, 16, 32)


def number(entry: Any, parse: Callable[[Any, str], Any], field: str, sources: dict[str, str]) -> Any:
    """The parsed `value` of one entry; its `source` goes into `sources`. InputError when either is bad."""
    if not isinstance(entry, dict):
        raise InputError(f'`{field}` must be written {{ value = …, source = "…" }}, but got {entry!r}')
    refuse_unknown(entry, ("value", "source"), f"{field}.")
    source = entry.get("source")
    if not isinstance(source, str) or not source.strip():
        raise InputError(f"`{field}` must name its `source` as text, but got {source!r}")
    if "value" not in entry:
        raise InputError(f"`{field}` must have a `value`, but it is missing")
    sources[field] = source
    return parse(entry["value"], f"`{field}`")


def table(value: Any, field: str) -> dict[str, Any]:
    """The value, which must be a table. InputError when it is not."""
    if not isinstance(value, dict):
        raise InputError(f"`{field}` must be a table, but got {value!r}")
    return value


def refuse_unknown(entries: Mapping[str, Any], names: Collection[str], prefix: str) -> None:
    """InputError for the first key that is not known, with the nearest that is."""
    for key in entries:
        if key not in names:
            raise InputError(
                f"`{prefix}{key}` is not a known field{meant(key, names) or '; known are ' + ', '.join(names)}"
            )


def meant(word: str, names: Collection[str]) -> str:
    """`"; did you mean 'depthwise'?"`, or nothing when no known word is near."""
    close = difflib.get_close_matches(word, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _parse_widths(value: Any, legal: tuple[int, ...], what: str) -> tuple[int, ...]:
    fine = isinstance(value, list) and value and all(_is_int(bits) and bits in legal for bits in value)
    if not fine or len(set(value)) != len(value):
        raise InputError(f"{what} must list some of {', '.join(map(str, legal))}, each once, but got {value!r}")
    return tuple(sorted(value))


def _parse_multiple(value: Any, what: str) -> int:
    if not _is_int(value) or not 1 <= value <= 1024:
        raise InputError(f"{what} must be a whole number from 1 to 1024, but got {value!r}")
    return int(value)


def _parse_multiples(value: Any, what: str) -> int | dict[int, int]:
    if not isinstance(value, dict):
        return _parse_multiple(value, what)
    if not all(bits.isdecimal() and int(bits) in WEIGHT_BITS for bits in value):
        raise InputError(f"{what} must have bit widths as keys, but got {', '.join(value)}")
    return {int(bits): _parse_multiple(multiple, f"{what} at {bits} bits") for bits, multiple in value.items()}


def _parse_milliseconds(value: Any, what: str) -> float:
    if isinstance(value, str):
        return parse_milliseconds(value, what)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise InputError(f"{what} must be zero or more milliseconds, but got {value!r}")
    return float(value)


def parse_rate(value: Any, what: str) -> float:
    """`"525M"` → 525e6 multiply-accumulates per second."""
    return float(parse_count(value, what))


def _parse_floats(value: Any, what: str) -> str:
    if value not in ("float", "fp16"):
        raise InputError(f"{what} must be float or fp16, but got {value!r}")
    return str(value)


def _parse_bandwidth(value: Any, what: str) -> float:
    return float(parse_bytes(value.removesuffix("/s") if isinstance(value, str) else value, what))


NUMBERS: dict[str, Callable[[Any, str], Any]] = {
    "weight_bits": lambda value, what: _parse_widths(value, WEIGHT_BITS, what),
    "activation_bits": lambda value, what: _parse_widths(value, ACTIVATION_BITS, what),
    "channel_multiple": _parse_multiples,
    "rank_multiple": _parse_multiple,
    "floats_as": _parse_floats,
    "flash_bytes": parse_bytes,
    "ram_bytes": parse_bytes,
    "ram_block_bytes": parse_bytes,
    "runtime_ram_bytes": parse_bytes,
    "runtime_flash_bytes": parse_bytes,
    "bandwidth_bytes_per_s": _parse_bandwidth,
    "layer_overhead_ms": _parse_milliseconds,
    "inference_overhead_ms": _parse_milliseconds,
}
