"""Libraries made quiet for as long as it takes, and no longer: their loggers are the caller's too."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout


@contextmanager
def quiet(name: str, level: int = logging.ERROR) -> Iterator[None]:
    """Raise the level of the logger `name` to `level` inside the context."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def silent(*names: str) -> Iterator[None]:
    """Turn off the loggers `names`, warnings, and what Python prints, inside the context."""
    with ExitStack() as stack, warnings.catch_warnings(), redirect_stdout(io.StringIO()), \
            redirect_stderr(io.StringIO()):
        for name in names:
            stack.enter_context(quiet(name, logging.CRITICAL + 1))
        warnings.simplefilter("ignore")
        yield
