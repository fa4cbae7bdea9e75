"""Modules of a network replaced by others that compute the same: recorded calls, and the proof on the whole network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from autocompress.backend.network.compressed import replace_module

MODULE_TOLERANCE = 1e-5
NETWORK_TOLERANCE = 1e-4
"""Relative to the largest output: of one module, and of the whole network behind all of them."""

Calls = dict[str, list[tuple[Any, Any, Any]]]
"""Arguments, options and output of every call of a module, by its name."""


def record_calls(model: nn.Module, names: Iterable[str], inputs: Tensor) -> tuple[Calls, Tensor]:
    """Every call of the modules `names` when `model` is given `inputs` `(N, …)`, and the network's output."""
    calls: Calls = {}

    def hook(name: str, _: nn.Module, args: Any, options: Any, output: Any) -> None:
        calls.setdefault(name, []).append((args, options, output))

    handles = [model.get_submodule(name).register_forward_hook(partial(hook, name), with_kwargs=True)
               for name in names]
    try:
        return calls, model(inputs)
    finally:
        for handle in handles:
            handle.remove()


def put_equivalents(model: nn.Module, made: Mapping[str, nn.Module], inputs: Tensor, expected: Tensor) -> set[str]:
    """Put the modules `made` in their places in `model`, in place, all together or else those that can be by
    themselves, where the network still answers `inputs` with `expected`. Returns the names of those put."""
    chosen = dict(made)
    if not _computes(model, chosen, inputs, expected):
        chosen = {name: module for name, module in made.items() if _computes(model, {name: module}, inputs, expected)}
        if not _computes(model, chosen, inputs, expected):
            return set()
    for name, module in chosen.items():
        replace_module(model, name, module)
    return set(chosen)


def _computes(model: nn.Module, made: Mapping[str, nn.Module], inputs: Tensor, expected: Tensor) -> bool:
    """Whether the network gives the same output with the modules `made` in their places; it is left as it was."""
    before = {name: model.get_submodule(name) for name in made}
    try:
        for name, module in made.items():
            replace_module(model, name, module)
        return alike(model(inputs), expected, NETWORK_TOLERANCE)
    except Exception:  # the user's forward: anything can come
        return False
    finally:
        for name, original in before.items():
            replace_module(model, name, original)


def alike(got: Tensor, expected: Tensor, tolerance: float) -> bool:
    """Whether two tensors are of one shape and differ by no more than `tolerance` of the largest value."""
    return got.shape == expected.shape and bool((got - expected).abs().max() <= tolerance * expected.abs().max())


def own_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that the module holds itself, by name."""
    return dict(module.named_parameters(recurse=False))
