"""Weights as torch's formats store them: packed integers, scales, masks, and the arithmetic that restores the floats.

The arithmetic is torch's own operators, so that an exported program holds the integers and computes the weights from
them, and equals `IntegerWeight`'s levels times its steps bit for bit.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import prod
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from autocompress.formats.base import IntegerWeight, Mask, WritableNetwork
from autocompress.formats.packing import PLANES, index_in, integers, pack

BYTE = 8
MOST_GROUP = 1024
WIDTHS = (*range(1, BYTE + 1), 16, 32)
# Names of what may be stored of a weight.
PARTS = ("values", "plane0", "plane1", "plane2", "scale", "table", "factors", "mask")


class Facts(msgspec.Struct, frozen=True, array_like=True):
    """What the stored tensors of a weight do not say themselves.

    Attributes:
        shape: Shape of the weight.
        bits: Width of a value: 1 to 8 of integers, 16 or 32 of floats.
        kept: Values that are stored; fewer than the shape has where a mask says which.
        group: Weights of a row that share a factor on the scale; 0 for none.
    """

    shape: tuple[int, ...]
    bits: int
    kept: int
    group: int = 0


class StoredWeight(nn.Module):
    """A weight that is computed from what is stored of it. Buffers: `values`, below 8 bits `plane0`, … in its place;
    `scale`, `table` and `factors` of integers; `mask`, a bit for each weight, of sparse ones."""

    def __init__(self, facts: Facts, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.facts = facts
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)

    def forward(self) -> Tensor:
        """Return the weight, float32."""
        facts, held = self.facts, dict(self.named_buffers())
        flat = self._levels(held) if facts.bits < BYTE else held["values"].float().flatten()
        if "mask" in held:
            flags = _unpacked(held["mask"], 1)[:prod(facts.shape)].bool()
            flat = torch.zeros(prod(facts.shape)).masked_scatter(flags, flat)
        weight = flat.reshape(facts.shape)
        if "scale" not in held:
            return weight
        steps = held["scale"].reshape(-1, *[1] * (len(facts.shape) - 1))
        if "factors" in held:
            spread = held["factors"].float().repeat_interleave(facts.group, 1)
            steps = steps * spread[:, :prod(facts.shape[1:])].reshape(facts.shape)
        return weight * steps

    def _levels(self, held: Mapping[str, Tensor]) -> Tensor:
        """The levels of fewer than 8 bits, float32, flat."""
        facts, codes, shift = self.facts, torch.zeros(0), 0
        for i, width in enumerate(PLANES[facts.bits]):
            plane = _unpacked(held[f"plane{i}"], width)[:facts.kept]
            codes = plane if i == 0 else codes + (plane << shift)
            shift += width
        if "table" in held:
            levels: Tensor = held["table"].float()[codes.int()]
            return levels
        first, second = (int(level) for level in integers(facts.bits)[:2])
        return codes.float() * (second - first) + first


def restored(facts: Facts, tensors: Mapping[str, Tensor]) -> Tensor:
    """The weight that what is stored of it, by `PARTS`, stands for.

    Raises:
        ValueError: when these tensors do not make a weight of that shape.
    """
    size = prod(facts.shape)
    stored = tensors["mask"].numel() * BYTE if "mask" in tensors else facts.kept
    fits = 0 <= facts.kept <= size <= stored < size + BYTE
    if not fits or not 0 <= facts.group <= MOST_GROUP or facts.bits not in WIDTHS:
        raise ValueError(f"a weight of shape {facts.shape} cannot be made of {facts.kept} values")
    weight: Tensor = StoredWeight(facts, tensors)()
    return weight


def _unpacked(plane: Tensor, width: int) -> Tensor:
    """The codes of so many bits in the bytes of a plane, lowest first, uint8."""
    places = torch.arange(0, BYTE, width, dtype=torch.uint8)
    codes: Tensor = ((plane.unsqueeze(-1) >> places) & (2**width - 1)).flatten()
    return codes


def stored_weights(network: WritableNetwork) -> dict[str, tuple[Facts, dict[str, Tensor]]]:
    """Pack the weights of a network that are not stored as they are, by module name.

    Sparse weights are stored as the values that are kept and a mask where that is smaller; below 8 bits always, because
    those grids have no zero.
    """
    stored = {}
    for name in sorted({*network.integers, *network.halves, *network.masks}):
        weight = network.model.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        packed = _packed(weight.detach(), network.integers.get(name), network.halves, network.masks.get(name), name)
        if packed is not None:
            stored[name] = packed
    return stored


def sparse_bits(weights: int, kept: int, bits: int) -> bool:
    """Whether so many weights, of which some are zero, are stored as kept values and a mask."""
    return bits < BYTE or weights + kept * bits < weights * bits


def _packed(weight: Tensor, integer: IntegerWeight | None, halves: Collection[str], mask: Mask | None,
            name: str) -> tuple[Facts, dict[str, Tensor]] | None:
    bits = integer.bits if integer is not None else 16 if name in halves else 32
    values = (weight if integer is None else integer.levels).flatten()
    tensors: dict[str, Tensor] = {}
    sparse = mask is not None and sparse_bits(weight.numel(), int(mask.kept.sum()), bits)
    if sparse:
        assert mask is not None
        values = values[mask.kept.flatten()]
        tensors["mask"] = torch.from_numpy(np.packbits(mask.kept.flatten().numpy(), bitorder="little"))
    elif bits == 32:
        return None
    if bits < BYTE:
        assert integer is not None
        levels = values.numpy()
        if integer.table is not None:
            levels = index_in(levels, integer.table.numpy())
            tensors["table"] = integer.table
        tensors |= {f"plane{i}": torch.from_numpy(plane) for i, plane in enumerate(pack(levels, bits))}
    else:
        tensors["values"] = values.half() if bits == 16 else values.clone()
    if integer is not None:
        tensors["scale"] = integer.scale.float()
        if integer.factors is not None:
            tensors["factors"] = integer.factors
    facts = Facts(tuple(weight.shape), bits, len(values), integer.group if integer is not None else 0)
    return facts, {key: tensor.contiguous() for key, tensor in sorted(tensors.items())}


def store(module: nn.Module, weight: StoredWeight) -> None:
    """Let a module compute its weight from what is stored each time that it is read."""
    plain = type(module)
    del module._parameters["weight"]
    module.add_module("stored", weight)
    attributes: dict[str, Any] = {"weight": property(lambda self: self.stored()), "__module__": plain.__module__}
    module.__class__ = type(plain.__name__, (plain,), attributes)
