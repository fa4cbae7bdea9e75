"""`autocompress profiles`."""

from __future__ import annotations

from pathlib import Path

import click

from autocompress.cli.console import print_table, printable
from autocompress.cli.option_groups import Group, help_alone
from autocompress.quantities import format_bytes

_EXAMPLES = """\b
Examples:
  autocompress profiles list
  autocompress profiles show stm32h743 > my-device.toml
  autocompress profiles validate my-device.toml
"""


@click.group(cls=Group, epilog=_EXAMPLES, short_help="List, show and validate device profiles.")
@click.pass_context
def profiles(context: click.Context) -> None:
    """Devices: legal bit-widths, rates and memories, with the source of each number."""
    help_alone(context)


@profiles.command("list")
def list_() -> None:
    """The profiles that come with autocompress."""
    from autocompress.hardware.profile import list_profiles, load_profile

    rows = []
    for name in list_profiles():
        profile = load_profile(name)
        rows.append((name, " ".join(map(str, profile.weight_bits)), profile.latency, _size(profile.flash_bytes),
                     _size(profile.ram_bytes), profile.name))
    print_table(("name", "weight bits", "latency", "flash", "RAM", "device"), rows)


@profiles.command("show")
@click.argument("name", metavar="NAME|FILE")
def show(name: str) -> None:
    """Print a profile as TOML, with its sources: a template for one's own."""
    from autocompress.hardware.profile import profile_text, validate_profile

    if name.endswith(".toml"):
        validate_profile(name)
        text = Path(name).read_text("utf-8-sig")
    else:
        text = profile_text(name)
    click.echo(printable(text), nl=not text.endswith("\n"))


@profiles.command("validate")
@click.argument("file", metavar="FILE")
def validate(file: str) -> None:
    """Check a profile file; the exit code is 2 when it is wrong."""
    from autocompress.hardware.profile import validate_profile

    profile = validate_profile(file)
    click.echo(printable(f"{file} is a valid profile: {profile.name} ({profile.id}), weight bits "
                         f"{', '.join(map(str, profile.weight_bits))}, latency {profile.latency}"))


def _size(count: int | None) -> str:
    return "" if count is None else format_bytes(count)
