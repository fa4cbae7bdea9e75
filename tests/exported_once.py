"""What torch exports of a network is remembered for the whole session, in a folder that all its workers share.

An export takes from one second to seven, and the tests build the same few networks again and again. A remembered graph
that did not fit would be noticed: a bench refuses a graph that does not compute what its network computes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FunctionType
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

OWN = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")


class Unknown(Exception):
    """A network holds something that no fingerprint can be taken of."""


def remembered_graph(export: Callable[..., onnx.ModelProto], folder: Path) -> Callable[..., onnx.ModelProto]:
    """`export`, run once for each network and input."""

    def bytes_of(*args: Any) -> bytes:
        return export(*args).SerializeToString()

    remembered = remembered_bytes(bytes_of, folder)
    return lambda *args: onnx.load_model_from_string(remembered(*args))


def remembered_bytes(export: Callable[..., bytes], folder: Path) -> Callable[..., bytes]:
    """`export`, run once for each network and input."""

    def remembered(model: nn.Module, example: Tensor | Mapping[str, Tensor], *more: Any) -> bytes:
        try:
            inputs = example if isinstance(example, Mapping) else {"": example}
            shapes = [(name, tuple(tensor.shape), tensor.dtype) for name, tensor in inputs.items()]
            state = f"{shapes} {more} {torch.backends.mha.get_fastpath_enabled()}"
            file = folder / hashlib.sha256(f"{fingerprint(model)} {state}".encode()).hexdigest()
        except Unknown:
            return export(model, example, *more)
        if not file.exists():
            part = file.with_suffix(f".{os.getpid()}")
            part.write_bytes(export(model, example, *more))
            part.replace(file)
        return file.read_bytes()

    folder.mkdir(parents=True, exist_ok=True)
    return remembered


def fingerprint(model: nn.Module) -> str:
    """A hash of a network's code, attributes and tensors. Unknown where an attribute is neither a number nor a name."""
    digest = hashlib.sha256()
    places: dict[int, int] = {}  # which tensors are the same one
    for name, module in model.named_modules(remove_duplicate=False):
        digest.update(f"{name} {_code(module)} {_attributes(module)}\n".encode())
        for key, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                place = places.setdefault(id(tensor), len(places))
                digest.update(f"{key} {tuple(tensor.shape)} {tensor.dtype} {place}\n".encode())
                digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _code(module: nn.Module) -> str:
    if isinstance(module, GraphModule):
        return module.code
    return f"{type(module).__module__}.{type(module).__qualname__} {_function(type(module).forward)}"


def _function(function: Any) -> str:
    if not isinstance(function, FunctionType):
        raise Unknown
    code, closure = function.__code__, [_plain(cell.cell_contents) for cell in function.__closure__ or ()]
    return f"{code.co_filename}:{code.co_firstlineno} {code.co_code.hex()} {closure}"


def _attributes(module: nn.Module) -> str:
    if isinstance(module, GraphModule):
        return ""
    if any(value for key, value in vars(module).items() if key.endswith("_hooks")):
        raise Unknown
    return str({key: _plain(value) for key, value in sorted(vars(module).items())
                if key not in OWN and not key.endswith(("_hooks", "_hooks_with_kwargs", "_hooks_always_called"))})


def _plain(value: Any) -> str:
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if value is None or isinstance(value, bool | int | float | str | torch.dtype | torch.device):
        return repr(value)
    if isinstance(value, tuple | list | set | frozenset):
        return f"{type(value).__name__} {[_plain(each) for each in value]}"
    if isinstance(value, dict):
        return str({_plain(key): _plain(each) for key, each in value.items()})
    if isinstance(value, FunctionType):
        return _function(value)
    if callable(value) and getattr(value, "__module__", "").startswith(("torch", "builtins", "_operator", "math")):
        return getattr(value, "__qualname__", repr(type(value)))
    raise Unknown
