"""Text with units: every legal form means one number, and nothing else is read."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress import quantities as units
from autocompress.errors import InputError

PARSERS: tuple[Callable[..., float], ...] = (
    units.parse_bytes, units.parse_milliseconds, units.parse_seconds, units.parse_count, units.parse_fraction)


@pytest.mark.parametrize(("text", "count"), [
    ("2MB", 2_000_000), ("2MiB", 2_097_152), ("2e6", 2_000_000), ("2 MB", 2_000_000), (" 512KiB ", 524_288),
    ("1.5kB", 1500), ("1.5KB", 1500), (".5MB", 500_000), ("2mb", 2_000_000), (1900433, 1_900_433),
    ("1GB", 10**9), ("1GiB", 2**30),
])
def test_bytes_are_read_exactly(text: str | int, count: int) -> None:
    assert units.parse_bytes(text) == count


def test_the_other_units() -> None:
    assert units.parse_milliseconds("5ms") == 5.0
    assert units.parse_milliseconds("70us") == pytest.approx(0.07)
    assert units.parse_milliseconds("1.5s") == 1500.0
    assert [units.parse_seconds(t) for t in ("15m", "90", "90s", "1h", "2min")] == [900, 90, 90, 3600, 120]
    assert [units.parse_count(t) for t in ("50M", "1k", "2G", "7")] == [50_000_000, 1000, 2_000_000_000, 7]
    assert units.parse_fraction("1%") == pytest.approx(0.01)
    assert units.parse_fraction("0.01") == 0.01
    assert units.parse_fraction("0%") == 0.0
    assert units.parse_fraction("100%") == 1.0


@pytest.mark.parametrize("text", ["abc", "", "MB", "2Mb", "2 M B", "-2MB", "nan", "inf", "1e999", "0", "0MB", "2,5MB",
                                  "0x10", "1_000", "2MB2", "１MB", "True", "0.2B", "0.5", "25%"])
def test_bytes_refuse_everything_else(text: str) -> None:
    with pytest.raises(InputError, match="the budget"):
        units.parse_bytes(text, "the budget")


def test_a_drop_is_a_share_or_an_amount_in_a_unit() -> None:
    assert [units.parse_drop(text) for text in ("1%", 0.01, "150%", 0)] == pytest.approx([0.01, 0.01, 1.5, 0])
    assert [units.parse_drop(text) for text in ("0.5dB", "2 €", "0.02rmse")] == ["0.5dB", "2€", "0.02rmse"]
    assert units.amount_in_unit("1e-3m/s") == (1e-3, "m/s")
    for text in ("2", "-1%", "dB", "1e999%"):
        with pytest.raises(InputError, match="a drop must be"):
            units.parse_drop(text)


def test_a_bare_latency_is_ambiguous_and_a_share_ends_at_one() -> None:
    with pytest.raises(InputError, match="5ms"):
        units.parse_milliseconds("5")
    for text in ("101%", "1.01", "-1%"):
        with pytest.raises(InputError):
            units.parse_fraction(text)


@pytest.mark.parametrize("text", ["0.5", "0", "0.9999", "1e-4k", "-1", "nan", "inf", "", "k"])
def test_a_count_below_one_is_refused_in_words(text: str) -> None:
    with pytest.raises(InputError, match=r"^macs must be") as caught:
        units.parse_count(text, "macs")
    assert caught.value.exit_code == 2


@given(st.text(max_size=12), st.sampled_from(PARSERS))
def test_any_text_gives_a_number_or_an_input_error(text: str, parse: Callable[..., float]) -> None:
    try:
        value = parse(text)
    except InputError as error:
        assert repr(text) in str(error)
    else:
        assert 0 <= value < float("inf")


@given(st.floats(), st.sampled_from(PARSERS))
def test_no_number_becomes_negative_or_infinite(number: float, parse: Callable[..., float]) -> None:
    try:
        assert 0 <= parse(number) < float("inf")
    except InputError:
        assert parse in (units.parse_bytes, units.parse_milliseconds, units.parse_count) or not 0 < number <= 1


@given(st.integers(1, 10**12))
def test_whole_bytes_round_trip(count: int) -> None:
    assert units.parse_bytes(count) == units.parse_bytes(str(count)) == units.parse_bytes(f"{count}B") == count


@given(st.integers(1, 10**12))
def test_written_sizes_and_counts_read_back_to_their_precision(count: int) -> None:
    assert units.parse_bytes(units.format_bytes(count)) == pytest.approx(count, rel=0.006)
    assert units.parse_count(units.format_count(count)) == pytest.approx(count, rel=0.006)


@given(st.floats(1e-3, 1e6))
def test_written_latencies_read_back(value: float) -> None:
    assert units.parse_milliseconds(units.format_milliseconds(value)) == pytest.approx(value, rel=0.006)


@given(st.floats(0, 1))
def test_written_shares_read_back(share: float) -> None:
    assert units.parse_fraction(units.format_percent(share)) == pytest.approx(share, abs=1e-4)


def test_texts_for_people() -> None:
    assert units.format_bytes(1_900_433) == "1.90 MB"
    assert units.format_bytes(999) == "999 B"
    assert units.format_count(11_172_810) == "11.17M"
    assert units.format_seconds(75) == "1m15s"
    assert units.format_seconds(9.96) == "10.0s"
    assert units.format_percent(0.9311) == "93.11%"
