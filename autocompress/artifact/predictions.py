"""What a network says of samples, in words of its manifest: classes and probabilities, or its numbers."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from autocompress.artifact.inputs import Samples
from autocompress.artifact.loaded import LoadedArtifact
from autocompress.artifact.manifest import TensorFacts

# What a spreadsheet would take for the beginning of a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def predictions(network: LoadedArtifact, samples: Samples) -> Iterator[dict[str, Any]]:
    """One document for each sample: `input`, `sample`, the `class` with its `index` and `probability` where the network
    tells classes apart, and all numbers by name of the output."""
    outputs = network(**samples.arrays)
    scored = {name: probabilities(values, network.outputs[name]) for name, values in outputs.items()
              if name in network.outputs}
    classes = next(((name, values) for name, values in scored.items() if values is not None), None)
    for number in range(samples.count):
        row: dict[str, Any] = {"input": samples.origin, "sample": number}
        if classes is not None:
            name, values = classes
            index = int(values[number].argmax())
            names = network.outputs[name].classes
            row |= {"class": names[index] if index < len(names) else str(index), "index": index,
                    "probability": float(values[number][index])}
        yield row | {"outputs": {name: values[number].tolist() for name, values in outputs.items()}}


def probabilities(values: np.ndarray, facts: TensorFacts) -> np.ndarray | None:
    """Probabilities of classes `(N, classes)` out of what the network puts out; None for other outputs."""
    if values.ndim != 2 or values.shape[1] < 2:
        return None
    if facts.meaning == "class scores before softmax":
        shifted = np.exp(values - values.max(1, keepdims=True))
        return np.asarray(shifted / shifted.sum(1, keepdims=True))
    if facts.meaning.startswith("logarithms"):
        return np.asarray(np.exp(values))
    return values if "probabilit" in facts.meaning else None


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table: a line for each sample, its class and probability, or else all numbers by name of the output. Text that
    a spreadsheet would run as a formula gets a leading `'`. Lines end in CRLF (RFC 4180)."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    heads = ["input", "sample", *(["class", "index", "probability"] if rows and "class" in rows[0] else [])]
    flat = [{name: np.ravel(values).tolist() for name, values in row["outputs"].items()} for row in rows]
    longest = {name: max(len(row[name]) for row in flat) for name in (flat[0] if flat else {})}
    numbered = [(name, i) for name, length in longest.items() for i in range(length)]
    writer.writerow([*heads, *(f"{name}[{i}]" for name, i in numbered)])
    for row, values in zip(rows, flat, strict=True):
        writer.writerow([*(_inert(row[head]) for head in heads),
                         *(values[name][i] if i < len(values[name]) else "" for name, i in numbered)])
    return text.getvalue()


def _inert(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
