"""Specs of sources, `KIND:PLACE[,PLACE][?OPTION=VALUE&…]`: text that names data in files, and how they are read."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from autocompress.errors import InputError

# Places of each kind of source, by what they hold; one in brackets may be left out.
PLACES: dict[str, tuple[str, ...]] = {
    "npz": ("FILE",), "csv": ("FILE",), "masks": ("IMAGES", "[MASKS]"), "coco": ("ANNOTATIONS", "IMAGES"),
    "voc": ("DIR",), "audio": ("DIR",)}
# Options of each kind of source.
OPTIONS: dict[str, tuple[str, ...]] = {
    "npz": (), "csv": ("target", "inputs", "text", "split", "shape", "length", "window", "horizon", "stride", "series",
                       "categories", "names"),
    "masks": ("fit", "ignore", "classes"), "coco": ("fit", "classes"), "voc": ("fit", "classes"),
    "audio": ("rate", "seconds")}


@dataclass(frozen=True)
class SourceSpec:
    """A spec, taken apart: the kind of source, files or folders, and options as text."""

    kind: str
    places: tuple[str, ...]
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The places as paths, `~/` in the user's home."""
        return tuple(Path(place).expanduser() if place.startswith("~/") else Path(place) for place in self.places)

    def listed(self, option: str) -> tuple[str, ...] | None:
        """The value of an option as names between commas; None where it is not given. InputError where one is given
        twice."""
        if option not in self.options:
            return None
        names = tuple(name.strip() for name in self.options[option].split(",") if name.strip())
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise InputError(f"data: {option} must name each once, but {twice!r} is named twice in "
                             f"{self.options[option]!r}")
        return names

    def number(self, option: str, kind: type[int] | type[float], words: str) -> float | None:
        """The value of an option as a number above zero; None where it is not given."""
        if option not in self.options:
            return None
        text = self.options[option]
        try:
            value = kind(text)
        except ValueError:
            value = kind(0)
        if not 0 < value < float("inf"):
            raise InputError(f"data: {option} must be {words}, but is {text!r}")
        return value


def source_kind(spec: object) -> str | None:
    """The kind of source that a spec names; None where it names none."""
    kind, colon, place = spec.partition(":") if isinstance(spec, str) else ("", "", "")
    return kind if colon and place and kind in PLACES else None


def parsed(spec: str) -> SourceSpec:
    """A spec, taken apart. InputError for too few or too many places, and for options that there are not."""
    kind, place, query = _pieces(spec)
    places_of_kind = PLACES[kind]
    places = tuple(part.strip() for part in place.split(",")) if len(places_of_kind) > 1 else (place,)
    least = sum(not name.startswith("[") for name in places_of_kind)
    if not least <= len(places) <= len(places_of_kind) or not all(places):
        raise InputError(f"data must be {kind}:{','.join(places_of_kind)}, but got {spec!r}")
    options: dict[str, str] = {}
    for part in query.split("&") if query else ():
        name, equals, value = part.partition("=")
        if not equals or name not in OPTIONS[kind]:
            close = difflib.get_close_matches(name, OPTIONS[kind], n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(OPTIONS[kind]) or 'none'}"
            raise InputError(f"data: options of {kind}: are given as {kind}:{','.join(places_of_kind)}?NAME=VALUE, but "
                             f"{part!r} is none; {hint}")
        if name in options:
            raise InputError(f"data: {name} must be given once, but is given twice in {spec!r}")
        options[name] = unquote(value)
    return SourceSpec(kind, places, options)


def located(spec: str, beside: Callable[[str], str]) -> str:
    """A spec of a source with `beside` of each of its places."""
    kind, place, query = _pieces(spec)
    places = place.split(",") if len(PLACES[kind]) > 1 else [place]
    return f"{kind}:{','.join(beside(each.strip()) for each in places)}{'?' if query else ''}{query}"


def _pieces(spec: str) -> tuple[str, str, str]:
    """The kind, the places, and the options: what follows the first question mark before a name and an equals sign, so
    that a path may have question marks."""
    kind, _, rest = spec.partition(":")
    mark = re.search(r"\?(?=\w+=)", rest) if OPTIONS[kind] else None
    return (kind, rest, "") if mark is None else (kind, rest[:mark.start()], rest[mark.end():])
