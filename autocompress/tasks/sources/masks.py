"""The source `masks:`, pictures and masks of the same stem, in two folders that may have a folder for each split.

The value of a mask's pixel is the number of a class.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from autocompress.errors import InputError
from autocompress.tasks.pictures import READING_ERRORS, picture_suffixes
from autocompress.tasks.sources.base import INPUT, TARGET, Sample, Source, SourceContext, in_three_splits
from autocompress.tasks.sources.fit import Fit, fit_for, normalisation, picture_size, read_picture
from autocompress.tasks.sources.folders import files_below, split_roots
from autocompress.tasks.sources.specs import SourceSpec

log = logging.getLogger(__name__)

# The value of pixels that belong to no class, where no option says another, and what stands for it in targets: that
# which torch's cross-entropy leaves out.
WHITE, VOID = 255, -100
# Masks that are read at the start, spread over all; the others are checked when they are read.
CHECKED_MASKS = 2000
# Modes of pictures whose pixels are one whole number.
_MODES = ("1", "L", "P", "I", "I;16")


@dataclass(frozen=True, eq=False)
class MaskedPictures:
    """Pictures as bytes `(3, height, width)`, and their masks as class numbers `(height, width)` int64, `VOID` where no
    class counts. `binary`: 255 is the second of two classes."""

    files: tuple[Path, ...]
    masks: tuple[Path, ...]
    fit: Fit
    ignore: int
    classes: int
    binary: bool

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        picture = read_picture(self.files[index])
        sample = {INPUT: torch.from_numpy(self.fit.picture(picture))}
        if not self.masks:
            return sample
        mask = read_mask(self.masks[index])
        if mask.size != picture.size:
            raise InputError(f"{self.masks[index]} must be of the size of its picture, "
                             f"{'×'.join(map(str, picture.size))}, but is {'×'.join(map(str, mask.size))}")
        numbers = self.fit.mask(mask, self.ignore).astype(np.int64)
        void = numbers == self.ignore
        if self.binary:
            numbers, void = (numbers > 0).astype(np.int64), np.zeros_like(void)
        highest = int(numbers[~void].max(initial=0))
        if highest >= self.classes:
            raise InputError(f"{self.masks[index]} must hold numbers of {self.classes} classes, but holds {highest}: "
                             "say how many there are with ?classes=")
        numbers[void] = VOID
        return {**sample, TARGET: torch.from_numpy(numbers)}


def read_mask(path: Path) -> Image.Image:
    """A mask whose pixels are whole numbers. InputError where it cannot be read, or has several channels."""
    try:
        with Image.open(path) as picture:
            picture.load()
            if picture.mode not in _MODES:
                raise InputError(f"{path} must be a mask of one channel that holds class numbers, but is a picture of "
                                 f"mode {picture.mode}: store the numbers themselves, as mode L or P")
            return picture.convert("L") if picture.mode == "1" else picture.copy()
    except READING_ERRORS as error:
        raise InputError(f"{path} must be a mask that Pillow can read, but: {error}") from None


def open_masks(spec: SourceSpec, context: SourceContext) -> Source:
    """Pictures with masks of the same stem, or without where one folder is named.

    Options: `fit`, as of `fit_for`; `ignore`, the value of pixels that do not count, by default 255; `classes`, how
    many there are, by default as many as masks name. Masks of 0 and 255 alone are of two classes.

    Raises:
        InputError: where a picture has no mask or a mask no picture, or one cannot be read or is of another size.
    """
    images, masks = spec.paths[0], spec.paths[1] if len(spec.paths) > 1 else None
    pairs, ranges = _pairs(images, masks)
    name = str(images)
    if not pairs:
        raise InputError(f"{name} must hold pictures, but holds none that Pillow reads")
    files = tuple(picture for picture, _ in pairs)
    of_files = tuple(mask for _, mask in pairs if mask is not None)
    sizes = [picture_size(path) for path in files]
    for path, mask, size in zip(files, of_files, sizes, strict=False):
        if picture_size(mask) != size:
            raise InputError(f"{mask} must be of the size of its picture {path.name}, {'×'.join(map(str, size))}, but "
                             f"is {'×'.join(map(str, picture_size(mask)))}")
    ignore = WHITE if "ignore" not in spec.options else _value(spec.options["ignore"])
    values = _values(of_files)
    binary = "ignore" not in spec.options and values == {0, WHITE}
    classes = int(spec.number("classes", int, "a number of classes")
                  or (2 if binary else 1 + max((value for value in values if value != ignore), default=0)))
    if masks is not None and values <= {ignore}:
        raise InputError(f"{masks}: masks must hold class numbers, but every pixel is {ignore}, which does not count: "
                         "say another value with ?ignore=")
    if masks is not None and not binary and len(values - {ignore}) < 2 and "classes" not in spec.options:
        raise InputError(f"{masks}: masks must hold two classes or more, but every pixel that counts is "
                         f"{min(values - {ignore})}: nothing can be told by them; say how many classes there are with "
                         "?classes= where others are rare")
    fit = fit_for(spec, context.preparation, sizes, name)
    mean, std = normalisation(context.preparation)
    meaning = "0 and 255 are two classes" if binary else f"{classes} classes, {ignore} is not counted"
    log.info("%s: %d pictures, %s; mean %s, std %s%s", name, len(files), fit.described, mean, std,
             "" if masks is None else f"; of masks, {meaning}")
    samples = MaskedPictures(files, of_files, fit, ignore, classes, binary)
    splits = in_three_splits(samples, ranges, context.seed, name)
    return Source(images.resolve().name, splits, (INPUT,), masks is not None, classes if masks is not None else None,
                  mean=mean, std=std, prepared=fit.described, files=fit.files)


def _pairs(images: Path, masks: Path | None) -> tuple[list[tuple[Path, Path | None]], dict[str, range]]:
    """Pictures with their masks, and which of them each split has. The path below the split's folder, without the
    suffix, must be the same."""
    suffixes = picture_suffixes()
    roots = split_roots(images)
    mask_roots = {} if masks is None else split_roots(masks)
    if masks is not None and set(roots) != set(mask_roots):
        mask_roots = dict.fromkeys(roots, masks)  # one folder of masks for all splits
    pairs: list[tuple[Path, Path | None]] = []
    ranges: dict[str, range] = {}
    used: set[Path] = set()
    by_stem = {root: {path.relative_to(root).with_suffix(""): path for path in files_below(root, suffixes)}
               for root in {*mask_roots.values()}}
    for split, root in roots.items():
        begin = len(pairs)
        for path in files_below(root, suffixes):
            mask = None if masks is None else by_stem[mask_roots[split]].get(path.relative_to(root).with_suffix(""))
            if masks is not None and mask is None:
                raise InputError(f"{path} must have a mask of the same name in {mask_roots[split]}, but there is no "
                                 f"{path.relative_to(root).with_suffix('')} there, of any suffix")
            pairs.append((path, mask))
            if mask is not None:
                used.add(mask)
        ranges[split] = range(begin, len(pairs))
    alone = sorted({path for paths in by_stem.values() for path in paths.values()} - used)
    if alone:
        raise InputError(f"{alone[0]} must have a picture of the same name in {images}, but there is none "
                         f"({len(alone)} of {len(alone) + len(used)} masks have none)")
    return pairs, ranges


def _values(masks: Sequence[Path]) -> set[int]:
    """The values of pixels in masks spread over all."""
    step = max(1, -(-len(masks) // CHECKED_MASKS))
    values: set[int] = set()
    for path in masks[::step]:
        numbers: np.ndarray[Any, Any] = np.unique(np.asarray(read_mask(path)))
        values.update(numbers.tolist())
    if min(values, default=0) < 0:
        raise InputError(f"{masks[0].parent}: masks must hold class numbers from 0, but hold {min(values)}")
    return values


def _value(text: str) -> int:
    if not text.isdecimal():
        raise InputError(f"data: ignore must be the value of pixels that do not count, such as 255, but is {text!r}")
    return int(text)
