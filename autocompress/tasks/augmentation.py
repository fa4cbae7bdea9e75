"""What is changed at random about training inputs, as a user says it. Loads no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autocompress.errors import InputError

SYNTAX = "such as flip,pad=4 of pictures, or shift=1600,gain=6 of sounds, or none"


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training inputs, drawn for each sample of a view.

    Args:
        pad: pixels by which pictures `(C, H, W)` are shifted at most, down or up and to a side; zeros come in.
        flip: whether every second picture, drawn at random, is mirrored, left for right.
        shift: samples by which sounds `(T,)` or `(1, T)` begin earlier or later at most; zeros come in.
        gain: decibels by which sounds are louder or quieter at most.
    """

    pad: int = 0
    flip: bool = False
    shift: int = 0
    gain: float = 0.0

    def __bool__(self) -> bool:
        return self.of_pictures or self.of_sounds

    @property
    def of_pictures(self) -> bool:
        """Whether pictures are changed."""
        return bool(self.pad or self.flip)

    @property
    def of_sounds(self) -> bool:
        """Whether sounds are changed."""
        return bool(self.shift or self.gain)

    @property
    def described(self) -> str:
        """The changes in words, behind `are`."""
        texts = [f"shifted by up to {self.pad} pixels"] if self.pad else []
        texts += ["mirrored"] if self.flip else []
        texts += [f"moved by up to {self.shift} samples"] if self.shift else []
        texts += [f"made up to {self.gain:g} dB louder or quieter"] if self.gain else []
        return " and ".join(texts)


def augmentation_of(value: Any) -> Augmentation:
    """The changes that a user names: text such as `flip,pad=4`, or these names and values in a mapping; none where that
    is None or `none`. InputError where it is neither, or a value cannot be."""
    if value is None or isinstance(value, Augmentation):
        return value or Augmentation()
    if isinstance(value, str):
        entries = [entry.partition("=") for entry in value.replace(" ", "").split(",") if entry not in ("", "none")]
        named: dict[str, Any] = {name: _number(text) if equals else True for name, equals, text in entries}
    elif isinstance(value, Mapping):
        named = dict(value)
    else:
        raise InputError(f"augment must be text {SYNTAX}, or a mapping of these, but got {value!r}")
    for name, amount in named.items():
        if name not in _LEGAL:
            raise InputError(f"augment must name pad, flip, shift or gain, {SYNTAX}, but got {name!r}")
        if not _is_legal(name, amount):
            raise InputError(f"augment: {name} must be {_LEGAL[name]}, but got {amount!r}")
    return Augmentation(**named)


_LEGAL = {"pad": "a whole number of pixels", "flip": "named alone, or True or False",
          "shift": "a whole number of samples", "gain": "a number of decibels from 0 to 60"}


def _is_legal(name: str, value: Any) -> bool:
    if name == "flip" or isinstance(value, bool):
        return name == "flip" and isinstance(value, bool)
    if name == "gain":
        return isinstance(value, int | float) and 0 <= value <= 60
    return isinstance(value, int) and value >= 0


def _number(text: str) -> Any:
    """A number where a text is one, else the text."""
    try:
        number = float(text)
    except ValueError:
        return text
    return int(number) if math.isfinite(number) and number == int(number) else number
