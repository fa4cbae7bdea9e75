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
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

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
TRIALS, SECONDS_CUT, WAIT = 14, 20, 900
HEAD, WORKER, PORT = "10.231.7.1", "10.231.7.2", 6399
RAY = [sys.executable, "-c", "from ray.scripts.scripts import main; main()"]
NET = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1, stride=2), nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 3))
"""


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


def _until(done: Callable[[], bool], search: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + WAIT
    while not done():
        assert search.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.2)


def test_a_search_on_two_hosts_survives_what_happens_to_them(hosts: Hosts, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET)
    rng, chance = np.random.default_rng(0), random.Random(0)
    labels = np.arange(300) % 3
    pictures = rng.normal(0, 0.6, (300, 1, 8, 8)).astype(np.float32)
    for picture, label in zip(pictures, labels, strict=True):
        picture[0, 2 * label:2 * label + 3, :] += 1
    np.savez(tmp_path / "data.npz", x=pictures, y=labels)
    command = [sys.executable, "-c", "from autocompress.cli.main import run; run()", "search", "--model",
               f"{tmp_path}/net.py:net", "--data", f"npz:{tmp_path}/data.npz", "--budget", "8kB", "--profile",
               "stm32h743", "--trials", str(TRIALS), "--epochs", "1", "--effort", "fast", "--workers", "auto", "--out",
               f"{tmp_path}/study", "--resume", "--trust-code", "--json"]
    log = tmp_path / "log"
    search = hosts.run(HEAD, command, log)

    def results() -> int:
        return log.read_text().count("feasible; best")

    def killed_driver() -> None:
        nonlocal search
        os.killpg(search.pid, signal.SIGKILL)
        search.wait()
        search = hosts.run(HEAD, command, log)

    def killed_host() -> None:
        hosts.kill(WORKER)
        hosts.start(WORKER)

    blows: list[Callable[[], None]] = [lambda: hosts.kill(HEAD, "ray::RayWorker"), lambda: hosts.cut(SECONDS_CUT),
                                       killed_driver, killed_host, lambda: hosts.kill(WORKER, "ray::RayWorker")]
    for number, blow in enumerate(blows):
        _until(lambda least=2 * number + 1: results() >= least, search, log)  # type: ignore[misc]
        time.sleep(chance.uniform(0, 1))
        blow()
    assert search.wait(WAIT) == 0, log.read_text()[-3000:]
    candidates = open_study(tmp_path / "study").candidates
    assert [c.trial for c in candidates] == list(range(TRIALS))
    assert not {"failed", "running"} & {c.status for c in candidates}
    plans = [c.plan.fingerprint for c in candidates if c.plan and c.duplicate_of is None]
    assert len(set(plans)) == len(plans), "no plan was evaluated twice"
    assert '"verified": true' in log.read_text()
