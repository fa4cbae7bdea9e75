"""Files by format: what they hold, how they answer, and how well their bytes and arenas are predicted.

    python benchmarks/artefacts.py files
    python benchmarks/artefacts.py predictions --plans 200

`files`: networks in 8-bit weights and activations, untrained for it, in each format: bytes, answers beside those of the
same network in torch, and time beside the float original in the same runtime. `predictions` are over random plans.
Each plan draws every knob of the space, on the keyword spotter of MLPerf Tiny, a narrow MobileNetV2 and a ResNet-18.
Nothing is trained: a prediction knows shapes and widths alone. `STRANGERS_SHARED` names the folder that holds the
reference network and its samples.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autocompress.errors import InputError
from autocompress.estimate import estimate
from autocompress.formats.running import in_batches, on_device
from autocompress.formats.table import format_named
from autocompress.formats.timing import time_files
from autocompress.hardware.profile import load_profile
from autocompress.space.format_legality import space_of
from autocompress.space.space import Space
from autocompress.space.spec import load_space
from autocompress.study.file_writer import as_arrays
from autocompress.study.workbench import Workbench
from autocompress.tasks.splits import Split, TaskData
from autocompress.tasks.vision import import_torchvision
from autocompress.testing.exporters import integers
from autocompress.testing.networks import NETWORKS, randomised_norms, task_data

sys.path.insert(0, str(Path(__file__).parent))
import mlperf_tiny

# Profile and space by format: whose widths, and what else is drawn.
DRAWN = {"onnx": ("host", "default"), "tflite": ("pixel-3", "default"), "tflite-micro": ("stm32l4r5", "default")}
SIDE = 64


def benches(name: str, profile: str) -> Iterator[Workbench]:
    """The keyword spotter, a MobileNetV2 of a third of the width and a ResNet-18, each on a bench for files of a
    format; the last two on random data."""
    features, labels = mlperf_tiny.official()
    split = Split(torch.from_numpy(features[:200]), torch.from_numpy(labels[:200]))
    vision = import_torchvision().models
    torch.manual_seed(0)
    networks = [(mlperf_tiny.keyword_spotter(), TaskData("kws", split, split, split, 12))]
    networks += [(randomised_norms(network.eval()), task_data((3, SIDE, SIDE), 10))
                 for network in (vision.mobilenet_v2(num_classes=10, width_mult=0.35), vision.resnet18(num_classes=10))]
    for network, data in networks:
        yield Workbench(network, data, load_profile(profile), seed=0, epochs=1, file_format=format_named(name))


def drawn(space: Space, draw: random.Random) -> Any:
    """A random plan of a space."""
    values = {knob.key: draw.choice(knob.choices) if knob.choices else draw.uniform(knob.low, 0.7 * knob.high)
              for knob in space.knobs}
    return space.decode(values)


def row(name: str, plans: int) -> str:
    """Errors of one format over so many plans."""
    profile, spec = DRAWN[name]
    sizes, arenas, seconds, draw = [], [], [], random.Random(0)
    every = list(benches(name, profile))
    spaces = [space_of(bench.network.table, load_space(spec), bench.evaluator.profile, bench.network.writer.format)
              for bench in every]
    for number in range(plans):
        bench, space = every[number % len(every)], spaces[number % len(every)]
        plan = drawn(space, draw)
        compressed = bench.network.compressor.compress(plan)
        began = time.perf_counter()
        data = bench.network.write(compressed).data
        seconds.append(time.perf_counter() - began)
        predicted = estimate(bench.network.table, plan, bench.evaluator.profile, bench.network.writer.format)
        sizes.append(predicted["size_bytes"] / len(data) - 1)
        arena = bench.network.writer.format.open(data).peak_memory_bytes
        if arena:
            arenas.append(predicted["peak_memory_bytes"] / arena - 1)
    return " | ".join([f"| {name}", str(plans), *_errors(sizes, 0.01), *_errors(arenas, 0.1),
                       f"{np.median(seconds):.2f} |"])


def _errors(relative: list[float], limit: float) -> tuple[str, str, str]:
    if not relative:
        return "", "", ""
    errors = np.abs(relative)
    return f"{errors.mean():.2%}", f"{errors.max():.2%}", f"{(errors <= limit).mean():.0%}"


def networks() -> Iterator[tuple[str, torch.nn.Module, TaskData]]:
    """Networks for `files`, by name, with data; all but the keyword spotter have random weights and data."""
    features, labels = mlperf_tiny.official()
    whole = Split(torch.from_numpy(features), torch.from_numpy(labels))
    yield "DS-CNN, 1,000 official samples", mlperf_tiny.keyword_spotter(), TaskData("kws", whole, whole, whole, 12)
    vision = import_torchvision().models
    for name, build in (("MobileNetV2", vision.mobilenet_v2), ("ResNet-18", vision.resnet18)):
        torch.manual_seed(0)
        yield f"{name}, 96 pixels", randomised_norms(build(num_classes=10).eval()), task_data((3, 96, 96), 10)
    torch.manual_seed(0)
    import timm

    yield "ViT-Tiny, 96 pixels", timm.create_model("vit_tiny_patch16_224", img_size=96, num_classes=10).eval(), \
        task_data((3, 96, 96), 10)
    yield "GRU", NETWORKS["gru"].make(), NETWORKS["gru"].data()


def files_row(what: str, network: torch.nn.Module, data: TaskData, name: str) -> str:
    """One network in one format."""
    file_format = format_named(name)
    profile = load_profile("ethos-u55-128" if name == "vela" else "host")
    try:
        bench = Workbench(network, data, profile, seed=0, epochs=1, file_format=file_format)
    except InputError as error:
        return f"| {what} | {name} | refused: {str(error).partition(', but ')[2].partition(', at ')[0]} | | | | |"
    compressed = bench.network.compressor.compress(integers(bench, (8,), 8))
    began = time.perf_counter()
    content = bench.network.write(compressed).data
    seconds = time.perf_counter() - began
    inputs = data.normalise(data.test.inputs)
    runtime, original = file_format.open(content), file_format.open(bench.network.writer.original_file)
    answers = in_batches(runtime, as_arrays(inputs))["output"]
    with torch.no_grad():
        expected = torch.cat([compressed.model.eval()(batch) for batch in inputs.split(64)]).numpy()
    labels = data.test.targets.numpy()
    told = f"{(answers.argmax(1) == labels).mean():.1%} / {(expected.argmax(1) == labels).mean():.1%}" \
        if "official" in what else f"deviates by {np.abs(answers - expected).mean() / np.abs(expected).max():.2%}"
    times = time_files({"float": original, "file": runtime}, as_arrays(inputs[:1]), 10, 3.0)
    ratio = np.median(times["file"].cpu_ms) / np.median(times["float"].cpu_ms)
    device = ", ".join(f"{metric} {value:.6g}" for metric, value in on_device(runtime).items())
    return f"| {what} | {name} | {len(content):,} | {told} | {ratio:.2f} | {seconds:.1f} | {device} |"


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=("files", "predictions"))
    parser.add_argument("--plans", type=int, default=200)
    parser.add_argument("--format", action="append")
    args = parser.parse_args()
    if args.table == "predictions":
        print("| format | plans | bytes: mean error | largest | within 1% | arena: mean error | largest | within 10% | "
              "seconds of writing, median |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|")
        for name in args.format or DRAWN:
            print(row(name, args.plans), flush=True)
        return
    print("| network | format | bytes | accuracy / in torch, or mean deviation from torch | time / float original's | "
          "seconds of writing | on the device |\n|---|---|--:|--:|--:|--:|---|")
    for what, network, data in networks():
        for name in args.format or ("onnx", "tflite", "tflite-micro", "vela"):
            print(files_row(what, network, data, name), flush=True)


if __name__ == "__main__":
    main()
