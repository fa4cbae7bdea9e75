"""Batches sized by bytes."""

from __future__ import annotations

from math import prod

from hypothesis import given
from hypothesis import strategies as st

from autocompress.core.batch_sizes import (
    LEAST_CALIBRATION,
    LIVE_BYTES,
    TRAINING_BYTES,
    calibration_rows,
    rows_at_once,
    rows_of,
)

SHAPES = st.lists(st.integers(1, 600), min_size=1, max_size=4).map(tuple)


@given(st.integers(0, 2**40), st.integers(1, 512))
def test_a_batch_stays_inside_its_bytes_and_has_one_sample_at_least(sample_bytes: int, most: int) -> None:
    rows = rows_of(sample_bytes, most)
    assert 1 <= rows <= most
    assert rows == 1 or rows * sample_bytes <= LIVE_BYTES


@given(SHAPES, st.integers(1, 512))
def test_a_step_of_training_holds_inputs_of_so_many_bytes(shape: tuple[int, ...], most: int) -> None:
    rows = rows_at_once(shape, most, TRAINING_BYTES)
    assert 1 <= rows <= most
    assert rows == 1 or rows * 4 * prod(shape) <= TRAINING_BYTES


def test_small_pictures_keep_the_steps_and_the_calibration_that_they_had() -> None:
    for shape in ((1, 28, 28), (3, 32, 32), (3, 64, 64), (512,)):
        assert calibration_rows(shape, 512) == 512
        assert rows_at_once(shape, 128, TRAINING_BYTES) == 128


def test_large_pictures_are_fewer() -> None:
    assert rows_at_once((3, 224, 224), 128, TRAINING_BYTES) == 10
    assert 64 <= calibration_rows((3, 224, 224), 512) <= 128
    assert calibration_rows((3, 512, 512), 512) == LEAST_CALIBRATION
    assert calibration_rows((3, 512, 512), 40) == 40
