"""Several devices that one file must suit: what is legal on all of them, and the smallest of their memories."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import lcm

import msgspec

from autocompress.errors import InputError
from autocompress.hardware.profile import HardwareProfile, listed, load_profile


def load_targets(names: str | Sequence[str]) -> HardwareProfile:
    """The profile of one device, or of several at once.

    Args:
        names: of `load_profile`, one or several, the primary first.

    Raises:
        InputError: for a profile that cannot be read, or several that do not go together.
    """
    return together([load_profile(name) for name in ([names] if isinstance(names, str) else names)])


def together(profiles: Sequence[HardwareProfile]) -> HardwareProfile:
    """The profile of several devices at once; of one device, its own.

    Widths are those that all have, multiples the least common ones, memories the smallest; rates and overheads are the
    primary's, and `targets` holds the devices.

    Args:
        profiles: of the devices, the primary first.

    Raises:
        InputError: when a device comes twice, when the latency of more than one is measured (there is one machine to
            measure on), when they name several formats, or when no width is left.
    """
    if len(profiles) == 1:
        return profiles[0]
    ids = [profile.id for profile in profiles]
    if not ids:
        raise InputError("at least one profile must be given, but there is none")
    twice = sorted({name for name in ids if ids.count(name) > 1})
    if twice:
        raise InputError(f"each profile must be given once, and have an `id` of its own, but got {', '.join(ids)}")
    measured = [profile.id for profile in profiles if profile.latency == "measured"]
    if len(measured) > 1:
        raise InputError(f"the latency of one profile at most may be measured, on this machine, but that of "
                         f"{listed(measured)} is")
    formats = sorted({profile.format for profile in profiles})
    if len(formats) > 1:
        each = "; ".join(f"{profile.id}: {profile.format}" for profile in profiles)
        raise InputError(f"profiles that are searched for together must name one format, because one file is "
                         f"scored, but they name {listed(formats)} ({each}); search for them one by one")
    bits = _shared("weight_bits", profiles, lambda profile: profile.weight_bits)
    return msgspec.structs.replace(
        profiles[0], id=listed(ids), name=listed([profile.name for profile in profiles]),
        description=f"What is legal on all of {', '.join(ids)}.", runtime=listed([p.runtime for p in profiles]),
        weight_bits=bits, activation_bits=_shared("activation_bits", profiles, lambda p: p.activation_bits),
        channel_multiple={width: lcm(*(profile.channel_multiple[width] for profile in profiles)) for width in bits},
        rank_multiple=lcm(*(profile.rank_multiple for profile in profiles)),
        flash_bytes=min((p.flash_bytes for p in profiles if p.flash_bytes is not None), default=None),
        ram_bytes=min((p.ram_bytes for p in profiles if p.ram_bytes is not None), default=None),
        sources={}, targets=tuple(profiles))


def _shared(what: str, profiles: Sequence[HardwareProfile],
            widths: Callable[[HardwareProfile], tuple[int, ...]]) -> tuple[int, ...]:
    shared = tuple(width for width in widths(profiles[0]) if all(width in widths(other) for other in profiles))
    if not shared:
        each = "; ".join(f"{profile.id}: {', '.join(map(str, widths(profile)))}" for profile in profiles)
        raise InputError(f"profiles that are searched for together must share one of `{what}`, but they have none in "
                         f"common ({each}); search for them one by one")
    return shared
