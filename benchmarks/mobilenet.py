"""MobileNetV2 for Fashion-MNIST: the second network of the benchmarks, and how it is trained.

    python benchmarks/mobilenet.py DIR [--epochs 6]

torchvision's network for 1×28×28 images and 10 classes: stem stride 2 (28 → 14), the first strided stage left at 14.
Writes `mobilenet.safetensors` into DIR and prints its test accuracy. AdamW, one cycle, shifts and mirrors, label
smoothing; seed 0.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from autocompress.tasks.data import load_data
from autocompress.tasks.vision import mend_torchvision

BATCH = 128
PEAK_RATE = 3e-3


def model() -> nn.Module:
    """Fresh weights; input `(N, 1, 28, 28)` float32, output `(N, 10)` logits."""
    mend_torchvision()
    from torchvision.models import mobilenet_v2

    network: nn.Module = mobilenet_v2(num_classes=10, dropout=0.1)
    network.features[0][0] = nn.Conv2d(1, 32, 3, stride=2, padding=1, bias=False)
    network.features[2].conv[1][0].stride = (1, 1)
    return network


def train(epochs: int) -> tuple[nn.Module, float]:
    """The trained network in eval mode and its accuracy on the test split."""
    torch.manual_seed(0)
    data = load_data("fashion-mnist", seed=0)
    network = model().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=PEAK_RATE, weight_decay=0.05)
    steps = len(data.train) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=epochs * steps)
    generator = torch.Generator().manual_seed(0)
    for epoch in range(epochs):
        network.train()
        inputs = data.normalise(data.train_view(epoch + 1, seed=0))
        order = torch.randperm(len(inputs), generator=generator)
        for step in range(steps):
            rows = order[step * BATCH:(step + 1) * BATCH]
            loss = F.cross_entropy(network(inputs[rows]), data.train.targets[rows], label_smoothing=0.05)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
        score = accuracy(network.eval(), data.normalise(data.validation.inputs), data.validation.targets)
        print(f"epoch {epoch + 1}: validation {score:.4f}", flush=True)
    return network, accuracy(network, data.normalise(data.test.inputs), data.test.targets)


@torch.no_grad()
def accuracy(network: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    """Share of right answers."""
    right = [(network(x).argmax(1) == y).sum() for x, y in zip(inputs.split(500), targets.split(500), strict=True)]
    return float(torch.stack(right).sum() / len(targets))


def main() -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=6)
    args = parser.parse_args()
    network, score = train(args.epochs)
    args.folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    save_file(state, args.folder / "mobilenet.safetensors")
    print(f"test {score:.4f}")


if __name__ == "__main__":
    main()
