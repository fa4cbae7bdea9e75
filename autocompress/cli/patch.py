"""`autocompress patch`."""

from __future__ import annotations

from pathlib import Path

import click

from autocompress.cli.console import line
from autocompress.cli.option_groups import Command

_EXAMPLES = """\b
Examples:
  autocompress patch artifact update.patch --out artifact-new
"""


@click.command(cls=Command, epilog=_EXAMPLES, short_help="Carry out an update of an artefact.")
@click.argument("old", metavar="OLD")
@click.argument("patch_file", metavar="PATCH")
@click.option("--out", metavar="NEW", required=True, help="Folder for the updated artefact, another one than OLD.")
@click.option("--key", metavar="KEYFILE", help="NEW must be signed by the owner of this public Ed25519 key (PEM).")
def patch(old: str, patch_file: str, out: str, key: str | None) -> None:
    """Turn the artefact in OLD into the one that PATCH was made for, in a folder of its own.

    The hashes of OLD are checked before, those of the outcome after. NEW appears whole or not at all, and OLD stays as
    it is, whatever interrupts it.
    """
    from autocompress.artifact.patch import read_patch, updated

    updated(Path(old), read_patch(Path(patch_file)), Path(out), key)
    line(f"artefact {out}")
