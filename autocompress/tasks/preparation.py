"""Preparation of pictures, their resizing and normalisation, as the user or else the network's weights say.

The transform is the one that torchvision and timm evaluate with: the shorter side is scaled to `resize` pixels, the
middle square of `image_size` pixels is kept, bytes are divided by 255, `mean` is subtracted and `std` divided by.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from autocompress.errors import InputError
from autocompress.tasks.vision import import_torchvision

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DEFAULT_SIZE = 224
# The longest side that a picture is scaled to: one of them is then less than 200 MiB.
MOST_PIXELS = 8192
# What to do where the size must be specified and is not.
SAY_SIZE = "say the network's with --image-size (image_size)"
_INTERPOLATIONS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")


@dataclass(frozen=True)
class Preparation:
    """The transform of pictures; fields that are not specified are None."""

    # Side of the square that the network is fed, in pixels.
    image_size: int | None = None
    # The length of the shorter side in pixels, before the middle is cut out.
    resize: int | None = None
    # Share of the shorter side that the square keeps (timm's `crop_pct`).
    crop: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    interpolation: str = "bilinear"
    # Whose mean and std these are: empty for the user's own.
    origin: str = ""

    def completed(self, defaults: Preparation | None) -> Preparation:
        """This, with what it leaves open taken from `defaults`; sizes and shares go together."""
        if defaults is None:
            return self
        sizes: dict[str, Any] = {}
        if self.resize is None and self.crop is None:
            same = self.image_size in (None, defaults.image_size)
            share = (defaults.image_size or 1) / defaults.resize if defaults.resize else None
            sizes = {"resize": defaults.resize} if same else {"crop": share}
        return replace(self, image_size=self.image_size or defaults.image_size, mean=self.mean or defaults.mean,
                       std=self.std or defaults.std, interpolation=defaults.interpolation,
                       origin=defaults.origin if self.mean is None else "", **sizes)

    @property
    def says_size(self) -> bool:
        """Whether the size that the network is fed is specified."""
        return self.image_size is not None

    @property
    def sides(self) -> tuple[int, int]:
        """Of the shorter side before the cut, and of the square. InputError when the square is the larger."""
        size = DEFAULT_SIZE if self.image_size is None else self.image_size
        if size < 1:
            raise InputError(f"image_size must be 1 pixel or more, but got {size}")
        resize = self.resize if self.resize is not None else math.floor(size / (self.crop or 1.0) + 1e-9)
        if resize > MOST_PIXELS:
            raise InputError(f"image_size and resize must be at most {MOST_PIXELS} pixels, but got {resize}")
        if resize < size:
            raise InputError(f"resize must be at least the {size} pixels of image_size, which are cut out of it, but "
                             f"got {resize}")
        return resize, size


def asked_preparation(image_size: int | None, resize: int | None, crop: float | None, mean: Any,
                      std: Any) -> Preparation:
    """What the user says, checked. `crop` is a share up to 1, or the side of the square in pixels."""
    if crop is not None and (isinstance(crop, bool) or not crop > 0):
        raise InputError(f"crop must be a share of the shorter side such as 0.875, or pixels, but got {crop!r}")
    if crop is not None and crop > 1:
        if image_size not in (None, int(crop)) or crop != int(crop):
            raise InputError(f"crop and image_size must be the same whole number of pixels, but got {crop} and "
                             f"{image_size}")
        image_size, crop = int(crop), None
    if resize is not None and crop is not None:
        raise InputError(f"resize ({resize}) and a crop share ({crop}) say the same thing twice: give one of them")
    return Preparation(image_size, resize, crop, channel_numbers(mean, "mean"), channel_numbers(std, "std"))


def channel_numbers(value: Any, name: str) -> tuple[float, ...] | None:
    """`"0.485,0.456,0.406"`, 0.5 or a list of numbers, one for each channel or one for all; None stays None."""
    if value is None:
        return None
    parts = value.replace(";", ",").split(",") if isinstance(value, str) else (
        list(value) if isinstance(value, Sequence) or hasattr(value, "__len__") else [value])
    try:
        numbers = tuple(float(part) for part in parts)
    except (TypeError, ValueError):
        numbers = ()
    if not numbers or not all(map(math.isfinite, numbers)) or (name == "std" and min(numbers) <= 0):
        above = " above zero" if name == "std" else ""
        raise InputError(f"{name} must be one number{above} for each channel, or one for all, such as "
                         f"0.485,0.456,0.406, but got {value!r}")
    return numbers


def preparation_of(model: str | nn.Module, weights: Path | None) -> Preparation | None:
    """What a network's weights were trained for: timm's configuration, or the transforms of torchvision's weights where
    those are taken (from the hub, or from a file of that name). None where nothing says it."""
    if isinstance(model, nn.Module):
        config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
        return _of_timm(config, type(model).__name__) if isinstance(config, dict) else None
    kind, _, name = model.partition(":")
    if kind == "timm":
        try:
            import_torchvision()
            pretrained = importlib.import_module("timm").get_pretrained_cfg(name)
        except (ImportError, RuntimeError):  # said where the network is built
            return None
        return _of_timm(pretrained.to_dict(), name) if pretrained is not None else None
    return _of_torchvision(name, weights) if kind == "torchvision" else None


def _of_timm(config: dict[str, Any], name: str) -> Preparation | None:
    if not config.get("mean") or not config.get("std") or not config.get("input_size"):
        return None
    size = int(config["input_size"][-1])
    interpolation = str(config.get("interpolation"))
    share = float(config.get("crop_pct") or 0.875)
    if interpolation not in _INTERPOLATIONS:
        interpolation = "bilinear"
    return Preparation(size, math.floor(size / share), None, tuple(config["mean"]), tuple(config["std"]),
                       interpolation, f"timm's configuration of {name}")


def _of_torchvision(name: str, weights: Path | None) -> Preparation | None:
    models = import_torchvision().models
    if name not in models.list_models(module=models):
        return None
    entries = models.get_model_weights(name)
    of_file = entries.DEFAULT if weights is None else next(
        (entry for entry in entries if entry.url.rpartition("/")[2] == weights.name), None)
    if of_file is None:
        return None
    preset = of_file.transforms()
    if not hasattr(preset, "crop_size") or not hasattr(preset, "resize_size"):
        return None
    return Preparation(int(preset.crop_size[0]), int(preset.resize_size[0]), None, tuple(preset.mean),
                       tuple(preset.std), str(preset.interpolation.value), f"the transforms of torchvision's {of_file}")
