"""What is said where workers of Ray cannot be used, before network and data are loaded. No cluster is started: where
one would be asked, a double answers."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import autocompress
from autocompress.errors import EnvironmentFault, InputError
from autocompress.search.executors import ray_cluster
from autocompress.search.executors.base import Place
from autocompress.search.executors.ray import RayActors
from autocompress.search.executors.ray_cluster import RayCluster, installed
from autocompress.search.executors.ray_worker import RayWorker
from autocompress.study.settings import SearchSettings
from autocompress.study.user_code import user_code

NODE = {"Alive": True, "Resources": {"CPU": 2.0, "GPU": 1.0}, "NodeID": "a", "NodeManagerHostname": "node1",
        "NodeManagerAddress": "10.0.0.1"}
Host = tuple[str, bool, dict[str, str]]


@pytest.mark.parametrize("address", ["rays", "ray:/host:10001", "ray://host", "http://host:10001", "ray://a b:1", ""])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(InputError, match=r"--workers must be ray, which starts .* or ray://HOST:PORT, but got"):
        SearchSettings.of(workers=address)


def test_an_address_without_its_scheme_is_completed() -> None:
    with pytest.raises(InputError, match=r"did you mean ray://head:10001\?"):
        SearchSettings.of(workers="head:10001")


@pytest.mark.parametrize(("options", "sentence"), [
    ({"workers": "ray", "gpus_per_worker": 1.5}, "gpus_per_worker must be a share of one GPU, from 0 to 1"),
    ({"workers": "ray", "gpus_per_worker": -0.5}, "gpus_per_worker must be a share of one GPU"),
    ({"workers": "ray", "gpus_per_worker": float("nan")}, "gpus_per_worker must be a share of one GPU"),
    ({"workers": "ray", "cpus_per_worker": 0}, "cpus_per_worker must be a whole number of at least 1"),
    ({"workers": "ray", "jobs": 0}, "jobs must be a whole number of at least 1"),
    ({"gpus_per_worker": 0.5}, "need workers: ray, auto or ray://HOST:PORT"),
    ({"workers": "ray", "executor": "mine.py:Mine"}, "workers and executor exclude each other"),
])
def test_settings_that_cannot_be_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        SearchSettings.of(**options)


def test_the_missing_extra_is_named_before_anything_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EnvironmentFault, match=r"pip install 'autocompress\[ray\]'"):
        autocompress.search("no/such.py:net", "digits", "2kB", workers="ray", out=tmp_path / "study")


def test_an_address_where_nobody_answers_is_said_at_once(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with pytest.raises(EnvironmentFault, match=r"nobody answers at 127\.0\.0\.1:1: .*Is its head running"):
        autocompress.search("no/such.py:net", "digits", "2kB", workers="ray://127.0.0.1:1", out=tmp_path / "study")


class Ray:
    """A double of the package `ray`: in a cluster of one node already."""

    def __init__(self, node: dict[str, Any] = NODE, fails: Exception | None = None) -> None:
        self._node, self._fails = node, fails

    def is_initialized(self) -> bool:
        return self._fails is None

    def init(self, **options: Any) -> None:
        assert self._fails is not None
        raise self._fails

    def nodes(self) -> list[dict[str, Any]]:
        return [self._node]

    def cluster_resources(self) -> dict[str, float]:
        return dict(self._node["Resources"])


def _cluster(monkeypatch: pytest.MonkeyPatch, double: Ray, host: Host | None = None, *, address: str = "auto",
             cpus: int = 1, gpus: float = 0.0) -> RayCluster:
    monkeypatch.setattr(ray_cluster, "load_ray", lambda: double)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    cluster = RayCluster(address, cpus=cpus, gpus=gpus, most=None, code={})
    if host is not None:
        monkeypatch.setattr(cluster, "_hosts", lambda: {"node1": host})
    return cluster


def test_room_is_counted_by_cores_and_shares_of_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _cluster(monkeypatch, Ray()).room == 2
    assert _cluster(monkeypatch, Ray(), gpus=0.5).room == 2
    assert _cluster(monkeypatch, Ray(), gpus=1).room == 1
    with pytest.raises(InputError, match=r"a worker of 1 CPU\(s\) and 2 GPU\(s\) must fit on a host"):
        _cluster(monkeypatch, Ray(), gpus=2).connect()


def test_a_host_of_another_version_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {**installed(), "torch": "1.0"}
    del there["onnxruntime"]
    with pytest.raises(EnvironmentFault, match=r"node1 has torch 1\.0 \(here: .*node1 has onnxruntime not installed"):
        _cluster(monkeypatch, Ray(), ("10.0.0.1", True, there)).connect()
    _cluster(monkeypatch, Ray(), ("10.0.0.1", True, installed())).connect()


def test_a_cluster_that_lets_anybody_in_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EnvironmentFault, match=r"must ask for a token, but node1 at 10\.0\.0\.1 does not.*RAY_AUTH"):
        _cluster(monkeypatch, Ray(), ("10.0.0.1", False, installed())).connect()
    _cluster(monkeypatch, Ray(), ("127.0.0.1", False, installed())).connect()


def test_a_host_that_times_files_may_take_no_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    node = {**NODE, "Resources": {**NODE["Resources"], "measure": 1.0}}
    with pytest.raises(InputError, match=r"resource measure must take no trainings, but .* 2 CPU.*--num-cpus=0"):
        _cluster(monkeypatch, Ray(node), ("127.0.0.1", False, installed())).connect()
    assert _cluster(monkeypatch, Ray()).measuring_place(dict) is None, "the driver times"


def test_another_token_is_told_from_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RayCluster, "_reach", lambda *_: None)
    refused = Ray(fails=ConnectionError("Failed to connect to Ray cluster"))
    with pytest.raises(EnvironmentFault, match=r"must let this machine in, but: .*If its token is another one"):
        _cluster(monkeypatch, refused, address="ray://head:10001").connect()
    with pytest.raises(EnvironmentFault, match="none runs here: start one with `ray start --head`"):
        _cluster(monkeypatch, refused).connect()


def _reading(place: Place) -> Any:
    return Path("/no/such/file").read_text()


def _refusing(place: Place) -> Any:
    raise InputError("the model must be another")


def _failing(place: Place) -> Any:
    raise SystemExit("enough")


def test_a_worker_that_cannot_begin_says_why() -> None:
    about = RayWorker().prepare(_reading, {}, 1)
    assert isinstance(about.error, InputError) and "there is no /no/such/file: put it at the same" in str(about.error)
    about = RayWorker().prepare(_refusing, {}, 1)
    assert isinstance(about.error, InputError) and "the model must be another" in str(about.error)
    about = RayWorker().prepare(_failing, {}, 1)
    assert isinstance(about.error, EnvironmentFault) and "SystemExit: enough" in str(about.error)


def test_the_users_files_go_along_with_their_neighbours(tmp_path: Path) -> None:
    for name in ("net.py", "blocks.py", "layers/__init__.py", "layers/deep/block.py", "data/big.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    settings = SearchSettings.of(model=f"{tmp_path}/net.py:net", data="digits", workers="ray")
    code = user_code(settings)
    assert {"net.py", "blocks.py", "layers/__init__.py", "layers/deep/block.py"} <= set(code)
    assert "data/big.py" not in code and not any(name.startswith("autocompress/") for name in code)
    (alias,) = [name for name in code if name.startswith("autocompress_user_net_")]
    assert code[alias] == tmp_path / "net.py"


def test_files_for_workers_are_staged_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net.py").write_text("x = 1")
    started: dict[str, Any] = {}
    double = SimpleNamespace(
        is_initialized=lambda: False, nodes=lambda: [NODE], shutdown=lambda: None,
        init=lambda **options: started.update(options, text=Path(options["runtime_env"]["working_dir"], "a", "net.py")
                                              .read_text()))
    monkeypatch.setattr(ray_cluster, "load_ray", lambda: double)
    executor = RayActors("ray", most=2, code={"a/net.py": tmp_path / "net.py", "gone.py": tmp_path / "gone.py"})
    monkeypatch.setattr(executor._cluster, "_hosts", lambda: {"node1": ("10.0.0.1", False, installed())})
    executor.connect()
    assert started["text"] == "x = 1" and started["num_cpus"] >= 2 and started["address"] == "local"
    executor.close()
    executor.close()
    assert not Path(started["runtime_env"]["working_dir"]).exists()


def test_a_host_that_leaves_while_it_is_asked_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [NODE, {**NODE, "NodeID": "b", "NodeManagerHostname": "node2"}]

    class Leaving(Ray):
        """Its second host is gone when it is asked."""

        def nodes(self) -> list[dict[str, Any]]:
            return nodes

        def remote(self, **options: Any) -> Any:
            return lambda function: SimpleNamespace(options=lambda scheduling_strategy: SimpleNamespace(
                remote=lambda: scheduling_strategy))

        util = SimpleNamespace(scheduling_strategies=SimpleNamespace(
            NodeAffinitySchedulingStrategy=lambda node, soft: node))

        def get(self, asked: str, timeout: float) -> Any:
            if asked == "b":
                if stays:
                    raise TimeoutError("it is silent")
                nodes[1] = {**nodes[1], "Alive": False}
                raise RuntimeError("The node doesn't exist any more")
            return True, installed()

    stays = False
    assert list(_cluster(monkeypatch, Leaving())._hosts()) == ["node1"]
    stays, nodes[1] = True, {**nodes[1], "Alive": True}
    with pytest.raises(EnvironmentFault, match="the host node2 of the cluster must run a task within 60 s, but"):
        _cluster(monkeypatch, Leaving())._hosts()
