"""The files of an artefact, read into memory once, and only where they are what its manifest says."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autocompress.artifact.encryption import SUFFIX, decrypted
from autocompress.artifact.manifest import MANIFEST, MOST_BYTES, Manifest, parse
from autocompress.artifact.options import Trust
from autocompress.artifact.plain_file import plain_file
from autocompress.artifact.signature import require_signature
from autocompress.errors import InputError


@dataclass(frozen=True)
class Contents:
    """An artefact in memory: its manifest, as a document too, and its files by name with the content that the manifest
    vouches for."""

    folder: Path
    manifest: Manifest
    document: Mapping[str, Any] = field(repr=False)
    files: Mapping[str, bytes] = field(repr=False)

    @property
    def model(self) -> bytes:
        """The file that runs."""
        return self.files[self.manifest.model]


def read_contents(folder: Path | str, trust: Trust | None = None) -> Contents:
    """Read an artefact.

    Args:
        folder: the artefact.
        trust: who must have signed it, and the key of what is encrypted.

    Raises:
        InputError: where the folder holds no artefact, one of a newer release, or a file that is missing, is no plain
            file, or is not what the manifest says; where it is not signed as asked for; where it is encrypted and no
            key, or another, is given.
    """
    folder, trust = Path(folder), trust or Trust()
    text = manifest_text(folder)
    if trust.signer is not None:
        require_signature(folder, text, trust.signer)
    manifest, document = parse(text, str(folder / MANIFEST))
    stored = {name: unchanged_file(folder, manifest, name) for name in manifest.files}
    return Contents(folder, manifest, document, opened(manifest, stored, trust))


def manifest_text(folder: Path) -> bytes:
    """The content of the manifest of the artefact in `folder`. InputError where that is no folder, or has none."""
    if folder.is_file():
        raise InputError(f"{folder} is a file: give the folder that holds it, with its {MANIFEST}")
    return plain_file(folder / MANIFEST, MOST_BYTES)


def opened(manifest: Manifest, stored: Mapping[str, bytes], trust: Trust) -> dict[str, bytes]:
    """Files by name as they were before they were encrypted. InputError where that takes a key, or another one."""
    if manifest.encrypted is None:
        return dict(stored)
    if trust.secret is None:
        raise InputError(f"{', '.join(manifest.encrypted.files)} of the artefact must be opened with the key of their "
                         "encryption, but none is given: --decrypt KEYFILE (load(…, decrypt=KEYFILE))")
    files = {name: data for name, data in stored.items() if name.removesuffix(SUFFIX) not in manifest.encrypted.files}
    for name in manifest.encrypted.files:
        if f"{name}{SUFFIX}" not in stored:
            raise InputError(f"the manifest must list {name}{SUFFIX} among its files, but does not")
        files[name] = decrypted(stored[f"{name}{SUFFIX}"], name, trust.secret)
    return files


def unchanged_file(folder: Path, manifest: Manifest, name: str) -> bytes:
    """The content of one file of an artefact. InputError where it is not what the manifest says."""
    facts = manifest.files[name]
    data = plain_file(folder / name, facts.bytes)
    if len(data) != facts.bytes:
        raise InputError(f"{folder / name} must have {facts.bytes:,} bytes, as its manifest says, but has "
                         f"{len(data):,}: copy or export it again")
    digest = hashlib.sha256(data).hexdigest()
    if digest != facts.sha256:
        raise InputError(f"{folder / name} must have sha256 {facts.sha256[:12]}…, as its manifest says, but has "
                         f"{digest[:12]}…: it was changed since it was exported. Export it again")
    return data
