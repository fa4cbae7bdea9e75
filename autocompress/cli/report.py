"""`autocompress report`."""

from __future__ import annotations

import click

from autocompress.cli.console import line, say
from autocompress.cli.option_groups import Command


@click.command(cls=Command, short_help="Write the Pareto page and the tables of a study.")
@click.argument("study", metavar="STUDY")
@click.option("--out", metavar="DIR", help="Folder for the files. Default: report in the study's folder.")
def report(study: str, out: str | None) -> None:
    """Write pareto.html, trials.csv and trials.json of STUDY, the folder of a search.

    The page is one file and works offline: the front with the limits, every trial, the chosen plan layer by layer.
    """
    from autocompress.study import open_study

    result = open_study(study)
    if result.artifact_fault:
        say(f"warning: {result.artifact_fault}")
    line(str(result.report(out)))
