"""Plans that use the techniques wherever a small network lets them, for tests of formats."""

from __future__ import annotations

from autocompress.core.plan import Plan, Scalar, Step
from autocompress.core.sparsity import UNSTRUCTURED
from autocompress.study.workbench import Workbench
from autocompress.techniques import resolve
from autocompress.techniques.decompose import methods_for, rank_args
from autocompress.techniques.quantize import DEFAULTS, KINDS, quantize_args
from autocompress.techniques.sparsify import DEFAULT_CRITERION, can_be_sparse, fits


def sites(bench: Workbench) -> list[str]:
    """Layers that can be quantised."""
    return [layer.name for layer in bench.network.table.layers if layer.kind in KINDS and layer.compressible]


def integers(bench: Workbench, widths: tuple[int, ...], activation_bits: int, **settings: Scalar) -> Plan:
    """All layers as integers, the widths in turn; `settings` of the step wherever they are legal."""
    floats = {layer.name for layer in bench.network.table.layers if layer.float_activations}
    return Plan.of([Step(name, "quantize", quantize_args(
        widths[i % len(widths)], 32 if name in floats else activation_bits, {**DEFAULTS, **settings},
        bench.network.table.by_name[name]))
                    for i, name in enumerate(sites(bench))])


def halves(bench: Workbench) -> Plan:
    """All layers as float16."""
    return Plan.of([Step(name, "quantize", {"weight_bits": 16, "activation_bits": 32}) for name in sites(bench)])


def sparse(bench: Workbench, before: Plan, patterns: tuple[str, ...] = ("2:4", UNSTRUCTURED, "1:4", "4:8"),
           density: float = 0.3, criterion: str = DEFAULT_CRITERION) -> Plan:
    """All layers sparse behind the plan `before`, the patterns in turn, unstructured where one does not fit."""
    parts, steps = resolve(bench.network.table, before), []
    for i, name in enumerate(layer.name for layer in bench.network.table.layers if can_be_sparse(layer)):
        pattern = patterns[i % len(patterns)]
        if pattern == UNSTRUCTURED or not all(fits(part, pattern) for part in parts[name]):
            args: dict[str, Scalar] = {"pattern": UNSTRUCTURED, "density": density}
        else:
            args = {"pattern": pattern}
        steps.append(Step(name, "sparsify", {**args, "criterion": criterion}))
    return Plan.of(steps)


def structure(bench: Workbench) -> Plan:
    """Every group halved, every layer factored that can be, its methods in turn."""
    steps = [Step(group.name, "prune", {"keep": group.channels // 2}) for group in bench.network.table.groups]
    parts = resolve(bench.network.table, Plan.of(steps))
    for i, layer in enumerate(bench.network.table.layers):
        methods = methods_for(layer)
        if methods:
            method = methods[i % len(methods)]
            args = rank_args(parts[layer.name][0], method, 0.6, 2)
            if args is not None:
                steps.append(Step(layer.name, "decompose", {"method": method, **args}))
    return Plan.of(steps)
