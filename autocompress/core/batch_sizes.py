"""Batches and calibration sets sized by bytes: what suits pictures of 32 pixels would fill a machine at 224.

How many samples go together follows from the bytes of one sample's tensors (`tensors/footprint.py`), never from a clock
or from the memory that is free: the same search does the same on every machine. Sizes that decide how much is learned
from the data (of training steps, of the calibration set) follow from the bytes of the input alone.
"""

from __future__ import annotations

from math import prod

# The bytes of the tensors that are alive at once while a batch is answered: above, caches miss and arenas grow, and
# each sample takes longer.
LIVE_BYTES = 64 * 2**20
# The same where norms are set by the statistics of a batch, which must be of enough samples.
NORM_BYTES, LEAST_NORM_ROWS = 3 * LIVE_BYTES, 4
# The bytes of all tensors of a batch, in passes that keep, output or measure every one.
EVERY_BYTES = 192 * 2**20
# The bytes of inputs in the batch of an optimiser step.
TRAINING_BYTES = 6 * 2**20
# The bytes of all calibration inputs: a large picture has as many positions as many small ones.
CALIBRATION_BYTES = 64 * 2**20
# The bytes of the samples that weights are fitted to, which are read once and not held.
FITTING_BYTES = 2 * CALIBRATION_BYTES
# The bytes of the inputs from which activation ranges are chosen.
RANGE_BYTES = 32 * 2**20
LEAST_CALIBRATION = 64


def rows_of(sample_bytes: int, most: int, limit_bytes: int = LIVE_BYTES) -> int:
    """Samples of `sample_bytes` in one batch: as many as `limit_bytes` allow, from 1 to `most`."""
    return max(1, min(most, limit_bytes // max(1, sample_bytes)))


def rows_at_once(shape: tuple[int, ...], most: int, limit_bytes: int) -> int:
    """Samples of `shape` (without the batch) in one batch: as many as `limit_bytes` of 4-byte values allow, from 1 to
    `most`."""
    return rows_of(4 * prod(shape), most, limit_bytes)


def calibration_rows(shape: tuple[int, ...], most: int, limit_bytes: int = CALIBRATION_BYTES) -> int:
    """Samples of `shape` to calibrate on, from `LEAST_CALIBRATION` to `most`."""
    return min(most, max(LEAST_CALIBRATION, rows_at_once(shape, most, limit_bytes)))
