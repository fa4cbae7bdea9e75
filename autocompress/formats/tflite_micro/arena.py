"""Where the interpreter for microcontrollers places what is computed, from facts about layers alone.

It places the largest buffers first, each at the least offset at which nothing lies that is alive with it; of equal ones
the last first. That can leave gaps, so the arena may take more than what is alive at once.

Source: tensorflow/lite/micro/memory_planner/greedy_memory_planner.cc of tflite-micro.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt, prod

from autocompress.core.layer import Part

ALIGN = 16
# Moments of a layer: what lies between it and the one before is computed, its input is padded, its weight is looked up,
# it computes.
MOMENTS, PADS, LOOKS_UP, COMPUTES = 4, 1, 2, 3


@dataclass(frozen=True)
class Buffer:
    """So many bytes that are alive from the first to the last moment."""

    size: int
    first: int
    last: int


def planned_bytes(buffers: Sequence[Buffer]) -> int:
    """The bytes that the placed buffers take, given in the order in which the file has them."""
    placed: list[tuple[int, Buffer]] = []  # by offset
    for buffer in sorted(buffers, key=lambda each: each.size)[::-1]:
        offset = 0
        for start, other in placed:
            if other.first <= buffer.last and buffer.first <= other.last:
                if start - offset >= buffer.size:
                    break
                offset = max(offset, start + other.size)
        placed = sorted([*placed, (offset, buffer)], key=lambda each: each[0])
    return max((offset + buffer.size for offset, buffer in placed), default=0)


def buffers_of(layers: Sequence[Part]) -> list[Buffer]:
    """What convolutions and linear layers read, pad, look up and write, given in order of execution. What lies between
    layers is seen where one reads it."""
    last = dict[str, int]()
    for number, part in enumerate(layers):
        last[part.reads or part.name] = MOMENTS * number + (PADS if is_padded(part) else COMPUTES)
    buffers, seen = list[Buffer](), set[str]()
    for number, part in enumerate(layers):
        now, width = MOMENTS * number, part.activation_bits // 8
        source = part.reads or part.name
        if source not in seen:
            seen.add(source)
            buffers.append(_buffer(width * part.in_channels * part.in_positions, now, last[source]))
        if is_padded(part):  # an operation of its own; an image is taken for a square
            side = isqrt(part.in_positions) + max(part.kernel) - 1
            buffers.append(_buffer(width * part.in_channels * side**2, now + PADS, now + COMPUTES))
        if part.weight_bits < 8:
            buffers.append(_buffer(part.weights, now + LOOKS_UP, now + COMPUTES))
        seen.add(part.writes)
        buffers.append(_buffer(width * part.out_channels * part.positions, now + COMPUTES,
                               max(now + MOMENTS, last.get(part.writes, 0))))
    return buffers


def _buffer(size: int, first: int, last: int) -> Buffer:
    return Buffer(-(-size // ALIGN) * ALIGN, first, last)


def is_padded(part: Part) -> bool:
    """Whether a stride asks for pads around the input of a part."""
    return prod(part.kernel) > 1 and part.positions < part.in_positions
