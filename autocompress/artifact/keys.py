"""Keys of artefacts, out of files: Ed25519 in PEM for signatures, 32 bytes for encryption, any secret for a watermark.

The package `cryptography` (the extra `security`) is asked for before anything else is done.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autocompress.errors import EnvironmentFault, InputError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SECRET_BYTES = 32
LEAST_OWNER_BYTES = 16
MOST_BYTES = 2**16


def private_key(path: Path | str) -> Ed25519PrivateKey:
    """The Ed25519 key to sign with, of a PEM file without a passphrase, as of `openssl genpkey -algorithm ed25519`.

    Raises:
        InputError: where the file holds something else.
        EnvironmentFault: where `cryptography` is not installed.
    """
    require_cryptography("signing")
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = _read_pem(path, lambda data: load_pem_private_key(data, None), "a private Ed25519 key in PEM, without a "
                    "passphrase (openssl genpkey -algorithm ed25519)")
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(f"{path} must hold an Ed25519 key, but holds one of another kind")
    return key


def public_key(path: Path | str) -> Ed25519PublicKey:
    """The Ed25519 key to check signatures with, of a PEM file, as of `openssl pkey -pubout`.

    Raises:
        InputError: where the file holds something else.
        EnvironmentFault: where `cryptography` is not installed.
    """
    require_cryptography("checking a signature")
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    key = _read_pem(path, load_pem_public_key, "a public Ed25519 key in PEM (openssl pkey -in KEY -pubout)")
    if not isinstance(key, Ed25519PublicKey):
        raise InputError(f"{path} must hold an Ed25519 key, but holds one of another kind")
    return key


def secret_key(path: Path | str) -> bytes:
    """The key of encryption, of a file with 32 bytes or their 64 hexadecimal digits (`openssl rand -hex 32`).

    Raises:
        InputError: where the file holds something else.
        EnvironmentFault: where `cryptography` is not installed.
    """
    require_cryptography("encryption")
    data = _read(path)
    if len(data) == SECRET_BYTES:
        return data
    try:
        key = bytes.fromhex(data.decode("ascii"))
    except ValueError:
        key = b""
    if len(key) != SECRET_BYTES:
        raise InputError(f"{path} must hold a key of {SECRET_BYTES} bytes, or their {2 * SECRET_BYTES} hexadecimal "
                         "digits (openssl rand -hex 32), but does not")
    return key


def owner_key(path: Path | str) -> bytes:
    """The secret of a watermark: the content of a file of 16 bytes or more. InputError where it has fewer."""
    data = _read(path)
    if len(data) < LEAST_OWNER_BYTES:
        raise InputError(f"{path} must hold a secret of {LEAST_OWNER_BYTES} bytes or more, but has {len(data)}")
    return data


def require_cryptography(doing: str) -> None:
    """EnvironmentFault where the package `cryptography` is not installed."""
    if find_spec("cryptography") is None:
        raise EnvironmentFault(f"{doing} needs the package cryptography, but it is not installed: "
                               "pip install 'autocompress[security]'")


def _read(path: Path | str) -> bytes:
    try:
        with Path(path).open("rb") as stream:
            data = stream.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"a key must be in a file that can be read, but {path}: {reason}") from None
    if len(data) > MOST_BYTES:
        raise InputError(f"a key must be in a file of at most {MOST_BYTES >> 10} KiB, but {path} is larger")
    return data


def _read_pem(path: Path | str, load: Any, what: str) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        return load(_read(path))
    except (ValueError, TypeError, UnsupportedAlgorithm):  # nothing of the file is repeated
        raise InputError(f"{path} must hold {what}, but does not") from None
