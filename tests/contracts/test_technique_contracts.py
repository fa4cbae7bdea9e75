"""The shipped techniques under the contract that new ones inherit."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from math import prod

import pytest
import torch

from autocompress.backend.decompose.factorize import factorize
from autocompress.backend.network.compressed import replace_module
from autocompress.backend.network.fold import fold_norms
from autocompress.core.plan import Plan, Step
from autocompress.core.sparsity import UNSTRUCTURED, group_of
from autocompress.estimate import flatten
from autocompress.study.workbench import Workbench
from autocompress.techniques import TECHNIQUES, resolve
from autocompress.techniques.decompose import METHODS, methods_for, rank_args
from autocompress.techniques.prune import legal_keep
from autocompress.techniques.sparsify import CRITERIA
from autocompress.testing.exporters import integers, sites, sparse, structure
from autocompress.testing.networks import NETWORKS
from autocompress.testing.techniques import TechniqueContract, outputs, state_hash, workbench


class TestPrune(TechniqueContract):
    """Half of all groups, as few channels as possible, and one group alone."""

    def plans(self, bench: Workbench) -> list[Plan]:
        groups = bench.network.table.groups

        def keep(share: float, some: slice = slice(None)) -> Plan:
            return Plan.of([Step(g.name, "prune", {"keep": legal_keep(g, g.channels * share, bench.evaluator.profile)})
                            for g in groups[some]])

        return [keep(0.5), keep(0.01), keep(0.5, slice(0, 1)), keep(0.5, slice(-1, None))]

    def test_the_receipt_names_the_channels_that_stay(self, bench: Workbench) -> None:
        for plan in self.plans(bench):
            for receipt in bench.network.compressor.restructure(plan).receipts:
                kept = receipt.facts["kept"]
                assert kept == sorted(set(kept))
                assert len(kept) == plan.find("prune")[receipt.site].args["keep"]


class TestDrop(TechniqueContract):
    """Each block, and all of them."""

    @pytest.fixture(params=["residual"])
    def bench(self, request: pytest.FixtureRequest) -> Iterator[Workbench]:
        """Only networks that have blocks."""
        yield workbench(request.param)

    def plans(self, bench: Workbench) -> list[Plan]:
        steps = [Step(block.name, "drop", {}) for block in bench.network.table.blocks]
        return [*(Plan.of([step]) for step in steps), Plan.of(steps)]


class TestDecompose(TechniqueContract):
    """Each method at every layer that takes it."""

    def plans(self, bench: Workbench) -> list[Plan]:
        parts = resolve(bench.network.table, Plan())
        plans = []
        for method in METHODS:
            steps = []
            for layer in bench.network.table.layers:
                args = rank_args(parts[layer.name][0], method, 0.5, 2) if method in methods_for(layer) else None
                if args is not None:
                    steps.append(Step(layer.name, "decompose", {"method": method, **args}))
            plans.append(Plan.of(steps))
        return [plan for plan in plans if plan.steps]

    def test_full_rank_is_the_original(self, bench: Workbench) -> None:
        parts = resolve(bench.network.table, Plan())
        for layer in bench.network.table.layers:
            for method in methods_for(layer):
                part = parts[layer.name][0]
                area, kernel = prod(part.kernel), part.kernel or (1, 1)
                smaller = min(part.in_channels, part.out_channels)
                full = {"svd": {"rank": smaller}, "channel-svd": {"rank": min(part.in_channels * area,
                                                                              part.out_channels)},
                        "spatial-svd": {"rank": min(part.in_channels * kernel[0], part.out_channels * kernel[-1])},
                        "tucker2": {"rank_in": part.in_channels, "rank_out": part.out_channels},
                        "cp": {"rank": area * smaller}}[method]
                model, moments = (
                    copy.deepcopy(bench.network.model),
                    bench.network.compressor.statistics.moments(layer.name),
                )
                assert moments is not None
                factors = factorize(
                    model.get_submodule(layer.name), method, full, moments.covariance[0], moments.mean[0]
                )
                replace_module(model, layer.name, factors)
                torch.testing.assert_close(
                    outputs(model, bench.network.calibration),
                    outputs(bench.network.model, bench.network.calibration),
                    rtol=1e-3,
                    atol=1e-3 if method == "cp" else 1e-4,
                )


class TestQuantize(TechniqueContract):
    """Every width, mixed, with 8-bit and with float activations."""

    def plans(self, bench: Workbench) -> list[Plan]:
        uniform = [integers(bench, (bits,), 8) for bits in (2, 8)]
        half = Plan.of([Step(name, "quantize", {"weight_bits": 16, "activation_bits": 32}) for name in sites(bench)])
        grids = [integers(bench, (3, 4, 2), 8, grid="codebook", range="percentile"),
                 integers(bench, (4, 8), 32, grid="pow2", group=32), integers(bench, (3,), 32, rounding="nearest"),
                 integers(bench, (2, 3), 8, rounding="adaround"),
                 integers(bench, (4,), 32, rounding="adaround", grid="codebook", group=32),
                 integers(bench, (4, 3), 8, equalize="weights"), integers(bench, (3, 8), 8, equalize="activations")]
        return [*uniform, half, integers(bench, (3, 4, 5, 6), 8), integers(bench, (2, 8, 4), 32), *grids]

    def test_more_bits_come_nearer(self, bench: Workbench) -> None:
        expected = outputs(bench.network.model, bench.network.calibration)
        errors = []
        for bits in (2, 4, 6, 8):
            model = bench.network.compressor.compress(integers(bench, (bits,), 32)).model
            # Norms are re-estimated from the calibration data, which moves them for any plan alike.
            reference = bench.network.compressor.compress(
                Plan.of([Step(n, "quantize", {"weight_bits": 16, "activation_bits": 32}) for n in sites(bench)])).model
            errors.append(
                float(
                    (outputs(model, bench.network.calibration) - outputs(reference, bench.network.calibration)).norm()
                    / expected.norm()
                )
            )
        assert errors == sorted(errors, reverse=True)
        assert errors[-1] < 0.1


class TestSparsify(TechniqueContract):
    """Every criterion, every pattern that fits, few weights and many, alone and with integers."""

    def plans(self, bench: Workbench) -> list[Plan]:
        patterns = [sparse(bench, Plan(), criterion=criterion) for criterion in CRITERIA]
        few = sparse(bench, Plan(), (UNSTRUCTURED,), 0.05)
        return [*patterns, few, Plan.of((*sparse(bench, Plan()).steps, *integers(bench, (2, 4, 8), 32).steps)),
                Plan.of((*sparse(bench, Plan()).steps, *integers(bench, (2, 3), 32, rounding="adaround").steps))]

    def test_as_many_weights_stay_as_predicted(self, bench: Workbench) -> None:
        shape = structure(bench)
        behind = Plan.of((*shape.steps, *sparse(bench, shape).steps, *integers(bench, (1, 3, 8), 8).steps))
        for plan in (*self.plans(bench), behind):
            folded = fold_norms(bench.network.compressor.compress(plan), bench.network.table)
            for part in flatten(resolve(bench.network.table, plan)):
                if part.pattern:
                    mask = folded.masks[part.name]
                    weight = folded.model.get_submodule(part.name).weight
                    assert isinstance(weight, torch.Tensor)
                    assert mask.kept.shape == weight.shape
                    assert int(mask.kept.sum()) == part.kept
                    assert not weight[~mask.kept].any()
                    if part.pattern != UNSTRUCTURED:
                        n, m = group_of(part.pattern)
                        groups = mask.kept.movedim(1, -1).reshape(-1, m)
                        assert (groups.sum(1) == n).all()


def test_every_technique_has_its_contract() -> None:
    tested = {name.removeprefix("Test").lower() for name, value in globals().items()
              if isinstance(value, type) and issubclass(value, TechniqueContract) and value is not TechniqueContract}
    assert tested == set(TECHNIQUES)


@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_an_empty_plan_changes_nothing(network: str) -> None:
    bench = workbench(network)
    compressed = bench.network.compressor.compress(Plan())
    assert state_hash(compressed.model) == state_hash(bench.network.model)
    assert compressed.receipts == []


@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_one_layer_takes_all_techniques_in_order(network: str) -> None:
    """Prune, decompose, sparsify, quantise: factors have pruned shapes, and each factor its zeros and integers."""
    bench = workbench(network)
    shape = structure(bench)
    plan = Plan.of((*shape.steps, *sparse(bench, shape).steps, *integers(bench, (4, 8, 3), 8).steps))
    layers = [set(plan.find(technique)) for technique in TECHNIQUES if technique != "drop"]
    assert set.intersection(*layers), "no layer of this network takes all techniques at once"
    compressed = bench.network.compressor.compress(plan)
    folded = fold_norms(compressed, bench.network.table)
    for part in flatten(resolve(bench.network.table, plan)):
        if part.kind in ("conv", "linear"):
            weight = folded.model.get_submodule(part.name).weight
            assert weight.shape == (part.out_channels, part.in_channels // part.groups, *part.kernel)
            assert compressed.weights[part.name].bits == part.weight_bits
            assert compressed.weights[part.name].levels.shape == weight.shape
            torch.testing.assert_close(folded.weights[part.name].dequantized(), weight, rtol=0, atol=0)
