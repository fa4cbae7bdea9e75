"""Latency is measured at one place, for the original, candidates and what ships."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import autocompress
from autocompress.errors import TrialError
from autocompress.formats.base import Reading
from autocompress.formats.onnx.format import FORMAT
from autocompress.search.executors.inline import Inline
from autocompress.study import measuring_place
from autocompress.study.measuring_place import RemoteRuntime, Stopwatch

SECONDS = 0.125
X = {"input": np.ones((1, 4), np.float32)}


class Elsewhere(Inline):
    """Files are timed at a place where every inference takes as long."""

    def measuring_place(self, make: Callable[[], Any]) -> Callable[..., Any]:
        """See `Executor`."""
        stopwatch = make()

        def call(method: str, *arguments: Any) -> Any:
            answer = getattr(stopwatch, method)(*arguments)
            return Reading(SECONDS, SECONDS) if isinstance(answer, Reading) else answer

        return call


@pytest.mark.usefixtures("short_searches")
def test_every_latency_of_a_search_is_of_that_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autocompress.study.quantization_payoff.ROUNDS", 1)
    pictures, labels = torch.randn(90, 8), torch.arange(90) % 3
    for label in range(3):
        pictures[labels == label, label] += 2
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    result = autocompress.search(net, (pictures.numpy(), labels.numpy()), "100kB", trials=2, epochs=1, effort="fast",
                                 executor=Elsewhere(), out=tmp_path / "study")
    measured = [e.metrics["latency_ms"] for c in result.candidates for e in c.evaluations]
    shipped = result.to_dict()["artifact"]
    assert {*measured, result.baseline["latency_ms"], shipped["latency_ms"], shipped["baseline_latency_ms"]} \
        == {1000 * SECONDS}


@pytest.fixture(scope="module")
def data() -> bytes:
    """A file of one layer."""
    return FORMAT.plain(nn.Linear(4, 2), torch.ones(2, 4))


def test_a_file_that_the_place_has_lost_is_sent_again(data: bytes) -> None:
    places = [Stopwatch()]
    runtime = RemoteRuntime(lambda method, *rest: getattr(places[-1], method)(*rest), FORMAT, data)
    before = runtime.run(X)
    places.append(Stopwatch())
    assert runtime.time(X, 2).cpu_seconds > 0
    assert all(np.array_equal(answers, before[name]) for name, answers in runtime.run(X).items())


def test_a_place_keeps_few_files_loaded(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring_place, "MOST_LOADED", 2)
    stopwatch = Stopwatch()
    for digest in "abc":
        stopwatch.load(digest, FORMAT, data)
    assert [stopwatch.holds(digest) for digest in "abc"] == [False, True, True]
    assert stopwatch.run("a", X) is None and stopwatch.time("a", X, 1) is None


def test_a_file_that_the_runtime_refuses_fails_there() -> None:
    with pytest.raises(TrialError, match="refuses the file"):
        RemoteRuntime(lambda method, *rest: getattr(Stopwatch(), method)(*rest), FORMAT, b"none")
