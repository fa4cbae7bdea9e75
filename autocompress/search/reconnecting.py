"""Patience with a database server: what fails because the server does not answer is tried again for a while."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import optuna

from autocompress.errors import StorageError, reason_of

log = logging.getLogger(__name__)

# Seconds for which a server that does not answer is asked again, between first and longest pause.
PATIENCE_SECONDS, FIRST_PAUSE, LONGEST_PAUSE = 300.0, 0.5, 15.0


class Patient:
    """A storage of a database server whose every call is tried again while the server does not answer, for up to
    `PATIENCE_SECONDS`; then StorageError. It stands between `TrialStorage` and its database.

    Calls are the same when made twice, but one: a trial whose creation was lost on its way back stays open, and is
    taken for one whose process was killed.

    Args:
        backend: the storage.
        shown: its URL as it may be shown.
        clean: makes the driver's words fit to be shown.
    """

    def __init__(self, backend: optuna.storages.RDBStorage, shown: str, clean: Callable[[str], str]) -> None:
        self._backend, self._shown, self._clean = backend, shown, clean

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._backend, name)
        if not callable(attribute) or name in ("engine", "scoped_session"):
            return attribute

        def patiently(*args: Any, **named: Any) -> Any:
            return self._tried(attribute, args, named)

        return patiently

    def _tried(self, call: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        began, pause, last = time.monotonic(), FIRST_PAUSE, None
        while True:
            try:
                return call(*args, **named)
            except optuna.exceptions.UpdateFinishedTrialError:
                if last is not None and self._has_state(args, named):
                    return True
                raise
            except Exception as error:
                if not is_silence(error):
                    raise
                cause = self._clean(reason_of(_cause(error)))
                if time.monotonic() - began + pause > PATIENCE_SECONDS:
                    raise StorageError(f"{self._shown} must answer within {PATIENCE_SECONDS:g} s, but: {cause}. What "
                                       "was done is kept: go on with --resume when it is there") from error
                if last is None:
                    log.warning("%s does not answer (%s): asking again for up to %g s", self._shown, cause,
                                PATIENCE_SECONDS)
                last = error
                self._forget_connections()
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    def _has_state(self, args: tuple[Any, ...], named: dict[str, Any]) -> bool:
        """Whether a trial has the state that was to be set: the answer alone was lost."""
        trial, state = (*args, named.get("trial_id"))[0], named.get("state", args[1] if len(args) > 1 else None)
        return state is not None and self._tried(self._backend.get_trial, (trial,), {}).state == state

    def _forget_connections(self) -> None:
        try:
            self._backend.scoped_session.remove()
            self._backend.engine.dispose()
        except Exception as error:  # they are cut: nothing else is wanted of them
            log.debug("closing connections: %s", error)


def is_silence(error: BaseException) -> bool:
    """Whether an error, or what it came from, is of a connection rather than of what was asked."""
    from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

    return any(isinstance(one, OperationalError | InterfaceError)
               or (isinstance(one, DBAPIError) and one.connection_invalidated) for one in _chain(error))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what it came from; an error that was raised twice may come from itself."""
    one: BaseException | None = error
    seen: list[BaseException] = []
    while one is not None and not any(one is earlier for earlier in seen):
        yield one
        seen.append(one)
        one = one.__cause__ or one.__context__


def _cause(error: BaseException) -> BaseException:
    """The driver's own error."""
    from sqlalchemy.exc import DBAPIError

    return next((one.orig for one in _chain(error) if isinstance(one, DBAPIError) and one.orig is not None), error)
