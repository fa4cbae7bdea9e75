"""MLPerf Tiny's image classifier, ResNet-8, in the open division, on CIFAR-10's training pictures saved as JPEG.

    python benchmarks/mlperf_tiny_pictures.py train WEIGHTS
    python benchmarks/mlperf_tiny_pictures.py search DIR --weights WEIGHTS

`STRANGERS_SHARED` names the folder that holds `cifar_jpeg_train.zip`, 50,000 pictures. 40,000 train, 5,000 validate and
5,000 test, drawn once for each class. JPEG costs accuracy: figures are for one another, not for published ones.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import time
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

import autocompress

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
OTHERS = 500  # pictures of each class that validate, and as many that test
BATCH, RATE, DECAY, SMOOTHING = 128, 0.2, 5e-4, 0.1


class Block(nn.Module):
    """Two convolutions beside a shortcut, which is a convolution where the resolution is halved."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        stride = 1 if channels == outputs else 2
        self.conv1, self.bn1 = nn.Conv2d(channels, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Conv2d(channels, outputs, 1, stride) if stride == 2 else nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        return torch.relu(self.shortcut(maps) + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(maps))))))


def resnet8() -> nn.Module:
    """The reference's architecture: pictures `(N, 3, 32, 32)` to 10 scores, 77,706 parameters of weights and biases."""
    return nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), Block(16, 16),
                         Block(16, 32), Block(32, 64), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


@lru_cache
def pictures() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Bytes `(N, 3, 32, 32)` and labels by split."""
    parts: dict[str, list[tuple[bytes, int]]] = {"train": [], "val": [], "test": []}
    with zipfile.ZipFile(Path(os.environ["STRANGERS_SHARED"]) / "data/cifar_jpeg_train.zip") as archive:
        by_class: dict[str, list[str]] = {}
        for name in sorted(archive.namelist()):
            if name.endswith((".jpg", ".jpeg", ".png")):
                by_class.setdefault(name.split("/")[-2], []).append(name)
        for label, (_, names) in enumerate(sorted(by_class.items())):
            for place, at in enumerate(np.random.default_rng(label).permutation(len(names))):
                part = "val" if place < OTHERS else "test" if place < 2 * OTHERS else "train"
                parts[part].append((archive.read(names[at]), label))
    return {part: (np.stack([np.array(Image.open(io.BytesIO(data)).convert("RGB")).transpose(2, 0, 1)
                             for data, _ in each]), np.array([label for _, label in each]))
            for part, each in parts.items()}


def data() -> dict[str, Any]:
    """The pictures as a search takes them."""
    return {**pictures(), "classes": 10, "mean": MEAN, "std": STD, "pad": 4, "flip": True}


def normalised(batch: np.ndarray) -> Tensor:
    """Bytes as the network reads them."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return ((torch.from_numpy(batch).float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


def train(weights: Path, epochs: int) -> None:
    """Train the reference: one-cycle SGD on shifted and mirrored pictures."""
    torch.manual_seed(0)
    network, (samples, labels) = resnet8().to(memory_format=torch.channels_last), pictures()["train"]
    targets, draw, began = torch.from_numpy(labels), np.random.default_rng(0), time.time()
    optimiser = torch.optim.SGD(network.parameters(), RATE, 0.9, weight_decay=DECAY, nesterov=True)
    steps = len(samples) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=epochs * steps)
    padded = np.pad(samples, ((0, 0), (0, 0), (4, 4), (4, 4)))
    for epoch in range(epochs):
        network.train()
        for rows in draw.permutation(len(samples))[:steps * BATCH].reshape(steps, BATCH):
            down, right = draw.integers(0, 9, 2)
            batch = padded[rows, :, down:down + 32, right:right + 32]
            batch = np.where(draw.random((BATCH, 1, 1, 1)) < 0.5, batch[..., ::-1], batch)
            loss = nn.functional.cross_entropy(network(normalised(batch)), targets[rows], label_smoothing=SMOOTHING)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        print(f"epoch {epoch + 1}: validation {accuracy(network, 'val'):.4f}, {time.time() - began:.0f} s", flush=True)
    print(f"test {accuracy(network, 'test'):.4f}")
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, weights)


def accuracy(network: nn.Module, part: str) -> float:
    """On one split."""
    samples, labels = pictures()[part]
    network.eval()
    with torch.inference_mode():
        answers = torch.cat([network(normalised(batch)).argmax(1) for batch in np.array_split(samples, 20)])
    return float((answers.numpy() == labels).mean())


def search(out: Path, weights: Path, args: argparse.Namespace) -> None:
    """Search, and print what the test split says of the exported file."""
    result = autocompress.search(model=f"{__file__}:resnet8", weights=weights, data=f"{__file__}:data",
                                 profile=args.profile, budget=args.budget, peak_memory=args.peak_memory,
                                 trials=args.trials, timeout=args.timeout, seed=args.seed, out=out)
    manifest = json.loads((out / "artifact/manifest.json").read_text())
    verified, metrics = manifest["verified"], manifest["metrics"]
    print(f"accuracy {verified['accuracy']:.4f}, original {verified['baseline_accuracy']:.4f} "
          f"of {verified['test_samples']:,} pictures")
    print(f"{result.artifact['path']}: {metrics['size_bytes']:.0f} bytes, "
          f"RAM {metrics['peak_memory_bytes']:.0f} bytes, {metrics['latency_ms']:.3f} ms, "
          f"{metrics['macs'] / 1e6:.3f} MMAC")


def main() -> None:
    """Train, or search."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "search"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--profile", default="stm32l4r5")
    parser.add_argument("--budget", default="44kB")
    parser.add_argument("--peak-memory", default="44KiB")
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--timeout", default="12m")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.what == "train":
        train(args.out, args.epochs)
    else:
        search(args.out, args.weights, args)


if __name__ == "__main__":
    main()
