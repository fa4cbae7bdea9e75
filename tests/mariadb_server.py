"""A MariaDB server of its own for tests, on the loopback address, where the program is installed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
MARIADBD, INSTALL, CLIENT = (shutil.which(name, path=_PATH) for name in ("mariadbd", "mariadb-install-db", "mariadb"))
INSTALLED = MARIADBD is not None and INSTALL is not None and CLIENT is not None
PASSWORD = "hunter2"


class Server:
    """A server whose user `bob` owns the database `studies`."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mariadb-"))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._user = ["--user=root"] if os.geteuid() == 0 else []
        subprocess.run([str(INSTALL), "--no-defaults", f"--datadir={self.folder}/data",
                        "--auth-root-authentication-method=normal", *self._user], check=True, capture_output=True)
        self.start()
        self.execute(f"CREATE DATABASE studies; CREATE USER bob@'%' IDENTIFIED BY '{PASSWORD}'; "
                     "GRANT ALL ON studies.* TO bob@'%'")

    def url(self, password: str = PASSWORD) -> str:
        """The URL of the database."""
        return f"mysql+pymysql://bob:{password}@127.0.0.1:{self.port}/studies"

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        self._process = subprocess.Popen(
            [str(MARIADBD), "--no-defaults", f"--datadir={self.folder}/data", f"--port={self.port}", *self._user,
             "--bind-address=127.0.0.1", "--skip-name-resolve", f"--socket={self.folder}/socket",
             f"--pid-file={self.folder}/pid",
             "--innodb-flush-log-at-trx-commit=2"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(600):
            if self._client("SELECT 1").returncode == 0:
                return
            assert self._process.poll() is None, "the server ended"
            time.sleep(0.1)
        raise TimeoutError("the server does not answer")

    def stop(self) -> None:
        """Kill it, as a crash does."""
        self._process.kill()
        self._process.wait()

    def execute(self, statement: str) -> None:
        """Run a statement of the administrator's."""
        done = self._client(statement)
        assert done.returncode == 0, done.stderr

    def _client(self, statement: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([str(CLIENT), "--no-defaults", f"--socket={self.folder}/socket", "-u", "root", "-e",
                               statement], capture_output=True, text=True, check=False)

    def close(self) -> None:
        """Stop it and remove all that it had."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
