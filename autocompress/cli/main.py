"""The command `autocompress`: its subcommands, and the one place where errors become exit codes.

Nothing here or in the commands' modules imports torch before a command runs: help must be quick.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

import click

from autocompress import __version__
from autocompress.cli.apply import apply
from autocompress.cli.console import print_json, say
from autocompress.cli.diff import diff
from autocompress.cli.errors import document, exit_code, message, wants_traceback
from autocompress.cli.export import export
from autocompress.cli.option_groups import Group, help_alone
from autocompress.cli.patch import patch
from autocompress.cli.predict import predict
from autocompress.cli.profiles import profiles
from autocompress.cli.repair import repair
from autocompress.cli.report import report
from autocompress.cli.search import search
from autocompress.cli.sensitivity import sensitivity
from autocompress.cli.show import show
from autocompress.cli.spaces import spaces
from autocompress.cli.verify import verify
from autocompress.cli.watch import watch

_EXAMPLES = """\b
Examples:
  autocompress search --budget 2MB
  autocompress search --model net.py:make --weights net.safetensors --data npz:data.npz --budget 300kB
  autocompress show studies/resnet18-digits-2MB
  autocompress export studies/resnet18-digits-2MB --trial 7 --out artifact

\b
Exit codes: 0 done, 1 a bug of ours, 2 bad input, 3 nothing fits the limits,
4 storage or environment, 130 interrupted (go on with --resume).
"""


@click.group(cls=Group, epilog=_EXAMPLES)
@click.version_option(__version__, message="autocompress %(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    """Turn a trained PyTorch network into verified files that fit a budget."""
    help_alone(context)


COMMANDS = (search, watch, show, report, export, verify, predict, apply, diff, patch, sensitivity, profiles, spaces,
            repair)
for command in COMMANDS:
    cli.add_command(command)


def run(args: list[str] | None = None) -> NoReturn:
    """Entry point of the console command."""
    # Read when torch loads: threads that spin while they wait make two of them slower than one on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(main(sys.argv[1:] if args is None else args))


def main(args: list[str]) -> int:
    """Run one command line and return its exit code; an error is one line on standard error."""
    _prepare_streams()
    restore = _on_terminate()
    try:
        try:
            with cli.make_context("autocompress", list(args)) as context:
                cli.invoke(context)
        except click.exceptions.Exit as stop:  # after --help and --version
            return stop.exit_code
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        _abandon_stdout()
    except BaseException as error:
        _ignore_signals()
        text = message(error)
        if wants_traceback(args):
            traceback.print_exception(error)
        say(f"error: {text}")
        if "--json" in args:
            _print_document(error, text)
        return exit_code(error)
    finally:
        restore()
    return 0


def _print_document(error: BaseException, text: str) -> None:
    try:
        print_json(document(error, text))
    except BrokenPipeError:
        _abandon_stdout()
    except OSError:
        pass  # a full disk: the message was told


def _on_terminate() -> Callable[[], None]:
    """Let SIGTERM end any command as Ctrl-C does; returned is what undoes it."""
    if threading.current_thread() is not threading.main_thread():
        return lambda: None

    def handle(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, handle)

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    return restore


def _ignore_signals() -> None:
    """The last words are not interrupted: what they tell is that it ends."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)


def _prepare_streams() -> None:
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller: the next file opened must not take its number
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that cannot show a character shows "?"
            stream.reconfigure(errors="replace")


def _abandon_stdout() -> None:
    """The interpreter flushes once more when it ends: let that go nowhere, quietly."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
