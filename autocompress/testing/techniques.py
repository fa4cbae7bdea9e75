"""What every technique owes: inherit `TechniqueContract`, say which plans to try, and pytest runs it all.

    class TestPrune(TechniqueContract):
        def plans(self, bench):
            return [Plan.of([Step("conv1", "prune", {"keep": 8})])]
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import lru_cache

import pytest
import torch
from torch import Tensor, nn

from autocompress.backend.graph.macs import count_macs
from autocompress.backend.layers.kinds import Conv
from autocompress.backend.layers.recurrent import Gates, stepwise
from autocompress.backend.layers.transposed import TransposedConv
from autocompress.backend.network.fold import Folded, fold_norms
from autocompress.backend.statistics.calibration import reestimate_norms
from autocompress.core.layer import Part
from autocompress.core.plan import Plan
from autocompress.estimate import estimate, flatten
from autocompress.formats.base import Format
from autocompress.hardware.profile import load_profile
from autocompress.study.workbench import Workbench
from autocompress.techniques import resolve
from autocompress.techniques.apply import check_plan, with_own
from autocompress.techniques.base import Technique
from autocompress.testing.networks import NETWORKS
from autocompress.testing.parameters import every_network

WEIGHTED = Conv | nn.Linear


@lru_cache(maxsize=16)
def workbench(network: str, file_format: Format | None = None,
              techniques: tuple[Technique, ...] = ()) -> Workbench:
    """One of the small networks on its bench, with random data, for the profile `host`. Nothing is written.

    Args:
        network: its name among `NETWORKS`.
        file_format: of its files; left out, that of the profile.
        techniques: of a user's own.
    """
    return _workbench(NETWORKS[network].make(), network, file_format, techniques)


@lru_cache(maxsize=4)
def trained_workbench(network: str) -> Workbench:
    """The same as `workbench`, with norms that hold the statistics of its data, as after training: its outputs differ
    by sample.

    Args:
        network: its name among `NETWORKS`.
    """
    entry = NETWORKS[network]
    model, data = entry.make(), entry.data()
    reestimate_norms(model, data.normalise(data.train.inputs))
    return _workbench(model, network)


def _workbench(model: nn.Module, network: str, file_format: Format | None = None,
               techniques: tuple[Technique, ...] = ()) -> Workbench:
    return Workbench(model, NETWORKS[network].data(), load_profile("host"), seed=0, epochs=1,
                     file_format=file_format, techniques=with_own(techniques))


def state_hash(model: nn.Module) -> str:
    """Content hash of names, shapes and values of the whole state of a `model`."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def outputs(model: nn.Module, inputs: Tensor) -> Tensor:
    """The scores that a `model` gives for `inputs` `(N, …)` in eval mode."""
    with torch.no_grad():
        result: Tensor = model.eval()(inputs)
    return result


def leaf_modules(folded: Folded, part: Part) -> nn.Module:
    """The module of a `folded` network that executes a `part`: factors are children of the layer's place."""
    return folded.model.get_submodule(part.name)


class TechniqueContract:
    """Checks on every small network. Override `plans`; add tests for what is the technique's own."""

    # The technique, where it is a user's own.
    technique: Technique | None = None

    def plans(self, bench: Workbench) -> list[Plan]:
        """Legal plans that use the technique wherever the network lets it.

        Args:
            bench: of a small network; `bench.network.table` has its layers.
        """
        raise NotImplementedError

    @pytest.fixture(params=every_network())
    def bench(self, request: pytest.FixtureRequest) -> Iterator[Workbench]:
        """Each small network in turn."""
        yield workbench(request.param, techniques=(self.technique,) if self.technique else ())

    def test_a_candidate_works_is_settled_and_leaves_the_original_alone(self, bench: Workbench) -> None:
        """At least one plan with a step for each network, and every plan legal. A plan works on a copy, gives equal
        weights and receipts whatever the order of its steps, and a network whose outputs keep their shape and are
        finite."""
        before, expected = state_hash(bench.network.model), outputs(bench.network.model, bench.network.calibration)
        plans = self.plans(bench)
        assert plans
        for plan in plans:
            assert plan.steps
            check_plan(bench.network.table, plan, bench.evaluator.profile, bench.network.techniques)
            first = bench.network.compressor.compress(plan)
            assert not {id(p) for p in first.model.parameters()} & {id(p) for p in bench.network.model.parameters()}
            assert {receipt.site for receipt in first.receipts} == {step.site for step in plan.steps}
            scores = outputs(first.model, bench.network.calibration)
            assert scores.shape == expected.shape
            assert torch.isfinite(scores).all()
            assert scores.std() > 0
            second = bench.network.compressor.compress(Plan.of(plan.steps[::-1]))
            assert state_hash(first.model) == state_hash(second.model)
            assert first.receipts == second.receipts
        assert state_hash(bench.network.model) == before

    def test_predicted_parts_and_macs_are_the_real_ones(self, bench: Workbench) -> None:
        """Shapes, groups, biases and parameters of every part, and no weighted module without a part. Arithmetic part
        by part against a count on one forward pass; in total against thop, which counts pooling too."""
        for plan in self.plans(bench):
            folded = fold_norms(bench.network.compressor.restructure(plan), bench.network.table)
            parts = flatten(resolve(bench.network.table, plan, bench.network.techniques))
            for part in parts:
                module = leaf_modules(folded, part)
                if isinstance(module, nn.Linear):
                    kind = "recurrent" if isinstance(module, Gates) else "linear"
                    assert (part.kind, part.kernel, part.groups) == (kind, (), 1)
                    assert (part.in_channels, part.out_channels) == (module.in_features, module.out_features)
                elif isinstance(module, Conv):
                    assert (part.kind, part.kernel, part.groups) == ("conv", module.kernel_size, module.groups)
                    assert (part.in_channels, part.out_channels) == (module.in_channels, module.out_channels)
                else:
                    continue
                assert part.weights == module.weight.numel()
                assert part.bias == (module.bias is not None)
            real = {name for name, module in folded.model.named_modules() if isinstance(module, WEIGHTED)}
            assert {part.name for part in parts if part.kind in ("conv", "linear", "recurrent")} == real
            params = sum(p.numel() for p in folded.model.parameters())
            network, profile = bench.network, bench.evaluator.profile
            predicted = estimate(network.table, plan, profile, techniques=network.techniques)
            assert predicted["params"] == params
            counted = executed_macs(folded.model, bench.network.calibration[:1])
            predicted = {p.name: p.macs for p in parts if p.kind in ("conv", "linear", "recurrent")}
            assert predicted == counted
            if any(layer.kind == "other" for layer in bench.network.table.layers):
                continue  # thop has rules of its own for recurrent cells and norms of layers
            pools = [module for module in folded.model.modules() if type(module).__name__.startswith("AdaptiveAvgPool")]
            pooled = len(pools) * max(p.out_channels * (p.positions + 1) for p in parts)
            macs = count_macs(folded.model, bench.network.example)
            assert 0 <= macs - sum(counted.values()) <= pooled


def executed_macs(model: nn.Module, inputs: Tensor) -> dict[str, int]:
    """Multiply-accumulates of each weighted module of a `model` in one forward pass of `inputs` of one sample."""
    counted: dict[str, int] = {}
    handles = []

    def watch(name: str, module: nn.Module) -> None:
        def hook(_: nn.Module, args: tuple[Tensor, ...], result: Tensor) -> None:
            assert isinstance(module.weight, Tensor)
            at = args[0].numel() / module.groups if isinstance(module, TransposedConv) else result.numel()
            each = module.weight[:, 0] if isinstance(module, TransposedConv) else module.weight[0]
            counted[name] = counted.get(name, 0) + int(each.numel() * at)

        handles.append(module.register_forward_hook(hook))

    for name, module in model.named_modules():
        if isinstance(module, WEIGHTED):
            watch(name, module)
    with stepwise(model):
        outputs(model, inputs)
    for handle in handles:
        handle.remove()
    return counted
