"""Shipped profiles, the loader's answers to bad files, and the legal grid."""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.errors import InputError
from autocompress.hardware.profile import (
    MAX_FILE_BYTES,
    HardwareProfile,
    list_profiles,
    load_profile,
    parse_profile,
    profile_text,
    validate_profile,
)

GOOD = """
schema_version = 1
id = "board"
name = "A board"
description = "For tests."
runtime = "a runtime"
latency = "estimated"
weight_bits = { value = [8, 32], source = "manual" }
activation_bits = { value = [8, 32], source = "manual" }
channel_multiple = { value = 4, source = "manual" }
rank_multiple = { value = 4, source = "manual" }
flash_bytes = { value = "2MiB", source = "manual" }
ram_bytes = { value = 524288, source = "manual" }
bandwidth_bytes_per_s = { value = "1.5GB/s", source = "manual" }
layer_overhead_ms = { value = "20us", source = "clock" }
inference_overhead_ms = { value = 0, source = "clock" }
[rates.int8]
conv = { value = "500M", source = "clock" }
depthwise = { value = 5e7, source = "clock" }
linear = { value = "500M", source = "clock" }
[rates.float]
conv = { value = "100M", source = "clock" }
depthwise = { value = "10M", source = "clock" }
linear = { value = "100M", source = "clock" }
"""


def changed(old: str, new: str) -> str:
    assert GOOD.count(old) == 1, old
    return GOOD.replace(old, new)


@pytest.mark.parametrize("name", list_profiles())
def test_shipped_profile_is_valid_and_sourced(name: str) -> None:
    profile = load_profile(name)
    assert profile.id == name
    assert set(profile.channel_multiple) == set(profile.weight_bits)
    document = tomllib.loads(profile_text(name))
    rates = {f"rates.{kind}.{layer}" for kind, table in document["rates"].items() for layer in table}
    numbers = {field for field, entry in document.items() if isinstance(entry, dict)} - {"rates"} | rates
    assert set(profile.sources) == numbers
    assert all(source.strip() for source in profile.sources.values())


def test_shipped_profiles_are_the_documented_ones() -> None:
    assert list_profiles() == [
        "esp32s3", "ethos-u55-128", "ethos-u65-256", "host", "nrf52840", "nvidia-t4", "pixel-3", "raspberry-pi-4",
        "raspberry-pi-5", "stm32h743", "stm32h7a3", "stm32l4r5", "x86-avx2", "x86-avx512-vnni",
    ]
    assert [name for name in list_profiles() if load_profile(name).latency == "measured"] == ["host"]
    assert {name: load_profile(name).format for name in list_profiles() if load_profile(name).format != "onnx"} == {
        "pixel-3": "tflite", "ethos-u55-128": "vela", "ethos-u65-256": "vela-u65-256",
        **dict.fromkeys(("esp32s3", "nrf52840", "stm32h7a3", "stm32l4r5"), "tflite-micro")}


def test_fingerprints_differ_and_ignore_wording() -> None:
    assert len({load_profile(name).fingerprint for name in list_profiles()}) == len(list_profiles())
    board = parse_profile(GOOD, "board.toml")
    assert parse_profile(changed("For tests.", "Other words."), "b").fingerprint == board.fingerprint
    assert parse_profile(changed("500M\", source = \"clock\" }\ndepth", "501M\", source = \"clock\" }\ndepth"), "b"
                         ).fingerprint != board.fingerprint


def test_units_and_single_multiple_are_read() -> None:
    profile = parse_profile(GOOD, "board.toml")
    assert (profile.flash_bytes, profile.ram_bytes) == (2 * 2**20, 2**19)
    assert profile.bandwidth_bytes_per_s == 1.5e9
    assert profile.layer_overhead_ms == pytest.approx(0.02)
    assert profile.rates["int8"].conv == 5e8
    assert profile.rates["int8"].of("grouped") == 5e7
    assert profile.rates["int8"].of("pointwise") == profile.rates["int8"].of("matmul") == 5e8
    assert profile.channel_multiple == {8: 4, 32: 4}


def _with_memories(block: int | None, ram: int = 0, flash: int = 0) -> HardwareProfile:
    entries = {"ram_block_bytes": block, "runtime_ram_bytes": ram, "runtime_flash_bytes": flash}
    lines = [f'{name} = {{ value = {value}, source = "manual" }}' for name, value in entries.items() if value]
    return parse_profile(changed("[rates.int8]", "\n".join([*lines, "[rates.int8]"])), "board.toml")


def test_a_network_gets_what_runtime_and_blocks_leave() -> None:
    assert _with_memories(None).memories == {"size_bytes": (2 * 2**20, "board"), "peak_memory_bytes": (2**19, "board")}
    left = _with_memories(None, ram=10_000, flash=50_000).memories
    assert left == {"size_bytes": (2 * 2**20 - 50_000, "board"), "peak_memory_bytes": (2**19 - 10_000, "board")}
    assert _with_memories(100_000, ram=10_000).memories["peak_memory_bytes"] == (100_000, "board")
    assert _with_memories(2**19, ram=10_000).memories["peak_memory_bytes"] == (2**19 - 10_000, "board")
    assert load_profile("stm32h743").memories["peak_memory_bytes"][0] == 512 * 1024  # of 1 MiB in all
    assert load_profile("stm32h743").memories["size_bytes"][0] < 2 * 2**20
    with pytest.raises(InputError, match="`ram_bytes` must be larger than what the runtime needs of it, 600000 bytes"):
        _with_memories(None, ram=600_000)


def test_a_device_says_how_fast_it_computes_floats() -> None:
    """The original is float, and so is what no technique touches: at int8 rates both would be promised too much."""
    start = GOOD.index("[rates.float]")
    integers = GOOD[:start].replace("activation_bits = { value = [8, 32]", "activation_bits = { value = [8]")
    with pytest.raises(InputError, match=r"`rates\.float` must be given.*in software"):
        parse_profile(integers, "board.toml")
    half = changed("[rates.float]", "[rates.fp16]").replace(
        "[rates.int8]", 'floats_as = { value = "fp16", source = "manual" }\n[rates.int8]')
    assert parse_profile(half, "board.toml").computed_as(32, 32) == "fp16"
    with pytest.raises(InputError, match="`floats_as` must be float or fp16, but got 'int8'"):
        parse_profile(half.replace('value = "fp16"', 'value = "int8"'), "board.toml")
    with pytest.raises(InputError, match=r"`rates\.fp16` must be given for `floats_as`"):
        parse_profile(half.replace("[rates.fp16]", "[rates.float]"), "board.toml")


@pytest.mark.parametrize("value", ['"0.4"', "0.4", "0", "-1", "nan", "inf", '"0M"', "true"])
def test_a_rate_below_one_is_refused_in_words(value: str) -> None:
    with pytest.raises(InputError, match=r"`rates\.int8\.depthwise` must be") as caught:
        parse_profile(changed("5e7", value), "board.toml")
    assert caught.value.exit_code == 2


def test_memories_may_be_left_out_and_mean_unbounded() -> None:
    text = changed('flash_bytes = { value = "2MiB", source = "manual" }\n', "")
    assert parse_profile(text, "board.toml").flash_bytes is None


def test_own_file_is_loaded_by_path(tmp_path: Path) -> None:
    path = tmp_path / "board.toml"
    path.write_text(GOOD, encoding="utf-8")
    assert load_profile(str(path)) == validate_profile(path) == parse_profile(GOOD, "board.toml")


BAD = {
    "negative flash": (changed('"2MiB"', "-1"), "`flash_bytes`"),
    "zero ram": (changed("524288", "0"), "`ram_bytes`"),
    "unknown unit": (changed('"2MiB"', '"2 parsecs"'), "`flash_bytes`"),
    "megabits": (changed('"2MiB"', '"2Mb"'), "`flash_bytes`"),
    "boolean size": (changed("524288", "true"), "`ram_bytes`"),
    "newer schema": (changed("schema_version = 1", "schema_version = 2\nvolts = 3"), "update autocompress"),
    "older schema": (changed("schema_version = 1", "schema_version = 0"), "`schema_version` must be 1"),
    "missing field": (changed('runtime = "a runtime"\n', ""), "`runtime` must be given"),
    "missing number": (changed('rank_multiple = { value = 4, source = "manual" }\n', ""), "`rank_multiple` must be"),
    "missing rates": (GOOD[: GOOD.index("[rates.int8]")], "`rates` must be given"),
    "missing rate": (changed('depthwise = { value = 5e7, source = "clock" }\n', ""), "`rates.int8.depthwise` must be"),
    "missing rate table": (GOOD[: GOOD.index("[rates.float]")], "`rates.float` must be given"),
    "unknown field": (changed("flash_bytes", "flash_byte"), "did you mean 'flash_bytes'"),
    "unknown rate": (changed("depthwise = { value = 5e7", "deptwise = { value = 5e7"), "did you mean 'depthwise'"),
    "unknown type": (changed("[rates.float]", "[rates.flaot]"), "did you mean 'float'"),
    "sources by hand": (changed('id = "board"', 'id = "board"\nsources = {}'), "`sources` is not a known field"),
    "no source": (changed('{ value = 524288, source = "manual" }', "{ value = 524288 }"), "`ram_bytes` must name"),
    "blank source": (changed('524288, source = "manual"', '524288, source = " "'), "`ram_bytes` must name"),
    "no value": (changed("value = 524288, ", ""), "`ram_bytes` must have a `value`"),
    "bare number": (changed('{ value = 524288, source = "manual" }', "524288"), "`ram_bytes` must be written"),
    "infinite": (changed("value = 0,", "value = inf,"), "`inference_overhead_ms`"),
    "nan rate": (changed("value = 5e7", "value = nan"), "`rates.int8.depthwise`"),
    "zero rate": (changed("value = 5e7", "value = 0"), "`rates.int8.depthwise`"),
    "negative time": (changed("value = 0,", "value = -1,"), "`inference_overhead_ms`"),
    "odd width": (changed('weight_bits = { value = [8, 32]', 'weight_bits = { value = [9]'), "`weight_bits`"),
    "no width": (changed('weight_bits = { value = [8, 32]', 'weight_bits = { value = []'), "`weight_bits`"),
    "double width": (changed('weight_bits = { value = [8, 32]', 'weight_bits = { value = [8, 8]'), "`weight_bits`"),
    "4-bit activations": (
        changed('activation_bits = { value = [8, 32]', 'activation_bits = { value = [4]'), "`activation_bits`",
    ),
    "zero multiple": (changed("rank_multiple = { value = 4", "rank_multiple = { value = 0"), "`rank_multiple`"),
    "partial multiples": (
        changed("channel_multiple = { value = 4", "channel_multiple = { value = { 8 = 4 }"), "`channel_multiple`",
    ),
    "alien multiples": (
        changed("channel_multiple = { value = 4", "channel_multiple = { value = { x = 4 }"), "`channel_multiple`",
    ),
    "other latency": (changed('latency = "estimated"', 'latency = "guessed"'), "latency"),
    "wrong type": (changed('name = "A board"', "name = 3"), "name"),
    "id with a path": (changed('id = "board"', 'id = "../board"'), "`id`"),
    "rates not a table": (GOOD[: GOOD.index("[rates.int8]")] + "rates = 3", "`rates` must be a table"),
    "syntax": (changed('id = "board"', "id = board"), "line 3"),
    "duplicate key": (changed('id = "board"', 'id = "board"\nid = "other"'), "line 4"),
    "endless digits": (changed("524288", "9" * 5000), "must be valid TOML"),
    "deep nesting": ("x = " + "[" * 5000, "must be valid TOML"),
    "empty": ("", "`schema_version` must be given"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_file_is_refused_by_name_and_field(case: str, tmp_path: Path) -> None:
    text, expected = BAD[case]
    path = tmp_path / "board.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load_profile(str(path))
    assert expected in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")


def test_what_is_no_text_file_is_refused(tmp_path: Path) -> None:
    huge, binary = tmp_path / "huge.toml", tmp_path / "binary.toml"
    huge.write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    binary.write_bytes(b"\xff\xfe\x00")
    cases = {
        tmp_path: "existing", tmp_path / "absent.toml": "existing", huge: "at most", binary: "UTF-8",
        Path("/dev/zero"): "existing",
    }
    for path, expected in cases.items():
        with pytest.raises(InputError, match=expected):
            validate_profile(path)
    for text in ("nul\0.toml", "x" * 5000 + ".toml"):
        with pytest.raises(InputError):
            load_profile(text)


def test_unknown_name_gets_the_nearest_and_the_list() -> None:
    with pytest.raises(InputError, match="did you mean 'stm32h743'") as caught:
        load_profile("stm32h743x")
    assert "nvidia-t4" in str(caught.value)
    for name in ("", "../host", "/etc/passwd", "host\0", "ho st"):
        with pytest.raises(InputError):
            load_profile(name)


def test_check_bits_names_the_choice_and_the_site() -> None:
    load_profile("host").check_bits(4, 8, "features.2")
    with pytest.raises(InputError) as caught:
        load_profile("x86-avx2").check_bits(4, 8, "features.2")
    assert str(caught.value) == "`bits` must be one of (8, 32) on x86-avx2, but got 4 at features.2"
    with pytest.raises(InputError, match=r"`activation_bits` must be one of \(8\) on stm32h743, but got 32 at fc"):
        load_profile("stm32h743").check_bits(8, 32, "fc")


def test_rates_follow_both_widths() -> None:
    pi, board = load_profile("raspberry-pi-5"), load_profile("stm32h743")
    assert pi.rates_for(8, 8) is pi.rates["int8"]
    assert pi.rates_for(8, 16) is pi.rates_for(16, 16) is pi.rates_for(16, 8) is pi.rates["fp16"]
    assert pi.rates_for(8, 32) is pi.rates_for(32, 32) is pi.rates_for(16, 32) is pi.rates["fp16"]  # as ncnn does
    card = load_profile("nvidia-t4")
    assert card.rates_for(16, 32) is card.rates["fp16"] and card.rates_for(32, 32) is card.rates["float"]
    assert board.rates_for(32, 32) is board.rates_for(8, 32) is board.rates["float"]  # floats are never integers
    assert board.rates_for(8, 8) is board.rates["int8"]


def _profile(multiple: int) -> HardwareProfile:
    return msgspec.structs.replace(load_profile("x86-avx2"), channel_multiple={8: multiple})


@given(st.integers(1, 2048), st.integers(-5, 3000), st.sampled_from([1, 2, 3, 4, 8, 12, 16, 32]))
def test_legal_channels_is_the_nearest_legal_count(count: int, keep: int, multiple: int) -> None:
    nearest = _profile(multiple).legal_channels(count, keep, (8,))
    step = multiple
    while step > count:
        step //= 2
    legal = {*range(step, count + 1, step), count}
    assert nearest in legal
    assert abs(nearest - keep) == min(abs(option - keep) for option in legal)
    assert _profile(multiple).legal_channels(count, nearest, (8,)) == nearest


def test_legal_channels_by_width_and_at_the_edges() -> None:
    card = load_profile("nvidia-t4")
    assert [card.legal_channels(128, 60, (bits,)) for bits in (4, 8, 16, 32)] == [64, 64, 64, 60]
    assert card.legal_channels(128, 60, (16, 4)) == 64
    assert card.legal_channels(3, 2, (4,)) == 2
    assert card.legal_channels(100, 99, (8,)) == 100
    assert card.legal_channels(100, 0, (8,)) == 16
    with pytest.raises(ValueError, match="at least one channel"):
        card.legal_channels(0, 1, (8,))
