"""`autocompress diff`."""

from __future__ import annotations

from pathlib import Path

import click

from autocompress.cli.console import line, print_json
from autocompress.cli.option_groups import Command

_EXAMPLES = """\b
Examples:
  autocompress diff artifact artifact-new --out update.patch
"""


@click.command(cls=Command, epilog=_EXAMPLES, short_help="Write the update from one artefact to another.")
@click.argument("old", metavar="OLD")
@click.argument("new", metavar="NEW")
@click.option("--out", metavar="FILE", required=True, help="File for the patch.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def diff(old: str, new: str, out: str, as_json: bool) -> None:
    """Write a patch that turns OLD into NEW, two folders of exported networks, tensor by tensor.

    `autocompress patch` carries it out where OLD is.
    """
    from autocompress.artifact.patch import is_patch, make_patch, size_of
    from autocompress.core.files import write_whole
    from autocompress.errors import EnvironmentFault, InputError
    from autocompress.quantities import exact_bytes, format_percent

    if not out or Path(out).is_dir():
        raise InputError(f"--out must be a file for the patch, but is {out!r}")
    if Path(out).exists() and not is_patch(Path(out)):
        raise InputError(f"--out must be a new file, or an earlier patch, but {out} is there and is none: it stays")
    patch, whole = make_patch(old, new), size_of(new)
    try:
        write_whole(Path(out), patch)
    except (NotADirectoryError, FileExistsError) as error:
        raise InputError(f"--out must be a file in a folder, but a part of {out} is a file") from error
    except OSError as error:
        raise EnvironmentFault(f"{out} could not be written: {error.strerror}; free space or choose another place"
                               ) from error
    facts = {"patch": out, "patch_bytes": len(patch), "whole_bytes": whole, "share": len(patch) / whole}
    if as_json:
        print_json(facts)
    else:
        line(f"patch    {exact_bytes(len(patch))}, {format_percent(len(patch) / whole)} of the {exact_bytes(whole)} of "
             f"{new}")
        line(f"file     {out}")
