"""What an artefact is written with, and what it is read with: keys, and words that no measurement gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autocompress.artifact.encryption import CIPHER, SUFFIX, encrypted
from autocompress.artifact.keys import owner_key, private_key, public_key, secret_key

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey


@dataclass(frozen=True)
class ExportOptions:
    """How an artefact is written.

    `signer` signs it; `secret`, 32 bytes, encrypts its model and its samples. `licence` and `intended_use` are the
    user's words for manifest and card. `anonymous`: its files hold no names of layers.
    `watermark`: the secret of the owner whose mark its weights get.
    """

    signer: Ed25519PrivateKey | None = None
    secret: bytes | None = None
    licence: str = ""
    intended_use: str = ""
    anonymous: bool = False
    watermark: bytes | None = None

    @classmethod
    def of(cls, sign: Path | str | None = None, encrypt: Path | str | None = None, licence: str = "",
           intended_use: str = "", anonymous: bool = False, watermark: Path | str | None = None) -> ExportOptions:
        """Keys out of files. InputError where one holds no such key, EnvironmentFault without `cryptography`."""
        return cls(private_key(sign) if sign else None, secret_key(encrypt) if encrypt else None, licence.strip(),
                   intended_use.strip(), anonymous, owner_key(watermark) if watermark else None)

    def stored(self, files: Mapping[str, bytes]) -> tuple[dict[str, bytes], dict[str, Any]]:
        """Files as they lie in the folder, by name, and what the manifest says of that."""
        if self.secret is None:
            return dict(files), {}
        hidden = {f"{name}{SUFFIX}": encrypted(data, name, self.secret) for name, data in files.items()}
        return hidden, {"encrypted": {"cipher": CIPHER, "files": [*files]}}


@dataclass(frozen=True)
class Trust:
    """How an artefact is read: it must be signed by the owner of `signer`; `secret` opens what is encrypted; its
    weights must show the watermark of the owner of `watermark`."""

    signer: Ed25519PublicKey | None = None
    secret: bytes | None = None
    watermark: bytes | None = None

    @classmethod
    def of(cls, key: Path | str | None = None, decrypt: Path | str | None = None,
           watermark: Path | str | None = None) -> Trust:
        """Keys out of files. InputError where one holds no such key, EnvironmentFault without `cryptography`."""
        return cls(public_key(key) if key else None, secret_key(decrypt) if decrypt else None,
                   owner_key(watermark) if watermark else None)
