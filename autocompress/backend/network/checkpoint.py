"""Checkpoints of trained candidates: tensors and integers in one safetensors file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from autocompress.backend.network.compressed import Compressed, leaves, step_of
from autocompress.backend.network.mask import Mask
from autocompress.backend.network.quantized_weight import QuantizedWeight, within_limit
from autocompress.core.files import replacing, sha256_of
from autocompress.core.plan import Plan, Receipt
from autocompress.errors import StorageError
from autocompress.techniques.prune import kept_channels
from autocompress.techniques.quantize import QUANTIZE, level_limit, steps_of
from autocompress.techniques.sparsify import SPARSIFY

_LEVELS, _SCALE, _KEPT = "quantized.levels.", "quantized.scale.", "kept."
_TABLE, _FACTORS = "quantized.table.", "quantized.factors."
_STRUCTURE, _FORMAT = "structure.", "format."
"""Beside the widths by module name in the file's header: no module has a name that ends in a point."""
FORMAT = "2"
"""Version of the file format. In files without one, the levels of 7 and 8 bits and of codebooks reach 127 for any
activations."""


class Structure(msgspec.Struct, frozen=True):
    """What says which weight of the original each weight of a compressed network is: its plan, and the channels that
    every pruned group has kept."""

    plan: Plan
    kept: dict[str, tuple[int, ...]]


class Trained(msgspec.Struct, frozen=True):
    """What is in a file of weights. `tensors` are the network's by name, with floats in place of rounded weights,
    `integers` those that were rounded, `masks` (bool) where sparse ones are not zero, both by module name."""

    structure: Structure
    tensors: dict[str, Tensor]
    integers: dict[str, QuantizedWeight]
    masks: dict[str, Tensor]


def structure_of(compressed: Compressed) -> Structure:
    """Return the structure of a network with a plan applied."""
    return Structure(compressed.plan, kept_channels(compressed.receipts))


def save_weights(compressed: Compressed, path: Path) -> str:
    """Write a checkpoint, whole or not at all (temporary file, fsync, rename), and return the file's hash.

    Raises:
        StorageError: The file cannot be written.
    """
    # What integers were rounded from takes the place of their values, which follow from levels and scales.
    state = compressed.model.state_dict() | {f"{name}.weight": value for name, value in compressed.latent.items()}
    tensors: dict[str, Tensor] = {f"model.{k}": v.contiguous() for k, v in state.items()}
    for name, weight in compressed.weights.items():
        tensors[f"{_LEVELS}{name}"] = weight.levels.contiguous()
        tensors[f"{_SCALE}{name}"] = weight.scale.contiguous()
        if weight.table is not None:
            tensors[f"{_TABLE}{name}"] = weight.table.contiguous()
        if weight.factors is not None:
            tensors[f"{_FACTORS}{name}"] = weight.factors.contiguous()
    tensors.update({f"{_KEPT}{name}": mask.kept.contiguous() for name, mask in compressed.masks.items()})
    header = {name: str(weight.bits) for name, weight in compressed.weights.items()}
    header[_FORMAT] = FORMAT
    header[_STRUCTURE] = msgspec.json.encode(structure_of(compressed)).decode()
    try:
        with replacing(path) as part:
            save_file(tensors, part, metadata=header)
    except (OSError, SafetensorError) as error:
        raise StorageError(f"the weights of a candidate must be written to {path}, but: {error}") from error
    return sha256_of(path)


def require_weights(path: Path, expected: str) -> None:
    """StorageError unless the file is there and, where a hash is `expected`, has it: what was trained cannot be made
    again from its plan."""
    actual = sha256_of(path) if path.is_file() else None
    if actual is None or (expected and actual != expected):
        state = "are gone" if actual is None else "have changed since they were scored"
        raise StorageError(f"the weights of a trained candidate must be in {path} as written, but they {state}: bring "
                           "that file back, export another trial, or search anew with --force-new-study")


def load_weights(structure: Compressed, path: Path) -> Compressed:
    """Fill a restructured network (changed in place) with what `save_weights` kept.

    StorageError when the file does not fit the plan or is damaged.
    """
    tensors, bits = _read(path)
    try:
        structure.model.load_state_dict(_of_network(tensors))
    except RuntimeError as error:
        first = next(iter(str(error).splitlines()), "")
        raise StorageError(f"{path} must hold the weights of this plan, but: {first}") from error
    structure.weights = _integers(structure.plan, tensors, bits)
    for name, mask in list(structure.masks.items()):
        structure.masks[name] = Mask(mask.pattern, tensors[f"{_KEPT}{name}"])
    for site, step in structure.plan.find(SPARSIFY.name).items():
        structure.masks.update({name: Mask(str(step.args["pattern"]), tensors[f"{_KEPT}{name}"])
                                for name in leaves(structure.model, site) if f"{_KEPT}{name}" in tensors})
        structure.receipts.append(Receipt(site, SPARSIFY.name, dict(step.args)))
    structure.latent = {name: tensors[f"model.{name}.weight"] for name in structure.weights}
    for name, integer_weight in structure.weights.items():
        weight = structure.model.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        weight.data.copy_(integer_weight.dequantized())
    for site, step in steps_of(structure.plan).items():
        structure.receipts.append(Receipt(site, QUANTIZE.name, dict(step.args)))
    structure.model.eval()
    return structure


def read_structure(path: Path) -> Structure | None:
    """From the header alone. None where the file cannot be read, or was written before files said it."""
    try:
        with safe_open(path, framework="pt") as file:
            return msgspec.json.decode((file.metadata() or {}).get(_STRUCTURE, ""), type=Structure)
    except (OSError, SafetensorError, msgspec.MsgspecError):
        return None


def read_trained(path: Path) -> Trained:
    """Everything in the file, without a network to put it in. StorageError when it is damaged."""
    tensors, bits = _read(path)
    structure = read_structure(path)
    if structure is None:
        raise StorageError(f"{path} must say what its weights belong to, but does not")
    return Trained(structure, _of_network(tensors), _integers(structure.plan, tensors, bits),
                   {k.removeprefix(_KEPT): v for k, v in tensors.items() if k.startswith(_KEPT)})


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors, and the header. StorageError when the file cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            return load_file(path), file.metadata() or {}
    except (OSError, SafetensorError) as error:
        first = next(iter(str(error).splitlines()), "")
        raise StorageError(f"{path} must hold the weights of a candidate, but: {first}") from error


def _of_network(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}


def _integers(plan: Plan, tensors: Mapping[str, Tensor], bits: Mapping[str, str]) -> dict[str, QuantizedWeight]:
    integers = {}
    for name, width in bits.items():
        if f"{_LEVELS}{name}" in tensors:
            args = step_of(name, plan).args
            integers[name] = QuantizedWeight(
                int(width), tensors[f"{_LEVELS}{name}"], tensors[f"{_SCALE}{name}"], tensors.get(f"{_TABLE}{name}"),
                int(args.get("group", 0)), tensors.get(f"{_FACTORS}{name}"), level_limit(args))
            if _FORMAT not in bits:
                kept = tensors.get(f"{_KEPT}{name}")
                integers[name] = within_limit(integers[name], tensors[f"model.{name}.weight"], kept)
    return integers
