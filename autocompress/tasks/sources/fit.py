"""Pictures of any size brought to one size, with what is marked on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from autocompress.errors import InputError
from autocompress.tasks.pictures import READING_ERRORS, Remarks, quiet_reading, upright
from autocompress.tasks.preparation import IMAGENET, SAY_SIZE, Preparation
from autocompress.tasks.sources.specs import SourceSpec

STRETCH, PAD, CROP = "stretch", "pad", "crop"
# What is beside a padded picture: the grey that detectors of the YOLO family are trained with.
GREY = 114
# EXIF's orientation, and those of its values that exchange width and height.
_ORIENTATION, _SIDEWAYS = 0x0112, (5, 6, 7, 8)


@dataclass(frozen=True)
class Fit:
    """How a picture becomes one of `size` (height, width): stretched on each axis; scaled to lie inside and padded on
    both sides; or its shorter side scaled to `resize` pixels and the middle cut out."""

    mode: str
    size: tuple[int, int]
    resize: int
    interpolation: str = "bilinear"

    def placed(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Of a picture of that size: its scaled width and height, and the left and upper edge of what is kept of it,
        below zero where it is padded."""
        tall, wide = self.size
        if self.mode == STRETCH:
            return wide, tall, 0, 0
        if self.mode == PAD:
            scale = min(wide / width, tall / height)
            scaled = max(1, min(wide, round(width * scale))), max(1, min(tall, round(height * scale)))
            return *scaled, -((wide - scaled[0]) // 2), -((tall - scaled[1]) // 2)
        shorter = min(width, height)
        scaled = max(self.resize, int(self.resize * width / shorter)), max(self.resize,
                                                                           int(self.resize * height / shorter))
        return *scaled, round((scaled[0] - wide) / 2), round((scaled[1] - tall) / 2)

    def picture(self, picture: Image.Image) -> np.ndarray[Any, Any]:
        """An RGB picture as bytes `(3, height, width)`."""
        interpolation = Image.Resampling[self.interpolation.upper()]
        return np.array(self._moved(picture, interpolation, (GREY,) * 3)).transpose(2, 0, 1).copy()

    def mask(self, mask: Image.Image, outside: int) -> np.ndarray[Any, Any]:
        """A mask of one channel as numbers `(height, width)`, no two of them mixed; `outside` where it is padded."""
        return np.array(self._moved(mask, Image.Resampling.NEAREST, outside))

    def boxes(self, boxes: np.ndarray[Any, Any], width: int, height: int) -> np.ndarray[Any, Any]:
        """Boxes `(M, 4)` of a picture of that size, their left, upper, right and lower edges in pixels, where they come
        to lie, cut at the edges."""
        wide, tall, left, top = self.placed(width, height)
        moved = boxes * np.array([wide / width, tall / height] * 2) - np.array([left, top] * 2)
        cut: np.ndarray[Any, Any] = np.clip(moved, 0, np.array([self.size[1], self.size[0]] * 2))
        return cut

    def _moved(self, picture: Image.Image, interpolation: Image.Resampling, outside: Any) -> Image.Image:
        wide, tall, left, top = self.placed(*picture.size)
        scaled = picture if picture.size == (wide, tall) else picture.resize((wide, tall), interpolation)
        if (left, top, wide, tall) == (0, 0, self.size[1], self.size[0]):
            return scaled
        if left >= 0 and top >= 0:
            return scaled.crop((left, top, left + self.size[1], top + self.size[0]))
        canvas = Image.new(scaled.mode, (self.size[1], self.size[0]), outside)
        canvas.paste(scaled, (-left, -top))
        return canvas

    @property
    def files(self) -> dict[str, Any]:
        """What is done, as values."""
        return {"fit": self.mode, "resize": self.resize, "interpolation": self.interpolation}

    @property
    def described(self) -> str:
        """What is done, in words."""
        height, width = self.size
        done = {STRETCH: "resized", PAD: "scaled to fit and padded with grey",
                CROP: f"shorter side to {self.resize} pixels, middle cut out"}[self.mode]
        return f"{done} to {height}×{width} ({self.interpolation}), RGB"


def fit_for(spec: SourceSpec, preparation: Preparation, sizes: Iterable[tuple[int, int]], where: str) -> Fit:
    """How pictures are brought to one size.

    Args:
        spec: Its option `fit` is stretch (the default), pad or crop.
        preparation: Size and interpolation that the user or the network's weights say.
        sizes: Width and height of all pictures, which stay as they are where they share one and no other is asked for.
        where: Whose pictures, for messages.

    Raises:
        InputError: where sizes differ and none is asked for.
    """
    mode = spec.options.get("fit", STRETCH)
    if mode not in (STRETCH, PAD, CROP):
        raise InputError(f"data: fit must be {STRETCH}, {PAD} or {CROP}, but is {mode!r}")
    if preparation.says_size:
        resize, size = preparation.sides
        return Fit(mode, (size, size), resize, preparation.interpolation)
    common = Counter(sizes)
    if len(common) > 1:
        told = ", ".join(f"{width}×{height}" for (width, height), _ in common.most_common(3))
        raise InputError(f"{where}: pictures must share one size, but there are {told}"
                         f"{', …' if len(common) > 3 else ''}: {SAY_SIZE}")
    width, height = next(iter(common))
    return Fit(STRETCH, (height, width), min(height, width), preparation.interpolation)


def normalisation(preparation: Preparation) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of pictures: as said, else ImageNet's."""
    return preparation.mean or IMAGENET[0], preparation.std or IMAGENET[1]


def picture_size(path: Path) -> tuple[int, int]:
    """Width and height of a picture that is turned upright, from its header. InputError where it cannot be read."""
    try:
        with quiet_reading(), Image.open(path) as picture:
            width, height = picture.size
            turned = picture.getexif().get(_ORIENTATION, 1) in _SIDEWAYS
            return (height, width) if turned else (width, height)
    except READING_ERRORS as error:
        raise InputError(f"{path} must be a picture that Pillow can read, but: {error}") from None


def read_picture(path: Path) -> Image.Image:
    """A picture in RGB, turned upright. InputError where it cannot be read."""
    try:
        return upright(path, None, Remarks())
    except READING_ERRORS as error:
        raise InputError(f"{path} must be a picture that Pillow can read, but: {error}") from None
