"""A folder of pictures with one folder for each class, perhaps under folders for the splits."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autocompress.errors import InputError
from autocompress.tasks.arrays import SPELLINGS, assemble
from autocompress.tasks.cache import cache_dir
from autocompress.tasks.decoded_pictures import MAX_CORRUPT_SHARE, DecodedPictures, Decoding, in_threads
from autocompress.tasks.picture_cache import DEFAULT_BYTES
from autocompress.tasks.picture_listing import PictureListing, is_hidden, list_pictures
from autocompress.tasks.pictures import Levels, deep_range, levels_of, picture_suffixes
from autocompress.tasks.preparation import IMAGENET, Preparation
from autocompress.tasks.samples import HELD_BYTES, take_rows
from autocompress.tasks.splits import Split, TaskData, complete

log = logging.getLogger(__name__)

# More pictures, or larger ones than `HELD_BYTES`, are decoded when they are needed.
HELD_PICTURES = 10_000
# Of so many pictures that are decoded later, some are looked at before.
LOOKED_AT = 256
# Files of kinds that may hold more than 8 bits that are looked at for their range.
LOOKED_AT_FOR_LEVELS = 10_000
PROGRESS_SECONDS = 5.0
_SPLIT_OF = {spelling: split for split, spellings in SPELLINGS.items() for spelling in spellings}
_ENDS_NAMED = 5
# Formats that hold no more than 8 bits a channel: no JPEG is looked at twice.
_EIGHT_BITS = (b".jpg", b".jpeg", b".jfif", b".jpe", b".gif", b".webp", b".bmp")


def image_folder(folder: Path, seed: int, preparation: Preparation, cache_bytes: int = DEFAULT_BYTES) -> TaskData:
    """RGB pictures in one folder a class, perhaps under train/, val/ and test/, as bytes of the size that is fed.

    `preparation` says how they are resized, cut and normalised; without a mean, ImageNet's. Unreadable pictures are
    left out with a warning, more than 5% of them is an InputError; files of other kinds are left out and counted. More
    than memory should hold are decoded when they are needed, and kept in the user's cache folder up to `cache_bytes`;
    of those some are looked at before, and an unreadable one is later replaced by another of its class.
    """
    if not folder.is_dir():
        raise InputError(f"data: there is no folder {str(folder)!r}")
    resize, size = preparation.sides
    roots = _split_folders(folder)
    names = _class_names(roots["train"])
    listings = {split: _listed(root, names) for split, root in roots.items()}
    total = sum(map(len, listings.values()))
    _say_what_is_left_out(folder, sum((listing.others for listing in listings.values()), Counter()))
    if total == 0:
        raise InputError(f"{folder} must hold one folder of pictures for each class, but holds no picture in any")
    _say_empty(folder, names, listings["train"])
    is_held = total <= HELD_PICTURES and total * 3 * size**2 <= HELD_BYTES
    decoding = Decoding(resize, size, preparation.interpolation, _levels(folder, list(listings.values())))
    pictures = DecodedPictures(list(listings.values()), decoding,
                               None if is_held else cache_dir() / "pictures", cache_bytes)
    numbers = _by_split(pictures.labels, {split: len(listing) for split, listing in listings.items()}, seed, folder)
    parts = _held(pictures, numbers, folder) if is_held else _streamed(pictures, numbers, folder)
    _say_remarks(pictures, folder, "" if is_held else f" of {min(total, LOOKED_AT)} that were looked at")
    mean, std = preparation.mean or IMAGENET[0], preparation.std or IMAGENET[1]
    prepared = (f"shorter side to {resize} pixels ({preparation.interpolation}), middle {size}×{size}, RGB")
    source = preparation.origin or ("as asked" if preparation.mean else "ImageNet's mean and std assumed")
    log.info("%s: %s; mean %s, std %s: %s", folder, prepared, mean, std, source)
    return assemble(folder.resolve().name, parts, seed, classes=len(names), mean=mean, std=std, pad=0, flip=True,
                    class_names=tuple(names), prepared=prepared, files=_files(decoding))


def _files(decoding: Decoding) -> dict[str, Any]:
    """How pictures are read, as values."""
    levels = {} if decoding.levels is None else {"levels": [decoding.levels.black, decoding.levels.white]}
    return {"fit": "crop", "resize": decoding.resize, "interpolation": decoding.interpolation, **levels}


def _held(pictures: DecodedPictures, numbers: dict[str, Tensor], folder: Path) -> dict[str, Split]:
    """All pictures in memory, without those that cannot be read. InputError where these are too many."""
    parts, corrupt, done, last = dict[str, Split](), list[Tensor](), 0, time.monotonic()
    for split, rows in numbers.items():
        pixels = torch.empty((len(rows), *pictures.shape[1:]), dtype=torch.uint8)
        fine = torch.empty(len(rows), dtype=torch.bool)
        for part in torch.split(torch.arange(len(rows)), LOOKED_AT):
            pixels[part], fine[part] = pictures.readable(rows[part])
            done += len(part)
            if time.monotonic() - last > PROGRESS_SECONDS:
                last = time.monotonic()
                log.info("read %d of %d pictures", done, len(pictures))
        corrupt.append(rows[~fine])
        labels = pictures.labels[rows]
        parts[split] = Split(pixels, labels) if bool(fine.all()) else Split(pixels[fine], labels[fine])
    unreadable = torch.cat(corrupt)
    _refuse_many(pictures, unreadable, len(pictures), 0.0, folder)
    if len(unreadable):
        log.warning("%s: left out %d unreadable of %d pictures, such as %s", folder, len(unreadable), len(pictures),
                    _first(pictures, unreadable))
    return parts


def _streamed(pictures: DecodedPictures, numbers: dict[str, Tensor], folder: Path) -> dict[str, Split]:
    """All pictures but those of some that were looked at and cannot be read. InputError where these are so many that
    more than 5% of all are."""
    looked_at = torch.arange(min(len(pictures), LOOKED_AT)) * len(pictures) // min(len(pictures), LOOKED_AT)
    _, fine = pictures.readable(looked_at)
    unreadable = looked_at[~fine]
    chance = 2 * math.sqrt(MAX_CORRUPT_SHARE * len(looked_at))
    _refuse_many(pictures, unreadable, len(looked_at), chance, folder)
    if len(unreadable):
        log.warning("%s: left out %d unreadable of %d pictures that were looked at, such as %s; an unreadable one that "
                    "is met later is replaced by another of its class", folder, len(unreadable), len(looked_at),
                    _first(pictures, unreadable))
    log.info("%s: %d pictures are decoded when they are needed; decoded ones are kept up to --cache-size, %d of them "
             "are", folder, len(pictures), pictures.cached)
    parts = {}
    for split, rows in numbers.items():
        left = rows[~torch.isin(rows, unreadable)]
        parts[split] = Split(take_rows(pictures, left), pictures.labels[left])
    return parts


def _refuse_many(pictures: DecodedPictures, unreadable: Tensor, count: int, chance: float, folder: Path) -> None:
    """InputError where more than 5% of `count` pictures, and what `chance` adds to that, cannot be read."""
    if len(unreadable) > MAX_CORRUPT_SHARE * count + chance:
        raise InputError(f"{folder}: at most {MAX_CORRUPT_SHARE:.0%} of the pictures may be unreadable, but "
                         f"{len(unreadable)} of {count} are, such as {_first(pictures, unreadable)}")


def _first(pictures: DecodedPictures, rows: Tensor) -> Path:
    return min(pictures.path(row) for row in rows.tolist())


def _say_remarks(pictures: DecodedPictures, folder: Path, of: str) -> None:
    if pictures.remarks.turned:
        log.info("%s: %d pictures%s were turned upright, as their EXIF data say", folder, pictures.remarks.turned, of)
    if pictures.remarks.on_black:
        log.warning("%s: %d transparent pictures%s show nothing on white and were put on black", folder,
                    pictures.remarks.on_black, of)


def _folders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not is_hidden(p.name))


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
    places: dict[str, Path] = {}
    for path, split in of_classes.items():
        if split in places:
            raise InputError(f"{folder} must have one folder for each split, but {places[split].name} and {path.name} "
                             f"both are for {split}")
        places[split] = path
    beside = [path.name for path in _folders(folder) if path not in of_classes]
    if beside:
        log.warning("%s: left out %s, beside the folders of the splits and without folders of classes", folder,
                    ", ".join(beside[:_ENDS_NAMED]))
    return places


def _has_pictures(folder: Path) -> bool:
    suffixes = picture_suffixes()
    return any(path.suffix.lower() in suffixes and not is_hidden(path.name) for path in folder.iterdir())


def _listed(root: Path, names: list[str]) -> PictureListing:
    """Every picture under the class folders. InputError for a class that is not trained."""
    extra = [name for name in _class_names(root) if name not in names]
    if extra:
        raise InputError(f"{root}: every class must also be in the training folder, but {extra[0]!r} is not")
    absent = [name for name in names if not (root / name).is_dir()]
    if absent:
        log.warning("%s: no pictures of %d classes that are trained, such as %s", root, len(absent), absent[0])
    return list_pictures(root, names)


def _say_what_is_left_out(folder: Path, others: Counter[str]) -> None:
    if others:
        kinds = ", ".join(f"{count} of {suffix}" for suffix, count in others.most_common(_ENDS_NAMED))
        log.warning("%s: left out %d files that Pillow does not read as pictures: %s%s", folder, others.total(), kinds,
                    ", …" if len(others) > _ENDS_NAMED else "")


def _say_empty(folder: Path, names: list[str], trained: PictureListing) -> None:
    present = set(trained.labels.tolist())
    empty = [name for label, name in enumerate(names) if label not in present]
    if empty:
        log.warning("%s: no picture to train with is in the class %s%s", folder, ", ".join(empty[:_ENDS_NAMED]),
                    f" and {len(empty) - _ENDS_NAMED} more" if len(empty) > _ENDS_NAMED else "")


def _by_split(labels: Tensor, lengths: dict[str, int], seed: int, folder: Path) -> dict[str, Tensor]:
    """The numbers of the pictures of all three splits: the same rule as for arrays, before any picture is read."""
    ends = torch.tensor(list(lengths.values())).cumsum(0).tolist()
    parts = {split: Split(torch.arange(end - length, end), labels[end - length:end])
             for (split, length), end in zip(lengths.items(), ends, strict=True)}
    return {split: part.inputs for split, part in complete(parts, seed, str(folder)).items()}


def _levels(folder: Path, listings: list[PictureListing]) -> Levels | None:
    """The range of the pictures of more than 8 bits; of very many files, of some of them."""
    files = [(listing, number) for listing in listings for number in range(len(listing))
             if not listing.names.raw(number).lower().endswith(_EIGHT_BITS)]
    paths = [listing.path(number) for listing, number in files[::math.ceil(len(files) / LOOKED_AT_FOR_LEVELS) or 1]]
    ranges = [value_range for value_range in in_threads(deep_range, paths) if value_range is not None] if paths else []
    levels = levels_of(ranges)
    if levels is not None:
        log.info("%s: %d pictures have more than 8 bits: scaled from %g to %g, the range of %s", folder, len(ranges),
                 levels.black, levels.white, "all" if len(paths) == len(files) else f"{len(paths)} of {len(files)}")
    return levels
