"""Networks of `artefacts.py`, each with its data, by the name of its rows.

`STRANGERS_SHARED` names the folder that holds MLPerf Tiny's keyword spotter, the ResNet-18 for Fashion-MNIST and
`cifar_jpeg_train.zip`, `STRANGERS_PACKAGES` the one into which `python benchmarks/strangers --install` put the weights
of MobileNetV2. The transformer and the GRU are trained where they are first needed, in a minute or two on one core, and
kept below `TASKS_PACKAGES`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from autocompress.tasks.named_sets import fashion_mnist
from autocompress.tasks.splits import Split, TaskData
from autocompress.tasks.vision import mend_torchvision

sys.path.insert(0, str(Path(__file__).with_name("tasks")))
import mlperf_tiny
import mlperf_tiny_pictures
import networks as strangers
from training import trained

mend_torchvision()
Subject = tuple[nn.Module, TaskData]
# Pictures for MobileNetV2: pixels of a side, and samples by split; of its 224 pixels one file would take minutes.
SIDE, PICTURES = 128, {"train": 256, "val": 64, "test": 2000}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def keyword_spotter() -> Subject:
    """MLPerf Tiny's DS-CNN; half of its 1,000 samples calibrate, the other half tests."""
    features, labels = (torch.from_numpy(array) for array in mlperf_tiny.official())
    half = Split(features[:500], labels[:500])
    return mlperf_tiny.keyword_spotter(), TaskData("kws", half, half, Split(features[500:], labels[500:]), 12)


def resnet18() -> Subject:
    """A ResNet-18 trained on Fashion-MNIST."""
    base = Path(os.environ["STRANGERS_SHARED"]) / "base"
    sys.path.insert(0, str(base))
    import resnet18_fashion

    network: nn.Module = resnet18_fashion.model()
    network.load_state_dict(load_file(base / "resnet18_fashion.safetensors"))
    return network.eval(), fashion_mnist(None)


def mobilenet_v2() -> Subject:
    """torchvision's MobileNetV2, pretrained on ImageNet, and small photographs, enlarged, with its own answers."""
    network = strangers.mobilenet_v2()
    pictures = mlperf_tiny_pictures.pictures()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))

    def split(name: str) -> Split:
        rows = np.random.default_rng(0).permutation(len(pictures[name][0]))[:PICTURES[name]]
        small = torch.from_numpy(pictures[name][0][rows]).float()
        pixels = F.interpolate(small, size=SIDE, mode="bicubic").round().clamp(0, 255).to(torch.uint8)
        with torch.inference_mode():
            labels = torch.cat([network((batch.float() / 255 - mean) / std).argmax(1) for batch in pixels.split(32)])
        return Split(pixels, labels.clone())

    return network, TaskData("photographs", split("train"), split("val"), split("test"), 1000, MEAN, STD)


class Rows(nn.Module):
    """A picture read row by row by two layers of GRU: `(N, 1, 28, 28)` to 10 scores."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(28, 64, 2, batch_first=True), nn.Linear(64, 10)

    def forward(self, pictures: Tensor) -> Tensor:
        """Scores `(N, 10)`."""
        scores: Tensor = self.head(self.rnn(pictures[:, 0])[0][:, -1])
        return scores


def transformer() -> nn.Module:
    """A ViT of six layers on the 16 patches of a picture `(N, 1, 28, 28)`, 0.7 million weights."""
    from timm.models.vision_transformer import VisionTransformer

    network: nn.Module = VisionTransformer(img_size=28, patch_size=7, in_chans=1, num_classes=10, embed_dim=96, depth=6,
                                           num_heads=3)
    return network


def cross_entropy(network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Of the network's scores."""
    return F.cross_entropy(network(batch["pictures"]), batch["label"])


def taught(name: str, make: Callable[[], nn.Module], epochs: int, rate: float) -> Subject:
    """A network trained on Fashion-MNIST."""
    data = fashion_mnist(None)
    batch = {"pictures": data.normalise(data.train.inputs), "label": data.train.targets}
    return trained(name, make, batch, cross_entropy, epochs=epochs, rate=rate, batch=128), data


NETWORKS: dict[str, Callable[[], Subject]] = {
    "DS-CNN": keyword_spotter, "ResNet-18, Fashion-MNIST": resnet18, "MobileNetV2, ImageNet": mobilenet_v2,
    "ViT, Fashion-MNIST": lambda: taught("artefacts_vit", transformer, 3, 1e-3),
    "GRU, Fashion-MNIST": lambda: taught("artefacts_gru", Rows, 3, 3e-3)}
