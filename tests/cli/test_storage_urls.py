"""Passwords stay out of what is shown and kept, and a missing driver is said before any work."""

from __future__ import annotations

import re
from typing import Any

import pytest

from autocompress.errors import EnvironmentFault, InputError
from autocompress.search.storage_urls import PASSWORD_VARIABLE, check_storage, shown_url, usable_url, without_password

SECRET = "postgresql+psycopg2://bob:hunter2@db.example/studies"
HIDDEN = "postgresql+psycopg2://bob:***@db.example/studies"


@pytest.mark.parametrize(("url", "shown"), [
    (SECRET, HIDDEN), ("mysql://bob:p%40ss@h/s", "mysql://bob:***@h/s"), ("postgresql://bob@h/s", "postgresql://bob@h/s"),
    ("sqlite:////data/a%3Fb.db", "sqlite:////data/a%3Fb.db"), ("study.log", "study.log"), ("", "")])
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert shown_url(url) == shown
    assert shown_url(shown) == shown


def test_a_hidden_password_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PASSWORD_VARIABLE, raising=False)
    with pytest.raises(InputError, match=PASSWORD_VARIABLE):
        usable_url(HIDDEN)
    monkeypatch.setenv(PASSWORD_VARIABLE, "hunter2")
    assert usable_url(HIDDEN) == SECRET and usable_url(SECRET) == SECRET


def test_a_librarys_words_are_cleaned() -> None:
    assert without_password(f"cannot reach {SECRET} (hunter2)", SECRET) == f"cannot reach {HIDDEN} (***)"


@pytest.mark.parametrize(("url", "error", "told"), [
    ("postgresql://bob:hunter2@h/s", EnvironmentFault, r"pip install 'autocompress\[postgresql\]'"),
    ("mysql://bob:hunter2@h/s", EnvironmentFault, "pip install mysqlclient"),
    ("mysql+pymysql://bob:hunter2@h/s", EnvironmentFault, r"pip install 'autocompress\[mysql\]'"),
    ("nosuch://bob:hunter2@h/s", InputError, "must be a URL"), ("what", InputError, "must be a URL")])
def test_a_driver_that_is_missing_is_named(url: str, error: type[Exception], told: str, cli: Any,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("psycopg", "psycopg2", "MySQLdb", "pymysql"):
        monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(error, match=told) as caught:
        check_storage(url)
    assert "hunter2" not in str(caught.value)
    out = cli("search", "--storage", url)
    assert out.code in (2, 4) and re.search(told, out.err) and "hunter2" not in out.err and out.err.count("\n") == 1
