"""What every test shares."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")


@pytest.fixture(scope="session", autouse=True)
def operators_read_once() -> Iterator[None]:
    """Let torch.onnx parse its operator library, and torch.export list its operators, once a session: they do so again
    and again at each export, for a second."""
    if "torch" not in sys.modules:
        yield
        return
    from torch._export import utils
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    read = functools.cache(ONNXRegistry.from_torchlib)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(read))
        patch.setattr(utils, "_materialize_cpp_cia_ops", functools.cache(utils._materialize_cpp_cia_ops))
        yield


@pytest.fixture(scope="session", autouse=True)
def networks_exported_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let torch export each network once a session."""
    if "torch" not in sys.modules:
        yield
        return
    from exported_once import remembered_bytes, remembered_graph

    from autocompress.formats.onnx import format, template

    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(template, "_export", remembered_graph(template._export, root / "graphs"))
        patch.setattr(format, "plain_export", remembered_bytes(format.plain_export, root / "plain"))
        yield


@pytest.fixture(scope="session", autouse=True)
def samples_answered_here() -> Iterator[None]:
    """Let exports run their file's samples in this process: each process of its own imports for a third of a second.
    Searches that tests start in processes of their own (`tests/cli/test_interrupt.py`) run them as they are run, and
    `tests/artifact/test_verify.py` holds what that process does."""
    if "torch" not in sys.modules:
        yield
        return
    from autocompress.artifact.isolated import Answers
    from autocompress.formats.table import reader_named
    from autocompress.study import export_candidate

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_candidate, "run_isolated",
                      lambda name, data, inputs: Answers(reader_named(name).open(data).run(inputs)))
        yield


@pytest.fixture(scope="session", autouse=True)
def files_timed_for_a_moment() -> Iterator[None]:
    """Let readings of latencies be short ones: what one takes is held by `tests/export/test_timing.py`."""
    if "torch" not in sys.modules:
        yield
        return
    from autocompress.formats import timing

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "SLICE_SECONDS", 0.0003)
        yield


@pytest.fixture(scope="module")
def short_searches() -> Iterator[None]:
    """Let searches in this process train for a moment: how well a network recovers is shown elsewhere."""
    from autocompress.study import trainer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "SHORT_STEPS", 4)
        patch.setattr(trainer, "LONG_STEPS", 16)
        yield
