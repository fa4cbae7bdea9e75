"""Reading a checkpoint file that may be damaged or hostile. Nothing in it is ever run.

A `torch.save` file is a pickle. `torch.load(weights_only=True)` rebuilds tensors and plain containers and refuses any
other class, so a training script's `argparse.Namespace` blocks the weights beside it. Such a class is replaced by an
inert record: its name is looked up nowhere, its code is never imported, and what the file stores for it is kept unread.
"""

from __future__ import annotations

import json
import pickle
import re
import tarfile
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from autocompress.errors import InputError
from autocompress.tasks.arrays import refuse_bomb

# A safetensors header takes about 100 bytes a tensor; the limit bounds what reading it can cost.
MAX_HEADER_BYTES = 2 * 2**20
SAVE_HINT = "torch.save(model.state_dict(), …)"
# Names in lower case that training scripts leave in their checkpoints and that only make values.
_FUNCTIONS_OF_DATA = {
    "collections.defaultdict", "collections.deque", "functools.partial", "types.SimpleNamespace",
    "datetime.date", "datetime.datetime", "datetime.time", "datetime.timedelta", "uuid.UUID",
    "numpy.dtype", "numpy.ndarray", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct",
    *(f"builtins.{name}" for name in ("bool", "dict", "float", "frozenset", "int", "list", "object", "str", "tuple")),
}
_TARGET = re.compile(r"Can only SETITEMS? .*Unread_(\d+)'")
# Classes of mappings in one checkpoint; each costs one more reading of its pickle.
_MAX_MAPPINGS = 16
_UNSUPPORTED = re.compile(r"Unsupported (?:global|class|operand).*?GLOBAL (\S+)|reduce for unrecognized function (\S+)"
                          r"|unsupported GLOBAL (\S+)")


class Unread(dict[Any, Any]):
    """A value of a class that is not loaded: its items if it is a mapping, and the state that the file gives it."""

    # The class's full name in the file.
    path = ""
    state: Any = None

    def __new__(cls, *args: Any, **settings: Any) -> Unread:
        """Ignore what the class would have been made of."""
        return super().__new__(cls)

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        self.state = state

    @property
    def is_network(self) -> bool:
        """Whether this is a whole `nn.Module` that was pickled."""
        return isinstance(self.state, dict) and {"_parameters", "_modules"} <= self.state.keys()


class UnreadMapping:
    """A mapping of a class that is not loaded: `weights_only` fills in items of a plain OrderedDict alone."""

    def __new__(cls, *args: Any, **settings: Any) -> Any:
        """An empty OrderedDict, whatever the class would have been made of."""
        return OrderedDict()


def read_checkpoint(path: Path) -> Any:
    """What a checkpoint holds, on the CPU: tensors in nested dicts, and `Unread` in place of other objects.

    The content decides whether it is a safetensors or a torch file, not the suffix. Pickles are read with
    `weights_only=True` and by no other way. InputError when the file is missing, damaged, declares too much, is a
    TorchScript archive, or asks for a function to be called.
    """
    if not path.is_file():
        raise InputError(f"weights: there is no file {str(path)!r}")
    if path.stat().st_size == 0:
        raise InputError(f"weights: {path} is empty (0 bytes): was its download or saving cut short?")
    if path.suffix.lower() == ".safetensors":
        return _read_safetensors(path)
    with path.open("rb") as stream:
        start = stream.read(9)
    if start.startswith((b"PK", b"\x80")) or tarfile.is_tarfile(path):
        return _read_torch(path)
    if start[8:9] == b"{":
        return _read_safetensors(path)
    raise InputError(f"weights: {path} must be an intact .safetensors file or a file of torch.save such as .pt, .pth, "
                     f".ckpt or .bin, but is neither. Save the weights alone: {SAVE_HINT}")


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
                _refuse_torchscript(archive, path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _unpickled(path)
    except InputError:
        raise
    except Exception as error:  # a hostile pickle can raise anything
        raise InputError(f"weights: {path} {_refusal(error)}. Save tensors only: {SAVE_HINT}") from error


def _refuse_torchscript(archive: zipfile.ZipFile, path: Path) -> None:
    names = archive.namelist()
    if any(name.endswith("/constants.pkl") for name in names) and any("/code/" in name for name in names):
        raise InputError(f"weights: {path} must be a state dict, but is a TorchScript program (torch.jit.save), which "
                         f'is not run here. Save its tensors alone: torch.save(torch.jit.load({path.name!r}).state_dict'
                         '(), "weights.pt")')


def _unpickled(path: Path) -> Any:
    """The pickle's content. Which of the unknown classes are mappings shows when items are set, one by one."""
    names = _class_names(path)
    mappings = {"collections.defaultdict"}
    while True:
        inert: list[Any] = [
            (UnreadMapping if name in mappings else type(f"Unread_{i}", (Unread,), {"path": name}), name)
            for i, name in enumerate(names)]
        try:
            with torch.serialization.safe_globals(inert):
                return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            match = _TARGET.search(str(error))
            if match is None or len(mappings) > _MAX_MAPPINGS:
                raise
            mappings.add(names[int(match[1])])


def _class_names(path: Path) -> list[str]:
    """The classes that the file names and `weights_only` does not know; no functions."""
    names = set(_FUNCTIONS_OF_DATA)
    if zipfile.is_zipfile(path):
        names.update(name for name in torch.serialization.get_unsafe_globals_in_checkpoint(path) if _is_class(name))
    else:  # the format before torch 1.6 cannot be asked
        names.update(("argparse.Namespace", "pathlib.PosixPath", "pathlib.Path", "pathlib.WindowsPath"))
    return sorted(names)


def _is_class(name: str) -> bool:
    """By the convention that classes begin with a capital; a name inside a class (`Path.touch`) is a method."""
    owner, _, last = name.rpartition(".")
    return last[:1].isupper() and not owner.rpartition(".")[2][:1].isupper()


def _refusal(error: Exception) -> str:
    """One clean sentence about why `weights_only` refused a file: torch's own text has pages and control codes."""
    text = str(error)
    blocked = next((name for groups in _UNSUPPORTED.findall(text) for name in groups if name), None)
    if blocked is not None:
        return f"must be readable by torch.load(weights_only=True), but would call {blocked}, which is never done here"
    first = next((line for line in text.splitlines() if line.strip()), "no message")
    if first.startswith("Weights only load failed"):
        first = text.rpartition("WeightsUnpickler error:")[2].strip().partition("\n")[0] or first
    plain = "".join(c for c in re.sub(r"\x1b\[[0-9;]*m", "", first) if c.isprintable())
    return (f"must be an intact file that torch.load(weights_only=True) accepts, but: {type(error).__name__}: "
            f"{plain[:160]}")
