"""Weights of a trained relative: which layers agree, what they take, and that the better start is chosen."""

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
from autocompress.backend.training.warm_start import Places, agreements, better_start, divergence, inherited, overlap
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
    """A workbench of a contract network, made once."""
    made: dict[str, Workbench] = {}

    def make(name: str) -> Workbench:
        if name not in made:
            network = NETWORKS[name]
            made[name] = Workbench(network.make(), task_data(network.input_shape), load_profile("host"), seed=0,
                                   folder=tmp_path_factory.mktemp(name), epochs=1)
        return made[name]

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
                known = network.weights[module]
                network.weights[module] = type(known)(known.bits, known.levels, known.scale * 1.5, known.table,
                                                      known.group, known.factors)
            parameter *= 1.5
    FolderStore(place).put(weights_key(plan, 1), encode_weights(network))
    return read_trained(encode_weights(network), "weights")


def _agreed(bench: Workbench, own: Compressed, relative: Trained) -> dict[str, Places]:
    return agreements(
        bench.network.table, bench.network.compressor.coupling.items, structure_of(own), relative.structure
    )


@pytest.mark.parametrize("name", ["residual", "chain", "separable", "dense", "grouped"])
def test_the_same_plan_takes_every_value(bench_of: Make, tmp_path: Path, name: str) -> None:
    bench = bench_of(name)
    for plan in (_pruned(bench, 0.5), _pruned(bench, 0.5, 4), _pruned(bench, 1.0, 8)):
        relative = _trained(bench, plan, tmp_path)
        own = bench.network.compressor.compress(plan)
        heir = inherited(own, relative, _agreed(bench, own, relative), bench.network.compressor)
        state = heir.model.state_dict()
        for key, value in relative.tensors.items():
            module, _, kind = key.rpartition(".")
            if kind == "weight" and module in relative.integers:
                torch.testing.assert_close(state[key], relative.integers[module].dequantized())
                assert torch.equal(heir.weights[module].levels, relative.integers[module].levels)
                torch.testing.assert_close(heir.latent[module], value)
            elif not kind.startswith(("running", "num")):
                torch.testing.assert_close(state[key], value)
        (receipt,) = [r for r in heir.receipts if r.technique == "inherit"]
        assert receipt.facts["from"] == plan.fingerprint
        assert set(receipt.facts["layers"]) == {layer.name for layer in bench.network.table.layers}


@pytest.mark.parametrize("name", ["residual", "separable", "grouped", "dense"])
def test_a_narrower_network_takes_its_channels_of_a_wider_one(bench_of: Make, tmp_path: Path, name: str,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    """With the inputs' moments out of the way, what is inherited is what cutting the relative's weights leaves."""
    bench = bench_of(name)
    wide = _pruned(bench, 1.0)
    relative, own = _trained(bench, wide, tmp_path), bench.network.compressor.compress(_pruned(bench, 0.5))
    agreed = _agreed(bench, own, relative)
    monkeypatch.setattr(bench.network.compressor.statistics, "moments", lambda name: None)
    heir = inherited(own, relative, agreed, bench.network.compressor)
    cut: Any = bench.network.compressor.restructure(own.plan, fit=False).model.state_dict()
    state = heir.model.state_dict()
    taken = {key for key in state if key.rpartition(".")[0] in agreed and not key.endswith(
        ("running_mean", "running_var", "num_batches_tracked"))}
    assert len(taken) >= 3
    for key in taken:
        torch.testing.assert_close(state[key], cut[key] * 1.5)


def test_a_layer_makes_up_for_the_inputs_that_it_loses(bench_of: Make, tmp_path: Path) -> None:
    bench = bench_of("residual")
    relative = _read(_saved(bench, Plan(), tmp_path))
    own = bench.network.compressor.restructure(_pruned(bench, 0.75), fit=False)
    agreed = _agreed(bench, own, relative)
    refitted = bench.network.compressor.restructure(own.plan).model.state_dict()
    heir = inherited(own, relative, agreed, bench.network.compressor).model.state_dict()
    torch.testing.assert_close(heir["conv2.weight"], refitted["conv2.weight"])
    assert not torch.allclose(heir["conv2.weight"], own.model.state_dict()["conv2.weight"])


def _read(path: Path) -> Trained:
    return read_trained(path.read_bytes(), path.name)


def _saved(bench: Workbench, plan: Plan, folder: Path, rung: int = 1) -> Path:
    store, key = FolderStore(folder), weights_key(plan, rung)
    store.put(key, encode_weights(bench.network.compressor.compress(plan)))
    return store.path(key)


def test_places_are_in_the_coordinates_of_the_original(bench_of: Make) -> None:
    bench = bench_of("chain")
    group = bench.network.table.groups[0]
    items = bench.network.compressor.coupling.items

    def structure(*kept: int) -> Structure:
        return Structure(Plan.of([Step(group.name, "prune", {"keep": len(kept)})]), {group.name: kept})

    writer = group.name
    reader = next(m.layer for m in group.members if m.side == "in")
    found = agreements(bench.network.table, items, structure(2, 7), structure(0, 2, 5, 7))
    assert found[writer].rows is not None and found[writer].rows.tolist() == [1, 3]
    assert found[reader].columns is not None and len(found[reader].columns) >= 2
    assert np.array_equal(found[writer].columns if found[writer].columns is not None else [], [])
    assert writer not in agreements(bench.network.table, items, structure(2, 6), structure(0, 2, 5, 7))
    same = agreements(bench.network.table, items, structure(2, 7), structure(2, 7))
    assert same[writer].rows is None and same[reader].columns is None
    assert overlap(bench.network.table, structure(2, 7).plan, structure(2, 7).plan, list(same)) == 1.0


def test_factors_agree_only_where_method_and_ranks_do(bench_of: Make, tmp_path: Path) -> None:
    bench = bench_of("residual")

    def plan(rank: int, share: float = 1.0) -> Plan:
        return _pruned(bench, share, 4, Step("conv2", "decompose", {"method": "channel-svd", "rank": rank}))

    relative = _trained(bench, plan(8), tmp_path)
    for asked, shared in ((plan(8), True), (plan(8, 0.75), True), (plan(4), False), (_pruned(bench, 1.0, 4), False)):
        own = bench.network.compressor.compress(asked)
        agreed = _agreed(bench, own, relative)
        assert ("conv2" in agreed) is shared
        heir = inherited(own, relative, agreed, bench.network.compressor)
        (receipt,) = [r for r in heir.receipts if r.technique == "inherit"]
        assert ("conv2" in receipt.facts["layers"]) is shared and "fc" in receipt.facts["layers"]


def test_other_bits_start_from_what_the_relative_computed_with(bench_of: Make, tmp_path: Path) -> None:
    bench = bench_of("residual")
    relative = _trained(bench, _pruned(bench, 1.0, 2), tmp_path)
    for bits in (8, 4, None):
        own = bench.network.compressor.compress(_pruned(bench, 1.0, bits))
        heir = inherited(own, relative, _agreed(bench, own, relative), bench.network.compressor)
        meant = relative.integers["conv2"].dequantized()
        got = heir.model.get_parameter("conv2.weight").detach()
        assert float((got - meant).norm() / meant.norm()) < {8: 0.01, 4: 0.2, None: 1e-6}[bits]
        assert ("conv2" in heir.weights) is (bits is not None)


def test_a_sparse_layer_takes_only_what_has_its_zeros(bench_of: Make, tmp_path: Path) -> None:
    bench = bench_of("residual")
    sparse = Step("conv2", "sparsify", {"pattern": "unstructured", "density": 0.5})
    relative = _trained(bench, _pruned(bench, 1.0, 4, sparse), tmp_path)
    for asked, shared in ((_pruned(bench, 1.0, 4, sparse), True), (_pruned(bench, 1.0, 4), False)):
        own = bench.network.compressor.compress(asked)
        heir = inherited(own, relative, _agreed(bench, own, relative), bench.network.compressor)
        (receipt,) = [r for r in heir.receipts if r.technique == "inherit"]
        assert ("conv2" in receipt.facts["layers"]) is shared
        if shared:
            assert torch.equal(heir.model.get_submodule("conv2").weight == 0, ~own.masks["conv2"].kept)


def test_the_start_nearer_to_the_original_is_chosen(bench_of: Make, tmp_path: Path) -> None:
    bench = bench_of("residual")
    with torch.no_grad():
        wanted = bench.network.model(bench.network.calibration)
    assert divergence(bench.network.model, bench.network.calibration, wanted) < 1e-6
    good, bad = _read(_saved(bench, Plan(), tmp_path)), _trained(bench, _pruned(bench, 1.0, 8), tmp_path)
    plan = _pruned(bench, 1.0, 8)
    for relative, better in ((good, True), (bad, False)):
        own = bench.network.compressor.compress(plan)
        if better:  # a start that answers something else
            own.model.get_parameter("fc.weight").data.mul_(-20)
        chosen, takes = better_start(own, relative, _agreed(bench, own, relative), bench.network.compressor, wanted)
        (receipt,) = [r for r in chosen.receipts if r.technique == "inherit"]
        facts = receipt.facts
        assert takes is (facts["inherited_divergence"] < facts["own_divergence"]) is better
        assert bool(facts["layers"]) is better and (chosen is own) is not better


def test_the_nearest_of_all_folders_is_found_and_an_unfinished_training_is_not(bench_of: Make, tmp_path: Path) -> None:
    bench = bench_of("residual")
    here, there = tmp_path / "here", tmp_path / "there"
    store = FolderStore(here, {"earlier": there / "weights"})
    plan = _pruned(bench, 0.5, 4)
    own = structure_of(bench.network.compressor.compress(plan))

    def found() -> Path | None:
        near = nearest(bench.network.table, bench.network.compressor.coupling.items, own, store)
        return None if near is None else store.path(near[0])

    assert found() is None
    _saved(bench, plan, here)
    assert found() is None  # its own
    far = _saved(bench, _pruned(bench, 1.0, 4), here)
    assert found() == far
    near = _saved(bench, _pruned(bench, 0.75, 4), there)
    assert found() == near
    longer = _saved(bench, _pruned(bench, 0.75, 4), there, rung=2)
    assert found() == longer
    other_bits = _saved(bench, _pruned(bench, 0.5, 8), here)
    assert found() == other_bits
    same = _saved(bench, plan, there)
    assert found() == same


def test_damaged_and_foreign_files_are_passed_over(bench_of: Make, tmp_path: Path,
                                                   caplog: pytest.LogCaptureFixture) -> None:
    bench = bench_of("residual")
    plan = _pruned(bench, 0.5)
    own = bench.network.compressor.compress(plan)
    with torch.no_grad():
        wanted = bench.network.model(bench.network.calibration)
    path = _saved(bench, Plan(), tmp_path)
    whole = path.read_bytes()
    for damage in (b"", b"no safetensors", whole[:-100]):
        path.write_bytes(damage)
        assert with_relative(
            own, bench.network.compressor, bench.network.table, FolderStore(tmp_path), wanted
        ) == (own, False)
    with pytest.raises(StorageError, match="must hold the weights of a candidate"):
        _read(path)
    path.write_bytes(whole)
    structure = read_structure(header_in(path) or {})
    assert structure is not None and structure.plan == Plan()
