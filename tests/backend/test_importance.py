"""Criteria: every one ranks, is settled, and finds the channels that plainly do not matter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from autocompress.backend.compress import Compressor
from autocompress.backend.graph.trace import trace
from autocompress.backend.prune.importance import channel_scores
from autocompress.backend.statistics.moments import Statistics
from autocompress.core.plan import Plan, Step
from autocompress.errors import InputError
from autocompress.techniques.apply import check_plan
from autocompress.techniques.prune import CRITERIA
from autocompress.testing.networks import NETWORKS
from autocompress.testing.techniques import outputs, state_hash, workbench

BLIND = {"random", "fpgm"}
"""They do not ask what a channel does: the geometric median keeps what is far from the others, also a zero."""


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_every_criterion_ranks_every_group(criterion: str, network: str) -> None:
    bench = workbench(network)
    coupling = bench.network.compressor.coupling
    before = state_hash(bench.network.model)
    for group in bench.network.table.groups:
        scores, again = (channel_scores(criterion, bench.network.model, coupling.items[group.name], group.channels,
                                        bench.network.compressor.statistics) for _ in range(2))
        assert scores.shape == (group.channels,)
        assert np.isfinite(scores).all() and (scores >= 0).all()
        assert len(np.unique(scores)) > 1
        np.testing.assert_array_equal(scores, again)
    assert state_hash(bench.network.model) == before


@pytest.mark.parametrize("criterion", [c for c in CRITERIA if c not in BLIND])
def test_a_dead_channel_goes_first(criterion: str) -> None:
    model = NETWORKS["chain"].make()
    conv, norm = model[1][0], model[1][1]  # type: ignore[index]
    with torch.no_grad():
        conv.weight[5] = 0
        for vector in (norm.weight, norm.bias):
            vector[5] = 0
        model[2][0].weight[:, 5] = 0  # type: ignore[index]
    inputs = torch.randn(64, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    table, coupling = trace(model, (3, 12, 12))
    compressor = Compressor(model, table, coupling, inputs)
    group = next(g for g in table.groups if g.name == "1.0")
    kept = compressor.kept_channels(group, group.channels - 1, criterion)
    assert set(range(group.channels)) - set(kept.tolist()) == {5}
    plan = Plan.of([Step("1.0", "prune", {"keep": group.channels - 1, "criterion": criterion})])
    torch.testing.assert_close(outputs(compressor.restructure(plan).model, inputs), outputs(model, inputs),
                               rtol=0.1, atol=0.05)


def test_sensitivity_is_the_gradient_times_the_weight() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    inputs = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    importance = Statistics(model, inputs).sensitivity("0")
    assert importance is not None
    drawn = torch.multinomial(outputs(model, inputs).softmax(1), 1, generator=torch.Generator().manual_seed(0))[:, 0]
    nn.functional.cross_entropy(model(inputs), drawn).backward()
    assert model[0].weight.grad is not None
    product = (model[0].weight.grad * model[0].weight).detach()
    torch.testing.assert_close(importance.taylor_out, product.sum(1).square())
    torch.testing.assert_close(importance.taylor_in, product.sum(0).square())
    torch.testing.assert_close(importance.fisher_out, product.square().sum(1))


def test_an_unknown_criterion_is_refused() -> None:
    bench = workbench("chain")
    group = bench.network.table.groups[0]
    with pytest.raises(InputError, match=r"`criterion` at .* must be one of .*'loudest'"):
        check_plan(bench.network.table, Plan.of([Step(group.name, "prune", {"keep": 8, "criterion": "loudest"})]),
                   bench.evaluator.profile)
