"""Trials, the front and the best plan as tables, and tables as files that are safe to open."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd

from autocompress.core.evaluation import LATENCY, further_latencies
from autocompress.core.layer import Group, Layer, LayerTable, Part
from autocompress.core.plan import Plan, Step
from autocompress.core.sparsity import stored_bits
from autocompress.report.text import factor, titles
from autocompress.report.view import StudyView
from autocompress.techniques.apply import Techniques
from autocompress.techniques.decompose import DECOMPOSE, rank_text
from autocompress.techniques.drop import dropped_layers
from autocompress.techniques.prune import PRUNE
from autocompress.techniques.quantize import QUANTIZE
from autocompress.techniques.sparsify import SPARSIFY, sparsity_text
from autocompress.techniques.table import TECHNIQUES

_LEADING = ["trial", "status", "rung", "origin"]
_TRAILING = ["seconds", "plan_fingerprint", "reason"]
_WHOLE = ["rung", "size_bytes", "macs", "params", "peak_memory_bytes"]
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def trials_frame(view: StudyView) -> pd.DataFrame:
    """One row a trial, in the order of the study. Units are in the column names; metrics in percent are 0 to 1."""
    rows = [candidate.flat() for candidate in view.candidates]
    leading = [*_LEADING, *titles(view.metric)]
    placed = {*leading, *_TRAILING}
    others = sorted({name for row in rows for name in row} - placed)
    frame = pd.DataFrame(rows, columns=[*leading, *others, *_TRAILING])
    for name in _WHOLE:
        values = frame[name].astype("float64")
        if np.isinf(values).any() or (values != values.round()).sum() > values.isna().sum():
            continue  # a whole-number column would hide what the trial really returned
        frame[name] = values.astype("Int64")
    return frame


def front_frame(view: StudyView) -> pd.DataFrame:
    """The front's rows in its order, with factors against the original: 2.0 is half the size or time. A latency that
    was measured has one only where the file and the original were timed together: when it was exported."""
    frame = trials_frame(view).set_index("trial", drop=False)
    frame = frame.loc[[n for n in view.front if n in frame.index]].reset_index(drop=True)
    frame["is_best"] = frame["trial"] == view.best
    name = view.metric.name
    frame[f"{name}_change"] = frame[name] - view.baseline.get(name, math.nan)
    factors = {"size_bytes": "size_factor", LATENCY: "latency_factor"}
    factors |= {name: name.replace(LATENCY, "latency_factor") for name in further_latencies(frame.columns)}
    for metric, name in (factors | {"macs": "macs_factor"}).items():
        ratios = [view.speedup_of(int(trial), metric) if metric.startswith(LATENCY) else
                  factor(view.baseline.get(metric), None if pd.isna(v) else float(v))
                  for trial, v in zip(frame["trial"], frame[metric], strict=True)]
        frame[name] = pd.Series(ratios, dtype="float64")
    return frame


def as_csv(frame: pd.DataFrame) -> str:
    """The table without its index. Text that a spreadsheet would run as a formula gets a leading `'`.

    Lines end in CRLF (RFC 4180), so that either character inside a cell is quoted. Source: OWASP, CSV Injection.
    """
    safe = frame.astype(object).map(_inert).rename(columns=_inert)
    return str(safe.to_csv(index=False, lineterminator="\r\n"))


def as_json(frame: pd.DataFrame) -> str:
    """The table as a list of records in strict JSON: a missing or non-finite number becomes null."""
    rows = [{str(key): _plain(value) for key, value in row.items()} for row in frame.to_dict("records")]
    return json.dumps(rows, indent=1, allow_nan=False) + "\n"


def plan_rows(layers: LayerTable, plan: Plan, parts: tuple[Part, ...] = (),
              techniques: Techniques = TECHNIQUES) -> list[dict[str, Any]]:
    """What a plan makes of each layer of the original, in order.

    Channels come from `parts` where the layer has some, else from the kept channels of its groups.
    `removed` and `rank_share` are shares, 0 to 1; `rank_share` is None for a layer that is not
    decomposed. `bytes` counts packed weights, masks and biases, not scales or the graph; it is None without parts.
    """
    pruned, decomposed, sparse, quantized = (
        plan.find(row.name) for row in (PRUNE, DECOMPOSE, SPARSIFY, QUANTIZE))
    gone, own_steps = dropped_layers(layers, plan), _own_steps(layers, plan, techniques)
    rows = []
    for layer in layers.layers:
        layer_parts = [part for part in parts if part.layer == layer.name]
        dropped = layer.name in gone
        in_after, out_after = (0, 0) if dropped else _channels_after(layer, layers.groups, pruned, layer_parts)
        quantize, decompose = quantized.get(layer.name), decomposed.get(layer.name)
        bits = quantize.args if quantize else {}
        rows.append({
            "layer": layer.name, "kind": layer.kind,
            "in_before": layer.in_channels, "in_after": in_after,
            "out_before": layer.out_channels, "out_after": out_after,
            "removed": 1 - out_after / layer.out_channels if layer.out_channels else 0.0,
            "weight_bits": int(bits.get("weight_bits", 32)), "activation_bits": int(bits.get("activation_bits", 32)),
            "sparsity": sparsity_text(sparse.get(layer.name)),
            "method": str(decompose.args.get("method", "")) if decompose else "",
            "rank": rank_text(decompose),
            "rank_share": _rank_share(layer, in_after, out_after, decompose),
            "bytes_before": 0 if layer.folds_into else 4 * layer.params,
            "bytes": round(sum(map(_part_bytes, layer_parts))) if parts else None,
            "note": ("its block is dropped" if dropped else own_steps.get(layer.name)
                     or _note(layer, in_after, out_after, bool(quantize or decompose or layer.name in sparse))),
        })
    return rows


def _own_steps(layers: LayerTable, plan: Plan, techniques: Techniques) -> dict[str, str]:
    """What the steps of a user's own techniques do, by site."""
    texts: dict[str, list[str]] = {}
    for step in plan.steps:
        if step.technique not in TECHNIQUES:
            row = techniques.get(step.technique)
            texts.setdefault(step.site, []).append(
                f"{step.technique}: {row.describe(step, layers)}" if row else step.technique)
    return {site: "; ".join(of_site) for site, of_site in texts.items()}


def _channels_after(
    layer: Layer, groups: tuple[Group, ...], pruned: dict[str, Step], parts: list[Part]
) -> tuple[int, int]:
    if parts:
        return parts[0].in_channels, parts[-1].out_channels
    after = {"in": layer.in_channels, "out": layer.out_channels}
    for group in groups:
        if group.name in pruned:
            gone = group.channels - int(pruned[group.name].args.get("keep", group.channels))
            for member in group.members:
                if member.layer == layer.name:
                    after[member.side] -= gone * member.per_channel
    return after["in"], after["out"]


def _rank_share(layer: Layer, in_after: int, out_after: int, step: Step | None) -> float | None:
    """Rank against the largest there can be; for two ranks, the mean of both shares."""
    if step is None:
        return None
    if "rank_in" in step.args and "rank_out" in step.args:
        shares = [int(step.args["rank_in"]) / max(in_after, 1), int(step.args["rank_out"]) / max(out_after, 1)]
        return min(1.0, sum(shares) / 2)
    fan_in, fan_out = in_after // max(layer.groups, 1) * math.prod(layer.kernel), out_after
    if step.args.get("method") == "spatial-svd" and len(layer.kernel) == 2:
        # a (k×1) convolution, then a (1×k) one: the matrix is (in·kh) by (out·kw)
        fan_in, fan_out = in_after // max(layer.groups, 1) * layer.kernel[0], out_after * layer.kernel[1]
    if step.args.get("method") == "cp":
        fan_in, fan_out = (size * math.prod(layer.kernel) for size in (in_after, out_after))
    return min(1.0, int(step.args.get("rank", 0)) / max(min(fan_in, fan_out), 1))


def _part_bytes(part: Part) -> float:
    stored = stored_bits(part.pattern, part.weights, part.kept, part.weight_bits)
    return stored / 8 + (4 * part.out_channels if part.bias and part.kind != "norm" else 0)


def _note(layer: Layer, in_after: int, out_after: int, has_step: bool) -> str:
    if layer.folds_into:
        return f"folds into {layer.folds_into}"
    if layer.not_compressible_reason:
        return layer.not_compressible_reason
    touched = has_step or (in_after, out_after) != (layer.in_channels, layer.out_channels)
    return "" if touched else "untouched, float 32"


def _inert(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA_STARTS) else value


def _plain(value: Hashable) -> Any:
    if isinstance(value, str):
        return value
    if value is None or value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value.item() if isinstance(value, np.generic) else value
