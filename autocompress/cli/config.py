"""`--config FILE`: the flags of `search` as a TOML file."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Any

from autocompress.errors import InputError

TEXTS = ("model", "weights_key", "data", "inputs", "profile", "space", "task", "format", "techniques", "executor",
         "sampler", "effort", "name", "storage", "device")
PATHS = ("weights", "data_root", "out")
PREPARATION = ("mean", "std", "crop")
WHOLE_NUMBERS = ("image_size", "resize", "trials", "epochs", "seed", "jobs")
QUANTITIES = ("budget", "latency", "macs", "peak_memory", "max_drop", "timeout", "trial_timeout")
KEYS = (*TEXTS, *PATHS, *WHOLE_NUMBERS, *QUANTITIES, *PREPARATION)
_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    **dict.fromkeys((*TEXTS, *PATHS), ((str,), "text")),
    **dict.fromkeys(WHOLE_NUMBERS, ((int,), "a whole number")),
    **dict.fromkeys(PREPARATION, ((str, int, float), "a number, or a list of numbers")),
    **dict.fromkeys(QUANTITIES, ((str, int, float), 'a number, or text with a unit such as "2MB"')),
}
CODE = ("model", "data", "task", "format", "techniques", "executor", "sampler")
"""What may name an object in a Python file, which is run."""
SEVERAL = ("profile", "techniques", "latency", "mean", "std")
"""What may be a list of such values."""
COMMAND_LINE_ONLY = ("from", "from_study", "resume", "force_new_study", "trust_code", "config", "json", "quiet",
                     "debug")
"""What decides about one run, or about trust, is not for a file to say."""


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
    for key, value in document.items():
        name = key.replace("-", "_")
        if name in COMMAND_LINE_ONLY:
            raise InputError(f"{file}: `{key}` must be given on the command line, not in a file")
        if name not in KEYS:
            close = difflib.get_close_matches(name, KEYS, n=1)
            hint = f"did you mean `{close[0]}`?" if close else f"known are {', '.join(sorted(KEYS))}"
            raise InputError(f"{file}: `{key}` is not a known setting; {hint}")
        if name in settings:
            raise InputError(f"{file}: `{name}` must be given once, but is there with a dash and an underscore")
        settings[name] = _located(name, _checked(name, value, file), file.parent)
    return settings


def _checked(name: str, value: Any, file: Path) -> Any:
    kinds, what = _KINDS[name]
    if name in SEVERAL and isinstance(value, list) and value:
        return [_checked(name, each, file) for each in value]
    if name == "latency" and isinstance(value, dict) and value:
        return {device: _checked(name, each, file) for device, each in value.items()}
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise InputError(f"{file}: `{name}` must be {what}, but got {value!r}")
    return value


def _located(name: str, value: Any, folder: Path) -> Any:
    if name in ("profile", "techniques") and isinstance(value, list):
        return [_located(name, each, folder) for each in value]
    if name in PATHS:
        return _beside(folder, value) if value else value
    if name in CODE:
        kind, colon, place = value.partition(":")
        if kind in ("npz", "imagefolder") and place:
            return f"{kind}{colon}{_beside(folder, place)}"
        path, colon, factory = value.rpartition(":")
        return f"{_beside(folder, path)}:{factory}" if path.endswith(".py") else value
    if name in ("profile", "space") and value.endswith(".toml"):
        return _beside(folder, value)
    return value


def _beside(folder: Path, place: str) -> str:
    try:
        return str(folder / Path(place).expanduser())
    except RuntimeError as error:  # ~nobody
        raise InputError(f"{place!r} must be a path, but: {error}") from None
