"""Estimated latency: hand-made sums, monotony, and refusals."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.core.layer import Part
from autocompress.errors import AutocompressError, InputError
from autocompress.hardware.latency import estimate_latency_ms
from autocompress.hardware.profile import HardwareProfile, KindRates, list_profiles, load_profile

PROFILE = HardwareProfile(
    schema_version=1, id="board", name="", description="", runtime="", latency="estimated",
    weight_bits=(4, 8, 32), activation_bits=(8, 32), channel_multiple={4: 1, 8: 1, 32: 1}, rank_multiple=1,
    rates={
        "int8": KindRates(conv=4e6, depthwise=1e6, linear=8e6, pointwise=2e6),
        "float": KindRates(conv=2e6, depthwise=0.5e6, linear=4e6),
    },
    bandwidth_bytes_per_s=1e6, layer_overhead_ms=0.5, inference_overhead_ms=2.0,
)


def conv(inputs: int, outputs: int, kernel: int = 3, groups: int = 1, bits: int = 8, positions: int = 100) -> Part:
    return Part(
        name="c", layer="c", kind="conv", in_channels=inputs, out_channels=outputs, kernel=(kernel, kernel),
        groups=groups, positions=positions, weight_bits=bits, activation_bits=8 if bits <= 8 else 32,
    )


def estimate(*parts: Part) -> float:
    return estimate_latency_ms(parts, PROFILE).milliseconds


@pytest.mark.parametrize(
    ("part", "milliseconds"),
    [
        (conv(10, 10), 90_000 / 4e6 * 1e3),
        (conv(10, 10, bits=32), 90_000 / 2e6 * 1e3),
        (conv(10, 10, kernel=1), 10_000 / 2e6 * 1e3),
        (conv(10, 10, kernel=1, bits=32), 10_000 / 2e6 * 1e3),
        (conv(10, 10, groups=10), 9_000 / 1e6 * 1e3),
        (conv(10, 10, groups=5), 18_000 / 4e6 * 1e3),
        (conv(10, 10, positions=1), 900 / 1e6 * 1e3),
        (conv(10, 10, positions=1, bits=32), 3600 / 1e6 * 1e3),
        (conv(10, 10, positions=1, bits=4), 450 / 1e6 * 1e3),
    ],
    ids=["conv", "float", "pointwise", "no-pointwise-rate", "depthwise", "grouped", "fetch-8", "fetch-32", "fetch-4"],
)
def test_a_part_takes_the_longer_of_computing_and_fetching(part: Part, milliseconds: float) -> None:
    assert estimate(part) == pytest.approx(milliseconds + 0.5 + 2.0)


def test_norms_are_free_and_overheads_add_up() -> None:
    norm = Part(name="n", layer="n", kind="norm", in_channels=8, out_channels=8)
    assert estimate(norm) == 2.0
    assert estimate(conv(10, 10), norm, conv(10, 10)) == pytest.approx(2 * estimate(conv(10, 10)) - 2.0)


def test_traffic_of_activations_is_a_lower_bound() -> None:
    small = [conv(10, 10)]
    plain = estimate_latency_ms(small, PROFILE)
    assert estimate_latency_ms(small, PROFILE, activations_bytes=10) == plain
    assert estimate_latency_ms(small, PROFILE, activations_bytes=1e6).milliseconds == pytest.approx(1000.9 + 2)


def test_unknown_kinds_are_slow_counted_and_bounded() -> None:
    other = Part(name="o", layer="o", kind="other", in_channels=10, out_channels=10, positions=100,
                 weight_bits=8, activation_bits=8)
    mixed = estimate_latency_ms([other, conv(10, 10)], PROFILE)
    assert mixed.unknown_macs_share == pytest.approx(0.1)
    assert mixed.milliseconds == pytest.approx(10_000 / 1e6 * 1e3 + 0.5 + estimate(conv(10, 10)))
    with pytest.raises(InputError, match="here 100% are"):
        estimate_latency_ms([other], PROFILE)


def test_a_result_that_is_no_latency_is_called_a_bug() -> None:
    silent = msgspec.structs.replace(PROFILE, inference_overhead_ms=0.0)
    endless = msgspec.structs.replace(PROFILE, inference_overhead_ms=math.inf)
    for profile in (silent, endless):
        with pytest.raises(AutocompressError, match="this is a bug") as caught:
            estimate_latency_ms([], profile)
        assert caught.value.exit_code == 1


@pytest.mark.parametrize("name", list_profiles())
def test_every_shipped_profile_gives_a_latency(name: str) -> None:
    profile = load_profile(name)
    for weight_bits in profile.weight_bits:
        for activation_bits in profile.activation_bits:
            part = msgspec.structs.replace(conv(16, 32), weight_bits=weight_bits, activation_bits=activation_bits)
            assert 0 < estimate_latency_ms([part], profile).milliseconds < 1e4


@given(st.integers(1, 256), st.integers(1, 256), st.integers(0, 64), st.sampled_from(list_profiles()))
def test_more_channels_never_run_faster(inputs: int, outputs: int, more: int, name: str) -> None:
    profile = load_profile(name)
    for bits in (8, 32):
        small, large = conv(inputs, outputs, bits=bits), conv(inputs, outputs + more, bits=bits)
        faster, slower = (estimate_latency_ms([part], profile).milliseconds for part in (small, large))
        assert faster <= slower


@given(st.integers(1, 512), st.integers(1, 64), st.sampled_from(list_profiles()))
def test_narrower_weights_never_run_slower_at_the_same_arithmetic(channels: int, positions: int, name: str) -> None:
    profile = load_profile(name)
    times = [
        estimate_latency_ms([conv(channels, channels, bits=bits, positions=positions)], profile).milliseconds
        for bits in range(1, 9)
    ]
    assert times == sorted(times)
