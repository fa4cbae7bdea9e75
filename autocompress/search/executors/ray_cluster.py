"""The cluster of Ray that a search uses: one that is started on this machine, or one that is there.

Whatever is wrong with it is said before network and data are loaded: no such address, another token or none, packages
of other versions, no room for a worker.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from autocompress.errors import EnvironmentFault, InputError, reason_of
from autocompress.search.executors.ray_worker import Held

LOCAL, AUTO, CLIENT = "ray", "auto", "ray://"
INSTALL = "pip install 'autocompress[ray]'"
# Packages that must have the same version on all hosts: candidates are compared with one another.
COMPARED = ("autocompress", "torch", "onnxruntime", "onnx", "numpy")
# Seconds in which an address must answer, and every host say what is installed there.
REACH_SECONDS, PROBE_SECONDS = 5.0, 60.0
# The resource of hosts that time files, and seconds in which one must answer: another search may have it at the moment.
MEASURE, MEASURE_SECONDS = "measure", 600.0
TOKEN_ADVICE = ("run `ray get-auth-token --generate`, copy ~/.ray/auth_token to all hosts, and start the cluster and "
                "the search with RAY_AUTH_MODE=token")


def check_address(text: str) -> str:
    """Return where workers are to be found: `ray`, `auto` or `ray://HOST:PORT`. InputError for anything else."""
    if text in (LOCAL, AUTO) or re.fullmatch(r"ray://(\[[0-9A-Fa-f:]+\]|[^\s:/@]+):\d{1,5}", text):
        return text
    hint = f"; did you mean {CLIENT}{text.rpartition('/')[2]}?" if re.search(r"[^/\s]+:\d+$", text) else ""
    raise InputError(f"--workers must be ray, which starts workers on this machine, auto, which joins the cluster that "
                     f"this machine is in, or ray://HOST:PORT, but got {text!r}{hint}")


def load_ray() -> Any:
    """The package Ray. EnvironmentFault where it is not installed."""
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise EnvironmentFault(f"--workers needs the package ray, which is not installed: {INSTALL}") from error


class RayCluster:
    """A connection to a cluster.

    Args:
        address: see `check_address`.
        cpus: CPU cores of one worker.
        gpus: GPUs of one worker, or the share of one.
        most: workers at most; None for as many as there is room for.
        code: the user's Python files, by the path under which workers import them.
    """

    def __init__(self, address: str, *, cpus: int, gpus: float, most: int | None,
                 code: Mapping[str, Path]) -> None:
        self.ray = load_ray()
        self._address, self._cpus, self._gpus, self._most, self._code = check_address(address), cpus, gpus, most, code
        self._owned = False
        self._staged: str | None = None

    def connect(self) -> None:
        """Start or join the cluster and check it, unless this process is in one already: that is used as it is."""
        if not self.ray.is_initialized():
            self._join()
            self._owned = True
        if not self.room:
            total = self.ray.cluster_resources()
            raise InputError(
                f"a worker of {self._cpus} CPU(s) and {self._gpus:g} GPU(s) must fit on a host, but those of the "
                f"cluster have {total.get('CPU', 0):g} CPU(s) and {total.get('GPU', 0):g} GPU(s) together: choose "
                "other --cpus-per-worker and --gpus-per-worker")
        self._check_hosts()
        for node in self._nodes:
            if node["Resources"].get(MEASURE) and node["Resources"].get("CPU"):
                raise InputError(f"a host with the resource {MEASURE} must take no trainings, but "
                                 f"{node['NodeManagerHostname']} has {node['Resources']['CPU']:g} CPU(s) for them: "
                                 f"start Ray there with --num-cpus=0 --resources '{{\"{MEASURE}\": 1}}'")

    @property
    def _nodes(self) -> list[dict[str, Any]]:
        """Hosts that are there, as Ray describes them."""
        return [node for node in self.ray.nodes() if node["Alive"]]

    def measuring_place(self, make: Callable[[], object]) -> Callable[..., Any] | None:
        """See `Executor.measuring_place`. What the actor holds is made anew where it was lost."""
        if not any(node["Resources"].get(MEASURE) for node in self._nodes):
            return None
        ray = self.ray
        actor = ray.remote(num_cpus=0, resources={MEASURE: 1}, max_restarts=-1, max_task_retries=-1)(Held).remote(make)

        def call(method: str, *arguments: Any) -> Any:
            try:
                return ray.get(actor.call.remote(method, arguments), timeout=MEASURE_SECONDS)
            except (ray.exceptions.GetTimeoutError, ray.exceptions.RayActorError) as error:
                raise EnvironmentFault(f"a host with the resource {MEASURE} must time files within "
                                       f"{MEASURE_SECONDS:g} s, but: {reason_of(error)}. Go on with --resume when it "
                                       "is there, and no other search has it") from error

        return call

    @property
    def room(self) -> int:
        """How many workers there is room for at present."""
        nodes = [node["Resources"] for node in self._nodes]
        room = sum(int(min(node.get("CPU", 0) / self._cpus, node.get("GPU", 0) / self._gpus if self._gpus else 2**31)
                       + 1e-6) for node in nodes)
        return room if self._most is None else min(room, self._most)

    def close(self) -> None:
        """Leave the cluster; end it where it was started here."""
        if self._owned:
            self._owned = False
            self.ray.shutdown()
        if self._staged is not None:
            shutil.rmtree(self._staged, ignore_errors=True)
            self._staged = None

    def _join(self) -> None:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if self._code:
            options["runtime_env"] = {"working_dir": self._stage()}
        if self._address == LOCAL:
            cores = os.cpu_count() or 1
            options |= {"address": "local", "include_dashboard": False,
                        "num_cpus": max(cores, (self._most or 0) * self._cpus)}
        else:
            options["address"] = self._address
            self._reach(self._address if self._address != AUTO else os.environ.get("RAY_ADDRESS", ""))
        try:
            self.ray.init(**options)
        except (Exception, SystemExit) as error:
            raise EnvironmentFault(self._refusal(error)) from error

    def _refusal(self, error: BaseException) -> str:
        if self._address == AUTO and "RAY_ADDRESS" not in os.environ and isinstance(error, ConnectionError):
            return ("--workers auto must find a Ray cluster on this machine, but none runs here: start one with `ray "
                    "start --head`, join one with `ray start --address=HEAD:6379`, or use --workers ray")
        return (f"--workers {self._address} must let this machine in, but: {reason_of(error)}. If its token is another "
                f"one: {TOKEN_ADVICE}")

    def _reach(self, address: str) -> None:
        """EnvironmentFault where nobody listens at an address: Ray itself would try for two minutes and then end this
        process."""
        host, _, port = address.rpartition("/")[2].rpartition(":")
        if not host or not port.isdigit():
            return
        try:
            with socket.create_connection((host.strip("[]"), int(port)), REACH_SECONDS):
                return
        except (OSError, OverflowError) as error:
            raise EnvironmentFault(f"--workers {self._address} must be the address of a Ray cluster, but nobody "
                                   f"answers at {host}:{port}: {error}. Is its head running, with "
                                   "--ray-client-server-port, and the port reachable from here?") from None

    def _stage(self) -> str:
        """Copy the user's Python files into a folder of their own, which Ray sends to the workers."""
        self._staged = tempfile.mkdtemp(prefix="autocompress-code-")
        for name, path in self._code.items():
            target = Path(self._staged) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with suppress(OSError):  # it may be gone since
                shutil.copyfile(path, target)
        return self._staged

    def _check_hosts(self) -> None:
        """EnvironmentFault where a host has other packages than the driver, or lets anybody in."""
        expected, faults = installed(), list[str]()
        for host, (address, token, there) in self._hosts().items():
            if not token and not (self._owned and self._address == LOCAL) and not address.startswith("127."):
                raise EnvironmentFault(f"the Ray cluster must ask for a token, but {host} at {address} does not: "
                                       f"whoever reaches it can run any code there. To set one up, {TOKEN_ADVICE}")
            faults += [f"{host} has {name} {there.get(name) or 'not installed'} (here: {version})"
                       for name, version in expected.items() if there.get(name) != version]
        if faults:
            raise EnvironmentFault("every worker must have the versions of this machine, but " + "; ".join(faults)
                                   + f". Install the same there: {INSTALL} with the versions that are here")

    def _hosts(self) -> dict[str, tuple[str, bool, dict[str, str]]]:
        """By host, its address, whether it asks for a token, and the versions installed there."""
        ray, names = self.ray, COMPARED

        def about() -> tuple[bool, dict[str, str]]:  # sent as it is: autocompress may not be there
            import contextlib
            import os
            from importlib import metadata

            versions = {}
            for name in names:
                with contextlib.suppress(metadata.PackageNotFoundError):
                    versions[name] = metadata.version(name).partition("+")[0]
            return os.environ.get("RAY_AUTH_MODE", "").lower() == "token", versions

        affinity = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        nodes = self._nodes
        pending = {node["NodeID"]: ray.remote(num_cpus=0)(about).options(
            scheduling_strategy=affinity(node["NodeID"], soft=False)).remote() for node in nodes}
        hosts: dict[str, tuple[str, bool, dict[str, str]]] = {}
        for node in nodes:
            host = str(node["NodeManagerHostname"])
            try:
                token, versions = ray.get(pending[node["NodeID"]], timeout=PROBE_SECONDS)
            except Exception as error:
                if node["NodeID"] not in {each["NodeID"] for each in self._nodes}:
                    continue  # it has left meanwhile
                raise EnvironmentFault(f"the host {host} of the cluster must run a task within {PROBE_SECONDS:g} s, "
                                       f"but: {reason_of(error)}") from error
            hosts[host] = str(node["NodeManagerAddress"]), token, versions
        return hosts


def installed() -> dict[str, str]:
    """The versions of the packages of `COMPARED` here, without what tells builds for different devices apart."""
    versions = {}
    for name in COMPARED:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name).partition("+")[0]
    return versions
