"""Data that already is arrays: in memory or in a torch Dataset."""

from __future__ import annotations

import logging
import mmap
import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from autocompress.errors import EnvironmentFault, InputError
from autocompress.tasks.batch_sources import are_listed_samples
from autocompress.tasks.labels import class_numbers
from autocompress.tasks.samples import HELD_BYTES, LazySamples, Samples, changed
from autocompress.tasks.splits import SPLITS, STORED, Split, TaskData, complete
from autocompress.tasks.stored_samples import SampleWriter, StoredSamples

log = logging.getLogger(__name__)

# The bytes that compressed arrays of a file may take in memory; those that are not compressed are read from the file.
MAX_UNPACKED_BYTES = 8 * 2**30
# Deflate cannot do better than 1032:1; real data stays far below this, a bomb does not.
MAX_RATIO = 500
OPTIONS = ("classes", "mean", "std", "pad", "flip", "inputs", "augment")
SPELLINGS = {"train": ("train", "training"), "validation": ("val", "validation", "valid", "dev"),
             "test": ("test", "testing")}


_STORED_AS = {torch.float64: torch.float32, torch.float16: torch.float32, torch.bfloat16: torch.float32,
              torch.bool: torch.float32, torch.uint16: torch.int32, torch.uint32: torch.int64,
              torch.uint64: torch.int64}


def from_memory(value: Any, name: str, seed: int) -> TaskData:
    """A TaskData out of what a user's Python code hands over.

    `(x, y)` arrays · `(train, test)` or `(train, validation, test)`, each an `(x, y)` pair or a torch
    Dataset · one Dataset · a dict of those by split, which may also hold classes, mean, std, pad, flip,
    augment (see `TaskData`) and inputs, which is its `reading`.
    Arrays are (N, …) pixels, values or tokens; labels as `class_numbers` takes them. InputError says what does not fit.
    """
    if isinstance(value, TaskData):
        return value
    if isinstance(value, Mapping):
        parts = {split_name(key): part for key, part in value.items()}
        options = {key: parts.pop(key) for key in OPTIONS if key in parts}
        unknown = sorted(str(key) for key in parts if key not in SPLITS)
        if unknown:
            raise InputError(f"{name}: keys must be among {SPLITS + OPTIONS}, but there is {', '.join(unknown)}")
    else:
        parts, options = by_split(value, name), {}
    options["reading"] = options.pop("inputs", None)
    pairs = {key: _pair(part, f"{name}, {key} split") for key, part in parts.items()}
    targets, class_names = class_numbers({key: labels for key, (_, labels) in pairs.items()}, name)
    splits = {key: Split(inputs, targets[key]) for key, (inputs, _) in pairs.items()}
    if class_names:
        options |= {"class_names": class_names, "classes": options.get("classes") or len(class_names)}
    return assemble(name, splits, seed, **options)


def split_name(key: Any) -> Any:
    return next((split for split, spellings in SPELLINGS.items() if key in spellings), key)


def assemble(name: str, parts: Mapping[str, Split], seed: int, **options: Any) -> TaskData:
    """A TaskData out of the splits at hand; `options` are fields of TaskData, `classes` found if absent."""
    splits = complete(parts, seed, name)
    train, validation, test = (splits[split] for split in SPLITS)
    if options.get("classes") is None:
        options["classes"] = _count_classes(torch.cat([part.targets for part in splits.values()]), name)
    fields = {key: _option(key, value, name) for key, value in options.items()}
    return TaskData(name, train, validation, test, **fields)


def _option(key: str, value: Any, name: str) -> Any:
    if key in ("augment", "reading", "class_names", "prepared", "files"):
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
            f"{name}: labels must be 0, 1, … without a gap, but they are "
            f"{', '.join(str(int(v)) for v in present[:6])}{', …' if len(present) > 6 else ''}: "
            "renumber them, or give `classes`"
        )
    return len(present)


def _is_dataset(value: Any) -> TypeGuard[Dataset[Any]]:
    return isinstance(value, Dataset)


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray)


def by_split(value: Any, name: str) -> dict[str, Any]:
    if _is_dataset(value):
        return {"train": value}
    if are_listed_samples(value):
        return {"train": _Listed(value)}
    if isinstance(value, tuple | list):
        if len(value) == 2 and all(map(_is_array, value)):
            return {"train": value}
        if len(value) in (2, 3) and all(_is_dataset(v) or isinstance(v, tuple | list) for v in value):
            return dict(zip(("train", "test") if len(value) == 2 else SPLITS, value, strict=True))
    raise InputError(
        f"{name}: data must be (inputs, labels) arrays, a torch Dataset, (train, test) of those, or a dict "
        f"with train, validation and test, but got {_describe(value)}"
    )


class _Listed(Dataset[Any]):
    """A list of samples as a Dataset."""

    def __init__(self, samples: list[Any]) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, number: int) -> Any:
        return self._samples[number]


def _describe(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {', '.join(type(v).__name__ for v in value[:4]) or 'nothing'}"
    return type(value).__name__


def _pair(part: Any, where: str) -> tuple[Samples, Any]:
    """Inputs (N, …) and labels as given, one for each."""
    if isinstance(part, Split):
        inputs, labels = part.inputs, part.targets
    elif _is_dataset(part):
        inputs, labels = _materialised(part, where)
    elif isinstance(part, tuple | list) and len(part) == 2:
        inputs, labels = _inputs(part[0], where), part[1]
    else:
        raise InputError(f"{where}: must be an (inputs, labels) pair or a torch Dataset, but is {_describe(part)}")
    count = len(labels) if hasattr(labels, "__len__") else 0
    if len(inputs) != count:
        raise InputError(f"{where}: needs one label for each sample, but has {len(inputs)} samples and {count} labels")
    return inputs, labels


def _inputs(value: Any, where: str) -> Samples:
    """(N, …) of a type that is stored; grey byte pictures gain a channel, channels-last ones are turned."""
    samples: Samples | None = value if isinstance(value, LazySamples) else in_its_file(value)
    if samples is None:
        samples = _tensor(value, where)
    if samples.ndim == 0:
        raise InputError(f"{where}: inputs must be an array (N, …), but are one number")
    if samples.dtype in _STORED_AS:
        samples = changed(samples, partial(_converted, dtype=_STORED_AS[samples.dtype]))
    if samples.dtype not in STORED:
        raise InputError(f"{where}: inputs must be real numbers, but are {samples.dtype}: convert them")
    if samples.dtype != torch.uint8:
        return samples
    if samples.ndim == 3:
        return changed(samples, _with_a_channel)
    if samples.ndim == 4 and samples.shape[3] in (1, 3, 4) and samples.shape[1] not in (1, 3, 4):
        log.info("%s: reading %s as (N, H, W, C) pixels", where, tuple(samples.shape))
        return changed(samples, _channels_first)
    return samples


def _converted(batch: Tensor, dtype: torch.dtype) -> Tensor:
    return batch.to(dtype)


def _with_a_channel(batch: Tensor) -> Tensor:
    return batch[:, None]


def _channels_first(batch: Tensor) -> Tensor:
    return batch.permute(0, 3, 1, 2).contiguous()


def in_its_file(value: Any) -> StoredSamples | None:
    """A large array that is mapped, such as `np.load(mmap_mode="r")` gives, as samples that are read from its file;
    None for any other."""
    if not isinstance(value, np.memmap) or value.nbytes <= HELD_BYTES or not isinstance(value.base, mmap.mmap) or \
            not value.flags.c_contiguous or not value.dtype.isnative or value.filename is None:
        return None
    return StoredSamples(Path(value.filename), value.shape, torch.from_numpy(np.empty(0, value.dtype)).dtype,
                         value.offset)


def _tensor(value: Any, where: str) -> Tensor:
    """A tensor that shares the memory of what was given, where that can be."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    try:
        array = np.asarray(value)
        wide = {"u2": "i4", "u4": "i8", "u8": "i8"}.get(array.dtype.str[1:])  # torch computes with few unsigned types
        kind = np.dtype(wide) if wide else array.dtype.newbyteorder("=")
        if array.dtype != kind or not (array.flags.writeable and array.flags.c_contiguous):
            array = np.array(array, dtype=kind, order="C")
        return torch.from_numpy(array)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: must be a numeric array, but {type(value).__name__} is not: {error}") from None


class _Gathered:
    """Samples one behind another: in memory up to `HELD_BYTES`, on the disk beyond."""

    def __init__(self) -> None:
        self._held: list[Tensor] = []
        self._bytes = 0
        self._writer: SampleWriter | None = None

    def add(self, sample: Tensor) -> None:
        """The next one."""
        self._held.append(sample)
        self._bytes += sample.nbytes
        if self._bytes > HELD_BYTES // (1 if self._writer is None else 16):
            self._writer = self._writer or SampleWriter()
            self._writer.append({"x": torch.stack(self._held)})
            self._held, self._bytes = [], 0

    def samples(self) -> Samples:
        """All of them."""
        if self._writer is None:
            return torch.stack(self._held)
        if self._held:
            self._writer.append({"x": torch.stack(self._held)})
        return self._writer.finish()["x"]

    def discard(self) -> None:
        """Leave nothing on the disk."""
        if self._writer is not None:
            self._writer.discard()


def _materialised(dataset: Dataset[Any], where: str) -> tuple[Samples, Any]:
    """Every sample once, as the dataset's transform returns it: a random transform is frozen by this."""
    gathered, shapes, labels = _Gathered(), set[tuple[int, ...]](), list[Any]()
    try:
        # without a length it is an IterableDataset
        items: Any = (dataset[i] for i in range(len(dataset))) if hasattr(dataset, "__len__") else dataset
        for item in items:
            sample, label = item[0], item[1]
            tensor = sample if isinstance(sample, Tensor) else _pixels(sample)
            shapes.add(tuple(tensor.shape))
            if len(shapes) == 1:
                gathered.add(tensor)
            labels.append(label if isinstance(label, str) else np.asarray(label).tolist())
    except EnvironmentFault:
        gathered.discard()
        raise
    except Exception as error:  # the user's code: anything can come
        gathered.discard()
        cause = next(iter(str(error).splitlines()), "no message")
        raise InputError(
            f"{where}: sample {len(labels)} must be (input, label), but: {type(error).__name__}: {cause}"
        ) from error
    if not shapes:
        raise InputError(f"{where} is empty: bring at least ten samples")
    if len(shapes) > 1:
        gathered.discard()
        raise InputError(f"{where}: samples must share one shape, but there are {sorted(shapes)[:3]}: resize them")
    if len({np.shape(label) for label in labels}) > 1:
        raise InputError(f"{where}: labels must share one shape, but those of the samples differ")
    return _inputs(gathered.samples(), where), np.array(labels)


def _pixels(sample: Any) -> Tensor:
    """A PIL image or an array; images (H, W, C) become (C, H, W)."""
    array = np.asarray(sample)
    image = not isinstance(sample, np.ndarray)
    if image and array.ndim == 2:
        array = array[None]
    elif image and array.ndim == 3:
        array = array.transpose(2, 0, 1)
    return torch.from_numpy(np.array(array))


def refuse_bomb(archive: zipfile.ZipFile, path: Path) -> None:
    """InputError when the archive declares too much, in proportion or to be unpacked; nothing is unpacked to know."""
    packed = [info for info in archive.infolist() if info.compress_type != zipfile.ZIP_STORED]
    declared = sum(info.file_size for info in archive.infolist())
    stored = sum(info.compress_size for info in archive.infolist())
    if declared > 2**20 and declared > MAX_RATIO * max(stored, 1):
        raise InputError(f"{path} must unpack to at most {MAX_RATIO} times its size, but declares {declared:,} bytes "
                         f"out of {stored:,}: refused, it may be a zip bomb")
    unpacked = sum(info.file_size for info in packed)
    if unpacked > MAX_UNPACKED_BYTES:
        raise InputError(f"{path} must unpack to at most {MAX_UNPACKED_BYTES >> 30} GiB, but its compressed arrays "
                         f"declare {unpacked:,} bytes: store them uncompressed (numpy.savez), then they are read from "
                         "the file")
