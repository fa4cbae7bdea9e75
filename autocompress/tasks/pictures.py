"""One picture file as a square of RGB bytes, whatever the mode that it is stored in."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

# Pillow knows these only by name, or needs another program for them.
_NO_PICTURES = {".pdf", ".mpg", ".mpeg", ".h5", ".hdf", ".grib", ".bufr", ".wmf", ".emf", ".eps", ".ps"}
# Modes of more than 8 bits begin so: I;16 and its kin, 32-bit integers, floats.
_DEEP = ("I", "F")
_DEPTHS = (8, 10, 12, 14, 16, 24, 31, 32)
# What a damaged picture can raise.
READING_ERRORS = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError, Warning)


@dataclass(frozen=True)
class Levels:
    """The values that deep pictures reach from black to white, the same for all of a data set."""

    black: float
    white: float

    def to_bytes(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """Values (H, W) as bytes."""
        scaled = (values.astype(np.float64) - self.black) * (255.0 / max(self.white - self.black, 1e-12))
        return np.clip(np.nan_to_num(scaled).round(), 0, 255).astype(np.uint8)


def picture_suffixes() -> set[str]:
    """The suffixes, in lower case, of all files that Pillow can read here."""
    Image.init()
    readable = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    return readable - _NO_PICTURES


@contextmanager
def quiet_reading() -> Iterator[None]:
    """Nothing that Pillow says of a picture is shown, but a decompression bomb is an error. Filters are the process's:
    enter this once, around all threads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def deep_range(path: Path) -> tuple[str, float, float] | None:
    """Mode and range of the values of a picture of more than 8 bits; None for any other, and for what is damaged."""
    try:
        with Image.open(path) as picture:
            if not picture.mode.startswith(_DEEP):
                return None
            values = np.asarray(picture)
            finite = values[np.isfinite(values)]
            return picture.mode[0], float(finite.min()), float(finite.max())
    except (*READING_ERRORS, IndexError):
        return None


def levels_of(ranges: Iterable[tuple[str, float, float]]) -> Levels | None:
    """Black and white of all deep pictures together: the least usual depth in bits that holds the integers; of floats,
    0 to 1 or to 255 where they are inside, else from the least to the greatest. None when there are no such pictures.
    """
    deep = list(ranges)
    if not deep:
        return None
    low, high = min(r[1] for r in deep), max(r[2] for r in deep)
    if low < 0:
        return Levels(low, high)
    if any(mode == "F" for mode, _, _ in deep):
        return Levels(0.0, next((white for white in (1.0, 255.0, 65535.0) if high <= white), high))
    return Levels(0.0, next((2.0**bits - 1 for bits in _DEPTHS if high < 2.0**bits), high))


@dataclass
class Remarks:
    """What was done to pictures beside resizing them, counted."""

    turned: int = 0
    on_black: int = 0


def square(path: Path, resize: int, size: int, interpolation: str, levels: Levels | None,
           remarks: Remarks) -> NDArray[np.uint8]:
    """The middle (3, size, size) of a picture whose shorter side was scaled to `resize` pixels.

    Turned as its EXIF data say; transparent parts lie on white, or on black where nothing could be seen on white. One
    of `READING_ERRORS` when it cannot be read.
    """
    colour = upright(path, levels, remarks)
    width, height = colour.size
    shorter = min(width, height)
    if (width, height) != (resize, resize):
        scaled = (max(resize, int(resize * side / shorter)) for side in (width, height))
        colour = colour.resize(tuple(scaled), Image.Resampling[interpolation.upper()])  # type: ignore[arg-type]
    left, top = (round((side - size) / 2) for side in colour.size)
    return np.asarray(colour.crop((left, top, left + size, top + size))).transpose(2, 0, 1)


def upright(path: Path | IO[bytes], levels: Levels | None, remarks: Remarks) -> Image.Image:
    """A picture in RGB, turned as its EXIF data say. One of `READING_ERRORS` when it cannot be read."""
    with Image.open(path) as picture:
        turned = ImageOps.exif_transpose(picture)
        remarks.turned += picture.getexif().get(0x0112, 1) not in (0, 1)
        return _rgb(turned, levels, remarks)


def _rgb(picture: Image.Image, levels: Levels | None, remarks: Remarks) -> Image.Image:
    if picture.mode.startswith(_DEEP):
        depth = levels if levels is not None else Levels(0.0, 255.0)
        return Image.fromarray(depth.to_bytes(np.asarray(picture))).convert("RGB")
    if "A" in picture.getbands() or "a" in picture.mode or "transparency" in picture.info:
        return _without_alpha(picture.convert("RGBA"), remarks)
    return picture.convert("RGB")


def _without_alpha(picture: Image.Image, remarks: Remarks) -> Image.Image:
    on_white, on_black = (
        Image.alpha_composite(Image.new("RGBA", picture.size, ground), picture).convert("RGB")
        for ground in ("white", "black"))
    blank = all(low == high for low, high in on_white.getextrema())  # type: ignore[misc]
    if blank and any(low != high for low, high in on_black.getextrema()):  # type: ignore[misc]
        remarks.on_black += 1
        return on_black
    return on_white
