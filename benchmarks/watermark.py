"""What a watermark costs, and what removes it: noise on levels, other widths, training.

    python benchmarks/watermark.py

The keyword spotter of MLPerf Tiny on its 1,000 official samples, and the ResNet-18 of Fashion-MNIST on 2,000 test
pictures, quantised without training. Accuracies are of the network in torch whose integers a file holds.
`STRANGERS_SHARED` names the folder with both networks.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from autocompress.artifact.watermark import evidence
from autocompress.backend.network.quantized_weight import QuantizedWeight, level_table, quantize_weight
from autocompress.formats.base import WritableNetwork
from autocompress.formats.table import format_named
from autocompress.hardware.profile import load_profile
from autocompress.study.watermarking import with_watermark
from autocompress.study.workbench import Workbench
from autocompress.tasks.named_sets import fashion_mnist
from autocompress.tasks.splits import Split, TaskData
from autocompress.tasks.vision import import_torchvision
from autocompress.testing.exporters import integers

sys.path.insert(0, str(Path(__file__).parent))
import mlperf_tiny

KEY = bytes(range(32))
NOISE, WIDTHS, STEPS = (0.05, 0.1, 0.2, 0.3, 0.5), (8, 7, 6, 5, 4), (10, 50, 200)
TESTED = 2000
Levels = dict[str, QuantizedWeight]


def networks() -> Iterator[tuple[str, nn.Module, TaskData]]:
    """Networks with data whose training split is not what is tested."""
    shared = Path(os.environ["STRANGERS_SHARED"])
    features, labels = (torch.from_numpy(array) for array in mlperf_tiny.official())
    half = Split(features[:500], labels[:500])
    yield "DS-CNN", mlperf_tiny.keyword_spotter(), TaskData("kws", half, half, Split(features[500:], labels[500:]), 12)
    import_torchvision()
    sys.path.insert(0, str(shared / "base"))
    import resnet18_fashion

    network = resnet18_fashion.model()
    network.load_state_dict(load_file(shared / "base/resnet18_fashion.safetensors"))
    data = fashion_mnist(None)
    part = torch.arange(TESTED)
    yield "ResNet-18", network, TaskData("fashion", data.train, data.validation, Split(
        data.test.inputs[part], data.test.targets[part]), 10, mean=data.mean, std=data.std)


def accuracy(network: nn.Module, data: TaskData) -> float:
    """On the test split."""
    with torch.inference_mode():
        answers = torch.cat([network(data.normalise(rows)).argmax(1) for rows in data.test.inputs[:].split(250)])
    return float((answers == data.test.targets).float().mean())


def with_weights(network: nn.Module, weights: Levels) -> nn.Module:
    """A copy with other integer weights."""
    network = copy.deepcopy(network)
    with torch.no_grad():
        for name, weight in weights.items():
            network.get_submodule(name).weight.copy_(weight.dequantized())
    return network


def shown(weights: Levels) -> str:
    """What the key shows."""
    shown_by_key = evidence([weight.levels.flatten(1).numpy() for weight in weights.values()], KEY)
    return f"2^{shown_by_key.exponent:.0f}{'' if shown_by_key.detected else ', gone'}"


def noisy(weights: Levels, share: float) -> Levels:
    """A share of the levels moved by one."""
    changed, draw = {}, np.random.default_rng(0)
    for name, weight in weights.items():
        table = level_table(weight).numpy().astype(np.int8)
        places = np.searchsorted(table, weight.levels.numpy())
        by = np.where(draw.random(places.shape) < share, draw.choice([-1, 1], places.shape), 0)
        levels = torch.from_numpy(table[np.clip(places + by, 0, len(table) - 1)])
        changed[name] = QuantizedWeight(weight.bits, levels, weight.scale, weight.table, limit=weight.limit)
    return changed


def again(network: nn.Module, weights: Levels, bits: int) -> Levels:
    """The weights of a network on new grids."""
    return {name: quantize_weight(network.get_submodule(name).weight.detach(), bits, limit=weight.limit)
            for name, weight in weights.items()}


def trained(network: nn.Module, data: TaskData, steps: int) -> nn.Module:
    """A copy trained on labels, as somebody would who adapts it."""
    network, generator = copy.deepcopy(network), torch.Generator().manual_seed(0)
    optimiser = torch.optim.SGD(network.parameters(), 0.01, 0.9)
    for _ in range(steps):
        rows = torch.randint(len(data.train), (64,), generator=generator)
        scores: Tensor = network(data.normalise(data.train.inputs[rows]))
        optimiser.zero_grad()
        nn.functional.cross_entropy(scores, data.train.targets[rows]).backward()
        optimiser.step()
    return network


def rows(name: str, network: nn.Module, data: TaskData, bits: int) -> Iterator[str]:
    """The rows of one network at one width."""
    bench = Workbench(network, data, load_profile("host"), seed=0, epochs=1, file_format=format_named("onnx"))
    compressed = bench.network.compressor.compress(integers(bench, (bits,), 32))
    plain = bench.network.writer.writable(compressed)
    bare = copy.deepcopy(plain.model)
    marked: WritableNetwork
    marked, marks = with_watermark(plain, KEY, compressed)
    weights = {layer: weight for layer, weight in marked.integers.items() if isinstance(weight, QuantizedWeight)}
    head = f"| {name}, {bits} bits"
    yield f"{head} | none | {accuracy(bare, data):.2%} | {shown(again(bare, weights, bits))} |"
    total = sum(weight.levels.numel() for weight in weights.values())
    yield (f"{head} | marked: {marks.moved:,} of {total:,} weights moved | {accuracy(marked.model, data):.2%} | "
           f"{shown(weights)} |")
    for share in NOISE:
        changed = noisy(weights, share)
        yield (f"{head} | {share:.0%} of the levels moved by one | "
               f"{accuracy(with_weights(marked.model, changed), data):.2%} | {shown(changed)} |")
    for other in WIDTHS:
        changed = again(marked.model, weights, other)
        yield (f"{head} | quantised anew at {other} bits | "
               f"{accuracy(with_weights(marked.model, changed), data):.2%} | {shown(changed)} |")
    for steps in STEPS:
        network = trained(marked.model, data, steps)
        changed = again(network, weights, bits)
        yield (f"{head} | trained for {steps} steps, then quantised | "
               f"{accuracy(with_weights(network, changed), data):.2%} | {shown(changed)} |")


def main() -> None:
    """Print a table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print("| network | what was done | accuracy | another key shows as much |\n|---|---|--:|---|")
    for name, network, data in networks():
        for bits in (8, 4):
            for row in rows(name, network.eval(), data, bits):
                print(row, flush=True)


if __name__ == "__main__":
    main()
