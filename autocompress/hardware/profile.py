"""A device with its runtime, as plain data read from a TOML file in which every number names its source.

In the file a number is written `{ value = …, source = "…" }`: a figure nobody can trace is a guess, so
one without a source is refused. Sizes, times and rates may be text with a unit (`"2MiB"`, `"0.07ms"`,
`"525M"`); a bare number is in the unit that the field's name gives.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Collection, Sequence
from functools import cached_property
from importlib.resources import files
from importlib.resources.abc import Traversable
from math import gcd, lcm
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from autocompress.core.evaluation import LATENCY, latency_on
from autocompress.core.layer import Arithmetic
from autocompress.errors import InputError
from autocompress.hardware.fields import NUMBERS, meant, number, parse_rate, refuse_unknown, table

SCHEMA_VERSION = 1
MAX_FILE_BYTES = 1_000_000

ActivationType = Literal["int8", "fp16", "float"]
ADDED = (("format", "onnx"),)  # defaults of fields that fingerprints of earlier releases did not have


class KindRates(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Multiply-accumulates per second that the runtime sustains, by kind of arithmetic.

    `linear` is a matrix times one vector. What may be left out: `pointwise`, a 1×1 convolution, at the rate of `conv`;
    `matmul`, a matrix times several vectors (a linear layer at several positions, attention), at that of `pointwise`;
    `grouped`, a convolution in groups of several channels, at that of `depthwise`.
    """

    conv: float
    depthwise: float
    linear: float
    pointwise: float | None = None
    grouped: float | None = None
    matmul: float | None = None

    def of(self, kind: Arithmetic) -> float:
        """The rate of one `kind` of arithmetic. ValueError for `none`."""
        if kind == "none":
            raise ValueError("what computes no products has no rate")
        rates = {"pointwise": self.pointwise or self.conv, "grouped": self.grouped or self.depthwise,
                 "matmul": self.matmul or self.pointwise or self.conv}
        return rates.get(kind) or float(getattr(self, kind))


class HardwareProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, dict=True):
    """Legal choices on one device, and the figures that its estimates rest on.

    Attributes:
        schema_version: of the profile's file.
        id: a short name, for the command line and for metrics such as `latency_ms@ID`.
        name: the device, for people.
        description: what it is, in a sentence.
        runtime: what runs the file, in words.
        latency: whether the latency of an exported file is measured on this machine or estimated.
        weight_bits: legal widths of weights.
        activation_bits: legal widths of activations.
        channel_multiple: by width of weights, the step in which channel counts come.
        rank_multiple: the step in which ranks of factors come.
        rates: multiply-accumulates per second by type of arithmetic.
        bandwidth_bytes_per_s: at which weights and activations move.
        layer_overhead_ms: is paid once for each executed layer, and each operation beside them.
        inference_overhead_ms: is paid once for each run.
        format: in which files are written, scored and shipped (`autocompress.formats.table`).
        floats_as: the type in which the runtime computes float layers unless it is told otherwise.
        flash_bytes: of the device; None where it bounds nothing.
        ram_bytes: of the device; None where it bounds nothing.
        ram_block_bytes: the largest block of RAM that is contiguous.
        runtime_ram_bytes: what the runtime needs for itself.
        runtime_flash_bytes: the same of flash.
        sources: where each number comes from, by field (`rates.int8.conv`).
        targets: the devices that a profile made by `autocompress.hardware.targets` stands for, the primary first; no
            file has them.
    """

    schema_version: int
    id: str
    name: str
    description: str
    runtime: str
    latency: Literal["measured", "estimated"]
    weight_bits: tuple[int, ...]
    activation_bits: tuple[int, ...]
    channel_multiple: dict[int, int]
    rank_multiple: int
    rates: dict[ActivationType, KindRates]
    bandwidth_bytes_per_s: float
    layer_overhead_ms: float
    inference_overhead_ms: float
    format: str = "onnx"
    floats_as: Literal["float", "fp16"] = "float"
    flash_bytes: int | None = None
    ram_bytes: int | None = None
    ram_block_bytes: int | None = None
    runtime_ram_bytes: int = 0
    runtime_flash_bytes: int = 0
    sources: dict[str, str] = {}
    targets: tuple[HardwareProfile, ...] = ()

    @property
    def memories(self) -> dict[str, tuple[int, str]]:
        """What a network may use, by metric, and whose it is: flash and RAM less what the runtime takes of them, and of
        RAM no more than the largest block, because a runtime plans its activations in one. Of several targets, the
        least."""
        if self.targets:
            every = [device.memories for device in self.targets]
            names = [name for name in ("size_bytes", "peak_memory_bytes") if any(name in room for room in every)]
            least = {name: min(room[name][0] for room in every if name in room) for name in names}
            return {name: (bound, listed([room[name][1] for room in every if room.get(name, (0, ""))[0] == bound]))
                    for name, bound in least.items()}
        left = {}
        if self.flash_bytes is not None:
            left["size_bytes"] = self.flash_bytes - self.runtime_flash_bytes, self.id
        if self.ram_bytes is not None:
            free = self.ram_bytes - self.runtime_ram_bytes
            left["peak_memory_bytes"] = min(free, self.ram_block_bytes or free), self.id
        return left

    @cached_property
    def latencies(self) -> dict[str, HardwareProfile]:
        """The device by the metric that is its latency: `latency_ms` of the primary, `latency_ms@ID` of others."""
        primary, *others = self.targets or (self,)
        return {LATENCY: primary} | {latency_on(device.id): device for device in others}

    @cached_property
    def fingerprint(self) -> str:
        """Content hash of what can change a result; wording and sources are left out."""
        if self.targets:
            return "+".join(device.fingerprint for device in self.targets)
        facts = {
            field: getattr(self, field)
            for field in self.__struct_fields__
            if field not in ("name", "description", "sources", "targets")
            and (field, getattr(self, field)) not in ADDED
        }
        plain = msgspec.to_builtins(facts, str_keys=True)
        return hashlib.sha256(msgspec.json.encode(plain, order="sorted")).hexdigest()[:16]

    def check_bits(self, weight_bits: int, activation_bits: int, site: str) -> None:
        """Check that the device can run a layer of given widths.

        Args:
            weight_bits: width of its weights.
            activation_bits: width of its inputs and outputs.
            site: the layer's name, for the message.

        Raises:
            InputError: where it cannot.
        """
        for word, legal, bits in (
            ("bits", self.weight_bits, weight_bits),
            ("activation_bits", self.activation_bits, activation_bits),
        ):
            if bits not in legal:
                choices = ", ".join(map(str, legal))
                raise InputError(f"`{word}` must be one of ({choices}) on {self.id}, but got {bits} at {site}")

    def legal_channels(self, count: int, keep: int, widths: Collection[int], unit: int = 1) -> int:
        """The legal number of units of a layer nearest to a wish; ties go up.

        Legal are the multiples that the device likes at each of the weight widths (32 on a device that has no float
        weights: those of its widest), and `count` itself: to leave a layer alone is always allowed. A layer with fewer
        channels than one multiple gets the multiple halved until it fits. Of several targets, what is legal on each.

        Args:
            count: units that the layer has.
            keep: units that are wished for.
            widths: of the weights, in bits.
            unit: channels of each unit.

        Raises:
            ValueError: where `count` is below one.
        """
        if count < 1:
            raise ValueError(f"a layer has at least one channel, but count is {count}")
        multiple = lcm(*(device._multiple(count, bits, unit) for device in self.targets or (self,) for bits in widths))
        if multiple > count:
            return count
        below = max(multiple, min(keep, count) // multiple * multiple)
        above = min(below + multiple, count)
        return above if above - keep <= keep - below else below

    def _multiple(self, count: int, bits: int, unit: int) -> int:
        multiple = self.channel_multiple[bits if bits in self.channel_multiple else max(self.channel_multiple)]
        multiple //= gcd(multiple, unit)
        while multiple > count:
            multiple //= 2
        return multiple

    def computed_as(self, weight_bits: int, activation_bits: int) -> ActivationType:
        """The type of arithmetic in which a layer runs.

        Integer arithmetic needs integer weights and 8-bit activations; half precision needs 16-bit weights or
        activations, or a runtime that computes all floats so (`floats_as`). Anything else is computed in float32. Where
        a device lacks a type, the next wider one counts, and never a narrower: floats are not integers.

        Args:
            weight_bits: width of its weights.
            activation_bits: width of its inputs and outputs.
        """
        order: tuple[ActivationType, ...] = ("float",)
        if activation_bits == 8 and weight_bits <= 8:
            order = ("int8", "fp16", "float")
        elif self.floats_as == "fp16" or weight_bits == 16 or activation_bits == 16:
            order = ("fp16", "float")
        return next((kind for kind in order if kind in self.rates), "fp16")

    def rates_for(self, weight_bits: int, activation_bits: int) -> KindRates:
        """The rates at which a layer of `weight_bits` and `activation_bits` runs."""
        return self.rates[self.computed_as(weight_bits, activation_bits)]


def listed(words: Sequence[str]) -> str:
    """Several `words` in a sentence: `a, b and c`."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def list_profiles() -> list[str]:
    """Names of the profiles that ship with the package, sorted."""
    return sorted(entry.name.removesuffix(".toml") for entry in _shipped().iterdir() if entry.name.endswith(".toml"))


def profile_text(name: str) -> str:
    """The TOML text of the shipped profile `name`: a template for one's own. InputError where there is none."""
    names = list_profiles()
    if name not in names:
        raise InputError(
            f"a profile must be one of {', '.join(names)}, or a path to a .toml file, "
            f"but got {name!r}{meant(name, names)}"
        )
    return (_shipped() / f"{name}.toml").read_text(encoding="utf-8")


def load_profile(name_or_path: str) -> HardwareProfile:
    """A shipped profile by name, or the user's own from a file.

    Args:
        name_or_path: a name of `list_profiles`, or a path that ends in `.toml`.

    Raises:
        InputError: where there is no such profile, or the file is not a legal one; names the field.
    """
    if name_or_path.endswith(".toml"):
        return validate_profile(name_or_path)
    return parse_profile(profile_text(name_or_path), origin=f"{name_or_path}.toml")


def validate_profile(path: str | Path) -> HardwareProfile:
    """Read a profile's file and check it.

    Args:
        path: of the file.

    Returns:
        The profile.

    Raises:
        InputError: names the field and what is wrong with it.
    """
    place = Path(path)
    try:
        if not place.is_file():
            raise InputError(f"a profile must be an existing .toml file, but {str(path)!r} is not")
        with place.open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise InputError(f"{path}: a profile must be at most {MAX_FILE_BYTES} bytes, but this file is larger")
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path}: a profile must be UTF-8 text, but this file is not") from None
    except (OSError, ValueError) as error:
        raise InputError(f"a profile must be a readable .toml file, but {str(path)!r} is not: {error}") from None
    return parse_profile(text, origin=str(path))


def parse_profile(text: str, origin: str) -> HardwareProfile:
    """A profile read from TOML and checked.

    Args:
        text: TOML.
        origin: the file's name, for messages.

    Raises:
        InputError: names the field and what is wrong with it.
    """
    try:
        return _build(tomllib.loads(text))
    except InputError as error:
        raise InputError(f"{origin}: {error}") from None
    except (ValueError, RecursionError) as error:  # ValueError: syntax, or an integer of too many digits
        raise InputError(f"{origin}: a profile must be valid TOML, but {error}") from None


def _shipped() -> Traversable:
    return files("autocompress.hardware") / "profiles"


def _build(document: dict[str, Any]) -> HardwareProfile:
    version = document.get("schema_version")
    if type(version) is int and version > SCHEMA_VERSION:  # before the keys: a newer schema has others
        raise InputError(f"`schema_version` must be at most {SCHEMA_VERSION}, but got {version}: update autocompress")
    fields = [field for field in msgspec.structs.fields(HardwareProfile) if field.name not in ("sources", "targets")]
    refuse_unknown(document, [field.name for field in fields], "")
    for field in fields:
        if field.required and field.name not in document:
            raise InputError(f"`{field.name}` must be given, but it is missing")
    plain, sources = dict(document), dict[str, str]()
    for name, parse in NUMBERS.items():
        if name in document:
            plain[name] = number(document[name], parse, name, sources)
    if isinstance(plain["channel_multiple"], int):
        plain["channel_multiple"] = dict.fromkeys(plain["weight_bits"], plain["channel_multiple"])
    plain["rates"] = _rates(document["rates"], sources)
    try:
        profile = msgspec.convert({**plain, "sources": sources}, HardwareProfile)
    except msgspec.ValidationError as error:
        raise InputError(str(error)) from None
    _check_together(profile)
    return profile


def _rates(tables: Any, sources: dict[str, str]) -> dict[str, KindRates]:
    refuse_unknown(table(tables, "rates"), get_args(ActivationType), "rates.")
    rates = {}
    for kind, entries in tables.items():
        where = f"rates.{kind}"
        refuse_unknown(table(entries, where), KindRates.__struct_fields__, f"{where}.")
        for field in msgspec.structs.fields(KindRates):
            if field.required and field.name not in entries:
                raise InputError(f"`{where}.{field.name}` must be given, but it is missing")
        figures = {layer: number(entry, parse_rate, f"{where}.{layer}", sources) for layer, entry in entries.items()}
        rates[kind] = KindRates(**figures)
    return rates


def _check_together(profile: HardwareProfile) -> None:
    if profile.schema_version != SCHEMA_VERSION:
        raise InputError(f"`schema_version` must be {SCHEMA_VERSION}, but got {profile.schema_version}")
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", profile.id):
        raise InputError(f"`id` must be 1 to 64 of a-z, 0-9, _ and -, but got {profile.id!r}")
    if set(profile.channel_multiple) != set(profile.weight_bits):
        raise InputError(
            f"`channel_multiple` must have a key for each of `weight_bits` {list(profile.weight_bits)} and no other, "
            f"but has {list(profile.channel_multiple)}"
        )
    if 8 in profile.activation_bits and "int8" not in profile.rates:
        raise InputError("`rates.int8` must be given for 8-bit activations, but it is missing")
    if "float" not in profile.rates and "fp16" not in profile.rates:
        raise InputError("`rates.float` must be given, because the original and layers that stay float are charged at "
                         "it, but it is missing; of a device without float arithmetic give the rate of floats in "
                         "software")
    if profile.floats_as not in profile.rates and profile.floats_as != "float":
        raise InputError(f"`rates.{profile.floats_as}` must be given for `floats_as`, but it is missing")
    for memory, runtime in (("flash_bytes", profile.runtime_flash_bytes), ("ram_bytes", profile.runtime_ram_bytes)):
        if runtime and (getattr(profile, memory) or 0) <= runtime:
            raise InputError(f"`{memory}` must be larger than what the runtime needs of it, {runtime} bytes, but is "
                             f"{getattr(profile, memory)}")
