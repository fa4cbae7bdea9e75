"""The signature of an artefact: Ed25519 over the bytes of its manifest, which holds the hashes of all other files.

It is the 64 raw bytes of RFC 8032, so that other programs check it too:

    openssl pkeyutl -verify -pubin -inkey public.pem -rawin -in manifest.json -sigfile manifest.json.sig
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from autocompress.artifact.manifest import MANIFEST, SIGNATURE
from autocompress.artifact.plain_file import plain_file
from autocompress.errors import InputError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SIGNATURE_BYTES = 64


def signed(manifest: bytes, key: Ed25519PrivateKey) -> bytes:
    """The signature of the text of a manifest."""
    return key.sign(manifest)


def require_signature(folder: Path, manifest: bytes, key: Ed25519PublicKey) -> None:
    """Check the signature in `folder` of the text of its manifest.

    Raises:
        InputError: where there is none, or it was not made by the owner of `key`, or the manifest was changed since.
    """
    path = folder / SIGNATURE
    there = path.is_symlink() or path.exists()
    check_signature(plain_file(path, SIGNATURE_BYTES) if there else None, manifest, key, str(folder))


def check_signature(signature: bytes | None, manifest: bytes, key: Ed25519PublicKey, whose: str = "the artefact"
                    ) -> None:
    """The same for a signature that was read; None where there is none."""
    from cryptography.exceptions import InvalidSignature

    if signature is None:
        raise InputError(f"{whose} must be signed, but has no {SIGNATURE}: export it with --sign, or do not ask for a "
                         "signature")
    try:
        key.verify(signature, manifest)
    except InvalidSignature:
        raise InputError(f"{whose} must have in {SIGNATURE} the signature of {MANIFEST} by the owner of this key, but "
                         "has not: the manifest was changed, or somebody else signed it") from None
