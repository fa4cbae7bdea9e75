"""Commands whose help lists the options under headings, and that know what a mistyped name was meant to be."""

from __future__ import annotations

import difflib
from typing import Any

import click

SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
GENERAL = "General"


class Option(click.Option):
    """An option with the heading under which the help shows it."""

    def __init__(self, *args: Any, section: str = GENERAL, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.section = section


class Command(click.Command):
    """A command whose help groups the options by `Option.section`, in the order of their first use."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        settings["context_settings"] = SETTINGS | settings.get("context_settings", {})
        super().__init__(*args, **settings)
        self.params.append(_debug())

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """One block for each heading."""
        blocks: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                blocks.setdefault(getattr(param, "section", GENERAL), []).append(record)
        general = blocks.pop(GENERAL, [])
        for title, records in [*blocks.items(), (GENERAL, general)]:
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


class Group(click.Group):
    """A group of such commands. Its function is also called without a subcommand: see `help_alone`."""

    command_class = Command

    def __init__(self, *args: Any, **settings: Any) -> None:
        settings["context_settings"] = SETTINGS | settings.get("context_settings", {})
        settings.setdefault("invoke_without_command", True)
        super().__init__(*args, **settings)
        self.params.append(_debug())

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they were added: the main one first."""
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """UsageError with the nearest name for a command that does not exist."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            names = self.list_commands(ctx)
            close = difflib.get_close_matches(args[0], names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(names)}"
            raise click.UsageError(f"there is no command {args[0]!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)


def help_alone(ctx: click.Context) -> None:
    """Print the help of a group that was called without a subcommand."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def _debug() -> Option:
    # Whoever handles errors looks for the flag itself (`faults.wants_traceback`), so that usage errors have it too.
    return Option(["--debug"], is_flag=True, expose_value=False, help="Show the traceback of an error.")
