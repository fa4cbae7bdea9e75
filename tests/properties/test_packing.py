"""Packing: what goes in comes out, in as few bytes as promised, by the tables that the file carries."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from autocompress.formats.packing import ALIGN, PLANES, integers, pack, tables, unpack

pytestmark = pytest.mark.numerics

BITS = st.sampled_from(sorted(PLANES))


def _levels(codes: np.ndarray, bits: int) -> np.ndarray:
    levels: np.ndarray = integers(bits)[codes]
    return levels


@given(st.data(), BITS, st.integers(1, 70))
def test_round_trip_for_any_length(data: st.DataObject, bits: int, count: int) -> None:
    codes = data.draw(arrays.arrays(np.uint8, count, elements=st.integers(0, 2**bits - 1)))
    levels = _levels(codes, bits)
    packed = pack(levels, bits)
    np.testing.assert_array_equal(unpack(packed, bits, count), levels)
    padded = -(-count // ALIGN) * ALIGN
    assert sum(plane.nbytes for plane in packed) * 8 == padded * bits
    assert all(plane.dtype == np.uint8 for plane in packed)


@given(st.data(), st.sampled_from([2, 3, 4, 5, 6]))
def test_shape_does_not_matter(data: st.DataObject, bits: int) -> None:
    codes = data.draw(arrays.arrays(np.uint8, (3, 2, 4), elements=st.integers(0, 2**bits - 1)))
    for one, two in zip(pack(_levels(codes, bits), bits), pack(_levels(codes.ravel(), bits), bits), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("bits", sorted(PLANES))
def test_tables_hold_every_level_and_fit_int8(bits: int) -> None:
    levels = integers(bits)
    assert len(np.unique(levels)) == 2**bits
    got = unpack(pack(levels.astype(np.int8), bits), bits, len(levels))
    np.testing.assert_array_equal(got, levels)
    for plane, table in zip(PLANES[bits], tables(bits), strict=True):
        assert table.dtype == np.dtype(np.int8)
        assert table.shape == (256, 8 // plane)
        assert len(np.unique(table)) == 2**plane


def test_planes_hold_every_bit_of_a_width() -> None:
    assert all(sum(planes) == bits for bits, planes in PLANES.items())
