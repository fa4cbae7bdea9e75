"""Layers that a user wants left as they are: whole, in float, and not trained."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

import msgspec
from torch import nn

from autocompress.core.layer import Layer
from autocompress.errors import InputError
from autocompress.quantities import format_count

# Names of layers in a message.
NAMED = 6


def left_whole(layers: Sequence[Layer], patterns: Sequence[str]) -> list[Layer]:
    """The layers with a reason not to compress those that a pattern names, themselves or a module that they are in.

    A norm that folds into its layer stays as it is with that.

    Raises:
        InputError: where a pattern names no layer.
    """
    pattern_of: dict[str, str] = {}
    for pattern in patterns:
        named = {layer.name: pattern for layer in layers if _is_named(layer.name, pattern)}
        if not named:
            names = ", ".join(layer.name for layer in layers[:NAMED])
            raise InputError(f"keep must name modules of the network, but {pattern!r} names none of its layers {names}"
                             f"{', …' if len(layers) > NAMED else ''}")
        pattern_of |= named
    return [msgspec.structs.replace(layer, not_compressible_reason=f"kept whole, as {pattern_of[layer.name]} says")
            if layer.name in pattern_of and not layer.folds_into else layer for layer in layers]


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Take the modules that a pattern names out of every training, in place."""
    for name, module in model.named_modules():
        if any(_is_named(name, pattern) for pattern in patterns):
            module.requires_grad_(False)


def kept_note(layers: Iterable[Layer], patterns: Sequence[str]) -> str:
    """A sentence about how much is kept; empty where nothing is."""
    every = [*layers]
    whole = [layer for layer in every if any(_is_named(layer.name, pattern) for pattern in patterns)]
    if not whole:
        return ""
    values, total = (sum(layer.params for layer in of) for of in (whole, every))
    return (f"{len(whole)} of {len(every)} layers stay whole and in float, with {format_count(values)} of "
            f"{format_count(total)} parameters: keep={', '.join(patterns)}")


def _is_named(name: str, pattern: str) -> bool:
    """Whether a pattern names a module or one that it is in."""
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:end]), pattern) for end in range(1, len(parts) + 1))
