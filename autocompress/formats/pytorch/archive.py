"""The archive of an exported program: a zip file of tensors and JSON, in which nothing is code.

torch's own reader unpickles what an archive asks it to, loads compiled libraries, and evaluates text as Python; a file
from elsewhere is therefore looked through before torch sees it.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from typing import Any

import torch
from torch.export import ExportedProgram

from autocompress.errors import TrialError
from autocompress.formats.onnx.torch_onnx import exporting
from autocompress.formats.pytorch.graph import ON_SIZES, touches_files

# Entries that an archive may have, below its one folder.
ENTRIES = re.compile(r"[^/]+/(archive_format|archive_version|byteorder|\.data/(version|serialization_id)"
                     r"|models/model\.json"
                     r"|data/weights/(weight_\d+|model_weights_config\.json)"
                     r"|data/constants/(tensor_\d+|model_constants_config\.json)|data/sample_inputs/model\.pt)")
PLAIN_JSON = re.compile(r"models/model\.json$|_config\.json$")
# Sizes as arithmetic of symbols: torch evaluates this text.
SIZES = re.compile(r"(?:Symbol\('[su]\d+'|(?:positive|nonnegative|integer)=True|[su]\d+|\d+|Integer|Rational"
                   r"|Mul|Add|Pow|Max|Min|FloorDiv|CleanDiv|CeilDiv|PythonMod|Mod|ModularIndexing|Eq|Ne|True|False|oo|int_oo"
                   r"|[-+*/(),<>=& |~]|\s)*")
# Bytes of the JSON of an archive at most.
MOST_JSON = 2**28


def archive_of(program: ExportedProgram) -> bytes:
    """The archive of a program: tensors as they are, JSON compressed; equal programs give equal bytes."""
    whole, smaller = io.BytesIO(), io.BytesIO()
    with exporting():
        torch.export.save(program, whole)
    with zipfile.ZipFile(whole) as read, zipfile.ZipFile(smaller, "w") as written:
        for name in read.namelist():
            kind = zipfile.ZIP_DEFLATED if PLAIN_JSON.search(name) else zipfile.ZIP_STORED
            written.writestr(zipfile.ZipInfo(name), read.read(name), kind)
    return smaller.getvalue()


def require_plain(data: bytes) -> None:
    """TrialError where an archive holds anything but tensors and operators of `aten` on them."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            if strange := [name for name in entries if not ENTRIES.fullmatch(name)]:
                raise TrialError(f"an exported program must hold tensors and operators alone, but holds {strange[0]}")
            texts = {name: _text(archive, entry) for name, entry in entries.items() if PLAIN_JSON.search(name)}
            inputs = next((entry.file_size for name, entry in entries.items() if name.endswith("model.pt")), 0)
            if any(entry.file_size != entry.compress_size for name, entry in entries.items() if name not in texts):
                raise TrialError("an exported program must hold its tensors as they are, but they are compressed")
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError, RuntimeError, EOFError) as error:
        raise TrialError(f"the bytes are no exported program: {error}") from error
    if inputs:
        raise TrialError("an exported program must hold no sample inputs, which torch unpickles, but does")
    for text in texts.values():
        for key, value in _entries(text):
            _require_no_code(key, value)


def _text(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Any:
    if entry.file_size > MOST_JSON:
        raise TrialError(f"the graph of an exported program must have at most {MOST_JSON} bytes, but has "
                         f"{entry.file_size}")
    return json.loads(archive.read(entry))


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, at any depth."""
    if isinstance(value, dict):
        for key, entry in value.items():
            yield key, entry
            yield from _entries(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from _entries(entry)


def _require_no_code(key: str, value: Any) -> None:
    if key in ("use_pickle", "guards_code") and value:
        raise TrialError(f"an exported program must hold no Python, but has {key}")
    if key == "expr_str" and not SIZES.fullmatch(str(value)):
        raise TrialError(f"sizes of an exported program must be arithmetic, but one is {str(value)[:60]!r}")
    if key == "target" and isinstance(value, str) and not _is_operator(value):
        raise TrialError(f"an exported program must call operators of aten alone, but calls {value[:60]!r}")


def _is_operator(target: str) -> bool:
    """Whether a target is an operator of aten that touches no file, or arithmetic on sizes."""
    module, _, name = target.rpartition(".")
    if module == "_operator":
        return name in ON_SIZES
    prefix, _, packet = module.rpartition(".")
    if prefix != "torch.ops.aten":
        return False
    target_operator = getattr(getattr(torch.ops.aten, packet, None), name, None)
    return isinstance(target_operator, torch._ops.OpOverload) and not touches_files(target_operator)
