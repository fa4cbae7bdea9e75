"""A PostgreSQL server of its own for tests, on the loopback address, where the program is installed."""

from __future__ import annotations

import gc
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import warnings
from pathlib import Path

_PLACES = os.pathsep.join([os.environ.get("PATH", ""), *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin")))])
PG_CTL, INITDB, PSQL = (shutil.which(name, path=_PLACES) for name in ("pg_ctl", "initdb", "psql"))
INSTALLED = PG_CTL is not None and INITDB is not None and PSQL is not None
PASSWORD = "hunter2"


class Server:
    """A server whose users are `bob`, who owns the database `studies`, and `eve`, who may connect and no more."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._user = None
        if os.geteuid() == 0:  # the server refuses to run as root
            self._user = pwd.getpwnam("postgres")
            os.chown(self.folder, self._user.pw_uid, self._user.pw_gid)
        (self.folder / "password").write_text(PASSWORD)
        (self.folder / "password").chmod(0o644)
        self._run(INITDB, "-D", self.folder / "data", "-U", "admin", "-A", "scram-sha-256", "-N",
                  f"--pwfile={self.folder}/password", "--no-locale", "-E", "UTF8")
        self.start()
        self.execute("CREATE ROLE bob LOGIN PASSWORD 'hunter2'; CREATE ROLE eve LOGIN PASSWORD 'hunter2';", "postgres")
        self.execute("CREATE DATABASE studies OWNER bob;", "postgres")

    def url(self, user: str = "bob", password: str = PASSWORD, driver: str = "postgresql") -> str:
        """The URL of the database for one of its users."""
        return f"{driver}://{user}:{password}@127.0.0.1:{self.port}/studies"

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        self._run(PG_CTL, "-D", self.folder / "data", "-w", "-l", self.folder / "log", "-o",
                  f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off", "start")

    def stop(self, how: str = "fast") -> None:
        """Stop it: `fast` rolls back what is open, `immediate` is a crash."""
        self._run(PG_CTL, "-D", self.folder / "data", "-w", "-m", how, "stop")

    def execute(self, statement: str, database: str = "studies") -> str:
        """What a statement of the administrator's gives."""
        return subprocess.run([str(PSQL), "-X", "-A", "-t", "-h", "127.0.0.1", "-p", str(self.port), "-U", "admin",
                               "-d", database, "-c", statement], env={**os.environ, "PGPASSWORD": PASSWORD},
                              capture_output=True, text=True, check=True).stdout.strip()

    def cut_connections(self) -> int:
        """Close every connection to the database; returned is how many there were."""
        return int(self.execute("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = "
                                "'studies' AND pid <> pg_backend_pid()", "postgres"))

    def close(self) -> None:
        """Stop it and remove all that it had."""
        subprocess.run([str(PG_CTL), "-D", str(self.folder / "data"), "-m", "immediate", "stop"],
                       user=self._user.pw_uid if self._user else None, capture_output=True, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    @staticmethod
    def forget_connections() -> None:
        """Let go of connections of this process that nobody closed."""
        with warnings.catch_warnings(action="ignore"):
            gc.collect()

    def _run(self, *command: object) -> None:
        subprocess.run([str(part) for part in command], check=True, capture_output=True, cwd=self.folder,
                       user=self._user.pw_uid if self._user else None,
                       group=self._user.pw_gid if self._user else None)
