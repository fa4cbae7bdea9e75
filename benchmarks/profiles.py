"""Estimated against published latencies of whole networks, for each shipped profile that has any.

    python benchmarks/profiles.py          # prints the tables; `> benchmarks/profiles.md` keeps them
    python benchmarks/profiles.py --fit    # the rates fitted to the ncnn and STM32 tables

The published rows were partly used to fit the rates, so next to the plain error stands the error of a
fit that has not seen the row (leave one out).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
import torch
from scipy.optimize import lsq_linear  # type: ignore[import-untyped]

from autocompress.core.layer import Part
from autocompress.hardware.latency import estimate_latency_ms
from autocompress.hardware.profile import load_profile
from autocompress.tasks.vision import import_torchvision

NCNN = "Tencent/ncnn, benchmark/README.md, one thread"
STM = "STMicroelectronics/stm32ai-modelzoo, image_classification/*/README.md, STM32H747I-DISCO at 400 MHz"
TF = "NVIDIA/DeepLearningExamples, TensorFlow/Classification/ConvNets/resnet50v1.5/README.md"


@dataclass(frozen=True)
class Row:
    """One published latency. `rounded`: known from a throughput of two to four digits only."""

    net: str
    precision: str
    published_ms: float
    rounded: bool = False
    batch: int = 1


@dataclass(frozen=True)
class Table:
    """Published rows of one device. `clock`: the board's clock over the profile's."""

    profile: str
    source: str
    rows: tuple[Row, ...]
    clock: float = 1.0
    fitted: bool = True
    note: str = ""


# Counted MACs with which the rounded throughputs were published, in millions.
_MACS = {"MobileNetV1": 568.74, "MobileNetV2": 300.77, "ResNet-18": 1814.0, "ResNet-50": 3870.0, "VGG-16": 15470.0}


def _rates(net: str, precision: str, gmacs_per_s: float) -> Row:
    return Row(net, precision, round(_MACS[net] / gmacs_per_s, 1), rounded=True)


TABLES = (
    Table("raspberry-pi-4", NCNN, (
        Row("MobileNetV1", "float", 123.76), Row("MobileNetV2", "float", 92.98), _rates("ResNet-18", "float", 9.5),
        _rates("ResNet-50", "float", 7.3), Row("VGG-16", "float", 1066.58), _rates("MobileNetV1", "int8", 6.7),
        Row("ResNet-18", "int8", 157.92), Row("ResNet-50", "int8", 423.72), Row("VGG-16", "int8", 866.15),
    )),
    Table("raspberry-pi-5", NCNN, (
        Row("MobileNetV1", "fp16", 20.24), Row("MobileNetV2", "fp16", 16.21), _rates("ResNet-18", "fp16", 61.4),
        Row("ResNet-50", "fp16", 89.04), Row("VGG-16", "fp16", 188.84), Row("MobileNetV1", "int8", 14.38),
        Row("ResNet-18", "int8", 36.3), _rates("ResNet-50", "int8", 48.4), _rates("VGG-16", "int8", 56.8),
    )),
    Table("x86-avx2", NCNN, (
        Row("MobileNetV1", "float", 16.2), _rates("MobileNetV2", "float", 28.1), _rates("ResNet-18", "float", 52.2),
        Row("ResNet-50", "float", 85.47), Row("VGG-16", "float", 160.38), _rates("MobileNetV1", "int8", 33.9),
        Row("ResNet-18", "int8", 27.39), Row("ResNet-50", "int8", 71.18), _rates("VGG-16", "int8", 115.4),
    )),
    Table("x86-avx512-vnni", NCNN, (
        _rates("MobileNetV1", "float", 71.9), _rates("MobileNetV2", "float", 47.7), Row("ResNet-18", "float", 14.53),
        _rates("ResNet-50", "float", 101.1), _rates("VGG-16", "float", 150.3), Row("MobileNetV1", "int8", 7.04),
        Row("ResNet-18", "int8", 9.8), Row("ResNet-50", "int8", 23.34), Row("VGG-16", "int8", 78.74),
    )),
    Table("stm32h743", STM, (
        Row("MobileNetV1-0.25@224", "int8", 166.75), Row("MobileNetV1-0.25@96, 5 classes", "int8", 29.94),
        Row("MobileNetV1-0.5@224, 5 classes", "int8", 485.79), Row("MobileNetV1", "int8", 1641.84),
        Row("MobileNetV2-0.35@128", "int8", 116.13), Row("MobileNetV2-0.35@224, 5 classes", "int8", 290.75),
        Row("MobileNetV2-0.35@128, 5 classes", "int8", 94.34), Row("MobileNetV2-1.4@224", "int8", 2010.66),
    ), clock=400 / 480),
    Table("nvidia-t4", TF, (
        Row("ResNet-50 v1.5", "fp16", 4.77), Row("ResNet-50 v1.5", "fp16", 10.16, batch=8),
        Row("ResNet-50 v1.5", "fp16", 32.92, batch=32), Row("ResNet-50 v1.5", "float", 77.18, batch=32),
        Row("ResNet-50 v1.5", "float", 297.82, batch=128),
    ), note="Batches 1 and 128 set the figures of the profile; batches 8 and 32 were not used.", fitted=False),
)


def traced(model: torch.nn.Module, side: int) -> list[Part]:
    """Convolutions and linear layers of a network on the meta device, at 3 × side × side."""
    parts: list[Part] = []

    def hook(name: str) -> Callable[..., None]:
        def record(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            if isinstance(module, torch.nn.Conv2d):
                parts.append(Part(
                    name=name, layer=name, kind="conv", in_channels=module.in_channels,
                    out_channels=module.out_channels, groups=module.groups, kernel=tuple(module.kernel_size),
                    positions=math.prod(output.shape[2:]),
                ))
            elif isinstance(module, torch.nn.Linear):
                parts.append(Part(
                    name=name, layer=name, kind="linear", in_channels=module.in_features,
                    out_channels=module.out_features,
                ))
        return record

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(hook(name))
    with torch.no_grad():
        model.eval()(torch.empty(1, 3, side, side, device="meta"))
    return parts


def mobilenet_v1(width: float, side: int, classes: int) -> list[Part]:
    """Howard et al., "MobileNets", arXiv:1704.04861, table 1."""
    blocks = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    channels, side = int(32 * width), side // 2
    parts = [_conv("stem", 3, channels, 3, side)]
    for number, (out, stride) in enumerate(blocks):
        out, side = int(out * width), side // stride
        parts.append(_conv(f"{number}.depthwise", channels, channels, 3, side, groups=channels))
        parts.append(_conv(f"{number}.pointwise", channels, out, 1, side))
        channels = out
    return [*parts, Part(name="fc", layer="fc", kind="linear", in_channels=channels, out_channels=classes)]


def _conv(name: str, inputs: int, outputs: int, kernel: int, side: int, groups: int = 1) -> Part:
    return Part(
        name=name, layer=name, kind="conv", in_channels=inputs, out_channels=outputs, kernel=(kernel, kernel),
        groups=groups, positions=side * side,
    )


def networks() -> dict[str, list[Part]]:
    """Parts of every network in the tables, in float32."""
    models = import_torchvision().models
    with torch.device("meta"):
        first = models.resnet50()
        for module in first.modules():  # the first edition strides in the 1×1 convolution, as the Caffe model did
            if hasattr(module, "conv3") and module.stride == 2:
                module.conv1.stride, module.conv2.stride = (2, 2), (1, 1)
        nets = {
            "ResNet-18": traced(models.resnet18(), 224), "ResNet-50": traced(first, 224),
            "ResNet-50 v1.5": traced(models.resnet50(), 224), "VGG-16": traced(models.vgg16(), 224),
            "MobileNetV2": traced(models.mobilenet_v2(), 224),
        }
        for width, side, classes, tail in (
            (0.35, 128, 1000, ""), (0.35, 224, 5, ", 5 classes"), (0.35, 128, 5, ", 5 classes"), (1.4, 224, 1000, ""),
        ):
            model = models.mobilenet_v2(width_mult=width, num_classes=classes)
            nets[f"MobileNetV2-{width}@{side}{tail}"] = traced(model, side)
    nets["MobileNetV1"] = mobilenet_v1(1.0, 224, 1000)
    nets["MobileNetV1-0.25@224"] = mobilenet_v1(0.25, 224, 1000)
    nets["MobileNetV1-0.25@96, 5 classes"] = mobilenet_v1(0.25, 96, 5)
    nets["MobileNetV1-0.5@224, 5 classes"] = mobilenet_v1(0.5, 224, 5)
    return nets


_BITS = {"float": 32, "fp16": 16, "int8": 8}


def as_run(parts: list[Part], row: Row) -> list[Part]:
    """The parts at the precision and batch of a row."""
    bits = _BITS[row.precision]
    return [
        msgspec.structs.replace(part, weight_bits=bits, activation_bits=bits, positions=part.positions * row.batch)
        for part in parts
    ]


def estimated_ms(table: Table, row: Row, nets: dict[str, list[Part]]) -> float:
    """What the product estimates, at the clock of the board that was measured."""
    profile = load_profile(table.profile)
    return estimate_latency_ms(as_run(nets[row.net], row), profile).milliseconds / table.clock


def kind_of(part: Part) -> str:
    """The rate that a part is charged at."""
    if part.kind == "linear":
        return "linear"
    if part.groups > 1:
        return "depthwise"
    return "pointwise" if part.kernel == (1, 1) else "conv"


def fit(table: Table, rows: list[Row], nets: dict[str, list[Part]]) -> dict[str, float]:
    """Seconds per MAC of each kind: bounded least squares on the relative error.

    On a microcontroller every layer but the depthwise runs at one rate; elsewhere a linear layer takes
    what fetching its weights takes. One network with depthwise layers cannot tell their int8 rate from
    the pointwise one, so it is held to at most twice the rate in floating point.
    """
    kinds = ("conv", "depthwise") if table.profile == "stm32h743" else ("conv", "pointwise", "depthwise")
    matrix, target = [], []
    for row in rows:
        macs = macs_by_kind(nets[row.net], kinds)
        fixed_s = fetch_s(table, row, nets)
        seconds = row.published_ms / 1e3 * table.clock
        matrix.append([macs[kind] / seconds for kind in kinds])
        target.append(1 - fixed_s / seconds)
    floors = [0.0] * len(kinds)
    wide = [row for row in table.rows if row.precision != "int8"]
    if rows[0].precision == "int8" and wide:
        floors[kinds.index("depthwise")] = fit(table, wide, nets)["depthwise"] / 2
    # In nanoseconds, so that the solver sees numbers near one.
    found = lsq_linear(1e-9 * np.array(matrix), np.array(target), (1e9 * np.array(floors), np.inf))
    return dict(zip(kinds, (1e-9 * found.x).tolist(), strict=True))


def macs_by_kind(parts: list[Part], kinds: tuple[str, ...]) -> dict[str, float]:
    """MACs that each fitted rate must explain; linear layers are left to `fetch_s` unless they are the board's."""
    macs = dict.fromkeys(kinds, 0.0)
    for part in parts:
        kind = kind_of(part)
        if kind == "linear" and "pointwise" in kinds:
            continue
        macs[kind if kind in kinds else "conv"] += part.macs
    return macs


def fetch_s(table: Table, row: Row, nets: dict[str, list[Part]]) -> float:
    """Seconds to fetch the weights of the linear layers."""
    if table.profile == "stm32h743":
        return 0.0
    weights = sum(part.weights for part in nets[row.net] if part.kind == "linear")
    return weights * _BITS[row.precision] / 8 / load_profile(table.profile).bandwidth_bytes_per_s


def left_out_ms(table: Table, row: Row, nets: dict[str, list[Part]]) -> float:
    """The estimate for a row from rates fitted to the other rows of its precision."""
    others = [other for other in table.rows if other.precision == row.precision and other != row]
    rates = fit(table, others, nets)
    macs = macs_by_kind(nets[row.net], tuple(rates))
    seconds = sum(macs[kind] * rates[kind] for kind in rates) + fetch_s(table, row, nets)
    return 1e3 * seconds / table.clock


def report(nets: dict[str, list[Part]]) -> str:
    """The tables as Markdown."""
    lines = [
        "# Estimated against published latency", "",
        "Made by `python benchmarks/profiles.py > benchmarks/profiles.md`. One image, unless a batch is named. The",
        "rates of most profiles were fitted to these very rows, so `error` shows how well a handful of rates describes",
        "a device, and `held out` is the error of a fit that has not seen the row. A `~` marks a latency computed from",
        "a published throughput of two to four digits. `host` is not listed: its latency is measured, not estimated.",
        "",
    ]
    for table in TABLES:
        lines += [f"## {table.profile}", "", f"Source: {table.source}. {table.note}".rstrip(), ""]
        lines += ["| net | precision | published ms | estimated ms | error | held out |", "|---|---|--:|--:|--:|--:|"]
        errors, held = [], []
        for row in table.rows:
            estimate = estimated_ms(table, row, nets)
            errors.append(estimate / row.published_ms - 1)
            shown = "–"
            if table.fitted:
                held.append(left_out_ms(table, row, nets) / row.published_ms - 1)
                shown = f"{held[-1]:+.0%}"
            name = f"{row.net}, batch {row.batch}" if row.batch > 1 else row.net
            published = f"{'~' if row.rounded else ''}{row.published_ms:.4g}"
            lines.append(f"| {name} | {row.precision} | {published} | {estimate:.4g} | {errors[-1]:+.0%} | {shown} |")
        means = f"| mean of absolute values | | | | {np.abs(errors).mean():.0%} | "
        lines += [means + (f"{np.abs(held).mean():.0%} |" if held else "– |"), ""]
    return "\n".join(lines)


def main() -> None:
    """Print the tables, or the fitted rates."""
    nets = networks()
    if "--fit" not in sys.argv[1:]:
        print(report(nets).rstrip())
        return
    for table in TABLES:
        for precision in dict.fromkeys(row.precision for row in table.rows):
            if table.fitted:
                rates = fit(table, [row for row in table.rows if row.precision == precision], nets)
                print(table.profile, precision, {kind: f"{1e-9 / s:.3g} GMAC/s" for kind, s in rates.items() if s})


if __name__ == "__main__":
    main()
