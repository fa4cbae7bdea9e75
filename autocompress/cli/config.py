"""`--config FILE`: the flags of `search` as a TOML file."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from autocompress.errors import InputError
from autocompress.study.setting_kinds import Kind, nearest
from autocompress.study.settings import SETTINGS, flag_name

# Names of settings by the key of a config file, which is that of the flag with underscores.
KEYS = {flag_name(name).replace("-", "_"): name for name, setting in SETTINGS.items() if setting.in_config}
# What decides about one run, or about trust, is not for a file to say.
COMMAND_LINE_ONLY = {*(each for name, setting in SETTINGS.items() if not setting.in_config
                       for each in (name, flag_name(name).replace("-", "_"))), "config", "json", "quiet", "debug"}


def read_config(file: Path) -> dict[str, Any]:
    """Settings by name, with underscores. Relative paths in them are relative to the file's folder.

    InputError, beginning with the file, for text that is not TOML, an unknown key or a value of the wrong type.
    """
    try:
        document = tomllib.loads(file.read_text("utf-8-sig"))
    except OSError as error:
        raise InputError(f"--config must be a readable TOML file, but {file}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # ValueError: TOML, UTF-8, a path or number beyond limits
        raise InputError(f"{file} must be valid TOML, but: {error}") from None
    settings: dict[str, Any] = {}
    for entry, value in document.items():
        key = entry.replace("-", "_")
        if key in COMMAND_LINE_ONLY:
            raise InputError(f"{file}: `{entry}` must be given on the command line, not in a file")
        if key not in KEYS:
            hint = nearest(key, KEYS).replace("'", "`") or f"known are {', '.join(sorted(KEYS))}"
            raise InputError(f"{file}: `{entry}` is not a known setting; {hint}")
        if KEYS[key] in settings:
            raise InputError(f"{file}: `{key}` must be given once, but is there with a dash and an underscore")
        kind = SETTINGS[KEYS[key]].kind
        settings[KEYS[key]] = _located(_checked(key, value, kind, file), kind, file.parent)
    return settings


def _checked(key: str, value: Any, kind: Kind, file: Path) -> Any:
    if kind.lists and isinstance(value, list) and value:
        return [_checked(key, each, kind, file) for each in value]
    if kind.table and isinstance(value, dict) and value:
        return {device: _checked(key, each, kind, file) for device, each in value.items()}
    if not isinstance(value, kind.toml) or isinstance(value, bool):
        raise InputError(f"{file}: `{key}` must be {kind.words}, but got {value!r}")
    return value


def _located(value: Any, kind: Kind, folder: Path) -> Any:
    if isinstance(value, list):
        return [_located(each, kind, folder) for each in value]
    return kind.locate(value, folder) if isinstance(value, str) else value
