"""A Core ML package as one file: a zip archive of the folder that Xcode opens, its entries as they are."""

from __future__ import annotations

import io
import json
import zipfile

from autocompress.errors import TrialError

FOLDER = "model.mlpackage"
SPEC, WEIGHTS = "Data/com.apple.CoreML/model.mlmodel", "Data/com.apple.CoreML/weights/weight.bin"
TABLE = "Manifest.json"
# Bytes of an archive's entries at most; they are stored, so an archive cannot grow.
MOST_BYTES = 2**32
# Identities of the two items: any that differ.
MODEL_ID, WEIGHTS_ID = "6b9e065e-0000-4000-8000-000000000001", "6b9e065e-0000-4000-8000-000000000002"


def packed(spec: bytes, weights: bytes) -> bytes:
    """The archive of a program and its weights; equal ones give equal bytes."""
    items = {MODEL_ID: {"author": "com.apple.CoreML", "description": "CoreML Model Specification",
                        "name": "model.mlmodel", "path": "com.apple.CoreML/model.mlmodel"},
             WEIGHTS_ID: {"author": "com.apple.CoreML", "description": "CoreML Model Weights", "name": "weights",
                          "path": "com.apple.CoreML/weights"}}
    table = {"fileFormatVersion": "1.0.0", "itemInfoEntries": items, "rootModelIdentifier": MODEL_ID}
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in ((TABLE, json.dumps(table).encode()), (SPEC, spec), (WEIGHTS, weights)):
            archive.writestr(zipfile.ZipInfo(f"{FOLDER}/{name}"), content)
    return stream.getvalue()


def unpacked(data: bytes) -> tuple[bytes, bytes]:
    """The program and the weights of an archive.

    Raises:
        TrialError: when the bytes are no such archive.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            if {*entries} != {f"{FOLDER}/{name}" for name in (TABLE, SPEC, WEIGHTS)}:
                raise TrialError(f"a Core ML package must hold a program and its weights, but holds {sorted(entries)}")
            if any(entry.compress_type or entry.file_size > MOST_BYTES for entry in entries.values()):
                raise TrialError("a Core ML package must hold its entries as they are, but they are compressed")
            return archive.read(f"{FOLDER}/{SPEC}"), archive.read(f"{FOLDER}/{WEIGHTS}")
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError, RuntimeError, EOFError) as error:
        raise TrialError(f"the bytes are no Core ML package: {error}") from error
