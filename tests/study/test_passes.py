"""What a candidate and the table cost, counted in samples that go through a network."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from autocompress.core.plan import Plan, Step
from autocompress.formats.onnx.runtime import Runtime
from autocompress.hardware.profile import load_profile
from autocompress.space.space import build_space
from autocompress.space.spec import load_space
from autocompress.study import evaluator
from autocompress.study.sensitivity import sensitivity
from autocompress.study.workbench import Workbench
from autocompress.testing.networks import NETWORKS, task_data


class Counter:
    """Samples that any file, or any whole network, was given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, whole: type[nn.Module]) -> None:
        self.samples = 0
        run, call = Runtime.run, whole.__call__

        def counted_run(runtime: Runtime, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            self.samples += len(inputs["input"])
            return run(runtime, inputs)

        monkeypatch.setattr(Runtime, "run", counted_run)
        once = SimpleNamespace(metrics=lambda name: {name: 1.0})  # timing is of one sample, again and again
        monkeypatch.setattr(evaluator, "time_files", lambda *_: {"file": once})
        counter = self

        class Whole(whole):  # type: ignore[misc, valid-type]
            def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
                if inputs.shape[1:] == counter.shape:
                    counter.samples += len(inputs)
                answers: torch.Tensor = call(self, inputs)
                return answers

        self.whole = Whole
        self.shape: torch.Size = torch.Size()


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    """Of a network with norms."""
    network = NETWORKS["residual"]
    data = task_data(network.input_shape, samples=512)
    return Workbench(network.make(), data, load_profile("host"), seed=0, folder=tmp_path, epochs=1)


def _counter(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> Counter:
    counter = Counter(monkeypatch, type(bench.network.model))
    counter.shape = bench.network.calibration.shape[1:]
    bench.network.model.__class__ = counter.whole
    return counter


def test_calibrating_and_measuring_a_plan_costs_three_passes(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    def plan(bits: int) -> Plan:
        return Plan.of(
            [
                Step(layer.name, "quantize", {"weight_bits": bits, "activation_bits": 8})
                for layer in bench.network.table.layers
                if layer.kind in ("conv", "linear") and layer.compressible
            ]
        )

    bench.evaluator.evaluate(plan(4), 0)  # measures the original once
    counter = _counter(bench, monkeypatch)
    bench.evaluator.evaluate(plan(3), 0)
    scored = len(bench.network.task.validation)
    assert 0 < counter.samples - scored <= 2 * len(bench.network.calibration)


def test_the_table_costs_thirty_passes_at_most(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = _counter(bench, monkeypatch)
    sensitivity_table = sensitivity(
        bench, build_space(bench.network.table, load_space("default"), bench.evaluator.profile)
    )
    assert sensitivity_table.entries and 0 < counter.samples <= 30 * len(bench.network.calibration)
