"""Batches sized by bytes."""

from __future__ import annotations

from math import prod

from hypothesis import given
from hypothesis import strategies as st

from autocompress.core.batch_sizes import (
    FORWARD_BYTES,
    GRADIENT_BYTES,
    LEAST_CALIBRATION,
    TRAINING_BYTES,
    calibration_rows,
    rows_at_once,
)

SHAPES = st.lists(st.integers(1, 600), min_size=1, max_size=4).map(tuple)


@given(SHAPES, st.integers(1, 512))
def test_a_batch_stays_inside_its_bytes_and_has_one_sample_at_least(shape: tuple[int, ...], most: int) -> None:
    rows = rows_at_once(shape, most)
    assert 1 <= rows <= most
    assert rows == 1 or rows * 4 * prod(shape) <= FORWARD_BYTES


def test_small_pictures_keep_the_batches_and_the_calibration_that_they_had() -> None:
    for shape in ((1, 28, 28), (3, 32, 32), (3, 64, 64), (512,)):
        assert rows_at_once(shape, 256) == 256
        assert calibration_rows(shape, 512) == 512
        assert rows_at_once(shape, 128, TRAINING_BYTES) == 128
        assert rows_at_once(shape, 32, GRADIENT_BYTES) == 32


def test_large_pictures_are_fewer() -> None:
    assert rows_at_once((3, 224, 224), 256) == 20
    assert rows_at_once((3, 224, 224), 128, TRAINING_BYTES) == 10
    assert rows_at_once((3, 224, 224), 32, GRADIENT_BYTES) == 3
    assert 64 <= calibration_rows((3, 224, 224), 512) <= 128
    assert calibration_rows((3, 512, 512), 512) == LEAST_CALIBRATION
    assert calibration_rows((3, 512, 512), 40) == 40
