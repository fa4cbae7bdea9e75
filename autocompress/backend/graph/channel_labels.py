"""Channel labels, united by union-find: which element of a tensor belongs to which output channel of which layer.

A tensor of a network is accompanied by an int64 tensor of its shape. Each element holds the label of the channel that
the element was computed from, or 0 where no cut can reach it. Along dimensions in which nothing changes the labels have
stride 0, so that a feature map costs as much memory as its channels.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

MEETS_CONSTANT = "its channels meet positions that no layer's channel stands for"


def varying(labels: Tensor) -> list[int]:
    """Return the dimensions along which the labels change."""
    return [dim for dim in range(labels.dim()) if labels.shape[dim] > 1 and labels.stride(dim)]


def core(labels: Tensor) -> Tensor:
    """Narrow every dimension along which nothing changes to one element."""
    for dim in range(labels.dim()):
        if labels.shape[dim] > 1 and not labels.stride(dim):
            labels = labels.narrow(dim, 0, 1)
    return labels


def compact(labels: Tensor) -> Tensor:
    """Return equal labels with stride 0 wherever nothing changes."""
    small = core(labels)
    for dim in sorted(range(small.dim()), key=lambda d: -small.shape[d]):
        if small.shape[dim] > 1:
            first = small.narrow(dim, 0, 1)
            small = first if bool((small == first).all()) else small
    return small.expand(labels.shape)


def _distinct(labels: Tensor) -> Tensor:
    distinct: Tensor = labels[labels != 0].unique()  # type: ignore[no-untyped-call]
    return distinct


class Labels:
    """A union-find forest of labels, with the reasons against cutting some of them.

    Labels that can only be cut together are united; the least label of each set is its root.
    """

    def __init__(self) -> None:
        self._root = torch.zeros(1, dtype=torch.long)
        self._fixed: list[tuple[Tensor, str]] = []
        self._mixed: list[tuple[Tensor, str]] = []
        self._heads: list[Tensor] = []

    def fresh(self, count: int) -> Tensor:
        """Give out `count` new labels `(count,)`."""
        new = torch.arange(len(self._root), len(self._root) + count)
        self._root = torch.cat([self._root, new])
        return new

    def find(self, labels: Tensor) -> Tensor:
        """Replace each label by its root."""
        return compact(self._root[core(labels)].expand(labels.shape))

    def unite(self, a: Tensor, b: Tensor) -> None:
        """Unite two tensors of labels element by element; a label that meets 0 is fixed."""
        a, b = torch.broadcast_tensors(core(a), core(b))  # type: ignore[no-untyped-call]
        self.fix(torch.where(b == 0, a, torch.where(a == 0, b, 0)), MEETS_CONSTANT)
        both = (a != 0) & (b != 0)
        a, b = a[both], b[both]
        while True:
            roots = self._root[a], self._root[b]
            apart = roots[0] != roots[1]
            if not bool(apart.any()):
                return
            low, high = torch.minimum(*roots)[apart], torch.maximum(*roots)[apart]
            self._root.scatter_reduce_(0, high, low, "amin")
            while not torch.equal(further := self._root[self._root], self._root):
                self._root = further

    def unite_along(self, labels: Tensor, dim: int, why: str = "") -> Tensor:
        """Unite the labels along `dim`, and return them all.

        Args:
            labels: Labels of any shape.
            dim: The dimension along which they become equal.
            why: The reason to give for a layer all of whose channels become one by this.
        """
        small = core(labels)
        if small.shape[dim] > 1:
            if why:
                self._mixed.append((_distinct(small), why))
            self.unite(small, small.amax(dim, keepdim=True))
        return self.find(labels)

    def fix(self, labels: Tensor, reason: str) -> None:
        """Record that the channels of these labels cannot be cut, and why."""
        distinct = _distinct(core(labels))
        if len(distinct):
            self._fixed.append((distinct, reason))

    def mark_heads(self, labels: Tensor) -> None:
        """Record that the channels of these labels belong to attention heads."""
        self._heads.append(_distinct(core(labels)))

    def reasons(self) -> dict[int, str]:
        """Return the reason why channels cannot be cut, by root, for those that cannot."""
        return dict(self._first(self._fixed))

    def mixers(self) -> dict[int, str]:
        """Return what united several channels of one layer, by root."""
        return dict(self._first(self._mixed))

    def heads(self) -> set[int]:
        """Return the roots that are attention heads."""
        return {root for labels in self._heads for root in self._root[labels].tolist()}

    def _first(self, records: list[tuple[Tensor, str]]) -> Iterator[tuple[int, str]]:
        """Yield roots and reasons in reverse, so that in a dict the first reason recorded stays."""
        for labels, reason in reversed(records):
            for root in _distinct(self._root[labels]).tolist():
                yield root, reason


def along_axis(row: Tensor, axis: int, shape: tuple[int, ...]) -> Tensor:
    """Spread one label a channel, `row` `(C,)`, over a tensor of `shape` whose channels lie along `axis`."""
    return row.reshape([-1 if dim == axis else 1 for dim in range(len(shape))]).expand(shape)
