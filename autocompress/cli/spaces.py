"""`autocompress spaces`."""

from __future__ import annotations

import json

import click

from autocompress.cli.console import print_table, printable
from autocompress.cli.option_groups import Group, help_alone

_EXAMPLES = """\b
Examples:
  autocompress spaces list
  autocompress spaces show int8 > my-space.toml
"""


@click.group(cls=Group, epilog=_EXAMPLES, short_help="List and show search spaces.")
@click.pass_context
def spaces(context: click.Context) -> None:
    """Search spaces: what may be done to a network, and how far."""
    help_alone(context)


@spaces.command("list")
def list_() -> None:
    """The spaces that come with autocompress."""
    from autocompress.space.spec import list_spaces, load_space

    print_table(("name", "description"), [(name, load_space(name).description) for name in list_spaces()])


@spaces.command("show")
@click.argument("name", metavar="NAME|FILE")
def show(name: str) -> None:
    """Print a space as TOML, defaults written out: a template for one's own."""
    import msgspec

    from autocompress.space.spec import load_space

    fields = msgspec.to_builtins(load_space(name))
    lines = [_setting(key, value) for key, value in fields.items() if value is not None and not isinstance(value, dict)]
    for section, settings in fields.items():
        if isinstance(settings, dict):
            lines += ["", f"[{section}]", *(_setting(key, value) for key, value in settings.items())]
    click.echo(printable("\n".join(lines)))


def _setting(key: str, value: object) -> str:
    # Text, whole numbers and flat lists of them are written in TOML as in JSON.
    return f"{key} = {json.dumps(value, ensure_ascii=False)}"
