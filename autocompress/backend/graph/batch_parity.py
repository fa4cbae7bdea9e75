"""Check that a network's output for a sample does not depend on its batch, and search for the layer that mixes samples.

A BatchNorm without running statistics, or a forward that subtracts the mean over samples, scores well in large batches
and gives other outputs one by one. No file of such a network can be verified, so it is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.core.batch_sizes import EVERY_BYTES, rows_of
from autocompress.errors import InputError
from autocompress.tensors.footprint import footprint
from autocompress.tensors.named import Inputs

# The largest number of samples in the batch whose first and last samples are also run alone, and the least where
# tensors are large.
BATCH, LEAST_BATCH = 16, 4
# The largest difference that the order of a sum may cause, relative to the largest value.
TOLERANCE = 1e-3
ADVICE = ("Give a norm running statistics (track_running_stats=True) and train it so, or keep the code from computing "
          "over dimension 0")


@dataclass
class _Call:
    """One call of a module, with its floating-point inputs and outputs."""

    name: str
    inputs: list[Tensor]
    outputs: list[Tensor] = field(default_factory=list)


def check_batch_parity(model: nn.Module, samples: Inputs) -> None:
    """Check that a network's outputs for the first and the last sample are the same in a batch and alone.

    A network that fails on the batch, or whose outputs for one batch differ from run to run, passes: other checks
    report it.

    Args:
        model: The network, in eval mode.
        samples: Inputs `(N, …)`, of which up to `BATCH` are used.

    Raises:
        InputError: The outputs differ; the message names the layer that mixes samples.
    """
    together = samples[:_rows(model, samples)]
    if len(together) < 2:
        return
    try:
        whole = _outputs(model, together)
    except Exception:  # whatever the network's own code raises: tracing it reports that
        return
    for place in (0, len(together) - 1):
        cause = None
        try:
            if _agree(_outputs(model, together[place:place + 1]), whole, place):
                continue
        except Exception as error:  # a norm refuses a single value, for one
            cause = error
        if not all(map(_near, whole, _outputs(model, together))):
            return
        where = _mixer(model, together, place)
        what = f"{where} mixes them: sample {place} of {len(together)} is answered otherwise alone" if cause is None \
            else f"alone a sample fails in {where}: {next(iter(str(cause).splitlines()), type(cause).__name__)}"
        raise InputError(f"the answer to a sample must not depend on the other samples of its batch, but {what}. "
                         f"{ADVICE}") from cause


def _rows(model: nn.Module, samples: Inputs) -> int:
    """Return how many samples the batch has: fewer where the tensors of one are large, which takes as long."""
    try:
        return max(LEAST_BATCH, rows_of(footprint(model, samples).every, BATCH, EVERY_BYTES))
    except Exception:  # a network that fails on one sample: the check says where
        return BATCH


def _outputs(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    with torch.no_grad():
        return _tensors(model(inputs))


def _tensors(value: Any) -> list[Tensor]:
    """Return copies of the floating-point tensors in a value that a module reads or returns."""
    if isinstance(value, Tensor):
        return [value.clone()] if value.is_floating_point() else []
    if isinstance(value, Mapping):
        value = tuple(value.values())
    return [tensor for entry in value for tensor in _tensors(entry)] if isinstance(value, tuple | list) else []


def _mixer(model: nn.Module, together: Inputs, place: int) -> str:
    """Return what mixes samples: the innermost module whose input agrees and whose output differs.

    For a module with children it is the code before the first child whose input differs.
    """
    pairs = list(zip(_calls(model, together[place:place + 1]), _calls(model, together), strict=False))
    reads = {one.name: _agree(one.inputs, other.inputs, place) for one, other in reversed(pairs)}
    mixes = [one.name for one, other in pairs
             if reads[one.name] and not _agree(one.outputs, other.outputs, place)]
    inside = next((name for name in mixes if not any(_within(other, name) for other in mixes)), "")
    kind = type(model.get_submodule(inside)).__name__
    first_differing = next((one.name for one, _ in pairs if _within(one.name, inside) and not reads[one.name]), "")
    if first_differing:
        return f"the code of {kind} before the layer {first_differing}"
    return f"the layer {inside} ({kind})" if inside else f"the code of {kind}"


def _within(name: str, owner: str) -> bool:
    """Tell whether the module `name` is somewhere inside `owner`."""
    return name != owner and (not owner or name.startswith(f"{owner}."))


def _calls(model: nn.Module, inputs: Inputs) -> list[_Call]:
    """Return every call of a module, in the order in which they begin, up to the one that fails if one does."""
    calls: list[_Call] = []
    hooks = []
    for name, module in model.named_modules():
        def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], name: str = name) -> None:
            calls.append(_Call(name, _tensors((args, kwargs))))

        def leave(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any, name: str = name) -> None:
            next(call for call in reversed(calls) if call.name == name).outputs = _tensors(result)

        hooks += [module.register_forward_pre_hook(enter, with_kwargs=True),
                  module.register_forward_hook(leave, with_kwargs=True)]
    try:
        _outputs(model, inputs)
    except Exception:  # the call of the module that fails has no outputs
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _agree(alone: list[Tensor], whole: list[Tensor], place: int) -> bool:
    """Tell whether the tensors of one sample run alone agree with those at its `place` in the batch."""
    return len(alone) == len(whole) and all(_has(one, other, place) for one, other in zip(alone, whole, strict=True))


def _has(alone: Tensor, whole: Tensor, place: int) -> bool:
    """Tell whether `alone` is in `whole` at `place` of any one dimension.

    Samples may lie there in blocks or interleaved (windows, frames or steps are folded in).
    """
    if alone.shape == whole.shape:
        return True  # the tensor has no axis of samples
    if alone.dim() != whole.dim() or not alone.numel():
        return False
    axes = [axis for axis in range(alone.dim()) if alone.shape[axis] != whole.shape[axis]]
    size, fold = alone.shape[axes[0]], whole.shape[axes[0]] // alone.shape[axes[0]]
    if len(axes) > 1 or size * fold != whole.shape[axes[0]] or place >= fold:
        return False
    interleaved = torch.arange(place, size * fold, fold, device=whole.device)
    return _near(alone, whole.narrow(axes[0], place * size, size)) \
        or _near(alone, whole.index_select(axes[0], interleaved))


def _near(one: Tensor, other: Tensor) -> bool:
    """Tell whether two tensors are equal up to `TOLERANCE`. Values that are not finite pass: other checks report them.
    """
    scale = max(float(one.abs().max()), float(other.abs().max()))
    return one.shape == other.shape and (not scale < float("inf")
                                         or bool(((one - other).abs() <= TOLERANCE * scale).all()))
