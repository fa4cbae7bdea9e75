"""Networks that answer a sample by what else is in its batch are refused, by the name of the layer that does it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from autocompress.backend.graph.batch_parity import check_batch_parity
from autocompress.core.plan import Plan
from autocompress.errors import InputError
from autocompress.formats.onnx.runtime import Runtime
from autocompress.hardware.profile import load_profile
from autocompress.study.workbench import Workbench
from autocompress.testing.networks import NETWORKS, randomised_norms, task_data


class _Net(nn.Module):
    """Two convolutions with a norm behind each, and what `mix` does between them."""

    def __init__(self, norm: type[nn.Module], mix: str = "", **options: object) -> None:
        super().__init__()
        self.mix = mix
        self.c1, self.n1 = nn.Conv2d(1, 8, 3, padding=1), norm(8, **options)
        self.c2, self.n2 = nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.n1(self.c1(x)))
        if self.mix == "mean":
            x = x - x.mean(0)
        if self.mix == "next":
            x = x + 0.5 * x.roll(1, 0)
        if self.mix == "before":
            x = x.cumsum(0)
        x = self.head(torch.relu(self.n2(self.c2(x))).mean((2, 3)))
        return x.softmax(0) if self.mix == "softmax" else x.squeeze() if self.mix == "squeeze" else x


def _made(net: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in net.parameters():
        nn.init.normal_(parameter, 0.0, 0.3)
    return randomised_norms(net.eval()) if not isinstance(net.n1, nn.BatchNorm2d) or net.n1.track_running_stats \
        else net.eval()


PICTURES = torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("net", "named"), [
    (lambda: _Net(nn.BatchNorm2d, track_running_stats=False), r"the layer n1 \(BatchNorm2d\) mixes them"),
    (lambda: _Net(nn.BatchNorm2d, "mean"), "the code of _Net before the layer c2 mixes them"),
    (lambda: _Net(nn.BatchNorm2d, "next"), "the code of _Net before the layer c2 mixes them"),
    (lambda: _Net(nn.BatchNorm2d, "before"), "the code of _Net before the layer c2 mixes them"),
    (lambda: _Net(nn.BatchNorm2d, "softmax"), "the code of _Net mixes them"),
    (lambda: _Net(nn.BatchNorm2d, "squeeze"), "the code of _Net mixes them")
], ids=["no statistics", "minus the mean", "the neighbour", "those before", "softmax over samples", "squeeze"])
def test_what_mixes_samples_is_named(net: object, named: str) -> None:
    with pytest.raises(InputError, match="must not depend on the other samples of its batch, but " + named):
        check_batch_parity(_made(net()), PICTURES)  # type: ignore[operator]


@pytest.mark.parametrize("net", [
    lambda: _Net(nn.BatchNorm2d), lambda: _Net(nn.InstanceNorm2d, affine=True),
    lambda: _Net(nn.InstanceNorm2d, affine=True, track_running_stats=True), lambda: _Net(nn.Identity)],
    ids=["norm", "instance norm", "instance norm with statistics", "none"])
def test_what_keeps_samples_apart_passes(net: object) -> None:
    check_batch_parity(_made(net()), PICTURES)  # type: ignore[operator]
    check_batch_parity(_made(net()), PICTURES[:1])  # type: ignore[operator]


@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_every_small_network_passes(network: str) -> None:
    entry = NETWORKS[network]
    data = entry.data()
    check_batch_parity(entry.make(), data.normalise(data.train.inputs))


def test_a_norm_that_refuses_a_single_sample_is_named() -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6, track_running_stats=False), nn.Linear(6, 3)).eval()
    with pytest.raises(InputError, match=r"alone a sample fails in the layer 1 \(BatchNorm1d\): Expected more than 1"):
        check_batch_parity(net, torch.randn(20, 4))


@pytest.mark.parametrize("first", [False, True])
def test_attention_over_the_batch_is_named(first: bool) -> None:
    """`batch_first` left at its default over batches of sequences: samples attend to one another."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=first), nn.Flatten(), nn.Linear(40, 3)).eval()
    steps = torch.randn(20, 5, 8)
    if first:
        check_batch_parity(net, steps)
    else:
        with pytest.raises(InputError, match=r"the layer 0.self_attn \(MultiheadAttention\) mixes them"):
            check_batch_parity(net, steps)


class _Folded(nn.Module):
    """Windows folded into the batch, in blocks or in turn, and sequences with samples in the second dimension."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.inner, self.norm, self.head = way, nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 3)

    def forward(self, steps: Tensor) -> Tensor:
        count = len(steps)
        if self.way == "blocks":
            seen = self.norm(self.inner(steps.reshape(-1, 6))).reshape(count, -1, 6)
        elif self.way == "turns":
            seen = self.norm(self.inner(steps.transpose(0, 1).reshape(-1, 6))).reshape(-1, count, 6).transpose(0, 1)
        else:
            seen = self.norm(self.inner(steps.transpose(0, 1))).transpose(0, 1)
        return self.head(seen.mean(1) if self.way != "mixed" else seen.mean(1) - seen.mean((0, 1)))


@pytest.mark.parametrize("way", ["blocks", "turns", "second"])
def test_samples_may_be_folded_or_in_another_dimension(way: str) -> None:
    steps = torch.randn(20, 5, 6, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    check_batch_parity(_Folded(way).eval(), steps)
    with pytest.raises(InputError, match="the code of _Folded before the layer head"):
        check_batch_parity(_Folded("mixed").eval(), steps)


def test_randomness_and_failures_are_left_to_the_checks_that_say_so() -> None:
    class Random(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1) + torch.rand(())

    class Failing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise TypeError("odd")

    check_batch_parity(Random(), PICTURES)
    check_batch_parity(Failing(), PICTURES)


def test_a_workbench_refuses_it_before_anything_else(tmp_path: Path) -> None:
    def bench(net: nn.Module) -> Workbench:
        return Workbench(_made(net), task_data((1, 8, 8), 10, samples=32), load_profile("host"), seed=0,
                         folder=tmp_path, epochs=1)

    with pytest.raises(InputError, match=r"the layer n1 \(BatchNorm2d\)"):
        bench(_Net(nn.BatchNorm2d, track_running_stats=False))
    kept = bench(_Net(nn.InstanceNorm2d, affine=True))
    runtime = Runtime(kept.network.write(kept.network.compressor.compress(Plan())).data)
    inputs = kept.network.calibration[:16].numpy()
    torch.testing.assert_close(torch.cat([torch.from_numpy(runtime.run(row[None])) for row in inputs]),
                               torch.from_numpy(runtime.run(inputs)), rtol=1e-3, atol=1e-4)
