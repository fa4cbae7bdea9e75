"""Batches and calibration sets sized by bytes: what suits pictures of 32 pixels would fill a machine at 224.

Files are run on as many samples as the bytes of the network's tensors allow. Where those are not told, the bytes of one
input say how many samples go together: a network holds tens of times its input alive at once, and a few hundred times
while it trains. Sizes follow from shapes alone, never from a clock or from the memory that is free: the same search does
the same on every machine.
"""

from __future__ import annotations

from math import prod

# The bytes of the tensors that are alive at once while a file is run on a batch: above, caches miss and arenas grow, and
# each sample takes longer.
LIVE_BYTES = 48 * 2**20
# The bytes of what a file puts out for a batch where tensors inside it are put out as well.
OUTPUT_BYTES = 64 * 2**20
# The bytes of inputs in one batch of a pass without gradients.
FORWARD_BYTES = 12 * 2**20
# The bytes of inputs in a batch whose backward pass keeps inputs and gradients of every layer.
GRADIENT_BYTES = 2**21
# The bytes of inputs in a batch of a pass that outputs or measures every activation of the network.
EVERY_TENSOR_BYTES = 4 * 2**20
# The bytes of inputs in the batch of an optimiser step.
TRAINING_BYTES = 6 * 2**20
# The bytes of all calibration inputs: a large picture has as many positions as many small ones.
CALIBRATION_BYTES = 64 * 2**20
# The bytes of the inputs from which activation ranges are chosen.
RANGE_BYTES = 32 * 2**20
LEAST_CALIBRATION = 64


def rows_of(sample_bytes: int, most: int, limit_bytes: int = LIVE_BYTES) -> int:
    """Samples of `sample_bytes` in one batch: as many as `limit_bytes` allow, from 1 to `most`."""
    return max(1, min(most, limit_bytes // max(1, sample_bytes)))


def rows_at_once(shape: tuple[int, ...], most: int, limit_bytes: int = FORWARD_BYTES) -> int:
    """Samples of `shape` (without the batch) in one batch: as many as `limit_bytes` of 4-byte values allow, from 1 to
    `most`."""
    return rows_of(4 * prod(shape), most, limit_bytes)


def calibration_rows(shape: tuple[int, ...], most: int, limit_bytes: int = CALIBRATION_BYTES) -> int:
    """Samples of `shape` to calibrate on, from `LEAST_CALIBRATION` to `most`."""
    return min(most, max(LEAST_CALIBRATION, rows_at_once(shape, most, limit_bytes)))
