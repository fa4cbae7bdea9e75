"""Weights of a trained relative: which layers can take them, what they take, and that the better start is used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autocompress.backend.network.checkpoint import (
    Structure,
    Trained,
    encode_weights,
    read_structure,
    read_trained,
    structure_of,
)
from autocompress.backend.network.compressed import Compressed
from autocompress.backend.training.warm_start import (
    ChannelPositions,
    better_start,
    divergence,
    inherited,
    overlap,
    transferable_layers,
)
from autocompress.core.plan import Plan, Step
from autocompress.core.store import FolderStore, header_in, weights_key
from autocompress.errors import StorageError
from autocompress.hardware.profile import load_profile
from autocompress.study.warm_start import nearest, with_relative
from autocompress.study.workbench import Workbench
from autocompress.testing.networks import NETWORKS, task_data

Make = Callable[[str], Workbench]


@pytest.fixture(scope="module")
def bench_of(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """A workbench of a contract network, built once."""
    benches: dict[str, Workbench] = {}

    def make(name: str) -> Workbench:
        if name not in benches:
            network = NETWORKS[name]
            benches[name] = Workbench(network.make(), task_data(network.input_shape), load_profile("host"), seed=0,
                                   folder=tmp_path_factory.mktemp(name), epochs=1)
        return benches[name]

    return make


def _pruned(bench: Workbench, share: float, bits: int | None = None, *more: Step) -> Plan:
    keeps = [Step(group.name, "prune", {"keep": max(group.blocks, round(group.channels * share))})
             for group in bench.network.table.groups if share < 1]
    widths = [
        Step(layer.name, "quantize", {"weight_bits": bits, "activation_bits": 32})
        for layer in bench.network.table.layers
        if bits is not None and layer.kind in ("conv", "linear") and layer.compressible
    ]
    return Plan.of((*keeps, *widths, *more))


def _trained(bench: Workbench, plan: Plan, place: Path) -> Trained:
    """A candidate whose weights are told apart from compressed ones: all of them half as large again."""
    network = bench.network.compressor.compress(plan)
    with torch.no_grad():
        for name, parameter in network.model.named_parameters():
            module, _, kind = name.rpartition(".")
            if kind == "weight" and module in network.weights:
                network.latent[module] = parameter * 1.5
                weight = network.weights[module]
                network.weights[module] = type(weight)(weight.bits, weight.levels, weight.scale * 1.5, weight.table,
                                                      weight.group, weight.factors)
            parameter *= 1.5
    FolderStore(place).put(weights_key(plan, 1), encode_weights(network))
    return read_trained(encode_weights(network), "weights")


def _transferable(bench: Workbench, compressed: Compressed, relative: Trained) -> dict[str, ChannelPositions]:
    return transferable_layers(
        bench.network.table, bench.network.compressor.coupling.items, structure_of(compressed), relative.structure
    )


def _inherited(bench: Workbench, compressed: Compressed, relative: Trained) -> Compressed:
    return inherited(compressed, relative, _transferable(bench, compressed, relative), bench.network.compressor)


@pytest.mark.parametrize("name", ["residual", "chain", "separable", "dense", "grouped"])
def test_the_same_plan_takes_every_value(bench_of: Make, tmp_path: Path, name: str) -> None:
    bench = bench_of(name)
    for plan in (_pruned(bench, 0.5), _pruned(bench, 0.5, 4), _pruned(bench, 1.0, 8)):
        relative = _trained(bench, plan, tmp_path)
        compressed = bench.network.compressor.compress(plan)
        inheriting = _inherited(bench, compressed, relative)
        state = inheriting.model.state_dict()
        for key, value in relative.tensors.items():
            module, _, kind = key.rpartition(".")
            if kind == "weight" and module in relative.integers:
                torch.testing.assert_close(state[key], relative.integers[module].dequantized())
                assert torch.equal(inheriting.weights[module].levels, relative.integers[module].levels)
                torch.testing.assert_close(inheriting.latent[module], value)
            elif not kind.startswith(("running", "num")):
                torch.testing.assert_close(state[key], value)
        (receipt,) = [r for r in inheriting.receipts if r.technique == "inherit"]
        assert receipt.facts["from"] == plan.fingerprint
        assert set(receipt.facts["layers"]) == {layer.name for layer in bench.network.table.layers}


@pytest.mark.parametrize("name", ["residual", "separable", "grouped", "dense"])
def test_a_narrower_network_takes_its_channels_of_a_wider_one(bench_of: Make, tmp_path: Path, name: str,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    """With the inputs' moments out of the way, what is inherited is what cutting the relative's weights leaves."""
    bench = bench_of(name)
    wide = _pruned(bench, 1.0)
    relative, compressed = _trained(bench, wide, tmp_path), bench.network.compressor.compress(_pruned(bench, 0.5))
    transferable = _transferable(bench, compressed, relative)
    monkeypatch.setattr(bench.network.compressor.statistics, "moments", lambda name: None)
    inheriting = inherited(compressed, relative, transferable, bench.network.compressor)
    cut: Any = bench.network.compressor.restructure(compressed.plan, fit=False).model.state_dict()
    state = inheriting.model.state_dict()
    taken = {key for key in state if key.rpartition(".")[0] in transferable and not key.endswith(
        ("running_mean", "running_var", "num_batches_tracked"))}
    assert len(taken) >= 3
    for key in taken:
        torch.testing.assert_close(state[key], cut[key] * 1.5)


def test_a_layer_makes_up_for_the_inputs_that_it_loses(bench_of: Make, tmp_path: Path) -> None:
    bench = bench_of("residual")
    relative = _read(_saved(bench, Plan(), tmp_path))
    compressed = bench.network.compressor.restructure(_pruned(bench, 0.75), fit=False)
    transferable = _transferable(bench, compressed, relative)
    refitted = bench.network.compressor.restructure(compressed.plan).model.state_dict()
    inheriting = inherited(compressed, relative, transferable, bench.network.compressor).model.state_dict()
    torch.testing.assert_close(inheriting["conv2.weight"], refitted["conv2.weight"])
    assert not torch.allclose(inheriting["conv2.weight"], compressed.model.state_dict()["conv2.weight"])


def _read(path: Path) -> Trained:
    return read_trained(path.read_bytes(), path.name)


def _saved(bench: Workbench, plan: Plan, folder: Path, rung: int = 1) -> Path:
    store, key = FolderStore(folder), weights_key(plan, rung)
    store.put(key, encode_weights(bench.network.compressor.compress(plan)))
    return store.path(key)


def test_positions_are_in_the_coordinates_of_the_original(bench_of: Make) -> None:
    bench = bench_of("chain")
    group = bench.network.table.groups[0]
    items = bench.network.compressor.coupling.items

    def structure(*kept: int) -> Structure:
        return Structure(Plan.of([Step(group.name, "prune", {"keep": len(kept)})]), {group.name: kept})

    writer = group.name
    reader = next(m.layer for m in group.members if m.side == "in")
    positions = transferable_layers(bench.network.table, items, structure(2, 7), structure(0, 2, 5, 7))
    assert positions[writer].outputs is not None and positions[writer].outputs.tolist() == [1, 3]
    assert positions[reader].inputs is not None and len(positions[reader].inputs) >= 2
    assert np.array_equal(positions[writer].inputs if positions[writer].inputs is not None else [], [])
    assert writer not in transferable_layers(bench.network.table, items, structure(2, 6), structure(0, 2, 5, 7))
    same = transferable_layers(bench.network.table, items, structure(2, 7), structure(2, 7))
    assert same[writer].outputs is None and same[reader].inputs is None
    assert overlap(bench.network.table, structure(2, 7).plan, structure(2, 7).plan, list(same)) == 1.0


def test_factors_are_transferred_only_where_method_and_ranks_do(bench_of: Make, tmp_path: Path) -> None:
    bench = bench_of("residual")

    def plan(rank: int, share: float = 1.0) -> Plan:
        return _pruned(bench, share, 4, Step("conv2", "decompose", {"method": "channel-svd", "rank": rank}))

    relative = _trained(bench, plan(8), tmp_path)
    cases = ((plan(8), True), (plan(8, 0.75), True), (plan(4), False), (_pruned(bench, 1.0, 4), False))
    for other_plan, shared in cases:
        compressed = bench.network.compressor.compress(other_plan)
        transferable = _transferable(bench, compressed, relative)
        assert ("conv2" in transferable) is shared
        inheriting = inherited(compressed, relative, transferable, bench.network.compressor)
        (receipt,) = [r for r in inheriting.receipts if r.technique == "inherit"]
        assert ("conv2" in receipt.facts["layers"]) is shared and "fc" in receipt.facts["layers"]


def test_other_bits_start_from_what_the_relative_computed_with(bench_of: Make, tmp_path: Path) -> None:
    bench = bench_of("residual")
    relative = _trained(bench, _pruned(bench, 1.0, 2), tmp_path)
    for bits in (8, 4, None):
        compressed = bench.network.compressor.compress(_pruned(bench, 1.0, bits))
        inheriting = _inherited(bench, compressed, relative)
        meant = relative.integers["conv2"].dequantized()
        got = inheriting.model.get_parameter("conv2.weight").detach()
        assert float((got - meant).norm() / meant.norm()) < {8: 0.01, 4: 0.2, None: 1e-6}[bits]
        assert ("conv2" in inheriting.weights) is (bits is not None)


def test_a_sparse_layer_takes_only_what_has_its_zeros(bench_of: Make, tmp_path: Path) -> None:
    bench = bench_of("residual")
    sparse = Step("conv2", "sparsify", {"pattern": "unstructured", "density": 0.5})
    relative = _trained(bench, _pruned(bench, 1.0, 4, sparse), tmp_path)
    for other_plan, shared in ((_pruned(bench, 1.0, 4, sparse), True), (_pruned(bench, 1.0, 4), False)):
        compressed = bench.network.compressor.compress(other_plan)
        inheriting = _inherited(bench, compressed, relative)
        (receipt,) = [r for r in inheriting.receipts if r.technique == "inherit"]
        assert ("conv2" in receipt.facts["layers"]) is shared
        if shared:
            assert torch.equal(inheriting.model.get_submodule("conv2").weight == 0, ~compressed.masks["conv2"].kept)


def test_the_start_nearer_to_the_original_is_chosen(bench_of: Make, tmp_path: Path) -> None:
    bench = bench_of("residual")
    with torch.no_grad():
        original_outputs = bench.network.model(bench.network.calibration)
    assert divergence(bench.network.model, bench.network.calibration, original_outputs) < 1e-6
    good, bad = _read(_saved(bench, Plan(), tmp_path)), _trained(bench, _pruned(bench, 1.0, 8), tmp_path)
    plan = _pruned(bench, 1.0, 8)
    for relative, better in ((good, True), (bad, False)):
        compressed = bench.network.compressor.compress(plan)
        if better:  # a start that answers something else
            compressed.model.get_parameter("fc.weight").data.mul_(-20)
        start, takes = better_start(compressed, relative, _transferable(bench, compressed, relative),
                                    bench.network.compressor, original_outputs)
        (receipt,) = [r for r in start.receipts if r.technique == "inherit"]
        facts = receipt.facts
        assert takes is (facts["inherited_divergence"] < facts["own_divergence"]) is better
        assert bool(facts["layers"]) is better and (start is compressed) is not better


def test_the_nearest_of_all_folders_is_found_and_an_unfinished_training_is_not(bench_of: Make, tmp_path: Path) -> None:
    bench = bench_of("residual")
    here, there = tmp_path / "here", tmp_path / "there"
    store = FolderStore(here, {"earlier": there / "weights"})
    plan = _pruned(bench, 0.5, 4)
    compressed = structure_of(bench.network.compressor.compress(plan))

    def nearest_file() -> Path | None:
        near = nearest(bench.network.table, bench.network.compressor.coupling.items, compressed, store)
        return None if near is None else store.path(near[0])

    assert nearest_file() is None
    _saved(bench, plan, here)
    assert nearest_file() is None  # an unfinished training of the same plan
    far = _saved(bench, _pruned(bench, 1.0, 4), here)
    assert nearest_file() == far
    near = _saved(bench, _pruned(bench, 0.75, 4), there)
    assert nearest_file() == near
    longer = _saved(bench, _pruned(bench, 0.75, 4), there, rung=2)
    assert nearest_file() == longer
    other_bits = _saved(bench, _pruned(bench, 0.5, 8), here)
    assert nearest_file() == other_bits
    same = _saved(bench, plan, there)
    assert nearest_file() == same


def test_damaged_and_foreign_files_are_passed_over(bench_of: Make, tmp_path: Path,
                                                   caplog: pytest.LogCaptureFixture) -> None:
    bench = bench_of("residual")
    plan = _pruned(bench, 0.5)
    compressed = bench.network.compressor.compress(plan)
    with torch.no_grad():
        original_outputs = bench.network.model(bench.network.calibration)
    path = _saved(bench, Plan(), tmp_path)
    whole = path.read_bytes()
    for damage in (b"", b"no safetensors", whole[:-100]):
        path.write_bytes(damage)
        assert with_relative(
            compressed, bench.network.compressor, bench.network.table, FolderStore(tmp_path), original_outputs
        ) == (compressed, False)
    with pytest.raises(StorageError, match="must hold the weights of a candidate"):
        _read(path)
    path.write_bytes(whole)
    structure = read_structure(header_in(path) or {})
    assert structure is not None and structure.plan == Plan()
