"""Flags of commands that come from the settings of a search, and reading what was given with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from autocompress.cli.config import read_config
from autocompress.cli.console import say
from autocompress.cli.option_groups import Option
from autocompress.cli.trust import check_source
from autocompress.errors import InputError
from autocompress.study.settings import SETTINGS, flag_name


def flags(names: Iterable[str]) -> list[click.Parameter]:
    """An option of the command line for each setting, in that order; not for those that are said otherwise."""
    return [_flag(name) for name in names]


def _flag(name: str) -> Option:
    setting = SETTINGS[name]
    more: dict[str, Any] = {"is_flag": True} if setting.kind.flag_type is bool else {
        "type": setting.kind.flag_type or str, "metavar": setting.metavar, "multiple": setting.kind.repeatable}
    return Option([f"--{flag_name(name)}", name], help=setting.help, section=setting.section, **more)


def given_settings(flags: Mapping[str, Any], config: str | None, trust_code: bool) -> dict[str, Any]:
    """Settings that were given: by flags, else in the config file. InputError for one that is empty, and where a Python
    file would be run that neither the user named nor is trusted."""
    by_flag = {name: value for name, value in flags.items() if value is not None and value is not False and value != ()}
    settings = {**(read_config(Path(config)) if config is not None else {}), **by_flag}
    for name, value in settings.items():
        if value == "" or (isinstance(value, tuple) and "" in value):
            raise InputError(f"--{flag_name(name)} must not be empty; leave it out for its default")
    _check_trust({name: value for name, value in settings.items() if name not in by_flag}, trust_code, config)
    check_source(settings, trust_code)
    return settings


def _check_trust(of_the_file: Mapping[str, Any], trust_code: bool, config: str | None) -> None:
    """A Python file runs because the user typed its name, or said that the file which names it is to be trusted."""
    for name, value in of_the_file.items():
        for spec in SETTINGS[name].kind.specs(value):
            flag = flag_name(name)
            if not trust_code:
                raise InputError(f"{config}: `{flag.replace('-', '_')}` would run code from {spec}: add --trust-code "
                                 f"if you trust that file, or name it yourself with --{flag}")
            say(f"running code from {spec}")
