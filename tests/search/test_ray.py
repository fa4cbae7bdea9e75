"""Workers on Ray: the contract of executors on two cores, and what is said where a cluster cannot be used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from autocompress.search.executors.base import Executor
from autocompress.search.executors.ray import RayActors
from autocompress.testing.executor_contract import ExecutorContract

ray: Any = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A cluster of this machine that the tests share: this process is in it."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
class TestRayActors(ExecutorContract):
    """What every executor must do."""

    separate = True

    def make(self) -> Executor:
        """Two actors."""
        return RayActors()
