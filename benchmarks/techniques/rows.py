"""What is compared: each technique over a whole network, beside someone else's implementation of it."""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from bench import Bench
from torch import nn

from autocompress.backend import compress as compressing
from autocompress.backend.decompose.factorize import factorize
from autocompress.backend.network.compressed import replace_module
from autocompress.backend.network.quantized_weight import per_channel
from autocompress.core.plan import Plan, Scalar, Step
from autocompress.core.sparsity import UNSTRUCTURED
from autocompress.techniques import resolve
from autocompress.techniques.decompose import METHODS, methods_for, rank_args
from autocompress.techniques.prune import CRITERIA, legal_keep
from autocompress.techniques.quantize import SETTINGS
from autocompress.techniques.sparsify import CRITERIA as SPARSITY_CRITERIA
from autocompress.techniques.sparsify import DEFAULT_CRITERION, can_be_sparse, fits

SHARES = (0.3, 0.6)
RANK_SHARE = 0.25


def pruned(on: Bench, share: float, criterion: str | None = None) -> Plan:
    """A share of the channels of every group gone."""
    named: dict[str, Scalar] = {} if criterion is None else {"criterion": criterion}
    return Plan.of(
        [
            Step(
                g.name, "prune", {"keep": legal_keep(g, g.channels * (1 - share), on.bench.evaluator.profile), **named}
            )
            for g in on.bench.network.table.groups
        ]
    )


def quantized(on: Bench, weight_bits: int, activation_bits: int = 32, **settings: Scalar) -> Plan:
    """Every layer at one width."""
    args = {"weight_bits": weight_bits, "activation_bits": activation_bits, **settings}
    return Plan.of([Step(name, "quantize", args) for name in on.layers])


def factored(on: Bench, method: str) -> Plan:
    """Every layer that the method serves at `RANK_SHARE` of its weights."""
    parts = resolve(on.bench.network.table, Plan())
    return Plan.of([Step(layer.name, "decompose", {"method": method, **args}) for layer in on.bench.network.table.layers
                    if method in methods_for(layer)
                    and (args := rank_args(parts[layer.name][0], method, RANK_SHARE, 1)) is not None])


def sparse(on: Bench, args: dict[str, Scalar], bits: int) -> Plan:
    """Every layer that the pattern fits."""
    parts = resolve(on.bench.network.table, Plan())
    steps = [Step(layer.name, "sparsify", args) for layer in on.bench.network.table.layers
             if can_be_sparse(layer) and fits(parts[layer.name][0], str(args["pattern"]))]
    return Plan.of([*steps, *(quantized(on, bits).steps if bits < 32 else ())])


def torch_pruning(on: Bench, model: nn.Module, share: float) -> None:
    """The library's own magnitude pruner over the whole network, but for the classifier."""
    import torch_pruning

    torch_pruning.pruner.MagnitudePruner(
        model, on.bench.network.calibration[:2], importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=share, ignored_layers=[m for m in model.modules() if isinstance(m, nn.Linear)]).step()


def prune_rows(on: Bench) -> None:
    """Channels by each criterion, with and without refitting their readers."""
    for share in SHARES:
        group = f"{share:.0%} of the channels removed"
        on.theirs(group, "torch-pruning, group L2 norm", lambda model, share=share: torch_pruning(on, model, share))
        refit = compressing.Compressor._refit
        compressing.Compressor._refit = lambda *_: None  # type: ignore[method-assign]
        on.ours(group, "ours, l2, readers not refitted", pruned(on, share, "l2"))
        compressing.Compressor._refit = refit  # type: ignore[method-assign]
        for criterion in CRITERIA:
            on.ours(group, f"ours, {criterion}", pruned(on, share, criterion))


def bit_rows(on: Bench) -> None:
    """Weights of every layer at one width beside round-to-nearest; 8 bits throughout beside ONNX Runtime's own."""
    for bits in (8, 4, 3, 2):
        def nearest(model: nn.Module, bits: int = bits) -> None:
            for name in on.layers:
                weight = model.get_submodule(name).weight.data
                top = 2 ** (bits - 1) - 1
                scale = per_channel(weight.flatten(1).abs().amax(1).clamp_min(1e-12) / top, weight)
                weight.copy_((weight / scale).round().clamp(-top, top) * scale)

        group = f"{bits}-bit weights"
        on.theirs(group, "round to nearest, range by largest magnitude (bytes as float)", nearest)
        on.ours(group, "ours", quantized(on, bits))
    group = "8-bit weights and activations"
    began = time.perf_counter()
    file = onnxruntime_quantized(on)
    on.score_file(group, "onnxruntime quantize_static, per channel", file, time.perf_counter() - began)
    on.ours(group, "ours", quantized(on, 8, 8))


def onnxruntime_quantized(on: Bench) -> bytes:
    """The original's file through ONNX Runtime's static quantiser, calibrated on the same samples as ours."""
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches = iter(np.array_split(on.bench.network.calibration[:256].numpy(), 4))

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self._batches, None)
            return None if batch is None else {"input": batch}

    with TemporaryDirectory() as scratch:
        before, after = Path(scratch) / "float.onnx", Path(scratch) / "int8.onnx"
        before.write_bytes(on.bench.network.writer.original_file)
        quantization.quantize_static(before, after, Reader(), per_channel=True)
        return after.read_bytes()


def grid_rows(on: Bench) -> None:
    """Every further way to quantise, beside the default."""
    for bits in (4, 3, 2):
        group = f"{bits}-bit weights, other grids and roundings"
        for grid in ("codebook", "pow2"):
            on.ours(group, grid, quantized(on, bits, grid=grid))
        on.ours(group, "even levels, to nearest", quantized(on, bits, rounding="nearest"))
        on.ours(group, "even levels, up or down as learned", quantized(on, bits, rounding="adaround"))
        for size in (128, 32):
            on.ours(group, f"even levels, a scale for {size} weights", quantized(on, bits, group=size))


def range_rows(on: Bench) -> None:
    """Ranges of activations by each method, the default first."""
    group = "8-bit weights and activations, other ranges"
    for method in SETTINGS["range"]:
        on.ours(group, f"by {method}", quantized(on, 8, 8, range=method))
    on.ours(group, "16-bit activations", quantized(on, 8, 16))


def rank_rows(on: Bench) -> None:
    """Low rank by each method, beside the plain decomposition of the weights."""
    for method in METHODS:
        plan = factored(on, method)
        if not plan.steps:
            continue

        def plain(model: nn.Module, plan: Plan = plan) -> None:
            for step in plan.steps:
                args = {name: value for name, value in step.args.items() if isinstance(value, int)}
                replace_module(model, step.site, factorize(model.get_submodule(step.site), str(step.args["method"]),
                                                           args))

        group = f"{method}, {len(plan.steps)} layers at {RANK_SHARE:.0%} of the weights"
        on.theirs(group, "plain", plain)
        on.ours(group, "ours, whitened", plan)


def sparsity_rows(on: Bench) -> None:
    """Single weights gone, 4-bit files by each criterion and float files by the default."""
    kinds: dict[str, dict[str, Scalar]] = {
        f"{density:.0%} of the weights kept": {"pattern": UNSTRUCTURED, "density": density}
        for density in (0.5, 0.3, 0.2, 0.1)} | {"2:4": {"pattern": "2:4"}}
    for kind, args in kinds.items():
        for criterion in SPARSITY_CRITERIA:
            on.ours(f"sparse, {kind}, 4 bits", criterion, sparse(on, {**args, "criterion": criterion}, 4))
        on.ours(f"sparse, {kind}, float", DEFAULT_CRITERION, sparse(on, args, 32))


def epoch_rows(on: Bench) -> None:
    """After one epoch of distillation from where each technique starts."""
    torch.manual_seed(0)
    share = SHARES[-1]
    on.after_an_epoch("after one epoch", f"torch-pruning, {share:.0%} of the channels removed",
                      on.changed(lambda model: torch_pruning(on, model, share)))
    plans = {f"ours, {share:.0%} of the channels removed": pruned(on, share),
             "ours, 60% of the channels removed, 4 bits": Plan.of([*pruned(on, 0.6).steps, *quantized(on, 4).steps]),
             "ours, 2-bit weights": quantized(on, 2),
             "ours, channel-svd": factored(on, "channel-svd"),
             "ours, svd": factored(on, "svd"),
             "ours, 20% of the weights kept, 4 bits": sparse(on, {"pattern": UNSTRUCTURED, "density": 0.2}, 4)}
    for name, plan in plans.items():
        if plan.steps:
            on.after_an_epoch("after one epoch", name, on.bench.network.compressor.compress(plan))
