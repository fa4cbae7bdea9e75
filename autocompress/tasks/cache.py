"""The user's cache folder, and fetching into it without waiting for a network that is not there."""

from __future__ import annotations

import os
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from autocompress.errors import EnvironmentFault

NETWORK_TIMEOUT_S = 5.0


def from_home(place: str) -> str:
    """`~/x`, alone or behind the colon of a spec (`npz:~/x`), in the user's home: no shell expands it there."""
    kind, colon, path = place.partition(":")
    if colon and path.startswith("~/"):
        return f"{kind}:{Path(path).expanduser()}"
    return str(Path(place).expanduser()) if place.startswith("~/") else place


def cache_dir() -> Path:
    """Where downloads, the default model and statistics of networks are kept; AUTOCOMPRESS_CACHE overrides it."""
    return Path(os.environ.get("AUTOCOMPRESS_CACHE") or platformdirs.user_cache_dir("autocompress", appauthor=False))


@contextmanager
def downloading(url: str, what: str, hint: str) -> Iterator[None]:
    """Run a download with short timeouts. EnvironmentFault, ending in `hint`, when it cannot be done.

    The server is asked first, in a thread that can be abandoned: a name lookup knows no timeout.
    """
    if not _answers(url):
        raise EnvironmentFault(f"{what} must be downloaded, but {url} cannot be reached: {hint}")
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(NETWORK_TIMEOUT_S)
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise EnvironmentFault(f"{what} could not be downloaded from {url} ({error}): {hint}") from error
    finally:
        socket.setdefaulttimeout(before)


def _answers(url: str) -> bool:
    answered = threading.Event()

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=NETWORK_TIMEOUT_S):
                answered.set()
        except urllib.error.HTTPError:
            answered.set()  # a server that refuses HEAD is there all the same
        except (OSError, ValueError):
            return

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(NETWORK_TIMEOUT_S + 1)
    return answered.is_set()
