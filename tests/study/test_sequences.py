"""Tokens and recurrent networks through the workbench, and what is refused."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autocompress.backend.graph.trace import trace
from autocompress.backend.training.distill import distill
from autocompress.backend.training.recipe import Recipe
from autocompress.core.plan import Plan, Step
from autocompress.errors import InputError
from autocompress.estimate import estimate
from autocompress.formats.onnx.runtime import Runtime
from autocompress.hardware.profile import load_profile
from autocompress.space.space import build_space
from autocompress.space.spec import load_space
from autocompress.study.workbench import Workbench
from autocompress.tasks.arrays import from_memory
from autocompress.tasks.data_checks import checked
from autocompress.tasks.input_forms import fitted
from autocompress.tasks.splits import Split
from autocompress.techniques.apply import check_plan
from autocompress.testing.networks import CLASSES, NETWORKS, task_data
from autocompress.testing.techniques import outputs, workbench


def test_an_embedding_is_stored_in_the_bits_it_was_given() -> None:
    bench = workbench("encoder")
    sizes = {}
    for bits in (2, 8, 16, 32):
        plan = Plan.of([Step("tokens", "quantize", {"weight_bits": bits, "activation_bits": 32})])
        compressed = bench.network.compressor.compress(plan)
        data = bench.network.write(compressed).data
        got = Runtime(data).run(bench.network.calibration.numpy())
        np.testing.assert_allclose(got, outputs(compressed.model, bench.network.calibration).numpy(), rtol=0, atol=1e-4)
        assert estimate(bench.network.table, plan, bench.evaluator.profile)["size_bytes"] == pytest.approx(
            len(data), abs=40
        )
        sizes[bits] = len(data)
    cells = bench.network.table.by_name["tokens"].params
    assert sizes[32] - sizes[16] > 1.9 * cells
    assert sizes[32] - sizes[8] > 2.5 * cells  # and one float scale a row


def test_an_embedding_has_no_8_bit_activations() -> None:
    bench = workbench("encoder")
    plan = Plan.of([Step("tokens", "quantize", {"weight_bits": 8, "activation_bits": 8})])
    with pytest.raises(InputError, match="tokens has float activations"):
        check_plan(bench.network.table, plan, bench.evaluator.profile)
    space = build_space(bench.network.table, load_space("default"), bench.evaluator.profile)
    steps = space.decode(space.uniform(4) | {("act", "*"): 8}).find("quantize")
    assert steps["tokens"].args == {"weight_bits": 4, "activation_bits": 32}
    assert steps["query"].args == {"weight_bits": 4, "activation_bits": 8}


@pytest.mark.parametrize("network", ["lstm", "gru"])
def test_a_recurrent_module_is_one_layer_for_each_of_its_weights(network: str) -> None:
    table = workbench(network).network.table
    assert {layer.name for layer in table.layers} >= {"rnn.ih_l0", "rnn.hh_l0"}
    assert not [layer.name for layer in table.layers if layer.not_compressible_reason]
    for name in ("rnn.ih_l0", "rnn.hh_l0"):
        with pytest.raises(InputError, match="has float activations"):
            plan = Plan.of([Step(name, "quantize", {"weight_bits": 8, "activation_bits": 8})])
            check_plan(table, plan, load_profile("host"))


def test_an_embedding_that_changes_while_it_runs_is_locked() -> None:
    model = nn.Sequential(nn.Embedding(9, 4, max_norm=1.0), nn.Flatten(), nn.Linear(12, CLASSES)).eval()
    table, _ = trace(model, (3,), torch.int64)
    assert "max_norm" in table.by_name["0"].not_compressible_reason


class _Bert(nn.Module):
    """torch's own encoder layer, whose fast path calls none of its linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(30, 16)
        self.encoder = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.fc = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens `(N, 6)` → `(N, 5)`."""
        scores: Tensor = self.fc(self.encoder(self.tokens(x)).mean(1))
        return scores


def test_the_layers_of_torchs_own_encoder_are_seen() -> None:
    torch.manual_seed(0)
    bench = Workbench(_Bert().eval(), task_data((6,), vocabulary=30), load_profile("host"), seed=0,
                      folder=Path(os.devnull), epochs=1)
    for name in ("tokens", "encoder.linear1", "encoder.linear2", "fc"):
        assert bench.network.table.by_name[name].compressible
    plan = Plan.of([Step("encoder.linear1", "quantize", {"weight_bits": 4, "activation_bits": 32})])
    compressed = bench.network.compressor.compress(plan)
    got = Runtime(bench.network.write(compressed).data).run(bench.network.calibration.numpy())
    np.testing.assert_allclose(got, outputs(compressed.model, bench.network.calibration).numpy(), rtol=0, atol=1e-4)


def test_a_network_of_tokens_can_be_distilled(tmp_path: Path) -> None:
    encoder = NETWORKS["encoder"]
    bench = Workbench(encoder.make(), encoder.data(), load_profile("host"), seed=0, folder=tmp_path, epochs=1)
    plan = Plan.of([Step(name, "quantize", {"weight_bits": 4, "activation_bits": 32}) for name in ("tokens", "up")])
    compressed = bench.network.compressor.compress(plan)
    distill(compressed, bench.trainer.teacher, bench.network.task, Recipe(epochs=1), bench.network.calibration, 0)
    got = Runtime(bench.network.write(compressed).data).run(bench.network.calibration.numpy())
    np.testing.assert_allclose(got, outputs(compressed.model, bench.network.calibration).numpy(), rtol=0, atol=1e-4)


def test_tokens_come_as_they_are_and_are_checked() -> None:
    rows = np.arange(40).reshape(20, 2)
    data = from_memory((rows, np.arange(20) % 2), "words", 0)
    assert data.dtype == torch.int64
    assert torch.equal(data.normalise(data.train.inputs), data.train.inputs)
    with pytest.raises(InputError, match="tokens cannot be normalised"):
        checked(replace(data, mean=(0.5,)))
    with pytest.raises(InputError, match="tokens must be from 0 to 99, the rows of the"):
        fitted(replace(data, train=Split(data.train.inputs - 50, data.train.targets)),
               nn.Sequential(nn.Embedding(100, 4), nn.Flatten(), nn.Linear(8, 2)))
    with pytest.raises(InputError, match="all splits must hold one type of numbers"):
        checked(replace(data, test=Split(data.test.inputs.float(), data.test.targets)))
