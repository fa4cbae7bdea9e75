"""A function is the same when its content is: code, constants, what it closes over and what it names."""

from __future__ import annotations

import functools
from typing import Any

import torch

from autocompress.tasks.identity import callable_fingerprint

STRENGTH = [0.5]


def _noise(strength: float) -> Any:
    return lambda inputs, generator: inputs + strength * torch.rand(inputs.shape, generator=generator)


def _named(inputs: Any, generator: Any) -> Any:
    return inputs * STRENGTH[0]


class Shift:
    def __init__(self, pixels: int) -> None:
        self.pixels = pixels

    def __call__(self, inputs: Any, generator: Any) -> Any:
        return inputs.roll(self.pixels, -1)


def test_content_tells_functions_apart() -> None:
    functions = [_noise(0.1), _noise(0.2), Shift(1), Shift(2), Shift(1).__call__, functools.partial(_named, 1),
                 functools.partial(_named, 2), _named, torch.flip, torch.roll, lambda x, g: x, lambda x, g: x + 1]
    prints = [callable_fingerprint(function) for function in functions]
    assert None not in prints
    assert len(set(prints)) == len(functions)
    assert callable_fingerprint(_noise(0.1)) == prints[0]
    assert callable_fingerprint(Shift(1)) == prints[2]


def test_a_global_value_that_is_named_counts() -> None:
    before = callable_fingerprint(_named)
    STRENGTH[0] = 0.75
    try:
        assert callable_fingerprint(_named) != before
    finally:
        STRENGTH[0] = 0.5


def test_what_cannot_be_told_is_not_the_same() -> None:
    stream = iter([1])
    generator = torch.Generator()
    assert callable_fingerprint(lambda x, g: next(stream)) is None
    assert callable_fingerprint(lambda x, g: torch.rand(3, generator=generator)) is None


def test_circles_end() -> None:
    def first(x: Any) -> Any:
        return second(x)

    def second(x: Any) -> Any:
        return first(x)

    assert callable_fingerprint(first) is not None
