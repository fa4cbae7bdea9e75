"""One synthetic study: every status, every rung, and names that try to be markup or formulas."""

from __future__ import annotations

import random

import pytest

from autocompress.core.budget import Budget
from autocompress.core.evaluation import Candidate, Evaluation
from autocompress.core.front import best, front
from autocompress.core.layer import Group, Layer, LayerTable, Member, Part
from autocompress.core.metric import Reference
from autocompress.core.plan import Plan, Step
from autocompress.report.view import StudyView
from autocompress.tasks.classification.metric import ACCURACY

SCRIPT_NAME = "</script><script>document.body.dataset.owned=1</script>"
BASELINE = {"accuracy": 0.9312, "size_bytes": 4_730_000.0, "latency_ms": 6.4, "macs": 61_000_000.0,
            "params": 1_180_000.0, "peak_memory_bytes": 1_310_720.0}
REFERENCE = Reference(ACCURACY, BASELINE["accuracy"])
WIDTHS = (32, 32, 32, 64, 64, 64, 128, 128, 128, 256, 256)


def _layers() -> LayerTable:
    layers, before, side = [], 3, 32
    for i, width in enumerate(WIDTHS):
        if i and width != before:
            side //= 2
        name = "stage.<b>bold</b>&amp;" if i == 4 else f"stage{i // 3}.block{i % 3}.conv"
        layers.append(Layer(
            name=name, kind="conv", in_channels=before, out_channels=width, kernel=(3, 3), stride=(1, 1),
            in_shape=(before, side, side), out_shape=(width, side, side), params=9 * before * width,
            not_compressible_reason="its input is the image" if i == 0 else ""))
        layers.append(Layer(name=f"{name}.bn", kind="norm", in_channels=width, out_channels=width,
                            params=4 * width, folds_into=name))
        before = width
    layers.append(Layer(name="classifier", kind="linear", in_channels=256, out_channels=10, in_shape=(256,),
                        out_shape=(10,), bias=True, params=2570))
    convs = [layer.name for layer in layers if layer.kind == "conv"]
    groups = tuple(
        Group(name=name, channels=width, members=(
            Member(name, "out"), Member(f"{name}.bn", "out"),
            Member(convs[i + 1] if i + 1 < len(convs) else "classifier", "in")))
        for i, (name, width) in enumerate(zip(convs, WIDTHS, strict=True)))
    return LayerTable(input_shape=(3, 32, 32), outputs=10, layers=tuple(layers), groups=groups)


def _plan(layers: LayerTable, rng: random.Random, shrink: float) -> Plan:
    steps = []
    for group in layers.groups[1:]:
        if rng.random() < 0.7:
            keep = max(8, int(group.channels * min(1.0, shrink + rng.uniform(-0.15, 0.15))) // 8 * 8)
            steps.append(Step(group.name, "prune", {"keep": keep}))
    for layer in layers.layers:
        if layer.kind != "norm" and layer.compressible:
            bits = rng.choice([8, 8, 4, 6])
            steps.append(Step(layer.name, "quantize", {"weight_bits": bits, "activation_bits": 8}))
    names = [layer.name for layer in layers.layers if layer.kind == "conv"]
    steps.append(Step(names[-1], "decompose", {"method": "tucker2", "rank_in": 24, "rank_out": 32}))
    steps.append(Step(names[-2], "decompose", {"method": "spatial-svd", "rank": 24}))
    return Plan.of(steps)


def _parts(layers: LayerTable, plan: Plan) -> tuple[Part, ...]:
    pruned, quantized, parts, before = plan.find("prune"), plan.find("quantize"), [], 3
    for layer in layers.layers:
        if layer.kind == "norm":
            continue
        keep = pruned[layer.name].args["keep"] if layer.name in pruned else layer.out_channels
        bits = quantized[layer.name].args["weight_bits"] if layer.name in quantized else 32
        parts.append(Part(name=layer.name, layer=layer.name, kind=layer.kind, in_channels=before,
                          out_channels=int(keep), kernel=layer.kernel, positions=layer.positions,
                          weight_bits=int(bits), activation_bits=8 if bits != 32 else 32))
        before = int(keep)
    return tuple(parts)


def make_view(name: str = f"mobile study {SCRIPT_NAME}") -> StudyView:
    rng, layers = random.Random(7), _layers()
    budget = Budget(size_bytes=800_000, latency_ms=3.0, max_drop=0.03)
    candidates: list[Candidate] = []
    for trial in range(42):
        shrink = rng.uniform(0.25, 0.95)
        plan = _plan(layers, rng, shrink)
        rung = 2 if trial % 5 == 0 else 1 if trial % 3 == 0 else 0
        size = BASELINE["size_bytes"] * (0.04 + 0.24 * shrink**2) * rng.uniform(0.9, 1.1)
        metrics = {
            "accuracy": 0.938 - 0.10 * (1 - shrink) ** 2 - (0.09, 0.02, 0.0)[rung] * rng.uniform(0.5, 1.5),
            "size_bytes": float(round(size)), "latency_ms": 0.7 + 3.2 * shrink * rng.uniform(0.9, 1.1),
            "macs": float(round(BASELINE["macs"] * (0.08 + 0.8 * shrink**2))), "params": float(round(size / 0.7)),
            "peak_memory_bytes": float(round(400_000 + 800_000 * shrink)),
        }
        evaluations = tuple(
            Evaluation(rung=r, metrics=metrics if r == rung else {**metrics, "accuracy": metrics["accuracy"] - 0.03},
                       sources={"accuracy": "measured", "latency_ms": "estimated", "size_bytes": "estimated"},
                       timings={"compress": 0.4, "score": 1.0 + 20.0 * r}) for r in range(rung + 1))
        origin = "uniform" if trial < 6 else "@SUM(A1:A9)" if trial == 9 else "tpe"
        if trial in (8, 17, 30):
            reason = {8: "accuracy is nan", 17: "<img src=x onerror=alert(1)>", 30: "=1+1"}[trial]
            metrics_or_none = () if trial != 30 else (Evaluation(
                rung=0, metrics={"accuracy": float("nan"), "size_bytes": 600_000.0}, sources={}),)
            candidates.append(Candidate(trial=trial, status="failed", plan=plan if trial == 17 else None,
                                        evaluations=metrics_or_none, reason=reason, origin=origin))
        elif trial in (11, 23):
            candidates.append(Candidate(trial=trial, status="duplicate", plan=candidates[5].plan, origin=origin,
                                        duplicate_of=5 if trial == 11 else 8))
        elif trial in (13, 26, 37):
            candidates.append(Candidate(trial=trial, status="infeasible", plan=plan, evaluations=evaluations[:1],
                                        reason="dominated at rung 0", origin=origin))
        elif trial == 29:
            without_latency = {k: v for k, v in metrics.items() if k != "latency_ms"}
            candidates.append(Candidate(trial=trial, status="infeasible", plan=plan, origin=origin, evaluations=(
                Evaluation(rung=0, metrics=without_latency, sources={}),)))
        elif trial == 41:
            candidates.append(Candidate(trial=trial, status="running", plan=plan, origin=origin))
        else:
            inside = budget.allows(metrics, REFERENCE)
            candidates.append(Candidate(trial=trial, status="complete" if inside else "infeasible", plan=plan,
                                        evaluations=evaluations, origin=origin,
                                        reason="" if inside else "size_bytes over its bound"))
    members = front(candidates, budget, REFERENCE)
    winner = best(candidates, budget, REFERENCE)
    assert winner is not None and winner.plan is not None
    m = winner.metrics
    return StudyView(
        name=name, metric=ACCURACY, profile="x86-64 avx512-vnni, ONNX Runtime", budget=budget, seed=0, space="default",
        baseline=BASELINE, sources={"accuracy": "measured", "size_bytes": "measured", "latency_ms": "estimated"},
        candidates=tuple(candidates), front=tuple(c.trial for c in members), best=winner.trial, layers=layers,
        parts=_parts(layers, winner.plan),
        untouched={"stage0.block0.conv": "its input is the image", "<script>alert(1)</script>": "shared weights"},
        artifact={"path": "artifact/model.onnx", "size_bytes": m["size_bytes"] + 4000,
                  "accuracy": m["accuracy"] - 0.001,
                  "baseline_accuracy": BASELINE["accuracy"], "latency_ms": 1.93, "baseline_latency_ms": 6.1,
                  "speedup": {"factor": 3.16, "low": 3.05, "high": 3.31, "rounds": 30, "clock": "CPU time"},
                  "verified": True},
        timings={"trace": 1.2, "sensitivity": 18.4, "search": 140.0, "recover": 611.0, "export <i>": 7.7})


@pytest.fixture(scope="session")
def view() -> StudyView:
    return make_view()
