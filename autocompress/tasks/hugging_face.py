"""Networks of the package transformers, from a local folder or the hub: `hf:PATH`, with their tokenizers."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autocompress.errors import EnvironmentFault, InputError, reason_of
from autocompress.tasks.cache import downloading
from autocompress.tasks.preparation import Preparation
from autocompress.tasks.vision import mend_torchvision

log = logging.getLogger(__name__)

PREFIX = "hf:"
_HUB = "https://huggingface.co"
# How Pillow numbers ways to resize, in which configurations of image processors say them.
_RESAMPLING = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")


@dataclass(frozen=True, eq=False)
class HuggingFace:
    """A network in eval mode and float32, its tokenizer where it reads text, and how pictures are prepared where it
    reads those. `name` is that of the folder."""

    model: nn.Module
    name: str
    tokenizer: Any = None
    preparation: Preparation | None = None


def is_hugging_face(spec: Any) -> bool:
    """Whether `spec` has the form `hf:PATH`."""
    return isinstance(spec, str) and spec.startswith(PREFIX) and len(spec) > len(PREFIX)


def load_hugging_face(spec: str) -> HuggingFace:
    """The network that `hf:PATH` names, of the class that its configuration names: a folder of `save_pretrained`, or an
    id of the hub, whose files are taken from its cache where they are there. No code of the folder is run.

    Raises:
        InputError: where the folder holds no such network, or not all of its weights.
        EnvironmentFault: where transformers is not installed, or a download is not possible.
    """
    place = spec.removeprefix(PREFIX)
    folder = Path(place).expanduser()
    transformers = _transformers()
    with _quiet(transformers):
        if folder.is_dir():
            return _loaded(transformers, str(folder), folder.resolve().name, local=True)
        if not _may_be_an_id(place):
            raise InputError(f"model: there is no folder {place!r}")
        try:
            return _loaded(transformers, place, place.rpartition("/")[2], local=True)
        except InputError as error:
            log.debug("%s is not in the cache of the hub: %s", place, error)
        hint = f"save it with save_pretrained, and give its folder as {PREFIX}FOLDER"
        with downloading(_HUB, f"{place}, for which there is no folder here,", hint):
            return _loaded(transformers, place, place.rpartition("/")[2], local=False)


def _may_be_an_id(place: str) -> bool:
    return place.count("/") <= 1 and not place.startswith((".", "/", "~"))


def _transformers() -> Any:
    mend_torchvision()  # transformers imports it too
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise EnvironmentFault("networks of hf: need the package transformers, which is not installed: pip install "
                               "autocompress[hf]") from error


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without the package's notes and progress bars."""
    notes = transformers.utils.logging
    level, bars = notes.get_verbosity(), notes.is_progress_bar_enabled()
    notes.set_verbosity_error()
    notes.disable_progress_bar()
    try:
        yield
    finally:
        notes.set_verbosity(level)
        if bars:
            notes.enable_progress_bar()


def _loaded(transformers: Any, place: str, name: str, *, local: bool) -> HuggingFace:
    config = _read(lambda: transformers.AutoConfig.from_pretrained(place, local_files_only=local), place)
    kind = next((kind for kind in config.architectures or () if hasattr(transformers, kind)), None)
    if kind is None:
        raise InputError(f"{place} must name a class of transformers in `architectures` of its config.json, but names "
                         f"{', '.join(config.architectures or ()) or 'none'}: give the network as "
                         "path/to/file.py:factory")
    model, info = _read(lambda: getattr(transformers, kind).from_pretrained(
        place, local_files_only=local, dtype=torch.float32, output_loading_info=True), place)
    absent = [*info["missing_keys"], *(str(each) for each in info["mismatched_keys"])]
    if absent:
        raise InputError(f"{place} must hold the weights of all of {kind}, but {len(absent)} are missing or of another "
                         f"shape, such as {sorted(absent)[0]}")
    if getattr(model.config, "use_cache", False):
        model.config.use_cache = False  # a cache of keys and values is an output that nobody reads
    return HuggingFace(model.eval(), name, _tokenizer(transformers, model, place, local),
                       _preparation(transformers, place, local))


def _read(load: Callable[[], Any], place: str) -> Any:
    try:
        return load()
    except Exception as error:  # of the package, of safetensors, of JSON
        raise InputError(f"{place} must be a folder that save_pretrained of transformers wrote, or an id of the hub, "
                         f"but: {type(error).__name__}: {reason_of(error)[:300]}") from error


def _tokenizer(transformers: Any, model: Any, place: str, local: bool) -> Any:
    """The tokenizer, which knows how many tokens the network can take; None where there is none."""
    if model.main_input_name != "input_ids":
        return None
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(place, local_files_only=local)
    except Exception as error:  # as in `_read`; whoever needs one says so
        log.debug("no tokenizer in %s: %s", place, error)
        return None
    positions = getattr(model.config, "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        tokenizer.model_max_length = min(tokenizer.model_max_length, positions)
    return tokenizer


def _preparation(transformers: Any, place: str, local: bool) -> Preparation | None:
    """What preprocessor_config.json says of pictures; None where there is none."""
    try:
        said, _ = transformers.ImageProcessingMixin.get_image_processor_dict(place, local_files_only=local)
    except Exception as error:  # as in `_read`; a network that reads no pictures has none
        log.debug("no image processor in %s: %s", place, error)
        return None
    return preparation_said(said, place)


def preparation_said(said: dict[str, Any], place: str) -> Preparation | None:
    """The preparation of pictures out of the entries of a configuration of transformers' image processors; None where
    it says no square size."""
    size, crop = said.get("size"), said.get("crop_size") if said.get("do_center_crop") else None
    side = _side(crop) or _side(size)
    if side is None:
        return None
    resize = _side(size) or side
    number = said.get("resample", 2)
    interpolation = _RESAMPLING[number] if isinstance(number, int) and number < len(_RESAMPLING) else "bilinear"
    plain = not said.get("do_normalize", True)
    mean, std = ((0.0,), (1.0,)) if plain else (tuple(said.get("image_mean") or ()), tuple(said.get("image_std") or ()))
    return Preparation(side, max(side, resize), None, mean or None, std or None, interpolation,
                       f"the image processor of {place}")


def _side(size: Any) -> int | None:
    """The side of a square in pixels, or the shorter side."""
    if isinstance(size, int):
        return size
    if not isinstance(size, dict):
        return None
    if "shortest_edge" in size:
        return int(size["shortest_edge"])
    return int(size["height"]) if size.get("height") and size.get("height") == size.get("width") else None
