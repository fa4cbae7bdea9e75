"""Replacement of modules by equivalents, with recorded calls and a proof on the whole network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from autocompress.backend.network.compressed import replace_module
from autocompress.tensors.named import Inputs

MODULE_TOLERANCE = 1e-5
# The largest difference of one module and of the whole network, relative to the largest output.
NETWORK_TOLERANCE = 1e-4

# The arguments, keyword arguments and output of every call of a module, by its name.
Calls = dict[str, list[tuple[Any, Any, Any]]]


def record_calls(model: nn.Module, names: Iterable[str], inputs: Inputs) -> tuple[Calls, Inputs]:
    """Record every call of the modules `names` in one pass over `inputs` `(N, …)`; return it with the output."""
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


def put_equivalents(model: nn.Module, new: Mapping[str, nn.Module], inputs: Inputs, expected: Inputs) -> set[str]:
    """Replace modules by equivalents, in place, where the network's output stays the same.

    All are replaced together, or else those that keep the output each by itself.

    Args:
        model: The network.
        new: The new modules, by the name of the module that each replaces.
        inputs: Inputs `(N, …)`.
        expected: The network's output for them.

    Returns:
        The names of the modules that were replaced.
    """
    accepted = dict(new)
    if not _equivalent(model, accepted, inputs, expected):
        accepted = {name: module for name, module in new.items()
                    if _equivalent(model, {name: module}, inputs, expected)}
        if not _equivalent(model, accepted, inputs, expected):
            return set()
    for name, module in accepted.items():
        replace_module(model, name, module)
    return set(accepted)


def _equivalent(model: nn.Module, equivalents: Mapping[str, nn.Module], inputs: Inputs, expected: Inputs) -> bool:
    """Tell whether the network's output stays the same with equivalents in place; the network is left as it was."""
    before = {name: model.get_submodule(name) for name in equivalents}
    try:
        for name, module in equivalents.items():
            replace_module(model, name, module)
        return alike(model(inputs), expected, NETWORK_TOLERANCE)
    except Exception:  # the user's forward: anything can come
        return False
    finally:
        for name, original in before.items():
            replace_module(model, name, original)


def alike(got: Inputs, expected: Inputs, tolerance: float) -> bool:
    """Tell whether two tensors, or those of each name, have one shape and differ by at most `tolerance` times the
    largest value."""
    if not isinstance(expected, Tensor):
        return [*got] == [*expected] and all(alike(got[name], expected[name], tolerance) for name in expected)
    return got.shape == expected.shape and bool((got - expected).abs().max() <= tolerance * expected.abs().max())


def own_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters of a module without those of its children, by name."""
    return dict(module.named_parameters(recurse=False))
