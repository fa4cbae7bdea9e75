"""Embedding: a vector for each sample, `(N, D)`, or for each token, of which the mean of those that count is taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from autocompress.core.metric import Metric
from autocompress.errors import InputError
from autocompress.tasks.kinds.base import KindContext, KindFacts, chosen_output
from autocompress.tasks.metrics.measure import OfSamples, OfSplit, Outputs, mean_with_error
from autocompress.tasks.metrics.selection import ORIGINAL, as_array
from autocompress.tasks.metrics.table import NAMED
from autocompress.tasks.sources.base import TARGET

RECALL = Metric("recall_at_1", unit="%", title="Recall at 1")
# What libraries call embeddings. Of transformers the mean over tokens comes before the output of the pooler, which most
# sentence encoders leave untrained.
NAMES = ("sentence_embedding", "embeddings", "embedding", "last_hidden_state", "pooler_output")
# Similarities that are computed at once.
MOST_SIMILARITIES = 2**24


@dataclass(frozen=True)
class OfVectors(OfSamples):
    """A metric of one vector a sample, by `pooled`. `output`: the name of the embedding."""

    output: str = ""

    def of_batch(self, outputs: Outputs, batch: Any, original: Outputs) -> np.ndarray:
        """See `OfSamples`."""
        return super().of_batch({self.output: pooled(outputs[self.output], batch)}, batch,
                                {self.output: pooled(original[self.output], batch)})


@dataclass(frozen=True)
class Recall(OfSplit):
    """`recall_at_one`, whose standard error is that of a mean over samples."""

    def over_split(self, per_batch: Sequence[Any], batches: Sequence[Any]) -> tuple[float, float]:
        """See `OfSplit`."""
        return mean_with_error(_alike(per_batch))


def recall_at_one(per_batch: Sequence[tuple[np.ndarray, np.ndarray]], batches: Sequence[Any]) -> float:
    """The share of samples whose nearest other sample, by cosine, is of their class, of those that have another of it.

    Args:
        per_batch: of each batch, vectors `(N, D)` and class numbers `(N,)`.
        batches: not read.
    """
    return float(_alike(per_batch).mean())


def _alike(per_batch: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    return nearest_is_alike(np.concatenate([vectors for vectors, _ in per_batch]),
                            np.concatenate([labels for _, labels in per_batch]))


def nearest_is_alike(vectors: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """For each sample whose class has another, 1 where the nearest other one is of it.

    Args:
        vectors: `(N, D)`.
        labels: class numbers `(N,)`.

    Raises:
        InputError: where no class has two samples.
    """
    _, numbers, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if counts.max(initial=0) < 2:
        raise InputError(f"recall_at_1 needs classes of two samples or more in each split, but {len(labels)} samples "
                         f"are of {len(counts)} classes: give more samples, or --metric cosine")
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    alike_rows = []
    rows = max(1, MOST_SIMILARITIES // len(unit))
    for start in range(0, len(unit), rows):
        near = unit[start:start + rows] @ unit.T
        near[np.arange(len(near)), start + np.arange(len(near))] = -np.inf
        alike_rows.append(numbers[near.argmax(1)] == numbers[start:start + rows])
    alike: np.ndarray = np.concatenate(alike_rows)[counts[numbers] > 1].astype(np.float64)
    return alike


def pooled(vectors: np.ndarray, batch: Any) -> np.ndarray:
    """One vector a sample `(N, D)`: the mean over tokens `(N, L, D)` that the batch's `attention_mask` counts; all of
    them where it has none."""
    if vectors.ndim != 3:
        return vectors.reshape(len(vectors), -1)
    mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
    counted = np.ones(vectors.shape[:2]) if mask is None else as_array(mask, "attention_mask").astype(np.float64)
    total: np.ndarray = (vectors * counted[:, :, None]).sum(1)
    return total / np.maximum(counted.sum(1), 1)[:, None]  # type: ignore[no-any-return]


def kept_vectors(output: str, outputs: Outputs, batch: Any) -> tuple[np.ndarray, np.ndarray]:
    """What recall needs of a batch: vectors `(N, D)` float32 and labels `(N,)`."""
    return pooled(outputs[output], batch).astype(np.float32), as_array(batch[TARGET], "labels")


def embedding(context: KindContext) -> KindFacts:
    """Where samples have labels, recall at 1, and beside it the cosine similarity to the original's vectors; without
    labels, the latter."""
    rank = min((tensor.dim() for tensor in context.outputs.values() if tensor.dim() > 1), default=2)
    dims = next((context.outputs[name].dim() for name in NAMES if name in context.outputs), rank)
    output = chosen_output(context, lambda tensor: tensor.dim() == dims, NAMES, "vectors (N, D), or (N, tokens, D)")
    named = NAMED["cosine"]
    cosine = OfVectors(named.metric, named.rows, named.value, predictions=output, targets=ORIGINAL, output=output)
    if not context.source.labelled:
        return KindFacts([cosine], predictions=output)
    return KindFacts([Recall(RECALL, recall_at_one, partial(kept_vectors, output)), cosine], predictions=output)
