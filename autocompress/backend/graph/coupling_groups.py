"""Coupling groups of a network: found on its traced graph, and each proved by cutting it.

Channels that the labels tie together are an atom; atoms that take as much of the same layers are a group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor, nn

from autocompress.backend.graph.coupling import Coupling, Item
from autocompress.backend.graph.cut_check import unsafe_groups
from autocompress.backend.graph.label_propagation import Propagation
from autocompress.core.layer import Group, LayerTable, Member

Side = tuple[str, str]
"""A layer and "in" or "out"."""


@dataclass
class _Atom:
    """Channels that can only be cut together: the indices of each layer's side that they take."""

    root: int
    indices: dict[Side, list[int]] = field(default_factory=dict)

    @property
    def signature(self) -> tuple[tuple[Side, int], ...]:
        return tuple((side, len(indices)) for side, indices in self.indices.items())


def record_coupling(model: nn.Module, example: Tensor, table: LayerTable, found: Propagation) -> Coupling:
    """All groups that can really be cut: a cut copy computes what a network with those channels unread computes."""
    atoms = _atoms(found)
    reasons, mixers, heads = found.labels.reasons(), found.labels.mixers(), found.labels.heads()
    alike: dict[tuple[tuple[Side, int], ...], list[_Atom]] = {}
    for atom in atoms.values():
        if atom.root not in reasons:
            alike.setdefault(atom.signature, []).append(atom)
    producer = {int(label): name for name, labels in found.producers for label in labels}
    names, recorded, refused = Counter[str](), dict[str, tuple[Group, tuple[Item, ...]]](), dict[str, str]()
    why = {atom.root: reasons[atom.root] for atom in atoms.values() if atom.root in reasons}
    for same in sorted(alike.values(), key=lambda group: group[0].root):
        layer = producer[same[0].root]
        names[layer] += 1
        name = layer if names[layer] == 1 else f"{layer}/{names[layer]}"
        try:
            recorded[name] = _group(name, same, table, all(atom.root in heads for atom in same), mixers)
        except _Refused as error:
            names[layer] -= 1
            why.update(dict.fromkeys((atom.root for atom in same), str(error)))
    failed = unsafe_groups(model, example, recorded)
    kept = {name: both for name, both in recorded.items() if name not in failed}
    cut = {(item.module, int(index)) for _, items in kept.values() for item in items if item.side == "out"
           for index in item.indices}
    for name, labels in found.producers:
        roots = found.labels.find(labels).tolist()
        if any((name, index) in cut for index in range(len(roots))):
            continue
        groups = [group for group, (_, items) in recorded.items() if any(item.module == name and item.side == "out"
                                                                         for item in items)]
        refused[name] = next((failed[group] for group in groups if group in failed),
                             next((why[root] for root in roots if root in why), "no layer reads its channels"))
    return Coupling(tuple(group for group, _ in kept.values()), {name: items for name, (_, items) in kept.items()},
                    refused)


def _atoms(found: Propagation) -> dict[int, _Atom]:
    """By root, in the order in which layers make them."""
    atoms: dict[int, _Atom] = {}
    for use in found.uses:
        for index, root in enumerate(found.labels.find(use.labels).tolist()):
            if root:
                if root not in atoms:
                    atoms[root] = _Atom(root)
                atoms[root].indices.setdefault((use.layer, use.side), []).append(index)
    return dict(sorted(atoms.items()))


class _Refused(Exception):
    """Channels that are left alone, with the reason."""


def _group(name: str, atoms: list[_Atom], table: LayerTable, heads: bool,
           mixers: Mapping[int, str]) -> tuple[Group, tuple[Item, ...]]:
    if len(atoms) == 1:
        raise _Refused(mixers.get(atoms[0].root, "it has one channel alone, or all of its channels are tied"))
    if not any(side == "in" for _, side in atoms[0].indices):
        raise _Refused("no layer reads its channels")
    atoms, blocks = _in_blocks(atoms, table)
    if len(atoms) < 2 * blocks:
        raise _Refused("a grouped convolution has one of its channels in each group")
    members = tuple(Member(layer, side, count) for (layer, side), count in atoms[0].signature)  # type: ignore[arg-type]
    items = tuple(Item(layer, side, np.concatenate([atom.indices[layer, side] for atom in atoms]).astype(np.int64),
                       np.repeat(np.arange(len(atoms)), count)) for (layer, side), count in atoms[0].signature)
    return Group(name=name, channels=len(atoms), members=members, blocks=blocks, heads=heads), items


def _in_blocks(atoms: list[_Atom], table: LayerTable) -> tuple[list[_Atom], int]:
    """Atoms ordered by the blocks of the grouped convolutions that they touch, and the number of equal cells."""
    grouped = {}
    for name, side in atoms[0].indices:
        layer = table.by_name[name]
        if layer.groups > 1 and not layer.groups == layer.in_channels == layer.out_channels:
            grouped[name, side] = (layer.out_channels if side == "out" else layer.in_channels) // layer.groups
    keys = [tuple(_block(atom.indices[side], size, table.by_name[side[0]].groups, side[0])
                  for side, size in grouped.items()) for atom in atoms]
    cells = Counter(keys)
    for place, (name, _) in enumerate(grouped):
        touched = Counter(key[place] for key in cells)
        if len(set(cells.values())) > 1 or len(set(touched.values())) > 1 or \
                len(touched) not in (1, table.by_name[name].groups) or (len(touched) == 1 and -1 not in touched):
            raise _Refused(f"its channels reach the groups of the convolution {name} unevenly")
    order = sorted(range(len(atoms)), key=lambda i: (keys[i], i))
    return [atoms[i] for i in order], len(cells)


def _block(indices: Iterable[int], size: int, groups: int, name: str) -> int:
    """The block that all indices are in, or -1 when they are spread over all blocks alike."""
    counts = Counter(index // size for index in indices)
    if len(counts) == 1 and groups > 1:
        return next(iter(counts))
    if len(counts) == groups and len(set(counts.values())) == 1:
        return -1
    raise _Refused(f"its channels reach the groups of the convolution {name} unevenly")
