"""Files in folders, perhaps below a folder for each split."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path

from autocompress.errors import InputError
from autocompress.tasks.sources.base import spelled_split


def require_folder(folder: Path) -> None:
    """InputError where there is no such folder."""
    if not folder.is_dir():
        raise InputError(f"data: there is no folder {str(folder)!r}")


def split_roots(folder: Path) -> dict[str, Path]:
    """The folder of each split; that of the whole data as `train` where no folder in it is called so. InputError where
    two are for one split."""
    require_folder(folder)
    roots: dict[str, Path] = {}
    for path in visible_folders(folder):
        split = spelled_split(path.name)
        if split in roots:
            raise InputError(f"{folder} must have one folder for each split, but {roots[split].name} and {path.name} "
                             f"both are for {split}")
        if split is not None:
            roots[split] = path
    return roots if "train" in roots else {"train": folder}


def visible_folders(folder: Path) -> list[Path]:
    """Folders in a folder whose names do not begin with a dot, by name."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def files_below(folder: Path, suffixes: Set[str]) -> list[Path]:
    """Files of these suffixes, in lower case, anywhere below a folder, by path; none whose name begins with a dot."""
    return sorted(path for path in folder.rglob("*")
                  if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file())
