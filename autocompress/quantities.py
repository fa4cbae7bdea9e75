"""Text with units ⇄ numbers: the only parser of such text in the package.

Bytes follow IEC 80000-13: `MB` is 10**6, `MiB` is 2**20. `Mb` is refused: it means megabits.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal

from autocompress.errors import InputError

_NUMBER = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|\.[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-zµ%]*)\s*")
_AMOUNT = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|\.[0-9]+(?:[eE][+-]?[0-9]+)?)\s*(\S*)\s*")
_BYTES = {"": 1, "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_BYTES |= {unit.lower(): factor for unit, factor in list(_BYTES.items())}
_MILLISECONDS = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3}
_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_COUNT = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9}
_FRACTION = {"": 1.0, "%": 0.01}


def _parse(text: str | float, units: dict[str, float], what: str, example: str) -> float:
    match = _NUMBER.fullmatch(str(text))
    if match is None or match[2] not in units:
        raise InputError(f"{what} must be a number with a unit such as {example}, but got {text!r}")
    value = float(match[1]) * units[match[2]]
    if not math.isfinite(value):
        raise InputError(f"{what} must be finite, but got {text!r}")
    return value


def _positive(value: float, text: str | float, what: str) -> float:
    if value <= 0:
        raise InputError(f"{what} must be above zero, but got {text!r}")
    return value


def parse_bytes(text: str | float, what: str = "a size") -> int:
    """`"2MB"` → 2000000, `"2MiB"` → 2097152, `"2e6"` → 2000000. At least one byte: less is meant as a share of
    something, which nothing here knows."""
    value = _positive(_parse(text, dict(_BYTES), what, "2MB or 512KiB"), text, what)
    if value < 1:
        raise InputError(f"{what} must be at least 1 byte, such as 2MB or 512KiB, but got {text!r}")
    return int(value)


def parse_milliseconds(text: str | float, what: str = "a latency") -> float:
    """`"5ms"` → 5.0, `"1.5s"` → 1500.0. A unit is required: a bare number is ambiguous."""
    return _positive(_parse(text, _MILLISECONDS, what, "5ms"), text, what)


def parse_seconds(text: str | float, what: str = "a duration") -> float:
    """`"15m"` → 900.0, `"90"` → 90.0, `"1h"` → 3600.0."""
    return _positive(_parse(text, _SECONDS, what, "15m, 90s or 1h"), text, what)


def parse_count(text: str | float, what: str = "a count") -> int:
    """`"50M"` → 50000000. At least one: less would be a bound of nothing, or a rate that divides by zero."""
    value = _positive(_parse(text, dict(_COUNT), what, "50M"), text, what)
    if value < 1:
        raise InputError(f"{what} must be at least 1, but got {text!r}")
    return int(value)


def parse_fraction(text: str | float, what: str = "a share") -> float:
    """`"1%"` → 0.01, `"0.01"` → 0.01. Between 0 and 1, both included."""
    value = _parse(text, _FRACTION, what, "1% or 0.01")
    if value > 1:
        raise InputError(f"{what} must be between 0 and 1 (0% and 100%), but got {text!r}")
    return value


def parse_drop(text: str | float, what: str = "a drop") -> float | str:
    """`"1%"` → 0.01, `"150%"` → 1.5, `0.01` → 0.01; an amount in another unit as text, `"0.5 dB"` → `"0.5dB"`, which
    `amount_in_unit` reads. A bare number above 1 is refused: it may be meant as a share or in the metric's unit."""
    match = _AMOUNT.fullmatch(str(text))
    if match is None:
        raise InputError(f"{what} must be a share such as 1%, or a number with the unit or name of the task's metric, "
                         f"such as 0.5dB or 0.02rmse, but got {text!r}")
    value, unit = float(match[1]), match[2]
    if not math.isfinite(value):
        raise InputError(f"{what} must be finite, but got {text!r}")
    if unit not in _FRACTION:
        return f"{match[1]}{unit}"
    if not unit and value > 1:
        raise InputError(f"{what} must be a share between 0 and 1, a percentage, or a number with the unit or name of "
                         f"the task's metric, such as {value:g}dB or {value:g}rmse, but got {text!r}")
    return value * _FRACTION[unit]


def amount_in_unit(text: str) -> tuple[float, str]:
    """Amount and unit of what `parse_drop` left as text."""
    match = _AMOUNT.fullmatch(text)
    assert match is not None
    return float(match[1]), match[2]


def format_bytes(count: float) -> str:
    """1,900,433 → `"1.90 MB"`; decimal units, as budgets are."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.2f} {unit}"
    return f"{count:.0f} B"


def exact_bytes(count: int) -> str:
    """2,000,000 → `"2MB"`, 524,288 → `"512KiB"`: the shortest text that `parse_bytes` reads as the same number."""
    units = ("GB", "GiB", "MB", "MiB", "kB", "KiB", "B")
    texts = [f"{Decimal(count) / _BYTES[unit]:f}{unit}" for unit in units]
    return min((text for text in texts if parse_bytes(text) == count), key=lambda text: (len(text), "." in text))


def format_count(count: float) -> str:
    """11,172,810 → `"11.17M"`."""
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= factor:
            return f"{count / factor:.2f}{unit}"
    return f"{count:.0f}"


def format_milliseconds(value: float) -> str:
    """Three significant digits with the unit."""
    return f"{value:.3g} ms"


def format_seconds(value: float) -> str:
    """75 → `"1m15s"`."""
    minutes, seconds = divmod(round(value), 60)
    return f"{minutes}m{seconds:02d}s" if minutes else f"{value:.1f}s" if value < 10 else f"{seconds}s"


def format_percent(share: float) -> str:
    """0.9311 → `"93.11%"`."""
    return f"{100 * share:.2f}%"
