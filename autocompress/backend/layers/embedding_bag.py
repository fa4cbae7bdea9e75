"""`nn.EmbeddingBag` over fixed bags as an embedding and a reduction, which exporters and techniques can process."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class PooledEmbedding(nn.Module):
    """Rows of an `embedding` (N, length, features), summed, averaged or maximised over each bag `(N, length)`.

    Entries equal to `padding_idx`, if there is one, do not count.
    """

    def __init__(self, embedding: nn.Embedding, mode: str, padding_idx: int | None) -> None:
        super().__init__()
        self.embedding, self.mode, self.padding_idx = embedding, mode, padding_idx

    def forward(self, x: Tensor) -> Tensor:
        """Pool the rows of indices `(N, length)` into `(N, features)`."""
        rows: Tensor = self.embedding(x)
        if self.mode == "max":
            return rows.amax(dim=1)
        if self.padding_idx is None:
            return rows.mean(dim=1) if self.mode == "mean" else rows.sum(dim=1)
        counted = (x != self.padding_idx).to(rows.dtype)[..., None]
        total = (rows * counted).sum(dim=1)
        return total / counted.sum(dim=1).clamp(min=1.0) if self.mode == "mean" else total


def pooled(bag: nn.Module, calls: list[tuple[Any, Any, Any]]) -> nn.Module | None:
    """Return an equivalent `PooledEmbedding` of an `nn.EmbeddingBag`, judged by its recorded calls.

    None where bags have offsets or weights per sample, or where rows are renormalised.
    """
    assert isinstance(bag, nn.EmbeddingBag)
    fixed = calls and all(not options and len(args) == 1 and isinstance(args[0], Tensor) and args[0].ndim == 2
                          for args, options, _ in calls)
    if not fixed or bag.max_norm is not None or (bag.mode == "max" and bag.padding_idx is not None):
        return None
    with torch.no_grad():
        embedding = nn.Embedding(bag.num_embeddings, bag.embedding_dim, _weight=bag.weight.detach().clone())
    return PooledEmbedding(embedding, bag.mode, bag.padding_idx).eval()
