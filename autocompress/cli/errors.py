"""Any error → one short message and its exit code (see `autocompress.errors`)."""

from __future__ import annotations

import os
import tempfile
import traceback
from pathlib import Path
from typing import Any

import click

from autocompress.cli.console import as_json as json_of
from autocompress.cli.console import print_last, say
from autocompress.errors import AutocompressError, EnvironmentFault, InputError, Interrupted

DEBUG_VARIABLE = "AUTOCOMPRESS_DEBUG"


def exit_code(error: BaseException) -> int:
    """0 done, 1 a bug of ours, 2 bad input, 3 nothing feasible, 4 environment or storage, 130 interrupted."""
    if isinstance(error, AutocompressError):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return Interrupted.exit_code
    if isinstance(error, click.ClickException | SystemExit):
        return InputError.exit_code
    if isinstance(error, OSError | MemoryError):
        return EnvironmentFault.exit_code
    return AutocompressError.exit_code


def message(error: BaseException) -> str:
    """What must hold, what came, what to do. Of a bug, the traceback is written to a file that the text names."""
    if isinstance(error, AutocompressError):
        return str(error)
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return "stopped at once; the trials that were finished are kept: go on with --resume"
    if isinstance(error, click.UsageError):
        text = error.format_message().rstrip(".")
        return f"{text}; see `{error.ctx.command_path} --help`" if error.ctx else text
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror or error}"
    if isinstance(error, SystemExit):
        return f"code that was run, a model's or a data set's, must not end the process, but called sys.exit({error})"
    if isinstance(error, MemoryError):
        return "there is not enough memory; use fewer --jobs, or a smaller model or data set"
    first = next(iter(str(error).splitlines()), "no message")
    return (f"this is a bug in autocompress, not in what you gave: {type(error).__name__}: {first}. "
            f"{_keep_traceback(error)} Please report it")


def document(error: BaseException, text: str) -> dict[str, Any]:
    """The document of `--json` where a command fails: the error, and what there is of the study that it ended."""
    return {"error": {"code": exit_code(error), "message": text}} | _study_of(getattr(error, "study", None))


def _study_of(folder: Path | None) -> dict[str, Any]:
    if folder is None:
        return {}
    from autocompress.study import open_study

    try:
        return open_study(folder).to_dict()
    except Exception:  # the error that is told came first
        return {}


def end_process(as_json: bool, study: Path | None, error: AutocompressError) -> None:
    """End this process from another thread, because the one that works does not let go: with the report, the message
    and the document of what there is."""
    try:
        if study is not None:
            from autocompress.study import open_study

            open_study(study).report()
    except Exception:  # nothing may keep it from ending
        pass
    try:
        say(f"error: {message(error)}")
        if as_json:
            print_last(json_of(document(error, message(error))) + "\n")
    finally:
        os._exit(exit_code(error))


def wants_traceback(args: list[str]) -> bool:
    """Whether `--debug` or the variable AUTOCOMPRESS_DEBUG asks for one."""
    return "--debug" in args or os.environ.get(DEBUG_VARIABLE, "") not in ("", "0")


def _keep_traceback(error: BaseException) -> str:
    try:
        with tempfile.NamedTemporaryFile("w", prefix="autocompress-", suffix=".traceback.txt", delete=False,
                                         encoding="utf-8", errors="backslashreplace") as file:
            traceback.print_exception(error, file=file)
    except OSError:
        return "Run it again with --debug to see where."
    return f"The traceback is in {file.name}."
