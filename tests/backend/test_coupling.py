"""Which channels hang together: every cut runs, no layer is emptied, what cannot be cut says why."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from autocompress.backend.graph.trace import trace
from autocompress.backend.prune.importance import channel_scores
from autocompress.backend.statistics.moments import Statistics
from autocompress.core.plan import Plan, Step
from autocompress.techniques.prune import legal_keep
from autocompress.testing.networks import CLASSES, NETWORKS, conv_norm
from autocompress.testing.techniques import outputs, workbench


@pytest.mark.parametrize("network", sorted(NETWORKS))
@settings(deadline=None, max_examples=5)
@given(data=st.data())
def test_any_ratios_leave_a_network_that_runs(network: str, data: st.DataObject) -> None:
    """Fault 28."""
    bench = workbench(network)
    channels = {group: group.channels * (1 - data.draw(st.floats(0, 1))) for group in bench.network.table.groups}
    steps = [Step(group.name, "prune", {"keep": legal_keep(group, keep, bench.evaluator.profile)})
             for group, keep in channels.items()]
    compressed = bench.network.compressor.restructure(Plan.of(steps))
    scores = outputs(compressed.model, bench.network.calibration[:2])
    assert scores.shape == (2, CLASSES)
    assert torch.isfinite(scores).all()
    for module in compressed.model.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d):
            assert min(module.weight.shape) >= 1
            assert module.weight.shape[:2] == (module.out_channels, module.in_channels // module.groups)
            assert module.out_channels % module.groups == 0
    for receipt in compressed.receipts:
        group = next(g for g in bench.network.table.groups if g.name == receipt.site)
        blocks = np.bincount(np.asarray(receipt.facts["kept"]) // (group.channels // group.blocks),
                             minlength=group.blocks)
        assert len(set(blocks.tolist())) == 1, "a grouped convolution keeps as many channels in each block"


@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_the_classifier_keeps_its_outputs(network: str) -> None:
    bench = workbench(network)
    last = [layer.name for layer in bench.network.table.layers if layer.kind == "linear"][-1]
    assert bench.network.refused[last] == "its channels are the network's outputs"
    assert last not in {group.name for group in bench.network.table.groups}


def test_groups_tie_what_belongs_together() -> None:
    table = workbench("residual").network.table
    stem, wide = (next(g for g in table.groups if any((m.layer, m.side) == end for m in g.members))
                  for end in (("stem.0", "out"), ("down", "out")))
    assert {(m.layer, m.side) for m in stem.members} == {
        ("stem.0", "out"), ("stem.1", "out"), ("conv1", "out"), ("bn1", "out"), ("conv1", "in"), ("conv2", "in"),
        ("down", "in")}
    assert {(m.layer, m.side) for m in wide.members} == {
        ("conv2", "out"), ("bn2", "out"), ("down", "out"), ("bn3", "out"), ("fc", "in")}
    (flat,) = [
        m for g in workbench("flattened").network.table.groups for m in g.members if (m.layer, m.side) == ("3", "in")
    ]
    assert flat.per_channel == 16
    (grouped,) = [g for g in workbench("grouped").network.table.groups if g.name == "1.0"]
    assert grouped.blocks == 4


def test_the_least_important_channels_go_first() -> None:
    network = NETWORKS["chain"]
    model = network.make()
    with torch.no_grad():
        model[1][0].weight[[3, 7]] *= 1e-3  # type: ignore[index]
        model[2][0].weight[:, [3, 7]] *= 1e-3  # type: ignore[index]
    _table, coupling = trace(model, network.input_shape)
    scores = channel_scores("l2", model, coupling.items["1.0"], 24, Statistics(model, torch.empty(0)))
    assert set(np.argsort(scores)[:2].tolist()) == {3, 7}


class Odd(nn.Module):
    """Everything that no technique can touch."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Conv2d(4, 4, 3, padding=1)
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.reflected = nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")
        self.same = nn.Conv2d(4, 4, 3, padding="same")
        self.up = nn.ConvTranspose2d(4, 4, 2, 2)
        self.lstm = nn.LSTM(4, 6, batch_first=True)
        self.unused = nn.Linear(3, 3)
        self.read = nn.Linear(6, 6)
        self.fc = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 1, 4, 4)` → `(N, 5)`."""
        x = self.shared(self.shared(self.stem(x)))
        x = self.up(self.same(self.reflected(x)))
        sequence, _ = self.lstm(x.flatten(2).transpose(1, 2))
        scores: Tensor = self.fc(torch.nn.functional.linear(sequence[:, -1], self.read.weight))
        return scores


def test_locked_layers_say_why() -> None:
    table, _ = trace(Odd().eval(), (1, 4, 4))
    reasons = {layer.name: layer.not_compressible_reason for layer in table.layers if layer.not_compressible_reason}
    assert reasons == {
        "shared": "its weights are used more than once",
        "reflected": "padding mode 'reflect'",
        "same": "padding given as 'same'",
        "up": "no technique for ConvTranspose2d",
        "lstm": "no technique for LSTM",
        "unused": "its parent reads its weights directly, or it is never executed",
        "read": "its parent reads its weights directly, or it is never executed",
    }


def test_a_network_that_cannot_be_analysed_keeps_its_channels() -> None:
    table, coupling = trace(Odd().eval(), (1, 4, 4))
    cut = {member.layer for group in table.groups for member in group.members}
    assert not cut & {layer.name for layer in table.layers if layer.not_compressible_reason}
    assert coupling.refused


def test_shared_tensors_have_one_identity() -> None:
    """What the size of activation quantisers rests on (see `Layer.reads`)."""
    layers = workbench("residual").network.table.by_name
    assert layers["stem.0"].writes == layers["conv1"].reads
    assert layers["conv2"].reads == layers["down"].reads != layers["conv1"].writes
    assert layers["fc"].writes == ""
    net = nn.Sequential(conv_norm(1, 8), nn.Dropout(), nn.Conv2d(8, 8, 3), nn.ReLU6(), nn.Flatten(), nn.Linear(32, 5))
    layers = trace(net.eval(), (1, 4, 4))[0].by_name
    assert layers["0.0"].writes == layers["2"].reads
    assert layers["2"].writes != layers["5"].reads
