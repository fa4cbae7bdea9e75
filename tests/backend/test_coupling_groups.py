"""What the labels find in networks that hang together by more than sums, and why the rest is left alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autocompress.backend.compress import Compressor
from autocompress.backend.graph.coupling import Coupling, cut_channels, removed_indices
from autocompress.backend.graph.trace import trace
from autocompress.core.layer import Group, LayerTable
from autocompress.core.plan import Plan, Step
from autocompress.errors import InputError
from autocompress.formats.onnx.runtime import Runtime
from autocompress.hardware.profile import load_profile
from autocompress.study.workbench import Workbench
from autocompress.techniques.apply import check_plan
from autocompress.techniques.prune import legal_keep
from autocompress.testing.networks import CLASSES, conv_norm, randomised_norms, task_data
from autocompress.testing.techniques import outputs

Forward = Callable[[nn.ModuleDict, Tensor], Tensor]


class Net(nn.Module):
    """Layers by name and a forward of them."""

    def __init__(self, forward: Forward, **layers: nn.Module) -> None:
        super().__init__()
        self.layers, self._forward = nn.ModuleDict(layers), forward

    def forward(self, x: Tensor) -> Tensor:
        """As given."""
        return self._forward(self.layers, x)


def shuffled() -> Net:
    """Two halves, one of which passes a separable branch, interleaved as in ShuffleNet v2."""
    def forward(of: nn.ModuleDict, x: Tensor) -> Tensor:
        left, right = of["stem"](x).chunk(2, 1)
        x = torch.cat([left, of["branch"](right)], 1)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return of["fc"](of["last"](x).mean((2, 3)))
    branch = nn.Sequential(conv_norm(16, 16, 1), conv_norm(16, 16, groups=16), conv_norm(16, 16, 1))
    return Net(forward, stem=conv_norm(3, 32), branch=branch, last=conv_norm(32, 24, 1), fc=nn.Linear(24, CLASSES))


def excited() -> Net:
    """Squeeze and excitation of a depthwise convolution."""
    def forward(of: nn.ModuleDict, x: Tensor) -> Tensor:
        x = of["wide"](of["stem"](x))
        scale = of["up"](torch.relu(of["down"](x.mean((2, 3), keepdim=True)))).sigmoid()
        return of["fc"](of["narrow"](x * scale).flatten(2).mean(2))
    return Net(forward, stem=conv_norm(3, 40, 1), wide=conv_norm(40, 40, groups=40), down=nn.Conv2d(40, 20, 1),
               up=nn.Conv2d(20, 40, 1), narrow=conv_norm(40, 24, 1), fc=nn.Linear(24, CLASSES))


def gated() -> Net:
    """A gated linear unit, written with chunk."""
    def forward(of: nn.ModuleDict, x: Tensor) -> Tensor:
        value, gate = of["both"](x).chunk(2, -1)
        return of["fc"](value * gate.sigmoid())
    return Net(forward, both=nn.Linear(12, 48), fc=nn.Linear(24, CLASSES))


def recurrent() -> Net:
    """Convolutions, an LSTM, a classifier of two layers."""
    def forward(of: nn.ModuleDict, x: Tensor) -> Tensor:
        sequence, _ = of["lstm"](of["second"](of["first"](x).relu()).transpose(1, 2))
        return of["fc"](of["hidden"](sequence[:, -1]).relu())
    return Net(forward, first=nn.Conv1d(3, 16, 3), second=nn.Conv1d(16, 16, 3), lstm=nn.LSTM(16, 12, batch_first=True),
               hidden=nn.Linear(12, 24), fc=nn.Linear(24, CLASSES))


def embedded() -> Net:
    """Words to vectors to a classifier."""
    def forward(of: nn.ModuleDict, x: Tensor) -> Tensor:
        return of["fc"](of["hidden"](of["words"](x.long())).relu().mean(1))
    return Net(forward, words=nn.Embedding(10, 8), hidden=nn.Linear(8, 16), fc=nn.Linear(16, CLASSES))


def attentive() -> Net:
    """Attention by hand, heads counted from the weights."""
    def forward(of: nn.ModuleDict, x: Tensor) -> Tensor:
        x = x.flatten(2).transpose(1, 2)
        q, k, v = (of[name](x).unflatten(-1, (-1, 6)).transpose(1, 2) for name in "qkv")
        mixed = (q @ k.transpose(-1, -2)).softmax(-1) @ v
        return of["fc"](of["out"](mixed.transpose(1, 2).flatten(2)).relu().mean(1))
    return Net(forward, q=nn.Linear(3, 24), k=nn.Linear(3, 24), v=nn.Linear(3, 24), out=nn.Linear(24, 16),
               fc=nn.Linear(16, CLASSES))


CASES: dict[str, tuple[Callable[[], Net], tuple[int, ...], dict[str, int]]] = {
    "shuffled": (shuffled, (3, 8, 8), {"layers.stem.0": 16, "layers.branch.0.0": 16, "layers.last.0": 24}),
    "excited": (excited, (3, 8, 8), {"layers.stem.0": 40, "layers.down": 20, "layers.narrow.0": 24}),
    "gated": (gated, (12,), {"layers.both": 24}),
    "recurrent": (recurrent, (3, 12), {"layers.first": 16, "layers.hidden": 24}),
    "embedded": (embedded, (6,), {"layers.hidden": 16}),
    "attentive": (attentive, (3, 4, 4), {"layers.q": 4, "layers.out": 16}),
}


def traced(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> tuple[nn.Module, LayerTable, Coupling]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = randomised_norms(make().eval())
    return model, *trace(model, shape)


@pytest.mark.parametrize("case", CASES)
def test_cutting_is_the_same_as_not_reading(case: str) -> None:
    """By hand, and for each group alone: with the weights as they are, and other channels than the proof cut."""
    make, shape, expected = CASES[case]
    model, table, coupling = traced(make, shape)
    assert {group.name: group.channels for group in table.groups} == expected
    inputs = 2 * torch.rand(4, *shape)
    for group in table.groups:
        per_block = group.channels // group.blocks
        kept = {group.name: np.concatenate([np.arange(per_block // 2, per_block) + b * per_block
                                            for b in range(group.blocks)])}
        cut, unread = make().eval(), make().eval()
        cut.load_state_dict(model.state_dict())
        unread.load_state_dict(model.state_dict())
        cut_channels(cut, coupling.items, kept)
        for (name, side), gone in removed_indices(coupling.items, kept).items():
            if side == "in":
                with torch.no_grad():
                    unread.get_submodule(name).weight[:, sorted(gone)] = 0
        scores = outputs(unread, inputs)
        assert not torch.allclose(scores, outputs(model, inputs), rtol=1e-3)
        torch.testing.assert_close(outputs(cut, inputs), scores, rtol=1e-4, atol=1e-4 * float(scores.abs().max()))


def hard_coded_split() -> Net:
    """Two halves whose sizes are numbers."""
    def forward(of: nn.ModuleDict, x: Tensor) -> Tensor:
        early, late = of["stem"](x).split([8, 8], 1)
        return of["fc"](of["early"](early).mean((2, 3)) + of["late"](late).mean((2, 3)))
    return Net(forward, stem=conv_norm(3, 16), early=conv_norm(8, 12, 1), late=conv_norm(8, 12, 1),
               fc=nn.Linear(12, CLASSES))


def hard_coded_view() -> Net:
    """A reshape whose sizes are numbers."""
    def forward(of: nn.ModuleDict, x: Tensor) -> Tensor:
        return of["fc"](of["stem"](x).view(len(x), 16, 64).mean(2))
    return Net(forward, stem=conv_norm(3, 16), fc=nn.Linear(16, CLASSES))


def rolled() -> Net:
    """It runs with fewer channels, but then they are others."""
    def forward(of: nn.ModuleDict, x: Tensor) -> Tensor:
        return of["fc"](of["last"](of["stem"](x).roll(1, 1)).mean((2, 3)))
    return Net(forward, stem=conv_norm(3, 16), last=nn.Conv2d(16, 8, 1), fc=nn.Linear(8, CLASSES))


@pytest.mark.parametrize(("make", "layer", "reason"), [
    (hard_coded_split, "layers.stem.0", "does not run with fewer of its channels"),
    (rolled, "layers.stem.0", "with fewer of its channels, layers.last computes something else"),
    (hard_coded_view, "layers.stem.0", "does not run with fewer of its channels"),
    (recurrent, "layers.second", r"reach layers.lstm \(LSTM\), and cannot be followed"),
    (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                           nn.Linear(8, CLASSES)), "0", r"reach 1 \(GroupNorm\)"),
])
def test_what_is_left_alone_says_why(make: Callable[[], nn.Module], layer: str, reason: str) -> None:
    shape = (3, 12) if make is recurrent else (3, 8, 8)
    _, table, coupling = traced(make, shape)
    assert layer not in {group.name for group in table.groups}
    assert table.by_name[layer].not_prunable_reason == coupling.refused[layer]
    message = f"{layer!r} is none: .*({reason}).*Groups that can be pruned: "
    with pytest.raises(InputError, match=message):
        check_plan(table, Plan.of([Step(layer, "prune", {"keep": 4})]), load_profile("host"))


def test_the_rest_of_a_network_with_a_fixed_part_can_be_cut() -> None:
    _, table, coupling = traced(hard_coded_split, (3, 8, 8))
    assert [group.name for group in table.groups] == ["layers.early.0"]  # tied to the other branch by their sum
    assert set(coupling.refused) == {"layers.stem.0", "layers.fc"}


def test_bare_parameters_and_the_input_fix_what_they_meet() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.fc = nn.Linear(6, 8), nn.Linear(8, 6), nn.Linear(6, CLASSES)
            self.scale = nn.Parameter(torch.ones(8))
            self.all = nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            """`(N, 6)` → `(N, 5)`."""
            scores: Tensor = self.fc(x + self.all * self.second(self.first(x) * self.scale))
            return scores

    _, table, coupling = traced(Scaled, (6,))
    assert not table.groups
    assert coupling.refused["first"] == "the bare parameter scale has a value for each of its channels"
    assert coupling.refused["second"] == "the network's input has a value for each of its channels"


def test_blocks_of_a_shuffled_grouped_convolution() -> None:
    """ShuffleNet v1: what one grouped convolution writes, another reads in another order."""
    def forward(of: nn.ModuleDict, x: Tensor) -> Tensor:
        x = of["first"](of["stem"](x))
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return of["fc"](of["second"](x).mean((2, 3)))

    model, table, coupling = traced(lambda: Net(
        forward, stem=conv_norm(3, 16), first=conv_norm(16, 16, 1, groups=2), second=conv_norm(16, 24, 1, groups=2),
        fc=nn.Linear(24, CLASSES)), (3, 6, 6))
    groups = {group.name: group for group in table.groups}
    assert groups["layers.stem.0"].blocks == groups["layers.second.0"].blocks == 2
    compressor = Compressor(model, table, coupling, torch.randn(8, 3, 6, 6))
    profile = load_profile("host")
    steps = [Step(g.name, "prune", {"keep": legal_keep(g, g.channels / 2, profile)}) for g in table.groups]
    cut = compressor.restructure(Plan.of(steps)).model
    assert torch.isfinite(outputs(cut, torch.randn(2, 3, 6, 6))).all()


@pytest.mark.parametrize("case", ["excited", "shuffled", "gated"])
@pytest.mark.parametrize("profile", ["host", "nvidia-t4"])
def test_widths_keep_to_the_multiple_of_the_device(case: str, profile: str) -> None:
    """Every cut layer, squeeze and excitation included, keeps a multiple that the device likes."""
    make, shape, _ = CASES[case]
    model, table, coupling = traced(make, shape)
    device = load_profile(profile)
    compressor = Compressor(model, table, coupling, torch.randn(8, *shape))
    for share in (0.9, 0.6, 0.35, 0.05):
        keeps = {g.name: legal_keep(g, g.channels * share, device) for g in table.groups}
        plan = Plan.of([Step(name, "prune", {"keep": keep}) for name, keep in keeps.items()])
        cut = compressor.restructure(plan, fit=False)
        for group in table.groups:
            for member in group.members:
                if table.by_name[member.layer].groups > 1 and member.side == "in":
                    continue
                layer: nn.Module = cut.model.get_submodule(member.layer)
                width = layer.weight.shape[0 if member.side == "out" else 1]  # type: ignore[union-attr, index]
                before = group.channels * member.per_channel
                multiple = device.channel_multiple[32]  # nothing in the plan is narrower
                while multiple > before:
                    multiple //= 2
                assert width == before or width % multiple == 0


def test_heads_are_counted_one_by_one() -> None:
    group = Group(name="qkv", channels=3, members=(), heads=True)
    assert [legal_keep(group, keep, load_profile("nvidia-t4")) for keep in (0, 0.4, 1.6, 3, 9)] == [1, 1, 2, 3, 3]


@pytest.mark.parametrize("case", ["shuffled", "excited"])
def test_cut_networks_are_files_that_compute_the_same(case: str) -> None:
    make, shape, _ = CASES[case]
    torch.manual_seed(0)
    bench = Workbench(randomised_norms(make().eval()), task_data(shape, samples=24), load_profile("host"), seed=0,
                      folder=Path(os.devnull), epochs=1)
    keeps = {
        group.name: legal_keep(group, group.channels / 2, bench.evaluator.profile)
        for group in bench.network.table.groups
    }
    plan = Plan.of([Step(name, "prune", {"keep": keep}) for name, keep in keeps.items()])
    compressed = bench.network.compressor.compress(plan)
    built = bench.network.write(compressed)
    expected = outputs(compressed.model, bench.network.calibration).numpy()
    got = Runtime(built.data).run(bench.network.calibration.numpy())
    assert np.abs(got - expected).max() <= 1e-3 * np.abs(expected).max()
    assert len(built.data) < len(bench.network.writer.original_file)
