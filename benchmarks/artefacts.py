"""Files by format: what they hold, how they answer, and how well their bytes and arenas are predicted.

    python benchmarks/artefacts.py files
    python benchmarks/artefacts.py predictions --plans 200

`files`: networks in 8-bit weights and activations, calibrated and not trained, in each format: bytes, accuracy beside
that of the network in torch whose weights they hold, and time beside the float original in the same runtime; and ONNX
Runtime's own static quantisation of a plain export. `predictions` are over random plans.
Each plan draws every knob of the space, on the keyword spotter of MLPerf Tiny, a narrow MobileNetV2 and a ResNet-18.
Nothing is trained: a prediction knows shapes and widths alone. Folders are named as for `artefacts_networks.py`.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autocompress.core.plan import Plan
from autocompress.errors import InputError
from autocompress.estimate import estimate
from autocompress.formats.base import Runtime
from autocompress.formats.running import in_batches, on_device
from autocompress.formats.table import format_named
from autocompress.formats.timing import time_files
from autocompress.hardware.profile import load_profile
from autocompress.space.format_legality import refusal, space_of
from autocompress.space.space import Space
from autocompress.space.spec import load_space
from autocompress.study.file_writer import as_arrays
from autocompress.study.rounding_choices import measured_choices
from autocompress.study.workbench import Workbench
from autocompress.tasks.splits import Split, TaskData
from autocompress.tasks.vision import import_torchvision
from autocompress.techniques.quantize import MEASURABLE
from autocompress.testing.exporters import integers
from autocompress.testing.networks import randomised_norms, task_data

sys.path.insert(0, str(Path(__file__).parent))
import mlperf_tiny
from artefacts_networks import NETWORKS

sys.path.insert(0, str(Path(__file__).parent / "strangers"))
import int8

# Profile and space by format: whose widths, and what else is drawn.
DRAWN = {"onnx": ("host", "default"), "tflite": ("pixel-3", "default"), "tflite-micro": ("stm32l4r5", "default")}
SIDE = 64
# Formats of `files`, and test samples that their files are run on; fewer where an interpreter is slow.
FILES = ("onnx", "tflite", "tflite-micro", "vela", "openvino", "onnx.xz", "safetensors", "pt2", "executorch", "coreml")
TESTED, SLOW = 5000, {"tflite": 2000, "vela": 2000, "tflite-micro": 100, "executorch": 2000, "safetensors": 2000,
                      "pt2": 2000, "coreml": 2000}
# A row of `files` that is not of ours.
PEER = "quantize_static"
# Bits of activations of a format that has none of 8; its answers are those of torch, which reads the program back.
FLOATS = {"coreml": 32}


def benches(name: str, profile: str, beginning: str) -> Iterator[Workbench]:
    """The keyword spotter, a MobileNetV2 of a third of the width and a ResNet-18, each on a bench for files of a
    format, those whose names begin so; the last two on random data."""
    features, labels = mlperf_tiny.official()
    split = Split(torch.from_numpy(features[:200]), torch.from_numpy(labels[:200]))
    vision = import_torchvision().models
    torch.manual_seed(0)
    networks = {"DS-CNN": mlperf_tiny.keyword_spotter(),
                "MobileNetV2": vision.mobilenet_v2(num_classes=10, width_mult=0.35),
                "ResNet-18": vision.resnet18(num_classes=10)}
    for title, network in networks.items():
        if not title.startswith(beginning):
            continue
        spotter = title == "DS-CNN"
        data = TaskData("kws", split, split, split, 12) if spotter else task_data((3, SIDE, SIDE), 10)
        yield Workbench(network if spotter else randomised_norms(network.eval()), data, load_profile(profile), seed=0,
                        epochs=1, file_format=format_named(name))


def drawn(space: Space, draw: random.Random) -> Any:
    """A random plan of a space."""
    values = {knob.key: draw.choice(knob.choices) if knob.choices else draw.uniform(knob.low, 0.7 * knob.high)
              for knob in space.knobs}
    return space.decode(values)


def row(name: str, plans: int, seed: int = 0, beginning: str = "") -> str:
    """Errors of one format over so many plans, of the networks whose names begin so."""
    profile, spec = DRAWN[name]
    sizes, arenas, seconds, draw = [], [], [], random.Random(seed)
    every = list(benches(name, profile, beginning))
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


def files_row(what: str, network: torch.nn.Module, data: TaskData, name: str, activations: int) -> str:
    """One network in one format, 8 bits of weights and so many of activations, rounded as a search rounds them,
    calibrated and not trained."""
    file_format = format_named(name)
    profile = load_profile("ethos-u55-128" if name.startswith("vela") else "host")
    try:
        bench = Workbench(network, data, profile, seed=0, epochs=1, file_format=file_format)
    except InputError as error:
        return f"| {what} | {name} | refused: {str(error).partition(', but ')[2].partition(', at ')[0]} | | | | |"
    every = integers(bench, (8,), FLOATS.get(name, activations), **measured_choices(bench, MEASURABLE)).steps
    reasons = {step.site: refusal(step, bench.network.table, file_format) for step in every}
    plan = Plan.of([step for step in every if not reasons[step.site]])
    if not plan.steps:
        return f"| {what} | {name} | refused: {next(iter(reasons.values()))} | | | | |"
    left = [f"{site} in float32: {reason}" for site, reason in reasons.items() if reason]
    compressed = bench.network.compressor.compress(plan)
    began = time.perf_counter()
    content = bench.network.write(compressed).data
    seconds = time.perf_counter() - began
    runtime, original = file_format.open(content), file_format.open(bench.network.writer.original_file)
    told = compared(runtime, bench.network.executed(compressed), data, SLOW.get(name, TESTED))
    inputs = as_arrays(data.normalise(data.test.inputs[:1]))
    times = time_files({"float": original, "file": runtime}, inputs, 10, 3.0)
    ratio = np.median(times["file"].cpu_ms) / np.median(times["float"].cpu_ms)
    device = ", ".join([f"{metric} {value:.6g}" for metric, value in on_device(runtime).items()] + left)
    return f"| {what} | {name} | {len(content):,} | {told} | {ratio:.2f} | {seconds:.1f} | {device} |"


def compared(runtime: Runtime, network: torch.nn.Module, data: TaskData, samples: int) -> str:
    """Accuracy of a file and of the network that it holds in torch."""
    inputs, labels = data.normalise(data.test.inputs[:samples]), data.test.targets[:samples].numpy()
    answers = in_batches(runtime, as_arrays(inputs))["output"]
    with torch.inference_mode():
        expected = torch.cat([network.eval()(batch) for batch in inputs.split(64)]).numpy()
    right = [float((scores.argmax(1) == labels).mean()) for scores in (answers, expected)]
    return f"{right[0]:.2%} / {right[1]:.2%} ({100 * (right[0] - right[1]):+.2f}), {len(labels):,} samples"


def peer_row(what: str, network: torch.nn.Module, data: TaskData) -> str:
    """ONNX Runtime's own static quantisation of a plain export, run as our files are."""
    calibration = data.normalise(data.train.inputs[:int8.CALIBRATION]).numpy()
    with tempfile.TemporaryDirectory() as folder:
        plain, quantised = Path(folder) / "plain.onnx", Path(folder) / "int8.onnx"
        int8.plain_export(network, calibration[:2], plain)
        began = time.perf_counter()
        int8.static_int8(plain, calibration, quantised)
        seconds, content, original = time.perf_counter() - began, quantised.read_bytes(), plain.read_bytes()
    runtime = format_named("onnx").open(content)
    told = compared(runtime, network, data, TESTED)
    inputs = as_arrays(data.normalise(data.test.inputs[:1]))
    times = time_files({"float": format_named("onnx").open(original), "file": runtime}, inputs, 10, 3.0)
    ratio = np.median(times["file"].cpu_ms) / np.median(times["float"].cpu_ms)
    return f"| {what} | onnx by `{PEER}` | {len(content):,} | {told} | {ratio:.2f} | {seconds:.1f} | |"


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=("files", "predictions"))
    parser.add_argument("--plans", type=int, default=200)
    parser.add_argument("--format", action="append")
    parser.add_argument("--network", help="the beginning of its name")
    parser.add_argument("--activations", type=int, default=8, choices=(8, 16, 32), help="their bits in `files`")
    parser.add_argument("--seed", type=int, default=0, help="of random plans")
    args = parser.parse_args()
    if args.table == "predictions":
        print("| format | plans | bytes: mean error | largest | within 1% | arena: mean error | largest | within 10% | "
              "seconds of writing, median |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|")
        for name in args.format or DRAWN:
            print(row(name, args.plans, args.seed, args.network or ""), flush=True)
        return
    print("| network | format | bytes | accuracy / in torch (points) | time / float original's | seconds of writing | "
          "on the device |\n|---|---|--:|--:|--:|--:|---|")
    for what, made in NETWORKS.items():
        if not what.startswith(args.network or ""):
            continue
        network, data = made()
        for name in args.format or (*FILES, PEER):
            print(peer_row(what, network.eval(), data) if name == PEER else
                  files_row(what, network, data, name, args.activations), flush=True)


if __name__ == "__main__":
    main()
