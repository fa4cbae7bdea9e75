"""Checkpoints of trained candidates: tensors and integers in one safetensors file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from autocompress.backend.network.compressed import Compressed, leaves, step_of
from autocompress.backend.network.mask import Mask
from autocompress.backend.network.quantized_weight import QuantizedWeight, within_limit
from autocompress.core.plan import Plan, Receipt
from autocompress.core.store import STRUCTURE, Store, header_of, weights_key
from autocompress.errors import StorageError
from autocompress.techniques.prune import kept_channels
from autocompress.techniques.quantize import QUANTIZE, level_limit, steps_of
from autocompress.techniques.sparsify import SPARSIFY

_LEVELS, _SCALE, _KEPT = "quantized.levels.", "quantized.scale.", "kept."
_TABLE, _FACTORS = "quantized.table.", "quantized.factors."
# Beside `STRUCTURE` and the widths by module name in the file's header: no module has a name that ends in a point.
_FORMAT = "format."
# Version of the file format. In files without one, the levels of 7 and 8 bits and of codebooks reach 127 for any
# activations.
FORMAT = "2"


class Structure(msgspec.Struct, frozen=True):
    """The plan of a compressed network and the channels that every pruned group has kept.

    Together they say which weight of the original each of its weights is.
    """

    plan: Plan
    kept: dict[str, tuple[int, ...]]


class Trained(msgspec.Struct, frozen=True):
    """The content of a file of weights.

    Attributes:
        structure: What the weights belong to.
        tensors: The network's tensors by name, with floats in place of rounded weights.
        integers: The rounded weights, by module name.
        masks: Bool, where sparse weights are not zero, by module name.
    """

    structure: Structure
    tensors: dict[str, Tensor]
    integers: dict[str, QuantizedWeight]
    masks: dict[str, Tensor]


def structure_of(compressed: Compressed) -> Structure:
    """Return the structure of a network with a plan applied."""
    return Structure(compressed.plan, kept_channels(compressed.receipts))


def encode_weights(compressed: Compressed) -> bytes:
    """Return a network's tensors and integers as one safetensors file."""
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
    header[STRUCTURE] = msgspec.json.encode(structure_of(compressed)).decode()
    data: bytes = save(_unshared(tensors), metadata=header)
    return data


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors with memory of their own each: tied weights have several names, and each name is stored."""
    places: set[int] = set()
    separate = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        separate[name] = tensor.clone() if place in places else tensor
        places.add(place)
    return separate


def put_weights(store: Store, rung: int, compressed: Compressed) -> str:
    """Store the weights that a network has after `rung`, and return the hash of their file.

    Raises:
        StorageError: They cannot be stored.
    """
    data = encode_weights(compressed)
    store.put(weights_key(compressed.plan, rung), data)
    return hashlib.sha256(data).hexdigest()


def kept_weights(store: Store, key: str, expected: str) -> bytes:
    """Return the file of weights under a key.

    Raises:
        StorageError: The file is gone, or its hash is not `expected` (where that is not empty). Trained weights cannot
            be computed again from their plan.
    """
    data = store.get(key)
    if data is None or (expected and hashlib.sha256(data).hexdigest() != expected):
        came = "are gone" if data is None else "have changed since they were scored"
        raise StorageError(f"the weights of a trained candidate must be in {key} of the study as written, but they "
                           f"{came}: bring that file back, export another trial, or search anew with "
                           "--force-new-study")
    return data


def load_weights(structure: Compressed, data: bytes, origin: str) -> Compressed:
    """Fill a restructured network, in place, with the weights of a trained network of the same plan.

    Args:
        structure: The restructured network.
        data: What `encode_weights` returned for the trained network.
        origin: The name of the file, for errors.

    Raises:
        StorageError: The file is damaged or does not fit the plan.
    """
    tensors, bits = _read(data, origin)
    try:
        structure.model.load_state_dict(_of_network(tensors))
    except RuntimeError as error:
        first = next(iter(str(error).splitlines()), "")
        raise StorageError(f"{origin} must hold the weights of this plan, but: {first}") from error
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


def read_structure(header: Mapping[str, str]) -> Structure | None:
    """Return the structure in the header of a file of weights; None where there is none, as in files of older releases.
    """
    try:
        return msgspec.json.decode(header.get(STRUCTURE, ""), type=Structure)
    except msgspec.MsgspecError:
        return None


def read_trained(data: bytes, origin: str) -> Trained:
    """Return the content of a file of weights without a network to fill.

    Raises:
        StorageError: The file, named by `origin`, is damaged.
    """
    tensors, bits = _read(data, origin)
    structure = read_structure(bits)
    if structure is None:
        raise StorageError(f"{origin} must say what its weights belong to, but does not")
    return Trained(structure, _of_network(tensors), _integers(structure.plan, tensors, bits),
                   {k.removeprefix(_KEPT): v for k, v in tensors.items() if k.startswith(_KEPT)})


def _read(data: bytes, origin: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return all tensors, and the header. StorageError when the file is damaged."""
    try:
        return load(data), header_of(data) or {}
    except (SafetensorError, ValueError, KeyError) as error:
        first = next(iter(str(error).splitlines()), "")
        raise StorageError(f"{origin} must hold the weights of a candidate, but: {first}") from error


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
                mask = tensors.get(f"{_KEPT}{name}")
                integers[name] = within_limit(integers[name], tensors[f"model.{name}.weight"], mask)
    return integers
