"""The format of a search's files: the user's own, one of ours by name, or the one that the profile names."""

from __future__ import annotations

from typing import Any

from autocompress.errors import InputError
from autocompress.formats.base import Format
from autocompress.formats.table import format_named
from autocompress.hardware.profile import HardwareProfile
from autocompress.tasks.factory import is_factory, load_object

# What a format has; `Format` has defaults for most of it.
REQUIRED = ("name", "suffix", "runtime", "legal", "size", "prepare", "described", "write", "open", "plain", "checked",
            "files", "snippet", "with_free_sizes")


def chosen_format(spec: Any, profile: HardwareProfile, trust_code: bool = True, free_sizes: bool = False) -> Format:
    """Return the format that a user asks for.

    Args:
        spec: an object; `path/to/file.py:name`; the name of a shipped format; or None for the profile's.
        profile: the device.
        trust_code: whether a user's file may be run.
        free_sizes: whether its files take inputs of any size that the network takes.

    Raises:
        InputError: when there is no such format, or when an object is none.
    """
    if spec is None or (isinstance(spec, str) and not is_factory(spec)):
        shipped: Format = format_named(spec or profile.format)
        return shipped.with_free_sizes() if free_sizes else shipped
    loaded: Format = load_object(spec, what="the format", trust_code=trust_code)
    missing = [name for name in REQUIRED if not hasattr(loaded, name)]
    if missing or isinstance(loaded, type):
        what = f"{loaded.__name__} is a class" if isinstance(loaded, type) else f"it has no {', '.join(missing)}"
        raise InputError(f"a format must be an object with what autocompress.formats.base.Format has, but {what}: "
                         "inherit from that class, and give an object of it")
    return loaded.with_free_sizes() if free_sizes else loaded
