"""What a search uses of its process and its caller does too: random numbers and threads, given back as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def own_randomness(seed: int | None = None) -> Iterator[None]:
    """Torch's global random numbers of its own, from `seed` where there is one; the caller's go on where they were."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        if seed is not None:
            torch.manual_seed(seed)
        yield


@contextmanager
def kept_surroundings() -> Iterator[None]:
    """The caller's random numbers and number of threads are afterwards what they were."""
    threads = torch.get_num_threads()
    try:
        with own_randomness():
            yield
    finally:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
