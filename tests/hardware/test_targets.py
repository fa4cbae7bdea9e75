"""Several devices at once: what is left legal, and what is refused."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.errors import InputError
from autocompress.hardware.profile import HardwareProfile, list_profiles, load_profile, parse_profile, profile_text
from autocompress.hardware.targets import listed, load_targets, together

BOARD = load_profile("stm32h743")


def _device(name: str, multiple: int = 1, **changes: object) -> HardwareProfile:
    return msgspec.structs.replace(load_profile("x86-avx2"), **{
        "id": name, "weight_bits": (4, 8), "channel_multiple": {4: multiple, 8: multiple},
        "rank_multiple": multiple} | changes)


def test_one_device_is_itself() -> None:
    assert load_targets("host").targets == ()
    assert together([BOARD]) is BOARD and load_targets(["stm32h743"]) == BOARD
    assert BOARD.latencies == {"latency_ms": BOARD}


def test_widths_are_shared_multiples_common_and_memories_the_smallest() -> None:
    a = _device("a", 6, flash_bytes=3000, activation_bits=(8, 32), ram_bytes=None)
    b = _device("b", 4, flash_bytes=2000, activation_bits=(8, 16), ram_bytes=None, weight_bits=(2, 8),
                channel_multiple={2: 32, 8: 16}, layer_overhead_ms=9.0)
    joint = together([a, b])
    assert (joint.weight_bits, joint.activation_bits) == ((8,), (8,))
    assert joint.channel_multiple == {8: 48} and joint.rank_multiple == 12
    assert (joint.flash_bytes, joint.ram_bytes) == (2000, None)
    assert joint.id == "a and b" and joint.targets == (a, b)
    assert joint.rates == a.rates and joint.layer_overhead_ms == a.layer_overhead_ms
    assert joint.latencies == {"latency_ms": a, "latency_ms@b": b}
    assert together([b, a]).latencies == {"latency_ms": b, "latency_ms@a": a}


def test_who_is_asked_for_and_who_comes_first_is_in_the_fingerprint() -> None:
    fingerprints = {load_targets(names).fingerprint for size in (1, 2, 3)
                    for names in itertools.permutations(["host", "stm32h743", "raspberry-pi-4"], size)}
    assert len(fingerprints) == 3 + 6 + 6


PAIRS = [pair for pair in itertools.combinations(list_profiles(), 2)
         if len({load_profile(name).format for name in pair}) == 1]


@pytest.mark.parametrize("names", PAIRS, ids="+".join)
def test_all_shipped_pairs_of_one_format_share_something(names: tuple[str, str]) -> None:
    joint, devices = load_targets(names), [load_profile(name) for name in names]
    for device in devices:
        assert set(joint.weight_bits) <= set(device.weight_bits)
        assert set(joint.activation_bits) <= set(device.activation_bits)
        assert joint.rank_multiple % device.rank_multiple == 0
        for bits, multiple in joint.channel_multiple.items():
            assert multiple % device.channel_multiple[bits] == 0


@given(st.integers(1, 300), st.integers(-2, 400), st.lists(st.integers(1, 48), min_size=2, max_size=3),
       st.sampled_from([1, 2, 3, 8]))
def test_channels_are_the_nearest_that_are_legal_on_each(count: int, keep: int, multiples: list[int],
                                                         unit: int) -> None:
    devices = [_device(f"d{i}", multiple) for i, multiple in enumerate(multiples)]
    legal = [n for n in range(1, count + 1) if all(d.legal_channels(count, n, (8,), unit) == n for d in devices)]
    nearest = together(devices).legal_channels(count, keep, (8,), unit)
    assert nearest in legal
    assert abs(nearest - keep) == min(abs(option - keep) for option in legal)


@pytest.mark.parametrize(("devices", "told"), [
    ([BOARD, load_profile("host"), BOARD], "given once, and have an `id` of its own, but got stm32h743, host, stm32"),
    ([_device("a", latency="measured"), load_profile("host")], "that of a and host is"),
    ([_device("a"), _device("b", weight_bits=(2, 3))], r"one of `weight_bits`.*\(a: 4, 8; b: 2, 3\)"),
    ([_device("a", activation_bits=(8,)), _device("b", activation_bits=(16, 32))], r"`activation_bits`.*\(a: 8; b: 16"),
    ([], "at least one profile"),
])
def test_what_cannot_be_together(devices: list[HardwareProfile], told: str) -> None:
    with pytest.raises(InputError, match=told):
        together(devices)


def test_a_file_cannot_have_targets() -> None:
    with pytest.raises(InputError, match="`targets` is not a known field"):
        parse_profile("targets = []\n" + profile_text("host"), "host.toml")


def test_listed() -> None:
    assert [listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])] == ["a", "a and b", "a, b and c"]
