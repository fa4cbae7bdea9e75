"""Whose code runs: a Python file that the user typed, and no other without a word."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from autocompress.cli.console import say
from autocompress.errors import InputError
from autocompress.study.settings import SETTINGS


def check_stored(study: Path, trust_code: bool, doing: str, replaced: Collection[str] = ()) -> None:
    """InputError when `doing` something with a study would run a Python file that only the study names, unless the
    user trusts it. `replaced`: which settings are named by other means."""
    from autocompress.study.folder import read_description

    stored = read_description(study).settings
    for name, setting in SETTINGS.items():
        for spec in setting.kind.specs(getattr(stored, name)) if name not in replaced else ():
            if not trust_code:
                raise InputError(f"{study} was made with {name} {spec}: {doing} would run code from that file. "
                                 "Add --trust-code if you trust it")
            say(f"running code from {spec}")


def check_source(settings: dict[str, Any], trust_code: bool) -> None:
    """The same for the study that a search with these `settings` starts from or goes on with, where there is one."""
    source = settings.get("from_study") or (settings.get("out") if settings.get("resume") else None)
    if source is None:
        return
    from autocompress.study.folder import is_described

    if is_described(Path(source)):
        check_stored(Path(source), trust_code, "searching on", settings)
