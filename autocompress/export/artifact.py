"""The folder that ships: model.onnx, manifest.json, README.md; and checking it later."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from autocompress.errors import EnvironmentFault, InputError

MODEL, MANIFEST, CARD = "model.onnx", "manifest.json", "README.md"


def versions() -> dict[str, str]:
    """What made the file."""
    packages = ("autocompress", "torch", "onnx", "onnxruntime", "onnxscript", "optuna", "numpy")
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "unknown"
    return found


def write_artifact(folder: Path, model: bytes, manifest: dict[str, Any], card: str) -> None:
    """Write the three files, the manifest with the hashes of the others last, each whole or not at all.

    InputError when the folder cannot be written, EnvironmentFault when the disk gives out.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out must be a folder that can be written, but {folder}: {error.strerror}") from None
    files = {MODEL: model, CARD: card.encode()}
    manifest = manifest | {"files": {name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
                                     for name, data in files.items()}}
    files[MANIFEST] = (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode()
    for name, data in files.items():
        part = folder / f".{name}.{os.getpid()}.tmp"
        try:
            with part.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(folder / name)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise EnvironmentFault(f"{folder / name} could not be written: {error.strerror}") from error


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an artefact whose files are all there and unchanged. InputError otherwise."""
    path = Path(folder) / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_bytes())
        for name, expected in manifest["files"].items():
            got = hashlib.sha256((path.parent / Path(name).name).read_bytes()).hexdigest()
            if got != expected["sha256"]:
                raise InputError(f"{path.parent / name} must have sha256 {expected['sha256'][:12]}…, but has "
                                 f"{got[:12]}…: export it again")
    except OSError as error:
        raise InputError(f"an artefact must hold {MODEL}, {CARD} and {MANIFEST}, but: {error.strerror} "
                         f"({error.filename})") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not a manifest: {error}") from None
    return manifest
