"""Each technique alone on ResNet-18 for Fashion-MNIST, before any training, beside reference implementations.

    python benchmarks/techniques.py --base DIR [--split test] [--only prune bits rank sparsity cost] [--limit N]

DIR holds `resnet18_fashion.py` and `resnet18_fashion.safetensors` (93.11% test). Writes `benchmarks/techniques.md`.
Every row is the file run in ONNX Runtime; the references are torch-pruning's own magnitude pruner, round-to-nearest
with the largest magnitude as range, and the plain truncated SVD, all with the same norm re-estimation as ours.
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from autocompress.backend import compress as compressing
from autocompress.backend.calibration import reestimate_norms
from autocompress.backend.compress import Compressed, replace_module
from autocompress.backend.factorize import factorize
from autocompress.backend.quantization import per_channel
from autocompress.core.plan import Plan, Scalar, Step
from autocompress.core.sparsity import UNSTRUCTURED
from autocompress.export.runtime import Runtime
from autocompress.hardware.profile import load_profile
from autocompress.study.workbench import Workbench
from autocompress.tasks.data import load_data
from autocompress.tasks.models import load_model
from autocompress.techniques import resolve
from autocompress.techniques.decompose import METHODS, methods_for, rank_args
from autocompress.techniques.prune import CRITERIA
from autocompress.techniques.quantize import SETTINGS
from autocompress.techniques.sparsify import CRITERIA as SPARSITY_CRITERIA
from autocompress.techniques.sparsify import can_be_sparse, fits

Row = tuple[str, str, int, float, float]
"""Group, name, bytes, accuracy of the split, seconds to apply."""

Cost = tuple[str, float, float, float]
"""A plan, and milliseconds of processor: to apply it the first time, again, and for one pass over the calibration
data through what it makes."""
REPEATS = 3


class Bench:
    """The network on its workbench, and how a compressed copy is scored."""

    def __init__(self, base: Path, split: str, limit: int | None, folder: Path) -> None:
        data = load_data("fashion-mnist", root=None, seed=0, trust_code=True, image_size=28)
        loaded = load_model(f"{base / 'resnet18_fashion.py'}:model", data=data, trust_code=True,
                            weights=base / "resnet18_fashion.safetensors")
        self.bench = Workbench(loaded.model, data, load_profile("host"), seed=0, folder=folder, epochs=1,
                               threads=torch.get_num_threads())
        chosen = getattr(data, split)
        self.split = chosen if limit is None else chosen.take(torch.arange(min(limit, len(chosen))))
        self.rows: list[Row] = []
        self.costs: list[Cost] = []

    def ours(self, group: str, name: str, plan: Plan) -> None:
        """Apply a plan and score its file."""
        began = time.perf_counter()
        compressed = self.bench.compressor.compress(plan)
        self.score(group, name, compressed, time.perf_counter() - began)

    def score(self, group: str, name: str, compressed: Compressed, seconds: float) -> None:
        """Accuracy of the file on the split."""
        built = self.bench.build(compressed)
        accuracy = self.bench.accuracy(Runtime(built.data, self.bench.threads), self.split)
        self.rows.append((group, name, len(built.data), accuracy, seconds))
        print(*self.rows[-1], flush=True)

    def reference(self, group: str, name: str, change: Callable[[nn.Module], None]) -> None:
        """A copy of the network changed by someone else's method, norms re-estimated, as a float file."""
        model = copy.deepcopy(self.bench.model)
        began = time.perf_counter()
        change(model)
        reestimate_norms(model, self.bench.calibration)
        self.score(group, name, Compressed(model, Plan()), time.perf_counter() - began)


def prune_rows(on: Bench, share: float = 0.3) -> None:
    """A share of the channels of every group gone, by each criterion, with and without refitting the readers."""
    groups = on.bench.table.groups
    group = f"{share:.0%} of the channels removed"

    def plan(criterion: str) -> Plan:
        return Plan.of([Step(g.name, "prune", {"keep": round(g.channels * (1 - share)), "criterion": criterion})
                        for g in groups])

    def theirs(model: nn.Module) -> None:
        import torch_pruning

        example = on.bench.calibration[:2]
        pruner = torch_pruning.pruner.MagnitudePruner(
            model, example, importance=torch_pruning.importance.GroupMagnitudeImportance(p=2), pruning_ratio=share,
            ignored_layers=[m for m in model.modules() if isinstance(m, nn.Linear)])
        pruner.step()

    on.reference(group, "torch-pruning, group L2 norm", theirs)
    refit = compressing.Compressor._refit
    compressing.Compressor._refit = lambda *_: None
    on.ours(group, "ours, l2, readers not refitted", plan("l2"))
    compressing.Compressor._refit = refit
    for criterion in CRITERIA:
        on.ours(group, f"ours, {criterion}, readers refitted", plan(criterion))


def bit_rows(on: Bench) -> None:
    """Weights of every layer at one width, activations float."""
    layers = [layer.name for layer in on.bench.table.layers if layer.kind != "norm" and not layer.locked]
    for bits in (8, 4, 3, 2):
        group = f"{bits}-bit weights"

        def nearest(model: nn.Module, bits: int = bits) -> None:
            for name in layers:
                weight = model.get_submodule(name).weight.data
                top = 2 ** (bits - 1) - 1
                scale = per_channel(weight.flatten(1).abs().amax(1) / top, weight)
                weight.copy_((weight / scale).round().clamp(-top, top) * scale)

        on.reference(group, "round to nearest, range by largest magnitude (file bytes are float's)", nearest)
        on.ours(group, "ours", Plan.of([Step(name, "quantize", {"weight_bits": bits, "activation_bits": 32})
                                        for name in layers]))


def grid_rows(on: Bench) -> None:
    """Every further way to quantise, for all layers at once, beside the default."""
    layers = [layer.name for layer in on.bench.table.layers if layer.kind != "norm" and not layer.locked]

    def row(group: str, name: str, weight_bits: int, activation_bits: int, **settings: str | int) -> None:
        args = {"weight_bits": weight_bits, "activation_bits": activation_bits, **settings}
        on.ours(group, name, Plan.of([Step(layer, "quantize", args) for layer in layers]))

    for bits in (4, 3, 2):
        group = f"{bits}-bit weights, other grids and roundings"
        row(group, "even levels", bits, 32)
        for grid in ("codebook", "pow2"):
            row(group, grid, bits, 32, grid=grid)
        row(group, "even levels, to nearest", bits, 32, rounding="nearest")
        for size in (128, 32):
            row(group, f"even levels, a scale for {size} weights", bits, 32, group=size)
    for method in SETTINGS["range"]:
        row("8-bit weights and activations", f"ranges by {method}", 8, 8, range=method)
    row("8-bit weights and activations", "16-bit activations", 8, 16)


def rank_rows(on: Bench, share: float = 0.25) -> None:
    """Every layer with a legal decomposition at a share of its parameters."""
    parts = resolve(on.bench.table, Plan())
    for method in METHODS:
        chosen = {layer.name: args for layer in on.bench.table.layers if method in methods_for(layer)
                  and (args := rank_args(parts[layer.name][0], method, share, 1)) is not None}
        group = f"{method} at {share:.0%} of the parameters"

        def plain(model: nn.Module, method: str = method, chosen: dict[str, dict[str, int]] = chosen) -> None:
            for name, args in chosen.items():
                replace_module(model, name, factorize(model.get_submodule(name), method, args))

        on.reference(group, "plain", plain)
        on.ours(group, "ours, whitened", Plan.of([Step(name, "decompose", {"method": method, **args})
                                                  for name, args in chosen.items()]))


def sparsity_rows(on: Bench) -> None:
    """Single weights gone from every layer that the pattern fits, by each criterion, as float and as 4-bit files,
    beside dense files of few bits."""
    parts = resolve(on.bench.table, Plan())
    layers = [layer.name for layer in on.bench.table.layers if can_be_sparse(layer)]

    def quantized(bits: int) -> list[Step]:
        return [Step(name, "quantize", {"weight_bits": bits, "activation_bits": 32}) for name in layers if bits < 32]

    kinds: list[tuple[str, dict[str, Scalar]]] = [
        *((f"{density:.0%} of the weights", {"pattern": UNSTRUCTURED, "density": density})
          for density in (0.5, 0.3, 0.2, 0.1)), *((pattern, {"pattern": pattern}) for pattern in ("2:4", "1:4", "1:8"))]
    for bits in (4, 3, 2):
        on.ours("sparse: dense beside them", f"{bits} bits", Plan.of(quantized(bits)))
    for bits in (4, 32):
        for kind, args in kinds:
            sites = [name for name in layers if fits(parts[name][0], str(args["pattern"]))]
            for criterion in SPARSITY_CRITERIA:
                steps = [Step(name, "sparsify", {**args, "criterion": criterion}) for name in sites]
                on.ours(f"sparse: {kind}, {bits} bits", criterion, Plan.of([*steps, *quantized(bits)]))


def cost_rows(on: Bench) -> None:
    """Processor time of each technique over the whole network, without the passes over the calibration data."""
    bench = on.bench
    compressor, parts = bench.compressor, resolve(bench.table, Plan())
    began = time.process_time()
    compressor.statistics.moments("")
    on.costs.append(("statistics, once a network: moments of all inputs", _since(began), 0.0, 0.0))
    compressor.kept_channels(bench.table.groups[0], 1)  # sensitivities, where the default criterion asks for them

    def prune(share: float) -> list[Step]:
        return [Step(g.name, "prune", {"keep": round(g.channels * (1 - share))}) for g in bench.table.groups]

    def quantize(bits: int) -> list[Step]:
        return [Step(layer.name, "quantize", {"weight_bits": bits, "activation_bits": 32})
                for layer in bench.table.layers if layer.kind != "norm" and not layer.locked]

    plans = {f"{share:.0%} of the channels removed": prune(share) for share in (0.3, 0.6)}
    plans |= {f"{bits}-bit weights": quantize(bits) for bits in (8, 4, 2)}
    plans |= {f"{share:.0%} of the channels removed, 4-bit weights": [*prune(share), *quantize(4)]
              for share in (0.3, 0.6)}
    for method in METHODS:
        plans[f"{method} at 25% of the parameters"] = [
            Step(layer.name, "decompose", {"method": method, **args}) for layer in bench.table.layers
            if method in methods_for(layer) and (args := rank_args(parts[layer.name][0], method, 0.25, 1))]
    for name, steps in plans.items():
        plan, first, again, passes = Plan.of(steps), [], [], []
        for _ in range(REPEATS):
            compressor.forget()
            for into in (first, again):
                began = time.process_time()
                structured = compressor.restructure(plan)
                compressor.rounded(structured)
                into.append(_since(began))
            began = time.process_time()
            reestimate_norms(structured.model, bench.calibration)
            passes.append(_since(began))
        on.costs.append((name, *(statistics.median(times) for times in (first, again, passes))))
        print(*on.costs[-1], flush=True)


def _since(began: float) -> float:
    return 1000 * (time.process_time() - began)


KINDS = {"prune": prune_rows, "bits": bit_rows, "grids": grid_rows, "rank": rank_rows, "sparsity": sparsity_rows,
         "cost": cost_rows}


def table(rows: list[Row], split: str, limit: int | None, costs: list[Cost]) -> str:
    """The result as Markdown."""
    lines = ["# Each technique alone", "",
             f"`python benchmarks/techniques.py --base DIR --split {split}`: ResNet-18 on Fashion-MNIST, no training, "
             f"accuracy of the file in ONNX Runtime on {f'the first {limit} of ' if limit else ''}the {split} split. "
             f"{os.cpu_count()} cores, "
             f"{platform.machine()}, seed 0, 512 calibration images without labels. The first row of ours includes "
             "the statistics that later rows share.", "",
             "| what | how | bytes | accuracy % | seconds to apply |", "|---|---|---|---|---|"]
    lines += [f"| {group} | {name} | {size:,} | {100 * accuracy:.2f} | {seconds:.2f} |"
              for group, name, size, accuracy, seconds in rows]
    if costs:
        lines += ["", f"Milliseconds of processor, {torch.get_num_threads()} thread(s), median of {REPEATS}. Applying "
                  "a plan: the first time, and again with the layers that the study still holds. Beside it one pass "
                  "over the 512 calibration images through the compressed network, which a plan needs once more.", "",
                  "| plan | first | again | one pass | first / pass |", "|---|---|---|---|---|"]
        lines += [f"| {name} | {first:,.0f} | {again:,.0f} | {once:,.0f} | {first / once:.2f} |" if once
                  else f"| {name} | {first:,.0f} | | | |" for name, first, again, once in costs]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the kinds asked for and write the table after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--only", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--limit", type=int, help="score on the first N of the split")
    given = parser.parse_args()
    with TemporaryDirectory() as scratch:
        on = Bench(given.base, given.split, given.limit, Path(scratch))
        on.ours("nothing", "original", Plan())
        for kind in given.only:
            KINDS[kind](on)
            Path(__file__).with_suffix(".md").write_text(table(on.rows, given.split, given.limit, on.costs))


if __name__ == "__main__":
    main()
