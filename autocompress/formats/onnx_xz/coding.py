"""An ONNX file as one stream of xz, and back within limits.

LZMA2 without contexts came out smaller than zstandard on the package's files (0.85 to 0.92 of the file, zstandard at
level 19 0.88 to 0.92), and Python has it.
"""

from __future__ import annotations

import lzma
from typing import Any

from autocompress.errors import TrialError

# Times that a file may be as large as its stream, and bytes of a decoder's memory: a stream of zeros grows without end.
MOST_TIMES, MEMORY_BYTES = 100, 2**27
# Bytes of a stream beside its content: headers, index, and 0.01% where nothing can be saved.
FRAME_BYTES, FRAME_SHARE = 80, 1e-4
# Bytes within which a repetition is looked for, and candidates that are tried at a place. Weights repeat nothing: their
# stream is smaller because some values are more frequent, so a window that stays in the processor's cache costs nothing
# of 8-bit weights and 0.35% of floats, and takes a sixth of the time of one as large as the file.
LEAST_WINDOW, MOST_WINDOW, DEPTH = 2**12, 2**16, 4


def encoded(data: bytes) -> bytes:
    """The stream of a file; equal files give equal streams.

    Raises:
        TrialError: for a file that its reader would refuse, such as one of zeros.
    """
    window = min(MOST_WINDOW, max(LEAST_WINDOW, 1 << len(data).bit_length()))
    filters: list[dict[str, Any]] = [{"id": lzma.FILTER_LZMA2, "preset": 9, "lc": 0, "lp": 0, "pb": 0,
                                      "dict_size": window, "depth": DEPTH}]
    stream = lzma.compress(data, format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC64, filters=filters)
    if len(data) > MOST_TIMES * len(stream):
        raise TrialError(f"a file must be at most {MOST_TIMES} times as large as its stream, but {len(data)} bytes "
                         f"became {len(stream)}")
    return stream


def decoded(stream: bytes) -> bytes:
    """The file in a stream.

    Raises:
        TrialError: when the bytes are no xz stream, a part of one, or more than one; when the file is larger than
            `MOST_TIMES` allows.
    """
    decoder, most = lzma.LZMADecompressor(lzma.FORMAT_XZ, MEMORY_BYTES), MOST_TIMES * len(stream)
    try:
        data = decoder.decompress(stream, most + 1)
    except (lzma.LZMAError, EOFError) as error:
        raise TrialError(f"the bytes are no xz stream: {error}") from error
    if len(data) > most:
        raise TrialError(f"a file must be at most {MOST_TIMES} times as large as its stream of {len(stream)} bytes, "
                         "but goes on beyond that")
    if not decoder.eof:
        raise TrialError(f"an xz stream must be whole, but ends after {len(stream)} bytes")
    if decoder.unused_data:
        raise TrialError(f"an xz stream must end the file, but {len(decoder.unused_data)} bytes follow it")
    return data
