"""Artefacts without symbol names: what a network calls its layers is replaced by ordinals, and looked for in its files.

Inputs, outputs and classes keep their names, which callers need.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from autocompress.core.layer import LayerTable
from autocompress.errors import AutocompressError

# The study's name, which is made of the names of the network and of the data.
STUDY = "anonymous"
# What may stand behind a layer's name in that of a site: a factor, a part of its channels, its input.
_BEHIND = (".", "/", ":")
# Shorter names are found in any file by chance.
LEAST_LETTERS = 5


def anonymous(manifest: dict[str, Any], table: LayerTable) -> dict[str, Any]:
    """A manifest in which sites of the plan, its receipts and its attribution are called `layer1`, `layer2`, … in the
    order of the network, and the study `anonymous`.

    Args:
        manifest: the facts of an artefact.
        table: of the original.
    """
    names = {name: f"layer{number}" for number, name in enumerate(symbol_names(table), 1)}
    plain: dict[str, Any] = msgspec.to_builtins(manifest)
    sections = {key: _renamed(plain[key], names) for key in ("plan", "receipts", "attribution") if key in plain}
    return plain | sections | {"study": STUDY}


def symbol_names(table: LayerTable) -> list[str]:
    """Names of the layers and residual blocks of a network, in order."""
    names = [name for block in table.blocks for name in (block.name, *block.layers)]
    return list(dict.fromkeys([*(layer.name for layer in table.layers), *names]))


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """Plain data with the values of `site` and `layers`, and keys that are names of layers, renamed."""
    if isinstance(value, list | tuple):
        return [_renamed(each, names) for each in value]
    if not isinstance(value, dict):
        return value
    return {_ordinal(key, names): _ordinals(each, names) if key in ("site", "layers") else _renamed(each, names)
            for key, each in value.items()}


def _ordinals(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, list | tuple):
        return [_ordinals(each, names) for each in value]
    return _ordinal(value, names) if isinstance(value, str) else _renamed(value, names)


def _ordinal(text: str, names: Mapping[str, str]) -> str:
    """The ordinal of a site, with what stands behind the layer's name; other text as it is."""
    ends = [at for at in range(len(text), 0, -1) if at == len(text) or text[at] in _BEHIND]
    return next((names[text[:at]] + text[at:] for at in ends if text[:at] in names), text)


def require_no_names(files: Mapping[str, bytes], table: LayerTable, allowed: Sequence[str] = ()) -> None:
    """Look for the names of layers in the files of an artefact, and in those of archives among them. Names that are
    ordinary words are not looked for: a format's own words are found too.

    Args:
        files: by name.
        table: of the original.
        allowed: names that stay.

    Raises:
        AutocompressError: naming the file and the layer.
    """
    telling = [name for name in symbol_names(table)
               if len(name) >= LEAST_LETTERS and not name.isalpha() and name not in allowed]
    for file, data in files.items():
        parts = _unpacked(data)
        for name in telling:
            if any(name.encode() in part for part in parts):
                raise AutocompressError(f"{file} must hold no name of a layer (--anonymous), but holds {name!r}: leave "
                                        "out --anonymous, or export to another format")


def _unpacked(data: bytes) -> list[bytes]:
    """A file, and the files in it where it is a zip archive."""
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return [data]
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [data, *(archive.read(name) for name in archive.namelist())]
