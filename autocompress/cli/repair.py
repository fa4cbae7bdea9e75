"""`autocompress repair`."""

from __future__ import annotations

import click

from autocompress.cli.console import line
from autocompress.cli.option_groups import Command


@click.command(cls=Command, short_help="Make the database of a study readable again.")
@click.argument("study", metavar="STUDY")
def repair(study: str) -> None:
    """Make the database of STUDY readable again: the folder of a search, a database or journal file, or a URL.

    Tables of an older Optuna are brought up to date. Of a journal file, lines that cannot be read are left out. A copy
    of the file is kept beside it.
    """
    from autocompress.study.repair import repair as run_repair

    for sentence in run_repair(study):
        line(sentence)
