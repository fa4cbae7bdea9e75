"""Ways to keep the integer kernels of ONNX Runtime from saturating, beside one another, on a CPU where they can.

    python benchmarks/exact.py --base DIR [--limit N] [--pruned SHARE]

DIR holds `resnet18_fashion.safetensors` with its `resnet18_fashion.py`. Every row is a file with 8-bit activations, of
the whole network or of one that lost a share of the channels of every group. It is run twice on the first N test
pictures: by fused integer kernels, and as the graph is written, in float. On a CPU without dot-product instructions
(x86 without VNNI) the two differ where kernels saturate. Writes its section of `benchmarks/exact.md`.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor

from autocompress.backend import compress as compressing
from autocompress.backend.network.quantized_weight import QuantizedWeight, per_channel, round_to_levels
from autocompress.backend.quantize.rounding import rounded_weight
from autocompress.core.plan import Plan, Step
from autocompress.errors import AutocompressError
from autocompress.formats.onnx.runtime import Runtime
from autocompress.formats.onnx.saturation import LARGEST_PAIR, check_saturation, largest_pair
from autocompress.formats.running import in_batches
from autocompress.formats.timing import speedup, time_files
from autocompress.hardware.profile import load_profile
from autocompress.study.workbench import Workbench
from autocompress.tasks.data import load_data
from autocompress.tasks.models import load_model
from autocompress.techniques.prune import legal_keep

Rounding = Callable[..., QuantizedWeight]


@dataclass(frozen=True)
class Way:
    """A file: what it is called, how wide its weights are, how they are rounded, and what becomes of the file."""

    name: str
    bits: int
    rounding: Rounding = rounded_weight
    change: Callable[[bytes], bytes] = bytes


def full_range(weight: Tensor, args: Mapping[str, Any], *rest: Any) -> QuantizedWeight:
    """Levels up to 127, as with float activations."""
    return rounded_weight(weight, {**args, "activation_bits": 32}, *rest)


def odd_sevens(weight: Tensor, args: Mapping[str, Any], *rest: Any) -> QuantizedWeight:
    """The odd integers from -127 to 127, stored in 8 bits."""
    start = rounded_weight(weight, {**args, "weight_bits": 7}, *rest)
    scale = start.scale / 2
    odd = (weight / per_channel(scale, weight) * 0.5).floor() * 2 + 1
    return QuantizedWeight(8, odd.clamp(-127, 127).to(torch.int8), scale)


def to_nearest(weight: Tensor, args: Mapping[str, Any], *rest: Any) -> QuantizedWeight:
    """Without making up for errors."""
    return rounded_weight(weight, {**args, "rounding": "nearest"}, *rest)


def where_it_can(weight: Tensor, args: Mapping[str, Any], *rest: Any) -> QuantizedWeight:
    """Levels up to 127, scales widened only in channels whose two largest weights of one sign are too large."""
    quantized = full_range(weight, args, *rest)
    for _ in range(20):
        pairs = torch.tensor([largest_pair(row[None].numpy(), 0) for row in quantized.levels])
        if int(pairs.max()) <= LARGEST_PAIR:
            break
        quantized = replace(quantized, scale=quantized.scale * (pairs / LARGEST_PAIR).clamp_min(1.0))
        levels = round_to_levels(weight / per_channel(quantized.scale, weight), 8)
        quantized = replace(quantized, levels=levels.to(torch.int8))
    return quantized


def unsigned(data: bytes) -> bytes:
    """Signed 8-bit weights stored unsigned, with a zero point of 128."""
    model = onnx.load_model_from_string(data)
    stored = {value.name: value for value in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in stored:
            value = stored[node.input[0]]
            levels = numpy_helper.to_array(value).astype(np.int32) + 128
            value.CopyFrom(numpy_helper.from_array(levels.astype(np.uint8), value.name))
            channels = stored[node.input[1]].dims[0]
            zero = numpy_helper.from_array(np.full(channels, 128, np.uint8), f"{value.name}_zero")
            model.graph.initializer.append(zero)
            node.input.append(zero.name)
    result: bytes = model.SerializeToString()
    return result


def seven_bit_activations(data: bytes) -> bytes:
    """The ranges of activations in codes up to 127; a value beyond its range still gets a larger one."""
    model = onnx.load_model_from_string(data)
    stored = {value.name: value for value in model.graph.initializer}
    zeros = {node.input[2]: node.input[1] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    for zero, scale in zeros.items():
        assert stored[zero].data_type == TensorProto.UINT8
        point, step = (numpy_helper.to_array(stored[name]) for name in (zero, scale))
        stored[zero].CopyFrom(numpy_helper.from_array(np.uint8(round(int(point) * 127 / 255)), zero))
        stored[scale].CopyFrom(numpy_helper.from_array(np.float32(step * 255 / 127), scale))
    result: bytes = model.SerializeToString()
    return result


WAYS = (
    Way("8 bits, levels up to 127", 8, full_range),
    Way("8 bits, levels up to 64, to nearest", 8, to_nearest),
    Way("8 bits, levels up to 64, rounded with feedback (ours)", 8),
    Way("8 bits, levels up to 127 where no pair can overflow", 8, where_it_can),
    Way("8 bits, unsigned with a zero point", 8, full_range, unsigned),
    Way("8 bits, levels up to 127, 7-bit activations", 8, full_range, seven_bit_activations),
    Way("7 bits, odd levels up to 127 (stored in 8 here)", 8, odd_sevens),
    Way("7 bits, levels up to 63 (ours)", 7),
    Way("6 bits, odd levels up to 63 (ours)", 6),
)


def bench_of(base: Path, folder: Path) -> Workbench:
    """ResNet-18 trained on Fashion-MNIST."""
    data = load_data("fashion-mnist", root=None, seed=0)
    loaded = load_model(f"{base / 'resnet18_fashion.py'}:model", data=data, trust_code=True,
                        weights=base / "resnet18_fashion.safetensors")
    return Workbench(loaded.model, data, load_profile("host"), seed=0, folder=folder, epochs=1)


def files(bench: Workbench, share: float) -> dict[str, bytes]:
    """One for each way; `share` of the channels of every group are gone."""
    cut = [Step(group.name, "prune", {"keep": legal_keep(group, group.channels * (1 - share), bench.evaluator.profile)})
           for group in bench.network.table.groups if share]
    layers = [
        layer.name for layer in bench.network.table.layers if layer.kind in ("conv", "linear") and layer.compressible
    ]
    by_way = {}
    for way in WAYS:
        args = {"weight_bits": way.bits, "activation_bits": 8}
        plan = Plan.of(cut + [Step(name, "quantize", args) for name in layers])
        compressing.rounded_weight = way.rounding  # type: ignore[assignment, attr-defined]
        bench.network.compressor.forget()
        by_way[way.name] = way.change(bench.network.write(bench.network.compressor.compress(plan)).data)
    return by_way


def table(bench: Workbench, limit: int, share: float) -> str:
    """Everything as Markdown."""
    part = bench.network.task.test.take(torch.arange(limit))
    inputs, labels = {"input": bench.network.task.normalise(part.inputs).numpy()}, part.targets.numpy()
    (original,) = in_batches(Runtime(bench.network.writer.original_file), inputs).values()
    data_of = files(bench, share)
    runtimes = {"original": Runtime(bench.network.writer.original_file)} | {
        name: Runtime(data) for name, data in data_of.items()
    }
    times = time_files(runtimes, {"input": bench.network.example.numpy()})
    lines = []
    for name, data in data_of.items():
        fused, written = (next(iter(in_batches(runtime, inputs).values())) for runtime in (
            runtimes[name], Runtime(data, literal=True)))
        try:
            bound = str(check_saturation(data).largest or "none")
        except AutocompressError as error:
            bound = f"**{str(error).rpartition('but sum to ')[2].partition('.')[0]}**"
        accuracy = [100 * float((logits.argmax(1) == labels).mean()) for logits in (fused, written)]
        agree = 100 * float((fused.argmax(1) == written.argmax(1)).mean())
        errors = [100 * float(np.linalg.norm(logits - original) / np.linalg.norm(original))
                  for logits in (fused, written)]
        pace = 1 / float(speedup(times["original"], times[name])["factor"])
        lines.append(f"| {name} | {bound} | {len(data):,} | {accuracy[0]:.1f} | {accuracy[1]:.1f} | {agree:.1f} | "
                     f"{errors[0]:.1f} | {errors[1]:.1f} | {pace:.2f} |")
        print(lines[-1], flush=True)
    right = 100 * float((original.argmax(1) == labels).mean())
    return "\n".join([
        f"The original: {len(bench.network.writer.original_file):,} bytes, {right:.1f}%.", "",
        "| weights | largest pair | bytes | fused % | written % | agree % | fused error % | error % | latency |",
        "|---|---|---|---|---|---|---|---|---|", *lines])


def main() -> None:
    """Measure all ways and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=1000, help="score on the first N test pictures")
    parser.add_argument("--pruned", type=float, default=0.0, help="share of the channels to remove first")
    args = parser.parse_args()
    torch.set_num_threads(1)
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    kind = "without" if "vnni" not in flags else "with"
    with TemporaryDirectory() as scratch:
        figures = table(bench_of(args.base, Path(scratch)), args.limit, args.pruned)
    page = Path(__file__).with_suffix(".md")
    what = f"{args.pruned:.0%} of the channels removed" if args.pruned else "all channels"
    title = f"\n## ResNet-18 on Fashion-MNIST, {what}"
    text = page.read_text("utf-8") if page.exists() else "# Exact integers\n"
    before, found_it, after = text.partition(title)
    after = "\n## " + after.partition("\n## ")[2] if found_it and "\n## " in after else ""
    page.write_text(f"""{before.rstrip()}
{title}

`python benchmarks/exact.py --base DIR --limit {args.limit} --pruned {args.pruned:g}`, one thread,
{platform.machine()} {kind} VNNI, shared machine; calibrated, not trained, seed 0. {figures}
{after}""", "utf-8")
    sys.stdout.write(page.read_text("utf-8"))


if __name__ == "__main__":
    main()
