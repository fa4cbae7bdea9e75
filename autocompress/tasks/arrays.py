"""Data that already is arrays: in memory, in a torch Dataset, or in an .npz file."""

from __future__ import annotations

import logging
import math
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, TypeGuard

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from autocompress.errors import InputError
from autocompress.tasks.splits import SPLITS, Split, TaskData, complete

log = logging.getLogger(__name__)

MAX_DECLARED_BYTES = 8 * 2**30
MAX_RATIO = 500
"""Deflate cannot do better than 1032:1; real data stays far below this, a bomb does not."""
_STORED = ("classes", "mean", "std", "pad", "flip")
_OPTIONS = (*_STORED, "augment")
_NPZ_SPLITS = {"train": ("train",), "validation": ("val", "validation", "valid"), "test": ("test",)}


def from_memory(value: Any, name: str, seed: int) -> TaskData:
    """A TaskData out of what a user's Python code hands over.

    `(x, y)` arrays · `(train, test)` or `(train, validation, test)`, each an `(x, y)` pair or a torch
    Dataset · one Dataset · a dict of those by split, which may also hold classes, mean, std, pad, flip,
    augment (see `TaskData`).
    Arrays are (N, …) uint8 pixels or floats, or (N, length) int64 tokens; labels (N,) integers. InputError says what
    does not fit.
    """
    if isinstance(value, TaskData):
        return value
    if isinstance(value, Mapping):
        parts = {("validation" if key in _NPZ_SPLITS["validation"] else key): part for key, part in value.items()}
        options = {key: parts.pop(key) for key in _OPTIONS if key in parts}
        unknown = sorted(str(key) for key in parts if key not in SPLITS)
        if unknown:
            raise InputError(f"{name}: keys must be among {SPLITS + _OPTIONS}, but there is {', '.join(unknown)}")
    else:
        parts, options = _by_split(value, name), {}
    return assemble(name, {key: _split(part, f"{name}, {key} split") for key, part in parts.items()}, seed, **options)


def assemble(name: str, parts: Mapping[str, Split], seed: int, **options: Any) -> TaskData:
    """A TaskData out of the splits at hand; `options` are fields of TaskData, `classes` found if absent."""
    splits = complete(parts, seed)
    train, validation, test = (splits[split] for split in SPLITS)
    if options.get("classes") is None:
        options["classes"] = _count_classes(train.targets, name)
    fields = {key: _option(key, value, name) for key, value in options.items()}
    return TaskData(name, train, validation, test, **fields)


def _option(key: str, value: Any, name: str) -> Any:
    if key == "augment":
        return value
    try:
        if key in ("mean", "std"):
            return tuple(float(v) for v in np.atleast_1d(np.asarray(value, dtype=float)))
        return bool(value) if key == "flip" else int(value)
    except (TypeError, ValueError):
        kind = "a number or one for each channel" if key in ("mean", "std") else "a whole number"
        raise InputError(f"{name}: {key} must be {kind}, but got {value!r}") from None


def _count_classes(targets: Tensor, name: str) -> int:
    present = torch.unique(targets)
    if len(present) and not torch.equal(present, torch.arange(len(present))):
        raise InputError(
            f"{name}: labels must be 0, 1, … without a gap, but those of the training split are "
            f"{', '.join(str(int(v)) for v in present[:6])}{', …' if len(present) > 6 else ''}: "
            "renumber them, or give `classes`"
        )
    return len(present)


def _is_dataset(value: Any) -> TypeGuard[Dataset[Any]]:
    return isinstance(value, Dataset)


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray)


def _by_split(value: Any, name: str) -> dict[str, Any]:
    if _is_dataset(value):
        return {"train": value}
    if isinstance(value, tuple | list):
        if len(value) == 2 and all(map(_is_array, value)):
            return {"train": value}
        if len(value) in (2, 3) and all(_is_dataset(v) or isinstance(v, tuple | list) for v in value):
            return dict(zip(("train", "test") if len(value) == 2 else SPLITS, value, strict=True))
    raise InputError(
        f"{name}: data must be (inputs, labels) arrays, a torch Dataset, (train, test) of those, or a dict "
        f"with train, validation and test, but got {_describe(value)}"
    )


def _describe(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {', '.join(type(v).__name__ for v in value[:4]) or 'nothing'}"
    return type(value).__name__


def _split(part: Any, where: str) -> Split:
    if isinstance(part, Split):
        return part
    if _is_dataset(part):
        return _materialised(part, where)
    if isinstance(part, tuple | list) and len(part) == 2:
        return Split(_inputs(part[0], where), _targets(part[1], where))
    raise InputError(f"{where}: must be an (inputs, labels) pair or a torch Dataset, but is {_describe(part)}")


def _inputs(value: Any, where: str) -> Tensor:
    """(N, …) uint8, float32 or int64 tokens; grey images gain a channel, channels-last pixels are turned."""
    tensor = _tensor(value, where)
    if tensor.dtype.is_floating_point:
        return tensor.float()
    if tensor.dtype == torch.int64 and tensor.ndim == 2:
        return tensor  # sequences of tokens
    if tensor.dtype != torch.uint8:
        raise InputError(f"{where}: inputs must be uint8 pixels, floats, or int64 tokens (N, length), but are "
                         f"{tensor.dtype} {tuple(tensor.shape)}: convert them")
    if tensor.ndim == 3:
        return tensor[:, None]
    if tensor.ndim == 4 and tensor.shape[3] in (1, 3, 4) and tensor.shape[1] not in (1, 3, 4):
        log.info("%s: reading %s as (N, H, W, C) pixels", where, tuple(tensor.shape))
        return tensor.permute(0, 3, 1, 2).contiguous()
    return tensor


def _targets(value: Any, where: str) -> Tensor:
    tensor = _tensor(value, where)
    if tensor.dtype.is_floating_point or tensor.dtype.is_complex:
        raise InputError(f"{where}: labels must be integers, but are {tensor.dtype}: convert them to int64")
    if tensor.ndim == 2 and tensor.shape[1] == 1:
        tensor = tensor[:, 0]
    if tensor.ndim != 1:
        raise InputError(f"{where}: labels must be one integer a sample, (N,), but are {tuple(tensor.shape)}")
    return tensor.long()


def _tensor(value: Any, where: str) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().cpu().contiguous()
    try:
        array = np.asarray(value)
        return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: must be a numeric array, but {type(value).__name__} is not: {error}") from None


def _materialised(dataset: Dataset[Any], where: str) -> Split:
    """Every sample once, as the dataset's transform returns it: a random transform is frozen by this."""
    inputs: list[Tensor] = []
    labels: list[int] = []
    try:
        # without a length it is an IterableDataset
        items: Any = (dataset[i] for i in range(len(dataset))) if hasattr(dataset, "__len__") else dataset
        for item in items:
            sample, label = item[0], item[1]
            inputs.append(sample if isinstance(sample, Tensor) else _pixels(sample))
            labels.append(int(label))
    except Exception as error:  # the user's code: anything can come
        cause = next(iter(str(error).splitlines()), "no message")
        raise InputError(
            f"{where}: sample {len(labels)} must be (input, label), but: {type(error).__name__}: {cause}"
        ) from error
    if not inputs:
        raise InputError(f"{where} is empty: bring at least ten samples")
    shapes = sorted({tuple(sample.shape) for sample in inputs})
    if len(shapes) > 1:
        raise InputError(f"{where}: samples must share one shape, but there are {shapes[:3]}: resize them")
    return Split(_inputs(torch.stack(inputs), where), torch.tensor(labels, dtype=torch.int64))


def _pixels(sample: Any) -> Tensor:
    """A PIL image or an array; images (H, W, C) become (C, H, W)."""
    array = np.asarray(sample)
    image = not isinstance(sample, np.ndarray)
    if image and array.ndim == 2:
        array = array[None]
    elif image and array.ndim == 3:
        array = array.transpose(2, 0, 1)
    return torch.from_numpy(np.array(array))


def from_npz(path: Path, seed: int) -> TaskData:
    """An .npz with x and y, or x_train, y_train and x_/y_ of val or validation and of test.

    It may also hold classes, mean, std, pad and flip. Never unpickles. InputError when it is no such
    file, is damaged, or declares more than 8 GiB or 500 times its own size.
    """
    if not path.is_file():
        raise InputError(f"data: there is no file {str(path)!r}")
    try:
        with zipfile.ZipFile(path) as archive:
            refuse_bomb(archive, path)
            arrays = {info.filename.removesuffix(".npy"): _read_npy(archive, info) for info in archive.infolist()}
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, MemoryError, RuntimeError) as error:
        raise InputError(f"{path} must be an intact .npz file of plain arrays, but: {error}") from error
    value: dict[str, Any] = {key: arrays[key].tolist() for key in _STORED if key in arrays}
    if "x" in arrays and "y" in arrays:
        value["train"] = (arrays["x"], arrays["y"])
    for split, spellings in _NPZ_SPLITS.items():
        for spelling in spellings:
            if f"x_{spelling}" in arrays and f"y_{spelling}" in arrays:
                value[split] = (arrays[f"x_{spelling}"], arrays[f"y_{spelling}"])
    if "train" not in value:
        held = ", ".join(arrays) or "none"
        raise InputError(f"{path} must hold arrays x and y, or x_train and y_train, but holds {held}")
    return from_memory(value, path.stem, seed)


def refuse_bomb(archive: zipfile.ZipFile, path: Path) -> None:
    """InputError when the archive declares too much, all or in proportion; nothing is unpacked to know."""
    declared = sum(info.file_size for info in archive.infolist())
    stored = sum(info.compress_size for info in archive.infolist())
    if declared > MAX_DECLARED_BYTES or (declared > 2**20 and declared > MAX_RATIO * max(stored, 1)):
        raise InputError(
            f"{path} must unpack to at most {MAX_DECLARED_BYTES >> 30} GiB and {MAX_RATIO} times its size, "
            f"but declares {declared:,} bytes out of {stored:,}: refused, it may be a zip bomb"
        )


def _read_npy(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray[Any, Any]:
    with archive.open(info) as stream:
        _check_npy_size(stream, info)
    with archive.open(info) as stream:
        array: np.ndarray[Any, Any] = np.lib.format.read_array(stream, allow_pickle=False)
        return array


def _check_npy_size(stream: IO[bytes], info: zipfile.ZipInfo) -> None:
    """The array's own header may ask for more memory than the archive's entry holds."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    if math.prod(shape) * dtype.itemsize > info.file_size:
        raise ValueError(f"{info.filename} declares {shape} {dtype}, more than its {info.file_size:,} bytes hold")
