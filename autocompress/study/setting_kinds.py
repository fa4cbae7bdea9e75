"""Kinds of settings: what each may be in Python, on the command line and in a config file, and its value once read."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autocompress.errors import InputError
from autocompress.quantities import (
    parse_bytes,
    parse_count,
    parse_drop,
    parse_fraction,
    parse_milliseconds,
    parse_seconds,
)
from autocompress.search.efforts import EFFORTS
from autocompress.search.executors.ray_cluster import check_address
from autocompress.tasks.augmentation import Augmentation, augmentation_of
from autocompress.tasks.cache import from_home
from autocompress.tasks.sources.specs import located, source_kind

# Key of a latency that is bounded on every device without a bound of its own.
ANY_DEVICE = ""


def _unmoved(text: str, folder: Path) -> str:
    return text


@dataclass(frozen=True)
class Kind:
    """One kind of setting.

    `parse` makes the value of what was given for the setting of that name, or raises InputError. `toml` are the types
    that a config file may hold, described by `words`; `lists` and `table`: lists and tables of them too; `repeatable`:
    the flag can be given several times. `locate` makes a relative path in a text one below a folder. `runs_code`: a
    text may name a Python file, which is run.
    """

    parse: Callable[[Any, str], Any]
    toml: tuple[type, ...] = (str,)
    words: str = "text"
    lists: bool = False
    table: bool = False
    repeatable: bool = False
    locate: Callable[[str, Path], str] = _unmoved
    runs_code: bool = False
    flag_type: type | None = None

    def specs(self, value: Any) -> list[str]:
        """The texts in a value that name Python files, which would be run."""
        from autocompress.tasks.factory import is_factory

        values = value if isinstance(value, list | tuple) else [value]
        return [text for text in values if isinstance(text, str) and is_factory(text)] if self.runs_code else []


# -- values ----------------------------------------------------------------------------------------------


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str | os.PathLike):
        raise InputError(f"{name} must be text, but got {value!r}")
    return str(value)


def _path(value: Any, name: str) -> Path:
    return Path(from_home(_text(value, name)))


def _object(value: Any, name: str) -> Any:
    return from_home(value) if isinstance(value, str) else value


def _objects(value: Any, name: str) -> tuple[Any, ...]:
    return tuple(_object(each, name) for each in (value if isinstance(value, list | tuple) else (value,)))


def _one_or_several(value: Any, name: str) -> Any:
    several = _objects(value, name)
    return several[0] if len(several) == 1 else several


def _profiles(value: Any, name: str) -> str | tuple[str, ...]:
    if isinstance(value, str):
        return value
    names = tuple(value) if isinstance(value, list | tuple) else ()
    if not names or not all(isinstance(name, str) for name in names):
        raise InputError(f"profile must be a name or a .toml file, or a list of them, but got {value!r}")
    return names[0] if len(names) == 1 else names


def _count(value: Any, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{name} must be a whole number of at least 1, but got {value!r}")
    return value


def _seed(value: Any, name: str) -> int:
    if not isinstance(value, int) or not 0 <= value < 2**32:
        raise InputError(f"seed must be a whole number from 0 to 2**32 - 1, but got {value!r}")
    return int(value)


def _number(value: Any, name: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise InputError(f"{name} must be a number, but got {value!r}")
    return float(value)


def _channel_numbers(value: Any, name: str) -> tuple[float, ...] | None:
    from autocompress.tasks.preparation import channel_numbers  # loads torch

    return channel_numbers(value, name)


def _augmentation(value: Any, name: str) -> Augmentation:
    return augmentation_of(value)


def _effort(value: Any, name: str) -> str:
    if not isinstance(value, str) or value not in EFFORTS:
        raise InputError(f"effort must be one of {', '.join(EFFORTS)}, but got {value!r}"
                         f"{nearest(str(value), EFFORTS, '; ')}")
    return value


def _device(value: Any, name: str) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        raise InputError(f"device must be auto, cpu, cuda or cuda:N, but got {value!r}")
    return value


def _workers(value: Any, name: str) -> str:
    return check_address(_text(value, name))


def _gpus(value: Any, name: str) -> float:
    number = _number(value, name)
    if not math.isfinite(number) or number < 0 or (number > 1 and number != int(number)):
        raise InputError(f"{name} must be a share of one GPU, from 0 to 1, or a whole number, but got {value!r}")
    return number


def _flag(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"{name} must be True or False, but got {value!r}")
    return value


def _latencies(raw: Any, name: str) -> dict[str, float]:
    """Bounds in milliseconds by device. `raw` is one for all devices, a dict of some, or a list of `TIME`, for all
    that have none of their own, and `ID=TIME`."""
    bounds: dict[str, float] = {}
    for device, time in raw.items() if isinstance(raw, Mapping) else (
            map(_named, raw if isinstance(raw, list | tuple) else [raw])):
        if time == "" or (device == "" and not isinstance(raw, Mapping)):
            raise InputError(f"latency must be a time such as 5ms, or host=5ms, but got {raw!r}")
        device = device or ANY_DEVICE
        if device in bounds:
            raise InputError(f"latency must be bounded once {f'on {device}' if device else 'on all profiles'}, but is "
                             f"bounded by {bounds[device]:g} ms and by {time!r}")
        bounds[device] = parse_milliseconds(time, "latency")
    return bounds


def _named(entry: Any) -> tuple[str | None, Any]:
    device, named, time = str(entry).rpartition("=")
    return (device.strip(), time) if named else (None, entry)


def _qualities(raw: Any, name: str) -> dict[str, float]:
    """Worst values by the name of a metric. `raw` is a dict of them, or a list of `METRIC=VALUE`."""
    bounds: dict[str, float] = {}
    for metric, value in raw.items() if isinstance(raw, Mapping) else (
            map(_named, raw if isinstance(raw, list | tuple) else [raw])):
        if not metric or isinstance(value, bool):
            raise InputError(f"at_least must name a metric, such as miou=70%, but got {raw!r}")
        if metric in bounds:
            raise InputError(f"at_least must bound {metric} once, but is {bounds[metric]:g} and {value!r}")
        try:
            bounds[metric] = float(value) if isinstance(value, int | float) or not str(value).endswith("%") else \
                parse_fraction(value, f"at_least {metric}")
        except ValueError:
            raise InputError(f"at_least must be a number or a share, such as {metric}=0.7 or {metric}=70%, but got "
                             f"{value!r}") from None
    return bounds


def nearest(name: str, legal: Any, lead: str = "") -> str:
    """`did you mean 'x'?` behind `lead` where one of the legal names is near, else empty."""
    import difflib

    close = difflib.get_close_matches(name, list(legal), n=1)
    return f"{lead}did you mean {close[0]!r}?" if close else ""


# -- places ----------------------------------------------------------------------------------------------


def _beside(text: str, folder: Path) -> str:
    try:
        return str(folder / Path(text).expanduser()) if text else text
    except RuntimeError as error:  # ~nobody
        raise InputError(f"{text!r} must be a path, but: {error}") from None


def _spec_beside(text: str, folder: Path) -> str:
    kind, _, place = text.partition(":")
    if source_kind(text) is not None:
        return located(text, lambda each: _beside(each, folder))
    if kind == "hf" and not Path(_beside(place, folder)).is_dir():
        return text  # an id of the hub
    if kind in ("imagefolder", "hf") and place:
        return f"{kind}:{_beside(place, folder)}"
    path, _, name = text.rpartition(":")
    return f"{_beside(path, folder)}:{name}" if path.endswith(".py") else text


def _toml_beside(text: str, folder: Path) -> str:
    return _beside(text, folder) if text.endswith(".toml") else text


# -- the kinds -------------------------------------------------------------------------------------------


def _whole(parse: Callable[[Any, str], Any]) -> Kind:
    return Kind(parse, (int,), "a whole number", flag_type=int)


def _quantity(parse: Callable[[Any, str], Any]) -> Kind:
    return Kind(lambda value, name: parse(value, name.replace("_", " ")), (str, int, float),
                'a number, or text with a unit such as "2MB"')


TEXT = Kind(_text)
PATH = Kind(_path, locate=_beside)
SOURCE = Kind(_object, locate=_spec_beside, runs_code=True)
SOURCES = Kind(_objects, locate=_spec_beside, runs_code=True, lists=True, repeatable=True)
ONE_OR_SEVERAL = Kind(_one_or_several, locate=_spec_beside, runs_code=True, lists=True, repeatable=True)
PROFILES = Kind(_profiles, locate=_toml_beside, lists=True, repeatable=True)
SPACE = Kind(_text, locate=_toml_beside)
EFFORT = Kind(_effort)
DEVICE = Kind(_device)
WORKERS = Kind(_workers)
GPUS = Kind(_gpus, (int, float), "a number", flag_type=float)
COUNT = _whole(_count)
SEED = _whole(_seed)
NUMBER = Kind(_number, (int, float), "a number", flag_type=float)
AUGMENTATION = Kind(_augmentation)
NUMBERS = Kind(_channel_numbers, (str, int, float), "a number, or a list of numbers", lists=True)
SIZE = _quantity(parse_bytes)
AMOUNT = _quantity(parse_count)
DROP = _quantity(parse_drop)
DURATION = _quantity(parse_seconds)
LATENCIES = replace(_quantity(_latencies), lists=True, repeatable=True, table=True)
QUALITIES = Kind(_qualities, (str, int, float), 'text such as "miou=70%"', lists=True, repeatable=True, table=True)
FLAG = Kind(_flag, flag_type=bool)
