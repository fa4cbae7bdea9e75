"""An artefact as a network of PyTorch: `load_module(folder)` gives an `nn.Module`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from autocompress.artifact.contents import read_contents
from autocompress.artifact.options import Trust
from autocompress.errors import InputError, TrialError
from autocompress.formats.table import reader_named

if TYPE_CHECKING:
    from torch import nn


def load_module(folder: Path | str, *, key: Path | str | None = None, decrypt: Path | str | None = None) -> nn.Module:
    """Make the network of an artefact again in PyTorch, without the code that defined it.

    Of `safetensors` the module has floats as parameters, under the names that they have in the network, and takes the
    inputs in order; of `pt2` it is what `torch.export.load(…).module()` returns.

    Args:
        folder: the artefact.
        key: file of the public key by whose owner it must be signed.
        decrypt: file of the key that opens it where it is encrypted; it is opened in memory.

    Raises:
        InputError: as `load`, and where the artefact's format does not keep a network of PyTorch.
    """
    contents = read_contents(folder, Trust.of(key, decrypt))
    reader = reader_named(contents.manifest.format)
    if not hasattr(reader, "module"):
        raise InputError(f"a PyTorch module can be made of safetensors and pt2 files, but {contents.folder} holds "
                         f"{contents.manifest.format}: export with --format safetensors, or use autocompress.load")
    try:
        module: nn.Module = reader.module(contents.model)
        return module
    except TrialError as error:
        raise InputError(f"{contents.folder / contents.manifest.model} cannot be rebuilt: {error}") from None
