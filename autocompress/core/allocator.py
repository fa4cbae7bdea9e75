"""Memory that is kept and used again, where the C library is glibc.

By default glibc maps every block above 32 MB anew and gives it back when it is freed, and the kernel clears each of its
pages: with activations of 224-pixel pictures two thirds of the processor's time went there.
"""

from __future__ import annotations

import ctypes
import math
import os
import time
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
# Free memory at the end of the heap above which some is given back.
KEPT_BYTES = 2**28
# Blocks from this size on are mapped by themselves all the same.
MAPPED_BYTES = 2**26
# Resident memory up to which nothing is given back: networks with small inputs stay below, and pay no page faults.
HELD_BYTES = 2**30
# The same within a phase, whose next batch needs much of it again; and the seconds between two times that it is given
# back there, so that a network that needs more does not pay page faults for each batch.
BOUND_BYTES, BOUND_SECONDS = 3 * 2**29, 3.0

_last_bound = -math.inf


def reuse_memory() -> bool:
    """Let freed blocks stay with this process, the whole of it; whether the C library can be told so. Saying it twice
    does nothing."""
    try:
        library = ctypes.CDLL(None)
        tell = library.mallopt
    except (OSError, TypeError, AttributeError):  # no such library, or not glibc
        return False
    return bool(tell(M_MMAP_THRESHOLD, MAPPED_BYTES)) and bool(tell(M_TRIM_THRESHOLD, KEPT_BYTES))


def release_memory() -> None:
    """Give back what is free where more than `HELD_BYTES` is held, between phases of which the next one needs less:
    what one phase frees lies scattered, in pieces that the next one cannot use."""
    try:
        if resident_bytes() > HELD_BYTES:
            ctypes.CDLL(None).malloc_trim(0)
    except (OSError, TypeError, AttributeError):
        return


def bound_memory() -> None:
    """Give back what is free where more than `BOUND_BYTES` is held, between the batches of a phase: what is kept of
    each may come to lie where large tensors were, so that those of the next one find no room and the heap grows."""
    global _last_bound
    if time.monotonic() - _last_bound >= BOUND_SECONDS and resident_bytes() > BOUND_BYTES:
        _last_bound = time.monotonic()
        release_memory()


def resident_bytes() -> int:
    """Memory of this process that is in RAM; 0 where the system does not tell it in /proc."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
