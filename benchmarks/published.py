"""Published latencies (`published.csv`) and what the networks in them compute, as parts and operations.

The layers of ncnn's networks come from its own files (`benchmark/models/*.param` of Tencent/ncnn), those of the others
from their papers or torchvision.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from autocompress.core.layer import Arithmetic, Part
from autocompress.hardware.latency import Executed
from autocompress.tasks.vision import import_torchvision

ROWS = Path(__file__).with_name("published.csv")
MOVED = ("Pooling", "Eltwise", "BinaryOp", "Concat", "ShuffleChannel", "Swish", "HardSwish", "HardSigmoid", "Sigmoid",
         "Slice", "Softmax", "LRN", "Permute", "ReLU", "Interp", "GELU", "LayerNorm", "BatchNorm", "Padding", "Crop",
         "Reduction")
"""ncnn's layers that move tensors and multiply nothing to speak of."""
CLOCKS = {"stm32h743": 400 / 480}
"""Clock of the board that was measured over the profile's: the STM32H747 at 400 MHz."""


@dataclass(frozen=True)
class Row:
    """One published latency."""

    profile: str
    network: str
    precision: str
    batch: int
    milliseconds: float
    activation_kib: float | None
    where: str


@dataclass(frozen=True)
class Work:
    """What a network computes: layers in float32, and what is done beside them."""

    parts: tuple[Part, ...]
    beside: tuple[Executed, ...] = ()


def rows() -> list[Row]:
    """All of `published.csv`."""
    with ROWS.open(encoding="utf-8") as stream:
        return [Row(r["profile"], r["network"], r["precision"], int(r["batch"] or 1), float(r["latency_ms"]),
                    float(r["activation_kib"]) if r["activation_kib"] else None,
                    f"{r['repository']}, {r['path']}") for r in csv.DictReader(stream)]


def networks(models: Path) -> dict[str, Work]:
    """By name as in `published.csv`; `models`: the folder of ncnn's `*.param` files."""
    works = {path.stem: read_param(path) for path in sorted(models.glob("*.param")) if not path.stem.endswith("_int8")}
    vision = import_torchvision().models
    works["vision_transformer"] = _vision_transformer()
    with torch.device("meta"):
        works["ResNet-50 v1.5"] = Work(traced(vision.resnet50(), 224), RESNET50_BESIDE)
        for width, side, classes in ((0.35, 128, 1000), (0.35, 224, 5), (0.35, 128, 5), (1.4, 224, 1000)):
            data = "(ImageNet)" if classes == 1000 else "(flowers,5cls)"
            model = vision.mobilenet_v2(width_mult=width, num_classes=classes)
            works[f"MobileNetV2-{width} {data} @{side}"] = Work(traced(model, side))
        for side in (128, 224):
            works[f"SqueezeNet-1.1 (flowers) @{side}"] = Work(traced(vision.squeezenet1_1(num_classes=5), side))
    for width, side, classes in ((0.25, 224, 1000), (0.25, 96, 5), (0.5, 224, 5), (1.0, 224, 1000)):
        data = "(ImageNet)" if classes == 1000 else "(flowers,5cls)"
        works[f"MobileNetV1-{width} {data} @{side}"] = Work(separable(MOBILENET, width, side, classes))
    for side in (128, 224):
        works[f"FdMobileNet-0.25 (flowers) @{side}"] = Work(separable(FD_MOBILENET, 0.25, side, 5))
    works["ResNetV1-32 (cifar100) @32"] = Work(_resnet32())
    return works


def traced(model: torch.nn.Module, side: int) -> tuple[Part, ...]:
    """Convolutions and linear layers of a network on the meta device, at 3 × side × side."""
    parts: list[Part] = []

    def hook(name: str) -> Callable[..., None]:
        def record(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            if isinstance(module, torch.nn.Conv2d):
                parts.append(conv(name, module.in_channels, module.out_channels, module.kernel_size[0],
                                  output[0, 0].numel(), inputs[0][0, 0].numel(), module.groups))
            elif isinstance(module, torch.nn.Linear):
                parts.append(linear(name, module.in_features, module.out_features))
        return record

    for name, module in model.named_modules():
        module.register_forward_hook(hook(name))
    with torch.no_grad():
        model.eval()(torch.empty(1, 3, side, side, device="meta"))
    return tuple(parts)


RESNET50_BESIDE = tuple(Executed("none", 0, elements, 32) for elements in (
    64 * (112**2 + 56**2), *(3 * channels * side * side for channels, side, count in (
        (256, 56, 3), (512, 28, 4), (1024, 14, 6), (2048, 7, 3)) for _ in range(count)), 2048 * 50))
"""Its poolings and its sums."""
MOBILENET = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
"""Channels and stride of each block: Howard et al., "MobileNets", arXiv:1704.04861, table 1."""
FD_MOBILENET = [(64, 2), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 4, (1024, 1)]
"""Qin et al., "FD-MobileNet: Improved MobileNet with a Fast Downsampling Strategy", arXiv:1802.03750, table 2."""


def separable(blocks: list[tuple[int, int]], width: float, side: int, classes: int) -> tuple[Part, ...]:
    """A network of depthwise and pointwise convolutions behind one convolution of stride 2."""
    channels = int(32 * width)
    parts = [conv("stem", 3, channels, 3, (side // 2)**2, side**2)]
    side //= 2
    for number, (out, stride) in enumerate(blocks):
        out, before, side = int(out * width), side**2, math.ceil(side / stride)
        parts.append(conv(f"{number}.depthwise", channels, channels, 3, side**2, before, groups=channels))
        parts.append(conv(f"{number}.pointwise", channels, out, 1, side**2, side**2))
        channels = out
    return (*parts, linear("fc", channels, classes))


def _resnet32() -> tuple[Part, ...]:
    """He et al., "Deep Residual Learning", arXiv:1512.03385, section 4.2, n = 5, for 100 classes."""
    parts, channels, side = [conv("stem", 3, 16, 3, 1024, 1024)], 16, 32
    for stage, out in enumerate((16, 32, 64)):
        for block in range(5):
            stride = 2 if stage and not block else 1
            before, side = side * side, side // stride
            parts.append(conv(f"{stage}.{block}.a", channels, out, 3, side * side, before))
            parts.append(conv(f"{stage}.{block}.b", out, out, 3, side * side, side * side))
            if stride == 2:
                parts.append(conv(f"{stage}.{block}.s", channels, out, 1, side * side, before))
            channels = out
    return (*parts, linear("fc", 64, 100))


def _vision_transformer() -> Work:
    """Dosovitskiy et al., arXiv:2010.11929, ViT-B/16 at 384 pixels: what ncnn's file of that name holds."""
    tokens, width = 577, 768
    parts, beside = [conv("patch", 3, width, 16, 576, 384 * 384)], []
    for block in range(12):
        parts += [linear(f"{block}.{name}", width, width, tokens) for name in ("q", "k", "v", "proj")]
        parts += [linear(f"{block}.up", width, 4 * width, tokens), linear(f"{block}.down", 4 * width, width, tokens)]
        beside += [Executed("matmul", 2 * tokens * tokens * width, 4 * tokens * width + 2 * 12 * tokens**2, 32)]
        beside += [Executed("none", 0, count * tokens * width, 32) for count in (2, 3, 2, 8, 3)]
    return Work((*parts, linear("head", width, 1000)), tuple(beside))


def conv(name: str, inputs: int, outputs: int, kernel: int, positions: int, before: int, groups: int = 1) -> Part:
    """A square convolution from `before` positions to `positions`."""
    return Part(name=name, layer=name, kind="conv", in_channels=inputs, out_channels=outputs, kernel=(kernel, kernel),
                groups=groups, positions=positions, in_positions=before)


def linear(name: str, inputs: int, outputs: int, positions: int = 1) -> Part:
    """A linear layer, applied at so many positions."""
    return Part(name=name, layer=name, kind="linear", in_channels=inputs, out_channels=outputs, positions=positions,
                in_positions=positions)


def read_param(path: Path) -> Work:
    """ncnn's text of a network whose blobs have shape hints (`-23330`); empty where a layer has none."""
    shapes: dict[str, tuple[int, ...]] = {}
    parts: list[Part] = []
    beside: list[Executed] = []
    for line in path.read_text("utf-8").splitlines()[2:]:
        kind, name, count_in, count_out, *rest = line.split()
        split = int(count_in) + int(count_out)
        inputs, outputs = rest[:int(count_in)], rest[int(count_in):split]
        values = {int(key): text for key, _, text in (entry.partition("=") for entry in rest[split:])}
        if -23330 not in values:
            if kind in ("Convolution", "ConvolutionDepthWise", "InnerProduct", "Gemm"):
                return Work(())
            continue  # what comes behind the network: boxes, detections
        sizes = [int(size) for size in values[-23330].split(",")[1:]]
        for i, blob in enumerate(outputs):
            rank, *axes = sizes[4 * i:4 * i + 4]
            shapes[blob] = tuple(axes[:rank])  # width, height, channels
        if kind in ("Convolution", "ConvolutionDepthWise", "DeconvolutionDepthWise"):
            into, out = shapes[inputs[0]], shapes[outputs[0]]
            groups = int(values.get(7, 1)) if kind != "Convolution" else 1
            kernel = int(values[1]), int(values.get(11, values[1]))
            parts.append(Part(name=name, layer=name, kind="conv", in_channels=into[-1], out_channels=int(values[0]),
                              groups=groups, kernel=kernel, positions=math.prod(out[:-1]),
                              in_positions=math.prod(into[:-1])))
        elif kind == "InnerProduct":
            parts.append(linear(name, int(values[2]) // int(values[0]), int(values[0])))
        elif kind in MOVED:
            elements = sum(math.prod(shapes.get(blob, (0,))) for blob in (*inputs, *outputs))
            beside.append(Executed("none", 0, elements, 32))
    return Work(tuple(parts), tuple(beside))


ARITHMETIC: tuple[Arithmetic, ...] = ("conv", "pointwise", "grouped", "depthwise", "linear", "matmul")
