"""Data by name, file, folder or from Python, as one checked TaskData."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autocompress.errors import InputError
from autocompress.tasks.arrays import from_memory, from_npz
from autocompress.tasks.factory import call_factory, is_factory
from autocompress.tasks.sources import cifar10, digits, fashion_mnist, image_folder
from autocompress.tasks.splits import Split, TaskData, checked

__all__ = ["DATA_SPECS", "Split", "TaskData", "load_data"]

DATA_SPECS = ("digits", "fashion-mnist", "cifar10", "imagefolder:DIR", "npz:FILE", "path/to/file.py:factory")


def load_data(
    spec: Any, *, root: Path | None = None, seed: int = 0, trust_code: bool = True, image_size: int = 224
) -> TaskData:
    """The data set that `spec` names or is.

    `spec` is one of `DATA_SPECS`, a TaskData, or whatever `arrays.from_memory` takes: arrays, torch
    Datasets, a dict of splits; a factory returns any of these. `root` is the folder of the files of a
    named data set, `seed` settles the splits that are made here, `image_size` (pixels) is for
    imagefolder. InputError when the data cannot be used, EnvironmentFault when a download fails.
    """
    if not isinstance(spec, str):
        return checked(from_memory(spec, "data", seed))
    kind, _, place = spec.partition(":")
    if spec == "digits":
        return checked(digits(seed))
    if spec == "fashion-mnist":
        return checked(fashion_mnist(root))
    if spec == "cifar10":
        return checked(cifar10(root, seed))
    if kind == "imagefolder" and place:
        return checked(image_folder(Path(place), seed, image_size))
    if kind == "npz" and place:
        return checked(from_npz(Path(place), seed))
    if is_factory(spec):
        made = call_factory(spec, what="data", trust_code=trust_code)
        if isinstance(made, str):
            raise InputError(f"data: {spec} must return arrays, Datasets or a dict of splits, but returned {made!r}")
        return checked(from_memory(made, Path(spec.rpartition(":")[0]).stem, seed))
    raise InputError(f"data must be one of {', '.join(DATA_SPECS)}, but got {spec!r}")
