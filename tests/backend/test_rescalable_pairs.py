"""Between which layers channels can be rescaled: found in the graph, and proved."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from autocompress.backend.graph.rescalable_pairs import unsafe_rescalings
from autocompress.backend.graph.rescale import Scaling
from autocompress.backend.graph.trace import trace
from autocompress.testing.networks import Network
from autocompress.testing.techniques import workbench

FOUND: dict[str, dict[str, dict[str, int]]] = {
    "chain": {"0.1": {"1.0": 1}, "1.1": {"2.0": 1}, "2.1": {"5": 1}},
    "residual": {}, "dense": {},
    "grouped": {"0.1": {"1.0": 1}, "1.1": {"2.0": 1}, "2.1": {"5": 1}},
    "flattened": {"0.1": {"1.0": 1}, "1.1": {"3": 16}, "3": {"5": 1}},
    "mlp": {"0": {"2": 1}, "3": {"5": 1}},
    "lstm": {"hidden": {"fc": 1}},
    "encoder": {"norm1": {"query": 1, "key": 1, "value": 1}, "norm2": {"up": 1}, "up": {"down": 1}},
}


def _made(build: Callable[[], nn.Module]) -> nn.Module:
    return Network("made", (), build).make()


def _around(middle: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), middle, nn.Conv2d(8, 6, 3), nn.Flatten(),
                         nn.Linear(6 * 16, 5))


@pytest.mark.parametrize("network", FOUND)
def test_pairs_are_found_and_told_as_facts(network: str) -> None:
    bench = workbench(network)
    scalings = bench.network.compressor.coupling.scalings
    assert {name: scaling.readers for name, scaling in scalings.items()} == FOUND[network]
    told = {layer.name: layer.scales_with for layer in bench.network.table.layers if layer.scales_with}
    assert told == {reader: source for source, readers in FOUND[network].items() for reader in readers}
    for layer in bench.network.table.layers:
        readable = layer.kind in ("conv", "linear") and layer.compressible
        assert bool(layer.not_rescalable_reason) == (readable and not layer.scales_with)


@pytest.mark.parametrize("middle", [
    nn.ReLU(), nn.ReLU(inplace=True), nn.LeakyReLU(0.2), nn.PReLU(8), nn.Identity(), nn.MaxPool2d(3, 1, 1),
    nn.Sequential(nn.ReLU(), nn.AvgPool2d(3, 1, 1), nn.Dropout(0.5)), nn.ReLU6(), nn.Hardtanh(0, 4),
], ids=str)
def test_what_lets_a_factor_through(middle: nn.Module) -> None:
    table, coupling = trace(_made(lambda: _around(copy.deepcopy(middle))), (3, 8, 8))
    assert table.by_name["3"].scales_with == "1"
    cap = {nn.ReLU6: 6.0, nn.Hardtanh: 4.0}.get(type(middle))
    assert coupling.scalings["1"] == Scaling("1", {"3": 1}, cap)
    assert coupling.scalings["3"].readers == {"5": 16}


@pytest.mark.parametrize("middle", [
    nn.Sigmoid(), nn.GELU(), nn.SiLU(), nn.Hardswish(), nn.Hardtanh(-1, 1), nn.Softmax(1), nn.ELU(), nn.Softplus(),
    nn.GroupNorm(2, 8), nn.PixelShuffle(1), nn.Sequential(nn.PixelUnshuffle(1), nn.Tanh()),
], ids=str)
def test_what_does_not(middle: nn.Module) -> None:
    table, _ = trace(_made(lambda: _around(copy.deepcopy(middle))), (3, 8, 8))
    assert table.by_name["3"].scales_with == ""
    assert "it reads the result of" in table.by_name["3"].not_rescalable_reason


class _Branching(nn.Module):
    """What `first` writes is read by two layers, what `twice` writes by a sum and a layer as well."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.left, self.right = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.shared, self.out = nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 6)` → `(N, 5)`."""
        x = torch.relu(self.first(x))
        x = self.left(x) + self.right(x).relu()
        x = self.shared(self.shared(x).relu()).relu()
        scores: Tensor = self.out(x)
        return scores


def test_readers_of_one_source_go_together_and_reasons_name_what_is_in_the_way() -> None:
    table, coupling = trace(_made(_Branching), (6,))
    assert coupling.scalings == {"first": Scaling("first", {"left": 1, "right": 1})}
    assert table.by_name["first"].not_rescalable_reason == "it reads the network's input"
    assert table.by_name["out"].not_rescalable_reason == "it reads what shared writes, and that cannot be changed"


def test_a_pair_that_is_none_does_not_pass_its_proof() -> None:
    network = _made(lambda: nn.Sequential(nn.Linear(6, 8), nn.Sigmoid(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 5)))
    sound, false = Scaling("2", {"4": 1}), Scaling("0", {"2": 1})
    assert unsafe_rescalings(network, torch.zeros(2, 6), {"2": sound}) == {}
    assert unsafe_rescalings(network, torch.zeros(2, 6), {"0": false, "2": sound}) == {
        "0": "2 answers differently when its input is rescaled"}
    silent = Scaling("0", {"4": 1})
    assert unsafe_rescalings(network, torch.zeros(2, 6), {"0": silent}) != {}
