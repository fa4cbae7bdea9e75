"""Keeping a trained candidate: its tensors and integers in one safetensors file."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from autocompress.backend.compressed import Compressed, leaves, step_of
from autocompress.backend.quantization import QuantizedWeight
from autocompress.backend.sparsify import Mask
from autocompress.core.plan import Receipt
from autocompress.errors import StorageError

_LEVELS, _SCALE, _KEPT = "quantized.levels.", "quantized.scale.", "kept."
_TABLE, _FACTORS = "quantized.table.", "quantized.factors."


def save_weights(compressed: Compressed, path: Path) -> None:
    """Write whole or not at all (temporary file, fsync, rename). StorageError when it cannot be written."""
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
    bits = {name: str(weight.bits) for name, weight in compressed.weights.items()}
    part = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, part, metadata=bits)
        with part.open("rb+") as stream:
            os.fsync(stream.fileno())
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise StorageError(f"the weights of a candidate must be written to {path}, but: {error}") from error


def load_weights(structure: Compressed, path: Path) -> Compressed:
    """Fill a restructured network (changed in place) with what `save_weights` kept.

    StorageError when the file does not fit the plan or is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        tensors = load_file(path)
        with safe_open(path, framework="pt") as file:
            bits = file.metadata() or {}
        structure.model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items()
                                         if k.startswith("model.")})
    except (OSError, SafetensorError, RuntimeError) as error:
        first = next(iter(str(error).splitlines()), "")
        raise StorageError(f"{path} must hold the weights of this plan, but: {first}") from error
    structure.weights = {
        name: QuantizedWeight(int(width), tensors[f"{_LEVELS}{name}"], tensors[f"{_SCALE}{name}"],
                              tensors.get(f"{_TABLE}{name}"), int(step_of(name, structure.plan).args.get("group", 0)),
                              tensors.get(f"{_FACTORS}{name}"))
        for name, width in bits.items() if f"{_LEVELS}{name}" in tensors}
    for site, step in structure.plan.find("sparsify").items():
        structure.masks.update({name: Mask(str(step.args["pattern"]), tensors[f"{_KEPT}{name}"])
                                for name in leaves(structure.model, site) if f"{_KEPT}{name}" in tensors})
        structure.receipts.append(Receipt(site, "sparsify", dict(step.args)))
    structure.latent = {name: tensors[f"model.{name}.weight"] for name in structure.weights}
    for name, chosen in structure.weights.items():
        weight = structure.model.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        weight.data.copy_(chosen.dequantized())
    for site, step in structure.plan.find("quantize").items():
        structure.receipts.append(Receipt(site, "quantize", dict(step.args)))
    structure.model.eval()
    return structure
