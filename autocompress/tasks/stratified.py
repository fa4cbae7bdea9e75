"""Parts of a split that stand for all of it: each class in its share, and a larger part holds the smaller ones."""

from __future__ import annotations

import torch
from torch import Tensor


def stratified_part(targets: Tensor, samples: int, seed: int = 0) -> Tensor:
    """Numbers `(samples,)` int64, ascending, of a part of the samples with labels `targets` `(N,)`.

    Samples of each class are shuffled and spread evenly over 0 to 1, from a place that is drawn for the class; a part
    is those below some value. It holds each class in its share, and larger parts hold it.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(targets), generator=generator)
    order = order[torch.argsort(targets[order], stable=True)]
    counts = torch.bincount(targets)
    labels = targets[order]
    ranks = torch.arange(len(order)) - (counts.cumsum(0) - counts)[labels]
    places = (ranks + torch.rand(len(counts), generator=generator)[labels]) / counts[labels]
    return order[torch.argsort(places, stable=True)[:samples]].sort().values


def random_part(count: int, samples: int, seed: int = 0) -> Tensor:
    """Numbers `(samples,)` int64, ascending, of a part of `count` samples; those of larger parts hold it."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:samples].sort().values
