"""The folder that ships: the model's file or files, manifest.json and README.md; and checking it later."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from autocompress.artifact.manifest import CARD, MANIFEST, SCHEMA, SIGNATURE
from autocompress.artifact.options import ExportOptions
from autocompress.artifact.signature import signed
from autocompress.core.files import set_aside, sha256_of, write_together
from autocompress.errors import EnvironmentFault, InputError
from autocompress.formats.table import SHIPPED

log = logging.getLogger(__name__)


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of Python and of the `packages` that made a file."""
    versions_by_name = {"python": platform.python_version()}
    for package in packages:
        try:
            versions_by_name[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions_by_name[package] = "unknown"
    return versions_by_name


def write_artifact(folder: Path, model: Mapping[str, bytes], manifest: dict[str, Any], card: str,
                   options: ExportOptions | None = None) -> dict[str, bytes]:
    """Write an artefact, each of its files whole or not at all. A file that was changed since it was written is set
    aside, with a warning.

    Args:
        folder: where to; it is made if need be.
        model: the files of the model, and its samples, by name.
        manifest: facts, to which the hashes of the other files are added.
        card: the text of README.md.
        options: who signs it, and the key under which the files of the model lie.

    Returns:
        The files as they were written, by name.

    Raises:
        InputError: when the folder cannot be written, or holds files of these names that are no artefact.
        EnvironmentFault: when the disk gives out.
    """
    folder, options = Path(folder), options or ExportOptions()
    model, hidden = options.stored(model)
    require_no_foreign(folder, model)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out must be a folder that can be written, but {folder}: {error.strerror}") from None
    files = {**model, CARD: card.encode()}
    manifest = manifest | hidden | {"files": {name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
                                     for name, data in files.items()}}
    files[MANIFEST] = (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode()
    # The manifest goes first: files without one would be taken for somebody else's.
    files = {MANIFEST: files[MANIFEST], **files}
    if options.signer is not None:
        files[SIGNATURE] = signed(files[MANIFEST], options.signer)
    try:
        for name in changed_files(folder):
            log.warning("%s was changed since it was written: kept as %s", folder / name, set_aside(folder / name).name)
        stale = [name for name in file_names(folder) if name not in files]
        write_together(folder, files)
        for name in stale:  # of an artefact in another format, or protected otherwise
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise EnvironmentFault(f"{error.filename or folder} could not be written: {error.strerror}; free space or "
                               "choose another folder") from error
    return files


def require_no_foreign(folder: Path, model: Iterable[str] = SHIPPED) -> None:
    """Refuse a folder with files of an artefact's names for which no manifest of an artefact vouches.

    Args:
        folder: which need not exist.
        model: names of the model's files.

    Raises:
        InputError: naming the files.
    """
    names = (*model, MANIFEST, CARD, SIGNATURE)
    taken = [name for name in names if (folder / name).exists() or (folder / name).is_symlink()]
    if taken and _hashes(folder) is None:
        raise InputError(f"{folder} must not hold files of other things where an artefact is to be written, but "
                         f"{', '.join(taken)} is there and was not written by autocompress: choose another folder, or "
                         "move it away")


def changed_files(folder: Path) -> list[str]:
    """Names of the files of an artefact that are there and are not what its manifest says; none where it has none."""
    return [name for name, digest in (_hashes(folder) or {}).items()
            if (folder / name).is_file() and sha256_of(folder / name) != digest]


def file_names(folder: Path) -> list[str]:
    """Names of all files that an artefact has or may have, its manifest included; none where it has no manifest."""
    hashes = _hashes(folder)
    return [] if hashes is None else [*hashes, MANIFEST, SIGNATURE]


def _hashes(folder: Path) -> dict[str, str] | None:
    """SHA-256 by file name, as the manifest of an artefact has them; None where there is no such manifest."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        if manifest["schema"] != SCHEMA:
            return None
        return {str(name): str(facts["sha256"]) for name, facts in manifest["files"].items()
                if Path(name).name == name}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an artefact whose files are all there and unchanged. InputError otherwise."""
    path = Path(folder) / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_bytes())
        for name, expected in manifest["files"].items():
            got = sha256_of(path.parent / Path(name).name)
            if got != expected["sha256"]:
                raise InputError(f"{path.parent / name} must have sha256 {expected['sha256'][:12]}…, but has "
                                 f"{got[:12]}…: export it again")
    except OSError as error:
        raise InputError(f"an artefact must hold {MANIFEST} and the files that it names, but: {error.strerror} "
                         f"({error.filename})") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not a manifest: {error}") from None
    return manifest


def artifact_fault(folder: Path, facts: dict[str, Any] | None) -> str:
    """What is wrong with the artefact in `folder` of which `facts` were kept when it was verified, in words; empty
    where it is as it was written, or where there is none. Artefacts in further formats, in folders of it, count."""
    if facts is None:
        return ""
    hashes: dict[str, str] = facts.get("sha256") or {}  # what earlier releases wrote is held to its own manifest
    for name in [name for name in hashes if name != CARD] or [Path(facts["path"]).name, MANIFEST]:
        if not (folder / name).is_file():
            return f"{folder / name} is gone since it was verified"
        if name in hashes and sha256_of(folder / name) != hashes[name]:
            return f"{folder / name} was changed since it was verified"
    changed = next((f"{folder / name} was changed since it was verified" for name in changed_files(folder)
                    if name != CARD), "")
    further: dict[str, dict[str, Any]] = facts.get("further") or {}
    return changed or next(filter(None, (artifact_fault(folder / name, its) for name, its in further.items())), "")
