"""What a user should know of a run although it went on: warnings as data, for JSON, the report and the summary."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import msgspec


class Warned(msgspec.Struct, frozen=True):
    """One warning.

    Args:
        code: a word for programs, such as `search-fell-short`.
        message: a sentence for people.
    """

    code: str
    message: str


def warn(logger: logging.Logger, warned: Warned) -> None:
    """Log a warning that keeps its code.

    Args:
        logger: of the module that warns.
        warned: the warning.
    """
    logger.warning("%s", warned.message, extra={"code": warned.code})


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.warnings: list[Warned] = []

    def emit(self, record: logging.LogRecord) -> None:
        code = getattr(record, "code", record.name.rpartition(".")[2].replace("_", "-"))
        self.warnings = merged((*self.warnings, Warned(str(code), record.getMessage())))


@contextmanager
def collecting(name: str = "autocompress") -> Iterator[_Collector]:
    """Collect what is logged as a warning under `name`, in this process, as `found`. A record without a code of its own
    has the name of its module."""
    collector, logger = _Collector(), logging.getLogger(name)
    logger.addHandler(collector)
    try:
        yield collector
    finally:
        logger.removeHandler(collector)


def merged(warnings: Iterable[Warned]) -> list[Warned]:
    """Each of the `warnings` once, in the order of the first."""
    return list(dict.fromkeys(warnings))
