"""Data sets known by name."""

from __future__ import annotations

import gzip
import importlib
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from autocompress.errors import EnvironmentFault, InputError
from autocompress.tasks.arrays import MAX_UNPACKED_BYTES, assemble
from autocompress.tasks.cache import cache_dir, downloading
from autocompress.tasks.splits import Split, TaskData, phases
from autocompress.tasks.vision import import_torchvision

# The 8×8 pictures are doubled once, so that a network with strides keeps some resolution.
DIGITS_SIZE = 16
FASHION_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/train-images-idx3-ubyte.gz"
CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
# Where Debian's package dataset-fashion-mnist puts the files.
FASHION_FOLDERS = (Path("/usr/share/datasets/fashion-mnist"), Path("/usr/share/dataset-fashion-mnist"))
_FASHION_FILES = {"train": "train", "test": "t10k"}


def digits(seed: int) -> TaskData:
    """scikit-learn's 1,797 handwritten digits, grey, as 16×16 pixels; split 60/20/20 by class."""
    try:
        source = importlib.import_module("sklearn.datasets").load_digits()
    except ImportError as error:
        raise EnvironmentFault(
            "the digits come with scikit-learn, which is not installed: pip install scikit-learn"
        ) from error
    grey = torch.from_numpy(source.images).float()[:, None] * (255 / 16)
    pixels = functional.interpolate(grey, size=(DIGITS_SIZE, DIGITS_SIZE), mode="bilinear", align_corners=False)
    everything = Split(pixels.round().to(torch.uint8), torch.from_numpy(source.target).long())
    numbers = phases(everything.targets, 5, seed)
    parts = {
        "train": everything.take((numbers < 3).nonzero()[:, 0]),
        "validation": everything.take((numbers == 3).nonzero()[:, 0]),
        "test": everything.take((numbers == 4).nonzero()[:, 0]),
    }
    return assemble("digits", parts, seed, mean=(0.305,), std=(0.318,), pad=1)


def fashion_mnist(root: Path | None) -> TaskData:
    """Fashion-MNIST, 1×28×28: 55,000 train, 5,000 validation (a fixed permutation), 10,000 test.

    Read from `root` when given, else from Debian's package, else from the cache, else downloaded.
    """
    folder = _fashion_folder(root)
    splits = {
        name: Split(
            _idx(folder, f"{stem}-images-idx3-ubyte", 3)[:, None], _idx(folder, f"{stem}-labels-idx1-ubyte", 1).long()
        )
        for name, stem in _FASHION_FILES.items()
    }
    order = torch.from_numpy(np.random.RandomState(0).permutation(len(splits["train"])))
    parts = {"train": splits["train"].take(order[5000:]), "validation": splits["train"].take(order[:5000])}
    parts["test"] = splits["test"]
    return assemble("fashion-mnist", parts, 0, classes=10, mean=(0.2860,), std=(0.3530,), pad=2, flip=True)


def _fashion_folder(root: Path | None) -> Path:
    cached = cache_dir() / "FashionMNIST" / "raw"
    places = (root, root / "FashionMNIST" / "raw") if root is not None else (*FASHION_FOLDERS, cached)
    for place in places:
        if place.is_dir() and any(place.glob("train-images-idx3-ubyte*")):
            return place
    if root is not None:
        raise InputError(f"fashion-mnist: {root} must hold train-images-idx3-ubyte and its three sisters, plain or .gz")
    hint = f"put the four idx files, plain or .gz, into {cached}, or name their folder as the data root"
    with downloading(FASHION_URL, "Fashion-MNIST", hint):
        import_torchvision().datasets.FashionMNIST(str(cache_dir()), download=True)
    return cached


def _idx(folder: Path, name: str, dimensions: int) -> Tensor:
    """One idx file of unsigned bytes, plain or .gz, as a uint8 tensor (N, …)."""
    plain, packed = folder / name, folder / f"{name}.gz"
    path = plain if plain.is_file() else packed
    if not path.is_file():
        raise InputError(f"fashion-mnist: {folder} must hold {name}, plain or .gz, but has neither")
    try:
        with path.open("rb") if path == plain else gzip.open(path) as stream:
            header = np.frombuffer(stream.read(4 * (dimensions + 1)), dtype=">u4")
            if len(header) != dimensions + 1 or header[0] != 0x800 + dimensions:
                raise InputError(f"{path} must be an idx file of {dimensions}-dimensional bytes, but starts otherwise")
            shape = tuple(int(length) for length in header[1:])
            expected = min(math.prod(shape), MAX_UNPACKED_BYTES)
            content = stream.read(expected)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise InputError(f"{path} must be an intact idx file, but: {error}") from error
    if len(content) != math.prod(shape):
        raise InputError(f"{path} must hold {math.prod(shape):,} bytes of data, but ends after {len(content):,}")
    return torch.from_numpy(np.frombuffer(content, dtype=np.uint8).reshape(shape).copy())


def cifar10(root: Path | None, seed: int) -> TaskData:
    """CIFAR-10, 3×32×32: 45,000 train, 5,000 validation (by class), 10,000 test. Needs torchvision."""
    datasets = import_torchvision().datasets
    folder = root if root is not None else cache_dir()
    if not (folder / "cifar-10-batches-py").is_dir():
        hint = f"unpack cifar-10-python.tar.gz into {folder}, or name its folder as the data root"
        with downloading(CIFAR10_URL, "CIFAR-10", hint):
            datasets.CIFAR10(str(folder), download=True)
    parts = {}
    for name in ("train", "test"):
        try:
            source = datasets.CIFAR10(str(folder), train=name == "train")
        except (RuntimeError, OSError) as error:
            raise InputError(f"cifar10: {folder} must hold the intact folder cifar-10-batches-py: {error}") from error
        pixels = torch.from_numpy(source.data).permute(0, 3, 1, 2).contiguous()
        parts[name] = Split(pixels, torch.tensor(source.targets, dtype=torch.int64))
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    return assemble("cifar10", parts, seed, classes=10, mean=mean, std=std, pad=4, flip=True)
