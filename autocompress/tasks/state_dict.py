"""Finding, in the content of a checkpoint, the state dict that a network's tensors can be taken from.

Training scripts keep weights under keys of their own (`state_dict`, `model_state_dict`, `ema`, …) and under names with
prefixes (`module.` of DataParallel, `_orig_mod.` of torch.compile, `model.` of Lightning). Both are found by what fits
the network: names and shapes, not by a list of spellings.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from autocompress.tasks.checkpoint import Unread

# The largest depth of nested dicts that is searched; real checkpoints have two.
MAX_DEPTH = 4
# Parts of names that torch.compile, FSDP and activation checkpointing put anywhere into them.
_WRAPPER_PARTS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
# Last parts of names that hold no weights: of BatchNorm, of thop, of AveragedModel.
_COUNTERS = ("num_batches_tracked", "total_ops", "total_params", "n_averaged")
_AVERAGED = re.compile(r"(^|[._/])(ema|emas|swa|averaged?|avg)([._/]|$)|(^|[._])model_?ema|ema_?model", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Candidate:
    """The tensors of one dict of a checkpoint, by the network's names, compared with the network."""

    # Where the dict lies: `("state_dict",)`, or nothing for the checkpoint itself.
    keys: tuple[str, ...]
    # What was taken off the names.
    prefix: str
    # What was put before the names.
    added: str
    # The tensors by the network's names, or where it lacks those, by the file's names without the prefix.
    tensors: dict[str, Tensor]
    missing: list[str]
    misshaped: list[str]
    # Names with the prefix that the network does not have and that hold real numbers.
    unexpected: list[str]
    # What is not taken: counters, and tensors without the prefix.
    left: list[str] = field(default_factory=list)
    # Whether the names say that this is an average of weights over the training.
    averaged: bool = False

    @property
    def fits(self) -> bool:
        """Whether the network can be filled from this and nothing in it is unexplained."""
        return not (self.missing or self.misshaped or self.unexpected)

    @property
    def matches(self) -> int:
        """How many of the network's tensors are here, with their shapes."""
        return sum(name not in self.unexpected for name in self.tensors) - len(self.misshaped)

    @property
    def label(self) -> str:
        """`state_dict_ema`, `state_dict/teacher.`; empty for the checkpoint itself."""
        return "/".join((*self.keys, *([self.prefix] if self.prefix else [])))

    def named(self, key: str) -> bool:
        """Whether a user's `key` means this one."""
        return key.rstrip("./") in {self.label.rstrip("."), "/".join(self.keys), ".".join(self.keys),
                                    self.prefix.rstrip(".")}


def candidates(content: Any, state: Mapping[str, Tensor]) -> list[Candidate]:
    """Every dict of the content, and every prefix in it, that has at least one tensor of the network `state` (its state
    dict); those that fit first, then by the number of matching tensors."""
    matching = [candidate for keys, names in _dicts(content) for candidate in _compared(keys, names, state)]
    return sorted(matching, key=lambda c: (not c.fits, -c.matches, len(c.keys)))


def networks(content: Any) -> list[str]:
    """The classes of whole pickled networks in the content, which cannot be read without running their code."""
    values = [content, *content.values()] if isinstance(content, Mapping) else [content]
    return [value.path for value in values if isinstance(value, Unread) and value.is_network]


def distinct(fitting: list[Candidate]) -> list[Candidate]:
    """The candidates whose tensors differ from those of every one before them."""
    selected: list[Candidate] = []
    for candidate in fitting:
        if not any(_equal(candidate.tensors, other.tensors) for other in selected):
            selected.append(candidate)
    return selected


def is_counter(name: str) -> bool:
    """Whether a tensor of this name counts something and is no weight."""
    return name.rpartition(".")[2] in _COUNTERS


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one)


def _dicts(content: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    if not isinstance(content, Mapping) or len(keys) > MAX_DEPTH:
        return
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if tensors:
        yield keys, tensors
    for key, value in content.items():
        if isinstance(key, str):  # those of an optimiser's state are numbers
            yield from _dicts(value, (*keys, key))


def _plain(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPER_PARTS)


def _compared(keys: tuple[str, ...], tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Iterator[Candidate]:
    """One candidate for each prefix that at least one name of the network has here."""
    by_plain = {_plain(name): name for name in state}
    plain = {_plain(name): tensor for name, tensor in tensors.items()}
    prefixes: Counter[str] = Counter()
    for name in plain:
        parts = name.split(".")
        prefixes.update(".".join((*parts[:i], "")) for i in range(len(parts)) if ".".join(parts[i:]) in by_plain)
    common = _common_prefix(list(by_plain))
    if not any(prefix == "" for prefix in prefixes) and common:
        inside = {name.removeprefix(common): mine for name, mine in by_plain.items()}
        if any(name in inside for name in plain):
            yield _candidate(keys, plain, inside, state, "", common)
    for prefix in prefixes:
        yield _candidate(keys, plain, by_plain, state, prefix, "")


def _common_prefix(names: list[str]) -> str:
    """`net.` when every name begins so."""
    first = names[0].partition(".")[0] + "." if names else ""
    return first if names and all(name.startswith(first) for name in names) else ""


def _candidate(keys: tuple[str, ...], plain: Mapping[str, Tensor], by_plain: Mapping[str, str],
               state: Mapping[str, Tensor], prefix: str, added: str) -> Candidate:
    inside = {name.removeprefix(prefix): tensor for name, tensor in plain.items() if name.startswith(prefix)}
    left = [name for name in plain if not name.startswith(prefix)]
    taken, unexpected = {}, []
    for name, tensor in inside.items():
        if name in by_plain:
            taken[by_plain[name]] = tensor
        elif is_counter(name) or not (tensor.is_floating_point() or tensor.is_complex()):
            left.append(prefix + name)
        else:
            unexpected.append(name)
            taken[name] = tensor
    missing = [mine for mine in by_plain.values() if mine not in taken and not is_counter(mine)
               and state[mine].is_floating_point()]
    misshaped = [name for name, tensor in taken.items() if name in state and tensor.shape != state[name].shape]
    averaged = bool(_AVERAGED.search("/".join((*keys, prefix)))) or "n_averaged" in plain
    return Candidate(keys, prefix, added, taken, missing, misshaped, unexpected, left, averaged)
