"""Estimated latency: hand-made sums, monotony, and refusals."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.core.layer import Part
from autocompress.errors import AutocompressError
from autocompress.hardware.latency import Executed, estimate_latency_ms, part_ms
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
    return estimate_latency_ms(parts, PROFILE)


@pytest.mark.parametrize(
    ("part", "milliseconds"),
    [
        (conv(10, 10), 90_000 / 4e6 * 1e3),
        (conv(10, 10, bits=32), 90_000 / 2e6 * 1e3),
        (conv(10, 10, kernel=1), 10_000 / 2e6 * 1e3),
        (conv(10, 10, kernel=1, bits=32), 10_000 / 2e6 * 1e3),
        (conv(10, 10, groups=10), 9_000 / 1e6 * 1e3),
        (conv(10, 10, groups=5), 18_000 / 1e6 * 1e3),
        (conv(10, 10, positions=1), (900 + 20) / 1e6 * 1e3),
        (conv(10, 10, positions=1, bits=32), (3600 + 80) / 1e6 * 1e3),
        (conv(10, 10, positions=1, bits=4), (450 + 20) / 1e6 * 1e3),
    ],
    ids=["conv", "float", "pointwise", "no-pointwise-rate", "depthwise", "grouped", "fetch-8", "fetch-32", "fetch-4"],
)
def test_a_part_takes_the_longer_of_computing_and_fetching(part: Part, milliseconds: float) -> None:
    assert estimate(part) == pytest.approx(milliseconds + 0.5 + 2.0)


def test_norms_are_free_and_overheads_add_up() -> None:
    norm = Part(name="n", layer="n", kind="norm", in_channels=8, out_channels=8)
    assert estimate(norm) == 2.0
    assert estimate(conv(10, 10), norm, conv(10, 10)) == pytest.approx(2 * estimate(conv(10, 10)) - 2.0)


def linear(positions: int, bits: int = 8) -> Part:
    return Part(name="l", layer="l", kind="linear", in_channels=100, out_channels=100, positions=positions,
                in_positions=positions, weight_bits=bits, activation_bits=8 if bits <= 8 else 32)


def test_a_matrix_that_meets_several_vectors_is_reused() -> None:
    """One position runs at the rate of a matrix times a vector, many at that of a matrix times a matrix."""
    fast = msgspec.structs.replace(PROFILE, bandwidth_bytes_per_s=1e12, rates={
        kind: KindRates(conv=1e9, depthwise=1e9, linear=1e6, matmul=1e8) for kind in ("int8", "float")})
    times = [estimate_latency_ms([linear(positions)], fast) - 2.5 for positions in (1, 10, 100, 1000, 10_000)]
    assert times == pytest.approx([10, 10, 10, 100, 1000])


def test_groups_of_several_channels_have_their_own_rate_and_multipliers_are_depthwise() -> None:
    board = msgspec.structs.replace(PROFILE, bandwidth_bytes_per_s=1e12, rates={
        "int8": KindRates(conv=8e6, depthwise=1e6, grouped=4e6, linear=8e6),
        "float": KindRates(conv=8e6, depthwise=1e6, linear=8e6)})

    def ms(part: Part) -> float:
        return estimate_latency_ms([part], board) - 2.5

    assert ms(conv(10, 10)) == pytest.approx(90_000 / 8e6 * 1e3)
    assert ms(conv(10, 10, groups=5)) == pytest.approx(18_000 / 4e6 * 1e3)
    assert ms(conv(10, 10, kernel=1, groups=5)) == pytest.approx(2000 / 4e6 * 1e3)
    assert ms(conv(10, 20, groups=10)) == pytest.approx(18_000 / 1e6 * 1e3)
    assert ms(conv(10, 10, groups=5, bits=32)) == pytest.approx(18_000 / 1e6 * 1e3)  # none given: as depthwise


def test_what_happens_beside_the_layers_takes_time() -> None:
    """A sum moves three tensors; attention multiplies; each is started once."""
    add, product = Executed("none", 0, 3000, 8), Executed("matmul", 4_000_000, 300, 32)
    plain = estimate(conv(10, 10))
    assert estimate_latency_ms([conv(10, 10)], PROFILE, [add]) == pytest.approx(plain + 3 + 0.5)
    assert estimate_latency_ms([conv(10, 10)], PROFILE, [product]) == pytest.approx(plain + 2000 + 0.5)
    wide = msgspec.structs.replace(add, bits=32)
    assert estimate_latency_ms([], PROFILE, [wide]) == pytest.approx(4 * 3 + 0.5 + 2)


def test_a_layer_moves_what_it_reads_and_writes() -> None:
    part = msgspec.structs.replace(conv(10, 10, kernel=1, positions=400), in_positions=1600)
    quick = msgspec.structs.replace(PROFILE, rates={"int8": KindRates(conv=1e12, depthwise=1e12, linear=1e12),
                                                    "float": KindRates(conv=1e12, depthwise=1e12, linear=1e12)})
    assert estimate_latency_ms([part], quick) == pytest.approx((100 + 16_000 + 4000) / 1e6 * 1e3 + 2.5)


def test_modules_of_other_kinds_fetch_their_weights() -> None:
    other = Part(name="o", layer="o", kind="other", in_channels=10, out_channels=10, positions=100)
    assert estimate(other) == pytest.approx(400 / 1e6 * 1e3 + 2.5)


FLOAT, HALF, INT8 = (32, 32), (16, 32), (8, 8)


@pytest.mark.parametrize(("name", "widths", "kind"), [
    ("raspberry-pi-5", FLOAT, "fp16"), ("raspberry-pi-5", HALF, "fp16"), ("raspberry-pi-5", INT8, "int8"),
    ("nvidia-t4", FLOAT, "float"), ("nvidia-t4", HALF, "fp16"), ("nvidia-t4", INT8, "int8"),
    ("raspberry-pi-4", HALF, "float"), ("stm32h743", FLOAT, "float"), ("stm32h743", INT8, "int8"),
])
def test_every_kind_of_rate_is_reached_by_a_legal_plan(name: str, widths: tuple[int, int], kind: str) -> None:
    """Plans have 16-bit weights with 32-bit activations; the original has 32 bits of both."""
    profile = load_profile(name)
    assert profile.rates_for(*widths) is profile.rates[kind]  # type: ignore[index]


def test_int8_promises_what_was_published_on_a_pi_5() -> None:
    """ncnn publishes 0.69 (VGG-16) to 1.41 times (MobileNetV1) over its floats, which are fp16."""
    pi = load_profile("raspberry-pi-5")
    dense, thin = [conv(128, 128, positions=784)] * 8, [conv(128, 128, 3, 128, positions=784), conv(128, 128, 1)] * 8
    for parts, least, most in ((dense, 0.6, 1.0), (thin, 1.0, 1.6)):
        times = [sum(part_ms(msgspec.structs.replace(part, weight_bits=weights, activation_bits=activations,
                                                     in_positions=part.positions), pi) for part in parts)
                 for weights, activations in (FLOAT, INT8)]
        assert least < times[0] / times[1] < most


def test_a_float_original_is_no_int8_network_on_a_board() -> None:
    """Published for the same core: 1.9 times as long for a MobileNet, 3.9 for an auto-encoder of linear layers."""
    board = load_profile("stm32h743")
    for part, least, most in ((conv(64, 64), 1.6, 2.2), (linear(1), 2.5, 4.5)):
        int8, full = (estimate_latency_ms([msgspec.structs.replace(part, weight_bits=w, activation_bits=a)], board)
                      for w, a in (INT8, FLOAT))
        assert least < full / int8 < most


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
            assert 0 < estimate_latency_ms([part], profile) < 1e4


@given(st.integers(1, 256), st.integers(1, 256), st.integers(0, 64), st.sampled_from(list_profiles()))
def test_more_channels_never_run_faster(inputs: int, outputs: int, more: int, name: str) -> None:
    profile = load_profile(name)
    for bits in (8, 32):
        small, large = conv(inputs, outputs, bits=bits), conv(inputs, outputs + more, bits=bits)
        faster, slower = (estimate_latency_ms([part], profile) for part in (small, large))
        assert faster <= slower


@given(st.integers(1, 512), st.integers(1, 64), st.sampled_from(list_profiles()))
def test_narrower_weights_never_run_slower_at_the_same_arithmetic(channels: int, positions: int, name: str) -> None:
    profile = load_profile(name)
    times = [
        estimate_latency_ms([conv(channels, channels, bits=bits, positions=positions)], profile)
        for bits in range(1, 9)
    ]
    assert times == sorted(times)
