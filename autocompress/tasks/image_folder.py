"""A folder of pictures with one folder for each class, perhaps under folders for the splits."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import torch

from autocompress.errors import InputError
from autocompress.tasks.arrays import MAX_DECLARED_BYTES, SPELLINGS, assemble
from autocompress.tasks.pictures import (
    READING_ERRORS,
    Levels,
    Remarks,
    deep_range,
    levels_of,
    picture_suffixes,
    quiet_reading,
    square,
)
from autocompress.tasks.preparation import IMAGENET, Preparation
from autocompress.tasks.splits import Split, TaskData, complete

log = logging.getLogger(__name__)

MAX_CORRUPT_SHARE = 0.05
PROGRESS_SECONDS = 5.0
_SPLIT_OF = {spelling: split for split, spellings in SPELLINGS.items() for spelling in spellings}
_SYSTEM_FILES = {"thumbs.db", "desktop.ini", "icon\r", "__macosx"}
_ENDS_NAMED = 5

Files = list[tuple[Path, int]]
Item = TypeVar("Item")
Made = TypeVar("Made")


def image_folder(folder: Path, seed: int, preparation: Preparation) -> TaskData:
    """RGB pictures in one folder a class, perhaps under train/, val/ and test/, as bytes of the size that is fed.

    `preparation` says how they are resized, cut and normalised; without a mean, ImageNet's. Unreadable pictures are
    left out with a warning, more than 5% of them is an InputError; files of other kinds are left out and counted.
    """
    if not folder.is_dir():
        raise InputError(f"data: there is no folder {str(folder)!r}")
    resize, size = preparation.sides
    roots = _split_folders(folder)
    names = _class_names(roots["train"])
    others: Counter[str] = Counter()
    files = {split: _listed(root, names, others) for split, root in roots.items()}
    total = sum(map(len, files.values()))
    if total * 3 * size**2 > MAX_DECLARED_BYTES:
        raise InputError(f"{folder}: {total:,} pictures of {size} pixels are more than {MAX_DECLARED_BYTES >> 30} GiB: "
                         "choose a smaller image size or fewer pictures")
    _say_what_is_left_out(folder, others)
    if total == 0:
        raise InputError(f"{folder} must hold one folder of pictures for each class, but holds no picture in any")
    _say_empty(folder, names, files["train"])
    everything = {path: label for part in files.values() for path, label in part}
    levels = _levels(folder, list(everything))
    corrupt: list[Path] = []
    remarks = Remarks()
    parts = {split: _read(part, resize, size, preparation.interpolation, levels, corrupt, remarks)
             for split, part in _by_split(files, seed, folder).items()}
    if len(corrupt) > MAX_CORRUPT_SHARE * total:
        raise InputError(
            f"{folder}: at most {MAX_CORRUPT_SHARE:.0%} of the pictures may be unreadable, but {len(corrupt)} of "
            f"{total} are, such as {min(corrupt)}"
        )
    if corrupt:
        log.warning("%s: left out %d unreadable of %d pictures, such as %s", folder, len(corrupt), total, min(corrupt))
    if remarks.turned:
        log.info("%s: %d pictures were turned upright, as their EXIF data say", folder, remarks.turned)
    if remarks.on_black:
        log.warning("%s: %d transparent pictures show nothing on white and were put on black", folder, remarks.on_black)
    mean, std = preparation.mean or IMAGENET[0], preparation.std or IMAGENET[1]
    prepared = (f"shorter side to {resize} pixels ({preparation.interpolation}), middle {size}×{size}, RGB")
    source = preparation.origin or ("as asked" if preparation.mean else "ImageNet's mean and std assumed")
    log.info("%s: %s; mean %s, std %s: %s", folder, prepared, mean, std, source)
    return assemble(folder.resolve().name, parts, seed, classes=len(names), mean=mean, std=std, pad=0, flip=True,
                    class_names=tuple(names), prepared=prepared)


def _folders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not _is_hidden(p))


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".") or path.name.lower() in _SYSTEM_FILES


def _class_names(root: Path) -> list[str]:
    return [path.name for path in _folders(root)]


def _split_folders(folder: Path) -> dict[str, Path]:
    """The folder of each split; that of the whole data as `train` where there are none. By structure: the folder of a
    split holds folders and no pictures, so that a class may be called `train`."""
    named = {path: _SPLIT_OF[path.name.lower()] for path in _folders(folder) if path.name.lower() in _SPLIT_OF}
    of_classes = {path: split for path, split in named.items() if _folders(path) and not _has_pictures(path)}
    if "train" not in of_classes.values():
        if named and len(named) == len(_folders(folder)):
            raise InputError(f"{folder}: {', '.join(path.name for path in named)} must hold one folder of pictures for "
                             "each class, but hold pictures themselves: what class is each of?")
        return {"train": folder}
    found: dict[str, Path] = {}
    for path, split in of_classes.items():
        if split in found:
            raise InputError(f"{folder} must have one folder for each split, but {found[split].name} and {path.name} "
                             f"both are for {split}")
        found[split] = path
    beside = [path.name for path in _folders(folder) if path not in of_classes]
    if beside:
        log.warning("%s: left out %s, beside the folders of the splits and without folders of classes", folder,
                    ", ".join(beside[:_ENDS_NAMED]))
    return found


def _has_pictures(folder: Path) -> bool:
    suffixes = picture_suffixes()
    return any(path.suffix.lower() in suffixes and not _is_hidden(path) for path in folder.iterdir())


def _listed(root: Path, names: list[str], others: Counter[str]) -> Files:
    """Every picture under the class folders with its label; `others` counts the rest by suffix."""
    extra = [name for name in _class_names(root) if name not in names]
    if extra:
        raise InputError(f"{root}: every class must also be in the training folder, but {extra[0]!r} is not")
    suffixes, files = picture_suffixes(), []
    for label, name in enumerate(names):
        for path in sorted((root / name).rglob("*")):
            inside = path.relative_to(root / name)
            if any(_is_hidden(Path(part)) for part in inside.parts) or not path.is_file():
                continue
            if path.suffix.lower() in suffixes:
                files.append((path, label))
            else:
                others[path.suffix.lower() or "no suffix"] += 1
    return files


def _say_what_is_left_out(folder: Path, others: Counter[str]) -> None:
    if others:
        kinds = ", ".join(f"{count} of {suffix}" for suffix, count in others.most_common(_ENDS_NAMED))
        log.warning("%s: left out %d files that Pillow does not read as pictures: %s%s", folder, others.total(), kinds,
                    ", …" if len(others) > _ENDS_NAMED else "")


def _say_empty(folder: Path, names: list[str], trained: Files) -> None:
    present = {label for _, label in trained}
    empty = [name for label, name in enumerate(names) if label not in present]
    if empty:
        log.warning("%s: no picture to train with is in the class %s%s", folder, ", ".join(empty[:_ENDS_NAMED]),
                    f" and {len(empty) - _ENDS_NAMED} more" if len(empty) > _ENDS_NAMED else "")


def _by_split(files: dict[str, Files], seed: int, folder: Path) -> dict[str, Files]:
    """The files of all three splits: the same rule as for arrays, on their numbers, before any picture is read."""
    everything = [entry for part in files.values() for entry in part]
    parts, start = {}, 0
    for split, part in files.items():
        numbers = torch.arange(start, start + len(part))
        parts[split] = Split(numbers, torch.tensor([label for _, label in part], dtype=torch.int64))
        start += len(part)
    return {split: [everything[i] for i in part.inputs.tolist()]
            for split, part in complete(parts, seed, str(folder)).items()}


def _levels(folder: Path, paths: list[Path]) -> Levels | None:
    ranges = [found for found in _in_threads(deep_range, _maybe_deep(paths), "looked at") if found is not None]
    levels = levels_of(ranges)
    if levels is not None:
        log.info("%s: %d pictures have more than 8 bits: scaled from %g to %g, the range of all", folder, len(ranges),
                 levels.black, levels.white)
    return levels


def _maybe_deep(paths: list[Path]) -> list[Path]:
    """Those whose format can hold more than 8 bits a channel: no JPEG is looked at twice."""
    return [path for path in paths if path.suffix.lower() not in (".jpg", ".jpeg", ".jfif", ".jpe", ".gif", ".webp",
                                                                  ".bmp")]


def _read(files: Files, resize: int, size: int, interpolation: str, levels: Levels | None, corrupt: list[Path],
          remarks: Remarks) -> Split:
    pixels = torch.empty((len(files), 3, size, size), dtype=torch.uint8)

    def read(number: int) -> bool:
        try:
            pixels[number] = torch.from_numpy(
                square(files[number][0], resize, size, interpolation, levels, remarks).copy())
        except READING_ERRORS:
            corrupt.append(files[number][0])
            return False
        return True

    fine = torch.tensor(_in_threads(read, range(len(files)), "read"), dtype=torch.bool)
    labels = torch.tensor([label for _, label in files], dtype=torch.int64)
    return Split(pixels, labels) if bool(fine.all()) else Split(pixels[fine], labels[fine])


def _in_threads(work: Callable[[Item], Made], items: Iterable[Item], done: str) -> list[Made]:
    """The results in order; Pillow decodes and resizes without the interpreter's lock."""
    listed, results = list(items), []
    last = time.monotonic()
    with quiet_reading(), ThreadPoolExecutor(max(1, min(8, os.cpu_count() or 1))) as pool:
        for count, made in enumerate(pool.map(work, listed), 1):
            results.append(made)
            if time.monotonic() - last > PROGRESS_SECONDS:
                last = time.monotonic()
                log.info("%s %d of %d pictures", done, count, len(listed))
    return results
