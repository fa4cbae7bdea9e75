"""Two hosts, which are network namespaces with a link: a search by Ray's actors on both, while actors, the second host
and the driver are killed and the link is cut. Nothing is lost, and nothing evaluated twice."""

from __future__ import annotations

import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from small_search import require_each_once, search_command, write_files

from autocompress.study import open_study

IP = shutil.which("ip")
pytest.importorskip("ray")


def _ip(*words: str) -> str:
    return subprocess.run([str(IP), *words], capture_output=True, text=True, check=True).stdout


def _is_allowed() -> bool:
    if IP is None or os.geteuid() != 0:
        return False
    name = f"probe{os.getpid()}"
    with suppress(subprocess.CalledProcessError):
        _ip("netns", "add", name)
        _ip("netns", "del", name)
        return True
    return False


pytestmark = [pytest.mark.slow, pytest.mark.skipif(not _is_allowed(), reason="network namespaces need root")]
TRIALS, SECONDS_CUT, WAIT = 24, 20, 900
HEAD, WORKER, PORT = "10.231.7.1", "10.231.7.2", 6399
RAY = [sys.executable, "-c", "from ray.scripts.scripts import main; main()"]
# How many blows fall, at random moments, and what draws them.
MOMENTS = int(os.environ.get("AUTOCOMPRESS_TEST_MOMENTS", "6"))
SEED = int(os.environ.get("AUTOCOMPRESS_TEST_SEED", "0"))


class Hosts:
    """Ray's head in one namespace, a worker of Ray in the other."""

    def __init__(self) -> None:
        # Names of sockets below it are at most 107 bytes long.
        self.folder = Path(tempfile.mkdtemp(prefix="r"))
        self.environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32),
                            "RAY_ADDRESS": f"{HEAD}:{PORT}", "OMP_NUM_THREADS": "1"}
        self._names = {HEAD: f"head{os.getpid()}", WORKER: f"host{os.getpid()}"}
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}
        for name in self._names.values():
            _ip("netns", "add", name)
        _ip("link", "add", "veth-head", "type", "veth", "peer", "name", "veth-host")
        for address, end in ((HEAD, "veth-head"), (WORKER, "veth-host")):
            _ip("link", "set", end, "netns", self._names[address])
            _ip("-n", self._names[address], "addr", "add", f"{address}/24", "dev", end)
            for device in (end, "lo"):
                _ip("-n", self._names[address], "link", "set", device, "up")
        self.start(HEAD)
        time.sleep(15)
        self.start(WORKER)

    def run(self, address: str, command: list[str], log: Path) -> subprocess.Popen[bytes]:
        """Start a program on a host."""
        with log.open("ab") as out:
            return subprocess.Popen([str(IP), "netns", "exec", self._names[address], *command], env=self.environment,
                                    stdout=out, stderr=subprocess.STDOUT, start_new_session=True)

    def start(self, address: str) -> None:
        """Start Ray on a host, where it was killed again."""
        if address in self._nodes:
            self._nodes.pop(address).wait()
        where = ["--head", f"--port={PORT}", "--include-dashboard=false", f"--temp-dir={self.folder}"] \
            if address == HEAD else [f"--address={HEAD}:{PORT}"]
        self._nodes[address] = self.run(address, [*RAY, "start", *where, f"--node-ip-address={address}", "--num-cpus=1",
                                                  "--block", "--disable-usage-stats"], self.folder / f"{address}.log")

    def processes(self, address: str, words: str) -> list[int]:
        """Processes on a host whose command line holds some words."""
        found = []
        for number in map(int, _ip("netns", "pids", self._names[address]).split()):
            with suppress(OSError):
                if words in Path(f"/proc/{number}/cmdline").read_text(errors="replace").replace("\0", " "):
                    found.append(number)
        return found

    def kill(self, address: str, words: str = "") -> None:
        """Kill processes on a host, all of them where no words are said."""
        for number in self.processes(address, words):
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)

    def cut(self, seconds: float) -> None:
        """Cut the link for some time."""
        _ip("-n", self._names[WORKER], "link", "set", "veth-host", "down")
        time.sleep(seconds)
        _ip("-n", self._names[WORKER], "link", "set", "veth-host", "up")

    def close(self) -> None:
        """End all and remove it."""
        for address, name in self._names.items():
            self.kill(address)
            _ip("netns", "del", name)
        for node in self._nodes.values():
            node.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    """Two of the test's own."""
    hosts = Hosts()
    yield hosts
    hosts.close()


def test_searches_on_two_hosts_survive_what_happens_to_them(hosts: Hosts, tmp_path: Path) -> None:
    write_files(tmp_path)
    chance, fallen = random.Random(SEED), 0
    kinds = [_kill_head_workers, _cut_link, Search.kill, _kill_host, _kill_host_workers]
    blows = [*chance.sample(kinds, len(kinds)), *chance.choices(kinds, k=MOMENTS)][:MOMENTS]  # each kind at least once
    while fallen < MOMENTS:
        search = Search(hosts, tmp_path / f"study-{fallen}")
        while fallen < MOMENTS and search.comes_further():
            time.sleep(chance.uniform(0, 3))
            if search.process.poll() is None:
                print("blow", fallen, blows[fallen].__name__, "after", search.results(), "results", flush=True)
                blows[fallen](search)
                fallen += 1
        assert search.process.wait(WAIT) == 0, search.told()
        require_each_once(open_study(search.folder).candidates, TRIALS)
        assert '"verified": true' in search.told()


class Search:
    """A search from the head, in `folder`."""

    def __init__(self, hosts: Hosts, folder: Path) -> None:
        self.hosts, self.folder, self._log = hosts, folder, folder.with_suffix(".log")
        self._command = search_command(folder.parent, TRIALS, "--effort", "fast", "--workers", "auto", "--out",
                                       str(folder), "--trust-code")
        self.process = hosts.run(HEAD, self._command, self._log)

    def told(self) -> str:
        """What it has printed, over all of its starts."""
        return self._log.read_text()

    def results(self) -> int:
        """Evaluations that it has told of."""
        return self.told().count("feasible; best")

    def comes_further(self) -> bool:
        """Wait until there is a further result; False where it has ended."""
        before, deadline = self.results(), time.monotonic() + WAIT
        while self.process.poll() is None and self.results() == before:
            assert time.monotonic() < deadline, self.told()[-3000:]
            time.sleep(0.1)
        return self.process.poll() is None

    def kill(self) -> None:
        """Kill the driver, and start it again."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process = self.hosts.run(HEAD, self._command, self._log)


def _kill_head_workers(search: Search) -> None:
    search.hosts.kill(HEAD, "ray::RayWorker")


def _kill_host_workers(search: Search) -> None:
    search.hosts.kill(WORKER, "ray::RayWorker")


def _cut_link(search: Search) -> None:
    search.hosts.cut(SECONDS_CUT)


def _kill_host(search: Search) -> None:
    search.hosts.kill(WORKER)
    search.hosts.start(WORKER)
