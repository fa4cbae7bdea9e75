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
        # Shown by what handles errors, which looks for the flag itself: it must work for usage errors too.
        self.params.append(Option(["--debug"], is_flag=True, expose_value=False,
                                  help="Show the traceback of an error."))

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
    """A group of such commands; without a subcommand it prints its help."""

    command_class = Command
    group_class = type

    def __init__(self, *args: Any, **settings: Any) -> None:
        settings["context_settings"] = SETTINGS | settings.get("context_settings", {})
        super().__init__(*args, invoke_without_command=True, **settings)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand."""
        if not ctx.protected_args and not ctx.args:
            click.echo(ctx.get_help())
            return None
        return super().invoke(ctx)

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
