"""MACs by two independent counters."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from autocompress.backend.fold import fold_norms
from autocompress.backend.macs import count_macs
from autocompress.core.plan import Plan
from autocompress.estimate import estimate
from autocompress.tasks.vision import import_torchvision
from autocompress.testing.networks import NETWORKS
from autocompress.testing.techniques import state_hash, workbench


def _by_torch(model: nn.Module, shape: tuple[int, ...]) -> int:
    """torch's own counter sees operators, thop modules."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, *shape))
    return int(counter.get_total_flops()) // 2


def test_resnet() -> None:
    model: nn.Module = import_torchvision().models.resnet18(num_classes=10).eval()
    shape = (3, 32, 32)
    assert count_macs(model, shape) == pytest.approx(_by_torch(model, shape), rel=0.01)


SEQUENCES = ("encoder", "gru", "lstm")
"""Layers that are left whole, of which the three counters each count something else: biases, norms, gates."""


@pytest.mark.parametrize("network", sorted(set(NETWORKS) - set(SEQUENCES)))
def test_small_networks(network: str) -> None:
    bench = workbench(network)
    folded = fold_norms(bench.compressor.restructure(Plan()), bench.table).model
    torchs = _by_torch(folded, bench.data.input_shape)
    pooling = 0 if network in ("residual", "dense", "mlp", "flattened") else 5_000
    assert count_macs(folded, bench.data.input_shape) == pytest.approx(torchs, rel=0.01, abs=pooling)
    assert estimate(bench.table, Plan(), bench.profile)["macs"] == torchs


@pytest.mark.parametrize("network", SEQUENCES)
def test_a_layer_that_is_left_whole_counts_at_every_step(network: str) -> None:
    bench = workbench(network)
    counted = count_macs(bench.model, bench.data.input_shape, bench.data.dtype)
    assert estimate(bench.table, Plan(), bench.profile)["macs"] == pytest.approx(counted, rel=0.1)


def test_counting_leaves_the_model_alone() -> None:
    bench = workbench("chain")
    before = state_hash(bench.model)
    count_macs(bench.model, bench.data.input_shape)
    assert state_hash(bench.model) == before
    assert not [name for name, _ in bench.model.named_buffers() if "total_" in name]
