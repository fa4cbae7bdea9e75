"""Data by name, file, folder or from Python, as one checked TaskData."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from autocompress.errors import InputError
from autocompress.tasks.arrays import from_memory
from autocompress.tasks.augmentation import Augmentation
from autocompress.tasks.cache import from_home
from autocompress.tasks.data_checks import checked
from autocompress.tasks.factory import call_factory, is_factory
from autocompress.tasks.image_folder import image_folder
from autocompress.tasks.named_sets import cifar10, digits, fashion_mnist
from autocompress.tasks.npz import from_npz
from autocompress.tasks.picture_cache import DEFAULT_BYTES
from autocompress.tasks.preparation import Preparation
from autocompress.tasks.sources.specs import PLACES
from autocompress.tasks.splits import PIXELS, READINGS, Split, TaskData
from autocompress.tasks.views import drawn_changes, sounds_changed

log = logging.getLogger(__name__)

__all__ = ["DATA_SPECS", "Split", "TaskData", "load_data"]

UNSPECIFIED = Preparation()
DATA_SPECS = ("digits", "fashion-mnist", "cifar10", "imagefolder:DIR", *(
    f"{kind}:{','.join(places).replace(',[', '[,')}" for kind, places in PLACES.items()), "path/to/file.py:factory")


def load_data(
    spec: Any, *, root: Path | None = None, seed: int = 0, trust_code: bool = True,
    preparation: Preparation = UNSPECIFIED, reading: str | None = None, cache_bytes: int = DEFAULT_BYTES,
    augment: Augmentation | None = None,
) -> TaskData:
    """The data set that `spec` names or is.

    `spec` is one of `DATA_SPECS`, a TaskData, or whatever `arrays.from_memory` takes: arrays, torch
    Datasets, a dict of splits; a factory returns any of these. `root` is the folder of the files of a
    named data set, `seed` settles the splits that are made here. `preparation` says how the
    pictures of an imagefolder are brought to size, and how inputs of any kind are normalised; `reading`, whether stored
    numbers are pixels, values or tokens (see `TaskData`); `cache_bytes`, how much of the disk decoded pictures may
    take; `augment`, what is changed at random in training, in place of what the data say. InputError when the data
    cannot be used, EnvironmentFault when a download fails.
    """
    if reading is not None and reading not in READINGS:
        raise InputError(f"inputs must be one of {', '.join(READINGS)}, but got {reading!r}")
    data = _loaded(spec, root, seed, trust_code, preparation, cache_bytes)
    if reading is not None:
        data = replace(data, reading=reading)
    if augment is not None:
        data = _augmented(data, augment)
    return checked(_normalised(data, preparation, spec))


def _loaded(spec: Any, root: Path | None, seed: int, trust_code: bool, preparation: Preparation,
            cache_bytes: int) -> TaskData:
    if not isinstance(spec, str):
        return from_memory(spec, "data", seed)
    spec = from_home(spec)
    kind, _, place = spec.partition(":")
    if spec == "digits":
        return digits(seed)
    if spec == "fashion-mnist":
        return fashion_mnist(root)
    if spec == "cifar10":
        return cifar10(root, seed)
    if kind == "imagefolder" and place:
        return image_folder(Path(place), seed, preparation, cache_bytes)
    if kind == "npz" and place:
        return from_npz(Path(place), seed)
    if is_factory(spec):
        result = call_factory(spec, what="data", trust_code=trust_code)
        if isinstance(result, str):
            raise InputError(f"data: {spec} must return arrays, Datasets or a dict of splits, but returned {result!r}")
        return from_memory(result, Path(spec.rpartition(":")[0]).stem, seed)
    raise InputError(f"data must be one of {', '.join(DATA_SPECS)}, but got {spec!r}")


def _augmented(data: TaskData, augmentation: Augmentation) -> TaskData:
    """With these random changes. InputError where inputs are neither pictures nor sounds that can be changed so."""
    drawn_changes(augmentation, {"": data.train.inputs}, torch.Generator().manual_seed(0))
    change = partial(sounds_changed, shift=augmentation.shift, gain=augmentation.gain)
    return replace(data, pad=augmentation.pad, flip=augmentation.flip,
                   augment=change if augmentation.of_sounds else None)


def _normalised(data: TaskData, wished: Preparation, spec: Any) -> TaskData:
    """With the mean and std that the user says; with those of the network's weights where the data says none and holds
    pictures of as many channels. What is assumed is logged."""
    if isinstance(spec, str) and spec.startswith("imagefolder:"):
        return data  # done, and said, where it is read
    if not wished.origin:
        data = replace(data, mean=wished.mean or data.mean, std=wished.std or data.std)
    elif data.kind == PIXELS and data.is_plain and wished.mean and len(wished.mean) == data.input_shape[0]:
        data = replace(data, mean=wished.mean, std=wished.std or data.std)
        log.info("%s: pixels are normalised with mean %s and std %s: %s", data.name, data.mean, data.std, wished.origin)
    if data.kind == PIXELS and data.is_plain:
        log.info("%s: pixels are divided by 255 and not normalised further; --mean and --std (mean, std) say otherwise",
                 data.name)
    return data
