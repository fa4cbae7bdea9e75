"""Coupling groups of a network, read from the labels of its traced graph and each proved by a cut.

An atom is a set of channels that the labels tie together. Atoms that take equally many indices of the same layers form
a group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import nn

from autocompress.backend.graph.coupling import Coupling, Item
from autocompress.backend.graph.cut_check import unsafe_groups
from autocompress.backend.graph.label_propagation import Propagation
from autocompress.core.layer import Group, LayerTable, Member
from autocompress.tensors.named import Inputs

# The name of a layer, and `"in"` or `"out"`.
Side = tuple[str, str]


@dataclass
class _Atom:
    """Channels that can only be cut together.

    Attributes:
        root: The label that all of them are united under.
        indices: The indices that they take on each side of each layer.
    """

    root: int
    indices: dict[Side, list[int]] = field(default_factory=dict)

    @property
    def signature(self) -> tuple[tuple[Side, int], ...]:
        return tuple((side, len(indices)) for side, indices in self.indices.items())


def record_coupling(model: nn.Module, example: Inputs, table: LayerTable, propagation: Propagation) -> Coupling:
    """Collect the coupling groups that can be cut.

    A group counts as proved when a copy of the network without its channels computes what a copy computes that has
    the channels but does not read them.

    Args:
        model: The network, in eval mode.
        example: An input `(N, …)`.
        table: The layer table of the network.
        propagation: The labels of channels, carried through the traced graph.

    Returns:
        The proved groups with the channels behind them, and the reason why the channels of other layers stay.
    """
    atoms = _atoms(propagation)
    reasons, mixers, heads = propagation.labels.reasons(), propagation.labels.mixers(), propagation.labels.heads()
    by_signature: dict[tuple[tuple[Side, int], ...], list[_Atom]] = {}
    for atom in atoms.values():
        if atom.root not in reasons:
            by_signature.setdefault(atom.signature, []).append(atom)
    producer = {int(label): name for name, labels in propagation.producers for label in labels}
    names, recorded, refused = Counter[str](), dict[str, tuple[Group, tuple[Item, ...]]](), dict[str, str]()
    reason_of = {atom.root: reasons[atom.root] for atom in atoms.values() if atom.root in reasons}
    for group_atoms in sorted(by_signature.values(), key=lambda group: group[0].root):
        layer = producer[group_atoms[0].root]
        names[layer] += 1
        name = layer if names[layer] == 1 else f"{layer}/{names[layer]}"
        try:
            recorded[name] = _group(name, group_atoms, table, all(atom.root in heads for atom in group_atoms), mixers)
        except _Refused as error:
            names[layer] -= 1
            reason_of.update(dict.fromkeys((atom.root for atom in group_atoms), str(error)))
    failed = unsafe_groups(model, example, recorded)
    proved = {name: group_and_items for name, group_and_items in recorded.items() if name not in failed}
    cut = {(item.module, int(index)) for _, items in proved.values() for item in items if item.side == "out"
           for index in item.indices}
    for name, labels in propagation.producers:
        roots = propagation.labels.find(labels).tolist()
        if any((name, index) in cut for index in range(len(roots))):
            continue
        groups = [group for group, (_, items) in recorded.items() if any(item.module == name and item.side == "out"
                                                                         for item in items)]
        unread = "no layer reads its channels"
        refused[name] = next((failed[group] for group in groups if group in failed),
                             next((reason_of[root] for root in roots if root in reason_of), unread))
    return Coupling(tuple(group for group, _ in proved.values()), {name: items for name, (_, items) in proved.items()},
                    refused)


def _atoms(propagation: Propagation) -> dict[int, _Atom]:
    """Collect the atoms by their root, in the order in which layers write their channels."""
    atoms: dict[int, _Atom] = {}
    for use in propagation.uses:
        for index, root in enumerate(propagation.labels.find(use.labels).tolist()):
            if root:
                if root not in atoms:
                    atoms[root] = _Atom(root)
                atoms[root].indices.setdefault((use.layer, use.side), []).append(index)
    return dict(sorted(atoms.items()))


class _Refused(Exception):
    """Channels cannot be cut; the message says why."""


def _group(name: str, atoms: list[_Atom], table: LayerTable, heads: bool,
           mixers: Mapping[int, str]) -> tuple[Group, tuple[Item, ...]]:
    """Build the group of equal atoms and its items, or raise `_Refused`. `mixers`: what tied channels, by root."""
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
    """Order atoms by the blocks of the grouped convolutions that they touch, and count the equally full cells."""
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
    """Return the block that holds all indices, or -1 where every block holds equally many of them."""
    counts = Counter(index // size for index in indices)
    if len(counts) == 1 and groups > 1:
        return next(iter(counts))
    if len(counts) == groups and len(set(counts.values())) == 1:
        return -1
    raise _Refused(f"its channels reach the groups of the convolution {name} unevenly")
