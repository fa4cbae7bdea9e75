"""The user's own Python files that a search needs, for workers on machines that do not have them."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import autocompress
from autocompress.study.settings import SETTINGS, SearchSettings
from autocompress.tasks.factory import module_name

# Files of one package at most: a folder with more is no package of a user's.
MOST_FILES = 2000


def user_code(settings: SearchSettings) -> dict[str, Path]:
    """The files by the path under which they are imported: those that settings name, under the name of their module
    and beside their neighbours, and modules of the user's that are loaded already."""
    code: dict[str, Path] = {}
    for name, file in _loaded_modules():
        code[name] = file
    for path in _named(settings):
        code |= {file.relative_to(path.parent).as_posix(): file for file in _beside(path)}
        code[f"{module_name(path)}.py"] = path
    return code


def _named(settings: SearchSettings) -> list[Path]:
    """The Python files that settings name and that exist."""
    specs = [spec for name, setting in SETTINGS.items() for spec in setting.kind.specs(getattr(settings, name))]
    return [path for spec in specs if (path := Path(spec.rpartition(":")[0]).resolve()).is_file()]


def _beside(path: Path) -> Iterator[Path]:
    """What a file can import by name from its folder: its neighbours, and the packages there."""
    yield from sorted(path.parent.glob("*.py"))
    for package in sorted(path.parent.glob("*/__init__.py")):
        files = sorted(package.parent.rglob("*.py"))
        yield from files if len(files) <= MOST_FILES else ()


def _loaded_modules() -> Iterator[tuple[str, Path]]:
    """Modules that were imported from outside any installation, such as a script's neighbours. The script itself is
    sent by value."""
    installed = [Path(place) for place in (*sysconfig.get_paths().values(), sys.prefix, sys.base_prefix)]
    installed.append(Path(autocompress.__file__).parent)
    for name, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not file or not file.endswith(".py") or name == "__main__" or name.startswith("autocompress_user_"):
            continue
        path = Path(file).resolve()
        if path.is_file() and not any(path.is_relative_to(place) for place in installed):
            place = name.replace(".", "/")
            yield f"{place}/__init__.py" if path.name == "__init__.py" else f"{place}.py", path
