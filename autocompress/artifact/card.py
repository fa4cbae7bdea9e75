"""The model card beside an exported file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from autocompress.artifact import card_sections as sections
from autocompress.core.metric import Metric
from autocompress.quantities import format_bytes, format_milliseconds
from autocompress.techniques.decompose import DECOMPOSE
from autocompress.techniques.drop import DROP
from autocompress.techniques.prune import PRUNE
from autocompress.techniques.quantize import QUANTIZE
from autocompress.techniques.sparsify import SPARSIFY
from autocompress.techniques.table import TECHNIQUES


class Running(NamedTuple):
    """How a file is run and made elsewhere: its runtime in words, what users call to convert a network without
    autocompress, and the Python lines that run the file (`Format.snippet`)."""

    runtime: str
    converter: str
    snippet: Callable[[str, Mapping[str, str], Sequence[str]], str]


def model_card(manifest: dict[str, Any], data: str, running: Running, metric: Metric, encrypted: bool = False) -> str:
    """Write in Markdown what the file is, what was verified, who pays for it, and snippets that run it.

    Args:
        manifest: the facts of the artefact.
        data: the name of the data set.
        running: how the file is run.
        metric: of the task.
        encrypted: whether the file lies encrypted, so that autocompress alone runs it.
    """
    quality = manifest.get("quality") or {}
    parts = [_figures(manifest, data, running, metric), sections.by_class(quality),
             sections.robustness(quality, metric), sections.watermark(manifest.get("watermark"), metric),
             sections.attribution(manifest.get("attribution"), metric),
             "" if encrypted else _snippet(manifest, running), sections.use(encrypted),
             sections.words(manifest.get("licence", ""), manifest.get("intended_use", ""))]
    return "".join(parts)


def _done(plan: dict[str, Any]) -> str:
    """What a plan does, counted."""
    steps = plan["steps"]
    bits = Counter(step["args"]["weight_bits"] for step in steps if step["technique"] == QUANTIZE.name)
    pruned = sum(step["technique"] == PRUNE.name for step in steps)
    factored = Counter(step["args"]["method"] for step in steps if step["technique"] == DECOMPOSE.name)
    sparse = sum(step["technique"] == SPARSIFY.name for step in steps)
    dropped = sum(step["technique"] == DROP.name for step in steps)
    others = Counter(step["technique"] for step in steps if step["technique"] not in TECHNIQUES)
    done = [f"{dropped} residual blocks dropped"] if dropped else []
    done += [f"{pruned} channel groups pruned"] if pruned else []
    done += [f"{name} at {count} sites" for name, count in others.items()]
    done += [f"{n} layers factored by {method}" for method, n in sorted(factored.items())]
    done += [f"{sparse} layers with single weights taken out"] if sparse else []
    done += [f"{n} layers with {b}-bit weights" for b, n in sorted(bits.items())]
    return ", ".join(done) or "nothing changed"


def _figures(manifest: dict[str, Any], data: str, running: Running, metric: Metric) -> str:
    facts, memory = manifest["verified"], manifest.get("peak_memory")
    rows = [
        f"| {what} | {show(facts[f'baseline_{key}'])} | {show(facts[key])} |" for what, key, show in (
            *((f"{each.words} on the test split of {data}", each.name, each.format) for each in metric.every),
            ("size", "size_bytes", format_bytes),
            (f"latency (batch 1, CPU time of one thread, {running.runtime} on the exporting machine)", "latency_ms",
             format_milliseconds),
        )]
    devices = manifest["latencies"]
    elsewhere = {device: of for device, of in devices.items() if of.get("source") != "measured"}
    estimates = [device for device, of in elsewhere.items() if of["source"] == "estimated"]
    rows += [f"| latency on {device}, {of['source']} | {format_milliseconds(of['baseline_ms'])} | "
             f"{format_milliseconds(of['ms'])} |" for device, of in elsewhere.items()]
    if memory:
        rows.append(f"| peak memory of activations, {memory['source']} | {format_bytes(memory['baseline_bytes'])} | "
                    f"{format_bytes(memory['bytes'])} |")
    names = ", ".join(f"`{device}`" for device in devices)
    is_estimated = estimates or (memory and memory["source"] == "estimated")
    figures = "All figures but estimates" if is_estimated else "All figures"
    original = f"of what `{running.converter}` makes of it" if running.converter else "written in the same format"
    same = "" if not manifest.get("saturation", {}).get("integer_layers") else (
        " No integer kernel can saturate on these weights:\nCPUs without dot-product instructions answer as others do.")
    return f"""# {manifest["study"]}, trial {manifest["trial"]}

Compressed by autocompress for {names}: {_done(manifest["plan"])}.

| | original | this file |
|---|---|---|
{chr(10).join(rows)}

{figures} are of the files themselves, run in {running.runtime}; of the original, {original}.
{_speed(facts)}`manifest.json` has the plan, the receipts, the hashes and the versions.{same}
"""


def _snippet(manifest: dict[str, Any], running: Running) -> str:
    """Lines that run the file without autocompress."""
    inputs = manifest.get("inputs") or [manifest["input"]]
    outputs = manifest.get("outputs") or [manifest["output"]]
    answers = [_variable(one, alone=len(outputs) == 1) for one in outputs]
    feed = {one["name"]: one["name"] if len(inputs) > 1 else "inputs" for one in inputs}
    prepared = "\n".join(_prepared(one, feed[one["name"]]) for one in inputs)
    described = "; ".join(f"{one['meaning']}, ({', '.join(map(str, one['shape']))})" for one in outputs)
    answer = "\n".join(f"print({name}.argmax(axis=1))" if name in ("scores", "probabilities") else f"print({name})"
                       for name in answers)
    return f"""
## Run it

```python
import numpy as np

{prepared}

{running.snippet(manifest["model"], feed, answers)}  # {described}
{answer}
```
"""


def _variable(output: dict[str, Any], alone: bool) -> str:
    """The name of a Python variable for an output: what it is, where it is the only one."""
    if not alone:
        return re.sub(r"\W", "_", output["name"]).lstrip("0123456789") or "outputs"
    if output["meaning"].startswith(("class scores", "logarithms")):
        return "scores"
    return "probabilities" if "probabilit" in output["meaning"] else "outputs"


def _prepared(facts: dict[str, Any], variable: str) -> str:
    """Python lines that make an input of the file, from pixels or values where it is known how they were normalised."""
    shape = ", ".join(str(size) for size in facts["shape"][1:])
    if facts["dtype"] == "int64":
        return f"{variable} = np.zeros((1, {shape}), np.int64)  # your tokens"
    if "mean" not in facts:
        return f"{variable} = np.zeros((1, {shape}), np.{facts['dtype']})  # your input"
    scaled = "pixels.astype(np.float32) / 255" if facts["scale"] == "pixels / 255" else "pixels.astype(np.float32)"
    axes = ", ".join(["1", "-1", *["1"] * (len(facts["shape"]) - 2)])
    return f"""pixels = np.zeros((1, {shape}))  # {facts.get("prepared") or "your input"}
mean = np.array({facts["mean"]}, np.float32).reshape({axes})
std = np.array({facts["std"]}, np.float32).reshape({axes})
{variable} = (({scaled} - mean) / std).astype(np.float32)"""


def _speed(facts: dict[str, Any]) -> str:
    factor, low, high = (facts["speedup"][name] for name in ("factor", "low", "high"))
    if factor < 1:
        factor, low, high = 1 / factor, 1 / high, 1 / low
    word = "slower" if facts["speedup"]["factor"] < 1 else "faster"
    return f"Timed in turn, this file is {factor:.2f} times {word} than the original ({low:.2f} to {high:.2f}).\n"
