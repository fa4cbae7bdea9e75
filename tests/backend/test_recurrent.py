"""Recurrent layers whose weights are layers: the same values, seen step by step, and files that hold few bits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autocompress.backend.canonical.layer_forms import in_one_form
from autocompress.backend.graph.trace import trace
from autocompress.backend.layers.recurrent import Gates, Recurrent, stepwise
from autocompress.backend.sensitivity.fisher import sensitivities
from autocompress.backend.statistics import moments as statistics
from autocompress.backend.statistics.moments import Statistics
from autocompress.backend.training.distill import distill
from autocompress.backend.training.recipe import Recipe
from autocompress.core.plan import Plan, Step
from autocompress.formats.onnx.runtime import Runtime
from autocompress.hardware.profile import load_profile
from autocompress.study.workbench import Workbench
from autocompress.testing.exporters import integers
from autocompress.testing.networks import task_data
from autocompress.testing.techniques import outputs, workbench

LAYERS = [(nn.LSTM, {}), (nn.LSTM, {"num_layers": 2, "bidirectional": True, "batch_first": True}),
          (nn.LSTM, {"proj_size": 3, "num_layers": 2, "bidirectional": True}), (nn.GRU, {"bias": False}),
          (nn.GRU, {"num_layers": 2, "bidirectional": True}), (nn.RNN, {"nonlinearity": "relu"}), (nn.RNN, {})]


def _flat(result: Any) -> list[Tensor]:
    outputs, last = result
    return [outputs, *(last if isinstance(last, tuple) else [last])]


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize(("kind", "options"), LAYERS)
def test_it_computes_the_same_at_once_and_step_by_step(kind: type[nn.RNNBase], options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    layer, inputs = kind(5, 8, **options), torch.randn(4, 6, 5)
    same = Recurrent(layer)
    expected = _flat(layer(inputs))
    for output, target in zip(_flat(same(inputs)), expected, strict=True):
        torch.testing.assert_close(output, target)
    with stepwise(nn.Sequential(same)):
        for output, target in zip(_flat(same(inputs)), expected, strict=True):
            torch.testing.assert_close(output, target, rtol=1e-4, atol=1e-5)
    assert sum(isinstance(module, Gates) for module in same.modules()) == sum(
        name.startswith("weight") for name, _ in layer.named_parameters())


class Rows(nn.Module):
    """Rows as a sequence, read as tutorials do: from a state viewed flat, the last output, or both last states."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.embed = nn.Linear(6, 8)
        two = how == "both"
        self.lstm = nn.LSTM(8, 32, 2 if two else 1, batch_first=True, bidirectional=two)
        self.fc = nn.Linear(64 if two else 32, 5)

    def forward(self, x: Tensor) -> Tensor:
        count = self.lstm.num_layers * (2 if self.how == "both" else 1)
        first = torch.zeros(count, x.size(0), 32)
        outputs, (last, _) = self.lstm(torch.relu(self.embed(x)), (first, first))
        read = {"view": lambda: last.view(-1, 32), "last": lambda: outputs[:, -1],
                "both": lambda: torch.cat([last[-2], last[-1]], 1)}[self.how]()
        scores: Tensor = self.fc(torch.relu(read))
        return scores


@pytest.mark.parametrize("how", ["view", pytest.param("last", marks=pytest.mark.slow), "both"])
def test_every_reading_is_exported_at_every_batch(how: str, capfd: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    bench = Workbench(Rows(how).eval(), task_data((7, 6)), load_profile("host"), seed=0, folder=Path(os.devnull),
                      epochs=1)
    recurrent = [layer for layer in bench.network.table.layers if layer.kind == "recurrent"]
    assert len(recurrent) == (8 if how == "both" else 2) and not any(
        layer.not_compressible_reason for layer in recurrent
    )
    assert {layer.positions for layer in recurrent} == {7}
    compressed = bench.network.compressor.compress(integers(bench, (4,), 32))
    data = bench.network.write(compressed).data
    for count in (1, 5, 32):
        inputs = bench.network.calibration[:count]
        np.testing.assert_allclose(Runtime(data).run(inputs.numpy()), outputs(compressed.model, inputs).numpy(),
                                   rtol=1e-3, atol=1e-5)
    assert len(data) < 0.6 * len(bench.network.writer.original_file)
    assert "onnxruntime" not in capfd.readouterr().err


def test_states_count_in_the_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a state's weight are of the states before each step, the first of them zero."""
    monkeypatch.setattr(statistics, "shrunk", lambda covariance, _: covariance)
    torch.manual_seed(0)
    layer, inputs = Recurrent(nn.GRU(5, 8, batch_first=True)), torch.randn(16, 6, 5)
    states = layer(inputs)[0].detach()
    before = torch.cat([torch.zeros(16, 1, 8), states[:, :-1]], 1).flatten(0, 1)

    class Scores(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = layer

        def forward(self, x: Tensor) -> Tensor:
            scores: Tensor = self.rnn(x)[0][:, -1]
            return scores

    moments = Statistics(Scores().eval(), inputs).moments("rnn.hh_l0")
    assert moments is not None
    torch.testing.assert_close(moments.second[0], before.T @ before / len(before), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("network", ["lstm", "gru"])
def test_the_table_ranks_what_rounding_does(network: str) -> None:
    """Predicted costs of single weights follow the divergence that is measured."""
    bench = workbench(network)
    names = [layer.name for layer in bench.network.table.layers if layer.kind == "recurrent"]
    steps = [Step(name, "quantize", {"weight_bits": bits, "activation_bits": 32}) for name in names for bits in (2, 4)]
    predicted = sensitivities(bench.network.compressor, steps)
    inputs = bench.network.calibration
    log_likelihood = (outputs(bench.network.model, inputs).double() / 4).log_softmax(1)
    for step, cost in zip(steps, predicted, strict=True):
        model = bench.network.compressor.compress(Plan.of([step])).model
        got = (outputs(model, inputs).double() / 4).log_softmax(1)
        measured = float((log_likelihood.exp() * (log_likelihood - got)).sum(1).mean())
        assert measured / 4 < cost < 4 * measured, step


def test_integers_of_recurrent_weights_are_trained() -> None:
    bench = workbench("lstm")
    plan = integers(bench, (2,), 32)
    start = bench.network.compressor.compress(plan)
    inputs = bench.network.task.normalise(bench.network.task.train.inputs)

    def distance(model: nn.Module) -> float:
        return float((outputs(model, inputs) - outputs(bench.network.model, inputs)).square().mean())

    before, scale = distance(start.model), start.weights["rnn.hh_l0"].scale.clone()
    done = distill(
        start,
        bench.trainer.teacher,
        bench.network.task,
        Recipe(epochs=10, batch=16, label_weight=0.0),
        bench.network.calibration,
        0,
    )
    assert distance(done.model) < 0.8 * before
    trained = done.weights["rnn.hh_l0"]
    assert trained.bits == 2 and not torch.allclose(trained.scale, scale, rtol=1e-4)
    torch.testing.assert_close(done.model.get_submodule("rnn.hh_l0").weight, trained.dequantized())


class Cells(nn.Module):
    """A cell in a Python loop: its weights serve every step."""

    def __init__(self, kind: type[nn.LSTMCell | nn.GRUCell]) -> None:
        super().__init__()
        self.cell, self.fc = kind(6, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for step in range(4):
            state = self.cell(x[:, step], state)
        scores: Tensor = self.fc(state[0] if isinstance(state, tuple) else state)
        return scores


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell])
def test_a_cell_is_left_whole_by_name(kind: type[nn.LSTMCell | nn.GRUCell]) -> None:
    table, _ = trace(Cells(kind).eval(), (4, 6))
    assert f"no technique for {kind.__name__}" in table.by_name["cell"].not_compressible_reason
    assert table.by_name["fc"].compressible


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(6, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, torch.full((len(x),), x.shape[1]), batch_first=True)
        last: Tensor = self.rnn(packed)[1][0]
        return last


def test_what_cannot_be_rewritten_is_left_whole_by_name() -> None:
    model = Packed().eval()
    same, left = in_one_form(model, torch.randn(4, 7, 6))
    assert isinstance(same.get_submodule("rnn"), nn.GRU)
    assert "left whole" in left["rnn"] and "packed sequences" in left["rnn"]
