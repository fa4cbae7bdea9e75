"""Files of an artefact at rest under AES-256-GCM: nobody reads or changes them without the key.

An encrypted file is `MAGIC`, a nonce of 12 random bytes, and the ciphertext with its tag of 16 bytes. The name of the
plain file is authenticated with it, so that files cannot be exchanged for one another.
"""

from __future__ import annotations

import os

from autocompress.errors import InputError

MAGIC = b"autocompress-aes-256-gcm-1\n"
SUFFIX = ".enc"
CIPHER = "AES-256-GCM"
NONCE_BYTES, TAG_BYTES = 12, 16


def encrypted(data: bytes, name: str, key: bytes) -> bytes:
    """The content of a file of that name under a key of 32 bytes."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    nonce = os.urandom(NONCE_BYTES)
    return MAGIC + nonce + AESGCM(key).encrypt(nonce, data, name.encode())


def decrypted(data: bytes, name: str, key: bytes) -> bytes:
    """The content of a file that `encrypted` made.

    Raises:
        InputError: where it is no such file, was changed, or is under another key.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    if not data.startswith(MAGIC) or len(data) < len(MAGIC) + NONCE_BYTES + TAG_BYTES:
        raise InputError(f"{name}{SUFFIX} must be a file that autocompress encrypted, but does not begin like one")
    nonce = data[len(MAGIC):len(MAGIC) + NONCE_BYTES]
    try:
        return AESGCM(key).decrypt(nonce, data[len(MAGIC) + NONCE_BYTES:], name.encode())
    except InvalidTag:
        raise InputError(f"{name}{SUFFIX} must open with the key of its encryption, but does not: this is another key, "
                         "or the file was changed") from None
