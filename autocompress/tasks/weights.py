"""Reading weights from a file that may be damaged or hostile. Nothing in it is ever run."""

from __future__ import annotations

import json
import logging
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from autocompress.errors import InputError
from autocompress.tasks.arrays import refuse_bomb

log = logging.getLogger(__name__)

MAX_HEADER_BYTES = 2 * 2**20
"""A safetensors header takes about 100 bytes a tensor; the limit bounds what reading it can cost."""
_WRAPPERS = ("state_dict", "model")
_NAMED = 5


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict in a `.safetensors`, `.pt` or `.pth` file, on the CPU, names as the model has them.

    A dict nested under `state_dict` or `model` is found, a `module.` prefix taken off. Pickles are read
    with `weights_only=True` and by no other way. InputError when the file is missing, damaged, declares
    too much, or asks for code to be run.
    """
    if not path.is_file():
        raise InputError(f"weights: there is no file {str(path)!r}")
    readers = {".safetensors": _read_safetensors, ".pt": _read_torch, ".pth": _read_torch}
    if path.suffix.lower() not in readers:
        raise InputError(f"weights must be a .safetensors, .pt or .pth file, but got {path.name!r}")
    if path.stat().st_size == 0:
        raise InputError(f"weights: {path} is empty (0 bytes): was its download or saving cut short?")
    return _unwrapped(readers[path.suffix.lower()](path), path)


def _read_safetensors(path: Path) -> Any:
    _check_header(path)
    try:
        return load_file(path, device="cpu")
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError, AttributeError) as error:
        raise InputError(f"weights: {path} must be an intact safetensors file, but: {error}") from error


def _check_header(path: Path) -> None:
    """Bound the header and refuse repeated names, of which the library would silently keep the last."""
    with path.open("rb") as stream:
        start = stream.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > min(MAX_HEADER_BYTES, path.stat().st_size - 8):
            raise InputError(
                f"weights: {path} must be an intact safetensors file, but declares a header of {length:,} bytes "
                f"in a file of {path.stat().st_size:,}"
            )
        header = stream.read(length)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names: dict[str, Any] = {}
        for name, value in pairs:
            if name in names:
                raise InputError(f"weights: {path} must name each tensor once, but its header repeats {name[:80]!r}")
            names[name] = value
        return names

    try:
        json.loads(header, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"weights: {path} must be an intact safetensors file, but its header is not JSON: {error}"
        ) from None


def _read_torch(path: Path) -> Any:
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                refuse_bomb(archive, path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except Exception as error:  # a hostile pickle can raise anything
        cause = next(iter(str(error).splitlines()), "no message")
        raise InputError(
            f"weights: {path} must be an intact file that torch.load(weights_only=True) accepts, but: "
            f"{type(error).__name__}: {cause[:200]}. Save tensors only: torch.save(model.state_dict(), …)"
        ) from error


def _unwrapped(content: Any, path: Path) -> dict[str, Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise InputError(f"weights: {path} must hold a state dict, but holds {type(content).__name__}")
    wrong = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if wrong:
        raise InputError(f"weights: {path} must hold tensors only, but {_named(wrong)} are not tensors")
    names = [str(name) for name in content]
    prefix = "module." if all(name.startswith("module.") for name in names) else ""
    return {str(name).removeprefix(prefix): value for name, value in content.items()}


def put_weights(model: nn.Module, weights: dict[str, Tensor], origin: str, classes: int) -> None:
    """Copy `weights` into the model, as float32 where they are floats.

    InputError names the first five names or shapes that do not fit, tensors of complex or integer type
    where the model has floats, and tensors with NaN or infinite values. `classes` words the commonest
    misfit: weights trained for another number of classes.
    """
    own = model.state_dict()
    missing = [n for n in own if n not in weights and not n.endswith("num_batches_tracked")]
    unexpected = [n for n in weights if n not in own]
    if missing or unexpected:
        found = {"missing": missing, "unexpected": unexpected}
        texts = "; ".join(f"{what} {_named(names)}" for what, names in found.items() if names)
        raise InputError(f"{origin} must be weights of this model, but there are names {texts}")
    shapes = {n: (tuple(own[n].shape), tuple(t.shape)) for n, t in weights.items() if own[n].shape != t.shape}
    if shapes:
        first = list(shapes.items())[:_NAMED]
        texts = "; ".join(f"{name} {ours} against {theirs} in the file" for name, (ours, theirs) in first)
        heads = {theirs[0] for ours, theirs in shapes.values() if ours and theirs and ours[0] == classes != theirs[0]}
        for_classes = f" (weights for {heads.pop()} classes, data with {classes}?)" if len(heads) == 1 else ""
        raise InputError(f"{origin} must have the model's shapes, but {texts}{for_classes}")
    refused = [n for n, t in weights.items() if own[n].is_floating_point() and not t.is_floating_point()]
    if refused:
        kinds = ", ".join(sorted({str(weights[n].dtype) for n in refused}))
        raise InputError(f"{origin} must hold floating-point weights, but {_named(refused)} are {kinds}")
    bad = [n for n, t in weights.items() if t.is_floating_point() and not bool(torch.isfinite(t.float()).all())]
    if bad:
        raise InputError(f"{origin} must hold finite weights, but {_named(bad)} contain NaN or infinity")
    converted = {str(t.dtype) for n, t in weights.items() if t.is_floating_point() and t.dtype != torch.float32}
    if converted:
        log.warning("%s: converted weights from %s to float32", origin, ", ".join(sorted(converted)))
    model.load_state_dict({**own, **weights})


def check_float32(model: nn.Module, origin: str) -> nn.Module:
    """The model in float32 on the CPU. InputError when it holds complex, or NaN or infinite, weights."""
    state = model.state_dict()
    wrong = [n for n, t in state.items() if t.is_complex()]
    if wrong:
        raise InputError(f"{origin} must have real weights, but {_named(wrong)} are complex")
    bad = [n for n, t in state.items() if t.is_floating_point() and not bool(torch.isfinite(t.float()).all())]
    if bad:
        raise InputError(f"{origin} must have finite weights, but {_named(bad)} contain NaN or infinity")
    return model.float().cpu()


def _named(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
