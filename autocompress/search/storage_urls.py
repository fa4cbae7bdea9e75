"""URLs of databases: without their password wherever they are shown or kept, and with a driver that is there."""

from __future__ import annotations

import os

from autocompress.errors import EnvironmentFault, InputError

PASSWORD_VARIABLE = "AUTOCOMPRESS_STORAGE_PASSWORD"
# What to install for a driver's module, where that is not its name.
PACKAGES = {"psycopg": "'autocompress[postgresql]'", "pymysql": "'autocompress[mysql]'", "psycopg2": "psycopg2-binary",
            "MySQLdb": "mysqlclient (or 'autocompress[mysql]', with mysql+pymysql:// in the URL)"}
_HIDDEN = "***"


def shown_url(url: str) -> str:
    """The URL with `***` in place of its password."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    if "://" not in url or "@" not in url:
        return url
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return f"{url.partition('://')[0]}://{_HIDDEN}@{url.rpartition('@')[2]}"
    return url if parsed.password is None else parsed.render_as_string(hide_password=True)


def usable_url(url: str) -> str:
    """The URL with its password, which a study does not keep, taken from the environment where it is hidden."""
    if f":{_HIDDEN}@" not in url:
        return url
    password = os.environ.get(PASSWORD_VARIABLE)
    if not password:
        raise InputError(f"the password of {url} must be given, because a study does not keep it: set "
                         f"{PASSWORD_VARIABLE}, or give --storage with it")
    from sqlalchemy.engine import make_url

    return make_url(url).set(password=password).render_as_string(hide_password=False)


def without_password(text: str, url: str) -> str:
    """A library's words about `url`, as they may be shown."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    text = text.replace(url, shown_url(url))
    try:
        password = str(make_url(url).password or "")
    except (ArgumentError, ValueError):
        return text
    return text.replace(password, _HIDDEN) if len(password) > 2 else text


def check_storage(url: str | None) -> None:
    """Check a storage before anything is loaded.

    InputError for what is no URL of a database; EnvironmentFault, which names the package, where its driver is not
    installed.
    """
    if url is None or (url.endswith(".log") and "://" not in url):
        return
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    try:
        make_url(url).get_dialect().import_dbapi()
    except ImportError as error:
        module = error.name or str(error)
        raise EnvironmentFault(f"--storage {shown_url(url)} needs the package of its driver: pip install "
                               f"{PACKAGES.get(module, module)}") from error
    except (ArgumentError, NoSuchModuleError, ValueError, TypeError) as error:
        raise InputError("--storage must be a URL that Optuna understands, such as sqlite:///study.db or "
                         f"postgresql+psycopg2://USER@HOST/NAME, but got {shown_url(url)!r}: "
                         f"{without_password(str(error), url)}") from None
