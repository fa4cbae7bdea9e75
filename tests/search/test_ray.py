"""Workers on Ray: the contract of executors on two cores, and what is said where a cluster cannot be used."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autocompress.formats.onnx.format import FORMAT
from autocompress.formats.timing import time_files
from autocompress.search.executors.base import Executor
from autocompress.search.executors.ray import RayActors
from autocompress.search.executors.ray_cluster import RayCluster
from autocompress.study.measuring_place import RemoteRuntime, Stopwatch
from autocompress.testing.executor_contract import ExecutorContract

ray: Any = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A cluster of this machine that the tests share: this process is in it."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.mark.slow
def test_files_are_timed_on_a_host_that_takes_no_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.cluster_utils import Cluster

    monkeypatch.setattr(RayCluster, "_check_hosts", lambda self: None)  # these have no token, and are gone at once
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=0, resources={"measure": 2})
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        executor = RayActors("auto", most=1)
        executor.connect()
        call = executor.measuring_place(partial(import_module, "os"))
        assert call is not None
        first = call("getpid")
        os.kill(first, signal.SIGKILL)
        assert call("getpid") not in (first, os.getpid()), "it was begun anew"
        data = FORMAT.plain(nn.Linear(4, 2), torch.ones(2, 4))
        timed = time_files({"file": RemoteRuntime(executor.measuring_place(Stopwatch), FORMAT, data)},
                           {"input": np.ones((1, 4), np.float32)}, rounds=5)
        assert (timed["file"].cpu_ms > 0).all()
        executor.close()
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
class TestRayActors(ExecutorContract):
    """What every executor must do."""

    separate = True

    def make(self) -> Executor:
        """Two actors."""
        return RayActors()
