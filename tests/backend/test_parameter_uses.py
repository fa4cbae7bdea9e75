"""A norm is folded only into what is proved to be its layer; weights that are read twice are left alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autocompress.backend.graph.trace import trace
from autocompress.backend.network.checkpoint import encode_weights, load_weights
from autocompress.backend.network.compressed import Compressed
from autocompress.core.plan import Plan
from autocompress.formats.onnx.runtime import Runtime
from autocompress.hardware.profile import load_profile
from autocompress.study.workbench import Workbench
from autocompress.testing.networks import CLASSES, randomised_norms, task_data
from autocompress.testing.techniques import outputs


class Forward(nn.Module):
    """Layers by name, and a function that computes with them."""

    def __init__(self, compute: Callable[[nn.Module, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.compute = compute
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        """Whatever the function says."""
        return self.compute(self, x)


def _nodes(m: nn.Module, x: Tensor) -> Tensor:
    return m.head(torch.relu(m.norm(m.layer(x))).flatten(1))  # type: ignore[operator, no-any-return, union-attr]


def _bare(m: nn.Module, x: Tensor) -> Tensor:
    x = torch.relu(m.norm(F.conv2d(x, m.layer.weight, padding=1)))  # type: ignore[arg-type, operator, union-attr]
    return m.head(x.mean((2, 3)))  # type: ignore[operator, no-any-return]


def _read_before(m: nn.Module, x: Tensor) -> Tensor:
    y = m.layer(x)  # type: ignore[operator]
    return m.head(torch.relu(m.norm(y) + y).mean((2, 3)))  # type: ignore[operator, no-any-return]


def _tied(m: nn.Module, x: Tensor) -> Tensor:
    return m.head(torch.relu(m.norm(m.layer(x))) @ m.layer.weight)  # type: ignore[operator, no-any-return, union-attr]


def _conv() -> nn.Conv2d:
    return nn.Conv2d(3, 8, 3, padding=1, bias=False)


CASES: dict[str, tuple[Forward, tuple[int, ...], dict[str, str]]] = {
    "a norm over nodes, as many as features": (
        Forward(_nodes, layer=nn.Linear(8, 8), norm=nn.BatchNorm1d(8), head=nn.Linear(64, CLASSES)), (8, 8), {}),
    "a norm over nodes": (
        Forward(_nodes, layer=nn.Linear(6, 16), norm=nn.BatchNorm1d(8), head=nn.Linear(128, CLASSES)), (8, 6), {}),
    "a norm over features": (
        Forward(_nodes, layer=nn.Linear(6, 16), norm=nn.BatchNorm1d(16), head=nn.Linear(16, CLASSES)), (6,),
        {"norm": "layer"}),
    "a norm behind an embedding": (
        Forward(_nodes, layer=nn.Embedding(2, 8), norm=nn.BatchNorm1d(8), head=nn.Linear(64, CLASSES)), (8,), {}),
    "a kernel read by its parent": (
        Forward(_bare, layer=_conv(), norm=nn.BatchNorm2d(8), head=nn.Linear(8, CLASSES)), (3, 6, 6), {}),
    "a convolution that is read before the norm too": (
        Forward(_read_before, layer=_conv(), norm=nn.BatchNorm2d(8), head=nn.Linear(8, CLASSES)), (3, 6, 6), {}),
    "a weight that is read twice": (
        Forward(_tied, layer=nn.Linear(6, 8), norm=nn.BatchNorm1d(8), head=nn.Linear(6, CLASSES)), (6,), {}),
}


@pytest.mark.parametrize("case", CASES)
def test_only_a_norm_behind_its_own_layer_is_folded_and_the_file_is_right(case: str) -> None:
    torch.manual_seed(0)
    model, shape, folds = CASES[case]
    model = randomised_norms(model.eval())  # type: ignore[assignment]
    tokens = isinstance(model.layer, nn.Embedding)
    bench = Workbench(model, task_data(shape, samples=16, vocabulary=2 if tokens else 0), load_profile("host"), seed=0,
                      folder=Path("/dev/null"), epochs=1)
    assert {layer.name: layer.folds_into for layer in bench.network.table.layers if layer.folds_into} == folds
    file = bench.network.write(bench.network.compressor.compress(Plan())).data
    got, expected = (
        Runtime(file).run(bench.network.calibration.numpy()),
        outputs(model, bench.network.calibration).numpy(),
    )
    assert abs(got - expected).max() <= 1e-4 * abs(expected).max()


class Tied(nn.Module):
    """An embedding that is the classifier's weight too, and a product with one more view of it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.head = nn.Embedding(CLASSES, 8), nn.Linear(8, 8), nn.Linear(8, CLASSES, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        """Tokens `(N, T)` → `(N, 5)`."""
        scores: Tensor = self.head(torch.relu(self.mix(self.embed(x).mean(1))))
        return scores


def test_tied_weights_are_left_alone_under_all_their_names() -> None:
    table, _ = trace(Tied().eval(), (4,), torch.int64)
    assert {layer.name: layer.not_compressible_reason for layer in table.layers} == {
        "embed": "its weights are used more than once", "mix": "", "head": "its weights are used more than once"}


def test_trained_weights_that_are_tied_are_stored_under_all_their_names() -> None:
    trained, structure = Compressed(Tied(), Plan()), Compressed(Tied(), Plan())
    loaded = load_weights(structure, encode_weights(trained), "w.safetensors").model
    assert loaded.head.weight is loaded.embed.weight
    for name, tensor in trained.model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


def test_channels_beside_the_axis_of_a_norm_can_be_cut() -> None:
    model, shape, _ = CASES["a norm over nodes"]
    table, coupling = trace(model.eval(), shape)
    assert not coupling.refused.get("layer")
    assert [(group.name, group.channels) for group in table.groups] == [("layer", 16)]
